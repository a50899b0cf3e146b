//! Lists and finds tasks.

use taskhost_broker::TaskFilter;
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
        let mut parked = views.iter_mut().filter(|view| view.state == State::Parked).peekable();
        if parked.peek().is_none() {
            return Ok(());
        }
        let workers = self.broker.workers().await?;
        for view in parked {
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

pub(super) fn no_such_task(queue: Option<&QueueName>, id: &TaskId) -> OpsError {
    OpsError::NoSuchTask { id: id.clone(), queue: queue.cloned() }
}
