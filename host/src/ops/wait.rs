//! Waits for the end of a task, and tells meanwhile what the task waits for.
//!
//! The broker pushes the end. Until then, looks at the task tell whether any worker can run it.

use std::time::Duration;

use taskhost_core::task::{Millis, QueueName, State, TaskError, TaskId, TaskName, TaskView, WaitsFor};
use tokio::time::Instant;

use super::{connection::Ops, error::OpsError, tasks::no_such_task};

/// The delay before the first look: long enough for a worker to answer, short enough for a person.
const FIRST_LOOK: Duration = Duration::from_secs(2);
/// The time between further looks, to tell when the reason of waiting changes.
const LATER_LOOKS: Duration = Duration::from_secs(10);

/// The task whose end is wanted.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// `None`: in any queue.
    pub queue: Option<&'a QueueName>,
    pub id: &'a TaskId,
    /// The most time to wait; `None`: until it ends.
    pub limit: Option<Duration>,
    /// It was there a moment ago. If it is gone, it has ended.
    pub is_known: bool,
}

/// Why a task does not run now.
#[derive(Debug, Clone, PartialEq)]
pub enum Waiting {
    NoWorker,
    NoWorkerOf(QueueName),
    Parked {
        task: TaskName,
        waits_for: Option<WaitsFor>,
    },
    /// It waits for its time, perhaps after a failed attempt of this number.
    Scheduled {
        due: Option<Millis>,
        failed: Option<(u32, TaskError)>,
    },
    Paused(QueueName),
    InQueue(QueueName),
}

impl Ops {
    /// Waits for the end. `tell` is called with each new reason of waiting.
    pub async fn wait(&self, wanted: Wanted<'_>, mut tell: impl FnMut(&Waiting)) -> Result<TaskView, OpsError> {
        let Wanted { queue, id, limit, mut is_known } = wanted;
        // A limit beyond the clock's range is no limit.
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let mut look = FIRST_LOOK;
        let mut told = None;
        loop {
            let left = deadline.map_or(look, |deadline| look.min(deadline.saturating_duration_since(Instant::now())));
            let Some(mut view) = self.broker.await_end(queue, id, left).await? else {
                return Err(if is_known { OpsError::Forgotten(id.clone()) } else { no_such_task(queue, id) });
            };
            is_known = true;
            if view.state.is_ended() {
                return Ok(view);
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(OpsError::NotEnded { id: id.clone(), state: view.state, after: limit.unwrap_or_default() });
            }
            self.what_they_wait_for(std::slice::from_mut(&mut view)).await?;
            let reason = self.why_it_waits(&view).await?;
            if let Some(reason) = reason.filter(|reason| told.as_ref() != Some(reason)) {
                tell(&reason);
                told = Some(reason);
            }
            look = LATER_LOOKS;
        }
    }

    /// Why the task does not run now; `None` if it runs or has ended.
    async fn why_it_waits(&self, view: &TaskView) -> Result<Option<Waiting>, OpsError> {
        if view.state == State::Running || view.state.is_ended() {
            return Ok(None);
        }
        let workers = self.broker.workers().await?;
        let is_served = workers.iter().any(|worker| worker.queues.contains(&view.queue) && !worker.draining);
        Ok(Some(match view.state {
            _ if workers.is_empty() => Waiting::NoWorker,
            _ if !is_served => Waiting::NoWorkerOf(view.queue.clone()),
            State::Parked => Waiting::Parked { task: view.task.clone(), waits_for: view.waits_for },
            State::Scheduled => {
                let failed = view.errors.last().map(|last| (last.attempt, last.error.clone()));
                Waiting::Scheduled { due: view.due_at, failed }
            }
            _ => {
                let is_paused = self.broker.queues().await?.iter().any(|queue| queue.queue == view.queue && queue.paused);
                if is_paused { Waiting::Paused(view.queue.clone()) } else { Waiting::InQueue(view.queue.clone()) }
            }
        }))
    }
}
