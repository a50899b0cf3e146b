//! Incarnations and their held sets: register, claim, extend, adopt, leave.
//!
//! Invariant: a running task has exactly one holder, and its member (`id@claim µs`) names one attempt, because a claim's stamp is never
//! given twice. An expired incarnation is found twice before its tasks are adopted.

use std::{sync::Arc, time::Duration};

use rusqlite::{OptionalExtension, params, types::Value};

use super::{
    columns::col,
    end::{end_unreadable, end_waiting},
    enqueue::meet,
    flows,
    rows::{BRIEF, LEASED, brief, leased, maybe, ms, or_odd, parsed, time, whole},
    writer::{Failure, Step, sql},
};
use crate::{
    error::Result,
    lease::{Claimed, Extended, Incarnation, LEASES, LeaseReply, Leased, grace},
};
use taskhost_core::task::{ErrorKind, Millis, QueueName, State, TaskError, TaskId, TaskName};

/// How many tasks one step promotes or ends at most. This bounds how long the writer is busy.
pub(super) const BATCH: usize = 1_000;
/// [`BATCH`] as a SQLite integer.
pub(super) const BATCH_ROWS: i64 = 1_000;
/// How many bytes of arguments one claim gives out, after its first task.
const CLAIM_BYTES: usize = 4 << 20;
/// How many names of parked tasks one claim gives.
const PARKED_NAMES: usize = 1_000;

pub(super) fn register(step: &mut Step<'_>, queue: &QueueName, lease: Duration) -> Result<Incarnation, Failure> {
    meet(step, queue)?;
    let mut insert = step.connection.prepare_cached("INSERT INTO incarnation (queue, deadline, lease_ms) VALUES (?, ?, ?)")?;
    let n = insert.insert(params![queue.as_str(), sql(deadline(step, lease)), ms(lease)])?;
    Ok(Incarnation { queue: queue.clone(), id: Arc::from(n.to_string()) })
}

/// The deadline of a lease that is extended now: from then on a caller may mark it as expired.
fn deadline(step: &Step<'_>, lease: Duration) -> Millis {
    step.now.after(lease.saturating_sub(grace(lease)))
}

/// Extends the lease. `None`: there is no such incarnation any more.
fn prolong(step: &Step<'_>, who: &Incarnation, lease: Duration) -> Result<Option<i64>, Failure> {
    let Ok(n) = who.id.parse::<i64>() else { return Ok(None) };
    let mut update =
        step.connection.prepare_cached("UPDATE incarnation SET deadline = ?, lease_ms = ?, marked = 0 WHERE n = ? AND queue = ?")?;
    let found = update.execute(params![sql(deadline(step, lease)), ms(lease), n, who.queue.as_str()])?;
    Ok((found == 1).then_some(n))
}

/// The number of a living incarnation.
pub(super) fn alive(step: &Step<'_>, who: &Incarnation) -> Result<Option<i64>, Failure> {
    let Ok(n) = who.id.parse::<i64>() else { return Ok(None) };
    let mut find = step.connection.prepare_cached("SELECT 1 FROM incarnation WHERE n = ? AND queue = ?")?;
    Ok(find.exists(params![n, who.queue.as_str()])?.then_some(n))
}

pub(super) fn claim(
    step: &mut Step<'_>,
    who: &Incarnation,
    lease: Duration,
    limit: usize,
    startable: &[TaskName],
) -> Result<LeaseReply<Claimed>, Failure> {
    let Some(n) = prolong(step, who, lease)? else { return Ok(LeaseReply::Lost) };
    let queue = &who.queue;
    let adopted = adopt(step, queue, n)?;
    let promoted = promote(step, queue)?;
    let expired = expire_waiting(step, queue)?;
    let mut claimed = Claimed { adopted, paused: paused_since(step, queue)?, ..Claimed::default() };
    let mut parked = parked_names(step, queue)?;
    if claimed.paused.is_none() {
        claimed.more = promoted == BATCH || expired == BATCH;
        let startable: Vec<_> = parked.iter().filter(|name| startable.contains(name)).cloned().collect();
        let from_parked = take(step, queue, n, limit, &startable, &mut claimed)?;
        if from_parked {
            parked = parked_names(step, queue)?;
        }
    }
    claimed.parked = parked;
    let wake = flows::next_wake(step.connection, queue)?;
    claimed.flows = wake.is_some_and(|wake| wake <= step.now_ms());
    claimed.next_due = next_due(step, queue, n, wake)?;
    Ok(LeaseReply::Held(claimed))
}

