//! The broker, and whether this worker can reach it.
//!
//! A loop whose call fails says so here. The connection is then down: every loop but the heartbeat waits, and the heartbeat tries again.
//! So the first command after a reconnect is a heartbeat. Each change is logged once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use taskhost_broker::{Broker, BrokerError};
use taskhost_core::backoff::Backoff;
use taskhost_core::units;

/// The delays of every loop between failed calls of the broker.
const RETRY: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) broker: Arc<dyn Broker>,
    up: watch::Sender<bool>,
    down_since: Mutex<Option<Instant>>,
    downs: AtomicU64,
    /// A registration came through. From then on a refusal is waited out.
    registered: AtomicBool,
    refused: Mutex<Option<BrokerError>>,
    refusal: Notify,
}

impl Connection {
    pub(super) fn new(broker: Arc<dyn Broker>) -> Self {
        Self {
            broker,
            up: watch::Sender::new(true),
            down_since: Mutex::new(None),
            downs: AtomicU64::new(0),
            registered: AtomicBool::new(false),
            refused: Mutex::default(),
            refusal: Notify::new(),
        }
    }

    /// A call failed. The connection goes down if the error leaves open whether the call reached the broker.
    pub(super) fn failed(&self, error: &BrokerError) {
        if !error.is_fate_unknown() {
            return;
        }
        let mut since = self.down_since.lock();
        if since.is_none() {
            *since = Some(Instant::now());
            self.downs.fetch_add(1, Ordering::AcqRel);
            self.up.send_replace(false);
            tracing::warn!(%error, "cannot reach the broker; attempts go on, retrying");
        }
    }

    /// A heartbeat came through: the connection is up.
    pub(super) fn restored(&self) {
        if let Some(since) = self.down_since.lock().take() {
            self.up.send_replace(true);
            tracing::info!("reconnected to the broker after {}", units::show_duration(since.elapsed()));
        }
    }

    pub(super) fn is_up(&self) -> bool {
        *self.up.borrow()
    }

    /// How often the connection went down. A queue whose last heartbeat is older than the last time needs a heartbeat first.
    pub(super) fn downs(&self) -> u64 {
        self.downs.load(Ordering::Acquire)
    }

    /// Returns when the connection is up.
    pub(super) async fn up(&self) {
        let mut up = self.up.subscribe();
        // The sender lives in `self`, so the channel is open.
        let _ = up.wait_for(|up| *up).await;
    }

    /// Returns when the connection is down.
    pub(super) async fn down(&self) {
        let mut up = self.up.subscribe();
        let _ = up.wait_for(|up| !*up).await;
    }

    pub(super) fn was_registered(&self) -> bool {
        self.registered.load(Ordering::Relaxed)
    }

    pub(super) fn set_registered(&self) {
        self.registered.store(true, Ordering::Relaxed);
    }

    /// Ends the worker: the broker refuses it for good.
    pub(super) fn refuse(&self, error: BrokerError) {
        *self.refused.lock() = Some(error);
        self.refusal.notify_one();
    }

    /// Returns when the broker refuses this worker for good.
    pub(super) async fn refused(&self) -> BrokerError {
        loop {
            if let Some(error) = self.refused.lock().take() {
                return error;
            }
            self.refusal.notified().await;
        }
    }
}

/// The delay before the next try of a call that failed `failures` times in a row.
pub(super) fn retry_delay(failures: u32) -> Duration {
    RETRY.delay(failures, fastrand::f64())
}
