//! Schedules: kept, listed, paused, and fired once by whoever comes first.
//!
//! The definition is JSON as it was put; what the broker itself decides (`paused`, `last`, `last_task`) stands in columns.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    end::look_up,
    enqueue::{add_child, meet},
    rows::{json, time},
    writer::{Failure, Step, sql},
};
use crate::{
    broker::{BrokerError, Fired, Overlap, Result, Schedule},
    task::{Millis, NewTask, TaskId},
};

const COLUMNS: &str = "definition, paused, last, last_task";

fn read(row: &Row<'_>) -> rusqlite::Result<Option<Schedule>> {
    let Some(mut schedule) = json::<Schedule>(row, 0)? else { return Ok(None) };
    schedule.paused = row.get(1)?;
    schedule.last = time(row.get(2)?);
    // The tasks are of the schedule's queue; an id that is none any more is as good as an ended one.
    schedule.last_task = row.get::<_, Option<String>>(3)?.and_then(|id| id.parse().ok());
    Ok(Some(schedule))
}

fn one(db: &Connection, name: &str) -> Result<Option<Schedule>, Failure> {
    let mut find = db.prepare_cached(&format!("SELECT {COLUMNS} FROM schedule WHERE name = ?"))?;
    Ok(find.query_row([name], read).optional()?.flatten())
}

pub(super) fn all(db: &Connection) -> Result<Vec<Schedule>, Failure> {
    let mut find = db.prepare_cached(&format!("SELECT {COLUMNS} FROM schedule ORDER BY name"))?;
    let rows = find.query_map((), read)?.collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(rows.into_iter().flatten().collect())
}

pub(super) fn put(step: &Step<'_>, schedule: &Schedule) -> Result<(), Failure> {
    let mut schedule = schedule.clone();
    match one(step.connection, &schedule.name)? {
        Some(old) if (&old.rule, &old.timezone, &old.queue) == (&schedule.rule, &schedule.timezone, &schedule.queue) => {
            schedule.last = old.last;
            schedule.last_task = old.last_task;
            schedule.created_at = old.created_at;
            schedule.paused = old.paused;
        }
        _ => schedule.last = step.now,
    }
    let mut write = step
        .connection
        .prepare_cached("INSERT OR REPLACE INTO schedule (name, definition, paused, last, last_task) VALUES (?, ?, ?, ?, ?)")?;
    let last_task = schedule.last_task.as_ref().map(TaskId::as_str);
    write.execute(params![schedule.name, serde_json::to_string(&schedule)?, schedule.paused, sql(schedule.last), last_task])?;
    Ok(())
}

pub(super) fn pause(step: &Step<'_>, name: &str, paused: bool) -> Result<bool, Failure> {
    // Resuming what was not paused leaves its due times alone.
    let mut update = step
        .connection
        .prepare_cached("UPDATE schedule SET last = iif(paused AND NOT ?2, max(last, ?3), last), paused = ?2 WHERE name = ?1")?;
    Ok(update.execute(params![name, paused, step.now_ms()])? == 1)
}

pub(super) fn remove(step: &Step<'_>, name: &str) -> Result<bool, Failure> {
    Ok(step.connection.prepare_cached("DELETE FROM schedule WHERE name = ?")?.execute([name])? == 1)
}

pub(super) fn fire(step: &mut Step<'_>, schedule: &Schedule, due: Millis, task: &NewTask) -> Result<Fired, Failure> {
    let Some(stored) = one(step.connection, &schedule.name)? else { return Ok(Fired::NotNow) };
    if stored.paused || !is_same(&stored, schedule) || due <= stored.last {
        return Ok(Fired::NotNow);
    }
    if due > step.now {
        return Ok(Fired::TooEarly(due.since(step.now)));
    }
    if task.args.len() > step.settings.payload_limit {
        return Err(BrokerError::Invalid(format!(
            "the arguments of schedule `{}` are over the payload limit; shorten them",
            schedule.name
        ))
        .into());
    }
    if stored.overlap == Overlap::Skip
        && let Some(last) = &stored.last_task
        && look_up(step, &stored.queue, last)?.is_some_and(|task| !task.state.is_ended())
    {
        step.connection.prepare_cached("UPDATE schedule SET last = ? WHERE name = ?")?.execute(params![sql(due), stored.name])?;
        return Ok(Fired::Skipped(last.clone()));
    }
    let mut update = step.connection.prepare_cached("UPDATE schedule SET last = ?, last_task = ? WHERE name = ?")?;
    update.execute(params![sql(due), task.id.as_str(), stored.name])?;
    meet(step, &task.queue)?;
    // An id that is known already is this very firing, enqueued by hand or by a definition that came back.
    let _known = add_child(step, task)?;
    Ok(Fired::Enqueued(task.id.clone()))
}

/// Whether what is fired is still what stands here.
fn is_same(stored: &Schedule, fired: &Schedule) -> bool {
    (&stored.rule, &stored.timezone, &stored.queue, &stored.task, &stored.args)
        == (&fired.rule, &fired.timezone, &fired.queue, &fired.task, &fired.args)
}
