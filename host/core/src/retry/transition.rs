//! Decides what a verdict makes of its task, for every broker. Pure.
//!
//! [`Verdict`] + [`Follow`]s + payload limit → [`Transition`]. A broker writes the transition, or cancels the task instead if that was
//! asked for.
//!
//! Invariant: an end that the body or a limit decided stands. A lost worker decides nothing, so a cancel takes precedence over it.

use std::{borrow::Cow, time::Duration};

use crate::task::{ErrorKind, Follow, NewTask, TaskError, Verdict};

/// What is recorded of one attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Transition<'a> {
    pub next: Next<'a>,
    /// The task's newest error, also while it waits; kept in its history.
    pub error: Option<Cow<'a, TaskError>>,
    /// Whether the attempt counts.
    pub is_counted: bool,
    /// Whether a cancel that was asked for during the attempt takes precedence. The task then ends with [`cancelled_instead`], and nothing
    /// follows.
    pub yields_to_cancel: bool,
    /// What is done in the step that records this.
    pub follows: &'a [Follow],
}

/// What the task is from now on.
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
    /// Whether the attempt was lost with its worker.
    pub fn is_loss(&self) -> bool {
        self.error.as_ref().is_some_and(|error| error.kind == ErrorKind::WorkerLost)
    }
}

/// The error of a task that was cancelled while it ran.
pub fn cancelled_instead() -> TaskError {
    TaskError::new(ErrorKind::Cancelled, "cancelled while it ran")
}

/// Decides. `payload_limit` bounds the result, and the arguments and headers of each child.
///
/// A success that is over the limit is dead, and nothing follows. Any other verdict stands: if a child is over the limit, nothing follows
/// and its error says so.
pub fn transition<'a>(verdict: &'a Verdict, follows: &'a [Follow], payload_limit: usize) -> Transition<'a> {
    let too_large = follows.iter().find_map(|Follow::Enqueue(child)| oversize(child, payload_limit));
    let mut becomes = match verdict {
        Verdict::Succeed { result } => match over(result, too_large.as_deref(), payload_limit) {
            Some(error) => {
                return Transition {
                    next: Next::Dead,
                    error: Some(Cow::Owned(error)),
                    is_counted: true,
                    yields_to_cancel: false,
                    follows: &[],
                };
            }
            None => Transition { next: Next::Succeeded { result }, error: None, is_counted: true, yields_to_cancel: false, follows },
        },
        Verdict::Retry { error, delay } => counted(Next::Waiting(*delay), error, true),
        Verdict::Dead { error } => counted(Next::Dead, error, error.kind == ErrorKind::WorkerLost),
        Verdict::Cancel { error } => counted(Next::Cancelled, error, false),
        Verdict::HandBack { delay } => uncounted(Next::Waiting(*delay)),
        Verdict::Park => uncounted(Next::Parked),
    };
    match (too_large, &mut becomes.error) {
        (None, _) => becomes.follows = follows,
        (Some(why), Some(error)) => {
            let message = format!("{}; nothing follows, because a child is too large: {why}", error.message);
            error.to_mut().message = message;
        }
        (Some(_), None) => {}
    }
    becomes
}

fn counted<'a>(next: Next<'a>, error: &'a TaskError, yields_to_cancel: bool) -> Transition<'a> {
    Transition { next, error: Some(Cow::Borrowed(error)), is_counted: true, yields_to_cancel, follows: &[] }
}

fn uncounted(next: Next<'_>) -> Transition<'_> {
    Transition { next, error: None, is_counted: false, yields_to_cancel: true, follows: &[] }
}

/// Why a success can't be recorded.
fn over(result: &str, too_large: Option<&str>, limit: usize) -> Option<TaskError> {
    if result.len() > limit {
        let message = format!("the result is {} bytes, over the payload limit of {limit}; return a reference instead", result.len());
        return Some(TaskError::new(ErrorKind::ResultTooLarge, message));
    }
    Some(TaskError::new(ErrorKind::Permanent, format!("a child is too large: {}", too_large?)))
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

    /// A child whose arguments and header have 13 bytes.
    fn child() -> Follow {
        let options = TaskOptions { headers: vec![("h".into(), "x".repeat(9))], ..TaskOptions::default() };
        Follow::Enqueue(NewTask { options, ..NewTask::new(TaskName::new("add").unwrap(), "[1]") })
    }

    #[test]
    fn a_cancel_comes_before_everything_but_an_end_that_the_body_made() {
        let delay = Duration::from_secs(1);
        for (verdict, yields) in [
            (Verdict::Succeed { result: "1".into() }, false),
            (Verdict::Dead { error: error(ErrorKind::Panic) }, false),
            (Verdict::Cancel { error: error(ErrorKind::Cancelled) }, false),
            (Verdict::Dead { error: error(ErrorKind::WorkerLost) }, true),
            (Verdict::Retry { error: error(ErrorKind::WorkerLost), delay }, true),
            (Verdict::Retry { error: error(ErrorKind::Retry), delay }, true),
            (Verdict::HandBack { delay }, true),
            (Verdict::Park, true),
        ] {
            let follows = [child()];
            let becomes = transition(&verdict, &follows, 100);
            assert_eq!((becomes.yields_to_cancel, becomes.follows), (yields, &follows[..]), "{verdict:?}");
        }
    }

    #[test]
    fn a_success_over_a_limit_is_dead_and_nothing_follows() {
        let (follows, long, short) =
            ([child()], Verdict::Succeed { result: "12345678901234".into() }, Verdict::Succeed { result: "1".into() });
        let dead = transition(&long, &follows, 13);
        assert_eq!((&dead.next, dead.follows, dead.error.map(|error| error.kind)), (&Next::Dead, &[][..], Some(ErrorKind::ResultTooLarge)));
        let dead = transition(&short, &follows, 12);
        let error = dead.error.expect("an error");
        assert_eq!((&dead.next, dead.follows, error.kind), (&Next::Dead, &[][..], ErrorKind::Permanent));
        assert!(error.message.contains("a child is too large") && error.message.contains("13 bytes"), "{}", error.message);
        let recorded = transition(&short, &follows, 13);
        assert_eq!((recorded.next, recorded.follows), (Next::Succeeded { result: "1" }, &follows[..]));
    }

    #[test]
    fn another_verdict_stands_when_a_child_is_over_the_limit_and_says_that_nothing_follows() {
        let (follows, verdict) = ([child()], Verdict::Dead { error: error(ErrorKind::Panic) });
        let dead = transition(&verdict, &follows, 12);
        let error = dead.error.expect("an error");
        assert_eq!((dead.next, dead.follows, error.kind), (Next::Dead, &[][..], ErrorKind::Panic));
        assert!(error.message.starts_with("no; nothing follows") && error.message.contains("13 bytes"), "{}", error.message);
        assert_eq!(transition(&Verdict::Park, &follows, 12).follows, &[][..]);
    }
}
