//! Redis's answers as the broker's types.
//!
//! A task that can't be read becomes [`Odd`]. The tasks beside it are read.

use std::{collections::HashMap, fmt::Display, str::FromStr, time::Duration};

use redis::Value;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::{
    error::{BrokerError, Result},
    lease::{Leased, Member},
    unreadable::shown,
};
use taskhost_core::{
    task::{
        Carried, CodeId, ErrorEntry, ErrorKind, Millis, Priority, QueueName, State, Task, TaskError, TaskId, TaskName, TaskOptions,
        TaskView,
    },
    trace::{BAGGAGE, TRACEPARENT},
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

/// Text. Invalid UTF-8 (a log cut in a character) is replaced. `None` for nil.
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

/// Names or ids. Invalid ones are left out, since no caller can name them.
pub(super) fn names<T: FromStr>(value: Value) -> Result<Vec<T>> {
    Ok(words(value)?.iter().filter_map(|name| name.parse().ok()).collect())
}

/// The parts of an answer, taken one by one; nil beyond its end.
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

    /// Reads the options in the order of [`OPTIONS`].
    fn options(&mut self) -> TaskOptions {
        options(|_| text(self.next()))
    }

    /// A count of attempts. A count beyond the bounds is the largest one, never 0.
    fn tries(&mut self) -> u32 {
        text(self.next()).map_or(0, |text| counted(&text))
    }

    fn parsed<T: FromStr>(&mut self) -> Option<T> {
        text(self.next()).and_then(|text| text.parse().ok())
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float beyond the bounds becomes the bound")]
fn counted(text: &str) -> u32 {
    text.parse().or_else(|_| text.parse::<f64>().map(|count| count as u32)).unwrap_or(0)
}

pub(super) fn millis(duration: Duration) -> u64 {
    // Redis's clock has 64 bits, and Lua's numbers are exact up to 2^53: a thousand years are enough.
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).min(31_536_000_000_000)
}

/// The fields of a task's hash that hold its options, in the order in which scripts read them for a worker.
const OPTIONS: [&str; 9] = ["priority", "timeout", "max", "headers", "ttl", "options", "tp", "bg", "flow"];

/// The options from the fields of a task's hash. `field` is called once for each of [`OPTIONS`], in that order. An unreadable value counts
/// as not set.
fn options(mut field: impl FnMut(&str) -> Option<String>) -> TaskOptions {
    fn parsed<T: FromStr>(text: Option<String>) -> Option<T> {
        text?.parse().ok()
    }
    let [priority, timeout, max, headers, ttl, carried, traceparent, baggage, flow] = OPTIONS.map(&mut field);
    let trace = [(TRACEPARENT, traceparent), (BAGGAGE, baggage)].into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    let other: Vec<_> = headers.and_then(|headers| serde_json::from_str(&headers).ok()).unwrap_or_default();
    TaskOptions {
        priority: parsed(priority).and_then(Priority::new).unwrap_or_default(),
        timeout: parsed(timeout).map(Duration::from_millis),
        max_attempts: parsed(max),
        result_ttl: parsed(ttl).map(Duration::from_millis),
        headers: trace.chain(other).collect(),
        carried: carried.map(|carried| Carried::from_json(&carried)).unwrap_or_default(),
        flow: parsed(flow),
    }
}

/// An entry in the place of a task that can't be run.
#[derive(Debug)]
pub(super) struct Odd {
    pub(super) id: Vec<u8>,
    /// The claim and the place in it; none of a waiting task.
    pub(super) held: Option<(u64, u32)>,
    pub(super) why: String,
}

impl Odd {
    pub(super) fn waiting(id: &str, why: impl Display) -> Self {
        Self { id: id.into(), held: None, why: why.to_string() }
    }
}

/// Leased tasks, and the unreadable entries among them.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) tasks: Vec<Leased>,
    pub(super) odd: Vec<Odd>,
}

/// The id under which a task is shown: its own, or a made-up one if its own is invalid.
pub(super) fn shown_id(id: &[u8]) -> TaskId {
    let own = std::str::from_utf8(id).ok().and_then(|id| TaskId::new(id).ok());
    own.unwrap_or_else(|| TaskId::unreadable(short_digest(id)))
}

/// 12 hex digits. The few hundred that one queue has do not collide.
pub(super) fn short_digest(bytes: &[u8]) -> String {
    hex::encode(&Sha256::digest(bytes)[..6])
}

