//! Enqueue tasks of taskhost from Rust, wait for their results, and cancel them.
//!
//! [`Client::connect`] → [`Request`] → [`Client::enqueue`] → [`Handle::wait`]. The workers run somewhere else: a client needs no plugin
//! and no sandbox, only the address of the broker.
//!
//! ```
//! use std::time::Duration;
//! use taskhost_client::{Client, ClientError, Request};
//!
//! # async fn run() -> Result<(), ClientError> {
//! # let dir = tempdir();
//! # let address = format!("sqlite:{}", dir.join("taskhost.db").display());
//! // redis://127.0.0.1:6379, or a SQLite file that the worker uses too.
//! let client = Client::connect(&address).await?;
//! let task = client.enqueue(&Request::new("add", (1, 1))).await?;
//! match task.wait::<i64>(Duration::from_millis(10)).await {
//!     Ok(sum) => println!("1 + 1 = {sum}"),
//!     Err(ClientError::TimedOut { .. }) => println!("no worker has run it yet"),
//!     Err(error) => return Err(error),
//! }
//! # std::fs::remove_dir_all(dir).unwrap();
//! # Ok(())
//! # }
//! # fn tempdir() -> std::path::PathBuf {
//! #     let dir = std::env::temp_dir().join(format!("taskhost-client-doc-{}", std::process::id()));
//! #     std::fs::create_dir_all(&dir).unwrap();
//! #     dir
//! # }
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run()).unwrap();
//! ```

mod bulk;
mod error;
mod flow;
mod handle;
mod request;

pub use bulk::BulkError;
pub use error::ClientError;
pub use flow::{Flow, FlowHandle, Step, StepName, input, item};
pub use handle::Handle;
pub use request::Request;
pub use taskhost_broker::{Ask, AskReply, BrokerError, BrokerSettings, CancelReply, Durability, FlowView};
pub use taskhost_core::task::{ErrorKind, QueueName, State, TaskError, TaskId, TaskName, TaskView};
pub use taskhost_core::workflow::FlowWord;

use std::{fmt, sync::Arc};

use taskhost_broker::{Broker, BrokerAddress, Enqueued};
use taskhost_core::catalogue::Given;

/// Tasks of one call to the broker in [`Client::enqueue_all`].
const BATCH: usize = 500;

/// A connection to the broker; cheap to clone, reconnects by itself.
#[derive(Clone)]
pub struct Client {
    broker: Arc<dyn Broker>,
    address: BrokerAddress,
}

impl Client {
    /// Connects to `redis://HOST:PORT` (also `rediss://`, `redis+unix://`, `redis+sentinel://`, `redis+cluster://`) or `sqlite:PATH` with the
    /// default settings: key prefix `th`, payloads of at most 1 MiB.
    ///
    /// Errors: [`ClientError::Invalid`] for an address that can't be read, [`ClientError::Broker`] when the broker can't be used.
    pub async fn connect(address: &str) -> Result<Self, ClientError> {
        Self::connect_with(address, BrokerSettings::default()).await
    }

    /// The same with other settings. They must be those of the workers: a client with another key prefix sees other tasks.
    pub async fn connect_with(address: &str, settings: BrokerSettings) -> Result<Self, ClientError> {
        let address = BrokerAddress::parse(address).map_err(ClientError::Invalid)?;
        Ok(Self { broker: taskhost_broker::connect(&address, settings).await?, address })
    }

    /// Checks the task's name and arguments against the bodies that workers have announced. Costs one read of the catalogue.
    ///
    /// Errors: [`ClientError::Invalid`] says which argument does not fit, or which names are near.
    pub async fn check(&self, request: &Request) -> Result<(), ClientError> {
        let task = request.build()?;
        let catalogue = self.broker.catalogue().await?;
        catalogue.check(&task.name, &Given::Json(task.args)).map(drop).map_err(|error| ClientError::Invalid(error.to_string()))
    }

    /// Enqueues one task. When this returns `Ok`, the broker has the task, and it ends in a recorded result or in the dead set.
    ///
    /// A request has a fixed id, so that enqueueing it again after an error is safe. [`Handle::is_new`] says whether the task was added.
    pub async fn enqueue(&self, request: &Request) -> Result<Handle, ClientError> {
        let task = request.build()?;
        let reply = self.broker.enqueue(std::slice::from_ref(&task)).await?;
        Ok(self.handle(task.queue, task.id, reply.into_iter().next()))
    }

    /// Enqueues many tasks, 1,000 in one step each; a handle for each request, in their order.
    ///
    /// Nothing is enqueued when one request is invalid. When the broker fails midway, [`BulkError::enqueued`] has the handles of the
    /// steps before. The step that failed may have happened: enqueueing the remaining requests again is safe.
    pub async fn enqueue_all(&self, requests: &[Request]) -> Result<Vec<Handle>, BulkError> {
        let invalid = |error| BulkError { enqueued: Vec::new(), error };
        let tasks = requests.iter().map(Request::build).collect::<Result<Vec<_>, _>>().map_err(invalid)?;
        let mut handles = Vec::with_capacity(tasks.len());
        for batch in tasks.chunks(BATCH) {
            match self.broker.enqueue(batch).await {
                Ok(replies) => {
                    let added = batch.iter().zip(replies);
                    handles.extend(added.map(|(task, reply)| self.handle(task.queue.clone(), task.id.clone(), Some(reply))));
                }
                Err(error) => return Err(BulkError { enqueued: handles, error: error.into() }),
            }
        }
        Ok(handles)
    }

    /// Starts a flow. When this returns `Ok`, the broker has it, and it ends.
    ///
    /// A flow has a fixed id, so that starting it again after an error is safe. [`FlowHandle::is_new`] says whether it was started by this call.
    ///
    /// Errors: [`ClientError::Broker`] with the place of what is wrong in the flow, or when the broker can't be used.
    pub async fn start_flow(&self, flow: &Flow) -> Result<FlowHandle, ClientError> {
        let flow = flow.build()?;
        let is_new = self.broker.start_flow(&flow).await?;
        Ok(FlowHandle::new(Arc::clone(&self.broker), flow.queue, flow.id, is_new))
    }

    /// A handle on a flow that was started before, by whomever.
    pub fn flow(&self, queue: QueueName, id: TaskId) -> FlowHandle {
        FlowHandle::new(Arc::clone(&self.broker), queue, id, false)
    }

    /// A handle on a task that was enqueued before, by whomever.
    pub fn task(&self, queue: QueueName, id: TaskId) -> Handle {
        self.handle(queue, id, None)
    }

    fn handle(&self, queue: QueueName, id: TaskId, reply: Option<Enqueued>) -> Handle {
        let (id, is_new) = match reply {
            Some(Enqueued::Added) => (id, true),
            Some(Enqueued::Duplicate { holder }) => (holder, false),
            None => (id, false),
        };
        Handle::new(self.broker.clone(), queue, id, is_new)
    }
}

/// Without the password.
impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({})", self.address)
    }
}

/// The example of the README is compiled with the others.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
