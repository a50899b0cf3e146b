//! Logs: people's lines or JSON, always to stderr, so that stdout stays what was asked for.
//!
//! What tasks and attempts are called in a log is set by those who log: `id` and `task` (its name), `attempt`, `plugin`, `queue`, `worker`.

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, fmt};

mod shown;

/// Libraries speak up only when something is wrong; a filter given by the user may raise any of them again.
const QUIET: &str = "wasmtime=warn,wasmtime_wasi=warn,wasmtime_wasi_http=warn,cranelift_codegen=warn,regalloc2=warn,\
redis=warn,hyper=warn,rustls=warn,mio=warn,notify=warn";

/// Starts logging for the whole process. `filter`: a level, or directives such as `info,taskhost::worker=debug`.
pub fn start(filter: &str, json: bool) -> Result<(), String> {
    let filter = EnvFilter::try_new(format!("{QUIET},{filter}"))
        .map_err(|error| format!("a log filter is a level or like `info,taskhost::worker=debug`: `{filter}` ({error})"))?;
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let builder = fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colours);
    let started = if json {
        builder.json().flatten_event(true).with_current_span(true).with_span_list(false).map_event_format(shown::Json).try_init()
    } else {
        builder.compact().with_target(false).fmt_fields(shown::Fields).try_init()
    };
    started.map_err(|error| format!("failed to start the log: {error}"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_wrong_filter_is_refused_with_what_is_right() {
        let refused = super::start("taskhost=loud", false).unwrap_err();
        assert!(refused.contains("`taskhost=loud`"), "{refused}");
    }
}
