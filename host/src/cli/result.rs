//! `result`: what a task returned, alone on stdout.

use clap::Args;

use super::{
    Failure, ask,
    enqueue::{Limit, optional_time},
    wait,
};
use crate::{
    config::Settings,
    task::{QueueName, TaskId},
};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  taskhost result 0199c0de-… --wait=30s")]
pub(super) struct ResultArgs {
    /// The id that `enqueue` printed
    id: TaskId,
    /// Look in this queue only
    #[arg(long)]
    queue: Option<QueueName>,
    /// Wait for the end, for TIME at most
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "", value_parser = optional_time)]
    wait: Option<Limit>,
}

pub(super) async fn call(args: ResultArgs, settings: &Settings) -> Result<(), Failure> {
    let broker = ask::broker(settings).await?;
    if let Some(Limit(limit)) = args.wait {
        return wait::for_result(&*broker, args.queue.as_ref(), &args.id, limit, false).await;
    }
    let view = ask::find(&*broker, args.queue.as_ref(), &args.id).await?;
    if !view.state.is_ended() {
        return Err(Failure::TimedOut(format!(
            "task `{0}` has not ended: it is {1}; `taskhost result {0} --wait` waits for it",
            args.id, view.state
        )));
    }
    wait::print_result(&view)
}
