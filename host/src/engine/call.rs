//! One attempt as it is asked for, and as it ended.

use std::{fmt, sync::Arc, time::Duration};

use taskhost_core::task::{ErrorKind, Outcome, TaskError};
use tokio_util::sync::CancellationToken;

use super::{
    guest::{About, Terms},
    services::Services,
};

/// One attempt to be made.
pub struct Call {
    pub terms: Arc<Terms>,
    /// The body's name.
    pub body: String,
    /// A JSON array.
    pub args: String,
    pub about: About,
    /// Cut to `limits.timeout_ceiling`; waiting for a share of the CPU does not count.
    pub timeout: Duration,
    /// Set when somebody cancelled the task, or its lease was lost: the guest sees `is-cancelled` and has `grace` to return.
    pub cancelled: CancellationToken,
    pub grace: Duration,
    pub services: Arc<dyn Services>,
}

/// One attempt, ended.
#[derive(Debug)]
pub struct Attempted {
    pub outcome: Outcome,
    /// Newline-delimited JSON of [`LogLine`](super::LogLine), at most 64 KiB, the newest.
    pub log: String,
    pub ran: Duration,
    pub cpu: Duration,
    /// Bytes of linear memory at its largest.
    pub memory: u64,
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("plugin", &self.terms.plugin)
            .field("body", &self.body)
            .field("about", &self.about)
            .finish_non_exhaustive()
    }
}

impl Attempted {
    /// An attempt that did not come to run.
    pub(super) fn unrun(outcome: Outcome) -> Self {
        Self { outcome, log: String::new(), ran: Duration::ZERO, cpu: Duration::ZERO, memory: 0 }
    }

    /// Counted, so that a task that makes the host panic ends in the dead set and not in an endless loop.
    pub(super) fn panicked() -> Self {
        Self::unrun(Outcome::Failed {
            error: TaskError::new(ErrorKind::Trap, "the host panicked while it served this attempt: see the worker's log"),
            after: None,
        })
    }
}
