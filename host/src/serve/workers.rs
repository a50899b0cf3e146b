//! `/v1/workers`, `/v1/plugins`, `/v1/catalogue`: who works, and with what code.

use std::{sync::Arc, time::Instant};

use axum::{extract::State, http::StatusCode};
use serde_json::json;

use super::{
    access::Caller,
    answer::{self, Answer},
    app::App,
    problem::{self, Problem},
    segment::Segment,
};
use crate::ops;

/// `GET /v1/workers`
pub(super) async fn list(State(app): State<Arc<App>>, caller: Caller) -> Answer {
    let mut workers = (*app.workers(Instant::now()).await?).clone();
    for worker in &mut workers {
        worker.queues.retain(|queue| caller.sees_queue(queue));
        worker.running.retain(|running| caller.sees_queue(&running.queue) && caller.sees_task(&running.task));
        // They have resources of their own.
        worker.plugins.clear();
        worker.schedules = None;
    }
    answer::json(&json!({ "workers": workers }))
}

/// `POST /v1/workers/{worker}/drain`
pub(super) async fn drain(State(app): State<Arc<App>>, caller: Caller, Segment(worker): Segment) -> Answer {
    drained(&app, &caller, &worker).await?;
    answer::with_status(StatusCode::ACCEPTED, &json!({ "worker": worker, "outcome": "asked-to-drain" }))
}

/// Asks a worker to drain, if the caller extends to all that it does.
pub(super) async fn drained(app: &App, caller: &Caller, worker: &str) -> Result<(), Problem> {
    let ops = app.ops()?;
    let found = ops.workers().await?.into_iter().find(|info| info.id == worker);
    if found.is_some_and(|info| !caller.sees_all_tasks() || !info.queues.iter().all(|queue| caller.sees_queue(queue))) {
        let detail = format!("the token `{}` does not extend to all that this worker does", caller.name());
        return Err(Problem::new(&problem::FORBIDDEN, detail));
    }
    Ok(ops.ask_to_drain(worker).await?)
}

/// `GET /v1/catalogue`
pub(super) async fn catalogue(State(app): State<Arc<App>>, caller: Caller) -> Answer {
    let mut catalogue = app.ops()?.catalogue().await?;
    catalogue.offers.retain(|name, _| caller.sees_task(name));
    answer::json(&json!({ "bodies": catalogue.offers }))
}

/// `GET /v1/plugins`
pub(super) async fn plugins(State(app): State<Arc<App>>, caller: Caller) -> Answer {
    let mut plugins = ops::seen_plugins(&app.workers(Instant::now()).await?);
    for plugin in &mut plugins {
        if let Some(description) = &mut plugin.info.description {
            description.bodies.retain(|body| caller.sees_task(&body.name));
        }
    }
    answer::json(&json!({ "plugins": plugins }))
}

/// `POST /v1/plugins/{plugin}/rollback`
pub(super) async fn roll_back(State(app): State<Arc<App>>, Segment(plugin): Segment) -> Answer {
    let (asked, followed) = ops::roll_back(&app.settings, &plugin).await?;
    let followed = match followed {
        ops::Followed::AtNextStart => "at-next-start",
        ops::Followed::Serves => "serves",
        ops::Followed::NotLoaded => "not-loaded",
        ops::Followed::Otherwise(_) => "another-serves",
        ops::Followed::NotYet => "not-yet",
    };
    let version = |generation: &ops::Generation| json!({ "version": generation.version, "digest": generation.digest });
    answer::json(&json!({ "file": asked.file, "from": asked.from.as_ref().map(version), "to": version(&asked.to), "outcome": followed }))
}
