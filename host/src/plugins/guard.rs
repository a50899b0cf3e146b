//! Decides whether a new version does worse than the one before. Pure, except for the counters that attempts feed.
//!
//! an attempt ends → [`Tally`] → [`Trial::look`] → go on, proven, or roll back
//!
//! Invariant: only a plugin's own failures count against it. A version is on trial once, after it replaced another. An older version would
//! not mend later failures.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::digest::Digest;
use taskhost_core::task::{ErrorKind, Outcome};

/// The bounds that a new version must keep: `[plugins.X] guard`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Guard {
    /// A new version is on trial at least for this time, and until `min_attempts` have ended.
    pub window: Duration,
    /// Between 0 and 1.
    pub max_failure_rate: f64,
    pub min_attempts: u64,
}

impl Default for Guard {
    fn default() -> Self {
        Self { window: Duration::from_secs(60), max_failure_rate: 0.5, min_attempts: 20 }
    }
}

impl Guard {
    fn fails(&self, counts: Counts) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "a rate, not an account")]
        let rate = counts.failed as f64 / counts.ended.max(1) as f64;
        counts.ended >= self.min_attempts && rate > self.max_failure_rate
    }
}

/// Attempts that count for or against the plugin, and those of them without a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counts {
    pub(super) ended: u64,
    pub(super) failed: u64,
}

/// How the attempts of one version end on this worker. Only plugins with a guard are counted.
#[derive(Debug)]
pub struct Tally {
    guard: Guard,
    ended: AtomicU64,
    failed: AtomicU64,
    /// Notified when a trial may be lost. Later losses are found by the next look.
    told: AtomicBool,
    look: Arc<Notify>,
}

impl Tally {
    fn new(guard: Guard, look: Arc<Notify>) -> Self {
        Self { guard, ended: AtomicU64::new(0), failed: AtomicU64::new(0), told: AtomicBool::new(false), look }
    }

    /// Counts the end of one attempt.
    pub fn count(&self, outcome: &Outcome) {
        let failed = match outcome {
            Outcome::Done { .. } => false,
            Outcome::Failed { error, .. } if is_its_doing(error.kind) => true,
            Outcome::Failed { .. } | Outcome::HostFault { .. } => return,
        };
        if failed {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
        self.ended.fetch_add(1, Ordering::Relaxed);
        if failed && self.guard.fails(self.counts()) && !self.told.swap(true, Ordering::Relaxed) {
            self.look.notify_one();
        }
    }

    fn counts(&self) -> Counts {
        // In this order a failure is never counted without its end.
        let failed = self.failed.load(Ordering::Relaxed);
        Counts { ended: self.ended.load(Ordering::Relaxed).max(failed), failed }
    }
}

/// Refused arguments count as failures, because a version that takes other arguments than the one before breaks its producers.
fn is_its_doing(kind: ErrorKind) -> bool {
    match kind {
        ErrorKind::Retry
        | ErrorKind::Panic
        | ErrorKind::Trap
        | ErrorKind::Exit
        | ErrorKind::Timeout
        | ErrorKind::MemoryLimit
        | ErrorKind::StackOverflow
        | ErrorKind::Permanent
        | ErrorKind::InvalidArguments
        | ErrorKind::NoSuchBody
        | ErrorKind::BadResult
        | ErrorKind::ResultTooLarge => true,
        ErrorKind::WorkerLost | ErrorKind::UnknownTask | ErrorKind::Unreadable | ErrorKind::Cancelled | ErrorKind::Expired => false,
    }
}

/// The counts of the version that serves from one file.
#[derive(Debug)]
pub(super) struct Trial {
    pub(super) digest: Digest,
    pub(super) tally: Arc<Tally>,
    guard: Guard,
    began: Instant,
    is_open: bool,
    /// The counts of the version before it, in its last window or two.
    before: Counts,
    /// The counts at the start of the present window, and those of the window before.
    mark: (Instant, Counts),
    last: Counts,
    /// Whether it was rolled back.
    is_left: bool,
}

/// The result of a look at a trial.
#[derive(Debug, PartialEq)]
pub(super) enum Found {
    Nothing,
    /// It keeps its bounds, or does no worse than the one before. The trial is over.
    Proven,
    /// It fails as often as the version before, so going back would not help.
    NoBetterBefore(Counts),
    Worse {
        now: Counts,
        before: Counts,
    },
}

impl Trial {
    /// Counts for `digest`. `after` has the counts of the version that it replaced.
    pub(super) fn new(digest: Digest, guard: Guard, look: Arc<Notify>, after: Option<&Trial>, on_trial: bool) -> Self {
        let began = Instant::now();
        let tally = Arc::new(Tally::new(guard, look));
        let before = after.map(Self::recent).unwrap_or_default();
        let mark = (began, Counts::default());
        Self { digest, tally, guard, began, is_open: on_trial, before, mark, last: Counts::default(), is_left: false }
    }

    /// The same version under other bounds: its attempts are counted anew, and the version before it stays the same.
    pub(super) fn anew(&self, guard: Guard, look: Arc<Notify>) -> Self {
        Self { before: self.before, ..Self::new(self.digest.clone(), guard, look, None, self.is_open) }
    }

    /// The counts to compare the next version with: those of the version before this one, because this one was bad.
    pub(super) fn leave(&mut self) {
        self.is_left = true;
    }

    /// Uses other bounds from now on, and keeps the counts.
    pub(super) fn is_under(&self, guard: &Guard) -> bool {
        self.guard == *guard
    }

