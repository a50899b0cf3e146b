//! The data that one pass carries from step to step.

use std::sync::Arc;

use crate::plugins::digest::Digest;

#[derive(Debug, Default)]
pub(super) struct Pass {
    /// The bytes that it has read.
    pub(super) captured: Vec<(Digest, Arc<[u8]>)>,
    /// Whether another pass is needed soon, because a file changed during this one or waits for memory.
    pub(super) is_unsettled: bool,
}
