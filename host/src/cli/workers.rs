//! `workers`: lists the live workers and their attempts.

use clap::Args;

use super::{
    failure::Failure,
    output::{self, Rows, cell, count},
};
use crate::{config::Settings, ops::Ops};
use taskhost_core::units;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  taskhost workers --json | jq '.[].running'")]
pub(super) struct WorkersArgs {
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Let this worker end: it claims nothing more, and what runs may end
    #[arg(long, value_name = "WORKER", conflicts_with = "json")]
    drain: Option<String>,
}

pub(super) async fn call(args: &WorkersArgs, settings: &Settings) -> Result<(), Failure> {
    let ops = Ops::connect(settings).await?;
    if let Some(worker) = &args.drain {
        ops.ask_to_drain(worker).await?;
        return output::told(&format!("asked {worker} to drain; it hears of it within some seconds"));
    }
    let workers = ops.workers().await?;
    if args.json {
        return output::json(&workers);
    }
    let now = ops.now().await?;
    let mut rows = Rows::new(&["WORKER", "UP", "QUEUES", "RUNNING", "SLOTS", "PLUGINS", "STATE"]);
    for worker in workers {
        let queues: Vec<&str> = worker.queues.iter().map(AsRef::as_ref).collect();
        let serving = worker.plugins.iter().filter(|plugin| plugin.serving.is_some()).count();
        let failing = worker.plugins.iter().filter(|plugin| plugin.error.is_some()).count();
        let plugins = if failing == 0 { serving.to_string() } else { format!("{serving} ({failing} bad)") };
        rows.add(vec![
            cell(&worker.id),
            cell(units::age(worker.started_at, now)),
            cell(queues.join(",")),
            count(worker.running.len() as u64),
            cell(worker.concurrency),
            cell(plugins),
            cell(if worker.draining { "draining" } else { "live" }),
        ]);
    }
    rows.print("taskhost: no live worker; start one with `taskhost worker --plugins ./plugins`")
}
