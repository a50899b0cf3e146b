//! Redis's answers and the broker's types: records out, fields in.
//!
//! What can't be read is `Corrupt` and says of which task.

use std::{collections::HashMap, fmt::Display, str::FromStr, time::Duration};

use redis::Value;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::scripts::Call;
use crate::{
    broker::{BrokerError, Leased, Member, Result},
    task::{CodeId, ErrorEntry, Millis, NewTask, Priority, QueueName, Start, State, Task, TaskError, TaskId, TaskView},
};

pub(super) fn corrupt(what: &str, why: impl Display) -> BrokerError {
    BrokerError::Corrupt(format!("Redis holds something this taskhost can't read: {what}: {why}; delete it, or find out who wrote it"))
}

pub(super) fn list(value: Value) -> Result<Vec<Value>> {
    match value {
        Value::Array(values) | Value::Set(values) => Ok(values),
        Value::Nil => Ok(Vec::new()),
        other => Err(corrupt("an answer", format!("not a list but {other:?}"))),
    }
}

/// Text; what is no UTF-8 (a log cut in a character) is read as well as it can be. `None` for nil.
pub(super) fn text(value: Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => {
            Some(String::from_utf8(bytes).unwrap_or_else(|bad| String::from_utf8_lossy(bad.as_bytes()).into_owned()))
        }
        Value::SimpleString(text) => Some(text),
        Value::Int(number) => Some(number.to_string()),
        Value::Okay => Some("OK".into()),
        _ => None,
    }
}

pub(super) fn word(value: Value) -> String {
    text(value).unwrap_or_default()
}

pub(super) fn number(value: &Value) -> i64 {
    match value {
        Value::Int(number) => *number,
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()).unwrap_or(0),
        _ => 0,
    }
}

pub(super) fn count(value: &Value) -> u64 {
    u64::try_from(number(value)).unwrap_or(0)
}

pub(super) fn is_yes(value: &Value) -> bool {
    number(value) != 0
}

pub(super) fn words(value: Value) -> Result<Vec<String>> {
    Ok(list(value)?.into_iter().filter_map(text).collect())
}

/// Names or ids; those that are none are left out, since nobody can ask for them.
pub(super) fn names<T: FromStr>(value: Value) -> Result<Vec<T>> {
    Ok(words(value)?.iter().filter_map(|name| name.parse().ok()).collect())
}

/// Positions of an answer, taken one by one; those beyond its end are nil.
pub(super) struct Row(std::vec::IntoIter<Value>);

impl Row {
    pub(super) fn new(value: Value) -> Result<Self> {
        Ok(Self(list(value)?.into_iter()))
    }

    pub(super) fn next(&mut self) -> Value {
        self.0.next().unwrap_or(Value::Nil)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.as_slice().is_empty()
    }

    /// Priority, timeout, attempts and headers.
    fn rest_of(&mut self, task: &mut Task) {
        task.priority = self.parsed().and_then(Priority::new).unwrap_or_default();
        task.timeout = self.parsed().map(Duration::from_millis);
        task.max_attempts = self.parsed();
        task.headers = text(self.next()).and_then(|headers| serde_json::from_str(&headers).ok()).unwrap_or_default();
    }

    fn parsed<T: FromStr>(&mut self) -> Option<T> {
        text(self.next()).and_then(|text| text.parse().ok())
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    // Redis's clocks are 64-bit and Lua's numbers exact to 2^53: a thousand years are enough.
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).min(31_536_000_000_000)
}

