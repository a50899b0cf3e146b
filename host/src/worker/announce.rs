//! Says who this worker is, what it offers and what it runs; and sweeps its queues now and then.
//!
//! announce every 5 s, and at once when the plugins change or the broker did not know us any more → gone from the lists when it is gone.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::time::timeout;

use super::{Shared, hold::Lane, host};
use taskhost_broker::{BrokerError, WorkerInfo};
use taskhost_core::task::TaskName;

const EVERY: Duration = Duration::from_secs(5);
const SWEEP: Duration = Duration::from_secs(10);
/// How many running attempts are listed.
const LISTED: usize = 200;
const RETIRE: Duration = Duration::from_secs(2);

pub(super) async fn run(shared: Arc<Shared>) {
    let mut roster = shared.roster.clone();
    let mut plugins_live = true;
    loop {
        tokio::select! {
            () = shared.link.up() => {}
            () = shared.end.cancelled() => break,
        }
        let info = info(&shared);
        if let Err(error) = shared.broker.announce(&info, 3 * EVERY).await {
            shared.link.failed(&error);
            tracing::debug!(%error, "could not announce; later");
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY.mul_f64(0.9 + fastrand::f64() / 5.0)) => {}
            changed = roster.changed(), if plugins_live => plugins_live = changed.is_ok(),
            () = shared.announce.notified() => {}
            () = shared.end.cancelled() => break,
        }
    }
    let retired = timeout(RETIRE, shared.broker.retire(&shared.settings.id)).await;
    if !matches!(retired, Ok(Ok(()))) {
        tracing::debug!(worker = %shared.settings.id, "could not retire: it is gone from the lists in {} s", 3 * EVERY.as_secs());
    }
}

fn info(shared: &Shared) -> WorkerInfo {
    let settings = &shared.settings;
    let running = shared.lanes.iter().filter_map(Lane::hold).flat_map(|hold| hold.running(LISTED)).take(LISTED);
    WorkerInfo {
        id: settings.id.to_string(),
        host: host(),
        pid: std::process::id(),
        started_at: shared.started_at,
        queues: shared.lanes.iter().map(|lane| lane.queue.clone()).collect(),
        concurrency: settings.concurrency,
        running: running.collect(),
        draining: shared.draining.is_cancelled(),
        plugins: shared.roster.borrow().files.clone(),
        schedules: Some(settings.schedules.clone()),
    }
}

/// Sweeps each queue about every ten seconds, with the names that live workers offer.
pub(super) async fn sweep(shared: Arc<Shared>) {
    loop {
        let pause = async {
            tokio::time::sleep(SWEEP.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
            shared.link.up().await;
        };
        tokio::select! {
            () = pause => {}
            () = shared.end.cancelled() => return,
        }
        let swept = async {
            let offered: Vec<_> = offered(&shared).await?.into_iter().collect();
            for lane in &shared.lanes {
                shared.broker.sweep(&lane.queue, &offered).await?;
            }
            Ok::<_, BrokerError>(())
        };
        let swept = tokio::select! {
            swept = swept => swept,
            () = shared.end.cancelled() => return,
        };
        match swept {
            Ok(()) => {}
            Err(error) if error.is_transient() => {
                shared.link.failed(&error);
                tracing::debug!(%error, "could not sweep; later");
            }
            Err(error) => tracing::warn!(%error, "could not sweep; later"),
        }
    }
}

/// What this worker offers, and every other that lives.
async fn offered(shared: &Shared) -> Result<BTreeSet<TaskName>, BrokerError> {
    let workers = shared.broker.workers().await?;
    let files = workers.into_iter().flat_map(|worker| worker.plugins).filter(|file| file.serving.is_some());
    let bodies = files.filter_map(|file| file.description).flat_map(|description| description.bodies);
    let mut names = shared.roster.borrow().names();
    names.extend(bodies.map(|body| body.name));
    Ok(names)
}
