//! Housekeeping in bounded steps: each a transaction of its own that says whether there is more to do.

use rusqlite::{OptionalExtension, params};

use super::{
    end::{release, remove},
    lease::{BATCH, BATCH_ROWS},
    rows::{BRIEF, Brief, brief, ms, parsed},
    writer::{Failure, Step},
};
use crate::{
    broker::Result,
    task::{QueueName, TaskId},
};

/// Ended tasks over their time, of all queues, and keys over theirs; whether there may be more.
pub(super) fn forget(step: &Step<'_>) -> Result<bool, Failure> {
    let now = step.now_ms();
    let mut tasks = step
        .connection
        .prepare_cached("DELETE FROM task WHERE seq IN (SELECT seq FROM task INDEXED BY task_gone WHERE gone_at <= ? LIMIT ?)")?;
    let forgotten = tasks.execute(params![now, BATCH_ROWS])?;
    step.connection.prepare_cached("DELETE FROM ended WHERE gone_at <= ?")?.execute([now])?;
    step.connection.prepare_cached("DELETE FROM unique_key WHERE until <= ?")?.execute([now])?;
    step.connection.prepare_cached("DELETE FROM worker WHERE until <= ?")?.execute([now])?;
    Ok(forgotten == BATCH)
}

/// The dead set to its bounds, oldest first; whether there may be more.
pub(super) fn trim_dead(step: &mut Step<'_>, queue: &QueueName) -> Result<bool, Failure> {
    let too_old = step.now_ms().saturating_sub(ms(step.settings.dead_age));
    let keep = i64::try_from(step.settings.dead_count).unwrap_or(i64::MAX);
    // The newest that is one too many, found by walking the index: everything up to it goes.
    let mut nth = step.connection.prepare_cached(
        "SELECT ended_at, seq FROM task INDEXED BY task_ended WHERE queue = ? AND state = 5 AND state > 3
         ORDER BY ended_at DESC, seq DESC LIMIT 1 OFFSET ?",
    )?;
    let (at, seq) = nth.query_row(params![queue.as_str(), keep], |row| Ok((row.get(0)?, row.get(1)?))).optional()?.unwrap_or((i64::MIN, 0));
    let victims = select(
        step,
        &format!(
            "SELECT {BRIEF} FROM task INDEXED BY task_ended
             WHERE queue = ?1 AND state = 5 AND state > 3 AND (ended_at <= ?2 OR (ended_at, seq) <= (?3, ?4)) ORDER BY ended_at, seq LIMIT ?5"
        ),
        params![queue.as_str(), too_old, at, seq, BATCH_ROWS],
    )?;
    remove_all(step, &victims)
}

/// Waiting tasks of a queue, and the queue itself once nothing is left of it; how many, and whether there may be more.
pub(super) fn purge(step: &mut Step<'_>, queue: &QueueName) -> Result<(usize, bool), Failure> {
    let victims = select(
        step,
        &format!(
            "SELECT * FROM (SELECT {BRIEF} FROM task INDEXED BY task_ready WHERE queue = ?1 AND state = 1 LIMIT ?2)
             UNION ALL SELECT * FROM (SELECT {BRIEF} FROM task INDEXED BY task_scheduled WHERE queue = ?1 AND state = 0 LIMIT ?2)
             UNION ALL SELECT * FROM (SELECT {BRIEF} FROM task INDEXED BY task_parked WHERE queue = ?1 AND state = 2 LIMIT ?2)
             LIMIT ?2"
        ),
        params![queue.as_str(), BATCH_ROWS],
    )?;
    let more = remove_all(step, &victims)?;
    if !more {
        // A pause outlives the purge: who paused the queue did not resume it.
        let mut drop = step.connection.prepare_cached(
            "DELETE FROM queue WHERE name = ?1 AND NOT paused AND NOT EXISTS (SELECT 1 FROM incarnation WHERE queue = ?1)
               AND NOT EXISTS (SELECT 1 FROM task INDEXED BY task_running WHERE queue = ?1 AND state = 3)
               AND NOT EXISTS (SELECT 1 FROM task INDEXED BY task_ended WHERE queue = ?1 AND state > 3)",
        )?;
        drop.execute([queue.as_str()])?;
    }
    Ok((victims.len(), more))
}

fn select(step: &Step<'_>, query: &str, values: &[&dyn rusqlite::ToSql]) -> Result<Vec<Brief>, Failure> {
    let mut find = step.connection.prepare_cached(query)?;
    Ok(find.query_map(values, brief)?.collect::<rusqlite::Result<_>>()?)
}

fn remove_all(step: &mut Step<'_>, victims: &[Brief]) -> Result<bool, Failure> {
    for task in victims {
        release(step, task)?;
        remove(step, task)?;
        step.news.ended.push(task.id.clone());
    }
    Ok(victims.len() == BATCH)
}

/// Running tasks that somebody cancelled and that have not ended, with the attempt it is about.
pub(super) fn asked(db: &rusqlite::Connection) -> Result<Vec<(QueueName, TaskId, i64)>, Failure> {
    let mut find = db.prepare_cached("SELECT queue, id, claimed_us FROM task INDEXED BY task_asked WHERE cancel_asked = 1")?;
    Ok(find.query_map((), |row| Ok((parsed(row, 0)?, parsed(row, 1)?, row.get(2)?)))?.collect::<rusqlite::Result<_>>()?)
}
