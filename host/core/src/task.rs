//! A task, from its request to its end: plain data, no I/O.
//!
//! [`NewTask`] is enqueued → [`Task`] is claimed → an attempt ends in an [`Outcome`] → `retry::judge` turns it into a [`Verdict`] → the
//! broker records it and shows a [`TaskView`]
//!
//! Invariant: values of these types are valid. Names and ids are checked where they are made, limits where they enter.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

mod flow_place;
mod name;
mod options;
mod view;

pub use flow_place::FlowPlace;
pub use name::{InvalidName, QueueName, TaskId, TaskName};
pub use options::{Carried, MOST_RETRIES, OptionFilter, Tag, Tags, TaskOptions};
pub use view::{ErrorEntry, LogLine, Progress, State, TaskView, WaitsFor};

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Millis {
    /// `self` + `by`, saturating.
    pub fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
    }

    /// `self` - `by`, not before 1970.
    pub fn before(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long from `earlier` to `self`; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// Tells the time. Brokers decide by their own clock; this one is for the host's own decisions.
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    fn now(&self) -> Millis;
}

/// The machine's clock: the only place that reads it.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock that everything else is handed")]
    fn now(&self) -> Millis {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// 0 to 9; 9 is claimed first, 5 is the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Priority(u8);

impl Priority {
    /// `None` beyond 9.
    pub const fn new(value: u8) -> Option<Self> {
        if value <= 9 { Some(Self(value)) } else { None }
    }

    pub const fn get(self) -> u8 {
        self.0
    }
}

impl Default for Priority {
    fn default() -> Self {
        Self(5)
    }
}

impl FromStr for Priority {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().ok().and_then(Self::new).ok_or_else(|| format!("a priority is a number from 0 to 9 (9 is claimed first): `{text}`"))
    }
}

impl<'de> Deserialize<'de> for Priority {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let value = u8::deserialize(d)?;
        Self::new(value).ok_or_else(|| serde::de::Error::custom(format!("a priority is a number from 0 to 9: `{value}`")))
    }
}

/// When a task may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Start {
    #[default]
    Now,
    /// This long after the broker has taken it, by the broker's clock.
    In(Duration),
    /// Not before this time, by the broker's clock.
    At(Millis),
}

/// A key that at most one unfinished task of a queue holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unique {
    /// What must be unique; by default the task's name and arguments.
    pub key: String,
    /// Released after this time at the latest, counted from when the task may start: from the enqueue, or from when it is due.
    pub ttl: Duration,
}

/// A task as a producer requests it. Its id is fixed beforehand, so that enqueueing it again is safe.
#[derive(Debug, Clone, PartialEq)]
pub struct NewTask {
    pub id: TaskId,
    pub name: TaskName,
    /// A JSON array, compact, one item a parameter.
    pub args: String,
    pub queue: QueueName,
    pub start: Start,
    /// The task is cancelled if it has not started by then.
    pub expires: Option<Millis>,
    pub unique: Option<Unique>,
    /// The caller is about to await the end: the broker tells it for a minute, also if the result is kept for less.
    pub awaited: bool,
    pub options: TaskOptions,
}

impl NewTask {
    /// A task of the default queue and priority that may start now, with a fresh id. `args` is a JSON array.
    pub fn new(name: TaskName, args: impl Into<String>) -> Self {
        Self {
            id: TaskId::fresh(),
            name,
            args: args.into(),
            queue: QueueName::default(),
            start: Start::Now,
            expires: None,
            unique: None,
            awaited: false,
            options: TaskOptions::default(),
        }
    }
}

/// A task as a worker gets it.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    pub id: TaskId,
    pub name: TaskName,
    pub args: String,
    pub queue: QueueName,
    pub enqueued_at: Millis,
    /// Attempts that ended or were lost before this one.
    pub tries: u32,
    /// How many of them were lost with their worker.
    pub losses: u32,
    pub options: TaskOptions,
}

