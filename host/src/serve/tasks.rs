//! `/v1/tasks`: enqueue, list, look, wait, change.

use std::{sync::Arc, time::Instant};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};
use sha2::{Digest, Sha256};
use taskhost_core::{
    catalogue::Given,
    task::{Millis, NewTask, OptionFilter, QueueName, Start, State as TaskState, TaskId, TaskView},
    trace::{self, BAGGAGE, TRACEPARENT, TraceContext},
};

use super::{
    access::Caller,
    answer::{self, Answer},
    app::App,
    body,
    problem::{self, Problem},
    query::Query,
    segment::Segment,
    shown::{self, ShownTask},
};
use crate::{
    config::Scope,
    ops::{Change, Changed, Enqueued, OpsError, TaskFilter, header_filter},
};

/// The most tasks on a page, and how many without `limit`.
const MOST: usize = 500;
const PAGE: usize = 50;

/// The longest idempotency key.
const LONGEST_KEY: usize = 255;

/// What a path segment must escape.
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b':');

/// A page of the list.
#[derive(Serialize)]
struct Page {
    tasks: Vec<ShownTask>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    looked: usize,
}

/// `POST /v1/tasks`
pub(super) async fn enqueue(State(app): State<Arc<App>>, caller: Caller, query: Query, headers: HeaderMap, body: Body) -> Answer {
    let wait = query.wait()?;
    let body = body::json(&app, &headers, body).await?;
    let connected = app.connected()?;
    let mut task = connected.producer.read(&body).await?;
    caller.needs_queue(&task.queue)?;
    caller.needs_task(&task.name)?;
    let key = idempotency_key(&headers, &caller)?;
    if let Some(key) = &key {
        task.id = key.clone();
    }
    task.awaited = wait.is_some();
    take_trace(&headers, &mut task);
    let span = app.traces.as_ref().and_then(|traces| traces.span(trace::of_headers(&task.options.headers)));
    if let Some(span) = &span {
        trace::set_traceparent(&mut task.options.headers, &span.own);
    }
    let (queue, id) = (task.queue.clone(), task.id.clone());
    let fresh = fresh(&task, connected.producer.clock().map_or(Millis(0), |clock| clock.now()));
    let begun = Instant::now();
    let enqueued = connected.producer.enqueue(task).await;
    if let (Some(traces), Some(span)) = (&app.traces, span) {
        traces.enqueued(span, &queue, &fresh.task, &id, begun.elapsed(), enqueued.is_err());
    }
    let enqueued = enqueued?;
    let (status, mut view) = match &enqueued {
        Enqueued::Added => (StatusCode::CREATED, fresh),
        Enqueued::Duplicate { holder } => {
            let found = connected.ops.task(Some(&queue), holder).await;
            let gone = || Problem::new(&problem::DUPLICATE, format!("`{holder}` was the same task and has gone meanwhile: send it again"));
            let found = found.map_err(|_| gone())?;
            if key.is_some_and(|key| key == *holder) && (found.task != fresh.task || found.args.get() != fresh.args.get()) {
                let detail = "this idempotency key was used for another task: use a key for one task only";
                return Err(Problem::new(&problem::KEY_REUSED, detail).with("holder", holder.as_str()));
            }
            (StatusCode::OK, found)
        }
    };
    if let Some(wait) = wait.filter(|_| !view.state.is_ended()) {
        let id = view.id.clone();
        // The task is enqueued, whatever becomes of the wait: the client must learn its id.
        let named = |error: OpsError| Problem::from(error).with("id", id.as_str()).with("queue", queue.as_str());
        view = app.await_end(&connected.ops, Some(&queue), &id, wait).await.map_err(named)?;
    }
    let mut response = answer::with_status(status, &shown::task(view, &caller))?;
    let location = match &enqueued {
        Enqueued::Added => location(&queue, &id),
        Enqueued::Duplicate { holder } => location(&queue, holder),
    };
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// A request's trace and baggage become those of its task, unless the task names its own.
fn take_trace(headers: &HeaderMap, task: &mut NewTask) {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(|value| (name.to_owned(), value.to_owned()));
    let trace = text(TRACEPARENT).filter(|(_, value)| value.parse::<TraceContext>().is_ok());
    let given: Vec<_> = trace.into_iter().chain(text(BAGGAGE)).collect();
    if !given.is_empty() {
        trace::inherit(&mut task.options.headers, &given);
    }
}

fn location(queue: &QueueName, id: &TaskId) -> String {
    format!("/v1/tasks/{}?queue={queue}", utf8_percent_encode(id.as_str(), IN_PATH))
}

/// The id that an idempotency key stands for. The broker enqueues an id once.
fn idempotency_key(headers: &HeaderMap, caller: &Caller) -> Result<Option<TaskId>, Problem> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    if key.is_empty() || key.len() > LONGEST_KEY || !key.as_bytes().iter().all(|byte| (b' '..=b'~').contains(byte)) {
        return Err(Problem::new(&problem::BAD_REQUEST, format!("an `Idempotency-Key` has 1 to {LONGEST_KEY} characters of ASCII")));
    }
    let digest = Sha256::new().chain_update(caller.name()).chain_update([0]).chain_update(key.as_bytes()).finalize();
    let id = TaskId::new(format!("ik:{}", hex::encode(&digest[..16])));
    id.map(Some).map_err(|error| Problem::new(&problem::INTERNAL, error.to_string()))
}

