//! The role of operators: reads go to the readers, changes to the writer.

use async_trait::async_trait;
use rusqlite::params;

use super::{
    driver::SqliteBroker,
    end::{discard, end_waiting, look_up, uncount},
    enqueue::take,
    flows, listing,
    rows::duration,
    show, sweep,
    writer::{Failure, Step},
};
use crate::{
    error::Result,
    flows::Told,
    listing::{TaskFilter, TaskPage},
    produce::check_args,
    tasks::{CancelReply, DeleteReply, EditReply, Feed, QueueView, RetryReply, Tasks},
};
use taskhost_core::task::{ErrorKind, Millis, QueueName, State, TaskError, TaskId, TaskView, Unique};

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
        self.write(move |step| cancel(step, &queue, &id)).await
    }

    async fn retry(&self, queue: &QueueName, id: &TaskId) -> Result<RetryReply> {
        let (queue, id) = (queue.clone(), id.clone());
        self.write(move |step| retry(step, &queue, &id)).await
    }

    async fn delete(&self, queue: &QueueName, id: &TaskId) -> Result<DeleteReply> {
        let (queue, id) = (queue.clone(), id.clone());
        self.write(move |step| delete(step, &queue, &id)).await
    }

    async fn edit(&self, queue: &QueueName, id: &TaskId, args: &str) -> Result<EditReply> {
        let (queue, id, args) = (queue.clone(), id.clone(), args.to_owned());
        self.write(move |step| edit(step, &queue, &id, &args)).await
    }

    /// Runs as a step of the writer, so that no other step ends a task meanwhile.
    async fn feed(&self, queue: &QueueName, since: Millis, limit: usize) -> Result<Feed> {
        let queue = queue.clone();
        self.write(move |step| listing::feed(step.connection, step.now, &queue, since, limit)).await
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
            // A second pause does not change the time of the first.
            let mut pause = step.connection.prepare_cached(
                "INSERT INTO queue (name, paused) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET paused = excluded.paused WHERE paused = 0",
            )?;
            pause.execute(params![queue.as_str(), step.now_ms()])?;
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

pub(super) fn cancel(step: &mut Step<'_>, queue: &QueueName, id: &TaskId) -> Result<CancelReply, Failure> {
    let Some(task) = look_up(step, queue, id)? else { return Ok(CancelReply::NotFound) };
    if task.state.is_ended() {
        return Ok(CancelReply::AlreadyEnded(task.state));
    }
    if task.state == State::Running {
        step.connection.prepare_cached("UPDATE task SET cancel_asked = 1 WHERE seq = ?")?.execute([task.seq])?;
        step.news.cancel_asked = true;
        return Ok(CancelReply::Asked);
    }
    end_waiting(step, &task, State::Cancelled, &TaskError::new(ErrorKind::Cancelled, "cancelled before it started"))?;
    Ok(CancelReply::Cancelled)
}

fn retry(step: &mut Step<'_>, queue: &QueueName, id: &TaskId) -> Result<RetryReply, Failure> {
    let Some(task) = look_up(step, queue, id)? else { return Ok(RetryReply::NotFound) };
    match task.state {
        State::Dead | State::Cancelled => {
            if let (Some(key), Some(ttl)) = (&task.unique_key, task.unique_ttl_ms) {
                let unique = Unique { key: key.clone(), ttl: duration(ttl) };
                if let Some(holder) = take(step, queue, id, &unique, step.now_ms())? {
                    return Ok(RetryReply::Duplicate { holder });
                }
            }
            uncount(step, &task)?;
            let turn = step.stamp();
            // The caller wants it to run, also after its `expires`.
            let mut update = step.connection.prepare_cached(
                "UPDATE task SET state = 1, turn = ?, tries = 0, losses = 0, ended_at = NULL, gone_at = NULL, error = NULL,
                                 expires_at = NULL WHERE seq = ?",
            )?;
            update.execute([turn, task.seq])?;
            drop(update);
            if let Some(place) = &task.flow {
                flows::tell(step, place, &Told::again(place))?;
            }
        }
        State::Scheduled => {
            let turn = step.stamp();
            let now = step.now_ms();
            let mut update = step.connection.prepare_cached(
                "UPDATE task SET state = 1, turn = ?, due_at = NULL, expires_at = iif(expires_at <= ?, NULL, expires_at) WHERE seq = ?",
            )?;
            update.execute([turn, now, task.seq])?;
        }
        other => return Ok(RetryReply::NotEnded(other)),
    }
    step.news.claimable.insert(queue.clone());
    Ok(RetryReply::Ready)
}

fn edit(step: &Step<'_>, queue: &QueueName, id: &TaskId, args: &str) -> Result<EditReply, Failure> {
    check_args(args, step.settings.payload_limit)?;
    let Some(task) = look_up(step, queue, id)? else { return Ok(EditReply::NotFound) };
    if matches!(task.state, State::Running | State::Succeeded) {
        return Ok(EditReply::Refused(task.state));
    }
    step.connection.prepare_cached("UPDATE task SET args = ? WHERE seq = ?")?.execute(params![args, task.seq])?;
    Ok(EditReply::Edited)
}

fn delete(step: &mut Step<'_>, queue: &QueueName, id: &TaskId) -> Result<DeleteReply, Failure> {
    let Some(task) = look_up(step, queue, id)? else { return Ok(DeleteReply::NotFound) };
    if task.state == State::Running {
        // Another program wrote a running task that no incarnation holds.
        let mut held = step
            .connection
            .prepare_cached("SELECT 1 FROM task JOIN incarnation ON n = held_by AND incarnation.queue = task.queue WHERE seq = ?")?;
        if held.exists([task.seq])? {
            return Ok(DeleteReply::Running);
        }
    }
    discard(step, &task)?;
    Ok(DeleteReply::Deleted)
}