/// A task from `FIELDS` of lua/lib/read_task.lua, or why it can't be read.
fn leased(queue: &QueueName, member: Member, fields: Value) -> Result<Leased, String> {
    let mut row = Row::new(fields).map_err(|error| error.to_string())?;
    let name = task_name(&row.next())?;
    let args = match row.next() {
        Value::BulkString(args) => String::from_utf8(args).map_err(|_| NO_TEXT.to_owned())?,
        _ => return Err("it has no `args`".to_owned()),
    };
    let id = member.id.clone();
    let enqueued_at = Millis(row.parsed().unwrap_or_default());
    let (tries, losses) = (row.tries(), row.tries());
    let options = row.options();
    let task = Task { id, name, args, queue: queue.clone(), enqueued_at, tries, losses, options };
    Ok(Leased { member, task })
}

const NO_TEXT: &str = "its `args` are not UTF-8";

fn task_name(stored: &Value) -> Result<TaskName, String> {
    match stored {
        Value::BulkString(name) => {
            let name = std::str::from_utf8(name).map_err(|_| "its `task` is not UTF-8".to_owned())?;
            TaskName::new(name).map_err(|error| error.to_string())
        }
        _ => Err("it has no `task`".to_owned()),
    }
}

/// The `count` tasks of a claim. `heads` has `id task at length …`, `texts` all arguments in one text, and `extras` of some tasks `{place
/// from 1, {tries, losses, priority, timeout, max, headers}…}`. `None`: the words do not fit `count` tasks, because a foreign id or name
/// contains a space.
pub(super) fn claimed(
    queue: &QueueName,
    claimed_us: u64,
    count: u64,
    heads: &Value,
    texts: &Value,
    extras: Value,
) -> Result<Option<Taken>> {
    let (Value::BulkString(heads), Value::BulkString(texts)) = (heads, texts) else {
        return Err(corrupt("an answer", "not two texts"));
    };
    let (mut tasks, mut odd, mut odd_at): (Vec<Leased>, Vec<Odd>, Vec<usize>) = (Vec::new(), Vec::new(), Vec::new());
    let mut words = heads.split(|byte| *byte == b' ');
    let mut rest = &texts[..];
    for place in 0..u32::try_from(count).unwrap_or(0) {
        let (Some(id), Some(name), Some(at), Some(length)) = (words.next(), words.next(), words.next(), words.next()) else {
            return Ok(None);
        };
        let split = read(length).parse().ok().and_then(|length| rest.split_at_checked(length));
        let Some((args, after)) = split else { return Ok(None) };
        rest = after;
        // Most tasks of one queue share a few names.
        let name = match tasks.last() {
            Some(last) if last.task.name.as_str().as_bytes() == name => Ok(last.task.name.clone()),
            _ => TaskName::new(read(name)).map_err(|error| error.to_string()),
        };
        let parts = TaskId::new(read(id)).map_err(|error| error.to_string()).and_then(|id| {
            let args = std::str::from_utf8(args).map_err(|_| NO_TEXT.to_owned())?;
            Ok((id, name?, args.to_owned()))
        });
        let (id, name, args) = match parts {
            Ok(parts) => parts,
            Err(why) => {
                odd_at.push(place as usize);
                odd.push(Odd { id: id.to_vec(), held: Some((claimed_us, place)), why });
                continue;
            }
        };
        let task = Task {
            id: id.clone(),
            name,
            args,
            queue: queue.clone(),
            enqueued_at: Millis(read(at).parse().unwrap_or_default()),
            tries: 0,
            losses: 0,
            options: TaskOptions::default(),
        };
        tasks.push(Leased { member: Member { id, claimed_us, place }, task });
    }
    if count > 0 && (words.next().is_some() || !rest.is_empty()) {
        return Ok(None);
    }
    let mut extras = list(extras)?.into_iter();
    while let (Some(place), Some(fields)) = (extras.next(), extras.next()) {
        let Some(place) = usize::try_from(number(&place)).ok().and_then(|place| place.checked_sub(1)) else { continue };
        let before = odd_at.iter().filter(|odd| **odd < place).count();
        if let Some(leased) = tasks.get_mut(place - before).filter(|_| !odd_at.contains(&place)) {
            let task = &mut leased.task;
            let mut row = Row::new(fields)?;
            (task.tries, task.losses) = (row.tries(), row.tries());
            task.options = row.options();
        }
    }
    Ok(Some(Taken { tasks, odd }))
}

