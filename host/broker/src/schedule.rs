//! The role of the scheduler: stored schedules, their firing, and a worker's summary of the schedules in its file.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::Result;
use taskhost_core::task::{Millis, NewTask, QueueName, TaskId, TaskName, TaskOptions};

/// Keeps schedules and fires them.
#[async_trait]
pub trait Schedules: Send + Sync {
    /// Creates a schedule or replaces the one of the same name.
    ///
    /// A replaced schedule with the same rule and zone keeps `last` and `created_at`; with another rule or zone, `last` becomes the broker's
    /// now. In the same queue it keeps `last_task`. It keeps `paused`, unless the new definition sets `says_paused` or the old one had set
    /// it to `true`. A new schedule keeps `last` if that is past and not 0; otherwise `last` becomes the broker's now.
    async fn put_schedule(&self, schedule: &Schedule) -> Result<()>;
    async fn schedules(&self) -> Result<Vec<Schedule>>;
    /// Whether there was one. Resuming sets `last` to now.
    async fn pause_schedule(&self, name: &str, paused: bool) -> Result<bool>;
    /// Whether there was one.
    async fn remove_schedule(&self, name: &str) -> Result<bool>;
    /// Checks, moves `last` to `due` and enqueues `task` (id `cron:<schedule>:<due ms>`) in one step.
    async fn fire(&self, schedule: &Schedule, due: Millis, task: &NewTask) -> Result<Fired>;
    /// The newest entries of a schedule's record, oldest first, at most 40. Empty without such a schedule, or if no version that keeps records
    /// has put, paused or fired it.
    async fn schedule_record(&self, name: &str) -> Result<Vec<ScheduleEntry>>;
    /// The broker's clock.
    async fn now(&self) -> Result<Millis>;
}

/// A stored schedule. Firing uses only this, never a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// `[A-Za-z0-9][A-Za-z0-9_.-]{0,63}`, unique over all queues.
    pub name: String,
    /// The text that the user wrote; `cron.rs` parses it.
    pub rule: String,
    /// An IANA name.
    pub timezone: String,
    pub task: TaskName,
    /// A JSON array.
    pub args: String,
    pub queue: QueueName,
    #[serde(flatten)]
    pub options: TaskOptions,
    pub catch_up: CatchUp,
    pub overlap: Overlap,
    pub source: Source,
    /// When this definition came: the start of the worker that has it in its file, or when it was added by hand. The later definition
    /// wins.
    #[serde(default)]
    pub defined_at: Millis,
    /// The definition's own `paused`; `None` leaves it to the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub says_paused: Option<bool>,
    pub created_at: Millis,
    pub paused: bool,
    /// The due time of the last firing, or the time of creation or resumption. The next due time is after it.
    pub last: Millis,
    /// The task of the last firing.
    pub last_task: Option<TaskId>,
}

impl Schedule {
    /// Whether `other` has the same definition. What the broker decided since does not count.
    pub fn is_defined_as(&self, other: &Self) -> bool {
        self.source == other.source && self.says_paused == other.says_paused && self.keys() == other.keys()
    }

    /// Takes over the state of an `old` schedule of the same name: its pause, and its times if rule and zone are the same.
    /// A pause that only the old definition asked for ends here. `last` 0 stands for now.
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

    /// The definition as text, by the keys of `taskhost.toml`, without `paused`.
    fn keys(&self) -> Vec<(&'static str, String)> {
        let mut keys = vec![
            ("rule", self.rule.clone()),
            ("tz", self.timezone.clone()),
            ("task", self.task.to_string()),
            ("args", self.args.clone()),
            ("queue", self.queue.to_string()),
            ("priority", format!("{:?}", self.options.priority)),
            ("timeout", format!("{:?}", self.options.timeout.map(|timeout| timeout.as_millis()))),
            ("retries", format!("{:?}", self.options.max_attempts)),
            ("catch_up", format!("{:?}", self.catch_up)),
            ("overlap", format!("{:?}", self.overlap)),
        ];
        keys.extend(self.options.carried.shown());
        keys
    }
}

/// A summary of a schedule in a worker's `taskhost.toml`: enough to tell how the stored schedule differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSchedule {
    pub name: String,
    /// A digest of each key's value.
    pub keys: BTreeMap<String, String>,
    /// `paused` as the file sets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
}