/// The arguments that make one task: see `admit` in lib.lua and docs/protocol.md.
pub(super) fn record(task: &NewTask) -> Result<Vec<String>> {
    let start = match task.start {
        Start::Now => String::new(),
        Start::In(delay) => format!("+{}", millis(delay)),
        Start::At(at) => format!("@{}", at.0.min(31_536_000_000_000)),
    };
    let (key, ttl) = match &task.unique {
        Some(unique) => (unique.key.clone(), millis(unique.ttl).max(1).to_string()),
        None => (String::new(), String::new()),
    };
    let mut fields = vec![("task", task.name.to_string()), ("args", task.args.clone())];
    fields.extend(task.timeout.map(|timeout| ("timeout", millis(timeout).to_string())));
    fields.extend(task.max_attempts.map(|max| ("max", max.to_string())));
    fields.extend(task.result_ttl.map(|ttl| ("ttl", millis(ttl).to_string())));
    fields.extend(task.expires.map(|at| ("expires", at.0.min(31_536_000_000_000).to_string())));
    if task.awaited {
        fields.push(("awaited", "1".to_owned()));
    }
    if !task.headers.is_empty() {
        let headers =
            serde_json::to_string(&task.headers).map_err(|error| BrokerError::Invalid(format!("failed to write headers: {error}")))?;
        fields.push(("headers", headers));
    }
    let mut record = vec![task.id.to_string(), task.priority.get().to_string(), start, key, ttl, fields.len().to_string()];
    record.extend(fields.into_iter().flat_map(|(name, value)| [name.to_owned(), value]));
    Ok(record)
}

/// The same, written where it goes.
pub(super) fn push_record(call: &mut Call, task: &NewTask) -> Result<()> {
    for part in record(task)? {
        call.push(part);
    }
    Ok(())
}

/// Whether a task is nothing but its id, name and arguments, to be run now: what most are.
pub(super) fn is_plain(task: &NewTask) -> bool {
    task.start == Start::Now
        && task.priority == Priority::default()
        && task.unique.is_none()
        && task.timeout.is_none()
        && task.max_attempts.is_none()
        && task.result_ttl.is_none()
        && task.expires.is_none()
        && task.headers.is_empty()
        && !task.awaited
}

/// A task from `FIELDS` of lib.lua.
pub(super) fn leased(queue: &QueueName, member: Member, fields: Value) -> Result<Leased> {
    let id = member.id.clone();
    let broken = |why: &str| corrupt(&format!("task {id} of queue {queue}"), why);
    let mut row = Row::new(fields)?;
    let name = row.parsed().ok_or_else(|| broken("its name"))?;
    let args = text(row.next()).ok_or_else(|| broken("its arguments"))?;
    let enqueued_at = Millis(row.parsed().unwrap_or_default());
    let tries = row.parsed().unwrap_or_default();
    let losses = row.parsed().unwrap_or_default();
    let (priority, timeout, max_attempts, headers) = (Priority::default(), None, None, Vec::new());
    let mut task = Task { id, name, args, queue: queue.clone(), priority, enqueued_at, tries, losses, timeout, max_attempts, headers };
    row.rest_of(&mut task);
    Ok(Leased { member, task })
}

/// What a claim took: `id task at length args …`, a space between all, and of some `{place from 1, {tries, losses, priority, timeout,
/// max, headers}…}`.
pub(super) fn claimed(queue: &QueueName, claimed_us: u64, tasks: Value, extras: Value) -> Result<Vec<Leased>> {
    let tasks = match tasks {
        Value::BulkString(tasks) => tasks,
        other => return Err(corrupt("an answer", format!("not a text but {other:?}"))),
    };
    let mut rest = &tasks[..];
    let mut found: Vec<Leased> = Vec::new();
    while !rest.is_empty() {
        let id = TaskId::new(next_word(&mut rest)).map_err(|error| corrupt("an id in a queue", error))?;
        let broken = |why: &str| corrupt(&format!("task {id} of queue {queue}"), why);
        let name = next_word(&mut rest);
        // Tasks of one queue mostly have few names.
        let name = match found.last() {
            Some(last) if last.task.name.as_str() == name => last.task.name.clone(),
            _ => name.parse().map_err(|_| broken("its name"))?,
        };
        let enqueued_at = Millis(next_word(&mut rest).parse().unwrap_or_default());
        let length = next_word(&mut rest).parse().map_err(|_| broken("the length of its arguments"))?;
        let (args, after) = rest.split_at_checked(length).ok_or_else(|| broken("its arguments"))?;
        let args = String::from_utf8_lossy(args).into_owned();
        rest = after.strip_prefix(b" ").unwrap_or(after);
        let task = Task {
            id: id.clone(),
            name,
            args,
            queue: queue.clone(),
            priority: Priority::default(),
            enqueued_at,
            tries: 0,
            losses: 0,
            timeout: None,
            max_attempts: None,
            headers: Vec::new(),
        };
        found.push(Leased { member: Member { id, claimed_us }, task });
    }
    let mut extras = list(extras)?.into_iter();
    while let (Some(place), Some(fields)) = (extras.next(), extras.next()) {
        let place = usize::try_from(number(&place)).ok().and_then(|place| place.checked_sub(1));
        if let Some(leased) = place.and_then(|place| found.get_mut(place)) {
            let task = &mut leased.task;
            let mut row = Row::new(fields)?;
            (task.tries, task.losses) = (row.parsed().unwrap_or_default(), row.parsed().unwrap_or_default());
            row.rest_of(task);
        }
    }
    Ok(found)
}