/// The view of a task that was added a moment ago.
fn fresh(task: &NewTask, now: Millis) -> TaskView {
    let due_at = match task.start {
        Start::Now => None,
        Start::In(delay) => Some(now.after(delay)),
        Start::At(at) => Some(at).filter(|at| *at > now),
    };
    TaskView {
        id: task.id.clone(),
        task: task.name.clone(),
        queue: task.queue.clone(),
        state: if due_at.is_some() { TaskState::Scheduled } else { TaskState::Ready },
        waits_for: None,
        args: RawValue::from_string(task.args.clone()).unwrap_or_else(|_| RawValue::NULL.to_owned()),
        options: task.options.clone(),
        tries: 0,
        result: None,
        error: None,
        errors: Vec::new(),
        enqueued_at: now,
        due_at,
        expires_at: task.expires,
        started_at: None,
        ended_at: None,
        worker: None,
        plugin: None,
        version: None,
        digest: None,
        progress: None,
        cancel_asked: false,
    }
}

/// The query parameters of a filter.
pub(super) const FILTER: &[&str] = &["state", "task", "queue", "error", "args", "header", "plugin", "worker", "tag", "from", "to", "older"];

/// The query parameters of the list of tasks.
pub(super) const LISTED: &[&str] = &{
    let mut all = ["cursor"; FILTER.len() + 2];
    let mut n = 0;
    while n < FILTER.len() {
        all[n] = FILTER[n];
        n += 1;
    }
    all[n] = "limit";
    all
};

/// Those of them that look into what producers and bodies wrote.
pub(super) const OF_PAYLOAD: [&str; 3] = ["args", "error", "header"];

/// `GET /v1/tasks`
pub(super) async fn list(State(app): State<Arc<App>>, caller: Caller, query: Query) -> Answer {
    let ops = app.ops()?;
    let filter = filter(&query, &caller, ops.now().await?)?;
    let limit = query.limit(PAGE, MOST)?;
    let from = query.text("cursor").map(|cursor| app.cursors.open(cursor)).transpose()?;
    let page = ops.page(&filter, from.as_deref(), limit).await?;
    let tasks = page.tasks.into_iter().filter(|view| caller.sees(view)).map(|view| shown::task(view, &caller)).collect();
    answer::json(&Page { tasks, next: page.next.map(|next| app.cursors.seal(&next)), looked: page.looked })
}

/// The filter of a query. Looking for what the caller may not see is refused.
pub(super) fn filter(query: &Query, caller: &Caller, now: Millis) -> Result<TaskFilter, Problem> {
    let queue = query.queue()?;
    if let Some(queue) = &queue {
        caller.needs_queue(queue)?;
    }
    for name in OF_PAYLOAD {
        if query.text(name).is_some() {
            caller.needs(Scope::Payload)?;
        }
    }
    Ok(TaskFilter {
        queue,
        states: query.list("state")?,
        task: query.value("task")?,
        error: query.text("error").map(str::to_owned),
        older: query.duration("older")?,
        from: query.instant("from", now)?,
        to: query.instant("to", now)?,
        args: query.text("args").map(str::to_owned),
        header: query.text("header").map(header_filter),
        plugin: query.text("plugin").map(str::to_owned),
        worker: query.text("worker").map(str::to_owned),
        options: OptionFilter { tags: query.list("tag")? },
    })
}

