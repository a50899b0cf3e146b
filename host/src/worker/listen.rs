//! The loop that obeys [`Stop`] while the worker runs: it wakes the dispatcher, and writes into the log what runs.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{connection::Connection, inbox::Inbox, queue::Queues, slots::Slots, stop::Stop};
use taskhost_core::task::{Clock as _, SystemClock};

/// The most attempts that are listed.
const LISTED: usize = 1_000;

#[derive(Debug)]
pub(super) struct Listen {
    pub(super) worker: Arc<str>,
    pub(super) connection: Arc<Connection>,
    pub(super) queues: Arc<Queues>,
    pub(super) slots: Arc<Slots>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) stop: Stop,
}

impl Listen {
    /// Listens until `end`.
    pub(super) async fn run(self, end: CancellationToken) {
        loop {
            tokio::select! {
                () = self.stop.changed() => {}
                () = end.cancelled() => return,
            }
            if self.stop.take_dump() {
                self.dump();
            }
            self.queues.wake_dispatcher();
        }
    }

    fn dump(&self) {
        let unrecorded = self.inbox.unrecorded();
        tracing::info!(
            worker = %self.worker,
            running = self.slots.running(),
            slots = self.slots.count(),
            unrecorded = unrecorded.count,
            unrecorded_bytes = unrecorded.bytes,
            broker = if self.connection.is_up() { "reachable" } else { "away" },
            claims = if self.stop.is_quiet() { "paused by SIGTSTP" } else { "on" },
            "running now"
        );
        let now = SystemClock.now();
        for info in self.queues.running(LISTED) {
            tracing::info!(id = %info.id, task = %info.task, queue = %info.queue, since = ?now.since(info.since), "runs");
        }
    }
}
