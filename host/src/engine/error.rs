//! Why the engine could not do its work.

/// Why the engine could not do its work. A guest's own mistake is an `Outcome` instead.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// These bytes will never load: the text says why and how to build them right.
    #[error("{0}")]
    BadComponent(String),
    /// `describe` failed, trapped or said something that breaks the contract.
    #[error("{0}")]
    BadDescription(String),
    /// The wall time was over on a busy machine. A later try may succeed.
    #[error("{0}")]
    Busy(String),
    /// The machine refuses what the engine needs.
    #[error("{0}")]
    Host(String),
}
