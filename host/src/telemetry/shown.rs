//! The formats of the log. All fields pass through `text`, so that none steers a terminal or looks like another line.

use std::fmt::{self, Debug, Write};

use tracing::{Event, Subscriber, field::Field};
use tracing_subscriber::{
    field::{RecordFields, Visit},
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

use taskhost_core::text;

/// Any JSON format of events.
pub(super) struct Json<F>(pub(super) F);

impl<S, N, F> FormatEvent<S, N> for Json<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        self.0.format_event(context, Writer::new(&mut text::CleanJson(writer)), event)
    }
}

/// `message name=value …`, for people.
#[derive(Debug)]
pub(super) struct Fields;

impl<'writer> FormatFields<'writer> for Fields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut row = Row { writer, empty: true, written: Ok(()) };
        fields.record(&mut row);
        row.written
    }
}

struct Row<'writer> {
    writer: Writer<'writer>,
    empty: bool,
    written: fmt::Result,
}

impl Row<'_> {
    fn write(&mut self, name: &str, value: &dyn Debug) -> fmt::Result {
        if !std::mem::take(&mut self.empty) {
            self.writer.write_char(' ')?;
        }
        if name != "message" && self.writer.has_ansi_escapes() {
            write!(self.writer, "\u{1b}[3m{name}\u{1b}[0m\u{1b}[2m=\u{1b}[0m")?;
        } else if name != "message" {
            write!(self.writer, "{name}=")?;
        }
        write!(text::CleanRecord(&mut self.writer), "{value:?}")
    }
}

impl Visit for Row<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" { self.record_debug(field, &format_args!("{value}")) } else { self.record_debug(field, &value) }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let name = field.name();
        // A library that logs through the `log` crate adds its place in the source. It has become the event's own place.
        if self.written.is_ok() && !name.starts_with("log.") {
            self.written = self.write(name.strip_prefix("r#").unwrap_or(name), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Page {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    const HOSTILE: &str = "a\u{9b}2J\u{1b}[31m\u{7f}\u{202e}\u{85}b\n2026-01-01T00:00:00Z ERROR forged";

    fn said() {
        let span = tracing::info_span!("attempt", of = HOSTILE, by = %HOSTILE);
        let _inside = span.enter();
        tracing::warn!(plain = HOSTILE, shown = %HOSTILE, number = 3, "{HOSTILE}");
    }

    fn check(page: &Page, records: usize) -> String {
        let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
        for c in ['\u{9b}', '\u{1b}', '\u{7f}', '\u{202e}', '\u{85}'] {
            assert!(!text.contains(c), "{c:?} in {text:?}");
        }
        let begun = text.lines().filter(|line| !line.starts_with("    ")).count();
        assert_eq!(begun, records, "{text}");
        text
    }

    #[test]
    fn the_log_for_people_holds_no_control_character_of_a_guest() {
        let page = Page::default();
        let log = tracing_subscriber::fmt().with_writer(page.clone()).with_ansi(false).compact().fmt_fields(Fields).finish();
        tracing::subscriber::with_default(log, said);
        let text = check(&page, 1);
        assert!(text.contains("a\\u{9b}2J") && text.contains("number=3") && text.contains("of="), "{text}");
    }

    #[test]
    fn the_json_log_holds_no_control_character_of_a_guest_and_the_same_values() {
        let page = Page::default();
        let log = tracing_subscriber::fmt().with_writer(page.clone()).json().flatten_event(true).map_event_format(Json).finish();
        tracing::subscriber::with_default(log, said);
        let text = check(&page, 1);
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&line["message"], &line["shown"], &line["number"]), (&HOSTILE.into(), &HOSTILE.into(), &3.into()));
        assert_eq!((&line["span"]["of"], &line["span"]["by"]), (&HOSTILE.into(), &HOSTILE.into()));
    }
}
