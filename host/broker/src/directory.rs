//! The role of the directory: which workers live, which bodies they offer, and how well the broker is set up.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{error::Result, schedule::FileSchedule};
use taskhost_core::{
    catalogue::{Catalogue, PluginInfo},
    task::{Millis, QueueName, TaskId, TaskName},
};

/// Lists workers and the catalogue.
#[async_trait]
pub trait Directory: Send + Sync {
    /// Says which broker it is and what is wrong with its settings. Refuses an incompatible schema (`Misconfigured`).
    async fn check(&self) -> Result<Health>;
    /// Lists the worker in `workers` for `ttl`, and adds its bodies to the catalogue. Answers whether it was asked to drain.
    async fn announce(&self, worker: &WorkerInfo, ttl: Duration) -> Result<bool>;
    /// Asks a worker to drain and end; it hears of it with its next announcement. False: there is no such worker.
    async fn ask_to_drain(&self, worker: &str) -> Result<bool>;
    async fn retire(&self, worker: &str) -> Result<()>;
    async fn workers(&self) -> Result<Vec<WorkerInfo>>;
    /// Every body that was ever announced and not forgotten, as the newest announcement describes it. It outlives the workers.
    async fn catalogue(&self) -> Result<Catalogue>;
}

/// How long the request to drain stands.
pub(super) const DRAIN: Duration = Duration::from_secs(3600);

/// A worker's description of itself. It leaves the lists if the worker does not repeat it within its `ttl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerInfo {
    /// `host:pid:suffix`.
    pub id: String,
    pub host: String,
    pub pid: u32,
    pub started_at: Millis,
    pub queues: Vec<QueueName>,
    pub concurrency: usize,
    pub running: Vec<RunningInfo>,
    pub draining: bool,
    /// Every plugin file it sees, serving or not.
    pub plugins: Vec<PluginInfo>,
    /// The schedules of its `taskhost.toml`. `None` from an older taskhost, which did not announce them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedules: Option<Vec<FileSchedule>>,
}

/// One attempt under way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunningInfo {
    pub id: TaskId,
    pub task: TaskName,
    pub queue: QueueName,
    pub since: Millis,
}

/// How well the broker is set up; a worker shows it when it starts.
#[derive(Debug, Clone, Default)]
pub struct Health {
    /// Such as `Redis 7.0.15, standalone` or `SQLite 3.51, taskhost.db`.
    pub about: String,
    /// One sentence for each problem, with the setting that fixes it.
    pub warnings: Vec<String>,
}
