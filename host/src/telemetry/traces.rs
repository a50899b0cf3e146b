//! Traces for OpenTelemetry: spans of enqueues, attempts and requests of bodies, sent to a collector by OTLP over HTTP.
//!
//! a step ends → its span → the SDK's batch → `send` on the SDK's own thread
//!
//! Invariant: a span is made only of a step that is sampled. A collector that is slow or away costs spans, never time of a worker. No span
//! holds arguments, results or error messages, but for what a body itself puts into its own spans.

use std::{
    borrow::Cow,
    env, fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use opentelemetry::{
    InstrumentationScope, KeyValue, SpanId, TraceFlags, TraceId,
    trace::{Link, SpanContext, SpanKind, Status, TraceState},
};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor},
};
use taskhost_core::{
    observe::{Attempt, Event, Observer, Used},
    task::{Clock, Millis, Outcome, QueueName, SystemClock, TaskId, TaskName},
    trace::{GuestEvent, GuestSpan, Sampling, Span, TraceContext, Within},
};

mod send;

use send::Sender;

/// How long the end of a process waits for the last spans.
const LAST: Duration = Duration::from_secs(5);

/// Makes spans and hands them to the collector.
pub struct Traces {
    sampling: Sampling,
    processor: BatchSpanProcessor,
    scope: InstrumentationScope,
}

impl fmt::Debug for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Traces").field("sampling", &self.sampling).finish_non_exhaustive()
    }
}

impl Traces {
    /// As the standard `OTEL_…` variables say. `None` if no collector is named: neither `OTEL_EXPORTER_OTLP_ENDPOINT` nor
    /// `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` is set, and `OTEL_TRACES_EXPORTER` is not `otlp`.
    pub fn from_environment() -> Result<Option<Arc<Self>>, String> {
        let variable = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let exporter = variable("OTEL_TRACES_EXPORTER");
        let names_collector =
            ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"].into_iter().any(|name| variable(name).is_some());
        match exporter.as_deref() {
            _ if variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) => return Ok(None),
            Some("none") => return Ok(None),
            Some("otlp") => {}
            Some(other) => return Err(format!("OTEL_TRACES_EXPORTER: `otlp` or `none` is wanted here: `{other}`")),
            None if !names_collector => return Ok(None),
            None => {}
        }
        let sampling = sampling(variable("OTEL_TRACES_SAMPLER").as_deref(), variable("OTEL_TRACES_SAMPLER_ARG").as_deref())?;
        let certificate = variable("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE").or_else(|| variable("OTEL_EXPORTER_OTLP_CERTIFICATE"));
        let sender = Sender::new(certificate.as_deref())?;
        let exporter = SpanExporter::builder().with_http().with_protocol(Protocol::HttpBinary).with_http_client(sender).build();
        let exporter = exporter.map_err(|error| format!("the OTEL_EXPORTER_OTLP_… variables can't be used: {error}"))?;
        let mut processor = BatchSpanProcessor::builder(exporter).build();
        let named = variable("OTEL_SERVICE_NAME").is_some()
            || variable("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|attributes| attributes.contains("service.name="));
        let resource = Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
        let resource = if named { resource } else { resource.with_service_name("taskhost") };
        processor.set_resource(&resource.build());
        let scope = InstrumentationScope::builder("taskhost").with_version(env!("CARGO_PKG_VERSION")).build();
        Ok(Some(Arc::new(Self { sampling, processor, scope })))
    }

    pub fn sampling(&self) -> Sampling {
        self.sampling
    }

    /// The span of a step that comes with this trace, if the step is sampled.
    pub fn span(&self, parent: Option<TraceContext>) -> Option<Span> {
        self.sampling.span(parent, fastrand::f64)
    }

