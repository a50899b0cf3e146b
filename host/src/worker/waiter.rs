//! The waiter: one loop for each queue waits at the broker while the queue is idle, and wakes the dispatcher when it may have something.

use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    connection::{self, Connection},
    pace,
    queue::Queues,
};
use taskhost_broker::BrokerError;

pub(super) async fn run(
    connection: Arc<Connection>,
    queues: Arc<Queues>,
    index: usize,
    draining: CancellationToken,
    end: CancellationToken,
) {
    let queue = queues.get(index);
    let mut failures = 0;
    loop {
        tokio::select! {
            () = queue.idle.notified() => {}
            () = draining.cancelled() => return,
            () = end.cancelled() => return,
        }
        let limit = pace::wait_limit(queue.state.lock().look_at.saturating_duration_since(Instant::now()));
        let waited = tokio::select! {
            waited = connection.broker.wait(&queue.name, limit) => waited,
            () = draining.cancelled() => return,
            () = end.cancelled() => return,
        };
        match waited {
            Ok(()) => failures = 0,
            Err(error @ BrokerError::Gone(_)) => {
                connection.refuse(error);
                return end.cancelled().await;
            }
            Err(error) => {
                connection.failed(&error);
                failures += 1;
                let again = async {
                    tokio::time::sleep(connection::retry_delay(failures)).await;
                    connection.up().await;
                };
                tokio::select! {
                    () = again => {}
                    () = draining.cancelled() => return,
                    () = end.cancelled() => return,
                }
            }
        }
        queue.heat();
        queues.wake_dispatcher();
    }
}
