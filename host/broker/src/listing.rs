//! What a listing is asked and what it answers, the same of every driver.
//!
//! A driver reads candidates in the order of its indices, from a cursor on, looks at each, and keeps those that fit.
//!
//! Invariant: a call looks at no more than [`BUDGET`] tasks, however many there are; the page then says where it goes on.

use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};

use super::{BrokerError, Result};
use crate::task::{Millis, QueueName, State, TaskName, TaskView};

/// Tasks that a driver looks at together.
const LOOK: usize = 200;
/// Tasks that one call looks at.
const BUDGET: usize = 5_000;

/// Which tasks to list.
#[derive(Debug, Clone, Default)]
pub struct TaskFilter {
    /// All queues when `None`.
    pub queue: Option<QueueName>,
    /// Any state when empty.
    pub states: Vec<State>,
    pub task: Option<TaskName>,
    /// Part of the error's kind, code or message, case-sensitive.
    pub error: Option<String>,
    /// Only those whose last change (end, due or enqueue time) is at least so long ago.
    pub older: Option<Duration>,
}

impl TaskFilter {
    pub(super) fn wants(&self, state: State) -> bool {
        self.states.is_empty() || self.states.contains(&state)
    }

    /// Whether a task in a state and queue that are wanted may still be left out.
    fn is_choosy(&self) -> bool {
        self.task.is_some() || self.error.is_some() || self.older.is_some()
    }

    fn fits(&self, view: &TaskView, now: Millis) -> bool {
        let changed = view.ended_at.or(view.due_at).unwrap_or(view.enqueued_at);
        self.wants(view.state)
            && self.task.as_ref().is_none_or(|name| *name == view.task)
            && self.older.is_none_or(|older| changed.after(older) <= now)
            && self.error.as_ref().is_none_or(|part| {
                view.error.as_ref().is_some_and(|error| {
                    error.kind.as_str().contains(part)
                        || error.message.contains(part)
                        || error.code.as_ref().is_some_and(|code| code.contains(part))
                })
            })
    }
}

/// A page of a listing: running first, then ready, scheduled, parked, queue by queue, then ended, newest first.
#[derive(Debug, Clone, Default)]
pub struct TaskPage {
    /// May be fewer than asked for, or none, where few of many fit: `next` alone says whether that is the end.
    pub tasks: Vec<TaskView>,
    /// Give it back to go on; `None` at the end.
    pub next: Option<String>,
}

/// A listing under way, whose driver names places by `P`.
#[derive(Debug)]
pub(super) struct Walk<'a, P> {
    pub(super) filter: &'a TaskFilter,
    now: Millis,
    limit: usize,
    tasks: Vec<TaskView>,
    looked: usize,
    /// Behind the last task of the page, or the last that was looked at while there is room.
    next: Option<P>,
    is_over: bool,
}

impl<'a, P: Serialize> Walk<'a, P> {
    pub(super) fn new(filter: &'a TaskFilter, now: Millis, limit: usize) -> Self {
        Self { filter, now, limit: limit.min(BUDGET), tasks: Vec::new(), looked: 0, next: None, is_over: limit == 0 }
    }

    /// Takes a candidate (`None`: it is gone), with the place behind it. It goes one beyond a full page, to know whether that is the end.
    pub(super) fn look(&mut self, view: Option<TaskView>, place: P) {
        self.looked += 1;
        let has_room = self.tasks.len() < self.limit;
        if has_room {
            self.next = Some(place);
        }
        if let Some(view) = view.filter(|view| self.filter.fits(view, self.now)) {
            if has_room {
                self.tasks.push(view);
            } else {
                self.is_over = true;
            }
        }
        self.is_over |= self.looked >= BUDGET;
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// How many candidates are worth asking for.
    pub(super) fn wanted(&self) -> usize {
        if self.filter.is_choosy() { LOOK } else { LOOK.min(self.limit + 1 - self.tasks.len()) }
    }

    /// The page; `is_end`: nothing follows what was looked at.
    pub(super) fn page(self, is_end: bool) -> Result<TaskPage> {
        let print = |place| serde_json::to_string(&place).map_err(|error| BrokerError::Invalid(format!("failed to write JSON: {error}")));
        let next = self.next.filter(|_| !is_end).map(print).transpose()?;
        Ok(TaskPage { tasks: self.tasks, next })
    }
}

/// Where the page before ended.
pub(super) fn place<P: DeserializeOwned>(text: &str) -> Result<P> {
    serde_json::from_str(text)
        .map_err(|_| BrokerError::Invalid(format!("not a place in a listing: `{text}`; give what the last page said, or begin anew")))
}
