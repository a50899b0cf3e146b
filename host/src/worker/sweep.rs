//! The loop that sweeps each queue about every ten seconds, with the names that live workers offer.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{connection::Connection, offers::Offers, queue::Queues};
use taskhost_broker::BrokerError;
use taskhost_core::task::TaskName;

const EVERY: Duration = Duration::from_secs(10);

pub(super) async fn run(connection: Arc<Connection>, queues: Arc<Queues>, offers: watch::Receiver<Arc<Offers>>, end: CancellationToken) {
    loop {
        let pause = async {
            tokio::time::sleep(EVERY.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
            connection.up().await;
        };
        tokio::select! {
            () = pause => {}
            () = end.cancelled() => return,
        }
        let swept = tokio::select! {
            swept = sweep(&connection, &queues, &offers) => swept,
            () = end.cancelled() => return,
        };
        match swept {
            Ok(()) => {}
            Err(error) if error.is_transient() => {
                connection.failed(&error);
                tracing::debug!(%error, "could not sweep; later");
            }
            Err(error) => tracing::warn!(%error, "could not sweep; later"),
        }
    }
}

async fn sweep(connection: &Connection, queues: &Queues, offers: &watch::Receiver<Arc<Offers>>) -> Result<(), BrokerError> {
    let offered: Vec<_> = offered(connection, offers).await?.into_iter().collect();
    for queue in queues.iter() {
        connection.broker.sweep(&queue.name, &offered).await?;
    }
    Ok(())
}

/// The names that this worker and every other live worker offer.
async fn offered(connection: &Connection, offers: &watch::Receiver<Arc<Offers>>) -> Result<BTreeSet<TaskName>, BrokerError> {
    let workers = connection.broker.workers().await?;
    let files = workers.into_iter().flat_map(|worker| worker.plugins).filter(|file| file.serving.is_some());
    let bodies = files.filter_map(|file| file.description).flat_map(|description| description.bodies);
    let mut names = offers.borrow().names();
    names.extend(bodies.map(|body| body.name));
    Ok(names)
}
