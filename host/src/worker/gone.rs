//! The loop that finds workers of this machine that are gone, by their lock files, and has their tasks taken over at once.

use std::{io, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    connection::Connection,
    lock_file::{self, Gone, LockFiles},
    queue::Queues,
};

/// How often to look.
const LOOK: Duration = Duration::from_secs(5);

/// Looks at the start and then every few seconds, until `end`.
pub(super) async fn run(connection: Arc<Connection>, queues: Arc<Queues>, files: Arc<LockFiles>, end: CancellationToken) {
    let Some(dir) = files.dir() else { return end.cancelled().await };
    loop {
        let looked = dir.to_owned();
        let found = tokio::task::spawn_blocking(move || lock_file::scan(&looked)).await;
        match found.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(gone) => {
                for gone in gone {
                    expire(&connection, &queues, gone).await;
                }
            }
            Err(error) => tracing::debug!(dir = %dir.display(), %error, "could not look for workers that are gone"),
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK.mul_f64(0.75 + fastrand::f64() / 2.0)) => {}
            () = end.cancelled() => return,
        }
    }
}

async fn expire(connection: &Connection, queues: &Queues, gone: Gone) {
    let Gone { incarnation, path, locked } = gone;
    match connection.broker.expire(&incarnation).await {
        Ok(()) => {
            tracing::info!(queue = %incarnation.queue, incarnation = %incarnation.id, "a worker of this machine is gone: its tasks are taken over now");
            let removed = tokio::task::spawn_blocking(move || {
                let removed = std::fs::remove_file(path);
                drop(locked);
                removed
            });
            if let Ok(Err(error)) = removed.await {
                tracing::debug!(%error, "could not remove a lock file");
            }
            if let Some(queue) = queues.find(&incarnation.queue) {
                queue.heat();
            }
            queues.wake_dispatcher();
        }
        Err(error) => {
            connection.failed(&error);
            tracing::debug!(incarnation = %incarnation.id, %error, "could not tell the broker that a worker is gone; later");
        }
    }
}