    /// A task was enqueued, or was not.
    pub fn enqueued(&self, span: Span, queue: &QueueName, task: &TaskName, id: &TaskId, took: Duration, is_failed: bool) {
        let attributes = vec![
            KeyValue::new("messaging.system", "taskhost"),
            KeyValue::new("messaging.operation.type", "send"),
            KeyValue::new("messaging.destination.name", queue.to_string()),
            KeyValue::new("messaging.message.id", id.to_string()),
            KeyValue::new("taskhost.task", task.to_string()),
        ];
        let status = if is_failed { Status::error("not enqueued") } else { Status::Unset };
        self.end(span, SpanKind::Producer, format!("enqueue {queue}"), ago(took), took, attributes, status);
    }

    /// Sends what is not sent yet, for a few seconds at most. Blocks.
    pub fn finish(&self) {
        if let Err(error) = self.processor.shutdown_with_timeout(LAST) {
            tracing::warn!(%error, "the last spans were not sent");
        }
    }

    fn attempt_ended(&self, attempt: &Attempt<'_>, span: Span, outcome: Option<&Outcome>, used: Used, within: &Within) {
        let mut attributes = vec![
            KeyValue::new("messaging.system", "taskhost"),
            KeyValue::new("messaging.operation.type", "process"),
            KeyValue::new("messaging.destination.name", attempt.queue.to_string()),
            KeyValue::new("messaging.message.id", attempt.id.to_string()),
            KeyValue::new("taskhost.task", attempt.task.to_string()),
            KeyValue::new("taskhost.attempt", i64::from(attempt.number)),
            KeyValue::new("taskhost.worker", attempt.worker.to_owned()),
            KeyValue::new("taskhost.plugin", attempt.code.plugin.clone()),
            KeyValue::new("taskhost.plugin.version", attempt.code.version.clone()),
            KeyValue::new("taskhost.plugin.digest", attempt.code.digest.clone()),
            KeyValue::new("taskhost.cpu_us", whole(used.cpu.as_micros())),
            KeyValue::new("taskhost.memory", whole(u128::from(used.memory))),
        ];
        let failure = match outcome {
            Some(Outcome::Done { .. }) => None,
            Some(Outcome::Failed { error, .. }) => Some(error.kind.as_str()),
            Some(Outcome::HostFault { .. }) => Some("handed-back"),
            None => Some("dropped"),
        };
        attributes.extend(failure.map(|kind| KeyValue::new("error.type", kind)));
        if within.dropped > 0 {
            attributes.push(KeyValue::new("taskhost.spans.dropped", i64::from(within.dropped)));
        }
        let status = failure.map_or(Status::Unset, Status::error);
        let name = format!("attempt {}", attempt.queue);
        self.end(span, SpanKind::Consumer, name, ago(used.wall), used.wall, attributes, status);
        for GuestSpan { span, name, fields, events, error, began, took } in &within.spans {
            let event =
                |event: &GuestEvent| opentelemetry::trace::Event::new(event.name.clone(), at(event.at), attributes_of(&event.fields), 0);
            let mut told = SpanEvents::default();
            told.events = events.iter().map(event).collect();
            let status = error.as_ref().map_or(Status::Unset, |error| Status::error(error.clone()));
            let (kind, start) = (SpanKind::Internal, at(*began));
            self.processor
                .on_end(SpanData { events: told, ..self.data(*span, kind, name.clone(), start, *took, attributes_of(fields), status) });
        }
        for request in &within.requests {
            let mut attributes = vec![
                KeyValue::new("http.request.method", request.method.clone()),
                KeyValue::new("server.address", request.host.clone()),
                KeyValue::new("server.port", i64::from(request.port)),
            ];
            attributes.extend(request.status.map(|status| KeyValue::new("http.response.status_code", i64::from(status))));
            let failed = request.status.is_none_or(|status| status >= 400);
            let status = if failed { Status::error("") } else { Status::Unset };
            self.end(request.span, SpanKind::Client, request.method.clone(), at(request.began), request.took, attributes, status);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a span has these parts")]
    fn end(
        &self,
        span: Span,
        span_kind: SpanKind,
        name: String,
        start_time: SystemTime,
        took: Duration,
        attributes: Vec<KeyValue>,
        status: Status,
    ) {
        self.processor.on_end(self.data(span, span_kind, name, start_time, took, attributes, status));
    }

    #[expect(clippy::too_many_arguments, reason = "a span has these parts")]
    fn data(
        &self,
        span: Span,
        span_kind: SpanKind,
        name: String,
        start_time: SystemTime,
        took: Duration,
        attributes: Vec<KeyValue>,
        status: Status,
    ) -> SpanData {
        let mut links = SpanLinks::default();
        // Collectors that put the consumer into a trace of its own find the producer by the link.
        if let (SpanKind::Consumer, Some(parent)) = (&span_kind, &span.parent) {
            links.links.push(Link::with_context(context(parent, true)));
        }
        SpanData {
            span_context: context(&span.own, false),
            parent_span_id: span.parent.map_or(SpanId::INVALID, |parent| SpanId::from_bytes(parent.span.to_be_bytes())),
            parent_span_is_remote: span.parent.is_some(),
            span_kind,
            name: Cow::Owned(name),
            start_time,
            end_time: start_time + took,
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links,
            status,
            instrumentation_scope: self.scope.clone(),
        }
    }
}

fn attributes_of(fields: &[(String, String)]) -> Vec<KeyValue> {
    fields.iter().map(|(name, value)| KeyValue::new(name.clone(), value.clone())).collect()
}

impl Observer for Traces {
    fn on(&self, event: &Event<'_>) {
        if let Event::AttemptEnded { attempt, outcome, used, within } = *event
            && let Some(span) = attempt.span
        {
            self.attempt_ended(&attempt, *span, outcome, used, within);
        }
    }

    fn wants_calls(&self) -> bool {
        false
    }
}

fn context(of: &TraceContext, is_remote: bool) -> SpanContext {
    let (trace, span) = (TraceId::from_bytes(of.trace.to_be_bytes()), SpanId::from_bytes(of.span.to_be_bytes()));
    let flags = if of.is_sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
    SpanContext::new(trace, span, flags, is_remote, TraceState::NONE)
}

fn at(time: Millis) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(time.0)
}

fn ago(span: Duration) -> SystemTime {
    at(SystemClock.now()) - span
}

fn whole(number: u128) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// `OTEL_TRACES_SAMPLER` and its argument, as the specification of the SDK's environment variables has them.
fn sampling(sampler: Option<&str>, argument: Option<&str>) -> Result<Sampling, String> {
    let ratio = || match argument {
        None => Ok(1.0),
        Some(text) => text
            .trim()
            .parse::<f64>()
            .ok()
            .filter(|ratio| (0.0..=1.0).contains(ratio))
            .ok_or_else(|| format!("OTEL_TRACES_SAMPLER_ARG: a number from 0 to 1 is wanted here: `{text}`")),
    };
    let (follows_parents, ratio) = match sampler.unwrap_or("parentbased_always_on") {
        "always_on" => (false, 1.0),
        "always_off" => (false, 0.0),
        "traceidratio" => (false, ratio()?),
        "parentbased_always_on" => (true, 1.0),
        "parentbased_always_off" => (true, 0.0),
        "parentbased_traceidratio" => (true, ratio()?),
        other => {
            return Err(format!(
                "OTEL_TRACES_SAMPLER: `always_on`, `always_off`, `traceidratio`, or one of them behind `parentbased_` is wanted here: `{other}`"
            ));
        }
    };
    Ok(Sampling { follows_parents, ratio })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samplers_are_read_as_the_specification_names_them() {
        let read = |sampler, argument| sampling(sampler, argument).map(|sampling| (sampling.follows_parents, sampling.ratio));
        assert_eq!(read(None, None), Ok((true, 1.0)));
        assert_eq!(read(Some("parentbased_traceidratio"), Some("0.01")), Ok((true, 0.01)));
        assert_eq!(read(Some("traceidratio"), None), Ok((false, 1.0)));
        assert!(read(Some("traceidratio"), Some("2")).unwrap_err().contains("OTEL_TRACES_SAMPLER_ARG"));
        assert!(read(Some("sometimes"), None).unwrap_err().contains("`sometimes`"));
    }
}
