//! A task as it is shown, for example by `task show --json`.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{CodeId, Millis, QueueName, TaskError, TaskId, TaskName, TaskOptions};

/// The state of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Delayed, or waiting for its next attempt (`tries` > 0).
    Scheduled,
    Ready,
    /// No worker can start it now.
    Parked,
    Running,
    Succeeded,
    Dead,
    Cancelled,
}

impl State {
    pub const ALL: [Self; 7] = [Self::Scheduled, Self::Ready, Self::Parked, Self::Running, Self::Succeeded, Self::Dead, Self::Cancelled];

    /// Whether it has ended.
    pub fn is_ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Dead | Self::Cancelled)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Ready => "ready",
            Self::Parked => "parked",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
        }
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for State {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| format!("a state is one of {}: `{text}`", Self::ALL.map(State::as_str).join(", ")))
    }
}

/// What a parked task waits for, according to the live workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WaitsFor {
    /// No worker of its queue has a plugin that offers its name.
    Plugin,
    /// Its plugin has as many attempts as its `concurrency` allows.
    Slot,
}

/// One line that a body logged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogLine {
    pub at: Millis,
    pub attempt: u32,
    /// `trace` … `error`; `stdout` and `stderr` for printed lines.
    pub level: String,
    pub message: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<(String, String)>,
}

/// One of the last five errors of a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorEntry {
    pub at: Millis,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// `host:pid:…`, as `workers` lists it; empty when no worker was involved.
    pub worker: String,
    #[serde(flatten)]
    pub code: CodeId,
    pub error: TaskError,
}

/// The last progress report of a running body.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    pub done: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub total: Option<u64>,
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub note: String,
}

/// Everything that is known of a task.
#[derive(Debug, Clone, Serialize)]
pub struct TaskView {
    pub id: TaskId,
    pub task: TaskName,
    pub queue: QueueName,
    pub state: State,
    /// Set while it is parked. Brokers leave it out; the caller asks the workers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<WaitsFor>,
    pub args: Box<RawValue>,
    #[serde(flatten)]
    pub options: TaskOptions,
    pub tries: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<TaskError>,
    /// The last five, oldest first.
    pub errors: Vec<ErrorEntry>,
    pub enqueued_at: Millis,
    /// When it becomes ready, while `scheduled`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due_at: Option<Millis>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Millis>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Millis>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Millis>,
    /// The worker that runs it, or ran it last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plugin: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// A cancel was asked for while it ran, and it has not ended yet.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cancel_asked: bool,
}
