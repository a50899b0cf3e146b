//! `/v1/queues`: look, pause, resume, purge.

use std::{sync::Arc, time::Instant};

use axum::extract::State;
use serde_json::json;
use taskhost_core::task::QueueName;

use super::{
    access::Caller,
    answer::{self, Answer},
    app::App,
    audit::About,
    problem::{self, Problem},
    segment::Segment,
};
use crate::ops::QueueView;

/// `GET /v1/queues`
pub(super) async fn list(State(app): State<Arc<App>>, caller: Caller) -> Answer {
    let queues = app.queues(Instant::now()).await?;
    let queues: Vec<_> = queues.iter().filter(|view| caller.sees_queue(&view.queue)).collect();
    answer::json(&json!({ "queues": queues }))
}

/// `GET /v1/queues/{queue}`
pub(super) async fn show(State(app): State<Arc<App>>, caller: Caller, Segment(queue): Segment) -> Answer {
    answer::json(&seen(&app.queues(Instant::now()).await?, &caller, &queue)?)
}

/// A queue at a glance, if the caller may see it.
pub(super) fn seen(all: &[QueueView], caller: &Caller, queue: &str) -> Result<QueueView, Problem> {
    let queue = named(caller, queue)?;
    all.iter().find(|view| view.queue == queue).cloned().ok_or_else(|| unknown(&queue))
}

/// `POST /v1/queues/{queue}/pause`
pub(super) async fn pause(State(app): State<Arc<App>>, caller: Caller, Segment(queue): Segment) -> Answer {
    let queue = named(&caller, &queue)?;
    app.ops()?.pause_queue(&queue, false).await?;
    answer::json(&json!({ "queue": queue, "paused": true }))
}

/// `POST /v1/queues/{queue}/resume`
pub(super) async fn resume(State(app): State<Arc<App>>, caller: Caller, Segment(queue): Segment) -> Answer {
    let queue = named(&caller, &queue)?;
    app.ops()?.resume_queue(&queue).await?;
    answer::json(&json!({ "queue": queue, "paused": false }))
}

/// `POST /v1/queues/{queue}/purge`
pub(super) async fn purge(State(app): State<Arc<App>>, caller: Caller, Segment(queue): Segment) -> Answer {
    let queue = named(&caller, &queue)?;
    purgeable(&app, &caller, &queue).await?;
    let purged = app.ops()?.purge(&queue).await?;
    let mut response = answer::json(&json!({ "queue": queue, "purged": purged }))?;
    response.extensions_mut().insert(About([("purged".to_owned(), purged.to_string())].into()));
    Ok(response)
}

/// How many tasks a purge would delete, if the caller extends to all of them.
pub(super) async fn purgeable(app: &App, caller: &Caller, queue: &QueueName) -> Result<u64, Problem> {
    if !caller.sees_all_tasks() {
        let detail = format!("the token `{}` extends to some tasks only, and a purge deletes all that wait", caller.name());
        return Err(Problem::new(&problem::FORBIDDEN, detail));
    }
    let would = app.ops()?.purgeable(queue).await?;
    if would.is_known { Ok(would.waiting) } else { Err(unknown(queue)) }
}

fn unknown(queue: &QueueName) -> Problem {
    Problem::new(&problem::UNKNOWN_QUEUE, format!("the queue `{queue}` has never had a task, or was purged empty"))
}

/// The queue of this name, if the caller extends to it.
pub(super) fn named(caller: &Caller, queue: &str) -> Result<QueueName, Problem> {
    let queue = QueueName::new(queue).map_err(|error| Problem::new(&problem::UNKNOWN_QUEUE, error.to_string()))?;
    caller.needs_queue(&queue)?;
    Ok(queue)
}
