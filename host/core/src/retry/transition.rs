//! Decides what a verdict makes of its task, for every broker. Pure.
//!
//! verdict + follows + payload limit → [`Transition`] → the broker writes it, or [`Transition::instead`] if a cancel was asked for
//!
//! Invariant: an end that a body or a limit decided stands, also against a cancel. A lost worker decides nothing, so a cancel comes first.

use std::{borrow::Cow, time::Duration};

use crate::task::{ErrorKind, Follow, NewTask, TaskError, Verdict};

/// The record of one attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Transition<'a> {
    pub next: Next<'a>,
    /// The error that the task shows from now on. `None` keeps the one that it has, if it has not ended.
    pub error: Option<Cow<'a, TaskError>>,
    /// The error of this attempt, for the task's history.
    pub noted: Option<Cow<'a, TaskError>>,
    /// Whether the attempt counts.
    pub is_counted: bool,
    /// What is done in the same step. Empty if a cancel came instead, or if the verdict was refused.
    pub follows: &'a [Follow],
    yields_to_cancel: bool,
}

/// The state of the task after the attempt.
#[derive(Debug, Clone, PartialEq)]
pub enum Next<'a> {
    Succeeded {
        result: &'a str,
    },
    Dead,
    Cancelled,
    /// Ready again after this time.
    Waiting(Duration),
    Parked,
}

impl Transition<'_> {
    /// The record instead, if a cancel was asked for while the attempt ran: nothing follows. `None`: the verdict stands.
    #[must_use]
    pub fn instead(&self) -> Option<Self> {
        self.yields_to_cancel.then(|| Self {
            next: Next::Cancelled,
            error: Some(Cow::Owned(TaskError::new(ErrorKind::Cancelled, "cancelled while it ran"))),
            follows: &[],
            ..self.clone()
        })
    }

    /// Whether the attempt was lost with its worker.
    pub fn is_loss(&self) -> bool {
        self.noted.as_ref().is_some_and(|error| error.kind == ErrorKind::WorkerLost)
    }
}

/// Decides what is recorded. `payload_limit` bounds the result, and the arguments and headers of each task that follows.
///
/// A child that is too large makes a success dead. Any other verdict stands, and nothing follows it.
pub fn transition<'a>(verdict: &'a Verdict, follows: &'a [Follow], payload_limit: usize) -> Transition<'a> {
    match verdict {
        Verdict::Succeed { result } => match refusal(result, follows, payload_limit) {
            Some(error) => ended(Next::Dead, Some(Cow::Owned(error)), &[]),
            None => ended(Next::Succeeded { result }, None, follows),
        },
        Verdict::Dead { error } => {
            let end = ended(Next::Dead, Some(Cow::Borrowed(error)), fitting(follows, payload_limit));
            Transition { yields_to_cancel: error.kind == ErrorKind::WorkerLost, ..end }
        }
        Verdict::Cancel { error } => ended(Next::Cancelled, Some(Cow::Borrowed(error)), fitting(follows, payload_limit)),
        Verdict::Retry { error, delay } => again(Next::Waiting(*delay), Some(error), fitting(follows, payload_limit)),
        Verdict::HandBack { delay } => again(Next::Waiting(*delay), None, fitting(follows, payload_limit)),
        Verdict::Park => again(Next::Parked, None, fitting(follows, payload_limit)),
    }
}

/// The attempt ends the task.
fn ended<'a>(next: Next<'a>, error: Option<Cow<'a, TaskError>>, follows: &'a [Follow]) -> Transition<'a> {
    Transition { next, noted: error.clone(), error, is_counted: true, follows, yields_to_cancel: false }
}

/// The task has not ended. The attempt counts if it has an error.
fn again<'a>(next: Next<'a>, error: Option<&'a TaskError>, follows: &'a [Follow]) -> Transition<'a> {
    let error = error.map(Cow::Borrowed);
    Transition { next, noted: error.clone(), is_counted: error.is_some(), error, follows, yields_to_cancel: true }
}

/// Why a success can't be recorded.
fn refusal(result: &str, follows: &[Follow], limit: usize) -> Option<TaskError> {
    if result.len() > limit {
        let message = format!("the result is {} bytes, over the payload limit of {limit}; return a reference instead", result.len());
        return Some(TaskError::new(ErrorKind::ResultTooLarge, message));
    }
    let why = too_large(follows, limit)?;
    Some(TaskError::new(ErrorKind::Permanent, format!("a child is too large: {why}")))
}

fn fitting(follows: &[Follow], limit: usize) -> &[Follow] {
    if too_large(follows, limit).is_none() { follows } else { &[] }
}

