//! Prints lines, tables without borders and JSON. Colours only on a terminal, and not with `NO_COLOR`.
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
use taskhost_core::{task::State, text::clean_json};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_text_cannot_steer_the_terminal() {
        assert_eq!(cell("a\u{1b}[31mb\nc").content(), "a\\u{1b}[31mb c");
        assert_eq!(short("abcdef", 4), "abc…");
    }
}
