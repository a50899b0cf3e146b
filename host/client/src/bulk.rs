//! A bulk that ended early: the tasks that were enqueued, and the error.

use crate::{error::ClientError, handle::Handle};

/// A bulk that ended early.
#[derive(Debug, thiserror::Error)]
#[error("{} tasks were enqueued, then: {error}", enqueued.len())]
pub struct BulkError {
    /// The tasks of the steps before the one that failed.
    pub enqueued: Vec<Handle>,
    #[source]
    pub error: ClientError,
}
