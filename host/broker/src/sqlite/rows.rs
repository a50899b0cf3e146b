//! Rows as the broker's types: the lists of columns, and how each column is read.
//!
//! Another program may have written any value of any type into any column. Numbers are read as far as possible, and invalid JSON is left
//! out. A row without an id, a name or arguments becomes [`Odd`]; the rows beside it are read.

use std::time::Duration;

use rusqlite::{
    Row, RowIndex,
    types::{Type, ValueRef},
};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::columns::{Columns, col};
use crate::lease::{Leased, Member};
use taskhost_core::task::{
    Carried, ErrorKind, FlowPlace, Millis, Priority, QueueName, State, Task, TaskError, TaskId, TaskName, TaskOptions, TaskView,
};

type Read<T> = rusqlite::Result<T>;

pub(super) const LEASED: Columns = Columns(
    "id, queue, name, args, enqueued_at, tries, losses, rank, timeout_ms, max_attempts, result_ttl_ms, headers, options, flow, claimed_us, seq, turn",
);

/// Reads the options of a task from a row of the list.
macro_rules! options {
    ($row:ident, $list:ident) => {
        TaskOptions {
            priority: priority(whole($row, col!($list.rank))?),
            timeout: maybe($row, col!($list.timeout_ms))?.map(duration),
            max_attempts: maybe($row, col!($list.max_attempts))?.map(|max| u32::try_from(max.max(1)).unwrap_or(u32::MAX)),
            result_ttl: maybe($row, col!($list.result_ttl_ms))?.map(duration),
            headers: loose($row, col!($list.headers))?.unwrap_or_default(),
            carried: words($row, col!($list.options))?.map(|stored| Carried::from_json(&stored)).unwrap_or_default(),
            flow: words($row, col!($list.flow))?.and_then(|stored| stored.parse().ok()),
        }
    };
}

/// Reads a row of [`LEASED`]. `claimed_us` is the stamp of the present claim; `None` takes the stored one.
pub(super) fn leased(row: &Row<'_>, claimed_us: Option<i64>) -> Read<Leased> {
    let id: TaskId = parsed(row, col!(LEASED.id))?;
    let claimed_us = match claimed_us {
        Some(stamp) => stamp,
        // It names the attempt: an attempt with an invalid stamp can't be finished.
        None => row
            .get::<_, i64>(col!(LEASED.claimed_us))
            .and_then(|at| if at < 0 { Err(rusqlite::Error::IntegralValueOutOfRange(col!(LEASED.claimed_us), at)) } else { Ok(at) })?,
    };
    Ok(Leased {
        member: Member { id: id.clone(), claimed_us: claimed_us.unsigned_abs(), place: 0 },
        task: Task {
            id,
            queue: parsed(row, col!(LEASED.queue))?,
            name: parsed(row, col!(LEASED.name))?,
            args: row.get(col!(LEASED.args))?,
            enqueued_at: time(whole(row, col!(LEASED.enqueued_at))?),
            tries: counted(row, col!(LEASED.tries))?,
            losses: counted(row, col!(LEASED.losses))?,
            options: options!(row, LEASED),
        },
    })
}

pub(super) const VIEW: Columns = Columns(
    "id, queue, name, state, args, rank, timeout_ms, max_attempts, result_ttl_ms, headers, options, flow, tries, result, error, errors, \
     enqueued_at, due_at, expires_at, claimed_us, ended_at, worker, plugin, version, digest, progress, cancel_asked, turn, seq, parked_at",
);

/// Reads a row of [`VIEW`]. An invalid name is shown as unreadable.
pub(super) fn view(row: &Row<'_>) -> Read<TaskView> {
    let state = state(row, col!(VIEW.state))?;
    let task = parsed(row, col!(VIEW.name));
    let broken = task.as_ref().err().map(|error| TaskError::new(ErrorKind::Unreadable, why(error)));
    Ok(TaskView {
        waits_for: None,
        id: parsed(row, col!(VIEW.id))?,
        queue: parsed(row, col!(VIEW.queue))?,
        task: task.unwrap_or_else(|_| TaskName::unreadable()),
        state,
        args: raw(words(row, col!(VIEW.args))?.unwrap_or_default()),
        options: options!(row, VIEW),
        tries: counted(row, col!(VIEW.tries))?,
        result: words(row, col!(VIEW.result))?.map(raw),
        error: loose(row, col!(VIEW.error))?.or(broken),
        errors: loose(row, col!(VIEW.errors))?.unwrap_or_default(),
        enqueued_at: time(whole(row, col!(VIEW.enqueued_at))?),
        due_at: maybe(row, col!(VIEW.due_at))?.map(time),
        expires_at: maybe(row, col!(VIEW.expires_at))?.map(time),
        started_at: maybe(row, col!(VIEW.claimed_us))?.map(|micros| time(micros / 1000)),
        ended_at: maybe(row, col!(VIEW.ended_at))?.map(time),
        worker: words(row, col!(VIEW.worker))?,
        plugin: words(row, col!(VIEW.plugin))?,
        version: words(row, col!(VIEW.version))?,
        digest: words(row, col!(VIEW.digest))?,
        progress: loose(row, col!(VIEW.progress))?,
        cancel_asked: whole(row, col!(VIEW.cancel_asked))? != 0,
    })
}

/// The parts of a task that the writer needs before it changes the task.
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
    /// The node of a flow that it runs for.
    pub(super) flow: Option<FlowPlace>,
}

