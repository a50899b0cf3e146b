//! What is common to every end: the key is released, the result's time begins, whoever waits is told.

use std::fmt::Write;

use rusqlite::{OptionalExtension, params};

use super::{
    enqueue::take,
    rows::{BRIEF, Brief, Odd, brief, ms, number, parsed, words},
    writer::{Failure, Step},
};
use crate::{
    broker::{CancelReply, DeleteReply, Result, RetryReply, unreadable},
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
    Ok(())
}

/// Rows that are no tasks end as dead, each alone. Nobody can ask for an id or a queue that is none: those get others.
pub(super) fn end_unreadable(step: &mut Step<'_>, odd: &[Odd]) -> Result<(), Failure> {
    for Odd { seq, why } in odd {
        let mut find = step.connection.prepare_cached("SELECT id, queue FROM task WHERE seq = ?")?;
        let stored = find.query_row([seq], |row| {
            let (id, queue) = (parsed::<TaskId>(row, 0), parsed::<QueueName>(row, 1));
            Ok((id.ok(), queue.ok(), words(row, 0)?.unwrap_or_default(), words(row, 1)?.unwrap_or_default()))
        });
        let Some((id, queue, was_id, was_queue)) = stored.optional()? else { continue };
        let (own_id, own_queue) = (id.is_some(), queue.is_some());
        let queue = queue.unwrap_or_default();
        let is_other = |id: &TaskId| {
            step.connection.prepare_cached("SELECT 1 FROM task WHERE id = ? AND queue = ? AND seq <> ?")?.exists(params![
                id.as_str(),
                queue.as_str(),
                seq
            ])
        };
        let id = match id {
            Some(id) if !is_other(&id)? => id,
            _ => TaskId::unreadable(seq),
        };
        let mut message = why.clone();
        if !own_id {
            let _infallible = write!(message, " (its id was `{}`)", unreadable::shown(&was_id));
        }
        if !own_queue {
            let _infallible = write!(message, " (its queue was `{}`)", unreadable::shown(&was_queue));
        }
        let mut free = step.connection.prepare_cached(
            "DELETE FROM unique_key WHERE (queue, key, holder) IN (SELECT queue, unique_key, id FROM task WHERE seq = ?)",
        )?;
        free.execute([seq])?;
        let mut update = step.connection.prepare_cached(
            "UPDATE task SET id = ?, queue = ?, state = ?, ended_at = ?, gone_at = NULL, error = ?, due_at = NULL, parked_at = NULL,
                             held_by = NULL, cancel_asked = 0, progress = NULL WHERE seq = ?",
        )?;
        let error = serde_json::to_string(&TaskError::new(ErrorKind::Unreadable, &*message))?;
        update.execute(params![id.as_str(), queue.as_str(), number(State::Dead), step.now_ms(), error, seq])?;
        let then = format!("it is dead: `taskhost task show {id} --queue {queue}`, `taskhost task delete {id} --queue {queue}`");
        unreadable::say(at(step.connection), &format!("task `{id}` of queue `{queue}`"), message, then);
        step.news.ended.push(id);
    }
    Ok(())
}

/// The database, as it is shown.
pub(super) fn at(db: &rusqlite::Connection) -> &str {
    db.path().unwrap_or("the database")
}

/// When an end is forgotten: `Some(None)` never by itself (the dead set has bounds of its own), `None` at once.
#[expect(clippy::option_option, reason = "at once, never and then are three answers, and the inner one is the column's value")]
pub(super) fn gone_at(step: &Step<'_>, task: &Brief, state: State) -> Option<Option<i64>> {
    if state == State::Dead {
        return Some(None);
    }
    match task.result_ttl_ms.unwrap_or_else(|| ms(step.settings.result_ttl)) {
        0 => None,
        ttl => Some(Some(step.now_ms().saturating_add(ttl))),
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
        // What nobody holds was never claimed: somebody else wrote it.
        let mut held = step
            .connection
            .prepare_cached("SELECT 1 FROM task JOIN incarnation ON n = held_by AND incarnation.queue = task.queue WHERE seq = ?")?;
        if held.exists([task.seq])? {
            return Ok(DeleteReply::Running);
        }
    }
    release(step, &task)?;
    remove(step, &task)?;
    step.news.ended.push(task.id);
    Ok(DeleteReply::Deleted)
}
