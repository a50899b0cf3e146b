//! Why the engine could not do its work.

/// Why the engine could not do what it was asked; what a guest does wrong is an `Outcome` instead.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// These bytes will never load: the text says why and how to build them right.
    #[error("{0}")]
    BadComponent(String),
    /// `describe` failed, trapped or said something that breaks the contract.
    #[error("{0}")]
    BadDescription(String),
    /// Ran out of wall time on a busy machine: worth another try later.
    #[error("{0}")]
    Busy(String),
    /// The machine refuses what the engine needs.
    #[error("{0}")]
    Host(String),
}
