//! `hook`: lists the hooks of the settings, and enables those that their receivers disabled.

use clap::{Args, Subcommand};

use super::{
    failure::Failure,
    output::{self, Rows, cell},
};
use crate::{config::Settings, ops::Ops};

#[derive(Debug, Subcommand)]
#[command(after_help = "Example:\n  taskhost hook list")]
pub(super) enum HookCommand {
    /// List the hooks of taskhost.toml, and whether their receivers want deliveries
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Deliver again to a receiver that answered 410
    Enable(EnableArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  taskhost hook enable alerts\n  taskhost task retry --queue taskhost.hooks --state dead")]
pub(super) struct EnableArgs {
    /// The name of its table in taskhost.toml
    name: String,
}

pub(super) async fn call(command: HookCommand, settings: &Settings) -> Result<(), Failure> {
    let ops = Ops::connect(settings).await?;
    match command {
        HookCommand::List { json } => {
            let hooks = ops.hooks(&settings.hooks).await?;
            if json {
                return output::json(&hooks);
            }
            let mut rows = Rows::new(&["HOOK", "ON", "TELLS", "STATE"]);
            for hook in hooks {
                let state = if hook.disabled { "disabled by its receiver" } else { "on" };
                rows.add(vec![cell(&hook.name), cell(hook.on.join(",")), cell(&hook.target), cell(state)]);
            }
            rows.print("taskhost: no `[hooks.NAME]` stands in taskhost.toml; docs/hooks.md shows one")
        }
        HookCommand::Enable(EnableArgs { name }) => {
            if !settings.hooks.iter().any(|hook| hook.name == name) {
                return Err(Failure::Usage(format!(
                    "no `[hooks.{name}]` stands in taskhost.toml; `taskhost hook list` shows what there is"
                )));
            }
            let was_disabled = ops.enable_hook(&name).await?;
            output::told(if was_disabled { "enabled" } else { "it was not disabled" })
        }
    }
}
