//! What a traced attempt did below its own span: the steps that its body tells of, and the requests that it sent.
//!
//! Invariant: a span is below the youngest one that is open. What is over a limit is counted, and changes nothing for the body.

use std::time::Instant;

use parking_lot::Mutex;

use super::sentence;
use taskhost_core::{
    task::{Clock, SystemClock},
    trace::{GuestEvent, GuestRequest, GuestSpan, Span, TraceContext, Within},
};

/// The most spans of an attempt that are kept, and the most requests.
const MOST: usize = 128;
/// The most events of an attempt that are kept.
const EVENTS: usize = 256;
/// The most fields of one span or event.
const FIELDS: usize = 16;
/// The most bytes of a name, and of a value or a reason.
const NAME: usize = 128;
const VALUE: usize = 512;

pub(super) struct Spans {
    /// The attempt's own span.
    above: TraceContext,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    requests: Vec<GuestRequest>,
    /// With the time of the beginning while it is open.
    spans: Vec<(GuestSpan, Option<Instant>)>,
    events: usize,
    dropped: u32,
    bytes: usize,
}

impl Spans {
    pub(super) fn new(above: TraceContext) -> Self {
        Self { above, kept: Mutex::default() }
    }

    /// A span below the youngest open one.
    pub(super) fn below(&self) -> Span {
        self.kept.lock().below(self.above)
    }

    /// Begins a span. Its number counts from 1; 0 if it is not kept.
    pub(super) fn start(&self, name: &str, fields: Vec<(String, String)>) -> u32 {
        let mut kept = self.kept.lock();
        if kept.spans.len() >= MOST {
            kept.dropped = kept.dropped.saturating_add(1);
            return 0;
        }
        let (name, fields) = kept.texts(name, fields);
        let span = kept.below(self.above);
        let begun =
            GuestSpan { span, name, fields, events: Vec::new(), error: None, began: SystemClock.now(), took: std::time::Duration::ZERO };
        kept.spans.push((begun, Some(Instant::now())));
        u32::try_from(kept.spans.len()).unwrap_or(0)
    }

    pub(super) fn event(&self, span: u32, name: &str, fields: Vec<(String, String)>) {
        let mut kept = self.kept.lock();
        let Some(place) = kept.open(span) else { return };
        if kept.events >= EVENTS {
            kept.dropped = kept.dropped.saturating_add(1);
            return;
        }
        let (name, fields) = kept.texts(name, fields);
        kept.events += 1;
        kept.spans[place].0.events.push(GuestEvent { name, fields, at: SystemClock.now() });
    }

    pub(super) fn end(&self, span: u32, error: Option<&str>) {
        let mut kept = self.kept.lock();
        let Some(place) = kept.open(span) else { return };
        let error = error.map(|error| sentence::line(error, VALUE));
        kept.bytes += error.as_ref().map_or(0, String::len);
        let (span, since) = &mut kept.spans[place];
        span.error = error;
        span.took = since.take().map_or(span.took, |since| since.elapsed());
    }

    pub(super) fn requested(&self, request: GuestRequest) {
        let mut kept = self.kept.lock();
        if kept.requests.len() < MOST {
            kept.requests.push(request);
        } else {
            kept.dropped = kept.dropped.saturating_add(1);
        }
    }

    /// Bytes of the guest's text.
    pub(super) fn bytes(&self) -> usize {
        self.kept.lock().bytes
    }

    /// All of it. What is still open ends now.
    pub(super) fn take(&self) -> Within {
        let Kept { requests, spans, dropped, .. } = std::mem::take(&mut *self.kept.lock());
        let ended =
            |(span, since): (GuestSpan, Option<Instant>)| GuestSpan { took: since.map_or(span.took, |since| since.elapsed()), ..span };
        Within { requests, spans: spans.into_iter().map(ended).collect(), dropped }
    }
}

impl Kept {
    fn below(&self, above: TraceContext) -> Span {
        let open = self.spans.iter().rev().find(|(_, since)| since.is_some());
        Span::below(open.map_or(above, |(span, _)| span.span.own))
    }

    /// The place of an open span.
    fn open(&self, span: u32) -> Option<usize> {
        let place = usize::try_from(span).ok()?.checked_sub(1)?;
        self.spans.get(place)?.1.map(|_| place)
    }

    /// A name and fields within the limits.
    fn texts(&mut self, name: &str, mut fields: Vec<(String, String)>) -> (String, Vec<(String, String)>) {
        fields.truncate(FIELDS);
        for (name, value) in &mut fields {
            (*name, *value) = (sentence::line(name, NAME), sentence::line(value, VALUE));
        }
        let name = sentence::line(name, NAME);
        self.bytes += name.len() + fields.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        (name, fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn above() -> TraceContext {
        TraceContext::root(true)
    }

    fn field(name: &str, value: &str) -> Vec<(String, String)> {
        vec![(name.into(), value.into())]
    }

    #[test]
    fn a_span_is_below_the_youngest_open_one() {
        let (above, own) = (above(), |within: &Within, place: usize| within.spans[place].span.own);
        let spans = Spans::new(above);
        let (read, page) = (spans.start("read", Vec::new()), spans.start("page", field("number", "3")));
        let request = spans.below();
        spans.event(page, "retried", field("times", "2"));
        spans.end(page, Some("no\nanswer"));
        spans.event(page, "too late", Vec::new());
        spans.end(page, None);
        let next = spans.start("write", Vec::new());
        spans.end(read, None);
        assert_eq!((read, page, next), (1, 2, 3));
        let within = spans.take();
        let parents: Vec<_> = within.spans.iter().map(|span| span.span.parent.expect("a parent")).collect();
        assert_eq!(parents, [above, own(&within, 0), own(&within, 0)]);
        assert_eq!(request.parent, Some(own(&within, 1)));
        let page = &within.spans[1];
        assert_eq!((page.error.as_deref(), page.events.len(), page.fields.clone()), (Some("no answer"), 1, field("number", "3")));
        assert_eq!(within.spans[2].error, None, "what is still open ends with the attempt");
    }

    #[test]
    fn what_is_over_a_limit_is_counted() {
        let spans = Spans::new(above());
        let last = (0..200).map(|n| spans.start(&format!("{n}"), Vec::new())).last();
        assert_eq!(last, Some(0));
        (0..300).for_each(|_| spans.event(1, "again", Vec::new()));
        for odd in [0, 129, u32::MAX] {
            spans.event(odd, "nobody", Vec::new());
            spans.end(odd, None);
        }
        let long = Spans::new(above());
        long.start(&"x".repeat(1_000), (0..50).map(|n| (format!("{n}"), "v\u{1b}".repeat(1_000))).collect());
        let bytes = long.bytes();
        let (within, long) = (spans.take(), long.take());
        assert_eq!((within.spans.len(), within.spans[0].events.len(), within.dropped), (128, 256, 72 + 44));
        let one = &long.spans[0];
        assert!(one.name.len() < 140 && one.fields.len() == 16 && bytes < 20_000, "{one:?}");
        assert!(one.fields.iter().all(|(_, value)| value.len() < 520 && !value.contains('\u{1b}')), "{one:?}");
    }
}
