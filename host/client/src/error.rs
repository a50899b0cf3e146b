//! The errors of a producer.

use std::time::Duration;

use taskhost_broker::BrokerError;
use taskhost_core::{
    task::{State, TaskError, TaskId},
    workflow::FlowWord,
};

/// Why a call failed, by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The request can't be enqueued as it is: a name, an argument, a size, an address. Nothing happened; mend the request.
    #[error("{0}")]
    Invalid(String),
    /// The broker failed or refused; [`BrokerError::is_transient`] says whether the same call may succeed later.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The task has ended without a result: `Dead` after its last attempt, or `Cancelled`.
    #[error("task `{id}` ended {state}: {error}")]
    Failed { id: TaskId, state: State, error: TaskError },
    /// The task has not ended within the limit. It goes on; wait again.
    #[error("task `{id}` has not ended after {limit:?}: it is {state}")]
    TimedOut { id: TaskId, limit: Duration, state: State },
    /// The flow has failed, or was cancelled.
    #[error("flow `{id}` is {}: {why}", state.as_str())]
    FlowFailed { id: TaskId, state: FlowWord, why: String },
    /// The flow has not ended within the limit. It goes on; wait again.
    #[error("flow `{id}` has not ended after {limit:?}")]
    FlowTimedOut { id: TaskId, limit: Duration },
    /// The broker knows no such task: its result was kept for its time and is gone, or it was deleted.
    #[error("no task `{0}`: its result may have been kept for its time and be gone, or it was deleted")]
    NoSuchTask(TaskId),
    /// The result is JSON of another shape than the type that was asked for.
    #[error("the result of task `{id}` has another shape: {error}")]
    Shape { id: TaskId, error: serde_json::Error },
}
