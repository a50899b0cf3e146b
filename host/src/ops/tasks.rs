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
