//! The log: lines for people or JSON, always to stderr, so that stdout holds only the answer of a command.
//!
//! A command writes each line at once. A worker's lines go through an `outlet`, so that a reader that does not read can't hold it up.
//! Facts of a worker reach the log through an observer: see [`observers`]. Every line uses the same field names: `id` and `task` (its name),
//! `attempt`, `plugin`, `queue`, `worker`.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{self, IsTerminal, Write},
    sync::{Arc, OnceLock},
    time::Duration,
};

use tracing_subscriber::{EnvFilter, fmt};

use log::Log;
use outlet::Outlet;
use taskhost_core::observe::Observers;

mod log;
pub mod metrics;
mod outlet;
mod shown;
pub mod traces;

/// Libraries log only when something is wrong. A filter of the user may raise any of them again.
const QUIET: &str = "wasmtime=warn,wasmtime_wasi=warn,wasmtime_wasi_http=warn,cranelift_codegen=warn,regalloc2=warn,\
redis=warn,hyper=warn,rustls=warn,mio=warn,notify=warn";
/// How long the end of a worker waits for a reader of its log that reads nothing.
const PATIENCE: Duration = Duration::from_millis(500);

/// Set in a process whose lines must not wait for their reader.
static OUTLET: OnceLock<Outlet> = OnceLock::new();

/// Who writes the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// A command: it waits for its reader.
    Command,
    /// A worker: it waits for nobody.
    Worker,
}

/// Starts logging for the whole process. `filter`: a level, or directives such as `info,taskhost::worker=debug`.
pub fn start(filter: &str, json: bool, writer: Writer) -> Result<(), String> {
    let filter = EnvFilter::try_new(format!("{QUIET},{filter}"))
        .map_err(|error| format!("a log filter is a level or like `info,taskhost::worker=debug`: `{filter}` ({error})"))?;
    if writer == Writer::Worker {
        open_outlet()?;
    }
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    // The subscriber would report its own errors by `eprintln!`, which panics without a reader.
    let builder = fmt().with_env_filter(filter).with_writer(|| Stderr).log_internal_errors(false).with_ansi(colours);
    let started = if json {
        builder.json().flatten_event(true).with_current_span(true).with_span_list(false).map_event_format(shown::Json).try_init()
    } else {
        builder.compact().with_target(false).fmt_fields(shown::Fields).try_init()
    };
    started.map_err(|error| format!("failed to start the log: {error}"))
}

/// The observers of a worker, its plugins and its schedules. This is only the log: callers add [`metrics`] and [`traces`] if they want them. Call it
/// after [`start`].
pub fn observers() -> Observers {
    Observers::none().with(Arc::new(Log))
}

fn open_outlet() -> Result<(), String> {
    let outlet = OUTLET.get_or_init(Outlet::default);
    let tell = |dropped| tracing::warn!(dropped, "lines of this log were dropped: nobody read it for a while");
    std::thread::Builder::new()
        .name("taskhost-log".into())
        .spawn(move || outlet.run(&mut io::stderr(), &tell))
        .map_err(|error| format!("failed to start the log's thread: {error}; raise the limit of threads"))?;
    // The standard hook writes to stderr itself, and would wait for the reader.
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let backtrace = Backtrace::capture();
        let trace = if backtrace.status() == BacktraceStatus::Captured { format!("\n{backtrace}") } else { String::new() };
        let said: String = message(panic.payload()).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        tracing::error!(thread = thread.name().unwrap_or_default(), place, "panicked: {said}{trace}");
    }));
    Ok(())
}

/// The text of a panic.
pub fn message(payload: &(dyn std::any::Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("it does not say why")
}

/// Writes one line to stderr, in order with the lines of the log. If stderr is closed, the line is lost.
pub fn line(text: &str) {
    // One write, so that lines of several threads do not mix.
    let _infallible = Stderr.write_all(format!("{text}\n").as_bytes());
}

/// Writes the rest of the log before the process ends, if somebody reads it.
pub fn finish() {
    if let Some(outlet) = OUTLET.get() {
        outlet.flush(PATIENCE);
    }
}

/// Stderr that never fails: a log that can't be written is not an error of the code that logs.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match OUTLET.get() {
            Some(outlet) => outlet.push(bytes),
            None => _ = io::stderr().lock().write_all(bytes),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_filter_is_refused_with_what_is_right() {
        let refused = start("taskhost=loud", false, Writer::Command).unwrap_err();
        assert!(refused.contains("`taskhost=loud`"), "{refused}");
    }
}
