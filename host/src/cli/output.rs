//! Prints lines, tables without borders, JSON and ages. Colours only on a terminal, and not with `NO_COLOR`.
//!
//! Invariant: if the reader leaves (`| head`), a command that reads ends quietly. A command that changes things goes on, because it prints
//! through a [`Sink`]. Every text passes through `text`, so no control characters reach a terminal.

use std::{
    env,
    io::{self, IsTerminal, Write},
};

use comfy_table::{Cell, Color, ContentArrangement, Table, presets};
use serde::Serialize;

use super::failure::Failure;
use crate::telemetry;
pub(super) use taskhost_core::text::{clean, clean_lines};
use taskhost_core::units;
use taskhost_core::{
    task::{Millis, State, TaskView, WaitsFor},
    text::clean_json,
};

/// Prints one line to stdout, for a command that reads.
pub(super) fn line(text: &str) -> Result<(), Failure> {
    Ok(write(&clean_lines(text))?)
}

/// Prints JSON as it was written. Control characters are escaped as JSON escapes them.
pub(super) fn json_text(text: &str) -> Result<(), Failure> {
    Ok(write(&clean_json(text))?)
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Prints one line to stderr. If stderr is closed, nobody can be told.
pub(super) fn note(text: &str) {
    telemetry::line(&clean_lines(text));
}

/// Prints the last line of a command that has changed something.
pub(super) fn told(text: &str) -> Result<(), Failure> {
    let mut sink = Sink::default();
    sink.line(text);
    sink.end(Ok(()))
}

/// The stdout of a command that changes things. Neither a reader that leaves nor a full disk ends the change halfway. Lines that could not be
/// printed are counted and reported at the end.
#[derive(Debug, Default)]
pub(super) struct Sink {
    failed: Option<io::Error>,
    untold: usize,
    first: String,
}

impl Sink {
    /// One line, or several.
    pub(super) fn line(&mut self, text: &str) {
        if self.failed.is_none() {
            self.failed = write(&clean_lines(text)).err();
            text.lines().next().unwrap_or_default().clone_into(&mut self.first);
        }
        if self.failed.is_some() {
            self.untold += text.lines().count();
        }
    }

    /// Ends the output after the change, with its result. A reader that has left is not an error.
    pub(super) fn end(self, went: Result<(), Failure>) -> Result<(), Failure> {
        let Some(error) = self.failed.filter(|error| error.kind() != io::ErrorKind::BrokenPipe) else { return went };
        let lines = if self.untold == 1 { "1 line".to_owned() } else { format!("{} lines", self.untold) };
        let text = format!("{lines} could not be written to stdout ({error}), from `{}` on; is the disk full?", short(&self.first, 200));
        match went {
            Ok(()) => Err(Failure::Failed(format!("all of it is done, but {text}"))),
            Err(failure) => Err(failure.and(&text)),
        }
    }
}

/// Pretty on a terminal, otherwise on one line for `jq` and `read`.
pub(super) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = if io::stdout().is_terminal() { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) };
    json_text(&text.map_err(|error| Failure::Failed(format!("failed to write as JSON: {error}")))?)
}

