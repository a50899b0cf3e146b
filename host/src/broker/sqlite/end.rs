//! What is common to every end: the key is released, the result's time begins, whoever waits is told.

use rusqlite::{OptionalExtension, params};

use super::{
    enqueue::take,
    rows::{BRIEF, Brief, brief, ms, number},
    writer::{Failure, Step},
};
use crate::{
    broker::{CancelReply, DeleteReply, Result, RetryReply},
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
    let Some(gone_at) = gone_at(step, task, state) else { return remove(step, task) };
    let mut update = step.connection.prepare_cached(
        "UPDATE task SET state = ?, ended_at = ?, gone_at = ?, error = ?, due_at = NULL, parked_at = NULL, held_by = NULL,
                         cancel_asked = 0, progress = NULL WHERE seq = ?",
    )?;
    update.execute(params![number(state), step.now_ms(), gone_at, serde_json::to_string(error)?, task.seq])?;
    count(step, &task.queue, state, gone_at, 1)
}

/// What is never over its time by itself stands under this one.
const NEVER: i64 = i64::MAX;

/// So many of a queue have ended so, and are over their time then.
pub(super) fn count(step: &Step<'_>, queue: &QueueName, state: State, gone_at: Option<i64>, n: i64) -> Result<(), Failure> {
    let mut add = step.connection.prepare_cached(
        "INSERT INTO ended (queue, state, gone_at, n) VALUES (?, ?, ?, ?) ON CONFLICT (queue, state, gone_at) DO UPDATE SET n = n + excluded.n",
    )?;
    add.execute(params![queue.as_str(), number(state), gone_at.unwrap_or(NEVER), n])?;
    Ok(())
}

/// An ended task goes before its time is over, or runs again.
fn uncount(step: &Step<'_>, task: &Brief) -> Result<(), Failure> {
    let mut find = step.connection.prepare_cached("SELECT gone_at FROM task WHERE seq = ?")?;
    let gone_at = find.query_row([task.seq], |row| row.get(0)).optional()?.flatten();
    count(step, &task.queue, task.state, gone_at, -1)
}

/// `now + ttl`, later by a two-thousandth of `ttl` at most: then tasks share their times, and there are few counts.
fn over_at(now: i64, ttl: i64) -> i64 {
    let grid = i64::try_from((ttl / 4096).max(1).unsigned_abs().next_power_of_two()).unwrap_or(1);
    let at = now.saturating_add(ttl);
    at.checked_add(grid - 1).map_or(at, |end| end - end % grid)
}

/// When an end is forgotten: `Some(None)` never by itself (the dead set has bounds of its own), `None` at once.
#[expect(clippy::option_option, reason = "at once, never and then are three answers, and the inner one is the column's value")]
pub(super) fn gone_at(step: &Step<'_>, task: &Brief, state: State) -> Option<Option<i64>> {
    if state == State::Dead {
        return Some(None);
    }
    match task.result_ttl_ms.unwrap_or_else(|| ms(step.settings.result_ttl)) {
        0 => None,
        ttl => Some(Some(over_at(step.now_ms(), ttl))),
    }
}

/// Gives the unique key back, if it is still this task's.
pub(super) fn release(step: &Step<'_>, task: &Brief) -> Result<(), Failure> {
    if let Some(key) = &task.unique_key {
        let mut delete = step.connection.prepare_cached("DELETE FROM unique_key WHERE queue = ? AND key = ? AND holder = ?")?;
        delete.execute([task.queue.as_str(), key, task.id.as_str()])?;
    }
    Ok(())
}

pub(super) fn remove(step: &Step<'_>, task: &Brief) -> Result<(), Failure> {
    if task.state.is_ended() {
        uncount(step, task)?;
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
                if let Some(holder) = take(step, queue, id, &unique)? {
                    return Ok(RetryReply::Duplicate { holder });
                }
            }
            uncount(step, &task)?;
            let turn = step.stamp();
            // Somebody wants it to run although its `expires` may be over.
            let mut update = step.connection.prepare_cached(
                "UPDATE task SET state = 1, turn = ?, tries = 0, losses = 0, ended_at = NULL, gone_at = NULL, error = NULL,
                                 expires_at = NULL WHERE seq = ?",
            )?;
            update.execute([turn, task.seq])?;
        }
        State::Scheduled if task.tries > 0 => {
            let turn = step.stamp();
            let mut update = step.connection.prepare_cached("UPDATE task SET state = 1, turn = ?, due_at = NULL WHERE seq = ?")?;
            update.execute([turn, task.seq])?;
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
    release(step, &task)?;
    remove(step, &task)?;
    step.news.ended.push(task.id);
    Ok(DeleteReply::Deleted)
}
