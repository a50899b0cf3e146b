//! The filter and the page of a listing, the same for every driver.
//!
//! A driver reads candidates in the order of its indices, starting at a cursor. It looks at each and keeps those that match the filter.
//!
//! Invariant: one call looks at no more than [`BUDGET`] tasks, however many there are. The page then says where the next one starts.

use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};

use super::error::{BrokerError, Result};
use taskhost_core::task::{Millis, OptionFilter, QueueName, State, TaskName, TaskView};

/// How many tasks a driver reads at once.
const LOOK: usize = 200;
/// How many tasks one call looks at, at most.
const BUDGET: usize = 5_000;

/// Which tasks to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskFilter {
    /// All queues when `None`.
    pub queue: Option<QueueName>,
    /// Any state when empty.
    pub states: Vec<State>,
    pub task: Option<TaskName>,
    /// A part of the error's kind, code or message, case-sensitive.
    pub error: Option<String>,
    /// Only tasks whose last change (end, due or enqueue time) is at least this long ago.
    pub older: Option<Duration>,
    /// Only tasks whose last change was at this time or later.
    pub from: Option<Millis>,
    /// Only tasks whose last change was before this time.
    pub to: Option<Millis>,
    /// A part of the arguments as compact JSON, case-sensitive.
    pub args: Option<String>,
    /// A header's name in lower case, and its value; without a value any will do.
    pub header: Option<(String, Option<String>)>,
    /// The plugin that ran it last.
    pub plugin: Option<String>,
    /// A part of the name of the worker that runs it, or ran it last.
    pub worker: Option<String>,
    pub options: OptionFilter,
}

impl TaskFilter {
    pub(super) fn wants(&self, state: State) -> bool {
        self.states.is_empty() || self.states.contains(&state)
    }

    /// Whether the filter looks at more than queue and state.
    fn is_choosy(&self) -> bool {
        let Self { queue: _, states: _, task, error, older, from, to, args, header, plugin, worker, options } = self;
        task.is_some()
            || (error.is_some() || args.is_some() || header.is_some() || plugin.is_some() || worker.is_some())
            || (older.is_some() || from.is_some() || to.is_some())
            || !options.is_empty()
    }

    fn fits(&self, view: &TaskView, now: Millis) -> bool {
        let changed = view.ended_at.or(view.due_at).unwrap_or(view.enqueued_at);
        self.wants(view.state)
            && self.task.as_ref().is_none_or(|name| *name == view.task)
            && self.options.fits(&view.options)
            && self.older.is_none_or(|older| changed.after(older) <= now)
            && self.from.is_none_or(|from| changed >= from)
            && self.to.is_none_or(|to| changed < to)
            && self.args.as_ref().is_none_or(|part| view.args.get().contains(part))
            && self.plugin.as_ref().is_none_or(|plugin| view.plugin.as_ref() == Some(plugin))
            && self.worker.as_ref().is_none_or(|part| view.worker.as_ref().is_some_and(|worker| worker.contains(part)))
            && self.header.as_ref().is_none_or(|(name, value)| {
                let is_meant = |(own, has): &(String, String)| own == name && value.as_ref().is_none_or(|value| has == value);
                view.options.headers.iter().any(is_meant)
            })
            && self.error.as_ref().is_none_or(|part| {
                view.error.as_ref().is_some_and(|error| {
                    error.kind.as_str().contains(part)
                        || error.message.contains(part)
                        || error.code.as_ref().is_some_and(|code| code.contains(part))
                })
            })
    }
}

/// A page of a listing: running tasks first, then ready, scheduled and parked ones, each queue by queue; then ended ones, newest first.
#[derive(Debug, Clone, Default)]
pub struct TaskPage {
    /// May be fewer than asked for, or none, if few of many tasks match. Only `next` says whether that is the end.
    pub tasks: Vec<TaskView>,
    /// The cursor of the next page; `None` at the end.
    pub next: Option<String>,
    /// How many tasks were looked at for this page.
    pub looked: usize,
}

/// A listing under way. `P` is the driver's cursor.
#[derive(Debug)]
pub(super) struct Walk<'a, P> {
    pub(super) filter: &'a TaskFilter,
    now: Millis,
    limit: usize,
    tasks: Vec<TaskView>,
    looked: usize,
    /// The cursor behind the last task of the page; while the page has room, behind the last task that was looked at.
    next: Option<P>,
    is_over: bool,
}

impl<'a, P: Serialize> Walk<'a, P> {
    pub(super) fn new(filter: &'a TaskFilter, now: Millis, limit: usize) -> Self {
        Self { filter, now, limit: limit.min(BUDGET), tasks: Vec::new(), looked: 0, next: None, is_over: limit == 0 }
    }

    /// Takes a candidate (`None`: it is gone), with the cursor behind it. It looks one task beyond a full page, to know whether that is the
    /// end.
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

    /// How many candidates to read next.
    pub(super) fn wanted(&self) -> usize {
        if self.filter.is_choosy() { LOOK } else { LOOK.min(self.limit + 1 - self.tasks.len()) }
    }

    /// The page; `is_end`: no task follows the last one that was looked at.
    pub(super) fn page(self, is_end: bool) -> Result<TaskPage> {
        let print = |place| serde_json::to_string(&place).map_err(|error| BrokerError::Invalid(format!("failed to write JSON: {error}")));
        let next = self.next.filter(|_| !is_end).map(print).transpose()?;
        Ok(TaskPage { tasks: self.tasks, next, looked: self.looked })
    }
}

/// Parses a cursor that an earlier page gave.
pub(super) fn place<P: DeserializeOwned>(text: &str) -> Result<P> {
    serde_json::from_str(text).map_err(|_| {
        BrokerError::Invalid(format!("not a place in a listing: `{text}`; pass the `next` of the last page, or start from the beginning"))
    })
}
