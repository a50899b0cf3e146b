//! The drain: lets attempts run on for a while, hands back the rest, and leaves.
//!
//! Invariant: it ends within the drain time and some seconds, also when the broker is gone. Tasks that could not be handed back then run
//! elsewhere when the lease ends, and a log line says so. When a loop of the worker died, it ends within a second.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{sync::Notify, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    connection::Connection,
    inbox::Inbox,
    lock_file::LockFiles,
    queue::{Queue, Queues},
    settings::WorkerSettings,
    slots::Slots,
    stop::Stop,
    summary::Tally,
};
use taskhost_core::task::Verdict;
use taskhost_core::units;

/// How long the finishes may take to be recorded.
const FLUSH: Duration = Duration::from_secs(10);
const FLUSH_GONE: Duration = Duration::from_secs(3);
/// How long an incarnation may take to leave.
const LEAVE: Duration = Duration::from_secs(3);
/// Both, when a loop of the worker died: it may be the one that records, and the end of the worker must not wait for it.
const AFTER_FAILURE: Duration = Duration::from_millis(350);

pub(super) struct Drain {
    pub(super) settings: Arc<WorkerSettings>,
    pub(super) connection: Arc<Connection>,
    pub(super) queues: Arc<Queues>,
    pub(super) slots: Arc<Slots>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) files: Arc<LockFiles>,
    pub(super) tally: Arc<Tally>,
    /// Has the worker announced at once.
    pub(super) announce: Arc<Notify>,
    pub(super) draining: CancellationToken,
    pub(super) stop: Stop,
}

impl Drain {
    pub(super) async fn run(self) {
        self.draining.cancel();
        self.announce.notify_one();
        let (settings, running) = (&self.settings, self.slots.running());
        if running > 0 && !self.stop.now.is_cancelled() {
            let drain = units::show_duration(settings.drain);
            tracing::info!(worker = %settings.id, running, "stopping: attempts may run on for {drain}");
            tokio::select! {
                () = self.idle() => {}
                () = tokio::time::sleep(settings.drain) => {}
                () = self.stop.now.cancelled() => {}
            }
        }
        let mut handed_back = 0;
        for held in self.queues.held() {
            for (member, name) in held.abandon() {
                handed_back += 1;
                self.inbox.push_unrun(&held, name, member, Verdict::HandBack { delay: Duration::ZERO });
            }
        }
        self.tally.handed_back.store(handed_back, Ordering::Relaxed);
        let flush = if self.connection.is_up() { FLUSH } else { FLUSH_GONE };
        let (flush, leave) = if self.stop.failed().is_some() { (AFTER_FAILURE, AFTER_FAILURE) } else { (flush, LEAVE) };
        // Tasks that are still held afterwards are counted below.
        let _ = timeout(flush, self.recorded()).await;
        let left = join_all(self.queues.iter().map(|queue| self.leave(queue, leave))).await;
        self.tally.left_behind.store(left.into_iter().sum(), Ordering::Relaxed);
    }

    /// Ends the incarnation of one queue, which hands back what it still holds. Answers how many tasks could not be handed back.
    async fn leave(&self, queue: &Queue, limit: Duration) -> u64 {
        let Some(held) = queue.held() else { return 0 };
        let unrecorded = u64::try_from(held.len()).unwrap_or(u64::MAX);
        let gone = match timeout(limit, self.connection.broker.leave(&held.incarnation)).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("no answer".into()),
        };
        queue.end(&held);
        let Some(error) = gone else {
            if let Some(file) = &held.lock_file {
                self.files.retire(file);
            }
            return 0;
        };
        tracing::warn!(
            queue = %queue.name, worker = %self.settings.id, error,
            "left without the broker's knowledge: {unrecorded} tasks could not be handed back and run elsewhere when the lease ends, in {}",
            units::show_duration(self.settings.lease)
        );
        unrecorded
    }

    /// Returns when no attempt runs.
    async fn idle(&self) {
        while self.slots.running() > 0 {
            // The dispatcher has ended, so its wake-ups come here.
            self.queues.woken().await;
        }
    }

    /// Returns when everything held is recorded.
    async fn recorded(&self) {
        while self.queues.held().any(|held| held.len() > 0) {
            self.inbox.recorded().await;
        }
    }
}
