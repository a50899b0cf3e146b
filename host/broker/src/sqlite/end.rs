//! The one place where a task ends, whatever ends it: an attempt, a cancel, its `expires`, a sweep, a worker that leaves, a delete or
//! purge, or that it can't be read.
//!
//! [`Ends`] → [`end_task`] for each → [`Ends::count`], in one step
//!
//! Invariant: an end frees the unique key, starts the time of the result, is counted, and is told to those who wait.

use std::{collections::BTreeMap, fmt::Write};

use rusqlite::{OptionalExtension, params};

use super::{
    flows, kept,
    rows::{BRIEF, Brief, Odd, brief, maybe, ms, number, parsed, whole, words},
    writer::{Failure, Step},
};
use crate::{error::Result, flows::Told, settings::STUB, unreadable};
use taskhost_core::task::{CodeId, ErrorKind, QueueName, State, TaskError, TaskId};

/// How a task ends. [`Attempt`] is neutral if no attempt ended it.
#[derive(Debug)]
pub(super) struct End<'a> {
    pub(super) state: State,
    pub(super) result: Option<&'a str>,
    pub(super) error: Option<&'a TaskError>,
    pub(super) attempt: Attempt<'a>,
}

/// The changes of an attempt to its task, also if it does not end the task.
#[derive(Debug)]
pub(super) struct Attempt<'a> {
    pub(super) tries: u32,
    pub(super) losses: u32,
    /// The history, as JSON.
    pub(super) errors: Option<String>,
    /// `None` keeps the stored worker or code.
    pub(super) worker: Option<&'a str>,
    pub(super) code: Option<&'a CodeId>,
}

impl Attempt<'_> {
    /// No attempt: the task keeps what it has.
    fn none(task: &Brief) -> Self {
        Self { tries: task.tries, losses: task.losses, errors: task.errors.clone(), worker: None, code: None }
    }
}

/// Ends one task. The caller counts the ends of the step with [`Ends::count`].
pub(super) fn end_task(step: &mut Step<'_>, ends: &mut Ends, task: &Brief, end: &End<'_>) -> Result<(), Failure> {
    let ttl = task.result_ttl_ms.unwrap_or_else(|| ms(step.settings.result_ttl));
    let totals = step.news.totals(&task.queue);
    match end.state {
        State::Succeeded => totals.succeeded += 1,
        State::Dead => totals.dead += 1,
        _ => totals.cancelled += 1,
    }
    end_kept_for(step, ends, task, end, ttl)
}

/// `ttl`: how long the result is kept, in milliseconds. The dead set has bounds of its own.
fn end_kept_for(step: &mut Step<'_>, ends: &mut Ends, task: &Brief, end: &End<'_>, ttl: i64) -> Result<(), Failure> {
    release(step, task)?;
    if let Some(place) = &task.flow {
        flows::tell(step, place, &Told::of(place, end.state, end.result, end.error))?;
    }
    step.news.ended.push(task.id.clone());
    let gone_at = if end.state == State::Dead {
        None
    } else {
        if task.child && ttl < ms(STUB) {
            kept::leave_stub(step, task)?;
        }
        // A result that is not kept is hidden at once. Its row stays for those who await it.
        if ttl == 0 && !kept::is_awaited(step, task)? {
            return remove(step, task);
        }
        Some(over_at(step.now_ms(), ttl))
    };
    let mut update = step.connection.prepare_cached(
        "UPDATE task SET state = ?1, tries = ?2, losses = ?3, due_at = NULL, parked_at = NULL, ended_at = ?4, gone_at = ?5, held_by = NULL,
                cancel_asked = 0, progress = NULL, result = ?6, error = ?7, errors = ?8, worker = coalesce(?9, worker),
                plugin = coalesce(?10, plugin), version = coalesce(?11, version), digest = coalesce(?12, digest)
         WHERE seq = ?13",
    )?;
    let attempt = &end.attempt;
    update.execute(params![
        number(end.state),
        attempt.tries,
        attempt.losses,
        step.now_ms(),
        gone_at,
        end.result,
        end.error.map(serde_json::to_string).transpose()?,
        attempt.errors,
        attempt.worker,
        attempt.code.map(|code| &code.plugin),
        attempt.code.map(|code| &code.version),
        attempt.code.map(|code| &code.digest),
        task.seq,
    ])?;
    *ends.0.entry((end.state, gone_at)).or_default() += 1;
    Ok(())
}

/// The ends of one step in one queue: how many ended in a state and are past their time at `gone_at`.
#[derive(Debug, Default)]
pub(super) struct Ends(BTreeMap<(State, Option<i64>), i64>);

impl Ends {
    /// Adds them to the counts of ended tasks.
    pub(super) fn count(self, step: &Step<'_>, queue: &QueueName) -> Result<(), Failure> {
        self.0.into_iter().try_for_each(|((state, gone_at), n)| count(step, queue, state, gone_at, n))
    }
}

/// Ends one task that no attempt ended.
pub(super) fn end_waiting(step: &mut Step<'_>, task: &Brief, state: State, error: &TaskError) -> Result<(), Failure> {
    let mut ends = Ends::default();
    end_task(step, &mut ends, task, &End { state, result: None, error: Some(error), attempt: Attempt::none(task) })?;
    ends.count(step, &task.queue)
}

