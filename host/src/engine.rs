//! The sandbox: bytes → [`Code`] → one attempt → [`Attempted`]. The only room that names wasmtime.
//!
//! compile (cached) → describe → invoke: a fresh store and instance for every attempt, under limits, a deadline and a share
//! of the CPU; what a guest asks of the broker goes through [`Services`].
//!
//! Invariant: nothing of one attempt is seen by the next, and no guest crashes or stalls the host.

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::{
    catalogue::Description,
    task::{Millis, Outcome, Progress, QueueName, TaskId},
};

mod limits;

pub use limits::{FileGrant, FileMode, Grants, HttpGrant, Limits};

/// How the engine of this process is set up.
#[derive(Debug, Clone)]
pub struct EngineSettings {
    /// Attempts at once: the worker's concurrency. The pool gets a few more.
    pub slots: usize,
    /// Bytes that all guests together may have grown to.
    pub guest_memory: u64,
    /// Threads that run guests; by default the number of cores.
    pub threads: usize,
    /// Where compiled code is kept; owned by this user and closed to others, else refused. `None`: nothing is kept.
    pub cache: Option<PathBuf>,
    /// The cache is trimmed to this size, least recently used first.
    pub cache_bytes: u64,
}

/// Why the engine could not do what it was asked; what a guest does wrong is an `Outcome` instead.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// These bytes will never load: the text says why and how to build them right.
    #[error("{0}")]
    BadComponent(String),
    /// `describe` failed, trapped or said something that breaks the contract.
    #[error("{0}")]
    BadDescription(String),
    /// Ran out of wall time on a busy machine: worth another try later.
    #[error("{0}")]
    Busy(String),
    /// The machine refuses what the engine needs.
    #[error("{0}")]
    Host(String),
}

/// A compiled and linked component.
pub struct Code {}

impl std::fmt::Debug for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Code").finish_non_exhaustive()
    }
}

/// What a guest asks of the host that only the broker can answer. Called from the guests' runtime.
#[async_trait]
pub trait Services: Send + Sync {
    async fn kv_get(&self, key: &str) -> Result<Option<Vec<u8>>, ServiceError>;
    async fn kv_set(&self, key: &str, value: Vec<u8>) -> Result<(), ServiceError>;
    async fn kv_remove(&self, key: &str) -> Result<bool, ServiceError>;
    async fn kv_increment(&self, key: &str, by: i64) -> Result<i64, ServiceError>;
    async fn kv_keys(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, ServiceError>;
    /// Newest wins; never waits.
    fn progress(&self, progress: Progress);
    /// One line of the body's log, as it is written; never waits.
    fn log(&self, line: &LogLine);
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceError {
    Invalid(String),
    Unavailable(String),
}

/// One line that a body logged.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct LogLine {
    pub at: Millis,
    pub attempt: u32,
    /// `trace` … `error`; `stdout` and `stderr` for what was printed.
    pub level: String,
    pub message: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<(String, String)>,
}

/// One attempt to be made.
pub struct Call {
    pub code: Arc<Code>,
    /// The body's name.
    pub body: String,
    /// A JSON array.
    pub args: String,
    pub about: About,
    pub limits: Arc<Limits>,
    pub grants: Arc<Grants>,
    /// Overrides the limits' timeout, if set; never beyond it when the limits say it is a ceiling.
    pub timeout: Duration,
    /// Set when somebody cancelled the task, or its lease was lost: the guest sees `is-cancelled` and has `grace` to return.
    pub cancelled: CancellationToken,
    pub grace: Duration,
    pub services: Arc<dyn Services>,
}

/// What `context` tells the guest.
#[derive(Debug, Clone)]
pub struct About {
    pub task_id: TaskId,
    pub queue: QueueName,
    /// 1 for the first.
    pub attempt: u32,
    pub max_attempts: u32,
    pub enqueued_at: Millis,
    pub headers: Vec<(String, String)>,
}

/// One attempt, ended.
#[derive(Debug)]
pub struct Attempted {
    pub outcome: Outcome,
    /// Newline-delimited JSON of [`LogLine`], at most 64 KiB, the newest.
    pub log: String,
    pub ran: Duration,
    pub cpu: Duration,
    /// Bytes of linear memory at its largest.
    pub memory: u64,
}

/// The engine of this process, with its own runtime for guests.
pub struct Engine {}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

impl Engine {
    /// Starts the guests' runtime and the epoch ticker.
    pub fn start(_settings: EngineSettings) -> Result<Arc<Self>, EngineError> {
        unimplemented!()
    }

    /// Compiles, or takes from the cache, and links. `digest`: SHA-256 of `bytes` in lower-case hex.
    pub async fn compile(self: &Arc<Self>, _bytes: Arc<[u8]>, _digest: &str) -> Result<Arc<Code>, EngineError> {
        unimplemented!()
    }

    /// Calls `describe` with nothing granted (100 ms of CPU, 5 s of wall). The warnings name hints that could not be read.
    pub async fn describe(self: &Arc<Self>, _code: &Arc<Code>) -> Result<(Description, Vec<String>), EngineError> {
        unimplemented!()
    }

    /// One attempt on the guests' runtime. Dropping the future stops the guest.
    pub async fn invoke(self: &Arc<Self>, _call: Call) -> Attempted {
        unimplemented!()
    }

    /// Attempts that want CPU now: those parked in a host call do not count.
    pub fn runnable(&self) -> usize {
        unimplemented!()
    }

    /// Ends the runtime and the ticker; attempts under way are dropped.
    pub fn stop(&self) {
        unimplemented!()
    }
}
