//! Reads for display: a task, its log, the queues. They use reading connections and write nothing.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, params, types::Value};

use super::{
    columns::col,
    end::at,
    rows::{Odd, VIEW, maybe, or_odd, parsed, view, whole, why, words},
    writer::{Failure, sql},
};
use crate::{
    error::Result,
    tasks::{QueueView, Totals},
    unreadable,
};
use taskhost_core::task::{Millis, QueueName, State, TaskId, TaskView};

pub(super) fn find(
    db: &Connection,
    now: Millis,
    queue: Option<&QueueName>,
    id: &TaskId,
    odd: &mut Vec<Odd>,
) -> Result<Option<TaskView>, Failure> {
    let mut find = db.prepare_cached(&format!(
        "SELECT {VIEW} FROM task WHERE id = ?1 AND (?2 IS NULL OR queue = ?2) AND (gone_at IS NULL OR gone_at > ?3) ORDER BY queue"
    ))?;
    let rows = find.query_map(params![id.as_str(), queue.map(QueueName::as_str), sql(now)], |row| {
        Ok(or_odd(row.get(col!(VIEW.seq))?, view(row), odd))
    })?;
    let mut found = rows.filter_map(Result::transpose).collect::<rusqlite::Result<Vec<_>>>()?;
    one_queue_has(id, found.iter().map(|view| &view.queue))?;
    Ok(found.pop())
}

/// An id is unique in its queue only.
fn one_queue_has<'a>(id: &TaskId, queues: impl ExactSizeIterator<Item = &'a QueueName>) -> Result<(), Failure> {
    if queues.len() > 1 { Err(unreadable::ambiguous(id, queues).into()) } else { Ok(()) }
}

pub(super) fn log(db: &Connection, now: Millis, queue: Option<&QueueName>, id: &TaskId) -> Result<Option<String>, Failure> {
    let mut find = db.prepare_cached(
        "SELECT coalesce(log.text, '') AS log, queue FROM task LEFT JOIN log USING (seq)
         WHERE id = ?1 AND (?2 IS NULL OR queue = ?2) AND (gone_at IS NULL OR gone_at > ?3) ORDER BY queue",
    )?;
    let read =
        |row: &rusqlite::Row<'_>| Ok((words(row, "log")?.unwrap_or_default(), parsed::<QueueName>(row, "queue").unwrap_or_default()));
    let rows = find.query_map(params![id.as_str(), queue.map(QueueName::as_str), sql(now)], read)?;
    let mut found = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    one_queue_has(id, found.iter().map(|(_, queue)| queue))?;
    Ok(found.pop().map(|(log, _)| log))
}

/// The names of all queues. Invalid names are left to [`queues`].
pub(super) fn names(db: &Connection) -> Result<Vec<QueueName>, Failure> {
    let mut all = db.prepare_cached("SELECT name FROM queue ORDER BY name")?;
    let read = all.query_map((), |row| Ok(parsed(row, "name").ok()))?;
    Ok(read.filter_map(Result::transpose).collect::<rusqlite::Result<_>>()?)
}

/// The queues, and the invalid names in their list.
pub(super) fn queues(db: &Connection, now: Millis) -> Result<(Vec<QueueView>, Vec<Value>), Failure> {
    let mut all = db.prepare_cached("SELECT name, paused FROM queue ORDER BY name")?;
    let read = |row: &rusqlite::Row<'_>| Ok((parsed::<QueueName>(row, "name"), row.get::<_, Value>("name"), whole(row, "paused")? != 0));
    let (mut queues, mut odd) = (Vec::new(), Vec::new());
    for row in all.query_map((), read)? {
        match row? {
            (Ok(queue), _, paused) => queues.push(one_queue(db, now, queue, paused)?),
            (Err(error), name, _) => {
                unreadable::say(at(db), "a name in the list of queues", why(&error), "it is taken from there");
                odd.extend(name);
            }
        }
    }
    Ok((queues, odd))
}

/// The counts of one queue. Ended tasks are counted for each time at which they are past their time: see `ended` in schema.sql.
pub(super) const COUNTS: &str = "SELECT (SELECT count(*) FROM task INDEXED BY task_scheduled WHERE queue = ?1 AND state = 0) AS scheduled,
            (SELECT count(*) FROM task INDEXED BY task_ready WHERE queue = ?1 AND state = 1) AS ready,
            (SELECT count(*) FROM task INDEXED BY task_parked WHERE queue = ?1 AND state = 2) AS parked,
            (SELECT count(*) FROM task INDEXED BY task_running WHERE queue = ?1 AND state = 3) AS running,
            (SELECT coalesce(sum(n), 0) FROM ended WHERE queue = ?1 AND state = 4 AND gone_at > ?2) AS succeeded,
            (SELECT coalesce(sum(n), 0) FROM ended WHERE queue = ?1 AND state = 5 AND gone_at > ?2) AS dead,
            (SELECT coalesce(sum(n), 0) FROM ended WHERE queue = ?1 AND state = 6 AND gone_at > ?2) AS cancelled,
            (SELECT min(enqueued_at) FROM
               (SELECT enqueued_at FROM task INDEXED BY task_ready WHERE queue = ?1 AND state = 1 ORDER BY rank, turn LIMIT 1)) AS oldest";

fn one_queue(db: &Connection, now: Millis, queue: QueueName, paused: bool) -> Result<QueueView, Failure> {
    let mut count = db.prepare_cached(COUNTS)?;
    let (counts, oldest) = count.query_row(params![queue.as_str(), sql(now)], |row| {
        let count = |state: State| Ok((state, row.get::<_, i64>(state.as_str())?.max(0).unsigned_abs()));
        let counts = State::ALL.into_iter().map(count).collect::<rusqlite::Result<BTreeMap<_, _>>>()?;
        Ok((counts, maybe(row, "oldest")?))
    })?;
    let oldest_ready_ms = oldest.map(|at| sql(now).saturating_sub(at).max(0).unsigned_abs());
    let mut total = db.prepare_cached("SELECT enqueued, succeeded, dead, cancelled FROM total WHERE queue = ?")?;
    let totals = total.query_row([queue.as_str()], |row| {
        let count = |name: &str| Ok::<_, rusqlite::Error>(whole(row, name)?.max(0).unsigned_abs());
        Ok(Totals { enqueued: count("enqueued")?, succeeded: count("succeeded")?, dead: count("dead")?, cancelled: count("cancelled")? })
    });
    let totals = totals.optional()?.unwrap_or_default();
    Ok(QueueView { queue, counts, oldest_ready_ms, paused, totals })
}
