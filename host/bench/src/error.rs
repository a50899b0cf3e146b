//! Why a benchmark ended without its figures.

use taskhost_broker::BrokerError;

#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// A task of the benchmark did not end in time.
    #[error("{0}")]
    TimedOut(String),
    /// A task failed, or the machine failed.
    #[error("{0}")]
    Failed(String),
}
