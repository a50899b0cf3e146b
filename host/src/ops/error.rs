//! Why a use case was refused or failed.

use std::time::Duration;

use taskhost_broker::BrokerError;
use taskhost_core::{
    catalogue::ArgumentsError,
    task::{QueueName, State, TaskId},
    text::clean,
    units,
    workflow::PlanError,
};

use crate::{plugins::PluginsError, schedule::ScheduleError};

/// Why a request of a task is refused.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error(transparent)]
    Arguments(#[from] ArgumentsError),
    /// Not JSON, an unknown key, or a value out of bounds.
    #[error("{0}")]
    Request(String),
}

impl From<String> for RequestError {
    fn from(why: String) -> Self {
        Self::Request(why)
    }
}

impl From<RequestError> for OpsError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Arguments(error) => Self::Arguments(error),
            RequestError::Request(why) => Self::Request(why),
        }
    }
}

/// The kinds differ by what the caller does next. Each text is a sentence, safe to show, without advice for one face.
#[derive(Debug, thiserror::Error)]
pub enum OpsError {
    #[error(
        "no task `{id}`{}: its result may have been kept for its time and be gone, or it lives at another broker",
        in_queue(.queue.as_ref())
    )]
    NoSuchTask { id: TaskId, queue: Option<QueueName> },
    /// The task existed a moment ago.
    #[error(
        "task `{0}` has ended or was deleted, and nothing of it is kept, so how it ended is not known; keep results for longer (`result_ttl`)"
    )]
    Forgotten(TaskId),
    /// The time for waiting is over. The task goes on.
    #[error("task `{id}` has not ended after {}: it is {state}", units::show_duration(*.after))]
    NotEnded { id: TaskId, state: State, after: Duration },
    /// The state of the task does not allow the change.
    #[error(transparent)]
    Unchanged(#[from] Unchanged),
    #[error("no queue `{queue}` is known: it holds no task, no schedule is for it, and no live worker claims from it{}", meant(.near.as_ref()))]
    NoSuchQueue { queue: QueueName, near: Option<String> },
    #[error("no schedule `{}`", clean(.0))]
    NoSuchSchedule(String),
    /// A worker would put a removed schedule back.
    #[error("schedule `{}` stands in the taskhost.toml of worker `{}`, which would put it back: take it out there and start the worker anew", clean(.schedule), clean(.worker))]
    ScheduleStandsInFile { schedule: String, worker: String },
    /// The schedules of some worker's file are not known.
    #[error("{0}, or remove a schedule by its name")]
    FilesUnknown(String),
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    #[error(transparent)]
    Arguments(#[from] ArgumentsError),
    /// A flow can't be run as it was written.
    #[error("the flow can't be run: {0}")]
    Flow(#[from] PlanError),
    /// The arguments of a step do not fit its body. `at` is a JSON pointer into the flow.
    #[error("the flow can't be run: {at}: {why}")]
    FlowArguments { at: String, why: ArgumentsError },
    #[error("no flow `{id}`{}: it may have been kept for its time and be gone, or it lives at another broker", in_queue(.queue.as_ref()))]
    NoSuchFlow { id: TaskId, queue: Option<QueueName> },
    /// The state of the flow does not allow what was asked.
    #[error("flow `{id}` stays as it is: {why}")]
    FlowUnchanged { id: TaskId, why: String },
    /// A request of a task that is not JSON, has an unknown key, or a value out of bounds.
    #[error("{0}")]
    Request(String),
    /// A plugin file has no body of this name.
    #[error("{} offers no such body: {why}", clean(.file))]
    NoSuchBody { file: String, why: ArgumentsError },
    #[error("no live worker `{}`: it ended, or it has been silent for some seconds", clean(.0))]
    NoSuchWorker(String),
    /// No live worker sees a plugin of this name.
    #[error("no live worker sees a plugin `{}`, and there is no such file", clean(.0))]
    NoSuchPlugin(String),
    /// The lines of a bulk enqueue could not be read to their end.
    #[error("{why}\n  lines up to {read} are read ({enqueued} enqueued)")]
    BulkUnreadable { why: String, read: u64, enqueued: u64 },
    /// The broker failed during a bulk enqueue.
    // Batches after the failed one may be enqueued too. With ids of your own, enqueueing again is harmless.
    #[error("{error}\n  lines up to {done} are done ({enqueued} enqueued); go on from line {}", done + 1)]
    BulkBroken { error: BrokerError, done: u64, enqueued: u64 },
    #[error(transparent)]
    Plugins(#[from] PluginsError),
    /// This machine failed.
    #[error("{0}")]
    Machine(String),
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

/// Why a task stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unchanged {
    #[error("no such task")]
    NotFound,
    #[error("already ended: it is {0}")]
    Ended(State),
    #[error("only dead, cancelled and delayed tasks are retried: it is {0}")]
    NotRetryable(State),
    /// Another task holds its unique key.
    #[error("`{0}` is the same task and has not ended: wait for it or cancel it")]
    Duplicate(TaskId),
    #[error("it runs: `taskhost task cancel` stops it first")]
    Running,
    #[error("only tasks that wait, are dead or were cancelled get other arguments: it is {0}")]
    NotEditable(State),
}

fn in_queue(queue: Option<&QueueName>) -> String {
    queue.map_or_else(String::new, |queue| format!(" in queue `{queue}`"))
}

fn meant(near: Option<&String>) -> String {
    near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"))
}
