//! `plugin history` and `plugin rollback`: the versions of a plugin that this machine's workers remember.
//!
//! Both read the state directory that the workers use, and need no broker.

use clap::Args;

use super::{
    failure::Failure,
    output::{self, Rows, cell},
};
use crate::{
    config::Settings,
    ops::{self, Followed, Generation, GenerationState, RolledBack},
};
use taskhost_core::units;

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

The file in the plugin directory stays as it is. The previous version serves, also after a restart, until the file changes.
Called again, it goes back one version further.")]
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
    let generations = ops::history(&settings.plugins, &settings.state, &args.name)?;
    if args.json {
        return output::json(&generations);
    }
    let mut rows = Rows::new(&["SINCE", "VERSION", "DIGEST", "STATE"]);
    for generation in &generations {
        let version = if generation.version.is_empty() { "-".to_owned() } else { output::clean(&generation.version) };
        rows.add(vec![cell(units::show_instant(generation.at)), cell(version), cell(short(generation)), state(generation.state)]);
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
    let (RolledBack { file, to, .. }, followed) = ops::roll_back(settings, &args.name).await?;
    let to = version(&to);
    match followed {
        Followed::AtNextStart => {
            output::told(&format!("{file}: {to} serves from the next start: no worker of this machine runs on this directory now"))
        }
        Followed::Serves => output::told(&format!("{file}: {to} serves again, until other bytes stand in the file")),
        Followed::NotLoaded => {
            Err(Failure::Failed(format!("{file}: {to} could not be loaded any more; see `taskhost plugin history {}`", args.name)))
        }
        Followed::Otherwise(current) => {
            Err(Failure::Failed(format!("{file}: {to} can't serve now, so {} does; see `taskhost plugin list`", version(&current))))
        }
        Followed::NotYet => {
            Err(Failure::Failed(format!("{file}: {to} was asked for, but no worker has followed yet: see `taskhost plugin list`")))
        }
    }
}

fn version(generation: &Generation) -> String {
    format!("version {} ({})", output::clean(&generation.version), short(generation))
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
