//! The request for one attempt, and its end.

use std::{fmt, sync::Arc, time::Duration};

use taskhost_core::{
    observe::Requests,
    task::{ErrorKind, Outcome, TaskError},
    trace::Within,
};
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
    /// At most `limits.timeout_ceiling` takes effect. Time in the queue for the CPU does not count.
    pub timeout: Duration,
    /// Set when the task was cancelled, or its lease was lost. The guest sees `is-cancelled` and has `grace` to return.
    pub cancelled: CancellationToken,
    pub grace: Duration,
    pub services: Arc<dyn Services>,
}

/// The end of one attempt.
#[derive(Debug)]
pub struct Attempted {
    pub outcome: Outcome,
    /// Newline-delimited JSON of [`LogLine`](taskhost_core::task::LogLine): the newest 64 KiB.
    pub log: String,
    pub ran: Duration,
    pub cpu: Duration,
    /// The largest size of its linear memory, in bytes.
    pub memory: u64,
    /// The HTTP requests that it sent.
    pub requests: Requests,
    /// What it did below its own span, if it is traced.
    pub within: Within,
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
    /// An attempt that did not run.
    pub fn unrun(outcome: Outcome) -> Self {
        let (requests, within) = (Requests::default(), Within::default());
        Self { outcome, log: String::new(), ran: Duration::ZERO, cpu: Duration::ZERO, memory: 0, requests, within }
    }

    /// It counts, so that a task that makes the host panic ends in the dead set instead of an endless loop.
    pub(super) fn panicked() -> Self {
        Self::unrun(Outcome::Failed {
            error: TaskError::new(ErrorKind::Trap, "the host panicked while it served this attempt: see the worker's log"),
            after: None,
        })
    }
}
