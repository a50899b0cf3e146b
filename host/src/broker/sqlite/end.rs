//! What is common to every end: the key is released, the result's time begins, whoever waits is told.

use rusqlite::{OptionalExtension, params};

use super::{
    enqueue::take,
    kept,
    rows::{BRIEF, Brief, brief, ms, number},
    writer::{Failure, Step},
};
use crate::{
    broker::{CancelReply, DeleteReply, Result, RetryReply, STUB},
    task::{ErrorKind, QueueName, State, TaskError, TaskId, Unique},
};

/// The task, unless it ended and is over its time.
pub(super) fn look_up(step: &Step<'_>, queue: &QueueName, id: &TaskId) -> Result<Option<Brief>, Failure> {
    let mut find = step
        .connection
        .prepare_cached(&format!("SELECT {BRIEF} FROM task WHERE id = ? AND queue = ? AND (gone_at IS NULL OR gone_at > ?)"))?;
    Ok(find.query_row(params![id.as_str(), queue.as_str(), step.now_ms()], brief).optional()?)
}

/// Ends a task that no attempt ended: cancelled while it waited, expired, nobody offers it.
pub(super) fn end(step: &mut Step<'_>, task: &Brief, state: State, error: &TaskError) -> Result<(), Failure> {
    release(step, task)?;
    step.news.ended.push(task.id.clone());
    let Kept::Until(gone_at) = keep(step, task, state)? else { return remove(step, task) };
    let mut update = step.connection.prepare_cached(
        "UPDATE task SET state = ?, ended_at = ?, gone_at = ?, error = ?, due_at = NULL, parked_at = NULL, held_by = NULL,
                         cancel_asked = 0, progress = NULL WHERE seq = ?",
    )?;
    update.execute(params![number(state), step.now_ms(), gone_at, serde_json::to_string(error)?, task.seq])?;
    Ok(())
}

/// What is kept of an ended task.
pub(super) enum Kept {
    Nothing,
    /// Its row, until this `gone_at`; never by itself when that is none: the dead set has bounds of its own.
    Until(Option<i64>),
}

pub(super) fn keep(step: &Step<'_>, task: &Brief, state: State) -> Result<Kept, Failure> {
    if state == State::Dead {
        return Ok(Kept::Until(None));
    }
    let ttl = task.result_ttl_ms.unwrap_or_else(|| ms(step.settings.result_ttl));
    if task.child && ttl < ms(STUB) {
        kept::leave_stub(step, task)?;
    }
    // Hidden from now on, and told to those who await it.
    if ttl > 0 || kept::is_awaited(step, task)? { Ok(Kept::Until(Some(step.now_ms().saturating_add(ttl)))) } else { Ok(Kept::Nothing) }
}

/// Gives the unique key back, if it is still this task's.
pub(super) fn release(step: &Step<'_>, task: &Brief) -> Result<(), Failure> {
    if let Some(key) = &task.unique_key {
        let mut delete = step.connection.prepare_cached("DELETE FROM unique_key WHERE queue = ? AND key = ? AND holder = ?")?;
        delete.execute([task.queue.as_str(), key, task.id.as_str()])?;
    }
    Ok(())
}

/// Deletes a task that does not run. Whoever awaits one that has not ended is told that it never will.
pub(super) fn discard(step: &mut Step<'_>, task: &Brief) -> Result<(), Failure> {
    release(step, task)?;
    step.news.ended.push(task.id.clone());
    if task.state.is_ended() || !kept::is_awaited(step, task)? {
        return remove(step, task);
    }
    if task.child {
        kept::leave_stub(step, task)?;
    }
    let error = TaskError::new(ErrorKind::Cancelled, "deleted before it started");
    let mut hide = step.connection.prepare_cached(
        "UPDATE task SET state = 6, ended_at = ?1, gone_at = ?1, error = ?2, due_at = NULL, parked_at = NULL, progress = NULL WHERE seq = ?3",
    )?;
    hide.execute(params![step.now_ms(), serde_json::to_string(&error)?, task.seq])?;
    Ok(())
}

pub(super) fn remove(step: &Step<'_>, task: &Brief) -> Result<(), Failure> {
    if task.child {
        kept::leave_stub(step, task)?;
    }
    step.connection.prepare_cached("DELETE FROM task WHERE seq = ?")?.execute([task.seq])?;
    Ok(())
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
    end(step, &task, State::Cancelled, &TaskError::new(ErrorKind::Cancelled, "cancelled before it started"))?;
    Ok(CancelReply::Cancelled)
}

pub(super) fn retry(step: &mut Step<'_>, queue: &QueueName, id: &TaskId) -> Result<RetryReply, Failure> {
    let Some(task) = look_up(step, queue, id)? else { return Ok(RetryReply::NotFound) };
    match task.state {
        State::Dead | State::Cancelled => {
            if let (Some(key), Some(ttl)) = (&task.unique_key, task.unique_ttl_ms) {
                let unique = Unique { key: key.clone(), ttl: super::rows::duration(ttl) };
                if let Some(holder) = take(step, queue, id, &unique, step.now_ms())? {
                    return Ok(RetryReply::Duplicate { holder });
                }
            }
            let turn = step.stamp();
            // Somebody wants it to run although its `expires` may be over.
            let mut update = step.connection.prepare_cached(
                "UPDATE task SET state = 1, turn = ?, tries = 0, losses = 0, ended_at = NULL, gone_at = NULL, error = NULL,
                                 expires_at = NULL WHERE seq = ?",
            )?;
            update.execute([turn, task.seq])?;
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

pub(super) fn delete(step: &mut Step<'_>, queue: &QueueName, id: &TaskId) -> Result<DeleteReply, Failure> {
    let Some(task) = look_up(step, queue, id)? else { return Ok(DeleteReply::NotFound) };
    if task.state == State::Running {
        return Ok(DeleteReply::Running);
    }
    discard(step, &task)?;
    Ok(DeleteReply::Deleted)
}
