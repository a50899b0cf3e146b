//! The end of a worker: counts of its work, or the error that ended it.

use std::sync::atomic::{AtomicU64, Ordering};

use taskhost_broker::BrokerError;

/// Counts of a worker's work, for its last log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    pub succeeded: u64,
    /// Attempts that did not succeed. Their tasks may run again.
    pub failed: u64,
    /// Attempts that outlasted the drain time. Their tasks went back, and the attempt does not count.
    pub handed_back: u64,
    /// Tasks that could not be recorded because the broker was gone. They run elsewhere when the lease ends.
    pub left_behind: u64,
}

/// Why a worker could not begin, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// Somebody must change a setting.
    #[error("{0}")]
    Settings(String),
    /// The broker refuses this worker for good: wrong password, not a Redis, incompatible schema.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// A loop of the worker died: see [`Stop::watch`](super::Stop::watch).
    #[error("{0}")]
    Died(String),
}

/// The counts of a [`Summary`] while the worker runs.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) succeeded: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) handed_back: AtomicU64,
    pub(super) left_behind: AtomicU64,
}

impl Tally {
    pub(super) fn summary(&self) -> Summary {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Summary {
            succeeded: read(&self.succeeded),
            failed: read(&self.failed),
            handed_back: read(&self.handed_back),
            left_behind: read(&self.left_behind),
        }
    }
}