/// The text before the next space, which is left out. What is not UTF-8 is no word of ours, and found to be none.
fn next_word<'a>(rest: &mut &'a [u8]) -> &'a str {
    let end = rest.iter().position(|&byte| byte == b' ').unwrap_or(rest.len());
    let (word, after) = rest.split_at(end);
    *rest = after.get(1..).unwrap_or_default();
    std::str::from_utf8(word).unwrap_or_default()
}

/// `{member, fields}…`; a member that is none is left out: nobody could finish it.
pub(super) fn leased_list(queue: &QueueName, value: Value) -> Result<Vec<Leased>> {
    let mut found = Vec::new();
    for pair in list(value)? {
        let mut row = Row::new(pair)?;
        if let Some(member) = Member::parse(&word(row.next())) {
            found.push(leased(queue, member, row.next())?);
        }
    }
    Ok(found)
}

/// One entry of the history as it is stored, after its time and attempt.
#[derive(Serialize, Deserialize)]
struct Entry {
    worker: String,
    #[serde(flatten)]
    code: CodeId,
    error: TaskError,
}

pub(super) fn entry(worker: &str, code: Option<&CodeId>, error: &TaskError) -> Result<String> {
    json(&Entry { worker: worker.to_owned(), code: code.cloned().unwrap_or_default(), error: error.clone() })
}

pub(super) fn json<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|error| BrokerError::Invalid(format!("failed to write JSON: {error}")))
}

fn read_entry(stored: &str) -> Option<ErrorEntry> {
    let mut parts = stored.splitn(3, ' ');
    let at = Millis(parts.next()?.parse().ok()?);
    let attempt = parts.next()?.parse().ok()?;
    let Entry { worker, code, error } = serde_json::from_str(parts.next()?).ok()?;
    Some(ErrorEntry { at, attempt, worker, code, error })
}

