//! Housekeeping in bounded steps. Each step is a transaction of its own and says whether there is more to do.

use std::time::Duration;

use rusqlite::{OptionalExtension, params, types::Value};

use super::{
    end::{discard, end_waiting},
    flows,
    incarnation::{BATCH, BATCH_ROWS},
    kept,
    rows::{BRIEF, Brief, brief, ms, names, parsed, whole, words},
    writer::{Failure, Step},
};
use crate::{error::Result, settings::TOLD};
use taskhost_core::task::{ErrorKind, QueueName, State, TaskError, TaskId, TaskName};

/// Deletes ended tasks of all queues that are past their time, awaited ones a minute later, and keys past theirs. Whether there may be more.
pub(super) fn forget(step: &Step<'_>) -> Result<bool, Failure> {
    let now = step.now_ms();
    let mut tasks = step.connection.prepare_cached(
        "DELETE FROM task WHERE seq IN (
           SELECT seq FROM task INDEXED BY task_gone WHERE gone_at <= ?1
             AND NOT (gone_at > ?1 - ?2 AND EXISTS (
               SELECT 1 FROM awaited WHERE awaited.queue = task.queue AND awaited.id = task.id AND until > ?1)) LIMIT ?3)",
    )?;
    let forgotten = tasks.execute(params![now, ms(TOLD), BATCH_ROWS])?;
    step.connection.prepare_cached("DELETE FROM ended WHERE gone_at <= ?")?.execute([now])?;
    kept::forget(step)?;
    flows::forget(step)?;
    step.connection
        .prepare_cached("DELETE FROM unique_key WHERE until <= ? OR typeof(until) NOT IN ('integer', 'real')")?
        .execute([now])?;
    step.connection.prepare_cached("DELETE FROM worker WHERE until <= ? OR typeof(until) NOT IN ('integer', 'real')")?.execute([now])?;
    Ok(forgotten == BATCH)
}

/// Trims the dead set to its bounds, oldest first. Whether there may be more.
pub(super) fn trim_dead(step: &mut Step<'_>, queue: &QueueName) -> Result<bool, Failure> {
    let too_old = step.now_ms().saturating_sub(ms(step.settings.dead_age));
    let keep = i64::try_from(step.settings.dead_count).unwrap_or(i64::MAX);
    // The newest dead task that is one too many, found by walking the index. It and all older ones go.
    let mut nth = step.connection.prepare_cached(
        "SELECT ended_at, seq FROM task INDEXED BY task_ended WHERE queue = ? AND state = 5 AND state > 3
         ORDER BY ended_at DESC, seq DESC LIMIT 1 OFFSET ?",
    )?;
    let (at, seq) =
        nth.query_row(params![queue.as_str(), keep], |row| Ok((whole(row, 0)?, row.get(1)?))).optional()?.unwrap_or((i64::MIN, 0));
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

/// If no worker swept for this long, the time of a missing name starts anew. Without workers, nothing is known about what is offered.
const UNSEEN: Duration = Duration::from_secs(60);

/// Ends tasks as dead that were parked too long under a name that no worker offered for as long. The time of a name starts with the first
/// sweep that finds it missing. Whether there may be more.
pub(super) fn end_unknown(step: &mut Step<'_>, queue: &QueueName, offered: &[TaskName]) -> Result<bool, Failure> {
    let ttl = step.settings.unknown_task_ttl;
    let (now, offered) = (step.now_ms(), names(offered));
    let unseen = now.saturating_sub(ms(UNSEEN.max(ttl / 4)));
    let mut forget = step.connection.prepare_cached(
        "DELETE FROM unoffered WHERE queue = ?1 AND (seen <= ?2 OR name IN (SELECT value FROM json_each(?3))
           OR NOT EXISTS (SELECT 1 FROM task INDEXED BY task_parked WHERE queue = ?1 AND state = 2 AND name = unoffered.name))",
    )?;
    forget.execute(params![queue.as_str(), unseen, offered])?;
    drop(forget);
    let mut note = step.connection.prepare_cached(
        "INSERT INTO unoffered (queue, name, since, seen)
           SELECT DISTINCT queue, name, ?2, ?2 FROM task INDEXED BY task_parked
           WHERE queue = ?1 AND state = 2 AND name NOT IN (SELECT value FROM json_each(?3))
         ON CONFLICT (queue, name) DO UPDATE SET seen = excluded.seen",
    )?;
    note.execute(params![queue.as_str(), now, offered])?;
    drop(note);
    let before = now.saturating_sub(ms(ttl));
    let late = {
        let mut find = step.connection.prepare_cached(&format!(
            "SELECT {BRIEF}, name FROM task INDEXED BY task_parked
             WHERE queue = ?1 AND state = 2 AND parked_at <= ?2 AND name IN (SELECT name FROM unoffered WHERE queue = ?1 AND since <= ?2)
             LIMIT ?3"
        ))?;
        find.query_map(params![queue.as_str(), before, BATCH_ROWS], |row| Ok((brief(row)?, words(row, "name")?.unwrap_or_default())))?
            .collect::<rusqlite::Result<Vec<_>>>()?
    };
    for (task, name) in &late {
        let message = format!("no plugin offered `{name}` for {} s; drop one in, then retry the task", ttl.as_secs());
        end_waiting(step, task, State::Dead, &TaskError::new(ErrorKind::UnknownTask, message))?;
    }
    Ok(late.len() == BATCH)
}

