//! The role of an operator: look at tasks and queues, and steer them.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::Serialize;

use super::{
    error::Result,
    listing::{TaskFilter, TaskPage},
};
use taskhost_core::task::{Millis, QueueName, State, TaskId, TaskView};

/// Shows and steers tasks and queues.
///
/// An id is unique in its queue only. Without a queue, `find` and `log` answer `Invalid` if several queues have the id; so does
/// `await_end`.
#[async_trait]
pub trait Tasks: Send + Sync {
    async fn find(&self, queue: Option<&QueueName>, id: &TaskId) -> Result<Option<TaskView>>;
    /// The log of the task's attempts, as newline-delimited JSON: the newest 64 KiB. `None`: no such task.
    async fn log(&self, queue: Option<&QueueName>, id: &TaskId) -> Result<Option<String>>;
    /// Lists each task once, also while other tasks begin and end. A task that changes state meanwhile may be listed twice or missed.
    async fn list(&self, filter: &TaskFilter, from: Option<&str>, limit: usize) -> Result<TaskPage>;
    async fn cancel(&self, queue: &QueueName, id: &TaskId) -> Result<CancelReply>;
    async fn retry(&self, queue: &QueueName, id: &TaskId) -> Result<RetryReply>;
    async fn delete(&self, queue: &QueueName, id: &TaskId) -> Result<DeleteReply>;
    /// Gives a task that waits, is dead or was cancelled other arguments, as compact JSON. Over the payload limit they are `Invalid`.
    async fn edit(&self, queue: &QueueName, id: &TaskId, args: &str) -> Result<EditReply>;
    /// The newest `limit` ends of a queue since this time, oldest first. A feed is read on with its `until` as the next `since`: then it has
    /// every end once, unless there were more than `limit`. An end whose task has gone meanwhile may be missing.
    async fn feed(&self, queue: &QueueName, since: Millis, limit: usize) -> Result<Feed>;
    /// Every queue that ever had a task and was not purged empty.
    async fn queues(&self) -> Result<Vec<QueueView>>;
    async fn pause(&self, queue: &QueueName) -> Result<()>;
    async fn resume(&self, queue: &QueueName) -> Result<()>;
    /// Deletes the waiting tasks (ready, scheduled, parked) of a queue in bounded steps, and answers how many.
    async fn purge(&self, queue: &QueueName) -> Result<u64>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelReply {
    /// The task was waiting and never runs.
    Cancelled,
    /// The task is running, and its worker was told.
    Asked,
    AlreadyEnded(State),
    NotFound,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RetryReply {
    /// The task is ready. A dead or cancelled task starts with a fresh count of tries; a delayed task does not wait for its due time.
    Ready,
    /// Only dead, cancelled and scheduled tasks are retried.
    NotEnded(State),
    /// Another task holds its unique key.
    Duplicate {
        holder: TaskId,
    },
    NotFound,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeleteReply {
    Deleted,
    /// Cancel it first.
    Running,
    NotFound,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EditReply {
    Edited,
    /// It runs or has succeeded: its arguments were used.
    Refused(State),
    NotFound,
}

/// The ends in a queue since a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feed {
    pub ends: Vec<End>,
    /// The feed has the ends before this time. It is the `since` of the next call.
    pub until: Millis,
    /// Whether older ends were left out, because there were more than the limit.
    pub is_cut: bool,
}

/// An end: a task that ended twice has two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct End {
    pub id: TaskId,
    pub state: State,
    pub at: Millis,
}

/// How many tasks a queue ever had. These only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Tasks that were added; children and firings too.
    pub enqueued: u64,
    /// Ends, by state. A task that is retried and ends again counts again; one that is deleted before its end does not count.
    pub succeeded: u64,
    pub dead: u64,
    pub cancelled: u64,
}

impl Totals {
    pub(super) fn add(&mut self, more: &Self) {
        let Self { enqueued, succeeded, dead, cancelled } = self;
        *enqueued += more.enqueued;
        *succeeded += more.succeeded;
        *dead += more.dead;
        *cancelled += more.cancelled;
    }
}

/// A queue at a glance.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QueueView {
    pub queue: QueueName,
    /// Exact. An ended task counts while it is kept.
    pub counts: BTreeMap<State, u64>,
    /// Age of the oldest ready task.
    pub oldest_ready_ms: Option<u64>,
    pub paused: bool,
    pub totals: Totals,
}