/// Leases the best ready tasks, and tasks parked under `startable`. Gives whether a parked one was leased.
fn take(
    step: &mut Step<'_>,
    queue: &QueueName,
    n: i64,
    limit: usize,
    startable: &[TaskName],
    claimed: &mut Claimed,
) -> Result<bool, Failure> {
    // Reads one more than `limit`, to see whether there are more.
    let wanted = i64::try_from(limit.saturating_add(1)).unwrap_or(i64::MAX);
    let now = step.now_ms();
    let stamp = step.stamp();
    let mut found: Vec<(i64, i64, i64, Leased)> = Vec::new();
    let mut odd = Vec::new();
    let mut row = |row: &rusqlite::Row<'_>| -> rusqlite::Result<Option<(i64, i64, i64, Leased)>> {
        let (rank, turn, seq) = (whole(row, col!(LEASED.rank))?, whole(row, col!(LEASED.turn))?, row.get(col!(LEASED.seq))?);
        Ok(or_odd(seq, leased(row, Some(stamp)), &mut odd).map(|leased| (rank, turn, seq, leased)))
    };
    let mut bytes = 0;
    let mut cut = false;
    {
        let mut ready = step.connection.prepare_cached(&format!(
            "SELECT {LEASED} FROM task INDEXED BY task_ready
             WHERE queue = ? AND state = 1 AND (expires_at IS NULL OR tries > 0 OR expires_at > ?) ORDER BY rank, turn, seq LIMIT ?"
        ))?;
        let mut rows = ready.query(params![queue.as_str(), now, wanted])?;
        while let Some(next) = rows.next()? {
            let Some(next) = row(next)? else { continue };
            bytes += next.3.task.args.len();
            if bytes > CLAIM_BYTES && !found.is_empty() {
                cut = true;
                break;
            }
            found.push(next);
        }
    }
    let mut from_parked = false;
    if !startable.is_empty() {
        let mut parked = step.connection.prepare_cached(&format!(
            "SELECT {LEASED} FROM task INDEXED BY task_parked
             WHERE queue = ? AND state = 2 AND name = ? AND (expires_at IS NULL OR tries > 0 OR expires_at > ?)
             ORDER BY rank, turn, seq LIMIT ?"
        ))?;
        for name in startable {
            let mut bytes = 0;
            let mut rows = parked.query(params![queue.as_str(), name.as_str(), now, wanted])?;
            while let Some(next) = rows.next()? {
                let Some(next) = row(next)? else { continue };
                bytes += next.3.task.args.len();
                if bytes > CLAIM_BYTES && bytes > next.3.task.args.len() {
                    cut = true;
                    break;
                }
                from_parked = true;
                found.push(next);
            }
        }
        found.sort_by_key(|(rank, turn, seq, _)| (*rank, *turn, *seq));
    }
    claimed.more |= cut || found.len() > limit || !odd.is_empty();
    found.truncate(limit);
    end_unreadable(step, &odd)?;
    let mut hold =
        step.connection.prepare_cached("UPDATE task SET state = 3, held_by = ?, claimed_us = ?, parked_at = NULL WHERE seq = ?")?;
    for (_, _, seq, leased) in found {
        hold.execute([n, stamp, seq])?;
        claimed.tasks.push(leased);
    }
    Ok(from_parked)
}

/// Makes due tasks ready, ordered by their due times. Gives how many.
fn promote(step: &Step<'_>, queue: &QueueName) -> Result<usize, Failure> {
    let mut update = step.connection.prepare_cached(
        "UPDATE task SET state = 1, turn = due_at * 1000, due_at = NULL WHERE seq IN
           (SELECT seq FROM task INDEXED BY task_scheduled WHERE queue = ? AND state = 0 AND due_at <= ? ORDER BY due_at LIMIT ?)",
    )?;
    Ok(update.execute(params![queue.as_str(), step.now_ms(), BATCH_ROWS])?)
}

