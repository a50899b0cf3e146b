//! `queue`: lists, pauses, resumes and purges queues.

use clap::{Args, Subcommand};

use super::{
    consent,
    failure::Failure,
    output::{self, Rows, cell, count},
};
use crate::{
    config::Settings,
    ops::{Ops, OpsError, Purgeable},
};
use taskhost_core::{
    task::{QueueName, State},
    units,
};

#[derive(Debug, Subcommand)]
#[command(after_help = "Example:\n  taskhost queue pause mail")]
pub(super) enum QueueCommand {
    /// List the queues, with counts by state and the age of the oldest ready task
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Stop claims from a queue; running tasks go on
    Pause {
        #[command(flatten)]
        named: Named,
        /// Also pause a queue that is not known yet
        #[arg(long)]
        create: bool,
    },
    /// Allow claims from a paused queue again
    Resume(Named),
    /// Delete all waiting tasks of a queue
    Purge {
        #[command(flatten)]
        named: Named,
        /// Do not ask for consent
        #[arg(long, short)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct Named {
    /// The queue's name
    queue: QueueName,
}

pub(super) async fn call(command: QueueCommand, settings: &Settings) -> Result<(), Failure> {
    let ops = Ops::connect(settings).await?;
    match command {
        QueueCommand::List { json } => list(&ops, json).await,
        QueueCommand::Pause { named: Named { queue }, create } => {
            ops.pause_queue(&queue, create).await.map_err(|error| match error {
                error @ OpsError::NoSuchQueue { .. } => {
                    Failure::Usage(format!("{error}; `--create` pauses it all the same; `taskhost queue list` shows what there is"))
                }
                error => error.into(),
            })?;
            output::told(&format!("queue `{queue}` is paused"))
        }
        QueueCommand::Resume(Named { queue }) => {
            ops.resume_queue(&queue).await?;
            output::told(&format!("queue `{queue}` goes on"))
        }
        QueueCommand::Purge { named: Named { queue }, yes } => {
            let Purgeable { waiting, is_known } = ops.purgeable(&queue).await?;
            if waiting > 0 {
                consent::agreed(&format!("Delete the {waiting} waiting tasks of queue `{queue}`?"), yes)?;
            }
            let purged = ops.purge(&queue).await?;
            if !is_known {
                output::note(&format!("taskhost: no queue `{queue}` is known; `taskhost queue list` shows what there is"));
            }
            output::told(&format!("{purged} tasks deleted from queue `{queue}`"))
        }
    }
}

async fn list(ops: &Ops, json: bool) -> Result<(), Failure> {
    let queues = ops.queues().await?;
    if json {
        return output::json(&queues);
    }
    let mut rows = Rows::new(&["QUEUE", "READY", "SCHEDULED", "PARKED", "RUNNING", "SUCCEEDED", "DEAD", "CANCELLED", "OLDEST", "PAUSED"]);
    for view in queues {
        let of = |state: State| count(view.counts.get(&state).copied().unwrap_or(0));
        rows.add(vec![
            cell(&view.queue),
            of(State::Ready),
            of(State::Scheduled),
            of(State::Parked),
            of(State::Running),
            of(State::Succeeded),
            of(State::Dead),
            of(State::Cancelled),
            cell(view.oldest_ready_ms.map_or_else(|| "-".to_owned(), |ms| units::show_duration(std::time::Duration::from_millis(ms)))),
            cell(if view.paused { "paused" } else { "-" }),
        ]);
    }
    rows.print("taskhost: no queue yet; the first enqueue makes one")
}
