//! Tasks and queues, shown one by one and steered; listings stand in listing.rs.

use futures_util::future::try_join_all;

use super::{
    RedisBroker,
    connection::ANSWER,
    scripts::{CANCEL, COUNTS, DELETE, PURGE, RESUME, RETRY, VIEW},
    values::{Odd, Row, bytes, count, is_yes, list, millis, number, shown_id, text, view, word},
};
use crate::{
    broker::{BrokerError, CancelReply, DeleteReply, QueueView, Result, RetryReply, unreadable},
    task::{QueueName, State, TaskId, TaskView},
};

impl RedisBroker {
    pub(super) async fn find_in(&self, queue: &QueueName, id: &TaskId) -> Result<Option<TaskView>> {
        let found = self.views(queue, &[id.to_string()]).await?.pop().flatten();
        let Some(mut found) = found else { return Ok(None) };
        if found.state == State::Running {
            // A claim writes nothing to the task: who runs it is what the workers say of themselves.
            let running = self.all_workers().await?.into_iter().find(|worker| worker.running.iter().any(|running| running.id == *id));
            found.worker = running.map(|worker| worker.id).or(found.worker);
        }
        Ok(Some(found))
    }

    /// Asks all queues at once.
    pub(super) async fn find_anywhere(&self, id: &TaskId) -> Result<Option<TaskView>> {
        let queues = self.all_queues().await?;
        let asked = queues.iter().map(|queue| async move {
            let is = self.commands.send(redis::cmd("EXISTS").arg(self.keys.task(queue, id))).await?;
            Ok::<_, BrokerError>(is_yes(&is).then_some(queue))
        });
        let mut found: Vec<TaskView> = Vec::new();
        for queue in try_join_all(asked).await?.into_iter().flatten() {
            found.extend(self.find_in(queue, id).await?);
        }
        if found.len() > 1 {
            return Err(unreadable::ambiguous(id, found.iter().map(|view| &view.queue)));
        }
        Ok(found.pop())
    }

    /// In the order given; ids, or held members.
    pub(super) async fn views(&self, queue: &QueueName, ids: &[String]) -> Result<Vec<Option<TaskView>>> {
        let mut call = VIEW.call(&self.keys.queue(queue));
        for id in ids {
            call.push(&**id);
        }
        let mut views: Vec<_> = list(self.commands.call(&call).await?)?.into_iter().map(|row| view(queue, row)).collect::<Result<_>>()?;
        let mut odd = Vec::new();
        for (id, view) in ids.iter().zip(&mut views).filter(|(id, _)| !id.contains('@')) {
            // Nobody could ask for it by this id: it ends here, and is shown under another.
            if let Err(error) = TaskId::new(id)
                && view.take().is_some_and(|view| !view.state.is_ended())
            {
                odd.push(Odd::waiting(id, error));
            }
        }
        self.end_unreadable(&self.commands, ANSWER, queue, "", odd).await;
        Ok(views)
    }

    pub(super) async fn read_log(&self, queue: Option<&QueueName>, id: &TaskId) -> Result<Option<String>> {
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
        let is = self.commands.send(redis::cmd("EXISTS").arg(self.keys.task(&queue, id))).await?;
        Ok(is_yes(&is).then(String::new))
    }

    pub(super) async fn all_queues(&self) -> Result<Vec<QueueName>> {
        let (key, mut queues, mut odd) = (self.keys.shared("queues"), Vec::new(), Vec::new());
        for name in list(self.commands.send(redis::cmd("SMEMBERS").arg(&key)).await?)?.into_iter().map(bytes) {
            match QueueName::new(String::from_utf8_lossy(&name)) {
                Ok(queue) => queues.push(queue),
                Err(why) => {
                    unreadable::say(&self.at, &format!("a name in `{key}`"), why, "it is taken from there");
                    odd.push(name);
                }
            }
        }
        if !odd.is_empty() {
            self.commands.send(redis::cmd("SREM").arg(&key).arg(&odd)).await?;
        }
        queues.sort_unstable();
        Ok(queues)
    }

    pub(super) async fn all_queue_views(&self) -> Result<Vec<QueueView>> {
        let views = self.all_queues().await?.into_iter().map(|queue| async move {
            let mut row = Row::new(self.commands.call(&COUNTS.call(&self.keys.queue(&queue))).await?)?;
            // In the order of `State::ALL`.
            let counts = State::ALL.into_iter().map(|state| (state, count(&row.next()))).collect();
            let oldest_ready_ms = u64::try_from(number(&row.next())).ok();
            Ok(QueueView { queue, counts, oldest_ready_ms, paused: is_yes(&row.next()) })
        });
        try_join_all(views).await
    }

    pub(super) async fn cancel_one(&self, queue: &QueueName, id: &TaskId) -> Result<CancelReply> {
        let call = CANCEL
            .call(&self.keys.queue(queue))
            .arg(millis(self.settings.result_ttl))
            .arg(id.as_str())
            .arg(self.keys.control())
            .arg(queue.as_str());
        let said = word(self.commands.call(&call).await?);
        Ok(match &*said {
            "unknown" => CancelReply::NotFound,
            "cancelled" => CancelReply::Cancelled,
            "asked" => CancelReply::Asked,
            ended => CancelReply::AlreadyEnded(state(ended.trim_start_matches("ended "))),
        })
    }

    pub(super) async fn retry_one(&self, queue: &QueueName, id: &TaskId) -> Result<RetryReply> {
        let mut row = Row::new(self.commands.call(&RETRY.call(&self.keys.queue(queue)).arg(id.as_str())).await?)?;
        Ok(match &*word(row.next()) {
            "unknown" => RetryReply::NotFound,
            "ready" => RetryReply::Ready,
            "duplicate" => RetryReply::Duplicate { holder: shown_id(&bytes(row.next())) },
            _ => RetryReply::NotEnded(state(&word(row.next()))),
        })
    }

    pub(super) async fn delete_one(&self, queue: &QueueName, id: &TaskId) -> Result<DeleteReply> {
        let said = word(self.commands.call(&DELETE.call(&self.keys.queue(queue)).arg(id.as_str())).await?);
        Ok(match &*said {
            "deleted" => DeleteReply::Deleted,
            "running" => DeleteReply::Running,
            _ => DeleteReply::NotFound,
        })
    }

    pub(super) async fn pause_queue(&self, queue: &QueueName) -> Result<()> {
        self.meet(queue).await?;
        self.commands.send(redis::cmd("HSET").arg(self.keys.of(queue, "control")).arg("paused").arg(1)).await.map(drop)
    }

    pub(super) async fn resume_queue(&self, queue: &QueueName) -> Result<()> {
        self.commands.call(&RESUME.call(&self.keys.queue(queue))).await.map(drop)
    }

    pub(super) async fn purge_queue(&self, queue: &QueueName) -> Result<u64> {
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

/// A state that is none is shown as dead.
fn state(word: &str) -> State {
    word.parse().unwrap_or(State::Dead)
}