/// Whether stdout takes colours.
fn colours() -> bool {
    io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// A table without borders. Without rows it prints nothing.
pub(super) struct Rows {
    table: Table,
    empty: bool,
}

impl Rows {
    pub(super) fn new(header: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        // Lines are not cut: a narrow terminal wraps them, and a pipe gets whole lines.
        table.set_content_arrangement(ContentArrangement::Disabled);
        if colours() {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table.set_header(header.iter().map(Cell::new));
        Self { table, empty: true }
    }

    pub(super) fn add(&mut self, cells: Vec<Cell>) {
        self.table.add_row(cells);
        self.empty = false;
    }

    /// Prints to stdout. Without rows it prints `nothing` to stderr.
    pub(super) fn print(self, nothing: &str) -> Result<(), Failure> {
        if self.empty {
            note(nothing);
            return Ok(());
        }
        // The style pads every cell by a space on both sides. The left edge and line ends need none.
        let text: Vec<String> = self.table.lines().map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned()).collect();
        // The cells are clean, and the colours are ours.
        Ok(write(&text.join("\n"))?)
    }
}

/// A cell of plain text from anybody.
pub(super) fn cell(text: impl std::fmt::Display) -> Cell {
    Cell::new(clean(&text.to_string()))
}

/// A cell for a number, aligned right; empty for zero.
pub(super) fn count(number: u64) -> Cell {
    if number == 0 { Cell::new("-") } else { Cell::new(number) }
}

/// A state in its colour.
pub(super) fn state(state: State) -> Cell {
    let colour = match state {
        State::Succeeded => Color::Green,
        State::Dead => Color::Red,
        State::Running => Color::Cyan,
        State::Parked | State::Scheduled => Color::Yellow,
        State::Ready | State::Cancelled => return Cell::new(state.as_str()),
    };
    Cell::new(state.as_str()).fg(colour)
}

/// At most `most` characters of one line.
pub(super) fn short(text: &str, most: usize) -> String {
    let text = clean(text);
    if text.chars().count() <= most { text } else { text.chars().take(most.saturating_sub(1)).chain(['…']).collect() }
}

/// How long ago, in one unit: `3s`, `5m`, `2h`, `4d`.
pub(super) fn age(of: Millis, now: Millis) -> String {
    let shown = units::show_duration(now.since(of));
    let first = shown.split(' ').next().unwrap_or_default();
    if first.ends_with("ms") { "now".to_owned() } else { first.to_owned() }
}

/// How long ago, as a phrase: `3s ago` or `now`.
pub(super) fn ago(of: Millis, now: Millis) -> String {
    match age(of, now).as_str() {
        "now" | "0s" => "now".to_owned(),
        age => format!("{age} ago"),
    }
}

/// How long until, in one unit; `now` if it is past.
pub(super) fn until(when: Millis, now: Millis) -> String {
    match age(now, when).as_str() {
        "now" | "0s" => "now".to_owned(),
        rest => format!("in {rest}"),
    }
}

/// An instant for people, in UTC.
pub(super) fn instant(at: Millis) -> String {
    i64::try_from(at.0)
        .ok()
        .and_then(chrono::DateTime::from_timestamp_millis)
        .map_or_else(|| at.0.to_string(), |time| time.format("%Y-%m-%d %H:%M:%S UTC").to_string())
}

/// A task in a few words: its result, its error, or its place.
pub(super) fn gist(view: &TaskView, now: Millis) -> String {
    match (view.state, &view.result, &view.error, view.errors.last()) {
        (State::Succeeded, Some(result), ..) => result.get().to_owned(),
        (State::Parked, ..) => match view.waits_for {
            Some(WaitsFor::Slot) => format!("waiting for a free slot of the plugin that offers `{}`", view.task),
            Some(WaitsFor::Plugin) | None => format!("waiting for a plugin that offers `{}`", view.task),
        },
        (State::Scheduled, _, _, last) => {
            let when = view.due_at.map_or_else(String::new, |due| until(due, now));
            last.map_or(when.clone(), |last| format!("{when}, after {}", last.error))
        }
        (State::Running, ..) => view.progress.as_ref().map_or_else(String::new, |progress| {
            let of = progress.total.map_or_else(String::new, |total| format!("/{total}"));
            format!("{}{of} {}", progress.done, progress.note)
        }),
        (_, _, Some(error), _) => error.to_string(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_one_unit() {
        let now = Millis(10_000_000);
        assert_eq!(age(Millis(10_000_000 - 90_000), now), "1m");
        assert_eq!(age(Millis(9_999_900), now), "now");
        assert_eq!(age(Millis(20_000_000), now), "0s");
        assert_eq!(until(Millis(10_300_000), now), "in 5m");
        assert_eq!(until(Millis(1), now), "now");
        assert_eq!(until(Millis(10_000_300), now), "now");
    }

    #[test]
    fn what_was_just_now_is_not_now_ago() {
        let now = Millis(10_000_000);
        assert_eq!(ago(Millis(10_000_000 - 90_000), now), "1m ago");
        assert_eq!([9_999_900, 10_000_000, 20_000_000].map(|at| ago(Millis(at), now)), ["now"; 3]);
    }

    #[test]
    fn a_guests_text_cannot_steer_the_terminal() {
        assert_eq!(cell("a\u{1b}[31mb\nc").content(), "a\\u{1b}[31mb c");
        assert_eq!(short("abcdef", 4), "abc…");
    }
}
