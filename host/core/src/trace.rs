//! The place of an attempt in a distributed trace, as W3C Trace Context writes it (<https://www.w3.org/TR/trace-context/>).
//!
//! A producer's `traceparent` travels as a header of the task. An attempt that is traced gets a span of its own below it, and everything that
//! the body starts gets the attempt's span as its parent.

use std::{fmt, str::FromStr, time::Duration};

use crate::task::Millis;

/// The header with the trace and the span of the sender.
pub const TRACEPARENT: &str = "traceparent";
/// The header in which tracing systems say more of the span that `traceparent` names.
pub const TRACESTATE: &str = "tracestate";
/// The header with values that belong to the whole trace (<https://www.w3.org/TR/baggage/>).
pub const BAGGAGE: &str = "baggage";

/// A span of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// Not zero.
    pub trace: u128,
    /// Not zero.
    pub span: u64,
    pub is_sampled: bool,
}

impl TraceContext {
    /// The first span of a new trace.
    pub fn root(is_sampled: bool) -> Self {
        Self { trace: uuid::Uuid::new_v4().as_u128(), span: fresh_span(), is_sampled }
    }

    /// A new span below this one.
    pub fn child(&self) -> Self {
        Self { span: fresh_span(), ..*self }
    }

    /// The trace's number as 32 hexadecimal digits.
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace)
    }
}

/// Random, and not zero: the version's bits of the UUID are set.
fn fresh_span() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.is_sampled))
    }
}

impl FromStr for TraceContext {
    type Err = ();

    /// A `traceparent` of any version, read as version 00 is (section 4.3 of the recommendation).
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.trim().splitn(5, '-');
        let mut hex = |digits: usize| {
            let part = parts.next()?;
            let is_hex = part.len() == digits && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            is_hex.then(|| u128::from_str_radix(part, 16).ok()).flatten()
        };
        let read = || Some((hex(2)?, hex(32)?, hex(16)?, hex(2)?));
        let Some((version, trace, span, flags)) = { read }() else { return Err(()) };
        let rest = parts.next();
        let is_valid = version != 0xff && (version > 0 || rest.is_none()) && trace != 0 && span != 0;
        let span = u64::try_from(span).map_err(|_| ())?;
        if is_valid { Ok(Self { trace, span, is_sampled: flags & 1 == 1 }) } else { Err(()) }
    }
}

/// The span of an attempt, or of another step, and the span above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub own: TraceContext,
    /// `None`: the trace begins here.
    pub parent: Option<TraceContext>,
}

impl Span {
    /// A span below `parent` that is sampled.
    pub fn below(parent: TraceContext) -> Self {
        Self { own: TraceContext { is_sampled: true, ..parent.child() }, parent: Some(parent) }
    }

    /// The first span of a new trace that is sampled.
    pub fn first() -> Self {
        Self { own: TraceContext::root(true), parent: None }
    }
}

/// Which attempts and enqueues are traced.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Whether a step that comes with a trace is traced if that is sampled, and else not.
    pub follows_parents: bool,
    /// The share of the other steps that are traced, from 0 to 1.
    pub ratio: f64,
}

impl Sampling {
    /// The span of a step, below the trace that it came with. `draw` gives a number from 0 to 1.
    pub fn span(&self, parent: Option<TraceContext>, draw: impl FnOnce() -> f64) -> Option<Span> {
        match parent {
            Some(parent) if self.follows_parents => parent.is_sampled.then(|| Span::below(parent)),
            parent if self.ratio > 0.0 && draw() < self.ratio => Some(parent.map_or_else(Span::first, Span::below)),
            _ => None,
        }
    }
}

/// A request that a body has sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestRequest {
    pub span: Span,
    pub method: String,
    pub host: String,
    pub port: u16,
    /// The status of the answer; `None` if none came.
    pub status: Option<u16>,
    pub began: Millis,
    pub took: Duration,
}

/// A step of a body, as the body tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestSpan {
    pub span: Span,
    pub name: String,
    pub fields: Vec<(String, String)>,
    pub events: Vec<GuestEvent>,
    /// Why the step failed.
    pub error: Option<String>,
    pub began: Millis,
    pub took: Duration,
}

