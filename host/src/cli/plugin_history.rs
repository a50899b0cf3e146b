//! `plugin history` and `plugin rollback`: the versions of a plugin that this machine's workers remember.
//!
//! Both read the state directory that the workers use, and need no broker.

use std::time::{Duration, Instant};

use clap::Args;

use super::{
    failure::Failure,
    output::{self, Rows, cell},
};
use crate::{
    config::Settings,
    plugins::{self, Generation, GenerationState, PluginsError},
};

/// How long a worker may take to follow. It looks every two seconds, and may have to compile.
const FOLLOWED: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  taskhost plugin history math")]
pub(super) struct HistoryArgs {
    /// The plugin: its file's name, with or without .wasm
    name: String,
    #[command(flatten)]
    place: Place,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  taskhost plugin rollback math

What stands in the plugin directory is left as it is; the version before it serves, also after a restart, until other bytes stand there.
Again, and it goes back one further.")]
pub(super) struct RollbackArgs {
    /// The plugin: its file's name, with or without .wasm
    name: String,
    #[command(flatten)]
    place: Place,
}

/// The directories of the workers.
#[derive(Debug, Args)]
struct Place {
    /// The plugin directory of the workers [default: ./plugins]
    #[arg(long, value_name = "DIR")]
    plugins: Option<String>,
    /// The state directory of the workers
    #[arg(long, value_name = "DIR")]
    state: Option<String>,
}

impl Place {
    fn flags(&self) -> Vec<(&'static str, String)> {
        let given = [("plugins", &self.plugins), ("state", &self.state)];
        given.into_iter().filter_map(|(key, path)| Some((key, path.clone()?))).collect()
    }
}

impl HistoryArgs {
    pub(super) fn flags(&self) -> Vec<(&'static str, String)> {
        self.place.flags()
    }
}

impl RollbackArgs {
    pub(super) fn flags(&self) -> Vec<(&'static str, String)> {
        self.place.flags()
    }
}

pub(super) fn list(args: &HistoryArgs, settings: &Settings) -> Result<(), Failure> {
    let generations = plugins::history(&settings.plugins, &settings.state, &args.name).map_err(failure)?;
    if args.json {
        return output::json(&generations);
    }
    let mut rows = Rows::new(&["SINCE", "VERSION", "DIGEST", "STATE"]);
    for generation in &generations {
        let version = if generation.version.is_empty() { "-".to_owned() } else { output::clean(&generation.version) };
        rows.add(vec![cell(output::instant(generation.at)), cell(version), cell(short(generation)), state(generation.state)]);
    }
    rows.print("taskhost: no version of it was ever looked at")?;
    for generation in &generations {
        if let Some(why) = &generation.why {
            output::line(&format!("\n{}: {}", short(generation), output::clean_lines(why)))?;
        }
    }
    Ok(())
}

pub(super) async fn roll_back(args: &RollbackArgs, settings: &Settings) -> Result<(), Failure> {
    let asked = plugins::roll_back(&settings.plugins, &settings.state, &args.name).map_err(failure)?;
    let to = format!("version {} ({})", output::clean(&asked.to.version), short(&asked.to));
    if !asked.attended {
        return output::told(&format!(
            "{}: {to} serves from the next start: no worker of this machine runs on this directory now",
            asked.file
        ));
    }
    let begun = Instant::now();
    while begun.elapsed() < FOLLOWED {
        let generations = plugins::history(&settings.plugins, &settings.state, &args.name).map_err(failure)?;
        if let Some(current) = generations.iter().find(|generation| generation.state == GenerationState::Current) {
            if current.digest == asked.to.digest {
                return output::told(&format!("{}: {to} serves again, until other bytes stand in the file", asked.file));
            }
            let given_up = generations.iter().any(|g| g.digest == asked.to.digest && g.state == GenerationState::Refused);
            if given_up {
                let what = format!("{}: {to} could not be loaded any more; see `taskhost plugin history {}`", asked.file, args.name);
                return Err(Failure::Failed(what));
            }
            // It was passed over, for example because its key is no longer trusted.
            if asked.from.as_ref().is_some_and(|from| from.digest != current.digest) {
                let now = format!("version {} ({})", output::clean(&current.version), short(current));
                let what = format!("{}: {to} can't serve now, so {now} does; see `taskhost plugin list`", asked.file);
                return Err(Failure::Failed(what));
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(Failure::Failed(format!("{}: {to} was asked for, but no worker has followed yet: see `taskhost plugin list`", asked.file)))
}

fn short(generation: &Generation) -> &str {
    generation.digest.get(..12).unwrap_or(&generation.digest)
}

fn state(state: GenerationState) -> comfy_table::Cell {
    match state {
        GenerationState::Current => cell("serving").fg(comfy_table::Color::Green),
        GenerationState::Good => cell("good"),
        GenerationState::RolledBack => cell("rolled back").fg(comfy_table::Color::Yellow),
        GenerationState::Refused => cell("refused").fg(comfy_table::Color::Red),
    }
}

fn failure(error: PluginsError) -> Failure {
    match error {
        PluginsError::State(text) | PluginsError::Machine(text) => Failure::Failed(text),
        PluginsError::Directory(text) | PluginsError::Policy(text) | PluginsError::File(text) => Failure::Usage(text),
    }
}
