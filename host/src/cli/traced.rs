//! An enqueue as a span, and the trace that a traced caller hands on in the environment.

use std::{env, time::Instant};

use super::failure::Failure;
use crate::{
    ops::{Enqueued, Ops},
    telemetry::traces::Traces,
};
use taskhost_core::{
    task::NewTask,
    trace::{self, BAGGAGE, TRACEPARENT, TraceContext},
};

/// Enqueues in a span of its own, if this command is traced.
pub(super) async fn enqueue(ops: &Ops, task: &mut NewTask, traces: Option<&Traces>) -> Result<Enqueued, Failure> {
    let span = traces.and_then(|traces| traces.span(trace::of_headers(&task.options.headers)));
    if let Some(span) = &span {
        trace::set_traceparent(&mut task.options.headers, &span.own);
    }
    let begun = Instant::now();
    let enqueued = ops.enqueue(task).await;
    if let (Some(traces), Some(span)) = (traces, span) {
        traces.enqueued(span, &task.queue, &task.name, &task.id, begun.elapsed(), enqueued.is_err());
    }
    Ok(enqueued?)
}

/// `TRACEPARENT` and `BAGGAGE`, as the specification of OpenTelemetry names them for processes.
pub(super) fn of_environment() -> Vec<(String, String)> {
    let given = |variable: &str| env::var(variable).ok().filter(|value| !value.is_empty());
    let trace = given("TRACEPARENT").filter(|value| value.parse::<TraceContext>().is_ok());
    let headers = [(TRACEPARENT, trace), (BAGGAGE, given("BAGGAGE"))];
    headers.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}
