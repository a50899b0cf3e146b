//! Builds a task from a command line or a bulk line: fills in defaults, and words refusals.

use std::time::Duration;

use taskhost_core::{
    catalogue::{ArgumentsError, Catalogue},
    task::{Millis, NewTask, QueueName, Start, TaskId, TaskName, TaskOptions, Unique},
};

/// The values of a task whose own line, and whose body's hint, give none.
#[derive(Debug)]
pub(super) struct Defaults {
    pub(super) queue: Option<QueueName>,
    pub(super) start: Start,
    pub(super) expires: Option<Millis>,
    /// The time of the unique key.
    pub(super) unique: Option<Duration>,
    pub(super) options: TaskOptions,
}

impl Defaults {
    /// A task with these values. `catalogue` gives the hint for the queue.
    pub(super) fn task(&self, name: &TaskName, args: String, catalogue: &Catalogue) -> NewTask {
        let hint = catalogue.offers.get(name).and_then(|offer| offer.body.hints.queue.clone());
        NewTask {
            queue: self.queue.clone().or(hint).unwrap_or_default(),
            start: self.start,
            expires: self.expires,
            unique: self.unique.map(|ttl| Unique { key: same(name, &args), ttl }),
            options: self.options.clone(),
            ..NewTask::new(name.clone(), args)
        }
    }
}

/// The default unique key: name and arguments.
pub(super) fn same(name: &TaskName, args: &str) -> String {
    format!("{name} {args}")
}

pub(super) fn duplicate(wanted: &TaskId, holder: &TaskId) -> String {
    if wanted == holder {
        format!("taskhost: nothing enqueued: the id `{holder}` is known already")
    } else {
        format!("taskhost: nothing enqueued: `{holder}` is the same task and has not ended")
    }
}

/// A refusal of arguments, and how to enqueue anyway.
pub(super) fn refusal(error: &ArgumentsError) -> String {
    match error {
        ArgumentsError::UnknownTask { .. } => format!("{error}\n  `--unchecked` enqueues it anyway; it waits for a plugin that offers it"),
        _ => error.to_string(),
    }
}
