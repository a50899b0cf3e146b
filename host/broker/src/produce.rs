//! The role of a producer: enqueue tasks and await their ends.

use std::time::Duration;

use async_trait::async_trait;

use super::error::{BrokerError, Result};
use taskhost_core::{
    retry,
    task::{NewTask, QueueName, TaskId, TaskView},
};

/// Enqueues tasks and awaits their ends.
#[async_trait]
pub trait Produce: Send + Sync {
    /// Enqueues each of `tasks` or answers `Duplicate`, in the order given. The tasks of one queue are added together.
    /// If one task is over the payload limit, the whole call is `Invalid` and nothing is written.
    async fn enqueue(&self, tasks: &[NewTask]) -> Result<Vec<Enqueued>>;

    /// Waits until the task has ended; the broker pushes the end. Answers the view at the end, or the newest view after `limit`, or
    /// `None` for an unknown task. Without `queue`, all queues are searched.
    ///
    /// A waiting caller gets the end even when the task is gone with it. A deleted task ends as cancelled.
    async fn await_end(&self, queue: Option<&QueueName>, id: &TaskId, limit: Duration) -> Result<Option<TaskView>>;
}

/// The answer for one enqueued task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Enqueued {
    Added,
    /// Nothing was enqueued. Either the id is known already, and `holder` is that id; or `holder` holds the unique key.
    Duplicate {
        holder: TaskId,
    },
}

/// Refuses arguments that are over the payload limit.
pub(super) fn check_args(args: &str, limit: usize) -> Result<()> {
    if args.len() <= limit {
        return Ok(());
    }
    Err(BrokerError::Invalid(format!(
        "the arguments have {} bytes, more than the payload limit of {limit}: store the data and pass its name",
        args.len()
    )))
}

/// Refuses a task that is over the payload limit, before anything is written.
pub(super) fn check_payload(task: &NewTask, limit: usize) -> Result<()> {
    retry::oversize(task, limit).map_or(Ok(()), |why| Err(BrokerError::Invalid(why)))
}
