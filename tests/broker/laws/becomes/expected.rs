//! The expectation for a row, from the pure rules.
//!
//! row + claimed task → `judge` → `transition` → the visible state: at once, and after the next look of a worker.

use taskhost_core::{
    retry::{Next, Transition, transition},
    task::{ErrorKind, State, Task, Verdict},
};

use super::rows::{Expires, HOUR, LIMIT, Row};
use crate::support::finish;

/// Everything that anybody can see of a row's task.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Seen {
    /// Whether the worker was told that the task is cancelled instead. `None`: it did not report.
    pub(super) instead: Option<bool>,
    /// Right after the end of the attempt. `None`: nothing is kept.
    pub(super) now: Option<View>,
    /// Whether the unique key is free then. `None`: the task has none.
    pub(super) is_free: Option<bool>,
    /// How many of its children there are.
    pub(super) children: usize,
    /// After a worker claimed everything that it could get.
    pub(super) later: Option<View>,
    /// Whether the unique key is free then.
    pub(super) is_free_later: Option<bool>,
}

#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is shown on its own, and the table compares them as they are shown")]
pub(super) struct View {
    pub(super) state: State,
    pub(super) error: Option<ErrorKind>,
    pub(super) tries: u32,
    /// Entries of its history.
    pub(super) errors: usize,
    pub(super) has_result: bool,
    pub(super) has_ended: bool,
    /// Whether it is due in an hour. If not, it is not due at any time.
    pub(super) is_delayed: bool,
    pub(super) cancel_asked: bool,
}

pub(super) fn expected(row: &Row, task: &Task) -> Seen {
    let member = taskhost_broker::Member { id: task.id.clone(), claimed_us: 0, place: 0 };
    let report = row.report(task, &member);
    // Leaving is the same as handing everything back at once.
    let done = report.clone().unwrap_or_else(|| finish(&member, Verdict::HandBack { delay: std::time::Duration::ZERO }));
    let becomes = transition(&done.verdict, &done.follows, LIMIT);
    let instead = row.is_cancelled && becomes.instead().is_some();
    let now = view(row, &becomes, instead);
    let has_ended = now.has_ended;
    let later = next_look(row, &now);
    let has_ended_later = later.has_ended;
    Seen {
        instead: report.map(|_| instead),
        now: kept(row, now),
        is_free: row.is_unique.then_some(has_ended),
        children: if instead { 0 } else { becomes.follows.len() },
        later: kept(row, later),
        is_free_later: row.is_unique.then_some(has_ended_later),
    }
}

fn view(row: &Row, becomes: &Transition<'_>, instead: bool) -> View {
    let (state, is_delayed) = match &becomes.next {
        _ if instead => (State::Cancelled, false),
        Next::Succeeded { .. } => (State::Succeeded, false),
        Next::Dead => (State::Dead, false),
        Next::Cancelled => (State::Cancelled, false),
        Next::Parked => (State::Parked, false),
        Next::Waiting(delay) if delay.is_zero() => (State::Ready, false),
        Next::Waiting(delay) => {
            assert_eq!(*delay, HOUR, "the table knows no other delay");
            (State::Scheduled, true)
        }
    };
    // An earlier attempt of the table failed with `retry`.
    let earlier = (row.tries > 0).then_some(ErrorKind::Retry);
    let newest = becomes.error.as_ref().map(|error| error.kind);
    View {
        state,
        error: match state {
            _ if instead => Some(ErrorKind::Cancelled),
            State::Succeeded => None,
            _ => newest.or(earlier),
        },
        tries: row.tries + u32::from(becomes.is_counted),
        errors: row.tries as usize + usize::from(newest.is_some()),
        has_result: state == State::Succeeded,
        has_ended: state.is_ended(),
        is_delayed,
        cancel_asked: false,
    }
}

/// A waiting task that never started ends when its time to start is over. Otherwise a worker claims it unless it is delayed.
fn next_look(row: &Row, now: &View) -> View {
    match now.state {
        State::Ready | State::Parked | State::Scheduled if row.expires == Expires::Meanwhile && now.tries == 0 => {
            View { state: State::Cancelled, error: Some(ErrorKind::Expired), has_ended: true, is_delayed: false, ..now.clone() }
        }
        State::Ready | State::Parked => View { state: State::Running, ..now.clone() },
        _ => now.clone(),
    }
}

/// The dead set keeps a task also if its result is not to be kept.
fn kept(row: &Row, view: View) -> Option<View> {
    (row.is_kept || !matches!(view.state, State::Succeeded | State::Cancelled)).then_some(view)
}
