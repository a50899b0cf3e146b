//! Lists, pauses, resumes and purges queues.

use taskhost_broker::QueueView;
use taskhost_core::{
    catalogue,
    task::{QueueName, State},
};

use super::{connection::Ops, error::OpsError};

/// The effect that a purge would have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Purgeable {
    pub waiting: u64,
    /// Whether the broker knows the queue.
    pub is_known: bool,
}

impl Ops {
    /// All queues, by name.
    pub async fn queues(&self) -> Result<Vec<QueueView>, OpsError> {
        let mut queues = self.broker.queues().await?;
        queues.sort_by(|a, b| a.queue.cmp(&b.queue));
        Ok(queues)
    }

    /// Lets nothing more start from a queue. An unknown queue is refused unless `create`, because its name is most likely misspelt.
    pub async fn pause_queue(&self, queue: &QueueName, create: bool) -> Result<(), OpsError> {
        if !create {
            self.known_queue(queue).await?;
        }
        Ok(self.broker.pause(queue).await?)
    }

    /// Lets a paused queue go on.
    pub async fn resume_queue(&self, queue: &QueueName) -> Result<(), OpsError> {
        self.known_queue(queue).await?;
        Ok(self.broker.resume(queue).await?)
    }

    /// The effect that [`Ops::purge`] would have now.
    pub async fn purgeable(&self, queue: &QueueName) -> Result<Purgeable, OpsError> {
        let view = self.broker.queues().await?.into_iter().find(|view| view.queue == *queue);
        let waiting = |view: &QueueView| -> u64 {
            [State::Ready, State::Scheduled, State::Parked].iter().filter_map(|state| view.counts.get(state)).sum()
        };
        Ok(Purgeable { waiting: view.as_ref().map_or(0, waiting), is_known: view.is_some() })
    }

    /// Deletes all tasks that wait in a queue, and answers how many.
    pub async fn purge(&self, queue: &QueueName) -> Result<u64, OpsError> {
        Ok(self.broker.purge(queue).await?)
    }

    async fn known_queue(&self, queue: &QueueName) -> Result<(), OpsError> {
        let mut known: Vec<QueueName> = self.broker.queues().await?.into_iter().map(|view| view.queue).collect();
        known.extend(self.broker.workers().await?.into_iter().flat_map(|worker| worker.queues));
        known.extend(self.broker.schedules().await?.into_iter().map(|schedule| schedule.queue));
        if known.contains(queue) {
            return Ok(());
        }
        let near = catalogue::near(queue.as_str(), known.iter().map(QueueName::as_str)).into_iter().next();
        Err(OpsError::NoSuchQueue { queue: queue.clone(), near })
    }
}
