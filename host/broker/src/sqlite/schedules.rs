//! Schedules: kept, listed, paused, and fired once by the first worker that asks.
//!
//! The definition is stored as JSON. The parts that the broker decides (`paused`, `last`, `last_task`) have columns.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, params, types::Value};

use super::{
    columns::insert,
    driver::SqliteBroker,
    end::{at, look_up},
    enqueue::{add_child, meet},
    rows::{json, time, whole, why, words},
    writer::{Failure, Step, sql},
};
use crate::{
    error::{BrokerError, Result},
    schedule::{Fired, Overlap, Schedule, ScheduleEntry, ScheduleEvent, Schedules},
    unreadable,
};
use taskhost_core::task::{Millis, NewTask, TaskId};

#[async_trait]
impl Schedules for SqliteBroker {
    async fn put_schedule(&self, schedule: &Schedule) -> Result<()> {
        let schedule = schedule.clone();
        self.write(move |step| put(step, &schedule)).await
    }

    async fn schedules(&self) -> Result<Vec<Schedule>> {
        self.read(|db, _| all(db)).await
    }

    async fn pause_schedule(&self, name: &str, paused: bool) -> Result<bool> {
        let name = name.to_owned();
        self.write(move |step| pause(step, &name, paused)).await
    }

    async fn remove_schedule(&self, name: &str) -> Result<bool> {
        let name = name.to_owned();
        self.write(move |step| remove(step, &name)).await
    }

    async fn fire(&self, schedule: &Schedule, due: Millis, task: &NewTask) -> Result<Fired> {
        let (schedule, task) = (schedule.clone(), task.clone());
        self.write(move |step| fire(step, &schedule, due, &task)).await
    }

    async fn schedule_record(&self, name: &str) -> Result<Vec<ScheduleEntry>> {
        let name = name.to_owned();
        self.read(move |db, _| Ok(ScheduleEntry::read_all(&record(db, &name)?))).await
    }

    async fn now(&self) -> Result<Millis> {
        Ok(self.clock.now())
    }
}

const STORED: &str = "definition, paused, last, last_task";

fn read(row: &Row<'_>) -> rusqlite::Result<Option<Schedule>> {
    let Some(mut schedule) = json::<Schedule>(row, "definition")? else { return Ok(None) };
    schedule.paused = whole(row, "paused")? != 0;
    // Without `last`, every due time since 1970 would be caught up with.
    schedule.last = time(row.get("last")?);
    // The task is in the schedule's queue. An invalid id counts as ended.
    schedule.last_task = words(row, "last_task")?.and_then(|id| id.parse().ok());
    Ok(Some(schedule))
}

fn one(db: &Connection, name: &str) -> Result<Option<Schedule>, Failure> {
    let mut find = db.prepare_cached(&format!("SELECT {STORED} FROM schedule WHERE name = ?"))?;
    Ok(find.query_row([name], read).optional()?.flatten())
}

/// The record as it is stored; empty without such a schedule.
fn record(db: &Connection, name: &str) -> Result<String, Failure> {
    let mut find = db.prepare_cached("SELECT record FROM schedule WHERE name = ?")?;
    Ok(find.query_row([name], |row| words(row, "record")).optional()?.flatten().unwrap_or_default())
}

fn remember(step: &Step<'_>, name: &str, at: Millis, event: ScheduleEvent) -> Result<(), Failure> {
    let record = ScheduleEntry::append(&record(step.connection, name)?, at, event);
    step.connection.prepare_cached("UPDATE schedule SET record = ? WHERE name = ?")?.execute([&*record, name])?;
    Ok(())
}

fn pause_or_begin(is_paused: bool) -> ScheduleEvent {
    if is_paused { ScheduleEvent::Paused } else { ScheduleEvent::Begun }
}

fn all(db: &Connection) -> Result<Vec<Schedule>, Failure> {
    let mut find = db.prepare_cached(&format!("SELECT {STORED}, name FROM schedule ORDER BY name"))?;
    let rows = find.query_map((), |row| Ok((read(row), words(row, "name")?.unwrap_or_default())))?;
    let mut schedules = Vec::new();
    for row in rows {
        match row? {
            (Ok(schedule), _) => schedules.extend(schedule),
            // An unreadable schedule does not stop the others from firing.
            (Err(error), name) => {
                let name = unreadable::shown(&name);
                let then = format!("it does not fire; `taskhost schedule remove {name}`");
                unreadable::say(at(db), &format!("schedule `{name}`"), why(&error), then);
            }
        }
    }
    Ok(schedules)
}

