//! `/metrics`: for Prometheus.
//!
//! Invariant: however many scrapers there are, the broker is asked once a second.

use std::{sync::Arc, time::Duration};

use axum::extract::State;

use super::{
    answer::{self, Answer},
    app::App,
    problem::{self, Problem},
};
use crate::telemetry::metrics::{self, BrokerSample, QueueSample, ScheduleSample};

/// `GET /metrics`
pub(super) async fn metrics(State(app): State<Arc<App>>) -> Answer {
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    let broker = sample(&app).await.inspect_err(|problem| tracing::debug!(kind = problem.kind().name, "metrics without the broker's")).ok();
    let text = metrics::text(app.metrics.worker.clone(), broker, &app.metrics.http);
    let text = text.map_err(|error| Problem::new(&problem::INTERNAL, format!("failed to write the metrics: {error}")))?;
    Ok(answer::of_type(kind, text))
}

async fn sample(app: &App) -> Result<BrokerSample, Problem> {
    let (queues, schedules) = (app.queues_lately().await?, app.schedules(app.looks.lately()).await?);
    let queues = queues.iter().map(|view| QueueSample {
        queue: view.queue.to_string(),
        counts: view.counts.clone(),
        oldest_ready: view.oldest_ready_ms.map(Duration::from_millis),
        paused: view.paused,
        enqueued: view.totals.enqueued,
        ended: [("succeeded", view.totals.succeeded), ("dead", view.totals.dead), ("cancelled", view.totals.cancelled)],
    });
    let schedules = schedules.iter();
    let schedules = schedules.map(|seen| ScheduleSample { last_fired: seen.last_firing(), schedule: seen.schedule.name.clone() });
    Ok(BrokerSample { queues: queues.collect(), schedules: schedules.collect() })
}
