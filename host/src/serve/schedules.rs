//! `/v1/schedules`: look, write, steer.

use std::sync::Arc;

use axum::{body::Body, extract::State, http::HeaderMap};
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use taskhost_core::{
    catalogue::Given,
    task::{Carried, Priority, QueueName, Tags, TaskName, TaskOptions},
    units,
};

use super::{
    access::Caller,
    answer::{self, Answer},
    app::App,
    body,
    problem::{self, Problem},
    segment::Segment,
    shown,
};
use crate::ops::{CatchUp, NewSchedule, OpsError, Overlap, ScheduleSource, SeenSchedule, whole};

/// A schedule as it is written, by the keys of `taskhost.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    rule: String,
    task: TaskName,
    args: Option<Box<RawValue>>,
    #[serde(alias = "tz")]
    timezone: Option<String>,
    queue: Option<QueueName>,
    #[serde(default, deserialize_with = "whole")]
    priority: Option<Priority>,
    timeout: Option<String>,
    #[serde(default, deserialize_with = "whole")]
    retries: Option<u32>,
    catch_up: Option<CatchUp>,
    overlap: Option<Overlap>,
    tags: Option<Tags>,
}

/// `GET /v1/schedules`
pub(super) async fn list(State(app): State<Arc<App>>, caller: Caller) -> Answer {
    let seen = app.ops()?.schedules().await?.into_iter().filter(|seen| is_seen(&caller, seen));
    let shown = seen.map(|seen| shown::schedule(seen, &caller)).collect::<Result<Vec<_>, _>>()?;
    answer::json(&json!({ "schedules": shown }))
}

/// `GET /v1/schedules/{name}`
pub(super) async fn show(State(app): State<Arc<App>>, caller: Caller, Segment(name): Segment) -> Answer {
    answer::json(&shown::schedule(found(&app, &caller, &name).await?, &caller)?)
}

/// `PUT /v1/schedules/{name}`
pub(super) async fn put(State(app): State<Arc<App>>, caller: Caller, Segment(name): Segment, headers: HeaderMap, body: Body) -> Answer {
    let written: Written = body::read(&app, &headers, body).await?;
    let ops = app.ops()?;
    caller.needs_task(&written.task)?;
    if let Some(old) = ops.schedules().await?.into_iter().find(|seen| seen.schedule.name == name) {
        if !is_seen(&caller, &old) {
            return Err(unknown(&name));
        }
        if old.schedule.source == ScheduleSource::Toml && !old.is_orphan {
            let detail = format!("the schedule `{name}` stands in a worker's taskhost.toml: change it there");
            return Err(Problem::new(&problem::WRONG_STATE, detail));
        }
    }
    let checks = ops.checks(Some(&written.task), false).await?;
    let given = Given::Json(written.args.as_deref().map_or("[]", RawValue::get).to_owned());
    let args = checks.check(&written.task, &given).map_err(OpsError::from)?;
    let timeout = written.timeout.as_deref().map(units::positive_duration).transpose();
    let timeout = timeout.map_err(|why| Problem::new(&problem::INVALID, format!("`timeout`: {why}")).with("pointer", "/timeout"))?;
    let new = NewSchedule {
        name: name.clone(),
        rule: written.rule,
        timezone: written.timezone.unwrap_or_else(|| "UTC".to_owned()),
        task: written.task,
        args,
        queue: written.queue,
        options: TaskOptions {
            priority: written.priority.unwrap_or_default(),
            timeout,
            max_attempts: written.retries.map(|retries| retries.saturating_add(1)),
            carried: Carried { tags: written.tags.unwrap_or_default() },
            ..TaskOptions::default()
        },
        catch_up: written.catch_up.unwrap_or_default(),
        overlap: written.overlap.unwrap_or_default(),
    };
    // The body's hint may name the queue.
    caller.needs_queue(&new.queue_by(&checks))?;
    ops.add_schedule(new, &checks).await?;
    show(State(app), caller, Segment(name)).await
}

/// `DELETE /v1/schedules/{name}`
pub(super) async fn remove(State(app): State<Arc<App>>, caller: Caller, Segment(name): Segment) -> Answer {
    found(&app, &caller, &name).await?;
    app.ops()?.remove_schedule(&name).await?;
    Ok(answer::nothing())
}

/// `POST /v1/schedules/{name}/run`
pub(super) async fn run(State(app): State<Arc<App>>, caller: Caller, Segment(name): Segment) -> Answer {
    let seen = found(&app, &caller, &name).await?;
    let id = app.ops()?.run_schedule(&name).await?;
    answer::json(&json!({ "id": id, "queue": seen.schedule.queue }))
}

/// `POST /v1/schedules/{name}/pause`
pub(super) async fn pause(State(app): State<Arc<App>>, caller: Caller, Segment(name): Segment) -> Answer {
    set_paused(app, caller, name, true).await
}

/// `POST /v1/schedules/{name}/resume`
pub(super) async fn resume(State(app): State<Arc<App>>, caller: Caller, Segment(name): Segment) -> Answer {
    set_paused(app, caller, name, false).await
}

async fn set_paused(app: Arc<App>, caller: Caller, name: String, paused: bool) -> Answer {
    found(&app, &caller, &name).await?;
    let contrary = app.ops()?.pause_schedule(&name, paused).await?;
    let mut said = json!({ "name": name, "paused": paused });
    if let Some(worker) = contrary {
        said["warning"] =
            format!("the taskhost.toml of worker `{worker}` says the opposite: the next start of a worker with it wins").into();
    }
    answer::json(&said)
}

pub(super) fn is_seen(caller: &Caller, seen: &SeenSchedule) -> bool {
    caller.sees_queue(&seen.schedule.queue) && caller.sees_task(&seen.schedule.task)
}

pub(super) async fn found(app: &App, caller: &Caller, name: &str) -> Result<SeenSchedule, Problem> {
    let seen = app.ops()?.schedules().await?.into_iter().find(|seen| seen.schedule.name == name);
    seen.filter(|seen| is_seen(caller, seen)).ok_or_else(|| unknown(name))
}

fn unknown(name: &str) -> Problem {
    Problem::new(&problem::UNKNOWN_SCHEDULE, format!("no schedule `{name}`"))
}
