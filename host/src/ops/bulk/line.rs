//! One line of a bulk enqueue: a JSON object with a task's name, arguments and options.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;
use taskhost_core::{
    catalogue::Given,
    task::{NewTask, Priority, QueueName, Start, Tags, TaskId, TaskName, Unique},
    units,
};

use super::{Clock, LineError};
use crate::ops::new_task::{Defaults, ManyChecks, same};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
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
    priority: Option<Priority>,
    retries: Option<u32>,
    timeout: Option<Time>,
    unique: Option<Time>,
    unique_key: Option<String>,
    /// Zero keeps none.
    #[serde(alias = "ttl")]
    result_ttl: Option<Time>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default, alias = "tag")]
    tags: Tags,
}

/// A duration is text such as `"5m"`, or milliseconds; a point in time is as on the command line.
#[derive(Deserialize)]
#[serde(untagged)]
enum Time {
    Number(u64),
    Text(String),
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

/// The task of a line. What the line leaves out, `defaults` give.
pub(super) fn task(line: &[u8], defaults: &Defaults, clock: &Clock, checks: &mut ManyChecks<'_>) -> Result<NewTask, LineError> {
    let line: Line = serde_json::from_slice(line).map_err(|error| {
        // serde counts lines within the line, so its "line 1" would mislead.
        let text = error.to_string();
        let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
        format!("{text} (column {}); a line is like {{\"task\": \"add\", \"args\": [1, 1]}}", error.column())
    })?;
    let given = Given::Json(line.args.as_deref().map_or("[]", RawValue::get).to_owned());
    let args = checks.check(&line.task, &given)?;
    let mut task = defaults.task(&line.task, args, checks.checks());
    task.queue = line.queue.unwrap_or(task.queue);
    task.id = line.id.unwrap_or(task.id);
    let options = &mut task.options;
    options.priority = line.priority.unwrap_or(options.priority);
    task.start = match (&line.delay, &line.at) {
        (Some(_), Some(_)) => return Err("give `delay` or `at`, not both".to_owned().into()),
        (Some(delay), None) => Start::In(delay.duration("delay")?),
        (None, Some(at)) => at.start("at")?,
        (None, None) => task.start,
    };
    match line.expires.map(|time| time.start("expires")).transpose()? {
        Some(Start::At(at)) => task.expires = Some(at),
        Some(Start::In(time)) => task.expires = Some(clock.after(time)),
        Some(Start::Now) | None => {}
    }
    options.max_attempts = line.retries.map(|retries| retries.saturating_add(1)).or(options.max_attempts);
    options.timeout = line.timeout.map(|time| time.positive("timeout")).transpose()?.or(options.timeout);
    options.result_ttl = line.result_ttl.map(|time| time.duration("result_ttl")).transpose()?.or(options.result_ttl);
    if let Some(time) = line.unique {
        task.unique = Some(Unique { key: same(&task.name, &task.args), ttl: time.positive("unique")? });
    }
    match (&mut task.unique, line.unique_key) {
        (Some(unique), Some(key)) => unique.key = key,
        (None, Some(_)) => return Err("`unique_key` needs `unique`, such as \"1h\"".to_owned().into()),
        (_, None) => {}
    }
    options.carried.tags.extend(line.tags)?;
    options.headers.extend(line.headers.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)));
    Ok(task)
}
