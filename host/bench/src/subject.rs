//! The measured host: it runs workers, and isolated calls of one body `(number, number) -> number`.

use std::{fmt, path::Path, sync::Arc};

use async_trait::async_trait;
use taskhost_broker::Broker;
use taskhost_core::task::{CodeId, QueueName, TaskName};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use crate::error::BenchError;

/// Called for each ended attempt. `Err` has its error.
pub type Ended = Arc<dyn Fn(Result<(), String>) + Send + Sync>;

/// A worker to run in this process.
pub struct WorkerOrder {
    pub broker: Arc<dyn Broker>,
    pub queues: Vec<QueueName>,
    /// Attempts at once.
    pub slots: usize,
    /// Further names under which the worker offers the same body.
    pub names: Vec<TaskName>,
    pub ended: Ended,
}

impl fmt::Debug for WorkerOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerOrder").field("queues", &self.queues).field("slots", &self.slots).finish_non_exhaustive()
    }
}

/// The host under measurement.
#[async_trait]
pub trait Subject: Send + Sync {
    /// The body's name.
    fn body(&self) -> TaskName;
    /// The code behind it, as a worker records it.
    fn code(&self) -> CodeId;
    /// Calls the body in fresh sandboxes, without a broker: `each` times one after the other in each of `lanes` lanes.
    async fn call(&self, lanes: usize, each: usize) -> Result<(), BenchError>;
    /// Runs a worker with the loops of `taskhost worker` until `drain` is cancelled. Returns the number of tasks that it recorded as succeeded.
    async fn work(&self, order: WorkerOrder, drain: CancellationToken) -> Result<u64, BenchError>;
    /// A separate process that answers HTTP at a free port of this machine, and logs where.
    fn server(&self, variables: Vec<(&'static str, String)>) -> Result<Command, BenchError>;
    /// A separate worker process on the queue `queue` and these directories. `variables` of the environment name its broker.
    fn process(&self, queue: &str, plugins: &Path, state: &Path, variables: Vec<(&'static str, String)>) -> Result<Command, BenchError>;
}
