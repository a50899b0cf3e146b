//! The loop that records the worker's counts every ten seconds and at its end, for the history of the HTTP API and the dashboard, and how many
//! tasks are ready.
//!
//! Invariant: no task waits for this loop. While the broker is away, only these counts are lost.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use crate::telemetry::metrics::{Told, WorkerMetrics};
use taskhost_broker::Sample;
use taskhost_core::task::QueueName;

const EVERY: Duration = Duration::from_secs(10);
/// How long the last record may take.
const LAST: Duration = Duration::from_secs(2);

pub(super) struct Recorder {
    pub(super) worker: Arc<str>,
    /// The queues of this worker.
    pub(super) queues: Vec<QueueName>,
    pub(super) metrics: Arc<WorkerMetrics>,
    pub(super) connection: Arc<Connection>,
}

impl Recorder {
    pub(super) async fn run(self, end: CancellationToken) {
        let (mut told, mut number) = (Told::default(), 0);
        loop {
            tokio::select! {
                () = tokio::time::sleep(EVERY.mul_f64(0.75 + fastrand::f64() / 2.0)) => {}
                () = end.cancelled() => break,
            }
            number += 1;
            let recording = self.record(number, self.metrics.since(&mut told));
            tokio::select! {
                () = recording => {}
                () = end.cancelled() => break,
            }
        }
        if tokio::time::timeout(LAST, self.record(number + 1, self.metrics.since(&mut told))).await.is_err() {
            tracing::debug!("the last counts of this worker were not recorded");
        }
    }

    /// Records each queue, also without counts: a record notes how many tasks are ready. Queues beyond those that are counted apart have no counts.
    async fn record(&self, number: u64, mut counts: BTreeMap<Arc<str>, Vec<(String, Sample)>>) {
        for queue in &self.queues {
            let counts = counts.remove(queue.as_str()).unwrap_or_default();
            if let Err(error) = self.connection.broker.record(queue, &self.worker, number, &counts).await {
                tracing::debug!(%queue, %error, "the counts of some seconds are missing in the history");
            }
        }
    }
}
