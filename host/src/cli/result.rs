//! `result`: prints a task's result alone; with `--json` the whole task, however it ended.

use clap::Args;

use super::{
    enqueue::{Limit, optional_time},
    failure::Failure,
    output, wait,
};
use crate::{
    config::Settings,
    ops::{Ops, Wanted},
};
use taskhost_core::task::{QueueName, State, TaskId};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  taskhost result 0199c0de-… --wait=30s")]
pub(super) struct ResultArgs {
    /// The id that `enqueue` printed
    id: TaskId,
    /// Look only in this queue
    #[arg(long)]
    queue: Option<QueueName>,
    /// Wait for the end, at most for TIME
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "", value_parser = optional_time)]
    wait: Option<Limit>,
    /// Print the task with its state, result and error as JSON, however it ended
    #[arg(long)]
    json: bool,
}

pub(super) async fn call(args: ResultArgs, settings: &Settings) -> Result<(), Failure> {
    let ops = Ops::connect(settings).await?;
    let (queue, id) = (args.queue.as_ref(), &args.id);
    let view = match args.wait {
        Some(Limit(limit)) => wait::for_end(&ops, Wanted { queue, id, limit, is_known: false }).await?,
        None => ops.task(queue, id).await?,
    };
    if args.json {
        output::json(&view)?;
    }
    if !view.state.is_ended() {
        return Err(Failure::TimedOut(format!(
            "task `{0}` has not ended: it is {1}; `taskhost result {0} --wait` waits for it",
            args.id, view.state
        )));
    }
    if args.json && view.state == State::Succeeded {
        return Ok(());
    }
    wait::print_result(&view)
}
