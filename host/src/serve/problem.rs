//! Errors as `application/problem+json` (RFC 9457).
//!
//! Invariant: a text of others passes `text::clean`, and the cause of a fault of ours stays in the log.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};
use taskhost_core::{catalogue::ArgumentsError, text::clean, workflow::PlanError};

use crate::ops::{BrokerError, OpsError, Unchanged};

/// Why a request is not answered as it was asked.
#[derive(Debug, Clone)]
pub(super) struct Problem(Box<Parts>);

#[derive(Debug, Clone)]
struct Parts {
    kind: &'static Kind,
    detail: String,
    more: Map<String, Value>,
    retry_after: Option<u64>,
    /// Further headers.
    headers: Vec<(header::HeaderName, HeaderValue)>,
}

/// One type of problem. Its page is `/problems/NAME`.
#[derive(Debug)]
pub(super) struct Kind {
    pub(super) name: &'static str,
    pub(super) status: StatusCode,
    pub(super) title: &'static str,
}

macro_rules! kinds {
    ($($const:ident = $name:literal $status:ident $title:literal;)*) => {
        $(pub(super) static $const: Kind = Kind { name: $name, status: StatusCode::$status, title: $title };)*
        /// All types.
        pub(super) static KINDS: &[&Kind] = &[$(&$const),*];
    };
}

kinds! {
    BAD_REQUEST = "bad-request" BAD_REQUEST "The request can't be read";
    UNAUTHORIZED = "unauthorized" UNAUTHORIZED "A token is needed";
    FORBIDDEN = "forbidden" FORBIDDEN "The token may not do this";
    READ_ONLY = "read-only" FORBIDDEN "This server changes nothing";
    CROSS_ORIGIN = "cross-origin" FORBIDDEN "A page of another origin asks";
    WRONG_HOST = "wrong-host" FORBIDDEN "The name of this server is another one";
    NOT_FOUND = "not-found" NOT_FOUND "There is no such resource";
    UNKNOWN_TASK = "unknown-task" NOT_FOUND "There is no such task";
    UNKNOWN_FLOW = "unknown-flow" NOT_FOUND "There is no such flow";
    UNKNOWN_QUEUE = "unknown-queue" NOT_FOUND "There is no such queue";
    UNKNOWN_SCHEDULE = "unknown-schedule" NOT_FOUND "There is no such schedule";
    UNKNOWN_WORKER = "unknown-worker" NOT_FOUND "There is no such worker";
    UNKNOWN_PLUGIN = "unknown-plugin" NOT_FOUND "There is no such plugin";
    METHOD_NOT_ALLOWED = "method-not-allowed" METHOD_NOT_ALLOWED "The resource does not take this method";
    WRONG_STATE = "wrong-state" CONFLICT "The state of the resource does not allow this";
    STALE_CURSOR = "stale-cursor" CONFLICT "The cursor is of another server, or of another time";
    DUPLICATE = "duplicate" CONFLICT "Another task holds the unique key";
    AMBIGUOUS = "ambiguous-id" CONFLICT "Several queues have this id";
    TOO_LARGE = "too-large" PAYLOAD_TOO_LARGE "The body is too large";
    WRONG_TYPE = "wrong-content-type" UNSUPPORTED_MEDIA_TYPE "The body is of another type";
    INVALID = "invalid" UNPROCESSABLE_ENTITY "A value is not allowed";
    INVALID_ARGUMENTS = "invalid-arguments" UNPROCESSABLE_ENTITY "The body does not take these arguments";
    UNKNOWN_BODY = "unknown-body" UNPROCESSABLE_ENTITY "No worker offers this task";
    KEY_REUSED = "idempotency-key-reused" UNPROCESSABLE_ENTITY "The idempotency key was used for another task";
    TOO_MANY = "too-many-requests" TOO_MANY_REQUESTS "Too many requests";
    TOO_SLOW = "too-slow" REQUEST_TIMEOUT "The body did not come in time";
    INTERNAL = "internal" INTERNAL_SERVER_ERROR "This server failed";
    UNAVAILABLE = "broker-unavailable" SERVICE_UNAVAILABLE "The broker does not answer";
}

impl Problem {
    pub(super) fn new(kind: &'static Kind, detail: impl Into<String>) -> Self {
        Self(Box::new(Parts { kind, detail: detail.into(), more: Map::new(), retry_after: None, headers: Vec::new() }))
    }

    /// With one more member.
    pub(super) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.more.insert(name.to_owned(), value.into());
        self
    }

    /// With `Retry-After`, in seconds.
    pub(super) fn retry_after(mut self, seconds: u64) -> Self {
        self.0.retry_after = Some(seconds);
        self
    }

    pub(super) fn header(mut self, name: header::HeaderName, value: HeaderValue) -> Self {
        self.0.headers.push((name, value));
        self
    }

    pub(super) fn detail(&self) -> &str {
        &self.0.detail
    }

    pub(super) fn kind(&self) -> &'static Kind {
        self.0.kind
    }
}

