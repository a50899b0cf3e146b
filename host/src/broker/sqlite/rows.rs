//! Rows ↔ the broker's types: which columns, in which order, read in one place.
//!
//! Somebody else may have written any value of any type into any column: numbers are read as far as they are some, JSON that is none
//! is left out, and a row without an id, a name or arguments is [`Odd`], alone: its neighbours are read.

use std::time::Duration;

use rusqlite::{
    Row,
    types::{Type, ValueRef},
};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::{
    broker::lease::{Leased, Member},
    task::{ErrorKind, Millis, Priority, QueueName, State, Task, TaskError, TaskId, TaskName, TaskView},
};

type Read<T> = rusqlite::Result<T>;

pub(super) const LEASED: &str =
    "id, queue, name, args, headers, rank, enqueued_at, tries, losses, timeout_ms, max_attempts, claimed_us, seq";

/// A row of [`LEASED`]; `claimed_us` is the claim that is being made, or the stored one.
pub(super) fn leased(row: &Row<'_>, claimed_us: Option<i64>) -> Read<Leased> {
    let id: TaskId = parsed(row, 0)?;
    let claimed_us = match claimed_us {
        Some(stamp) => stamp,
        // It names the attempt: one that is no time can't be finished.
        None => row.get::<_, i64>(11).and_then(|at| if at < 0 { Err(rusqlite::Error::IntegralValueOutOfRange(11, at)) } else { Ok(at) })?,
    };
    Ok(Leased {
        member: Member { id: id.clone(), claimed_us: claimed_us.unsigned_abs() },
        task: Task {
            id,
            queue: parsed(row, 1)?,
            name: parsed(row, 2)?,
            args: row.get(3)?,
            headers: loose(row, 4)?.unwrap_or_default(),
            priority: priority(whole(row, 5)?),
            enqueued_at: time(whole(row, 6)?),
            tries: counted(row, 7)?,
            losses: counted(row, 8)?,
            timeout: maybe(row, 9)?.map(duration),
            max_attempts: maybe(row, 10)?.map(|max| u32::try_from(max.max(1)).unwrap_or(u32::MAX)),
        },
    })
}

pub(super) const VIEW: &str = "id, queue, name, state, args, rank, tries, max_attempts, result, error, errors, enqueued_at, due_at, \
     expires_at, claimed_us, ended_at, worker, plugin, version, digest, progress, headers, cancel_asked, turn, seq, parked_at";

/// A row of [`VIEW`]. A name that is none is shown as such.
pub(super) fn view(row: &Row<'_>) -> Read<TaskView> {
    let state = state(row, 3)?;
    let task = parsed(row, 2);
    let broken = task.as_ref().err().map(|error| TaskError::new(ErrorKind::Unreadable, why(error)));
    Ok(TaskView {
        waits_for: None,
        id: parsed(row, 0)?,
        queue: parsed(row, 1)?,
        task: task.unwrap_or_else(|_| TaskName::unreadable()),
        state,
        args: raw(words(row, 4)?.unwrap_or_default()),
        priority: priority(whole(row, 5)?).get(),
        tries: counted(row, 6)?,
        max_attempts: maybe(row, 7)?.map(|max| u32::try_from(max).unwrap_or(u32::MAX)),
        result: words(row, 8)?.map(raw),
        error: loose(row, 9)?.or(broken),
        errors: loose(row, 10)?.unwrap_or_default(),
        enqueued_at: time(whole(row, 11)?),
        due_at: maybe(row, 12)?.map(time),
        expires_at: maybe(row, 13)?.map(time),
        started_at: maybe(row, 14)?.map(|micros| time(micros / 1000)),
        ended_at: maybe(row, 15)?.map(time),
        worker: words(row, 16)?,
        plugin: words(row, 17)?,
        version: words(row, 18)?,
        digest: words(row, 19)?,
        progress: loose(row, 20)?,
        headers: loose(row, 21)?.unwrap_or_default(),
        cancel_asked: whole(row, 22)? != 0,
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

/// A row of [`BRIEF`]. It is changed by its `seq`, so that its id may be none.
pub(super) fn brief(row: &Row<'_>) -> Read<Brief> {
    let seq = row.get(0)?;
    Ok(Brief {
        seq,
        queue: parsed(row, 1)?,
        id: parsed(row, 2).unwrap_or_else(|_| TaskId::unreadable(seq)),
        state: state(row, 3).unwrap_or(State::Dead),
        tries: counted(row, 4)?,
        losses: counted(row, 5)?,
        turn: whole(row, 6)?,
        unique_key: words(row, 7)?,
        unique_ttl_ms: maybe(row, 8)?,
        result_ttl_ms: maybe(row, 9)?.map(|ttl| ttl.max(0)),
        cancel_asked: whole(row, 10)? != 0,
        errors: words(row, 11)?,
        child: whole(row, 12)? != 0,
    })
}

/// A row that is no task that can be run or shown.
#[derive(Debug)]
pub(super) struct Odd {
    pub(super) seq: i64,
    pub(super) why: String,
}

/// What was read of the row `seq`, or nothing, and it is noted among the odd ones.
pub(super) fn or_odd<T>(seq: i64, read: Read<T>, odd: &mut Vec<Odd>) -> Option<T> {
    read.map_err(|error| odd.push(Odd { seq, why: why(&error) })).ok()
}

/// Why a row can't be read, without the words of the library around it.
pub(super) fn why(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::FromSqlConversionFailure(_, _, why) => why.to_string(),
        other => other.to_string(),
    }
}

/// A number, as far as it is one; 0 if not.
pub(super) fn whole(row: &Row<'_>, column: usize) -> Read<i64> {
    Ok(maybe(row, column)?.unwrap_or(0))
}

/// A number, as far as it is one.
#[expect(clippy::cast_possible_truncation, reason = "a float beyond the bounds becomes the bound")]
pub(super) fn maybe(row: &Row<'_>, column: usize) -> Read<Option<i64>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Integer(number) => Some(number),
        ValueRef::Real(number) => Some(number as i64),
        ValueRef::Text(text) => std::str::from_utf8(text).ok().and_then(|text| text.trim().parse().ok()),
        ValueRef::Null | ValueRef::Blob(_) => None,
    })
}

/// A count of attempts.
fn counted(row: &Row<'_>, column: usize) -> Read<u32> {
    Ok(u32::try_from(whole(row, column)?.max(0)).unwrap_or(u32::MAX))
}

/// Text, as well as it can be read; `None` for null.
pub(super) fn words(row: &Row<'_>, column: usize) -> Read<Option<String>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Null => None,
        ValueRef::Integer(number) => Some(number.to_string()),
        ValueRef::Real(number) => Some(number.to_string()),
        ValueRef::Text(text) | ValueRef::Blob(text) => Some(String::from_utf8_lossy(text).into_owned()),
    })
}

/// JSON, unless it is none or of another shape.
fn loose<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> Read<Option<T>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Text(text) => serde_json::from_slice(text).ok(),
        _ => None,
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
    u8::try_from(9_i64.saturating_sub(rank)).ok().and_then(Priority::new).unwrap_or_default()
}

/// JSON as it was given; what is none is shown as a string rather than hiding the whole task.
fn raw(text: String) -> Box<RawValue> {
    RawValue::from_string(text).or_else(|_| RawValue::from_string("null".into())).unwrap_or_default()
}

/// A page of names for `name IN (…)`, bound as one JSON array.
pub(super) fn names(names: &[TaskName]) -> String {
    serde_json::json!(names).to_string()
}
