//! Rows ↔ the broker's types: which columns, in which order, read in one place.
//!
//! What can't be read (a name that is none, broken JSON) is `Corrupt` and says which column of which task.

use std::time::Duration;

use rusqlite::{Row, types::Type};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::{
    broker::{Leased, Member},
    task::{Millis, Priority, QueueName, State, Task, TaskId, TaskName, TaskView},
};

type Read<T> = rusqlite::Result<T>;

pub(super) const LEASED: &str =
    "id, queue, name, args, headers, rank, enqueued_at, tries, losses, timeout_ms, max_attempts, claimed_us, seq";

/// A row of [`LEASED`]; `claimed_us` is the claim that is being made, or the stored one.
pub(super) fn leased(row: &Row<'_>, claimed_us: Option<i64>) -> Read<Leased> {
    let id: TaskId = parsed(row, 0)?;
    let claimed_us = match claimed_us {
        Some(stamp) => stamp,
        None => row.get(11)?,
    };
    Ok(Leased {
        member: Member { id: id.clone(), claimed_us: claimed_us.unsigned_abs() },
        task: Task {
            id,
            queue: parsed(row, 1)?,
            name: parsed(row, 2)?,
            args: row.get(3)?,
            headers: json(row, 4)?.unwrap_or_default(),
            priority: priority(row.get(5)?),
            enqueued_at: time(row.get(6)?),
            tries: row.get(7)?,
            losses: row.get(8)?,
            timeout: row.get::<_, Option<i64>>(9)?.map(duration),
            max_attempts: row.get(10)?,
        },
    })
}

pub(super) const VIEW: &str = "id, queue, name, state, args, rank, tries, max_attempts, result, error, errors, enqueued_at, due_at, \
     expires_at, claimed_us, ended_at, worker, plugin, version, digest, progress, headers, cancel_asked, turn, seq, parked_at";

/// A row of [`VIEW`].
pub(super) fn view(row: &Row<'_>) -> Read<TaskView> {
    let state = state(row, 3)?;
    Ok(TaskView {
        id: parsed(row, 0)?,
        queue: parsed(row, 1)?,
        task: parsed(row, 2)?,
        state,
        args: raw(row.get(4)?),
        priority: priority(row.get(5)?).get(),
        tries: row.get(6)?,
        max_attempts: row.get(7)?,
        result: row.get::<_, Option<String>>(8)?.map(raw),
        error: json(row, 9)?,
        errors: json(row, 10)?.unwrap_or_default(),
        enqueued_at: time(row.get(11)?),
        due_at: row.get::<_, Option<i64>>(12)?.map(time),
        expires_at: row.get::<_, Option<i64>>(13)?.map(time),
        started_at: row.get::<_, Option<i64>>(14)?.map(|micros| time(micros / 1000)),
        ended_at: row.get::<_, Option<i64>>(15)?.map(time),
        worker: row.get(16)?,
        plugin: row.get(17)?,
        version: row.get(18)?,
        digest: row.get(19)?,
        progress: json(row, 20)?,
        headers: json(row, 21)?.unwrap_or_default(),
        cancel_asked: row.get(22)?,
    })
}

/// What the writer needs to know of a task before it changes it.
#[derive(Debug)]
pub(super) struct Brief {
    pub(super) seq: i64,
    pub(super) queue: QueueName,
    pub(super) id: TaskId,
    pub(super) state: State,
    pub(super) tries: u32,
    pub(super) losses: u32,
    pub(super) turn: i64,
    pub(super) unique_key: Option<String>,
    pub(super) unique_ttl_ms: Option<i64>,
    pub(super) result_ttl_ms: Option<i64>,
    pub(super) cancel_asked: bool,
    pub(super) errors: Option<String>,
    pub(super) child: bool,
}

pub(super) const BRIEF: &str =
    "seq, queue, id, state, tries, losses, turn, unique_key, unique_ttl_ms, result_ttl_ms, cancel_asked, errors, child";

/// A row of [`BRIEF`].
pub(super) fn brief(row: &Row<'_>) -> Read<Brief> {
    Ok(Brief {
        seq: row.get(0)?,
        queue: parsed(row, 1)?,
        id: parsed(row, 2)?,
        state: state(row, 3)?,
        tries: row.get(4)?,
        losses: row.get(5)?,
        turn: row.get(6)?,
        unique_key: row.get(7)?,
        unique_ttl_ms: row.get(8)?,
        result_ttl_ms: row.get(9)?,
        cancel_asked: row.get(10)?,
        errors: row.get(11)?,
        child: row.get(12)?,
    })
}

/// The number that stands for a state in the database; in `schema.sql`'s order.
pub(super) const fn number(state: State) -> i64 {
    match state {
        State::Scheduled => 0,
        State::Ready => 1,
        State::Parked => 2,
        State::Running => 3,
        State::Succeeded => 4,
        State::Dead => 5,
        State::Cancelled => 6,
    }
}

fn state(row: &Row<'_>, column: usize) -> Read<State> {
    let stored: i64 = row.get(column)?;
    State::ALL.into_iter().find(|state| number(*state) == stored).ok_or_else(|| rusqlite::Error::IntegralValueOutOfRange(column, stored))
}

/// A name or an id.
pub(super) fn parsed<T>(row: &Row<'_>, column: usize) -> Read<T>
where
    T: std::str::FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let text = row.get_ref(column)?.as_str().map_err(rusqlite::Error::from)?;
    text.parse().map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
}

pub(super) fn json<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> Read<Option<T>> {
    let Some(text) = row.get_ref(column)?.as_str_or_null().map_err(rusqlite::Error::from)? else { return Ok(None) };
    let value = serde_json::from_str(text);
    value.map(Some).map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
}

pub(super) fn time(stored: i64) -> Millis {
    Millis(u64::try_from(stored).unwrap_or(0))
}

pub(super) fn duration(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

/// As stored; a time no clock reaches when it is too long.
pub(super) fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4).min(i64::MAX / 4)
}

pub(super) fn rank(priority: Priority) -> i64 {
    9 - i64::from(priority.get())
}

fn priority(rank: i64) -> Priority {
    u8::try_from(9 - rank).ok().and_then(Priority::new).unwrap_or_default()
}

/// JSON as it was given; what is none is shown as a string rather than hiding the whole task.
fn raw(text: String) -> Box<RawValue> {
    RawValue::from_string(text).or_else(|_| RawValue::from_string("null".into())).unwrap_or_default()
}

/// A page of names for `name IN (…)`, bound as one JSON array.
pub(super) fn names(names: &[TaskName]) -> String {
    serde_json::json!(names).to_string()
}
