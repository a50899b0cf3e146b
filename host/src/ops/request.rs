//! A request of a task: a JSON object with its name, arguments and options. A line of a bulk enqueue, and the body of an HTTP request.

use std::{collections::BTreeMap, time::Duration};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _, IgnoredAny},
};
use serde_json::{Number, value::RawValue};
use taskhost_core::{
    catalogue::Given,
    task::{NewTask, Priority, QueueName, Start, Tags, TaskId, TaskName, Unique},
    units,
};

use super::{
    clock::BrokerClock,
    error::RequestError,
    new_task::{Defaults, ManyChecks, same},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    /// The earlier reason for its refusal, in a file of `--rejected`.
    #[serde(default, rename = "refused")]
    _refused: IgnoredAny,
    task: TaskName,
    #[serde(default)]
    args: Option<Box<RawValue>>,
    queue: Option<QueueName>,
    id: Option<TaskId>,
    #[serde(alias = "in")]
    delay: Option<Time>,
    at: Option<Time>,
    expires: Option<Time>,
    #[serde(default, deserialize_with = "whole")]
    priority: Option<Priority>,
    #[serde(default, deserialize_with = "whole")]
    retries: Option<u32>,
    timeout: Option<Time>,
    unique: Option<Time>,
    unique_key: Option<String>,
    /// Zero keeps none.
    #[serde(alias = "ttl")]
    result_ttl: Option<Time>,
    headers: Option<BTreeMap<String, String>>,
    #[serde(alias = "tag")]
    tags: Option<Tags>,
}

/// A duration is text such as `"5m"`, or milliseconds; a point in time is as on the command request.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a time here is a text such as \"5m\", or a whole number of milliseconds")]
enum Time {
    #[serde(deserialize_with = "some_whole")]
    Number(u64),
    Text(String),
}

/// A whole number, perhaps written as `3.0`: JSON has one kind of numbers, and some languages write all of them so.
fn some_whole<'de, T: DeserializeOwned, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    read_whole(Number::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// The same, or `null` for a value that is not given.
pub fn whole<'de, T: DeserializeOwned, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    Option::<Number>::deserialize(deserializer)?.map(read_whole).transpose().map_err(D::Error::custom)
}

fn read_whole<T: DeserializeOwned>(number: Number) -> serde_json::Result<T> {
    let whole = number.as_f64().filter(|_| number.is_f64()).filter(|value| value.fract() == 0.0 && (0.0..=2f64.powi(53)).contains(value));
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is whole and within the range")]
    let number = whole.map_or(number, |value| Number::from(value as u64));
    serde_json::from_value(number.into())
}

impl Time {
    fn duration(&self, field: &str) -> Result<Duration, String> {
        match self {
            Self::Number(millis) => units::duration(&format!("{millis}ms")),
            Self::Text(text) => units::duration(text),
        }
        .map_err(|why| format!("`{field}`: {why}"))
    }

    fn positive(&self, field: &str) -> Result<Duration, String> {
        match self.duration(field)? {
            Duration::ZERO => Err(format!("`{field}`: a duration here is longer than zero, such as \"30s\"")),
            duration => Ok(duration),
        }
    }

    fn start(&self, field: &str) -> Result<Start, String> {
        match self {
            Self::Number(number) => units::instant(&number.to_string()).map(Start::At),
            Self::Text(text) => units::start(text),
        }
        .map_err(|why| format!("`{field}`: {why}"))
    }
}

/// The task of a request. What the request leaves out, `defaults` give.
pub(super) fn task(json: &[u8], defaults: &Defaults, clock: &BrokerClock, checks: &mut ManyChecks) -> Result<NewTask, RequestError> {
    let request: Request = serde_json::from_slice(json).map_err(|error| {
        // serde counts lines within the line, so its "line 1" would mislead.
        let text = error.to_string();
        let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
        format!("{text} (column {}); a task is like {{\"task\": \"add\", \"args\": [1, 1]}}", error.column())
    })?;
    if request.task.is_reserved() {
        return Err(format!("only the host itself enqueues `{}`: names that begin with `taskhost.` are its own", request.task).into());
    }
    let given = Given::Json(request.args.as_deref().map_or("[]", RawValue::get).to_owned());
    let args = checks.check(&request.task, &given)?;
    let mut task = defaults.task(&request.task, args, checks.checks());
    task.queue = request.queue.unwrap_or(task.queue);
    task.id = request.id.unwrap_or(task.id);
    let options = &mut task.options;
    options.priority = request.priority.unwrap_or(options.priority);
    task.start = match (&request.delay, &request.at) {
        (Some(_), Some(_)) => return Err("give `delay` or `at`, not both".to_owned().into()),
        (Some(delay), None) => Start::In(delay.duration("delay")?),
        (None, Some(at)) => at.start("at")?,
        (None, None) => task.start,
    };
    match request.expires.map(|time| time.start("expires")).transpose()? {
        Some(Start::At(at)) => task.expires = Some(at),
        Some(Start::In(time)) => task.expires = Some(clock.after(time)),
        Some(Start::Now) | None => {}
    }
    options.max_attempts = request.retries.map(|retries| retries.saturating_add(1)).or(options.max_attempts);
    options.timeout = request.timeout.map(|time| time.positive("timeout")).transpose()?.or(options.timeout);
    options.result_ttl = request.result_ttl.map(|time| time.duration("result_ttl")).transpose()?.or(options.result_ttl);
    if let Some(time) = request.unique {
        task.unique = Some(Unique { key: same(&task.name, &task.args), ttl: time.positive("unique")? });
    }
    match (&mut task.unique, request.unique_key) {
        (Some(unique), Some(key)) => unique.key = key,
        (None, Some(_)) => return Err("`unique_key` needs `unique`, such as \"1h\"".to_owned().into()),
        (_, None) => {}
    }
    options.carried.tags.extend(request.tags.unwrap_or_default())?;
    options.headers.extend(request.headers.unwrap_or_default().into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)));
    Ok(task)
}
