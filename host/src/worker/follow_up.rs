//! The loop that does what ends have left to do: it moves what belongs to other queues there, and takes the next steps of flows.

use std::{collections::BTreeSet, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::connection::{self, Connection};
use taskhost_broker::BrokerError;
use taskhost_core::task::QueueName;

/// Queues in which something is left to do.
#[derive(Debug, Default)]
pub(super) struct FollowUps {
    queues: Mutex<BTreeSet<QueueName>>,
    ready: Notify,
}

impl FollowUps {
    /// The outbox of this queue has entries, or a flow in it wants a step.
    pub(super) fn ask(&self, queue: &QueueName) {
        if self.queues.lock().insert(queue.clone()) {
            self.ready.notify_one();
        }
    }
}

pub(super) async fn run(connection: Arc<Connection>, follow_ups: Arc<FollowUps>, end: CancellationToken) {
    let mut failures = 0;
    loop {
        let next = follow_ups.queues.lock().pop_first();
        let Some(queue) = next else {
            tokio::select! {
                () = follow_ups.ready.notified() => continue,
                () = end.cancelled() => return,
            }
        };
        let followed =
            async { Ok::<_, BrokerError>((connection.broker.relay(&queue).await?, connection.broker.step_flows(&queue).await?)) };
        match followed.await {
            Ok((moved, steps)) => {
                failures = 0;
                tracing::debug!(%queue, moved, steps, "relayed, and stepped flows");
            }
            Err(error) => {
                connection.failed(&error);
                tracing::debug!(%queue, %error, "could not relay, or step flows; kept");
                failures += 1;
                follow_ups.queues.lock().insert(queue);
                tokio::select! {
                    () = tokio::time::sleep(connection::retry_delay(failures)) => {}
                    () = end.cancelled() => return,
                }
            }
        }
    }
}