impl Problem {
    pub(super) fn to_json(&self) -> Value {
        let Parts { kind, detail, more, .. } = &*self.0;
        let mut body = Map::new();
        body.insert("type".into(), json!(format!("/problems/{}", kind.name)));
        body.insert("title".into(), json!(kind.title));
        body.insert("status".into(), json!(kind.status.as_u16()));
        body.insert("detail".into(), json!(clean(detail)));
        body.extend(more.clone());
        Value::Object(body)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.to_json().to_string()));
        let Parts { kind, detail, retry_after, headers, .. } = *self.0;
        // The loop that connects says by itself that the broker is away.
        if kind.status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::warn!(problem = kind.name, "HTTP: {}", clean(&detail));
        }
        *response.status_mut() = kind.status;
        let set = response.headers_mut();
        set.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        set.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = retry_after {
            set.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        for (name, value) in headers {
            set.insert(name, value);
        }
        response
    }
}

/// When a client may try again after a fault that passes.
const RETRY_AFTER: u64 = 2;

impl From<BrokerError> for Problem {
    fn from(error: BrokerError) -> Self {
        let text = error.to_string();
        match error {
            // The step may have happened.
            BrokerError::Unavailable(_) => Self::new(&UNAVAILABLE, text).with("fate", "unknown").retry_after(RETRY_AFTER),
            BrokerError::Refused(_) => Self::new(&UNAVAILABLE, text).retry_after(RETRY_AFTER),
            BrokerError::Invalid(text) => Self::new(&INVALID, text),
            BrokerError::Ambiguous { queues, .. } => {
                let queues: Vec<_> = queues.iter().map(ToString::to_string).collect();
                Self::new(&AMBIGUOUS, "several queues have a task of this id: add `queue` to the query").with("queues", queues)
            }
            BrokerError::Misconfigured(_) | BrokerError::Gone(_) | BrokerError::Corrupt(_) => Self::new(&INTERNAL, text),
        }
    }
}

impl From<OpsError> for Problem {
    fn from(error: OpsError) -> Self {
        let text = error.to_string();
        match error {
            OpsError::NoSuchTask { .. } | OpsError::Forgotten(_) | OpsError::Unchanged(Unchanged::NotFound) => {
                Self::new(&UNKNOWN_TASK, text)
            }
            OpsError::Unchanged(Unchanged::Duplicate(holder)) => Self::new(&DUPLICATE, text).with("holder", holder.as_str()),
            OpsError::Unchanged(Unchanged::Ended(state) | Unchanged::NotRetryable(state) | Unchanged::NotEditable(state)) => {
                Self::new(&WRONG_STATE, text).with("state", state.as_str())
            }
            OpsError::Unchanged(Unchanged::Running) => Self::new(&WRONG_STATE, "it runs: cancel it first").with("state", "running"),
            OpsError::NotEnded { .. } | OpsError::FilesUnknown(_) | OpsError::ScheduleStandsInFile { .. } | OpsError::Plugins(_) => {
                Self::new(&WRONG_STATE, text)
            }
            OpsError::NoSuchFlow { .. } => Self::new(&UNKNOWN_FLOW, text),
            OpsError::FlowUnchanged { .. } => Self::new(&WRONG_STATE, text),
            OpsError::Flow(PlanError { at, .. }) => Self::new(&INVALID, text).with("pointer", at),
            OpsError::FlowArguments { at, why } => Self::from(why).with("pointer", at),
            OpsError::NoSuchQueue { .. } => Self::new(&UNKNOWN_QUEUE, text),
            OpsError::NoSuchSchedule(_) => Self::new(&UNKNOWN_SCHEDULE, text),
            OpsError::NoSuchWorker(_) => Self::new(&UNKNOWN_WORKER, text),
            OpsError::NoSuchPlugin(_) => Self::new(&UNKNOWN_PLUGIN, text),
            OpsError::Arguments(error) => error.into(),
            OpsError::Request(_) | OpsError::Schedule(_) => Self::new(&INVALID, text),
            OpsError::NoSuchBody { why, .. } => why.into(),
            OpsError::BulkBroken { error, .. } | OpsError::Broker(error) => error.into(),
            OpsError::BulkUnreadable { .. } => Self::new(&BAD_REQUEST, text),
            OpsError::Machine(_) => Self::new(&INTERNAL, text),
        }
    }
}

impl From<ArgumentsError> for Problem {
    fn from(error: ArgumentsError) -> Self {
        let text = error.to_string();
        match error {
            ArgumentsError::UnknownTask { near, .. } => Self::new(&UNKNOWN_BODY, text).with("near", near),
            ArgumentsError::Type { at, why } => Self::new(&INVALID_ARGUMENTS, why).with("pointer", format!("/args{at}")),
            ArgumentsError::Count(_) | ArgumentsError::Name(_) | ArgumentsError::Json(_) => {
                Self::new(&INVALID_ARGUMENTS, text).with("pointer", "/args")
            }
        }
    }
}
