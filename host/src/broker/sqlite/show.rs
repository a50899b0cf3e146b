//! What is shown: a task, its log, the queues. Read on connections of their own; nothing here writes.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, params};

use super::{
    rows::{VIEW, parsed, view},
    writer::{Failure, sql},
};
use crate::{
    broker::{QueueView, Result},
    task::{Millis, QueueName, State, TaskId, TaskView},
};

pub(super) fn find(db: &Connection, now: Millis, queue: Option<&QueueName>, id: &TaskId) -> Result<Option<TaskView>, Failure> {
    let mut find = db.prepare_cached(&format!(
        "SELECT {VIEW} FROM task WHERE id = ?1 AND (?2 IS NULL OR queue = ?2) AND (gone_at IS NULL OR gone_at > ?3) ORDER BY seq LIMIT 1"
    ))?;
    Ok(find.query_row(params![id.as_str(), queue.map(QueueName::as_str), sql(now)], view).optional()?)
}

pub(super) fn log(db: &Connection, now: Millis, queue: Option<&QueueName>, id: &TaskId) -> Result<Option<String>, Failure> {
    let mut find = db.prepare_cached(
        "SELECT coalesce(log.text, '') FROM task LEFT JOIN log USING (seq)
         WHERE id = ?1 AND (?2 IS NULL OR queue = ?2) AND (gone_at IS NULL OR gone_at > ?3) ORDER BY seq LIMIT 1",
    )?;
    Ok(find.query_row(params![id.as_str(), queue.map(QueueName::as_str), sql(now)], |row| row.get(0)).optional()?)
}

pub(super) fn names(db: &Connection) -> Result<Vec<QueueName>, Failure> {
    let mut all = db.prepare_cached("SELECT name FROM queue ORDER BY name")?;
    Ok(all.query_map((), |row| parsed(row, 0))?.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn queues(db: &Connection, now: Millis) -> Result<Vec<QueueView>, Failure> {
    let mut all = db.prepare_cached("SELECT name, paused FROM queue ORDER BY name")?;
    let queues = all.query_map((), |row| Ok((parsed::<QueueName>(row, 0)?, row.get(1)?)))?.collect::<rusqlite::Result<Vec<_>>>()?;
    queues.into_iter().map(|(queue, paused)| one_queue(db, now, queue, paused)).collect()
}

/// Of what has ended there is a count for each time at which it is over: `ended` in schema.sql.
pub(super) const COUNTS: &str = "SELECT (SELECT count(*) FROM task INDEXED BY task_scheduled WHERE queue = ?1 AND state = 0),
            (SELECT count(*) FROM task INDEXED BY task_ready WHERE queue = ?1 AND state = 1),
            (SELECT count(*) FROM task INDEXED BY task_parked WHERE queue = ?1 AND state = 2),
            (SELECT count(*) FROM task INDEXED BY task_running WHERE queue = ?1 AND state = 3),
            (SELECT coalesce(sum(n), 0) FROM ended WHERE queue = ?1 AND state = 4 AND gone_at > ?2),
            (SELECT coalesce(sum(n), 0) FROM ended WHERE queue = ?1 AND state = 5 AND gone_at > ?2),
            (SELECT coalesce(sum(n), 0) FROM ended WHERE queue = ?1 AND state = 6 AND gone_at > ?2),
            (SELECT min(enqueued_at) FROM
               (SELECT enqueued_at FROM task INDEXED BY task_ready WHERE queue = ?1 AND state = 1 ORDER BY rank, turn LIMIT 1))";

fn one_queue(db: &Connection, now: Millis, queue: QueueName, paused: bool) -> Result<QueueView, Failure> {
    let mut count = db.prepare_cached(COUNTS)?;
    let (counts, oldest) = count.query_row(params![queue.as_str(), sql(now)], |row| {
        let counts = (0..7).map(|column| row.get::<_, i64>(column).map(i64::unsigned_abs)).collect::<rusqlite::Result<Vec<_>>>()?;
        Ok((counts, row.get::<_, Option<i64>>(7)?))
    })?;
    let counts: BTreeMap<State, u64> = State::ALL.into_iter().zip(counts).collect();
    let oldest_ready_ms = oldest.map(|at| sql(now).saturating_sub(at).max(0).unsigned_abs());
    Ok(QueueView { queue, counts, oldest_ready_ms, paused })
}