/// `GET /v1/tasks/{id}`
pub(super) async fn show(State(app): State<Arc<App>>, caller: Caller, Segment(id): Segment, query: Query) -> Answer {
    let (queue, id) = (query.queue()?, task_id(&id)?);
    let ops = app.ops()?;
    let view = match query.wait()? {
        Some(wait) => app.await_end(ops, queue.as_ref(), &id, wait).await?,
        None => ops.task(queue.as_ref(), &id).await?,
    };
    if !caller.sees(&view) {
        return Err(unknown(&id));
    }
    answer::json(&shown::task(view, &caller))
}

/// `GET /v1/tasks/{id}/log`
pub(super) async fn log(State(app): State<Arc<App>>, caller: Caller, Segment(id): Segment, query: Query) -> Answer {
    caller.needs(Scope::Payload)?;
    let id = task_id(&id)?;
    let ops = app.ops()?;
    let view = seen(&app, &caller, query.queue()?.as_ref(), &id).await?;
    Ok(answer::of_type("application/x-ndjson", ops.log(Some(&view.queue), &id).await?))
}

/// `POST /v1/tasks/{id}/cancel`
pub(super) async fn cancel(State(app): State<Arc<App>>, caller: Caller, Segment(id): Segment, query: Query) -> Answer {
    change(&app, &caller, Change::Cancel, &id, &query).await
}

/// `POST /v1/tasks/{id}/retry`
pub(super) async fn retry(State(app): State<Arc<App>>, caller: Caller, Segment(id): Segment, query: Query) -> Answer {
    change(&app, &caller, Change::Retry, &id, &query).await
}

/// `POST /v1/tasks/{id}/run-now`
pub(super) async fn run_now(State(app): State<Arc<App>>, caller: Caller, Segment(id): Segment, query: Query) -> Answer {
    let view = seen(&app, &caller, query.queue()?.as_ref(), &task_id(&id)?).await?;
    if view.state != TaskState::Scheduled {
        let detail = format!("only a task that waits for its time is run now: it is {}", view.state);
        return Err(Problem::new(&problem::WRONG_STATE, detail).with("state", view.state.as_str()));
    }
    change(&app, &caller, Change::Retry, &id, &query).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Edit {
    args: Box<RawValue>,
}

/// `PATCH /v1/tasks/{id}`
pub(super) async fn edit(
    State(app): State<Arc<App>>,
    caller: Caller,
    Segment(id): Segment,
    query: Query,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let id = task_id(&id)?;
    let view = seen(&app, &caller, query.queue()?.as_ref(), &id).await?;
    let Edit { args } = body::read(&app, &headers, body).await?;
    let ops = app.ops()?;
    ops.edit(&view, &Given::Json(args.get().to_owned())).await?;
    answer::json(&shown::task(ops.task(Some(&view.queue), &id).await?, &caller))
}

/// `DELETE /v1/tasks/{id}`
pub(super) async fn delete(State(app): State<Arc<App>>, caller: Caller, Segment(id): Segment, query: Query) -> Answer {
    change(&app, &caller, Change::Delete, &id, &query).await
}

async fn change(app: &App, caller: &Caller, change: Change, id: &str, query: &Query) -> Answer {
    let id = task_id(id)?;
    let view = seen(app, caller, query.queue()?.as_ref(), &id).await?;
    let changed = app.ops()?.change(change, &view.queue, &id).await?;
    let outcome = match changed {
        Changed::Cancelled => "cancelled",
        Changed::AskedToStop => "asked-to-stop",
        Changed::Ready => "ready",
        Changed::Deleted => "deleted",
    };
    if changed == Changed::Deleted {
        return Ok(answer::nothing());
    }
    answer::json(&json!({ "id": id, "queue": view.queue, "outcome": outcome }))
}

/// The task, if the caller may see it.
pub(super) async fn seen(app: &App, caller: &Caller, queue: Option<&QueueName>, id: &TaskId) -> Result<TaskView, Problem> {
    let view = app.ops()?.task(queue, id).await?;
    if caller.sees(&view) { Ok(view) } else { Err(unknown(id)) }
}

fn unknown(id: &TaskId) -> Problem {
    Problem::new(&problem::UNKNOWN_TASK, format!("no task `{id}` that this token extends to"))
}

pub(super) fn task_id(text: &str) -> Result<TaskId, Problem> {
    TaskId::new(text).map_err(|error| Problem::new(&problem::UNKNOWN_TASK, error.to_string()))
}