/// Ends waiting tasks past their `expires` as cancelled. Gives how many.
pub(super) fn expire_waiting(step: &mut Step<'_>, queue: &QueueName) -> Result<usize, Failure> {
    let late = {
        let mut find = step.connection.prepare_cached(&format!(
            "SELECT {BRIEF} FROM task INDEXED BY task_expires
             WHERE queue = ? AND expires_at <= ? AND expires_at IS NOT NULL AND tries = 0 AND state < 3 LIMIT ?"
        ))?;
        find.query_map(params![queue.as_str(), step.now_ms(), BATCH_ROWS], brief)?.collect::<rusqlite::Result<Vec<_>>>()?
    };
    for task in &late {
        end_waiting(step, task, State::Cancelled, &TaskError::new(ErrorKind::Expired, "not started by the time it expires"))?;
    }
    Ok(late.len())
}

/// Takes over the held sets of expired incarnations. The first time it only marks an incarnation, and grants it the last part of its lease.
fn adopt(step: &mut Step<'_>, queue: &QueueName, n: i64) -> Result<Vec<Leased>, Failure> {
    let expired = {
        let mut find =
            // A foreign deadline that is no number counts as past. Text compares greater than any number.
            step.connection.prepare_cached(
                "SELECT n, lease_ms, marked FROM incarnation WHERE queue = ? AND (deadline <= ? OR deadline > 9223372036854775807) AND n <> ?",
            )?;
        find.query_map(params![queue.as_str(), step.now_ms(), n], |row| {
            Ok((row.get("n")?, whole(row, "lease_ms")?, whole(row, "marked")? != 0))
        })?
        .collect::<rusqlite::Result<Vec<(i64, i64, bool)>>>()?
    };
    let mut adopted = Vec::new();
    for (other, lease_ms, marked) in expired {
        if !marked {
            let mut mark = step.connection.prepare_cached("UPDATE incarnation SET marked = 1, deadline = ? WHERE n = ?")?;
            let grace = grace(Duration::from_millis(lease_ms.max(0).unsigned_abs()).min(*LEASES.end()));
            mark.execute([step.now_ms().saturating_add(ms(grace)), other])?;
            continue;
        }
        adopted.extend(held_by(step, queue, other)?);
        let mut take = step.connection.prepare_cached("UPDATE task SET held_by = ? WHERE queue = ? AND state = 3 AND held_by = ?")?;
        take.execute(params![n, queue.as_str(), other])?;
        step.connection.prepare_cached("DELETE FROM incarnation WHERE n = ?")?.execute([other])?;
    }
    Ok(adopted)
}

fn held_by(step: &mut Step<'_>, queue: &QueueName, n: i64) -> Result<Vec<Leased>, Failure> {
    let mut find = step.connection.prepare_cached(&format!(
        "SELECT {LEASED} FROM task INDEXED BY task_running WHERE queue = ? AND state = 3 AND held_by = ? ORDER BY seq"
    ))?;
    let mut odd = Vec::new();
    let rows = find.query_map(params![queue.as_str(), n], |row| Ok(or_odd(row.get(col!(LEASED.seq))?, leased(row, None), &mut odd)))?;
    let held = rows.filter_map(Result::transpose).collect::<rusqlite::Result<_>>()?;
    drop(find);
    end_unreadable(step, &odd)?;
    Ok(held)
}

pub(super) fn held(step: &mut Step<'_>, who: &Incarnation) -> Result<Vec<Leased>, Failure> {
    match alive(step, who)? {
        Some(n) => held_by(step, &who.queue, n),
        None => Ok(Vec::new()),
    }
}

pub(super) fn extend(step: &mut Step<'_>, who: &Incarnation, lease: Duration) -> Result<LeaseReply<Extended>, Failure> {
    let Some(n) = prolong(step, who, lease)? else { return Ok(LeaseReply::Lost) };
    let adopted = adopt(step, &who.queue, n)?;
    let mut count = step
        .connection
        .prepare_cached("SELECT count(*) FROM task INDEXED BY task_running WHERE queue = ? AND state = 3 AND held_by = ?")?;
    let held: i64 = count.query_row(params![who.queue.as_str(), n], |row| row.get(0))?;
    let held = usize::try_from(held).unwrap_or(0);
    let mut asked = step.connection.prepare_cached("SELECT id FROM task INDEXED BY task_asked WHERE queue = ? AND cancel_asked = 1")?;
    let ids = asked.query_map([who.queue.as_str()], |row| Ok(parsed::<TaskId>(row, "id").ok()))?.collect::<rusqlite::Result<Vec<_>>>()?;
    let cancelled = ids.into_iter().flatten().collect();
    let flows = flows::next_wake(step.connection, &who.queue)?.is_some_and(|wake| wake <= step.now_ms());
    Ok(LeaseReply::Held(Extended { held, cancelled, adopted, outbox: false, flows }))
}

