//! `/v1/flows` and `/v1/signals`: start flows, look at them, steer them.
//!
//! Invariant: a token that extends to some tasks only starts flows of these, and sees no others' flows.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};
use taskhost_core::{
    task::{QueueName, TaskId},
    trace::{BAGGAGE, TRACEPARENT, TraceContext},
};

use super::{
    access::Caller,
    answer::{self, Answer},
    app::App,
    body,
    problem::{self, Problem},
    query::Query,
    segment::Segment,
};
use crate::{
    config::Scope,
    ops::{Ask, FlowLine, FlowOrder, FlowView, Ops},
};

/// Flows of a list, and the most that a query may ask for.
const LISTED: usize = 50;
const MOST: usize = 500;

/// A flow as a client orders it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewFlow {
    flow: Value,
    input: Option<Box<RawValue>>,
    id: Option<TaskId>,
    queue: Option<QueueName>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewSignal {
    flow: TaskId,
    queue: Option<QueueName>,
    name: String,
    value: Option<Box<RawValue>>,
}

/// A flow, perhaps without its payload.
#[derive(Serialize)]
pub(super) struct ShownFlow {
    #[serde(flatten)]
    pub(super) view: FlowView,
    /// Input, result, and the words of steps are left out.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    masked: bool,
}

pub(super) fn shown(mut view: FlowView, caller: &Caller) -> ShownFlow {
    let masked = !caller.has(Scope::Payload);
    if masked {
        view.input = RawValue::NULL.to_owned();
        view.result = None;
        view.line = line(view.line, caller);
        view.steps.iter_mut().for_each(|step| step.text = None);
    }
    ShownFlow { view, masked }
}

/// A flow in a list, perhaps without why it failed.
pub(super) fn line(mut line: FlowLine, caller: &Caller) -> FlowLine {
    if !caller.has(Scope::Payload) {
        line.why = None;
    }
    line
}

/// `POST /v1/flows`
pub(super) async fn start(State(app): State<Arc<App>>, caller: Caller, query: Query, headers: HeaderMap, body: Body) -> Answer {
    let wait = query.wait()?;
    let new: NewFlow = body::read(&app, &headers, body).await?;
    let ops = app.ops()?;
    let checks = ops.checks(None, false).await?;
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(|value| (name.to_owned(), value.to_owned()));
    let trace = text(TRACEPARENT).filter(|(_, value)| value.parse::<TraceContext>().is_ok());
    let own = new.headers.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value));
    let mut order = FlowOrder {
        flow: new.flow,
        input: new.input.map_or_else(|| "null".to_owned(), |input| input.get().to_owned()),
        id: new.id,
        queue: new.queue,
        headers: trace.into_iter().chain(text(BAGGAGE)).chain(own).collect(),
    };
    let calls = order.prepare(&checks)?;
    let home = order.queue.clone().unwrap_or_default();
    caller.needs_queue(&home)?;
    for (task, queue) in &calls {
        caller.needs_task(task)?;
        caller.needs_queue(queue.as_ref().unwrap_or(&home))?;
    }
    let started = ops.start_flow(order).await?;
    let view = match wait {
        Some(wait) => ops.await_flow(&started.queue, &started.id, Some(wait), |_| {}).await?,
        None => ops.flow(Some(&started.queue), &started.id).await?,
    };
    let status = if started.is_new { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = answer::with_status(status, &shown(view, &caller))?;
    let location = format!("/v1/flows/{}?queue={}", started.id.as_str().replace('/', "%2F"), started.queue);
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// `GET /v1/flows`
pub(super) async fn list(State(app): State<Arc<App>>, caller: Caller, query: Query) -> Answer {
    let limit = query.limit(LISTED, MOST)?;
    let flows = listed(app.ops()?, &caller, query.queue()?.as_ref(), limit).await?;
    answer::json(&json!({ "flows": flows }))
}

/// The flows that a caller may see.
pub(super) async fn listed(ops: &Ops, caller: &Caller, queue: Option<&QueueName>, limit: usize) -> Result<Vec<FlowLine>, Problem> {
    if let Some(queue) = queue {
        caller.needs_queue(queue)?;
    }
    if !caller.sees_all_tasks() {
        return Ok(Vec::new());
    }
    let flows = ops.flows(queue, limit).await?;
    Ok(flows.into_iter().filter(|flow| caller.sees_queue(&flow.queue)).map(|flow| line(flow, caller)).collect())
}

/// `GET /v1/flows/{id}`
pub(super) async fn show(State(app): State<Arc<App>>, caller: Caller, Segment(id): Segment, query: Query) -> Answer {
    let view = seen(app.ops()?, &caller, query.queue()?.as_ref(), &id).await?;
    answer::json(&shown(view, &caller))
}

/// The flow, if the caller may see it.
pub(super) async fn seen(ops: &Ops, caller: &Caller, queue: Option<&QueueName>, id: &str) -> Result<FlowView, Problem> {
    let unknown = || Problem::new(&problem::UNKNOWN_FLOW, "there is no such flow, or it was kept for its time and is gone");
    let id = TaskId::new(id).map_err(|_| unknown())?;
    let view = ops.flow(queue, &id).await?;
    if caller.sees_queue(&view.line.queue) && caller.sees_all_tasks() { Ok(view) } else { Err(unknown()) }
}

/// `POST /v1/flows/{id}/cancel`
pub(super) async fn cancel(State(app): State<Arc<App>>, caller: Caller, Segment(id): Segment, query: Query) -> Answer {
    ask(&app, &caller, &id, &query, Ask::Cancel).await
}

/// `POST /v1/flows/{id}/pause`
pub(super) async fn pause(State(app): State<Arc<App>>, caller: Caller, Segment(id): Segment, query: Query) -> Answer {
    ask(&app, &caller, &id, &query, Ask::Pause).await
}

/// `POST /v1/flows/{id}/resume`
pub(super) async fn resume(State(app): State<Arc<App>>, caller: Caller, Segment(id): Segment, query: Query) -> Answer {
    ask(&app, &caller, &id, &query, Ask::Resume).await
}

/// `POST /v1/flows/{id}/retry`
pub(super) async fn retry(State(app): State<Arc<App>>, caller: Caller, Segment(id): Segment, query: Query) -> Answer {
    let step = query.text("only").map(str::to_owned);
    ask(&app, &caller, &id, &query, Ask::Retry(step)).await
}

async fn ask(app: &App, caller: &Caller, id: &str, query: &Query, what: Ask) -> Answer {
    let ops = app.ops()?;
    let before = seen(ops, caller, query.queue()?.as_ref(), id).await?;
    let view = ops.ask_flow(Some(&before.line.queue), &before.line.id, &what).await?;
    answer::json(&shown(view, caller))
}

/// `POST /v1/signals`
pub(super) async fn signal(State(app): State<Arc<App>>, caller: Caller, headers: HeaderMap, body: Body) -> Answer {
    let new: NewSignal = body::read(&app, &headers, body).await?;
    let fits = (1..=64).contains(&new.name.len()) && new.name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    if !fits {
        let detail = "`name`: the name of a signal has 1 to 64 characters of A-Z a-z 0-9 _ -";
        return Err(Problem::new(&problem::INVALID, detail).with("pointer", "/name"));
    }
    let ops = app.ops()?;
    let before = seen(ops, &caller, new.queue.as_ref(), new.flow.as_str()).await?;
    let value = new.value.map_or_else(|| "null".to_owned(), |value| value.get().to_owned());
    let view = ops.ask_flow(Some(&before.line.queue), &before.line.id, &Ask::Signal { name: new.name, value }).await?;
    answer::json(&shown(view, &caller))
}
