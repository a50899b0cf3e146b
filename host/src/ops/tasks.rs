//! Lists and finds tasks.

use std::time::Duration;

use taskhost_broker::{TaskFilter, TaskPage};
use taskhost_core::task::{QueueName, State, TaskId, TaskView, WaitsFor};

use super::{connection::Ops, error::OpsError};

/// How many tasks a page of a listing has.
pub(super) const PAGE: usize = 500;

/// The tasks that a filter chose.
#[derive(Debug)]
pub struct Listing {
    pub tasks: Vec<TaskView>,
    pub has_more: bool,
}

impl Ops {
    /// At most `limit` tasks: running ones first, then waiting, then ended.
    pub async fn tasks(&self, filter: &TaskFilter, limit: usize) -> Result<Listing, OpsError> {
        let mut tasks = Vec::new();
        let mut from = None;
        while tasks.len() < limit {
            let page = self.broker.list(filter, from.as_deref(), PAGE.min(limit - tasks.len())).await?;
            tasks.extend(page.tasks);
            from = page.next;
            if from.is_none() {
                break;
            }
        }
        self.what_they_wait_for(&mut tasks).await?;
        Ok(Listing { tasks, has_more: from.is_some() })
    }

    /// One page of the listing, from a cursor that an earlier page gave.
    pub async fn page(&self, filter: &TaskFilter, from: Option<&str>, limit: usize) -> Result<TaskPage, OpsError> {
        let mut page = self.broker.list(filter, from, limit).await?;
        self.what_they_wait_for(&mut page.tasks).await?;
        Ok(page)
    }

    /// The task when it has ended, or as it is after `limit`.
    pub async fn await_end(&self, queue: Option<&QueueName>, id: &TaskId, limit: Duration) -> Result<TaskView, OpsError> {
        let mut view = self.broker.await_end(queue, id, limit).await?.ok_or_else(|| no_such_task(queue, id))?;
        self.what_they_wait_for(std::slice::from_mut(&mut view)).await?;
        Ok(view)
    }

    /// The task, in `queue` or in any.
    pub async fn task(&self, queue: Option<&QueueName>, id: &TaskId) -> Result<TaskView, OpsError> {
        let mut view = self.broker.find(queue, id).await?.ok_or_else(|| no_such_task(queue, id))?;
        self.what_they_wait_for(std::slice::from_mut(&mut view)).await?;
        Ok(view)
    }

    /// The log of a task: lines of JSON. Each is a [`LogLine`](taskhost_core::task::LogLine), but the first one may be cut.
    pub async fn log(&self, queue: Option<&QueueName>, id: &TaskId) -> Result<String, OpsError> {
        self.broker.log(queue, id).await?.ok_or_else(|| no_such_task(queue, id))
    }

    /// The lines of a task's log that `told` does not have yet, which is brought up to date. `told` is an earlier log of the same task, or empty.
    pub async fn log_since(&self, queue: Option<&QueueName>, id: &TaskId, told: &mut String) -> Result<String, OpsError> {
        let log = self.log(queue, id).await?;
        let news = news(told, &log).to_owned();
        *told = log;
        Ok(news)
    }

    /// Fills in what each parked task waits for. Asks the workers if any task is parked.
    pub(super) async fn what_they_wait_for(&self, views: &mut [TaskView]) -> Result<(), OpsError> {
        if !views.iter().any(|view| view.state == State::Parked) {
            return Ok(());
        }
        let workers = self.broker.workers().await?;
        for view in views.iter_mut().filter(|view| view.state == State::Parked) {
            let of_queue = workers.iter().filter(|worker| worker.queues.contains(&view.queue));
            let is_offered = of_queue.flat_map(|worker| &worker.plugins).any(|file| {
                let bodies = file.serving.as_ref().and(file.description.as_ref()).map(|description| &description.bodies);
                bodies.is_some_and(|bodies| bodies.iter().any(|body| body.name == view.task))
            });
            view.waits_for = Some(if is_offered { WaitsFor::Slot } else { WaitsFor::Plugin });
        }
        Ok(())
    }
}

/// The header condition of a filter, from `NAME` or `NAME=VALUE`.
pub fn header_filter(text: &str) -> (String, Option<String>) {
    let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value.to_owned())));
    (name.to_ascii_lowercase(), value)
}

pub(super) fn no_such_task(queue: Option<&QueueName>, id: &TaskId) -> OpsError {
    OpsError::NoSuchTask { id: id.clone(), queue: queue.cloned() }
}

/// What `new` has beyond `old`. A log only grows at its end, and loses lines at its beginning when it is too long.
fn news<'a>(old: &str, new: &'a str) -> &'a str {
    let starts = std::iter::once(0).chain(old.match_indices('\n').map(|(at, _)| at + 1));
    let mut overlaps = starts.filter_map(|start| new.strip_prefix(&old[start..]));
    // The last start leaves nothing of `old`, so something is found whenever one was printed.
    overlaps.next().unwrap_or(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_news_of_a_log_is_what_came_since() {
        for (old, new, expected) in [
            ("", "", ""),
            ("", "a\nb\n", "a\nb\n"),
            ("a\n", "a\nb\n", "b\n"),
            ("a\na\n", "a\na\na\n", "a\n"),
            ("a\nb\nc\n", "b\nc\nd\n", "d\n"),
            ("a\nb\n", "x\ny\n", "x\ny\n"),
            ("a\nb\n", "a\nb\n", ""),
        ] {
            assert_eq!(news(old, new), expected, "{old:?} {new:?}");
        }
    }
}
