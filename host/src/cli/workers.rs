//! `workers`: lists the live workers and their attempts.

use clap::Args;

use super::{
    ask,
    failure::Failure,
    output::{self, Rows, cell, count},
};
use crate::config::Settings;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  taskhost workers --json | jq '.[].running'")]
pub(super) struct WorkersArgs {
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn call(args: &WorkersArgs, settings: &Settings) -> Result<(), Failure> {
    let broker = ask::broker(settings).await?;
    let mut workers = broker.workers().await?;
    workers.sort_by(|a, b| a.id.cmp(&b.id));
    if args.json {
        return output::json(&workers);
    }
    let now = broker.now().await?;
    let mut rows = Rows::new(&["WORKER", "UP", "QUEUES", "RUNNING", "SLOTS", "PLUGINS", "STATE"]);
    for worker in workers {
        let queues: Vec<&str> = worker.queues.iter().map(AsRef::as_ref).collect();
        let serving = worker.plugins.iter().filter(|plugin| plugin.serving.is_some()).count();
        let failing = worker.plugins.iter().filter(|plugin| plugin.error.is_some()).count();
        let plugins = if failing == 0 { serving.to_string() } else { format!("{serving} ({failing} bad)") };
        rows.add(vec![
            cell(&worker.id),
            cell(output::age(worker.started_at, now)),
            cell(queues.join(",")),
            count(worker.running.len() as u64),
            cell(worker.concurrency),
            cell(plugins),
            cell(if worker.draining { "draining" } else { "live" }),
        ]);
    }
    rows.print("taskhost: no live worker; start one with `taskhost worker --plugins ./plugins`")
}