fn put(step: &Step<'_>, schedule: &Schedule) -> Result<(), Failure> {
    let mut schedule = schedule.clone();
    let mut record = record(step.connection, &schedule.name)?;
    // An unreadable schedule is replaced.
    let mut was_paused = schedule.paused;
    if let Some(old) = one(step.connection, &schedule.name).ok().flatten() {
        was_paused = old.paused;
        schedule.take_along(&old);
        schedule.last_task = old.last_task.filter(|_| old.queue == schedule.queue);
    } else {
        schedule.last = schedule.last.min(step.now);
        schedule.last_task = None;
        schedule.paused = schedule.says_paused.unwrap_or(schedule.paused);
    }
    if schedule.last == Millis(0) {
        schedule.last = step.now;
    }
    if record.is_empty() || was_paused != schedule.paused {
        record = ScheduleEntry::append(&record, step.now, pause_or_begin(schedule.paused));
    }
    insert!(step.connection, "INSERT OR REPLACE INTO schedule" {
        name: schedule.name,
        definition: serde_json::to_string(&schedule)?,
        paused: schedule.paused,
        last: sql(schedule.last),
        last_task: schedule.last_task.as_ref().map(TaskId::as_str),
        record: record,
    });
    Ok(())
}

fn pause(step: &Step<'_>, name: &str, paused: bool) -> Result<bool, Failure> {
    let mut find = step.connection.prepare_cached("SELECT paused FROM schedule WHERE name = ?")?;
    if find.query_row([name], |row| row.get::<_, bool>(0)).optional()? == Some(!paused) {
        remember(step, name, step.now, pause_or_begin(paused))?;
    }
    // Resuming a schedule that is not paused leaves its due times alone. From now on `paused` is the operator's choice, whatever the file
    // said.
    let mut update = step.connection.prepare_cached(
        r#"UPDATE schedule SET last = iif(paused AND NOT ?2, max(last, ?3), last), paused = ?2,
             definition = replace(definition, '"says_paused":true', '"says_paused":null') WHERE name = ?1"#,
    )?;
    Ok(update.execute(params![name, paused, step.now_ms()])? == 1)
}

fn remove(step: &Step<'_>, name: &str) -> Result<bool, Failure> {
    let mut delete = step.connection.prepare_cached("DELETE FROM schedule WHERE name = ?")?;
    if delete.execute([name])? == 1 {
        return Ok(true);
    }
    // A name that can't be typed is given as it is shown.
    let mut all = step.connection.prepare_cached("SELECT name FROM schedule")?;
    let read = |row: &Row<'_>| Ok((row.get::<_, Value>("name"), words(row, "name")?.unwrap_or_default()));
    let names = all.query_map((), read)?.collect::<rusqlite::Result<Vec<_>>>()?;
    let mut gone = 0;
    for (stored, shown) in names {
        if let (Ok(stored), true) = (stored, unreadable::shown(&shown) == name) {
            gone += delete.execute([stored])?;
        }
    }
    Ok(gone > 0)
}

fn fire(step: &mut Step<'_>, schedule: &Schedule, due: Millis, task: &NewTask) -> Result<Fired, Failure> {
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
        remember(step, &stored.name, due, ScheduleEvent::Skipped)?;
        return Ok(Fired::Skipped(last.clone()));
    }
    let mut update = step.connection.prepare_cached("UPDATE schedule SET last = ?, last_task = ? WHERE name = ?")?;
    update.execute(params![sql(due), task.id.as_str(), stored.name])?;
    remember(step, &stored.name, due, ScheduleEvent::Fired)?;
    meet(step, &task.queue)?;
    // A known id is this same firing, enqueued by hand or by a definition that came back.
    let _known = add_child(step, task)?;
    Ok(Fired::Enqueued(task.id.clone()))
}

/// Whether the fired definition is still the stored one.
fn is_same(stored: &Schedule, fired: &Schedule) -> bool {
    (&stored.rule, &stored.timezone, &stored.queue, &stored.task, &stored.args)
        == (&fired.rule, &fired.timezone, &fired.queue, &fired.task, &fired.args)
}
