//! A schedule as it is stored, and what a worker says of the schedules in its file.

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::task::{Millis, Priority, QueueName, TaskId, TaskName};

/// A schedule as it is stored. Firing uses this alone, never a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// `[A-Za-z0-9][A-Za-z0-9_.-]{0,63}`, unique over all queues.
    pub name: String,
    /// As written; `cron.rs` reads it.
    pub rule: String,
    /// An IANA name.
    pub timezone: String,
    pub task: TaskName,
    /// A JSON array.
    pub args: String,
    pub queue: QueueName,
    pub priority: Priority,
    pub timeout_ms: Option<u64>,
    pub max_attempts: Option<u32>,
    pub catch_up: CatchUp,
    pub overlap: Overlap,
    pub source: Source,
    /// When this definition was taken on: the start of the worker whose file it is, or when somebody added it. The later one wins.
    #[serde(default)]
    pub defined_at: Millis,
    /// What the definition says of `paused`; `None` leaves it to the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub says_paused: Option<bool>,
    pub created_at: Millis,
    pub paused: bool,
    /// The due time of the last firing, or when it was created or resumed: the next due time is after it.
    pub last: Millis,
    /// The task of the last firing.
    pub last_task: Option<TaskId>,
}

impl Schedule {
    /// Whether `other` is defined alike, whatever happened to the two since.
    pub fn is_defined_as(&self, other: &Self) -> bool {
        self.source == other.source && self.says_paused == other.says_paused && self.keys() == other.keys()
    }

    /// Takes over what an `old` definition under the same name has come to: its pause, and its due times if the rule is the same.
    /// A pause that only the old definition asked for ends with its word. `last` 0 stands for now.
    pub(super) fn take_along(&mut self, old: &Self) {
        if (&self.rule, &self.timezone) == (&old.rule, &old.timezone) {
            (self.created_at, self.last) = (old.created_at, old.last);
        } else {
            self.last = Millis(0);
        }
        self.paused = self.says_paused.unwrap_or(old.paused && old.says_paused != Some(true));
        if old.paused && !self.paused {
            self.last = Millis(0);
        }
    }

    /// The definition as text, by the keys of `taskhost.toml`; all but `paused`.
    fn keys(&self) -> [(&'static str, String); 10] {
        [
            ("rule", self.rule.clone()),
            ("tz", self.timezone.clone()),
            ("task", self.task.to_string()),
            ("args", self.args.clone()),
            ("queue", self.queue.to_string()),
            ("priority", format!("{:?}", self.priority)),
            ("timeout", format!("{:?}", self.timeout_ms)),
            ("retries", format!("{:?}", self.max_attempts)),
            ("catch_up", format!("{:?}", self.catch_up)),
            ("overlap", format!("{:?}", self.overlap)),
        ]
    }
}

/// A schedule of a worker's `taskhost.toml`, in brief: enough to tell how the stored one differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSchedule {
    pub name: String,
    /// A digest of each key's value.
    pub keys: BTreeMap<String, String>,
    /// As the file names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
}

impl FileSchedule {
    pub fn of(schedule: &Schedule) -> Self {
        let keys = schedule.keys().into_iter().map(|(key, value)| (key.to_owned(), brief(&value))).collect();
        Self { name: schedule.name.clone(), keys, paused: schedule.says_paused }
    }

    /// The keys in which the `stored` schedule is not what the file says.
    pub fn differs(&self, stored: &Schedule) -> Vec<String> {
        let other = |(key, value): &(&str, String)| self.keys.get(*key).is_some_and(|said| *said != brief(value));
        let mut keys: Vec<_> = stored.keys().iter().filter(|pair| other(pair)).map(|(key, _)| (*key).to_owned()).collect();
        if stored.paused != self.paused.unwrap_or(false) {
            keys.push("paused".to_owned());
        }
        keys
    }
}

/// Eight hexadecimal digits that every version of taskhost computes alike.
fn brief(value: &str) -> String {
    Sha256::digest(value).iter().take(4).fold(String::new(), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

/// What happens to due times that passed while nobody fired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CatchUp {
    Skip,
    /// The newest of them.
    #[default]
    Once,
    /// At most 1,000, oldest first.
    All,
}

/// Whether a firing waits for nothing, or is skipped while the last firing's task has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overlap {
    #[default]
    Allow,
    Skip,
}

/// Who defined a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    #[default]
    Cli,
    /// `taskhost.toml`: put by each worker that has it, when it starts and whenever it is missing.
    Toml,
}

/// What became of one firing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fired {
    Enqueued(TaskId),
    /// Somebody else fired this due time, or a later one; or the schedule is gone, changed or paused.
    NotNow,
    /// Beyond the broker's own clock: come again in so long.
    TooEarly(Duration),
    /// `overlap = skip` and this task of the last firing has not ended: `last` moved on, nothing enqueued.
    Skipped(TaskId),
}
