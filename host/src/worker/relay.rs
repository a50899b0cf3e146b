//! The loop that moves children to other queues, right after the finish that enqueued them.

use std::{collections::BTreeSet, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::connection::{self, Connection};
use taskhost_core::task::QueueName;

/// Queues whose outbox has entries.
#[derive(Debug, Default)]
pub(super) struct Outboxes {
    filled: Mutex<BTreeSet<QueueName>>,
    ready: Notify,
}

impl Outboxes {
    /// The outbox of this queue has entries.
    pub(super) fn ask(&self, queue: &QueueName) {
        if self.filled.lock().insert(queue.clone()) {
            self.ready.notify_one();
        }
    }
}

pub(super) async fn run(connection: Arc<Connection>, outboxes: Arc<Outboxes>, end: CancellationToken) {
    let mut failures = 0;
    loop {
        let next = outboxes.filled.lock().pop_first();
        let Some(queue) = next else {
            tokio::select! {
                () = outboxes.ready.notified() => continue,
                () = end.cancelled() => return,
            }
        };
        match connection.broker.relay(&queue).await {
            Ok(moved) => {
                failures = 0;
                tracing::debug!(%queue, moved, "relayed");
            }
            Err(error) => {
                connection.failed(&error);
                tracing::debug!(%queue, %error, "could not relay; kept");
                failures += 1;
                outboxes.filled.lock().insert(queue);
                tokio::select! {
                    () = tokio::time::sleep(connection::retry_delay(failures)) => {}
                    () = end.cancelled() => return,
                }
            }
        }
    }
}