impl FileSchedule {
    pub fn of(schedule: &Schedule) -> Self {
        let keys = schedule.keys().into_iter().map(|(key, value)| (key.to_owned(), brief(&value))).collect();
        Self { name: schedule.name.clone(), keys, paused: schedule.says_paused }
    }

    /// The keys in which the `stored` schedule differs from the file.
    pub fn differs(&self, stored: &Schedule) -> Vec<String> {
        let other = |(key, value): &(&str, String)| self.keys.get(*key).is_some_and(|said| *said != brief(value));
        let mut keys: Vec<_> = stored.keys().iter().filter(|pair| other(pair)).map(|(key, _)| (*key).to_owned()).collect();
        if stored.paused != self.paused.unwrap_or(false) {
            keys.push("paused".to_owned());
        }
        keys
    }
}

/// Eight hexadecimal digits. Every version of taskhost must compute the same ones.
fn brief(value: &str) -> String {
    hex::encode(&Sha256::digest(value)[..4])
}

/// The most entries of a schedule's record.
const RECORD: usize = 40;

/// What happened to a schedule at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScheduleEntry {
    /// The due time of a firing; otherwise the broker's time.
    pub at: Millis,
    pub event: ScheduleEvent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScheduleEvent {
    /// It was created, or resumed: its due times count from here on.
    Begun,
    /// Its task was enqueued.
    Fired,
    /// Nothing was enqueued: `overlap = skip`, and its last task had not ended.
    Skipped,
    Paused,
}

impl ScheduleEvent {
    pub(super) const fn letter(self) -> char {
        match self {
            Self::Begun => 'b',
            Self::Fired => 'f',
            Self::Skipped => 's',
            Self::Paused => 'p',
        }
    }
}

impl ScheduleEntry {
    /// Reads a record as it is stored: `<ms><letter>`, a space after each. Skips what another version may have written.
    pub(super) fn read_all(text: &str) -> Vec<Self> {
        let read = |entry: &str| {
            let (at, letter) = entry.split_at_checked(entry.len().checked_sub(1)?)?;
            let events = [ScheduleEvent::Begun, ScheduleEvent::Fired, ScheduleEvent::Skipped, ScheduleEvent::Paused];
            let event = events.into_iter().find(|event| letter.starts_with(event.letter()))?;
            Some(Self { at: Millis(at.parse().ok()?), event })
        };
        text.split(' ').filter_map(read).collect()
    }

    /// The stored record with one entry more, cut to the newest ones.
    pub(super) fn append(record: &str, at: Millis, event: ScheduleEvent) -> String {
        let entries: Vec<_> = record.split_terminator(' ').collect();
        let kept = entries.iter().skip((entries.len() + 1).saturating_sub(RECORD));
        kept.map(|entry| format!("{entry} ")).chain([format!("{}{} ", at.0, event.letter())]).collect()
    }
}

/// How many of the due times that passed while no worker fired are fired late.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CatchUp {
    Skip,
    /// Only the newest.
    #[default]
    Once,
    /// All, oldest first, at most 1,000.
    All,
}

/// Whether a firing happens while the task of the last firing has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overlap {
    #[default]
    Allow,
    Skip,
}

/// Where a schedule was defined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    #[default]
    Cli,
    /// `taskhost.toml`. Each worker with that file puts the schedule when it starts, and whenever it is missing.
    Toml,
}

/// The answer of one firing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fired {
    Enqueued(TaskId),
    /// Another worker fired this due time or a later one, or the schedule is gone, changed or paused.
    NotNow,
    /// The due time is ahead of the broker's clock: try again after this time.
    TooEarly(Duration),
    /// `overlap = skip` and this task of the last firing has not ended. `last` moved to the due time; nothing was enqueued.
    Skipped(TaskId),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_keeps_its_newest_entries_and_skips_what_it_does_not_know() {
        let at = |n: u64| Millis(1_700_000_000_000 + n);
        let record = (0..100).fold(String::new(), |record, n| ScheduleEntry::append(&record, at(n), ScheduleEvent::Fired));
        let read = ScheduleEntry::read_all(&record);
        assert_eq!((read.len(), read[0].at, read[39].at), (RECORD, at(60), at(99)));
        let odd = format!("{}x é 7 {}s ", at(1).0, at(2).0);
        assert_eq!(ScheduleEntry::read_all(&odd), [ScheduleEntry { at: at(2), event: ScheduleEvent::Skipped }]);
        assert_eq!(ScheduleEntry::read_all(""), []);
    }
}
