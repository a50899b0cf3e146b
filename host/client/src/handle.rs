//! One task that was enqueued.

use std::{fmt, sync::Arc, time::Duration};

use serde::de::DeserializeOwned;
use taskhost_broker::{Broker, CancelReply};
use taskhost_core::task::{ErrorKind, QueueName, State, TaskError, TaskId, TaskView};

use crate::error::ClientError;

/// A task in its queue; cheap to clone.
#[derive(Clone)]
pub struct Handle {
    broker: Arc<dyn Broker>,
    queue: QueueName,
    id: TaskId,
    is_new: bool,
}

impl Handle {
    pub(crate) fn new(broker: Arc<dyn Broker>, queue: QueueName, id: TaskId, is_new: bool) -> Self {
        Self { broker, queue, id, is_new }
    }

    pub fn id(&self) -> &TaskId {
        &self.id
    }

    pub fn queue(&self) -> &QueueName {
        &self.queue
    }

    /// Whether this call added the task. `false`: its id was known, or this is the task that holds the unique key.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Waits for the end, at most `limit`, and reads the result as `T`. A result that was not kept reads as `null`.
    ///
    /// Errors: [`ClientError::TimedOut`] (the task goes on), [`ClientError::Failed`] when it ended without a result,
    /// [`ClientError::NoSuchTask`], [`ClientError::Shape`], [`ClientError::Broker`].
    pub async fn wait<T: DeserializeOwned>(&self, limit: Duration) -> Result<T, ClientError> {
        let view = self.broker.await_end(Some(&self.queue), &self.id, limit).await?;
        let view = view.ok_or_else(|| ClientError::NoSuchTask(self.id.clone()))?;
        match view.state {
            State::Succeeded => {
                let result = view.result.as_deref().map_or("null", |result| result.get());
                serde_json::from_str(result).map_err(|error| ClientError::Shape { id: self.id.clone(), error })
            }
            state if state.is_ended() => {
                let error = view.error.unwrap_or_else(|| TaskError::new(ErrorKind::Cancelled, "nothing more is known"));
                Err(ClientError::Failed { id: self.id.clone(), state, error })
            }
            state => Err(ClientError::TimedOut { id: self.id.clone(), limit, state }),
        }
    }

    /// Everything that is known of the task; `None` when nothing is kept of it.
    pub async fn view(&self) -> Result<Option<TaskView>, ClientError> {
        Ok(self.broker.find(Some(&self.queue), &self.id).await?)
    }

    /// Cancels it: a waiting task never runs; the worker of a running one is told, and the attempt ends soon.
    pub async fn cancel(&self) -> Result<CancelReply, ClientError> {
        Ok(self.broker.cancel(&self.queue, &self.id).await?)
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("queue", &self.queue).field("id", &self.id).field("is_new", &self.is_new).finish_non_exhaustive()
    }
}
