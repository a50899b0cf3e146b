//! Notes about a task beside its row: that a caller awaits it, and that it existed.
//!
//! `gone_at` hides a row past its time. The row of an awaited task stays for a minute more, so that its end can be told. A task that the
//! broker itself started leaves a stub, so that it is not started again.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use super::{
    rows::{Brief, VIEW, ms, parsed, time, view},
    writer::{Failure, Step, sql},
};
use crate::{
    error::Result,
    settings::{STUB, TOLD},
};
use taskhost_core::task::{Millis, QueueName, TaskId, TaskView};

/// The longest time that is noted at once. A caller that waits longer notes it again.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// A caller notes its wait again when the note lasts for less than this.
pub(super) const RENEWED: Duration = Duration::from_secs(TOLD.as_secs() / 2);

/// How long the note that this task is awaited lasts.
pub(super) fn noted_for(db: &Connection, now: Millis, queue: &QueueName, id: &TaskId) -> Result<Duration, Failure> {
    let mut find = db.prepare_cached("SELECT until FROM awaited WHERE queue = ? AND id = ?")?;
    let until = find.query_row(params![queue.as_str(), id.as_str()], |row| row.get::<_, i64>(0)).optional()?;
    Ok(until.map_or(Duration::ZERO, |until| time(until).since(now)))
}

/// Notes that a caller awaits this task, for `limit` at most.
pub(super) fn note_awaited(step: &Step<'_>, queue: &QueueName, id: &TaskId, limit: Duration) -> Result<(), Failure> {
    let until = step.now_ms().saturating_add(ms(limit.min(LONGEST) + TOLD));
    let mut note = step.connection.prepare_cached(
        "INSERT INTO awaited (queue, id, until) VALUES (?, ?, ?) ON CONFLICT (queue, id) DO UPDATE SET until = max(until, excluded.until)",
    )?;
    note.execute(params![queue.as_str(), id.as_str(), until])?;
    Ok(())
}

/// The queue of a task that has not ended. `None` if several queues have the id.
pub(super) fn going_on(step: &Step<'_>, queue: Option<&QueueName>, id: &TaskId) -> Result<Option<QueueName>, Failure> {
    let mut find = step.connection.prepare_cached(
        "SELECT queue, state < 4 AS goes_on FROM task WHERE id = ?1 AND (?2 IS NULL OR queue = ?2) AND (gone_at IS NULL OR gone_at > ?3) LIMIT 2",
    )?;
    let read = |row: &rusqlite::Row<'_>| Ok((parsed(row, "queue").ok(), row.get::<_, bool>("goes_on")?));
    let found = find.query_map(params![id.as_str(), queue.map(QueueName::as_str), step.now_ms()], read)?;
    Ok(match &found.collect::<rusqlite::Result<Vec<_>>>()?[..] {
        [(queue, true)] => queue.clone(),
        _ => None,
    })
}

pub(super) fn is_awaited(step: &Step<'_>, task: &Brief) -> Result<bool, Failure> {
    let mut find = step.connection.prepare_cached("SELECT 1 FROM awaited WHERE queue = ? AND id = ? AND until > ?")?;
    Ok(find.exists(params![task.queue.as_str(), task.id.as_str(), step.now_ms()])?)
}

/// The end of a gone task, for the callers that await it.
pub(super) fn told(db: &Connection, now: Millis, queue: Option<&QueueName>, id: &TaskId) -> Result<Option<TaskView>, Failure> {
    let mut find = db.prepare_cached(&format!(
        "SELECT {VIEW} FROM task WHERE id = ?1 AND (?2 IS NULL OR queue = ?2) AND gone_at <= ?3 AND gone_at > ?3 - ?4
           AND EXISTS (SELECT 1 FROM awaited WHERE awaited.queue = task.queue AND awaited.id = task.id AND until > ?3)
         ORDER BY seq LIMIT 1"
    ))?;
    Ok(find.query_row(params![id.as_str(), queue.map(QueueName::as_str), sql(now), ms(TOLD)], view).optional()?)
}

/// Leaves a stub, from the task's end or deletion on.
pub(super) fn leave_stub(step: &Step<'_>, task: &Brief) -> Result<(), Failure> {
    let mut leave = step.connection.prepare_cached("INSERT OR REPLACE INTO stub (queue, id, until) VALUES (?, ?, ?)")?;
    leave.execute(params![task.queue.as_str(), task.id.as_str(), step.now_ms().saturating_add(ms(STUB))])?;
    Ok(())
}

pub(super) fn has_stub(step: &Step<'_>, queue: &QueueName, id: &TaskId) -> Result<bool, Failure> {
    let mut find = step.connection.prepare_cached("SELECT 1 FROM stub WHERE queue = ? AND id = ? AND until > ?")?;
    Ok(find.exists(params![queue.as_str(), id.as_str(), step.now_ms()])?)
}

/// Deletes stubs and awaits that are past their time.
pub(super) fn forget(step: &Step<'_>) -> Result<(), Failure> {
    for table in ["stub", "awaited"] {
        step.connection.prepare_cached(&format!("DELETE FROM {table} WHERE until <= ?"))?.execute([step.now_ms()])?;
    }
    Ok(())
}
