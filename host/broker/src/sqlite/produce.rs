//! The role of producers: enqueue on the writer, await an end.

use std::time::Duration;

use async_trait::async_trait;

use super::{driver::SqliteBroker, enqueue, wait};
use crate::{
    error::Result,
    produce::{Enqueued, Produce},
};
use taskhost_core::task::{NewTask, QueueName, TaskId, TaskView};

#[async_trait]
impl Produce for SqliteBroker {
    async fn enqueue(&self, tasks: &[NewTask]) -> Result<Vec<Enqueued>> {
        let tasks = tasks.to_vec();
        self.write(move |step| enqueue::enqueue(step, &tasks)).await
    }

    async fn await_end(&self, queue: Option<&QueueName>, id: &TaskId, limit: Duration) -> Result<Option<TaskView>> {
        wait::await_end(self, queue, id, limit).await
    }
}