/// Deletes waiting tasks of a queue, and the queue itself once it is empty. How many, and whether there may be more.
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
        // A pause outlives the purge, because nobody resumed the queue.
        let mut drop = step.connection.prepare_cached(
            "DELETE FROM queue WHERE name = ?1 AND NOT paused AND NOT EXISTS (SELECT 1 FROM incarnation WHERE queue = ?1)
               AND NOT EXISTS (SELECT 1 FROM task INDEXED BY task_running WHERE queue = ?1 AND state = 3)
               AND NOT EXISTS (SELECT 1 FROM task INDEXED BY task_ended
                               WHERE queue = ?1 AND state > 3 AND (gone_at IS NULL OR gone_at > ?2))
               AND NOT EXISTS (SELECT 1 FROM flow WHERE queue = ?1 AND (gone_at IS NULL OR gone_at > ?2))",
        )?;
        drop.execute(params![queue.as_str(), step.now_ms()])?;
    }
    Ok((victims.len(), more))
}

/// Drops invalid names from the list of queues. No caller can ask for them.
pub(super) fn drop_queues(step: &Step<'_>, names: &[Value]) -> Result<(), Failure> {
    let mut drop = step.connection.prepare_cached("DELETE FROM queue WHERE name = ?")?;
    for name in names {
        drop.execute([name])?;
    }
    Ok(())
}

fn select(step: &Step<'_>, query: &str, values: &[&dyn rusqlite::ToSql]) -> Result<Vec<Brief>, Failure> {
    let mut find = step.connection.prepare_cached(query)?;
    Ok(find.query_map(values, brief)?.collect::<rusqlite::Result<_>>()?)
}

fn remove_all(step: &mut Step<'_>, victims: &[Brief]) -> Result<bool, Failure> {
    for task in victims {
        discard(step, task)?;
    }
    Ok(victims.len() == BATCH)
}

/// Running tasks whose cancel was asked for, with their attempts.
pub(super) fn asked(db: &rusqlite::Connection) -> Result<Vec<(QueueName, TaskId, i64)>, Failure> {
    let mut find = db.prepare_cached("SELECT queue, id, claimed_us FROM task INDEXED BY task_asked WHERE cancel_asked = 1")?;
    let read = |row: &rusqlite::Row<'_>| Ok::<_, rusqlite::Error>((parsed(row, 0)?, parsed(row, 1)?, whole(row, 2)?));
    Ok(find.query_map((), |row| Ok(read(row).ok()))?.filter_map(rusqlite::Result::transpose).collect::<rusqlite::Result<_>>()?)
}