/// Why an attempt has no result. The words are used in results, logs and `--error` filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    // may work next time
    Retry,
    Panic,
    Trap,
    Exit,
    Timeout,
    MemoryLimit,
    StackOverflow,
    WorkerLost,
    // dead at once
    Permanent,
    InvalidArguments,
    NoSuchBody,
    BadResult,
    ResultTooLarge,
    /// Nobody offered the task's name for `unknown_task_ttl`.
    UnknownTask,
    /// The stored record is not a task that can run: another program wrote it, or it was damaged.
    Unreadable,
    // neither
    Cancelled,
    /// Not started by its `expires`: ends cancelled.
    Expired,
}

impl ErrorKind {
    /// In the order of their declaration.
    pub const ALL: [Self; 17] = [
        Self::Retry,
        Self::Panic,
        Self::Trap,
        Self::Exit,
        Self::Timeout,
        Self::MemoryLimit,
        Self::StackOverflow,
        Self::WorkerLost,
        Self::Permanent,
        Self::InvalidArguments,
        Self::NoSuchBody,
        Self::BadResult,
        Self::ResultTooLarge,
        Self::UnknownTask,
        Self::Unreadable,
        Self::Cancelled,
        Self::Expired,
    ];

    /// Whether another attempt may succeed.
    pub fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::Retry
                | Self::Panic
                | Self::Trap
                | Self::Exit
                | Self::Timeout
                | Self::MemoryLimit
                | Self::StackOverflow
                | Self::WorkerLost
        )
    }

    /// The word, as it is stored and printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Panic => "panic",
            Self::Trap => "trap",
            Self::Exit => "exit",
            Self::Timeout => "timeout",
            Self::MemoryLimit => "memory-limit",
            Self::StackOverflow => "stack-overflow",
            Self::WorkerLost => "worker-lost",
            Self::Permanent => "permanent",
            Self::InvalidArguments => "invalid-arguments",
            Self::NoSuchBody => "no-such-body",
            Self::BadResult => "bad-result",
            Self::ResultTooLarge => "result-too-large",
            Self::UnknownTask => "unknown-task",
            Self::Unreadable => "unreadable",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why an attempt, or a task, has no result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskError {
    pub kind: ErrorKind,
    /// One line, for people.
    pub message: String,
    /// A code for programs, such as `http-503`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// A longer text: the guest's own detail, or the last 8 KiB of its stderr.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl TaskError {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), code: None, detail: None }
    }
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.message)
    }
}

/// The end of one attempt, as the engine saw it.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The body returned. The result is compact JSON; the children are enqueued only with the success.
    Done { result: String, children: Vec<NewTask> },
    /// The body failed. `after` is the delay that it asked for before the next attempt.
    Failed { error: TaskError, after: Option<Duration> },
    /// The host could not equip the attempt (memory of the process, a pool slot). This is not the task's fault: it is handed back uncounted
    /// after `delay`.
    HostFault { reason: String, delay: Duration },
}

/// Something that is done in the same step that records an end, and only if that end is recorded.
#[derive(Debug, Clone, PartialEq)]
pub enum Follow {
    /// Enqueues a task, in any queue.
    Enqueue(NewTask),
}

/// What the broker is asked to record.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    Succeed {
        result: String,
    },
    /// Counted; ready again after `delay`.
    Retry {
        error: TaskError,
        delay: Duration,
    },
    /// Counted; to the dead set.
    Dead {
        error: TaskError,
    },
    Cancel {
        error: TaskError,
    },
    /// Uncounted; ready again after `delay` (drain, host's fault).
    HandBack {
        delay: Duration,
    },
    /// Uncounted; waits under its name until a worker can start it (no plugin offers it, or its plugin is at `concurrency`).
    Park,
}

/// Which code ran an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CodeId {
    /// The plugin's name: its file's stem.
    pub plugin: String,
    /// The version that the plugin names.
    pub version: String,
    /// SHA-256 of the `.wasm`, 64 lower-case hex digits.
    pub digest: String,
}
