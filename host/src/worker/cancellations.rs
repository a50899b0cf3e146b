//! The loop that tells attempts at once that somebody cancelled their task. Without it the heartbeat tells them.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    connection::{self, Connection},
    queue::{Queue, Queues},
};

pub(super) async fn run(connection: Arc<Connection>, queues: Arc<Queues>, end: CancellationToken) {
    let mut failures = 0;
    loop {
        let (sender, mut receiver) = mpsc::channel(256);
        let mut listening = connection.broker.cancellations(sender);
        let mut listens = true;
        let failed = loop {
            tokio::select! {
                ended = &mut listening, if listens => match ended {
                    Ok(()) => listens = false,
                    Err(error) => break Some(error),
                },
                told = receiver.recv() => match told {
                    Some((queue, id)) => {
                        failures = 0;
                        let held = queues.find(&queue).and_then(Queue::held);
                        if held.is_some_and(|held| held.cancel(&id)) {
                            tracing::info!(id = %id, %queue, "cancelled: its body is asked to return");
                        }
                    }
                    None => break None,
                },
                () = end.cancelled() => return,
            }
        };
        if let Some(error) = failed {
            tracing::debug!(%error, "can't listen for cancellations; the heartbeat brings them meanwhile");
        }
        failures += 1;
        tokio::select! {
            () = tokio::time::sleep(connection::retry_delay(failures)) => {}
            () = end.cancelled() => return,
        }
    }
}