pub(super) const BRIEF: Columns =
    Columns("seq, queue, id, state, tries, losses, turn, unique_key, unique_ttl_ms, result_ttl_ms, cancel_asked, errors, child, flow");

/// Reads a row of [`BRIEF`]. The writer changes it by its `seq`, so its id may be invalid.
pub(super) fn brief(row: &Row<'_>) -> Read<Brief> {
    let seq = row.get(col!(BRIEF.seq))?;
    Ok(Brief {
        seq,
        queue: parsed(row, col!(BRIEF.queue))?,
        id: parsed(row, col!(BRIEF.id)).unwrap_or_else(|_| TaskId::unreadable(seq)),
        state: state(row, col!(BRIEF.state)).unwrap_or(State::Dead),
        tries: counted(row, col!(BRIEF.tries))?,
        losses: counted(row, col!(BRIEF.losses))?,
        turn: whole(row, col!(BRIEF.turn))?,
        unique_key: words(row, col!(BRIEF.unique_key))?,
        unique_ttl_ms: maybe(row, col!(BRIEF.unique_ttl_ms))?,
        result_ttl_ms: maybe(row, col!(BRIEF.result_ttl_ms))?.map(|ttl| ttl.max(0)),
        cancel_asked: whole(row, col!(BRIEF.cancel_asked))? != 0,
        errors: words(row, col!(BRIEF.errors))?,
        child: whole(row, col!(BRIEF.child))? != 0,
        flow: words(row, col!(BRIEF.flow))?.and_then(|stored| stored.parse().ok()),
    })
}

/// A row that can't be run or shown as a task.
#[derive(Debug)]
pub(super) struct Odd {
    pub(super) seq: i64,
    pub(super) why: String,
}

/// The value that was read of the row `seq`. An unreadable row is added to `odd` instead.
pub(super) fn or_odd<T>(seq: i64, read: Read<T>, odd: &mut Vec<Odd>) -> Option<T> {
    read.map_err(|error| odd.push(Odd { seq, why: why(&error) })).ok()
}

/// Why a row can't be read, without the library's words around it.
pub(super) fn why(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::FromSqlConversionFailure(_, _, why) => why.to_string(),
        other => other.to_string(),
    }
}

/// A number, as far as it can be read; otherwise 0.
pub(super) fn whole(row: &Row<'_>, column: impl RowIndex) -> Read<i64> {
    Ok(maybe(row, column)?.unwrap_or(0))
}

/// A number, as far as it can be read.
#[expect(clippy::cast_possible_truncation, reason = "a float beyond the bounds becomes the bound")]
pub(super) fn maybe(row: &Row<'_>, column: impl RowIndex) -> Read<Option<i64>> {
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

/// Text, as far as it can be read. `None` for NULL.
pub(super) fn words(row: &Row<'_>, column: impl RowIndex) -> Read<Option<String>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Null => None,
        ValueRef::Integer(number) => Some(number.to_string()),
        ValueRef::Real(number) => Some(number.to_string()),
        ValueRef::Text(text) | ValueRef::Blob(text) => Some(String::from_utf8_lossy(text).into_owned()),
    })
}

/// JSON. `None` if it is invalid or of another shape.
fn loose<T: DeserializeOwned>(row: &Row<'_>, column: impl RowIndex) -> Read<Option<T>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Text(text) => serde_json::from_slice(text).ok(),
        _ => None,
    })
}

/// The stored number of a state, as in `schema.sql`.
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
pub(super) fn parsed<T>(row: &Row<'_>, column: impl RowIndex) -> Read<T>
where
    T: std::str::FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let text = row.get_ref(column)?.as_str().map_err(rusqlite::Error::from)?;
    text.parse().map_err(|error| unreadable(row, column, Box::new(error)))
}

pub(super) fn json<T: DeserializeOwned>(row: &Row<'_>, column: impl RowIndex) -> Read<Option<T>> {
    let Some(text) = row.get_ref(column)?.as_str_or_null().map_err(rusqlite::Error::from)? else { return Ok(None) };
    let value = serde_json::from_str(text);
    value.map(Some).map_err(|error| unreadable(row, column, Box::new(error)))
}

/// The error of a column whose text is not what belongs there.
fn unreadable(row: &Row<'_>, column: impl RowIndex, why: Box<dyn std::error::Error + Send + Sync>) -> rusqlite::Error {
    match column.idx(row.as_ref()) {
        Ok(column) => rusqlite::Error::FromSqlConversionFailure(column, Type::Text, why),
        Err(error) => error,
    }
}

pub(super) fn time(stored: i64) -> Millis {
    Millis(u64::try_from(stored).unwrap_or(0))
}

pub(super) fn duration(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

/// A duration as stored. One that is too long becomes a time that no clock reaches.
pub(super) fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4).min(i64::MAX / 4)
}

pub(super) fn rank(priority: Priority) -> i64 {
    9 - i64::from(priority.get())
}

fn priority(rank: i64) -> Priority {
    u8::try_from(9_i64.saturating_sub(rank)).ok().and_then(Priority::new).unwrap_or_default()
}

/// JSON as it was given. Invalid JSON becomes `null`, so that the task is still shown.
fn raw(text: String) -> Box<RawValue> {
    RawValue::from_string(text).or_else(|_| RawValue::from_string("null".into())).unwrap_or_default()
}

/// Names for `name IN (…)`, bound as one JSON array.
pub(super) fn names(names: &[TaskName]) -> String {
    serde_json::json!(names).to_string()
}
