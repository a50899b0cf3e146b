//! Why the broker could not do what it was asked.

/// Split by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// Not reachable, or it stopped answering: whether the step happened is unknown. Try again later.
    #[error("{0}")]
    Unavailable(String),
    /// It answered and refused for now (out of memory, disk full, read-only replica, loading). Nothing happened. Try again later.
    #[error("{0}")]
    Refused(String),
    /// Wrong password, not a Redis, incompatible schema, bad address: somebody must change a setting.
    #[error("{0}")]
    Misconfigured(String),
    /// What was asked can't be done as asked (payload over the limit, unknown schedule …). Nothing happened.
    #[error("{0}")]
    Invalid(String),
    /// The broker holds something we can't read: its text says where.
    #[error("{0}")]
    Corrupt(String),
    /// What this process was connected to is not what its address names any more: it ends, and another starts anew.
    #[error("{0}")]
    Gone(String),
}

impl BrokerError {
    /// Whether the same call may succeed later without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Refused(_))
    }

    /// Whether the call may have taken effect although it failed.
    pub fn is_fate_unknown(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}
