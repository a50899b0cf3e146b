//! The role of operators: look at tasks and queues, and steer them. See listing.rs for listings.

use async_trait::async_trait;
use futures_util::future::try_join_all;

use super::{
    driver::RedisBroker,
    listing,
    scripts::{CANCEL, COUNTS, DELETE, EDIT, PURGE, RESUME, RETRY},
    values::{Row, bytes, count, is_yes, millis, number, shown_id, text, word},
};
use crate::{
    error::Result,
    listing::{TaskFilter, TaskPage},
    produce::check_args,
    schedule::Schedules,
    tasks::{CancelReply, DeleteReply, EditReply, Feed, QueueView, RetryReply, Tasks, Totals},
};
use taskhost_core::task::{Millis, QueueName, State, TaskId, TaskView};

#[async_trait]
impl Tasks for RedisBroker {
    async fn find(&self, queue: Option<&QueueName>, id: &TaskId) -> Result<Option<TaskView>> {
        match queue {
            Some(queue) => self.find_in(queue, id).await,
            None => self.find_anywhere(id).await,
        }
    }

    async fn log(&self, queue: Option<&QueueName>, id: &TaskId) -> Result<Option<String>> {
        let queue = match queue {
            Some(queue) => queue.clone(),
            None => match self.find_anywhere(id).await? {
                Some(view) => view.queue,
                None => return Ok(None),
            },
        };
        if let Some(log) = text(self.commands.send(redis::cmd("GET").arg(self.keys.log(&queue, id))).await?) {
            return Ok(Some(log));
        }
        Ok(self.find_in(&queue, id).await?.map(|_| String::new()))
    }

    async fn list(&self, filter: &TaskFilter, from: Option<&str>, limit: usize) -> Result<TaskPage> {
        listing::list(self, filter, from, limit).await
    }

    async fn cancel(&self, queue: &QueueName, id: &TaskId) -> Result<CancelReply> {
        let asked = serde_json::json!({
            "id": id.as_str(),
            "queue": queue.as_str(),
            "channel": self.keys.control(),
            "ttl": millis(self.settings.result_ttl),
        });
        let call = CANCEL.call(&self.keys.queue(queue)).arg(asked.to_string());
        let said = word(self.commands.call(&call).await?);
        Ok(match &*said {
            "unknown" => CancelReply::NotFound,
            "cancelled" => CancelReply::Cancelled,
            "asked" => CancelReply::Asked,
            ended => CancelReply::AlreadyEnded(state(ended.trim_start_matches("ended "))),
        })
    }

    async fn retry(&self, queue: &QueueName, id: &TaskId) -> Result<RetryReply> {
        let mut row = Row::new(self.commands.call(&RETRY.call(&self.keys.queue(queue)).arg(id.as_str())).await?)?;
        Ok(match &*word(row.next()) {
            "unknown" => RetryReply::NotFound,
            "ready" => RetryReply::Ready,
            "duplicate" => RetryReply::Duplicate { holder: shown_id(&bytes(row.next())) },
            _ => RetryReply::NotEnded(state(&word(row.next()))),
        })
    }

    async fn delete(&self, queue: &QueueName, id: &TaskId) -> Result<DeleteReply> {
        let said = word(self.commands.call(&DELETE.call(&self.keys.queue(queue)).arg(id.as_str())).await?);
        Ok(match &*said {
            "deleted" => DeleteReply::Deleted,
            "running" => DeleteReply::Running,
            _ => DeleteReply::NotFound,
        })
    }

    async fn edit(&self, queue: &QueueName, id: &TaskId, args: &str) -> Result<EditReply> {
        check_args(args, self.settings.payload_limit)?;
        let said = word(self.commands.call(&EDIT.call(&self.keys.queue(queue)).arg(id.as_str()).arg(args)).await?);
        Ok(match &*said {
            "unknown" => EditReply::NotFound,
            "edited" => EditReply::Edited,
            "running" => EditReply::Refused(State::Running),
            ended => EditReply::Refused(state(ended)),
        })
    }

    async fn feed(&self, queue: &QueueName, since: Millis, limit: usize) -> Result<Feed> {
        listing::feed(self, queue, since, limit).await
    }

    async fn queues(&self) -> Result<Vec<QueueView>> {
        let views = self.all_queues().await?.into_iter().map(|queue| async move {
            let mut row = Row::new(self.commands.call(&COUNTS.call(&self.keys.queue(&queue))).await?)?;
            // In the order of `State::ALL`.
            let counts = State::ALL.into_iter().map(|state| (state, count(&row.next()))).collect();
            let oldest_ready_ms = u64::try_from(number(&row.next())).ok();
            let paused = is_yes(&row.next());
            let mut total = || count(&row.next());
            let totals = Totals { enqueued: total(), succeeded: total(), dead: total(), cancelled: total() };
            Ok(QueueView { queue, counts, oldest_ready_ms, paused, totals })
        });
        try_join_all(views).await
    }

    async fn pause(&self, queue: &QueueName) -> Result<()> {
        self.meet(queue).await?;
        let since = Schedules::now(self).await?;
        // A second pause does not change the time of the first.
        self.commands.send(redis::cmd("HSETNX").arg(self.keys.of(queue, "control")).arg("paused").arg(since.0)).await.map(drop)
    }

    async fn resume(&self, queue: &QueueName) -> Result<()> {
        self.commands.call(&RESUME.call(&self.keys.queue(queue))).await.map(drop)
    }

    async fn purge(&self, queue: &QueueName) -> Result<u64> {
        let mut purged = 0;
        loop {
            let mut row = Row::new(self.commands.call(&PURGE.call(&self.keys.queue(queue))).await?)?;
            purged += count(&row.next());
            if is_yes(&row.next()) {
                continue;
            }
            if !is_yes(&row.next()) {
                self.met.forget(queue);
                self.commands.send(redis::cmd("SREM").arg(self.keys.shared("queues")).arg(queue.as_str())).await?;
            }
            return Ok(purged);
        }
    }
}

/// An unknown state is shown as dead.
fn state(word: &str) -> State {
    word.parse().unwrap_or(State::Dead)
}