/// What `view_of` of lib.lua gives; `None`: no such task.
pub(super) fn view(queue: &QueueName, value: Value) -> Result<Option<TaskView>> {
    let mut row = Row::new(value)?;
    if row.is_empty() {
        return Ok(None);
    }
    let id = word(row.next());
    let broken = |why: &str| corrupt(&format!("task {id} of queue {queue}"), why);
    let mut fields: HashMap<String, String> = HashMap::new();
    let mut flat = list(row.next())?.into_iter();
    while let (Some(name), Some(value)) = (flat.next(), flat.next()) {
        fields.insert(word(name), word(value));
    }
    let state: State = row.parsed().ok_or_else(|| broken("its state"))?;
    let due_at = row.parsed::<f64>();
    let claimed_us: Option<u64> = row.parsed();
    let cancel_asked = is_yes(&row.next());
    let by = word(row.next());
    let mut by = by.split('\n').map(|part| Some(part.to_owned()).filter(|part| !part.is_empty()));

    let number = |name: &str| fields.get(name).and_then(|value| value.parse::<u64>().ok());
    let raw = |text: &str| RawValue::from_string(text.to_owned()).or_else(|_| RawValue::from_string("null".into())).unwrap_or_default();
    let errors = {
        let ended = number("errors").unwrap_or(0);
        let slots = (ended.saturating_sub(5)..ended).map(|n| format!("e{}", n % 5));
        slots.filter_map(|slot| fields.get(&slot).and_then(|stored| read_entry(stored))).collect()
    };
    let tries = u32::try_from(number("tries").unwrap_or(0)).unwrap_or(u32::MAX);
    Ok(Some(TaskView {
        id: TaskId::new(&id).map_err(|error| broken(&error.to_string()))?,
        task: fields.get("task").and_then(|name| name.parse().ok()).ok_or_else(|| broken("its name"))?,
        queue: queue.clone(),
        state,
        args: raw(fields.get("args").map_or("[]", String::as_str)),
        priority: number("priority").and_then(|value| u8::try_from(value).ok()).and_then(Priority::new).unwrap_or_default().get(),
        // A success writes no count: it is one more than what went before.
        tries: if state == State::Succeeded { tries.saturating_add(1) } else { tries },
        max_attempts: number("max").and_then(|max| u32::try_from(max).ok()),
        result: fields.get("result").filter(|_| state == State::Succeeded).map(|result| raw(result)),
        error: fields.get("error").filter(|_| state != State::Succeeded).and_then(|error| serde_json::from_str(error).ok()),
        errors,
        enqueued_at: Millis(number("at").unwrap_or(0)),
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a score of milliseconds is whole and exact")]
        due_at: due_at.filter(|_| state == State::Scheduled).map(|due| Millis(due as u64)),
        expires_at: number("expires").map(Millis),
        started_at: claimed_us.map(|us| us / 1000).or_else(|| number("start")).map(Millis),
        ended_at: number("end").map(Millis),
        worker: by.next().flatten(),
        plugin: by.next().flatten(),
        version: by.next().flatten(),
        digest: by.next().flatten(),
        progress: fields.get("progress").filter(|_| !state.is_ended()).and_then(|progress| serde_json::from_str(progress).ok()),
        headers: fields.get("headers").and_then(|headers| serde_json::from_str(headers).ok()).unwrap_or_default(),
        cancel_asked: cancel_asked && !state.is_ended(),
    }))
}

/// The view in what is published of an end: a state, and where it is short all that is known, as JSON. `None`: it must be asked for.
pub(super) fn end_told(queue: &QueueName, message: &[u8]) -> Option<TaskView> {
    let at = message.iter().position(|byte| *byte == b' ')?;
    let told: serde_json::Value = serde_json::from_slice(&message[at..]).ok()?;
    view(queue, as_answer(told)).ok()?.filter(|view| view.state.is_ended())
}

/// As if Redis had answered it.
fn as_answer(json: serde_json::Value) -> Value {
    match json {
        serde_json::Value::String(text) => Value::BulkString(text.into_bytes()),
        serde_json::Value::Array(values) => Value::Array(values.into_iter().map(as_answer).collect()),
        serde_json::Value::Number(number) => number.as_i64().map_or(Value::Nil, Value::Int),
        _ => Value::Nil,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_does_not_bring_a_view_of_an_end_is_none() {
        let queue = QueueName::default();
        let told = |message: &str| end_told(&queue, message.as_bytes());
        let row =
            |state: &str| format!(r#"succeeded ["a",["task","add","args","[1,1]","state","{state}","result","2"],"{state}","","",0,""]"#);
        assert_eq!(told(&row("succeeded")).and_then(|view| view.result).as_deref().map(RawValue::get), Some("2"));
        for message in ["", "succeeded", "succeeded ", "dead {}", "dead []", "dead [1]", "succeeded [\"a\"", "succeeded [[[[1e999]]]]"] {
            assert!(told(message).is_none(), "{message}");
        }
        assert!(told(&row("running")).is_none() && told(&row("gone")).is_none());
        assert!(end_told(&queue, b"succeeded [\"\xff\"]").is_none());
    }
}
