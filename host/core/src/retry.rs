//! Decides what follows from an attempt: pure.
//!
//! outcome + attempts so far + limits on attempts → [`judge`] → verdict and follows → [`transition`] → what the broker writes
//!
//! Invariant: an attempt that ended or was lost counts. An attempt that the host could not run does not. No delay is longer than the
//! settings' cap, unless the body asked for a longer one, up to [`LONGEST_WISH`].

use std::time::Duration;

use crate::{
    backoff::Backoff,
    catalogue::Hints,
    task::{ErrorKind, Follow, NewTask, Outcome, Task, TaskError, Verdict},
    trace,
};

mod transition;

pub use transition::{Next, Transition, oversize, transition};

/// The longest delay that a body may ask for.
pub const LONGEST_WISH: Duration = Duration::from_secs(30 * 24 * 3600);

/// The verdict of an outcome, and what follows if the verdict is recorded. The caller draws `jitter` from 0..1.
///
/// A retry waits as long as the body asked, else for [`RetrySettings::backoff`]. A failure ends the task if it was the last attempt, or if
/// another attempt can't do better. A child inherits options of its parent, and its trace.
pub fn judge(task: &Task, hints: Option<&Hints>, settings: &RetrySettings, outcome: Outcome, jitter: f64) -> (Verdict, Vec<Follow>) {
    match outcome {
        Outcome::Done { result, children } => {
            let follow = |mut child: NewTask| {
                child.options.carried.inherit(&task.options.carried);
                trace::inherit(&mut child.options.headers, &task.options.headers);
                Follow::Enqueue(child)
            };
            (Verdict::Succeed { result }, children.into_iter().map(follow).collect())
        }
        Outcome::HostFault { delay, .. } => (Verdict::HandBack { delay }, Vec::new()),
        Outcome::Failed { error, after } => (failed(task, hints, settings, error, after, jitter), Vec::new()),
    }
}

fn failed(task: &Task, hints: Option<&Hints>, settings: &RetrySettings, error: TaskError, wish: Option<Duration>, jitter: f64) -> Verdict {
    if matches!(error.kind, ErrorKind::Cancelled | ErrorKind::Expired) {
        return Verdict::Cancel { error };
    }
    let attempts = task.tries.saturating_add(1);
    if !error.kind.is_retryable() || attempts >= max_attempts(task, hints, settings) {
        return Verdict::Dead { error };
    }
    let delay = match wish {
        Some(wish) => wish.min(LONGEST_WISH),
        None => settings.backoff.delay(task.tries, jitter),
    };
    Verdict::Retry { error, delay }
}

/// How many attempts a task may have: as its enqueuer says, else as the body's hint says, else the worker's default.
pub fn max_attempts(task: &Task, hints: Option<&Hints>, settings: &RetrySettings) -> u32 {
    task.options.max_attempts.or_else(|| hints?.retries.map(|retries| retries.saturating_add(1))).unwrap_or(settings.max_attempts).max(1)
}

/// The worker's defaults. They apply if neither the enqueuer nor the body's hint says otherwise.
#[derive(Debug, Clone, PartialEq)]
pub struct RetrySettings {
    /// At least 1; 4 is three retries.
    pub max_attempts: u32,
    /// The delay before a retry, if the body asks for none.
    pub backoff: Backoff,
}

