//! What is common to every end: the key is released, the result's time begins, whoever waits is told.

use std::fmt::Write;

use rusqlite::{OptionalExtension, params};

use super::{
    enqueue::take,
    kept,
    rows::{BRIEF, Brief, Odd, brief, duration, maybe, ms, number, parsed, whole, words},
    writer::{Failure, Step},
};
use crate::{
    error::Result,
    settings::STUB,
    tasks::{CancelReply, DeleteReply, RetryReply},
    unreadable,
};
use taskhost_core::task::{ErrorKind, QueueName, State, TaskError, TaskId, Unique};

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
    let gone_at = find.query_row([task.seq], |row| maybe(row, 0)).optional()?.flatten();
    count(step, &task.queue, task.state, gone_at, -1)
}

/// `now + ttl`, later by a two-thousandth of `ttl` at most: then tasks share their times, and there are few counts.
fn over_at(now: i64, ttl: i64) -> i64 {
    let grid = i64::try_from((ttl / 4096).max(1).unsigned_abs().next_power_of_two()).unwrap_or(1);
    let at = now.saturating_add(ttl);
    at.checked_add(grid - 1).map_or(at, |end| end - end % grid)
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
        // If it was counted among those that have ended, it is counted among the dead now.
        let mut counted = step.connection.prepare_cached("SELECT state, gone_at FROM task WHERE seq = ?")?;
        let (was, gone_at) = counted.query_row([seq], |row| Ok((whole(row, 0)?, maybe(row, 1)?)))?;
        if let Some(was) = State::ALL.into_iter().find(|state| state.is_ended() && number(*state) == was).filter(|_| own_queue) {
            count(step, &queue, was, gone_at, -1)?;
        }
        let error = serde_json::to_string(&TaskError::new(ErrorKind::Unreadable, &*message))?;
        update.execute(params![id.as_str(), queue.as_str(), number(State::Dead), step.now_ms(), error, seq])?;
        let then = format!("it is dead: `taskhost task show {id} --queue {queue}`, `taskhost task delete {id} --queue {queue}`");
        count(step, &queue, State::Dead, None, 1)?;
        unreadable::say(at(step.connection), &format!("task `{id}` of queue `{queue}`"), message, then);
        step.news.ended.push(id);
    }
    Ok(())
}

/// The database, as it is shown.
pub(super) fn at(db: &rusqlite::Connection) -> &str {
    db.path().unwrap_or("the database")
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
    if ttl > 0 || kept::is_awaited(step, task)? { Ok(Kept::Until(Some(over_at(step.now_ms(), ttl)))) } else { Ok(Kept::Nothing) }
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
    if task.state.is_ended() {
        uncount(step, task)?;
    }
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
                let unique = Unique { key: key.clone(), ttl: duration(ttl) };
                if let Some(holder) = take(step, queue, id, &unique, step.now_ms())? {
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
        // What nobody holds was never claimed: somebody else wrote it.
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
