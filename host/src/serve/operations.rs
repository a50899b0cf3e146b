//! `/v1/operations`: one change of every task that a filter chooses.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use taskhost_core::task::{Millis, QueueName, TaskId, TaskView};
use tokio_util::sync::CancellationToken;

use super::{
    access::Caller,
    answer::{self, Answer},
    app::App,
    audit::About,
    body,
    problem::{self, Problem},
    query::Query,
    segment::Segment,
    tasks,
};
use crate::{
    config::Scope,
    ops::{Change, Chooser, OPERATIONS, Operation, Ops, TaskFilter},
};

/// How many tasks a rehearsal looks at.
const REHEARSED: usize = 50_000;
/// The operations of a page.
const PAGE: usize = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ordered {
    verb: Change,
    filter: BTreeMap<String, String>,
    #[serde(default)]
    dry_run: bool,
}

/// An operation, as it is shown.
#[derive(Serialize)]
pub(super) struct Shown {
    pub(super) id: TaskId,
    pub(super) verb: Value,
    pub(super) filter: Value,
    pub(super) by: Value,
    pub(super) state: String,
    /// What is done so far.
    pub(super) done: Value,
    pub(super) ordered_at: Millis,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ended_at: Option<Millis>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
}

/// `POST /v1/operations`
pub(super) async fn order(State(app): State<Arc<App>>, caller: Caller, headers: HeaderMap, body: Body) -> Answer {
    let Ordered { verb, filter, dry_run } = body::read(&app, &headers, body).await?;
    if filter.is_empty() {
        let detail = "an operation needs a filter, such as {\"state\": \"dead\"}: without one it would change every task";
        return Err(Problem::new(&problem::INVALID, detail).with("pointer", "/filter"));
    }
    let operation = Operation { verb, filter, by: caller.name().to_owned() };
    let ops = app.ops()?;
    let chooser = chooser(&operation, &caller, ops.now().await?)?;
    if dry_run {
        let (matches, complete) = ops.rehearse(&operation, &chooser, REHEARSED).await?;
        return answer::json(&json!({ "dry_run": true, "matches": matches, "complete": complete }));
    }
    let id = ops.order(&operation).await?;
    let mut response = answer::with_status(StatusCode::ACCEPTED, &found(ops, &id, &caller).await?)?;
    let verb = serde_json::to_value(operation.verb).ok().and_then(|verb| verb.as_str().map(str::to_owned)).unwrap_or_default();
    response.extensions_mut().insert(About([("id".to_owned(), id.to_string()), ("verb".to_owned(), verb)].into()));
    Ok(response)
}

/// `GET /v1/operations`
pub(super) async fn list(State(app): State<Arc<App>>, caller: Caller) -> Answer {
    answer::json(&json!({ "operations": listed(&app, &caller, Instant::now()).await? }))
}

/// The operations that the caller may see, newest first, from a reading that began at `since` or later.
pub(super) async fn listed(app: &App, caller: &Caller, since: Instant) -> Result<Vec<Shown>, Problem> {
    let filter = TaskFilter { queue: Some(queue()?), ..TaskFilter::default() };
    let page = app.page(&filter, None, PAGE, since).await?;
    Ok(page.tasks.iter().filter_map(|view| shown(view.clone(), caller)).collect())
}

/// `GET /v1/operations/{id}`
pub(super) async fn show(State(app): State<Arc<App>>, caller: Caller, Segment(id): Segment) -> Answer {
    answer::json(&found(app.ops()?, &tasks::task_id(&id)?, &caller).await?)
}

/// `DELETE /v1/operations/{id}`
pub(super) async fn cancel(State(app): State<Arc<App>>, caller: Caller, Segment(id): Segment) -> Answer {
    stopped(&app, &caller, &id).await?;
    Ok(answer::nothing())
}

/// Stops an operation that the caller may see.
pub(super) async fn stopped(app: &App, caller: &Caller, id: &str) -> Result<(), Problem> {
    let id = found(app.ops()?, &tasks::task_id(id)?, caller).await?.id;
    app.ops()?.change(Change::Cancel, &queue()?, &id).await?;
    Ok(())
}

/// Runs operations of all servers until `stop`.
pub(super) async fn run(app: Arc<App>, ops: Ops, stop: CancellationToken) {
    if app.settings.http.read_only {
        return;
    }
    let choose = |operation: &Operation, ordered_at: Millis| {
        let caller = app.access.named(&operation.by);
        let caller = caller.ok_or_else(|| format!("the token `{}`, which ordered it, is not known here any more", operation.by))?;
        chooser(operation, &caller, ordered_at).map_err(|problem| problem.detail().to_owned())
    };
    ops.run_operations(choose, stop).await;
}

/// Which tasks an operation is about, as far as its caller may see them.
pub(super) fn chooser(operation: &Operation, caller: &Caller, now: Millis) -> Result<Chooser, Problem> {
    let query = Query::of_pairs(operation.filter.iter().map(|(name, value)| (name.clone(), value.clone())).collect());
    query.check(tasks::FILTER)?;
    let (filter, caller) = (tasks::filter(&query, caller, now)?, caller.clone());
    Ok(Chooser { filter, sees: Box::new(move |view: &TaskView| caller.sees(view)) })
}

async fn found(ops: &Ops, id: &TaskId, caller: &Caller) -> Result<Shown, Problem> {
    let unknown = || Problem::new(&problem::UNKNOWN_TASK, format!("no operation `{id}` that this token extends to"));
    shown(ops.task(Some(&queue()?), id).await?, caller).ok_or_else(unknown)
}

/// An operation, if the caller ordered it, or may see all queues and tasks.
fn shown(view: TaskView, caller: &Caller) -> Option<Shown> {
    let mut ordered: Value = serde_json::from_str(view.args.get()).unwrap_or_default();
    if ordered[0]["by"] != caller.name() && !(caller.sees_all_tasks() && caller.sees_queue(&view.queue)) {
        return None;
    }
    if let (false, Some(filter)) = (caller.has(Scope::Payload), ordered[0]["filter"].as_object_mut()) {
        filter.iter_mut().filter(|(name, _)| tasks::OF_PAYLOAD.contains(&name.as_str())).for_each(|(_, value)| *value = "masked".into());
    }
    let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
    let mut done = match (&view.result, &view.progress) {
        (Some(result), _) => parse(result.get()),
        (None, Some(progress)) => parse(&progress.note),
        (None, None) => json!({ "looked": 0, "changed": 0, "unchanged": 0 }),
    };
    // Cursors are signed when they leave this server, and nobody needs this one.
    if let Some(done) = done.as_object_mut() {
        done.remove("cursor");
    }
    Some(Shown {
        verb: ordered[0]["verb"].clone(),
        filter: ordered[0]["filter"].clone(),
        by: ordered[0]["by"].clone(),
        state: view.state.to_string(),
        done,
        ordered_at: view.enqueued_at,
        ended_at: view.ended_at,
        error: view.error.map(|error| error.message),
        id: view.id,
    })
}

fn queue() -> Result<QueueName, Problem> {
    QueueName::new(OPERATIONS).map_err(|error| Problem::new(&problem::INTERNAL, error.to_string()))
}