fn too_large(follows: &[Follow], limit: usize) -> Option<String> {
    follows.iter().find_map(|Follow::Enqueue(task)| oversize(task, limit))
}

/// Says that a task's arguments and headers are over the payload limit.
pub fn oversize(task: &NewTask, limit: usize) -> Option<String> {
    let size = task.args.len() + task.options.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
    (size > limit).then(|| {
        format!(
            "arguments and headers of `{}` are {size} bytes, over the payload limit of {limit}; send a reference (a path, a URL) instead, \
             or raise `payload_limit`",
            task.name
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{TaskName, TaskOptions};

    fn error(kind: ErrorKind) -> TaskError {
        TaskError::new(kind, "no")
    }

    /// A task of 13 bytes.
    fn child() -> Follow {
        let options = TaskOptions { headers: vec![("h".into(), "x".repeat(9))], ..TaskOptions::default() };
        Follow::Enqueue(NewTask { options, ..NewTask::new(TaskName::new("add").unwrap(), "[1]") })
    }

    fn success(result: &str) -> Verdict {
        Verdict::Succeed { result: result.into() }
    }

    /// Each verdict, and whether a cancel comes first.
    fn verdicts() -> [(Verdict, bool); 9] {
        let delay = Duration::from_secs(1);
        [
            (success("1"), false),
            (Verdict::Dead { error: error(ErrorKind::Panic) }, false),
            (Verdict::Dead { error: error(ErrorKind::Permanent) }, false),
            (Verdict::Cancel { error: error(ErrorKind::Cancelled) }, false),
            (Verdict::Dead { error: error(ErrorKind::WorkerLost) }, true),
            (Verdict::Retry { error: error(ErrorKind::WorkerLost), delay }, true),
            (Verdict::Retry { error: error(ErrorKind::Retry), delay }, true),
            (Verdict::HandBack { delay }, true),
            (Verdict::Park, true),
        ]
    }

    #[test]
    fn a_cancel_comes_before_everything_but_an_end_that_the_body_made() {
        for (verdict, yields) in verdicts() {
            let follows = [child()];
            let becomes = transition(&verdict, &follows, 100);
            let Some(instead) = becomes.instead() else {
                assert!(!yields, "{verdict:?}");
                continue;
            };
            assert!(yields, "{verdict:?}");
            assert_eq!((&instead.next, instead.follows), (&Next::Cancelled, &[][..]), "{verdict:?}");
            assert_eq!(instead.error.as_ref().map(|error| error.kind), Some(ErrorKind::Cancelled), "{verdict:?}");
            // The attempt itself stays as it was.
            assert_eq!((&instead.noted, instead.is_counted), (&becomes.noted, becomes.is_counted), "{verdict:?}");
        }
    }

    #[test]
    fn what_follows_comes_with_every_verdict() {
        for (verdict, _) in verdicts() {
            let follows = [child()];
            assert_eq!(transition(&verdict, &follows, 13).follows, follows, "{verdict:?}");
        }
    }

    #[test]
    fn an_attempt_counts_unless_it_was_handed_back_or_parked() {
        for (verdict, _) in verdicts() {
            let is_counted = !matches!(verdict, Verdict::HandBack { .. } | Verdict::Park);
            assert_eq!(transition(&verdict, &[], 100).is_counted, is_counted, "{verdict:?}");
        }
    }

    #[test]
    fn a_success_over_a_limit_is_dead_and_nothing_follows() {
        let follows = [child()];
        let large = success("12345678901234");
        let dead = transition(&large, &follows, 13);
        assert_eq!((&dead.next, dead.follows, dead.error.map(|error| error.kind)), (&Next::Dead, &[][..], Some(ErrorKind::ResultTooLarge)));
        let fits = success("1");
        let dead = transition(&fits, &follows, 12);
        assert_eq!((&dead.next, dead.follows, dead.instead()), (&Next::Dead, &[][..], None));
        let error = dead.error.expect("an error");
        assert_eq!(error.kind, ErrorKind::Permanent);
        assert!(error.message.contains("a child is too large") && error.message.contains("13 bytes"), "{}", error.message);
        assert_eq!(transition(&fits, &follows, 13).next, Next::Succeeded { result: "1" });
    }

    #[test]
    fn another_verdict_stands_and_nothing_too_large_follows_it() {
        let (follows, verdict) = ([child()], Verdict::Dead { error: error(ErrorKind::Panic) });
        let dead = transition(&verdict, &follows, 12);
        assert_eq!((&dead.next, dead.follows), (&Next::Dead, &[][..]));
        assert_eq!(dead.error.map(|error| error.kind), Some(ErrorKind::Panic));
    }
}