/// Something that happened within a [`GuestSpan`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestEvent {
    pub name: String,
    pub fields: Vec<(String, String)>,
    pub at: Millis,
}

/// What a traced attempt did, below its own span.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Within {
    pub requests: Vec<GuestRequest>,
    /// In the order in which they began.
    pub spans: Vec<GuestSpan>,
    /// How many requests, spans and events are left out, because there were too many.
    pub dropped: u32,
}

/// The `traceparent` among headers, if it is a valid one.
pub fn of_headers(headers: &[(String, String)]) -> Option<TraceContext> {
    headers.iter().find(|(name, _)| name == TRACEPARENT)?.1.parse().ok()
}

/// Sets the header `traceparent`. A new one comes first, because Redis stores the headers of a trace in cheap fields only if they come first.
pub fn set_traceparent(headers: &mut Vec<(String, String)>, context: &TraceContext) {
    match headers.iter_mut().find(|(name, _)| name == TRACEPARENT) {
        Some((_, value)) => *value = context.to_string(),
        None => headers.insert(0, (TRACEPARENT.to_owned(), context.to_string())),
    }
}

/// Takes over trace and baggage of a parent that these headers do not have themselves.
pub fn inherit(headers: &mut Vec<(String, String)>, parent: &[(String, String)]) {
    for name in [BAGGAGE, TRACEPARENT] {
        if let Some(header) = parent.iter().find(|(own, _)| own == name)
            && !headers.iter().any(|(own, _)| own == name)
        {
            headers.insert(0, header.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_is_read_as_the_recommendation_says() {
        let context: TraceContext = GOOD.parse().expect("valid");
        assert_eq!((context.to_string().as_str(), context.is_sampled), (GOOD, true));
        let later: TraceContext =
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03-what-comes-later".parse().expect("a later version");
        assert_eq!(later, context);
        for odd in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-+1",
        ] {
            assert_eq!(odd.parse::<TraceContext>(), Err(()), "{odd}");
        }
    }

    #[test]
    fn a_child_has_the_trace_of_its_parent_and_a_span_of_its_own() {
        let parent: TraceContext = GOOD.parse().expect("valid");
        let child = parent.child();
        assert_eq!((child.trace, child.is_sampled), (parent.trace, true));
        assert_ne!(child.span, parent.span);
        assert_eq!(child.to_string().parse(), Ok(child));
    }

    #[test]
    fn a_step_is_traced_as_its_parent_or_by_chance() {
        let parent = |flags: &str| format!("{}{flags}", &GOOD[..GOOD.len() - 2]).parse::<TraceContext>().ok();
        let follows = Sampling { follows_parents: true, ratio: 0.5 };
        assert!(follows.span(parent("01"), || 0.9).is_some_and(|span| span.parent == parent("01")));
        assert_eq!(follows.span(parent("00"), || 0.1), None);
        assert!(follows.span(None, || 0.1).is_some_and(|span| span.parent.is_none() && span.own.is_sampled));
        assert_eq!(follows.span(None, || 0.9), None);
        let by_chance = Sampling { follows_parents: false, ratio: 0.5 };
        assert_eq!(by_chance.span(parent("01"), || 0.9), None);
        assert!(by_chance.span(parent("00"), || 0.1).is_some_and(|span| span.own.is_sampled));
    }

    #[test]
    fn children_inherit_trace_and_baggage_in_front() {
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let parent = [header("x", "1"), header(TRACEPARENT, GOOD), header(BAGGAGE, "batch.id=7")];
        let mut own = vec![header("y", "2")];
        inherit(&mut own, &parent);
        assert_eq!(own, [header(TRACEPARENT, GOOD), header(BAGGAGE, "batch.id=7"), header("y", "2")]);
        let mut set = vec![header(BAGGAGE, "own=1")];
        inherit(&mut set, &parent);
        assert_eq!(set, [header(TRACEPARENT, GOOD), header(BAGGAGE, "own=1")]);
    }
}