pub(super) fn leave(step: &mut Step<'_>, who: &Incarnation) -> Result<(), Failure> {
    let Some(n) = alive(step, who)? else { return Ok(()) };
    let asked = {
        let mut find = step.connection.prepare_cached(&format!(
            "SELECT {BRIEF} FROM task INDEXED BY task_running WHERE queue = ? AND state = 3 AND held_by = ? AND cancel_asked = 1"
        ))?;
        find.query_map(params![who.queue.as_str(), n], brief)?.collect::<rusqlite::Result<Vec<_>>>()?
    };
    for task in &asked {
        end_waiting(step, task, State::Cancelled, &TaskError::new(ErrorKind::Cancelled, "cancelled while it ran"))?;
    }
    let mut back = step
        .connection
        .prepare_cached("UPDATE task SET state = 1, held_by = NULL, progress = NULL WHERE queue = ? AND state = 3 AND held_by = ?")?;
    if back.execute(params![who.queue.as_str(), n])? > 0 {
        step.news.claimable.insert(who.queue.clone());
    }
    step.connection.prepare_cached("DELETE FROM incarnation WHERE n = ?")?.execute([n])?;
    Ok(())
}

pub(super) fn expire(step: &mut Step<'_>, who: &Incarnation) -> Result<(), Failure> {
    let Some(n) = alive(step, who)? else { return Ok(()) };
    step.connection.prepare_cached("UPDATE incarnation SET marked = 1, deadline = 0 WHERE n = ?")?.execute([n])?;
    step.news.claimable.insert(who.queue.clone());
    Ok(())
}

fn paused_since(step: &Step<'_>, queue: &QueueName) -> Result<Option<Millis>, Failure> {
    let mut find = step.connection.prepare_cached("SELECT paused FROM queue WHERE name = ?")?;
    Ok(find.query_row([queue.as_str()], |row| whole(row, "paused")).optional()?.filter(|since| *since != 0).map(time))
}

/// The distinct names, by one index seek each. The cost does not depend on the number of tasks.
fn parked_names(step: &Step<'_>, queue: &QueueName) -> Result<Vec<TaskName>, Failure> {
    let mut names = Vec::new();
    let mut next = step
        .connection
        .prepare_cached("SELECT name FROM task INDEXED BY task_parked WHERE queue = ? AND state = 2 AND name > ? ORDER BY name LIMIT 1")?;
    let mut after = Value::Text(String::new());
    for _ in 0..PARKED_NAMES {
        let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, Value>("name"), parsed::<TaskName>(row, "name")));
        let Some((stored, name)) = next.query_row(params![queue.as_str(), after], read).optional()? else { break };
        // Invalid UTF-8 can't be bound to continue from it, and sorts after all valid names.
        let Ok(stored) = stored else { break };
        after = stored;
        names.extend(name);
    }
    Ok(names)
}

/// Time until the next delayed task is due, another incarnation's deadline, or the next flow wants a step.
fn next_due(step: &Step<'_>, queue: &QueueName, n: i64, wake: Option<i64>) -> Result<Option<Duration>, Failure> {
    let mut find = step.connection.prepare_cached(
        "SELECT (SELECT min(due_at) FROM task INDEXED BY task_scheduled WHERE queue = ?1 AND state = 0) AS due,
                (SELECT min(deadline) FROM incarnation WHERE queue = ?1 AND n <> ?2) AS deadline",
    )?;
    let (due, deadline) = find.query_row(params![queue.as_str(), n], |row| Ok((maybe(row, "due")?, maybe(row, "deadline")?)))?;
    Ok([due, deadline, wake].into_iter().flatten().min().map(|at| time(at).since(step.now)))
}