/// Invalid UTF-8 is read as an empty word, which is no valid name or id.
fn read(word: &[u8]) -> &str {
    std::str::from_utf8(word).unwrap_or_default()
}

/// Ids that the claim holds although there is no readable task under them. Their places follow those of its `count` tasks.
pub(super) fn odd_ids(claimed_us: u64, count: u64, ids: Value) -> Result<Vec<Odd>> {
    let places = u32::try_from(count).unwrap_or(0)..;
    let odd = |(id, place)| Odd { id: bytes(id), held: Some((claimed_us, place)), why: "it has no `task` or no `args`".to_owned() };
    Ok(list(ids)?.into_iter().zip(places).map(odd).collect())
}

/// `{id, stamp, place, fields}…`
pub(super) fn leased_list(queue: &QueueName, value: Value) -> Result<Taken> {
    let mut taken = Taken::default();
    for held in list(value)? {
        let mut row = Row::new(held)?;
        let (id, claimed_us, place) = (bytes(row.next()), count(&row.next()), u32::try_from(count(&row.next())).unwrap_or(0));
        let known = std::str::from_utf8(&id).ok().and_then(|id| TaskId::new(id).ok());
        let read = match known {
            Some(id) => leased(queue, Member { id, claimed_us, place }, row.next()),
            None => Err("its id is invalid".to_owned()),
        };
        match read {
            Ok(leased) => taken.tasks.push(leased),
            Err(why) => taken.odd.push(Odd { id, held: Some((claimed_us, place)), why }),
        }
    }
    Ok(taken)
}

pub(super) fn bytes(value: Value) -> Vec<u8> {
    match value {
        Value::BulkString(bytes) => bytes,
        other => word(other).into_bytes(),
    }
}

/// One entry of the error history, as stored after its time and attempt.
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

/// A view from lua/lib/view_of.lua. `None`: no such task.
pub(super) fn view(queue: &QueueName, value: Value) -> Result<Option<TaskView>> {
    let mut row = Row::new(value)?;
    if row.is_empty() {
        return Ok(None);
    }
    let id = shown_id(&bytes(row.next()));
    let mut fields: HashMap<String, String> = HashMap::new();
    let mut flat = list(row.next())?.into_iter();
    while let (Some(name), Some(value)) = (flat.next(), flat.next()) {
        fields.insert(word(name), word(value));
    }
    let stands = word(row.next());
    let state = stands.parse();
    let task = fields.get("task").map(TaskName::new);
    // Foreign data is shown too, so that it can be deleted.
    let broken = match (&state, &task) {
        (Err(_), _) => Some(format!("its state is unknown: {}", shown(&stands))),
        (_, Some(Err(error))) => Some(error.to_string()),
        (_, None) => Some("it has no `task`".to_owned()),
        _ => None,
    };
    let state = state.unwrap_or(State::Dead);
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
    let tries = fields.get("tries").map_or(0, |tries| counted(tries));
    let error = fields.get("error").filter(|_| state != State::Succeeded).and_then(|error| serde_json::from_str(error).ok());
    Ok(Some(TaskView {
        id,
        task: task.and_then(std::result::Result::ok).unwrap_or_else(TaskName::unreadable),
        queue: queue.clone(),
        state,
        waits_for: None,
        args: raw(fields.get("args").map_or("[]", String::as_str)),
        options: options(|name| fields.get(name).cloned()),
        // A success does not write its count: it is one more than the stored one.
        tries: if state == State::Succeeded { tries.saturating_add(1) } else { tries },
        result: fields.get("result").filter(|_| state == State::Succeeded).map(|result| raw(result)),
        error: error.or_else(|| broken.map(|why| TaskError::new(ErrorKind::Unreadable, why))),
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
        cancel_asked: cancel_asked && !state.is_ended(),
    }))
}

/// The view in the message of an end: the state, and in a short message the whole view as JSON. `None`: the task must be read.
pub(super) fn end_told(queue: &QueueName, message: &[u8]) -> Option<TaskView> {
    let at = message.iter().position(|byte| *byte == b' ')?;
    let told: serde_json::Value = serde_json::from_slice(&message[at..]).ok()?;
    let is_unreadable = |view: &TaskView| view.error.as_ref().is_some_and(|error| error.kind == ErrorKind::Unreadable);
    view(queue, as_answer(told)).ok()?.filter(|view| view.state.is_ended() && !is_unreadable(view))
}

/// The JSON value as Redis would have answered it.
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
