//! What a verdict makes of its task: the one place that says it, for every broker. Pure.
//!
//! [`Verdict`] + the payload limit → [`Transition`]; a broker writes it, or cancels instead where a cancel was asked for.
//!
//! Invariant: what a body or a limit decided is an end, and stands. A lost worker decides nothing: a cancel comes before it.

use std::{borrow::Cow, time::Duration};

use crate::task::{ErrorKind, NewTask, TaskError, Verdict};

/// What is recorded of one attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Transition<'a> {
    pub next: Next<'a>,
    /// The task's newest error, also while it waits; kept in its history.
    pub error: Option<Cow<'a, TaskError>>,
    /// Whether the attempt counts.
    pub is_counted: bool,
    /// Whether a cancel that was asked for while it ran comes before: then it ends with [`cancelled_instead`].
    pub yields_to_cancel: bool,
}

/// What the task is from now on.
#[derive(Debug, Clone, PartialEq)]
pub enum Next<'a> {
    Succeeded {
        result: &'a str,
        children: &'a [NewTask],
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

/// See the file's header. `payload_limit` bounds the result, and the arguments and headers of each child.
pub fn transition(verdict: &Verdict, payload_limit: usize) -> Transition<'_> {
    match verdict {
        Verdict::Succeed { result, children } => match refusal(result, children, payload_limit) {
            Some(error) => Transition { next: Next::Dead, error: Some(Cow::Owned(error)), is_counted: true, yields_to_cancel: false },
            None => Transition { next: Next::Succeeded { result, children }, error: None, is_counted: true, yields_to_cancel: false },
        },
        Verdict::Retry { error, delay } => counted(Next::Waiting(*delay), error, true),
        Verdict::Dead { error } => counted(Next::Dead, error, error.kind == ErrorKind::WorkerLost),
        Verdict::Cancel { error } => counted(Next::Cancelled, error, false),
        Verdict::HandBack { delay } => uncounted(Next::Waiting(*delay)),
        Verdict::Park => uncounted(Next::Parked),
    }
}

fn counted<'a>(next: Next<'a>, error: &'a TaskError, yields_to_cancel: bool) -> Transition<'a> {
    Transition { next, error: Some(Cow::Borrowed(error)), is_counted: true, yields_to_cancel }
}

fn uncounted(next: Next<'_>) -> Transition<'_> {
    Transition { next, error: None, is_counted: false, yields_to_cancel: true }
}

/// Why a success can't be recorded.
fn refusal(result: &str, children: &[NewTask], limit: usize) -> Option<TaskError> {
    if result.len() > limit {
        let message = format!("the result is {} bytes, over the payload limit of {limit}; return a reference instead", result.len());
        return Some(TaskError::new(ErrorKind::ResultTooLarge, message));
    }
    let why = children.iter().find_map(|child| oversize(child, limit))?;
    Some(TaskError::new(ErrorKind::Permanent, format!("a child is too large: {why}")))
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

    #[test]
    fn a_cancel_comes_before_everything_but_an_end_that_the_body_made() {
        let delay = Duration::from_secs(1);
        for (verdict, yields) in [
            (Verdict::Succeed { result: "1".into(), children: Vec::new() }, false),
            (Verdict::Dead { error: error(ErrorKind::Panic) }, false),
            (Verdict::Cancel { error: error(ErrorKind::Cancelled) }, false),
            (Verdict::Dead { error: error(ErrorKind::WorkerLost) }, true),
            (Verdict::Retry { error: error(ErrorKind::WorkerLost), delay }, true),
            (Verdict::Retry { error: error(ErrorKind::Retry), delay }, true),
            (Verdict::HandBack { delay }, true),
            (Verdict::Park, true),
        ] {
            assert_eq!(transition(&verdict, 100).yields_to_cancel, yields, "{verdict:?}");
        }
    }

    #[test]
    fn a_success_over_a_limit_is_dead_and_keeps_no_child() {
        let child = NewTask {
            options: TaskOptions { headers: vec![("h".into(), "x".repeat(9))], ..TaskOptions::default() },
            ..NewTask::new(TaskName::new("add").unwrap(), "[1]")
        };
        let verdict = |result: &str| Verdict::Succeed { result: result.into(), children: vec![child.clone()] };
        let large = verdict("12345678901234");
        let dead = transition(&large, 13);
        assert_eq!((&dead.next, dead.error.map(|error| error.kind)), (&Next::Dead, Some(ErrorKind::ResultTooLarge)));
        let large = verdict("1");
        let dead = transition(&large, 12);
        let error = dead.error.expect("an error");
        assert_eq!((&dead.next, error.kind), (&Next::Dead, ErrorKind::Permanent));
        assert!(error.message.contains("a child is too large") && error.message.contains("13 bytes"), "{}", error.message);
        assert!(matches!(transition(&large, 13).next, Next::Succeeded { children: [_], .. }));
    }
}