/// Deletes a task that does not run. One that has not ended ends as cancelled, and only those who await it see this.
pub(super) fn discard(step: &mut Step<'_>, task: &Brief) -> Result<(), Failure> {
    if task.state.is_ended() {
        release(step, task)?;
        step.news.ended.push(task.id.clone());
        return remove(step, task);
    }
    let error = TaskError::new(ErrorKind::Cancelled, "deleted before it started");
    let end = End { state: State::Cancelled, result: None, error: Some(&error), attempt: Attempt::none(task) };
    // It is past its time at once, so it is not counted.
    end_kept_for(step, &mut Ends::default(), task, &end, 0)
}

/// Ends rows that can't be read as dead, each by itself. No caller can ask for an invalid id or queue, so these get valid ones.
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
        // A row that was counted in another ended state is counted among the dead from now on.
        let mut counted = step.connection.prepare_cached("SELECT state, gone_at FROM task WHERE seq = ?")?;
        let (was, gone_at) = counted.query_row([seq], |row| Ok((whole(row, 0)?, maybe(row, 1)?)))?;
        if let Some(was) = State::ALL.into_iter().find(|state| state.is_ended() && number(*state) == was).filter(|_| own_queue) {
            count(step, &queue, was, gone_at, -1)?;
        }
        let mut rename = step.connection.prepare_cached("UPDATE task SET id = ?, queue = ? WHERE seq = ?")?;
        rename.execute(params![id.as_str(), queue.as_str(), seq])?;
        drop((find, free, counted, rename));
        let mut read = step.connection.prepare_cached(&format!("SELECT {BRIEF} FROM task WHERE seq = ?"))?;
        let task = read.query_row([seq], brief)?;
        drop(read);
        end_waiting(step, &task, State::Dead, &TaskError::new(ErrorKind::Unreadable, &*message))?;
        let then = format!("it is dead: `taskhost task show {id} --queue {queue}`, `taskhost task delete {id} --queue {queue}`");
        unreadable::say(at(step.connection), &format!("task `{id}` of queue `{queue}`"), message, then);
    }
    Ok(())
}

/// Stored in place of a `gone_at` that never comes.
const NEVER: i64 = i64::MAX;

/// Adds `n` to the ends of a queue in a state that are past their time at `gone_at`.
fn count(step: &Step<'_>, queue: &QueueName, state: State, gone_at: Option<i64>, n: i64) -> Result<(), Failure> {
    let mut add = step.connection.prepare_cached(
        "INSERT INTO ended (queue, state, gone_at, n) VALUES (?, ?, ?, ?) ON CONFLICT (queue, state, gone_at) DO UPDATE SET n = n + excluded.n",
    )?;
    add.execute(params![queue.as_str(), number(state), gone_at.unwrap_or(NEVER), n])?;
    Ok(())
}

/// An ended task that is deleted before its time, or runs again, is no longer counted.
pub(super) fn uncount(step: &Step<'_>, task: &Brief) -> Result<(), Failure> {
    let mut find = step.connection.prepare_cached("SELECT gone_at FROM task WHERE seq = ?")?;
    let gone_at = find.query_row([task.seq], |row| maybe(row, 0)).optional()?.flatten();
    count(step, &task.queue, task.state, gone_at, -1)
}

/// `now + ttl`, rounded up by a two-thousandth of `ttl` at most. So many tasks share a time, and there are few counts.
fn over_at(now: i64, ttl: i64) -> i64 {
    let grid = i64::try_from((ttl / 4096).max(1).unsigned_abs().next_power_of_two()).unwrap_or(1);
    let at = now.saturating_add(ttl);
    at.checked_add(grid - 1).map_or(at, |end| end - end % grid)
}

/// Frees the unique key, if the task still holds it.
fn release(step: &Step<'_>, task: &Brief) -> Result<(), Failure> {
    if let Some(key) = &task.unique_key {
        let mut delete = step.connection.prepare_cached("DELETE FROM unique_key WHERE queue = ? AND key = ? AND holder = ?")?;
        delete.execute([task.queue.as_str(), key, task.id.as_str()])?;
    }
    Ok(())
}

/// Deletes the row of a task.
fn remove(step: &Step<'_>, task: &Brief) -> Result<(), Failure> {
    if task.state.is_ended() {
        uncount(step, task)?;
    }
    if task.child {
        kept::leave_stub(step, task)?;
    }
    step.connection.prepare_cached("DELETE FROM task WHERE seq = ?")?.execute([task.seq])?;
    Ok(())
}

/// The task, unless it ended and is past its time.
pub(super) fn look_up(step: &Step<'_>, queue: &QueueName, id: &TaskId) -> Result<Option<Brief>, Failure> {
    let mut find = step
        .connection
        .prepare_cached(&format!("SELECT {BRIEF} FROM task WHERE id = ? AND queue = ? AND (gone_at IS NULL OR gone_at > ?)"))?;
    Ok(find.query_row(params![id.as_str(), queue.as_str(), step.now_ms()], brief).optional()?)
}

/// The name of the database in messages.
pub(super) fn at(db: &rusqlite::Connection) -> &str {
    db.path().unwrap_or("the database")
}
