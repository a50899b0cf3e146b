//! What follows an outcome: pure.
//!
//! Outcome + attempts so far + who said how many → [`Verdict`].

use std::time::Duration;

use crate::{
    catalogue::Hints,
    task::{Outcome, Task, Verdict},
};

/// The worker's defaults, where neither the enqueuer nor the body's hint says otherwise.
#[derive(Debug, Clone, PartialEq)]
pub struct RetrySettings {
    /// At least 1; 4 is three retries.
    pub max_attempts: u32,
    /// The first delay; doubled each time.
    pub base: Duration,
    /// Never longer than this.
    pub cap: Duration,
}

impl Default for RetrySettings {
    fn default() -> Self {
        Self { max_attempts: 4, base: Duration::from_secs(1), cap: Duration::from_secs(3600) }
    }
}

/// The enqueuer's word, then the body's hint, then the worker's default.
pub fn max_attempts(task: &Task, hints: Option<&Hints>, settings: &RetrySettings) -> u32 {
    task.max_attempts.or_else(|| hints?.retries.map(|retries| retries.saturating_add(1))).unwrap_or(settings.max_attempts).max(1)
}

/// What follows. `jitter` is in 0..1: given, not drawn here.
pub fn judge(_task: &Task, _hints: Option<&Hints>, _settings: &RetrySettings, _outcome: Outcome, _jitter: f64) -> Verdict {
    unimplemented!()
}
