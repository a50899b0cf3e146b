//! Listens for cancels: the control channel, and after each connect a look at the tasks that were cancelled before.

use std::time::Duration;

use futures_util::{StreamExt, future::try_join_all};
use tokio::sync::mpsc;

use super::{driver::RedisBroker, values::names};
use crate::error::{BrokerError, Result};
use taskhost_core::{
    backoff::Backoff,
    task::{QueueName, TaskId},
};

/// The delay before the next attempt to connect.
const AGAIN: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

pub(super) async fn cancellations(broker: &RedisBroker, sender: mpsc::Sender<(QueueName, TaskId)>) -> Result<()> {
    let mut failures = 0;
    while !sender.is_closed() {
        let listening = async {
            let mut connection = broker.target.listen().await?;
            connection.subscribe(broker.keys.control()).await?;
            Ok::<_, redis::RedisError>(connection)
        };
        if let Ok(mut connection) = listening.await {
            failures = 0;
            // Cancels that came while no connection listened.
            for told in all_cancelled(broker).await.unwrap_or_default() {
                if sender.send(told).await.is_err() {
                    return Ok(());
                }
            }
            let mut messages = connection.on_message();
            loop {
                let message = tokio::select! {
                    message = messages.next() => message,
                    () = sender.closed() => return Ok(()),
                };
                let Some(message) = message else { break };
                let told = std::str::from_utf8(message.get_payload_bytes()).ok().and_then(|told| told.split_once(' '));
                if let Some((queue, id)) = told
                    && let (Ok(queue), Ok(id)) = (QueueName::new(queue), TaskId::new(id))
                    && sender.send((queue, id)).await.is_err()
                {
                    return Ok(());
                }
            }
        }
        // Until the next connection, the heartbeat brings the cancels.
        tokio::select! {
            () = tokio::time::sleep(AGAIN.delay(failures, fastrand::f64())) => failures = failures.saturating_add(1),
            () = sender.closed() => {}
        }
    }
    Ok(())
}

async fn all_cancelled(broker: &RedisBroker) -> Result<Vec<(QueueName, TaskId)>> {
    let asked = broker.all_queues().await?.into_iter().map(|queue| async move {
        let ids = broker.commands.send(redis::cmd("SRANDMEMBER").arg(broker.keys.of(&queue, "cancelled")).arg(1000)).await?;
        Ok::<_, BrokerError>(names(ids)?.into_iter().map(|id| (queue.clone(), id)).collect::<Vec<_>>())
    });
    Ok(try_join_all(asked).await?.into_iter().flatten().collect())
}