impl Default for RetrySettings {
    fn default() -> Self {
        Self { max_attempts: 4, backoff: Backoff::new(Duration::from_secs(1), Duration::from_secs(3600)) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::task::{Millis, QueueName, TaskId, TaskName, TaskOptions};

    fn task(tries: u32, max_attempts: Option<u32>) -> Task {
        Task {
            id: TaskId::fresh(),
            name: TaskName::new("add").unwrap(),
            args: "[]".into(),
            queue: QueueName::default(),
            enqueued_at: Millis(0),
            tries,
            losses: 0,
            options: TaskOptions { max_attempts, ..TaskOptions::default() },
        }
    }

    fn failed(kind: ErrorKind, after: Option<Duration>) -> Outcome {
        Outcome::Failed { error: TaskError::new(kind, "no"), after }
    }

    const RETRYABLE: [ErrorKind; 8] = [
        ErrorKind::Retry,
        ErrorKind::Panic,
        ErrorKind::Trap,
        ErrorKind::Exit,
        ErrorKind::Timeout,
        ErrorKind::MemoryLimit,
        ErrorKind::StackOverflow,
        ErrorKind::WorkerLost,
    ];
    const DEADLY: [ErrorKind; 6] = [
        ErrorKind::Permanent,
        ErrorKind::InvalidArguments,
        ErrorKind::NoSuchBody,
        ErrorKind::BadResult,
        ErrorKind::ResultTooLarge,
        ErrorKind::UnknownTask,
    ];

    #[test]
    fn delays_double_from_one_second_and_stop_at_an_hour() {
        let backoff = RetrySettings::default().backoff;
        let whole: Vec<_> = (0..14).map(|tries| backoff.delay(tries, 1.0).as_secs()).collect();
        assert_eq!(whole, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 3600, 3600]);
        assert_eq!(backoff.delay(0, 0.0), Duration::from_millis(500));
        assert_eq!(backoff.delay(u32::MAX, f64::NAN), Duration::from_secs(3600));
    }

    #[test]
    fn the_default_is_three_retries() {
        let ends: Vec<_> = (0..4)
            .map(|tries| {
                matches!(
                    judge(&task(tries, None), None, &RetrySettings::default(), failed(ErrorKind::Panic, None), 0.5).0,
                    Verdict::Dead { .. }
                )
            })
            .collect();
        assert_eq!(ends, [false, false, false, true]);
    }

    #[test]
    fn the_enqueuer_overrides_the_hint_and_the_hint_the_default() {
        let hints = Hints { retries: Some(1), ..Hints::default() };
        let settings = RetrySettings::default();
        assert_eq!(max_attempts(&task(0, Some(9)), Some(&hints), &settings), 9);
        assert_eq!(max_attempts(&task(0, None), Some(&hints), &settings), 2);
        assert_eq!(max_attempts(&task(0, None), Some(&Hints::default()), &settings), 4);
        assert_eq!(max_attempts(&task(0, Some(0)), None, &settings), 1);
        let endless = Hints { retries: Some(u32::MAX), ..Hints::default() };
        assert_eq!(max_attempts(&task(0, None), Some(&endless), &settings), u32::MAX);
    }

    #[test]
    fn what_the_host_could_not_give_is_handed_back_uncounted() {
        let outcome = Outcome::HostFault { reason: "no memory".into(), delay: Duration::from_millis(300) };
        let judged = judge(&task(3, Some(4)), None, &RetrySettings::default(), outcome, 0.5);
        assert_eq!(judged, (Verdict::HandBack { delay: Duration::from_millis(300) }, Vec::new()));
    }

    #[test]
    fn children_follow_a_result() {
        let child = NewTask::new(TaskName::new("add").unwrap(), "[1,1]");
        let outcome = Outcome::Done { result: "2".into(), children: vec![child.clone()] };
        let judged = judge(&task(9, Some(1)), None, &RetrySettings::default(), outcome, 0.5);
        assert_eq!(judged, (Verdict::Succeed { result: "2".into() }, vec![Follow::Enqueue(child)]));
    }

    proptest! {
        #[test]
        fn a_retryable_failure_retries_until_the_attempts_are_used_up(
            kind in prop::sample::select(RETRYABLE.as_slice()), tries: u32, max in 1_u32..50, jitter in 0.0..1.0_f64, after in prop::option::of(0_u64..10_000_000)
        ) {
            let wish = after.map(Duration::from_secs);
            match judge(&task(tries % 60, Some(max)), None, &RetrySettings::default(), failed(kind, wish), jitter).0 {
                Verdict::Dead { error } => prop_assert!(error.kind == kind && tries % 60 + 1 >= max),
                Verdict::Retry { error, delay } => {
                    prop_assert!(error.kind == kind && tries % 60 + 1 < max);
                    match wish {
                        Some(wish) => prop_assert_eq!(delay, wish.min(LONGEST_WISH)),
                        None => prop_assert!(delay >= Duration::from_millis(500) && delay <= Duration::from_secs(3600)),
                    }
                }
                other => prop_assert!(false, "{other:?}"),
            }
        }

        #[test]
        fn other_kinds_end_the_task_at_once(kind in prop::sample::select(DEADLY.as_slice()), tries in 0_u32..100, after in prop::option::of(0_u64..100)) {
            let (verdict, _) = judge(&task(tries, Some(u32::MAX)), None, &RetrySettings::default(), failed(kind, after.map(Duration::from_secs)), 0.5);
            prop_assert!(matches!(verdict, Verdict::Dead { .. }), "{verdict:?}");
        }

        #[test]
        fn a_cancelled_attempt_cancels_the_task(kind in prop::sample::select([ErrorKind::Cancelled, ErrorKind::Expired].as_slice()), tries in 0_u32..100) {
            let (verdict, _) = judge(&task(tries, None), None, &RetrySettings::default(), failed(kind, None), 0.5);
            prop_assert!(matches!(verdict, Verdict::Cancel { .. }), "{verdict:?}");
        }
    }
}
