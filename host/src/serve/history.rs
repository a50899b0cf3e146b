//! `/v1/history`: outcomes of attempts over time.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use axum::extract::State;
use serde::Serialize;
use taskhost_core::task::{Millis, TaskName};

use super::{
    access::Caller,
    answer::{self, Answer},
    app::App,
    problem::{self, Problem},
    query::Query,
};
use crate::ops::{HistoryPoint, HistoryQuery, HistoryStep, Sample};

/// How many steps there are without `from`.
const STEPS: u64 = 60;

#[derive(Serialize)]
struct Shown {
    step: String,
    points: Vec<Point>,
}

#[derive(Serialize)]
struct Point {
    start: Millis,
    #[serde(flatten)]
    sum: Sample,
    /// The most tasks that were ready in the step, the queues together.
    ready: u64,
    /// By body, over the queues.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tasks: BTreeMap<String, Sample>,
}

/// `GET /v1/history`
pub(super) async fn show(State(app): State<Arc<App>>, caller: Caller, query: Query) -> Answer {
    let step = query.value::<HistoryStep>("step")?.unwrap_or(HistoryStep::Minute);
    let points = read(&app, &caller, &query, step, Instant::now()).await?;
    let shown = points.into_iter().map(|point| {
        let (sum, ready) = (point.sum(), point.ready.values().sum());
        let mut tasks: BTreeMap<String, Sample> = BTreeMap::new();
        for ((_, task), sample) in point.parts {
            tasks.entry(task).or_default().add(&sample);
        }
        Point { start: point.start, sum, ready, tasks }
    });
    answer::json(&Shown { step: step.to_string(), points: shown.collect() })
}

/// The points that a request asks for, as far as the caller may see them, from a reading that began at `since` or later.
pub(super) async fn read(
    app: &App,
    caller: &Caller,
    query: &Query,
    step: HistoryStep,
    since: Instant,
) -> Result<Vec<HistoryPoint>, Problem> {
    let (queue, task, now) = (query.queue()?, query.value::<TaskName>("task")?, app.now().await?);
    if let Some(queue) = &queue {
        caller.needs_queue(queue)?;
    }
    if let Some(task) = &task {
        caller.needs_task(task)?;
    }
    let to = query.instant("to", now)?.unwrap_or(now);
    let from = query.instant("from", now)?.unwrap_or(Millis(to.0.saturating_sub((STEPS - 1) * 1000 * step.seconds())));
    step.range(from, to).map_err(|error| Problem::new(&problem::BAD_REQUEST, error.to_string()).with("parameter", "from"))?;
    seen(app, caller, &HistoryQuery { queue, task, step, from, to }, since).await
}

/// The points of a part of the past, as far as the caller may see them.
pub(super) async fn seen(app: &App, caller: &Caller, query: &HistoryQuery, since: Instant) -> Result<Vec<HistoryPoint>, Problem> {
    let mut points = app.past(query, since).await?;
    for point in &mut points {
        point.ready.retain(|queue, _| caller.sees_queue(queue));
        // A part such as `_other` is of no single body. Only callers that may see all bodies get it.
        point.parts.retain(|(queue, task), _| {
            caller.sees_queue(queue) && TaskName::new(&**task).map_or_else(|_| caller.sees_all_tasks(), |task| caller.sees_task(&task))
        });
    }
    Ok(points)
}