    pub(super) fn look(&mut self) -> Found {
        let now = self.tally.counts();
        if self.mark.0.elapsed() >= self.guard.window {
            self.last = less(now, self.mark.1);
            self.mark = (Instant::now(), now);
        }
        if !self.is_open {
            return Found::Nothing;
        }
        let found = match (self.guard.fails(now), self.guard.fails(self.before)) {
            (true, false) => Found::Worse { now, before: self.before },
            (true, true) => Found::NoBetterBefore(now),
            _ if now.ended >= self.guard.min_attempts && self.began.elapsed() >= self.guard.window => Found::Proven,
            _ => Found::Nothing,
        };
        self.is_open = found == Found::Nothing;
        found
    }

    fn recent(&self) -> Counts {
        if self.is_left {
            return self.before;
        }
        let now = less(self.tally.counts(), self.mark.1);
        Counts { ended: now.ended + self.last.ended, failed: now.failed + self.last.failed }
    }
}

fn less(now: Counts, then: Counts) -> Counts {
    Counts { ended: now.ended.saturating_sub(then.ended), failed: now.failed.saturating_sub(then.failed) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use taskhost_core::task::TaskError;

    fn trial(after: Option<&Trial>) -> Trial {
        Trial::new("d".into(), Guard::default(), Arc::default(), after, true)
    }

    fn done(trial: &Trial, times: u64) {
        for _ in 0..times {
            trial.tally.count(&Outcome::Done { result: "1".into(), children: Vec::new() });
        }
    }

    fn failed(trial: &Trial, kind: ErrorKind, times: u64) {
        for _ in 0..times {
            trial.tally.count(&Outcome::Failed { error: TaskError::new(kind, "as asked"), after: None });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_version_that_fails_where_the_one_before_did_not_is_found_at_once() {
        let mut trial = trial(None);
        failed(&trial, ErrorKind::Panic, 10);
        done(&trial, 9);
        assert_eq!(trial.look(), Found::Nothing, "19 are too few to tell");
        failed(&trial, ErrorKind::Timeout, 1);
        let now = Counts { ended: 20, failed: 11 };
        assert_eq!(trial.look(), Found::Worse { now, before: Counts::default() });
        assert_eq!(trial.look(), Found::Nothing, "it is said once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_at_the_bound_is_borne_and_a_trial_ends_with_its_window() {
        let mut trial = trial(None);
        failed(&trial, ErrorKind::Retry, 10);
        done(&trial, 10);
        assert_eq!(trial.look(), Found::Nothing);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(trial.look(), Found::Proven);
        failed(&trial, ErrorKind::Retry, 1000);
        assert_eq!(trial.look(), Found::Nothing, "what fails later is not the new version's fault");
    }

    #[tokio::test(start_paused = true)]
    async fn a_trial_waits_for_enough_attempts() {
        let mut trial = trial(None);
        for _ in 0..100 {
            tokio::time::advance(Duration::from_secs(60)).await;
            assert_eq!(trial.look(), Found::Nothing);
        }
        failed(&trial, ErrorKind::Trap, 20);
        assert!(matches!(trial.look(), Found::Worse { .. }));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_fails_like_the_version_before_stays() {
        let old = trial(None);
        failed(&old, ErrorKind::Permanent, 30);
        let mut new = trial(Some(&old));
        failed(&new, ErrorKind::Permanent, 30);
        assert_eq!(new.look(), Found::NoBetterBefore(Counts { ended: 30, failed: 30 }));
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_version_that_was_gone_back_from_the_one_before_it_is_the_measure() {
        let old = trial(None);
        done(&old, 30);
        let mut bad = trial(Some(&old));
        failed(&bad, ErrorKind::Permanent, 30);
        assert!(matches!(bad.look(), Found::Worse { .. }));
        bad.leave();
        let mut new = trial(Some(&bad));
        failed(&new, ErrorKind::Permanent, 30);
        assert_eq!(new.look(), Found::Worse { now: Counts { ended: 30, failed: 30 }, before: Counts { ended: 30, failed: 0 } });
    }

    #[tokio::test(start_paused = true)]
    async fn other_bounds_do_not_make_one_forget_how_the_version_before_did() {
        let old = trial(None);
        failed(&old, ErrorKind::Permanent, 30);
        let mut new = trial(Some(&old)).anew(Guard { min_attempts: 5, ..Guard::default() }, Arc::default());
        failed(&new, ErrorKind::Permanent, 30);
        assert_eq!(new.look(), Found::NoBetterBefore(Counts { ended: 30, failed: 30 }));
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_version_before_did_long_ago_does_not_count() {
        let mut old = trial(None);
        failed(&old, ErrorKind::Permanent, 30);
        for _ in 0..3 {
            tokio::time::advance(Duration::from_secs(60)).await;
            old.look();
        }
        done(&old, 30);
        let mut new = trial(Some(&old));
        failed(&new, ErrorKind::Permanent, 30);
        assert_eq!(new.look(), Found::Worse { now: Counts { ended: 30, failed: 30 }, before: Counts { ended: 30, failed: 0 } });
    }

    #[tokio::test]
    async fn what_is_not_the_plugins_doing_is_not_counted() {
        let trial = trial(None);
        for kind in [ErrorKind::Cancelled, ErrorKind::WorkerLost, ErrorKind::Expired] {
            failed(&trial, kind, 100);
        }
        trial.tally.count(&Outcome::HostFault { reason: "no memory".into(), delay: Duration::ZERO });
        assert_eq!(trial.tally.counts(), Counts::default());
    }

    #[tokio::test]
    async fn whoever_looks_is_woken_once() {
        let look = Arc::new(Notify::new());
        let trial = Trial::new("d".into(), Guard::default(), look.clone(), None, true);
        failed(&trial, ErrorKind::Panic, 20);
        look.notified().await;
        failed(&trial, ErrorKind::Panic, 20);
        assert!(futures_util::FutureExt::now_or_never(look.notified()).is_none());
    }
}
