//! The role of operators: reads go to the readers, changes to the writer.

use async_trait::async_trait;

use super::{driver::SqliteBroker, end, listing, show, sweep};
use crate::{
    error::Result,
    listing::{TaskFilter, TaskPage},
    tasks::{CancelReply, DeleteReply, QueueView, RetryReply, Tasks},
};
use taskhost_core::task::{QueueName, TaskId, TaskView};

#[async_trait]
impl Tasks for SqliteBroker {
    async fn find(&self, queue: Option<&QueueName>, id: &TaskId) -> Result<Option<TaskView>> {
        let (queue, id) = (queue.cloned(), id.clone());
        self.read_tasks(move |db, now, odd| show::find(db, now, queue.as_ref(), &id, odd)).await
    }

    async fn log(&self, queue: Option<&QueueName>, id: &TaskId) -> Result<Option<String>> {
        let (queue, id) = (queue.cloned(), id.clone());
        self.read(move |db, now| show::log(db, now, queue.as_ref(), &id)).await
    }

    async fn list(&self, filter: &TaskFilter, from: Option<&str>, limit: usize) -> Result<TaskPage> {
        let (filter, from) = (filter.clone(), from.map(str::to_owned));
        self.read_tasks(move |db, now, odd| listing::list(db, now, &filter, from.as_deref(), limit, odd)).await
    }

    async fn cancel(&self, queue: &QueueName, id: &TaskId) -> Result<CancelReply> {
        let (queue, id) = (queue.clone(), id.clone());
        self.write(move |step| end::cancel(step, &queue, &id)).await
    }

    async fn retry(&self, queue: &QueueName, id: &TaskId) -> Result<RetryReply> {
        let (queue, id) = (queue.clone(), id.clone());
        self.write(move |step| end::retry(step, &queue, &id)).await
    }

    async fn delete(&self, queue: &QueueName, id: &TaskId) -> Result<DeleteReply> {
        let (queue, id) = (queue.clone(), id.clone());
        self.write(move |step| end::delete(step, &queue, &id)).await
    }

    async fn queues(&self) -> Result<Vec<QueueView>> {
        let (queues, odd) = self.read(show::queues).await?;
        if !odd.is_empty() {
            self.write(move |step| sweep::drop_queues(step, &odd)).await?;
        }
        Ok(queues)
    }

    async fn pause(&self, queue: &QueueName) -> Result<()> {
        let queue = queue.clone();
        self.write(move |step| {
            let mut pause = step
                .connection
                .prepare_cached("INSERT INTO queue (name, paused) VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET paused = 1")?;
            pause.execute([queue.as_str()])?;
            Ok(())
        })
        .await
    }

    async fn resume(&self, queue: &QueueName) -> Result<()> {
        let queue = queue.clone();
        self.write(move |step| {
            step.connection.prepare_cached("UPDATE queue SET paused = 0 WHERE name = ?")?.execute([queue.as_str()])?;
            step.news.claimable.insert(queue);
            Ok(())
        })
        .await
    }

    async fn purge(&self, queue: &QueueName) -> Result<u64> {
        let mut purged = 0;
        loop {
            let queue = queue.clone();
            let (count, more) = self.write(move |step| sweep::purge(step, &queue)).await?;
            purged += count as u64;
            if !more {
                return Ok(purged);
            }
        }
    }
}
