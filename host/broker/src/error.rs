//! Why a call on the broker failed.

use taskhost_core::task::{QueueName, TaskId};

pub type Result<T, E = BrokerError> = std::result::Result<T, E>;

/// Split by what the caller does next.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BrokerError {
    /// The broker is not reachable, or it stopped answering. Whether the step happened is unknown. Try again later.
    #[error("{0}")]
    Unavailable(String),
    /// The broker refused for now (out of memory, disk full, read-only replica, loading). Nothing happened. Try again later.
    #[error("{0}")]
    Refused(String),
    /// Wrong password, not a Redis, incompatible schema, bad address: an operator must change a setting.
    #[error("{0}")]
    Misconfigured(String),
    /// The call itself is wrong (payload over the limit, unknown schedule …). Nothing happened.
    #[error("{0}")]
    Invalid(String),
    /// Several queues have this id, and the call means one task. Nothing happened.
    #[error("`{id}` is in the queues {}: choose one", named(.queues))]
    Ambiguous { id: TaskId, queues: Vec<QueueName> },
    /// The broker holds something that this host can't read. The text says where.
    #[error("{0}")]
    Corrupt(String),
    /// The address names another database than the open one. This process must end and start again.
    #[error("{0}")]
    Gone(String),
}

impl BrokerError {
    /// Whether the same call may succeed later without a change by the operator.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Refused(_))
    }

    /// Whether the call may have taken effect although it failed.
    pub fn is_fate_unknown(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

fn named(queues: &[QueueName]) -> String {
    queues.iter().map(|queue| format!("`{queue}`")).collect::<Vec<_>>().join(", ")
}
