//! Whether the broker can be reached, as the whole worker sees it.
//!
//! Any loop that can't reach it takes the link down; then all but the heartbeat wait, and the heartbeat alone tries again:
//! so the first command after a reconnect is the heartbeat. Each change of state is logged once.

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

use tokio::{sync::watch, time::Instant};

use super::lock;
use taskhost_broker::BrokerError;

#[derive(Debug)]
pub(super) struct Link {
    up: watch::Sender<bool>,
    down_since: Mutex<Option<Instant>>,
    downs: AtomicU64,
}

impl Link {
    pub(super) fn new() -> Self {
        Self { up: watch::Sender::new(true), down_since: Mutex::new(None), downs: AtomicU64::new(0) }
    }

    /// A call failed: whether that takes the link down is decided here, and said once.
    pub(super) fn failed(&self, error: &BrokerError) {
        if !error.is_fate_unknown() {
            return;
        }
        let mut since = lock(&self.down_since);
        if since.is_none() {
            *since = Some(Instant::now());
            self.downs.fetch_add(1, Ordering::AcqRel);
            self.up.send_replace(false);
            tracing::warn!(%error, "cannot reach the broker; attempts go on, retrying");
        }
    }

    /// The heartbeat came through.
    pub(super) fn restored(&self) {
        if let Some(since) = lock(&self.down_since).take() {
            self.up.send_replace(true);
            tracing::info!("reconnected to the broker after {}", humantime::format_duration(whole(since.elapsed())));
        }
    }

    pub(super) fn is_up(&self) -> bool {
        *self.up.borrow()
    }

    /// How often it went down: a queue whose last heartbeat is from before the last time wants one first.
    pub(super) fn downs(&self) -> u64 {
        self.downs.load(Ordering::Acquire)
    }

    /// Returns when the broker can be reached, as far as we know.
    pub(super) async fn up(&self) {
        let mut up = self.up.subscribe();
        // The sender lives in `self`: it can't be gone.
        let _ = up.wait_for(|up| *up).await;
    }

    /// Returns when it can't.
    pub(super) async fn down(&self) {
        let mut up = self.up.subscribe();
        let _ = up.wait_for(|up| !*up).await;
    }
}

/// In whole seconds, or milliseconds below one.
fn whole(time: std::time::Duration) -> std::time::Duration {
    if time.as_secs() == 0 {
        std::time::Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(0))
    } else {
        std::time::Duration::from_secs(time.as_secs())
    }
}
