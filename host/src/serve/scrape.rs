//! `/metrics`: for Prometheus.
//!
//! Invariant: however many scrapers there are, the broker is asked once a second.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::extract::State;

use super::{
    answer::{self, Answer},
    app::App,
    problem::{self, Problem},
};
use crate::{
    ops::Ops,
    telemetry::metrics::{self, BrokerSample, QueueSample, ScheduleSample},
};

/// How long an answer is given again.
const FRESH: Duration = Duration::from_secs(1);

/// `GET /metrics`
pub(super) async fn metrics(State(app): State<Arc<App>>) -> Answer {
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    // Whoever asks meanwhile waits for this answer.
    let mut last = app.metrics.last.lock().await;
    if let Some((at, text)) = &*last
        && at.elapsed() < FRESH
    {
        return Ok(answer::of_type(kind, text.clone()));
    }
    let broker = match app.ops() {
        Ok(ops) => sample(ops).await.inspect_err(|error| tracing::debug!(kind = error.kind().name, "metrics without the broker's")).ok(),
        Err(_away) => None,
    };
    let text = metrics::text(app.metrics.worker.clone(), broker, &app.metrics.http);
    let text = text.map_err(|error| Problem::new(&problem::INTERNAL, format!("failed to write the metrics: {error}")))?;
    *last = Some((Instant::now(), text.clone()));
    Ok(answer::of_type(kind, text))
}

async fn sample(ops: &Ops) -> Result<BrokerSample, Problem> {
    let queues = ops.queues().await?.into_iter().map(|view| QueueSample {
        queue: view.queue.to_string(),
        counts: view.counts,
        oldest_ready: view.oldest_ready_ms.map(Duration::from_millis),
        paused: view.paused,
        enqueued: view.totals.enqueued,
        ended: [("succeeded", view.totals.succeeded), ("dead", view.totals.dead), ("cancelled", view.totals.cancelled)],
    });
    let schedules = ops.schedules().await?.into_iter();
    let schedules = schedules.map(|seen| ScheduleSample { last_fired: seen.last_firing(), schedule: seen.schedule.name });
    Ok(BrokerSample { queues: queues.collect(), schedules: schedules.collect() })
}
