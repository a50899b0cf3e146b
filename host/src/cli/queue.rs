//! `queue`: lists, pauses, resumes and purges queues.

use clap::{Args, Subcommand};

use super::{
    ask,
    failure::Failure,
    output::{self, Rows, cell, count},
};
use crate::config::Settings;
use taskhost_broker::{Broker, Tasks};
use taskhost_core::units;
use taskhost_core::{
    catalogue,
    task::{QueueName, State},
};

#[derive(Debug, Subcommand)]
#[command(after_help = "Example:\n  taskhost queue pause mail")]
pub(super) enum QueueCommand {
    /// Show every queue: counts by state, age of the oldest ready task
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Let nothing more start from a queue; what runs goes on
    Pause {
        #[command(flatten)]
        named: Named,
        /// Also a queue that nobody knows yet
        #[arg(long)]
        create: bool,
    },
    /// Let a paused queue go on
    Resume(Named),
    /// Delete all that waits in a queue
    Purge {
        #[command(flatten)]
        named: Named,
        /// Do not ask
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
    let broker = ask::broker(settings).await?;
    match command {
        QueueCommand::List { json } => list(&*broker, json).await,
        QueueCommand::Pause { named: Named { queue }, create } => {
            if !create {
                known(&*broker, &queue, "; `--create` pauses it all the same").await?;
            }
            broker.pause(&queue).await?;
            output::told(&format!("queue `{queue}` is paused"))
        }
        QueueCommand::Resume(Named { queue }) => {
            known(&*broker, &queue, "").await?;
            broker.resume(&queue).await?;
            output::told(&format!("queue `{queue}` goes on"))
        }
        QueueCommand::Purge { named: Named { queue }, yes } => {
            let queues = broker.queues().await?;
            let waiting: u64 = queues
                .iter()
                .filter(|view| view.queue == queue)
                .flat_map(|view| [State::Ready, State::Scheduled, State::Parked].map(|state| view.counts.get(&state).copied().unwrap_or(0)))
                .sum();
            if waiting > 0 {
                ask::agreed(&format!("Delete the {waiting} waiting tasks of queue `{queue}`?"), yes)?;
            }
            let purged = broker.purge(&queue).await?;
            if !queues.iter().any(|view| view.queue == queue) {
                output::note(&format!("taskhost: no queue `{queue}` is known; `taskhost queue list` shows what there is"));
            }
            output::told(&format!("{purged} tasks deleted from queue `{queue}`"))
        }
    }
}

/// Refuses an unknown queue, because its name is most likely misspelt.
async fn known(broker: &dyn Broker, queue: &QueueName, way_round: &str) -> Result<(), Failure> {
    let mut known: Vec<QueueName> = broker.queues().await?.into_iter().map(|view| view.queue).collect();
    known.extend(broker.workers().await?.into_iter().flat_map(|worker| worker.queues));
    known.extend(broker.schedules().await?.into_iter().map(|schedule| schedule.queue));
    if known.contains(queue) {
        return Ok(());
    }
    let near = catalogue::near(queue.as_str(), known.iter().map(QueueName::as_str));
    let meant = near.first().map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
    Err(Failure::Usage(format!(
        "no queue `{queue}` is known: it holds no task, no schedule is for it, and no live worker claims from it{meant}{way_round}; `taskhost queue list` shows \
         what there is"
    )))
}

async fn list(broker: &dyn Tasks, json: bool) -> Result<(), Failure> {
    let mut queues = broker.queues().await?;
    queues.sort_by(|a, b| a.queue.cmp(&b.queue));
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
