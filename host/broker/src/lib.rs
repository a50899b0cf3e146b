//! Where tasks, results, schedules and the catalogue live: the trait and its types. Drivers: `redis`, `sqlite`.
//!
//! enqueue → claim → (extend …) → finish. A worker registers one incarnation a queue; what the incarnation claims is in its held set
//! until it is finished, and an expired incarnation's held set is adopted whole by the next claim or extend that finds it.
//!
//! Invariant: every method is one atomic step: after a crash or an error it happened or it did not, and repeating it is
//! safe. The laws that every driver keeps stand in `tests/laws.rs`.

mod address;
mod connect;
mod error;
mod kv;
mod listing;
pub mod redis;
mod schedule;
pub mod sqlite;
pub mod traced;
mod unreadable;

pub use address::BrokerAddress;
pub use connect::connect;
pub use error::BrokerError;
pub use kv::{KvError, KvRoom};
pub use listing::{TaskFilter, TaskPage};
pub use schedule::{CatchUp, FileSchedule, Fired, Overlap, Schedule, Source};

use crate as broker;
use taskhost_core::{catalogue, task};

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use taskhost_core::{
    catalogue::{Catalogue, PluginInfo},
    retry,
    task::{CodeId, Millis, NewTask, Progress, QueueName, State, Task, TaskId, TaskName, TaskView, Verdict},
};

pub type Result<T, E = BrokerError> = std::result::Result<T, E>;

/// Bounds and defaults that every driver enforces.
#[derive(Debug, Clone)]
pub struct BrokerSettings {
    /// Key prefix in Redis (`th`); unused by SQLite.
    pub prefix: String,
    /// How long a result is kept after the end, unless the task says otherwise.
    pub result_ttl: Duration,
    /// A task's `args` and headers together, and a result: bytes each.
    pub payload_limit: usize,
    /// The dead set keeps at most so many, the newest.
    pub dead_count: u64,
    /// … and none older than this.
    pub dead_age: Duration,
    /// A task parked under a name that nobody has offered for this time is dead.
    pub unknown_task_ttl: Duration,
    /// Who must have what is acknowledged; SQLite has no replicas.
    pub durability: Durability,
}

/// Who must have the effect of `enqueue`, `finish` and `relay` before it is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// The server that was asked; its replicas get it a moment later, or never if it dies first.
    #[default]
    Master,
    /// One replica too (Redis's WAIT): nothing acknowledged is lost when that one is promoted. Without a replica that answers, the step is
    /// not acknowledged (`Unavailable`) although it may have happened.
    Replica,
}

impl Default for BrokerSettings {
    fn default() -> Self {
        Self {
            prefix: "th".into(),
            result_ttl: Duration::from_secs(3600),
            payload_limit: 1 << 20,
            dead_count: 10_000,
            dead_age: Duration::from_secs(30 * 24 * 3600),
            unknown_task_ttl: Duration::from_secs(24 * 3600),
            durability: Durability::Master,
        }
    }
}

/// The last part of a lease, in whole milliseconds. A deadline stands that much before the lease's end, and whoever first looks at one
/// that has passed grants as much from then on: a lost worker's tasks are taken over when its lease is over and never sooner, and
/// when the broker was away, and everybody is late, each still has so long to come back.
pub fn grace(lease: Duration) -> Duration {
    Duration::from_millis(u64::try_from(lease.as_millis().div_ceil(6)).unwrap_or(u64::MAX))
}

/// Refuses a task that is over the payload limit, before anything is written.
fn check_payload(task: &NewTask, limit: usize) -> Result<()> {
    retry::oversize(task, limit).map_or(Ok(()), |why| Err(BrokerError::Invalid(why)))
}

/// How long what the broker itself starts (a child, a firing) is known after its end, whatever is kept of it and whoever deleted it.
pub const STUB: Duration = Duration::from_secs(600);
/// How long an awaited end is told after it, and an `enqueue` whose answer was lost may be repeated, whatever is kept of the task.
pub const TOLD: Duration = Duration::from_secs(60);

/// What became of one enqueued task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Enqueued {
    Added,
    /// Nothing was enqueued: the id is known already (`holder` is the id itself), or `holder` holds the unique key.
    Duplicate {
        holder: TaskId,
    },
}

/// The right of one worker process to what it holds of one queue. A fresh id each time it registers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Incarnation {
    pub queue: QueueName,
    /// Unique for ever; `[A-Za-z0-9:._-]`.
    pub id: Arc<str>,
}

/// One attempt in a held set: which task, and when it was claimed. Written `<id>@<claim time µs>`.
///
/// The claim time is unique for a task: claiming it again never gives the same member.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Member {
    pub id: TaskId,
    /// The broker's clock, microseconds since 1970-01-01T00:00:00Z.
    pub claimed_us: u64,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.id, self.claimed_us)
    }
}

impl Member {
    /// Reads `<id>@<µs>`.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, claimed) = text.rsplit_once('@')?;
        Some(Self { id: TaskId::new(id).ok()?, claimed_us: claimed.parse().ok()? })
    }
}

/// A task that an incarnation holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Leased {
    pub member: Member,
    pub task: Task,
}

/// What `claim` found.
#[derive(Debug, Clone, Default)]
pub struct Claimed {
    /// To be run; best first.
    pub tasks: Vec<Leased>,
    /// Taken over from an expired incarnation, now in this one's held set: their attempts are lost, judge them as
    /// `worker-lost`. Also what fills a set after this one's own claim of unknown fate does not stand here: see `held`.
    pub adopted: Vec<Leased>,
    /// Names under which tasks are parked in this queue, at most 1,000: name those that can be started in the next claim.
    pub parked: Vec<TaskName>,
    /// Whether more tasks could have been claimed at once.
    pub more: bool,
    /// When the next delayed task or expired incarnation wants a look: time from now.
    pub next_due: Option<Duration>,
    pub paused: bool,
}

/// The answer to claim and heartbeat: an incarnation only lives if it was registered and not adopted since.
#[derive(Debug, Clone)]
pub enum Lease<T> {
    Held(T),
    /// The lease was lost: drop every attempt of this incarnation, register a new one.
    Lost,
}

/// What the heartbeat brings back.
#[derive(Debug, Clone, Default)]
pub struct Extended {
    /// Size of the held set, adopted ones included.
    pub held: usize,
    /// Tasks of this queue that somebody cancelled and that have not ended yet: the net below the control channel.
    pub cancelled: Vec<TaskId>,
    /// As in [`Claimed`].
    pub adopted: Vec<Leased>,
    /// Whether the outbox of this queue has entries: call `relay`.
    pub outbox: bool,
}

/// One attempt to be recorded.
#[derive(Debug, Clone)]
pub struct Finish {
    pub member: Member,
    pub verdict: Verdict,
    /// The code that ran, if any did.
    pub code: Option<Arc<CodeId>>,
    /// `host:pid:…` as `workers` lists it.
    pub worker: Arc<str>,
    /// Milliseconds the attempt ran; `started_at` of the view is the claim.
    pub ran_ms: u64,
    /// What the body logged, at most 64 KiB, newline-delimited JSON: kept with the task, newest attempt last.
    pub log: String,
}

/// What became of one [`Finish`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finished {
    Recorded,
    /// The task was cancelled meanwhile and what was asked was not an end: it ended `cancelled`.
    CancelledInstead,
    /// The member is not in the held set (a late or repeated finish, a lost lease): nothing changed.
    Stale,
}

/// A finish and its result, in the order given.
pub type FinishReply = Vec<Finished>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelReply {
    /// It waited and never runs.
    Cancelled,
    /// It runs: its worker has been told.
    Asked,
    AlreadyEnded(State),
    NotFound,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RetryReply {
    /// Ready: a dead or cancelled one with a fresh count of tries, a delayed one sooner than it was due.
    Ready,
    /// Only dead, cancelled and scheduled tasks are retried.
    NotEnded(State),
    /// Another task holds its unique key.
    Duplicate {
        holder: TaskId,
    },
    NotFound,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeleteReply {
    Deleted,
    /// Cancel it first.
    Running,
    NotFound,
}

/// A queue at a glance.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QueueView {
    pub queue: QueueName,
    /// Exact; what has ended counts while it is kept.
    pub counts: BTreeMap<State, u64>,
    /// Age of the oldest ready task.
    pub oldest_ready_ms: Option<u64>,
    pub paused: bool,
}

/// What a worker says of itself; gone from lists when it has not said so for its `ttl`.
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
    /// The schedules of its `taskhost.toml`; `None` from a taskhost that did not say so yet.
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

/// How well the broker is set up: shown at the start of a worker.
#[derive(Debug, Clone, Default)]
pub struct Health {
    /// Such as `Redis 7.0.15, standalone` or `SQLite 3.51, taskhost.db`.
    pub about: String,
    /// Sentences: what is wrong, and the setting that mends it.
    pub warnings: Vec<String>,
}

/// Broker, schedules and kv in one: what the host asks of Redis or SQLite.
#[async_trait]
pub trait Broker: Send + Sync + fmt::Debug + 'static {
    /// Says what it is and what is wrong with its settings. Refuses an incompatible schema (`Misconfigured`).
    async fn check(&self) -> Result<Health>;

    // -- producers ---------------------------------------------------------------------------------------------------

    /// Enqueues each of `tasks` or says `Duplicate`, in the order given. Tasks of one queue come to be together.
    /// A task over the payload limit makes the whole call `Invalid` before anything is written.
    async fn enqueue(&self, tasks: &[NewTask]) -> Result<Vec<Enqueued>>;

    /// Waits until the task has ended, by push; the view then, or the newest view after `limit`; `None`: no such task.
    /// Looks in all queues unless `queue` says where. Whoever waits gets the end, also of a task that is gone with it; a deleted one ended
    /// cancelled.
    async fn await_end(&self, queue: Option<&QueueName>, id: &TaskId, limit: Duration) -> Result<Option<TaskView>>;

    // -- tasks and queues, shown and steered -------------------------------------------------------------------------

    /// Without a queue, an id that stands in several is `Invalid`, here, for the log and for waiting.
    async fn find(&self, queue: Option<&QueueName>, id: &TaskId) -> Result<Option<TaskView>>;
    /// What the task's bodies logged, newline-delimited JSON, at most 64 KiB, the newest; `None`: no such task.
    async fn log(&self, queue: Option<&QueueName>, id: &TaskId) -> Result<Option<String>>;
    /// Each task once, also while others begin and end; one that moves on meanwhile may be met again, or missed.
    async fn list(&self, filter: &TaskFilter, from: Option<&str>, limit: usize) -> Result<TaskPage>;
    async fn cancel(&self, queue: &QueueName, id: &TaskId) -> Result<CancelReply>;
    async fn retry(&self, queue: &QueueName, id: &TaskId) -> Result<RetryReply>;
    async fn delete(&self, queue: &QueueName, id: &TaskId) -> Result<DeleteReply>;
    /// Every queue that ever had a task and has not been purged empty.
    async fn queues(&self) -> Result<Vec<QueueView>>;
    async fn pause(&self, queue: &QueueName) -> Result<()>;
    async fn resume(&self, queue: &QueueName) -> Result<()>;
    /// Deletes the waiting tasks (ready, scheduled, parked) of a queue, in bounded steps; how many.
    async fn purge(&self, queue: &QueueName) -> Result<u64>;

    // -- workers -----------------------------------------------------------------------------------------------------

    /// A new incarnation whose lease ends `lease` from now.
    async fn register(&self, queue: &QueueName, lease: Duration) -> Result<Incarnation>;
    /// Leases at most `limit` tasks, of `ready` and of those parked under one of `startable`, best first. Promotes what is due, adopts
    /// what expired, cancels what is past its `expires`. Also prolongs the lease. `limit` 0 promotes and adopts only.
    async fn claim(&self, who: &Incarnation, lease: Duration, limit: usize, startable: &[TaskName]) -> Result<Lease<Claimed>>;
    /// The heartbeat.
    async fn extend(&self, who: &Incarnation, lease: Duration) -> Result<Lease<Extended>>;
    /// Everything in the held set, with its task; for reconciling after a claim of unknown fate. An id whose task is gone is dropped from the set.
    async fn held(&self, who: &Incarnation) -> Result<Vec<Leased>>;
    /// Records what each verdict asks for and what follows from it in one step; in the order given. A lost lease makes all of them `Stale`.
    async fn finish(&self, who: &Incarnation, finishes: &[Finish]) -> Result<FinishReply>;
    /// Ends the incarnation; what it still holds is ready again, uncounted.
    async fn leave(&self, who: &Incarnation) -> Result<()>;
    /// Marks an incarnation as expired now, because its process is proved gone: the next claim adopts it.
    async fn expire(&self, who: &Incarnation) -> Result<()>;
    /// Returns when this queue may have something to claim, or after `limit`. May return early for nothing.
    async fn wait(&self, queue: &QueueName, limit: Duration) -> Result<()>;
    /// Sends `(queue, id)` when a running task is cancelled, until the receiver is dropped; reconnects by itself.
    async fn cancellations(&self, sender: mpsc::Sender<(QueueName, TaskId)>) -> Result<()>;
    /// Newest wins; gone with the task's end.
    async fn progress(&self, queue: &QueueName, id: &TaskId, progress: &Progress) -> Result<()>;
    /// Moves outbox entries of this queue to the queues they are for; how many. A child that is known, or was within [`STUB`], is not added.
    async fn relay(&self, queue: &QueueName) -> Result<usize>;
    /// Trims the dead set to its bounds, ends expired waiting tasks, relays; ends as dead (`unknown-task`) what was parked for
    /// `unknown_task_ttl` under a name that sweeps found missing from `offered` for as long. In bounded steps; every worker's, now and then.
    async fn sweep(&self, queue: &QueueName, offered: &[TaskName]) -> Result<()>;

    // -- workers and catalogue ---------------------------------------------------------------------------------------

    /// Stands in `workers` for `ttl`; its bodies stand in the catalogue from now on.
    async fn announce(&self, worker: &WorkerInfo, ttl: Duration) -> Result<()>;
    async fn retire(&self, worker: &str) -> Result<()>;
    async fn workers(&self) -> Result<Vec<WorkerInfo>>;
    /// Every body that was ever announced and not forgotten, newest announcement first served; it outlives the workers.
    async fn catalogue(&self) -> Result<Catalogue>;

    // -- kv: small values of one plugin ------------------------------------------------------------------------------

    async fn kv_get(&self, plugin: &str, key: &str) -> Result<Option<Vec<u8>>, KvError>;
    async fn kv_set(&self, plugin: &str, key: &str, value: &[u8], room: KvRoom) -> Result<(), KvError>;
    async fn kv_remove(&self, plugin: &str, key: &str) -> Result<bool, KvError>;
    async fn kv_increment(&self, plugin: &str, key: &str, by: i64, room: KvRoom) -> Result<i64, KvError>;
    async fn kv_keys(&self, plugin: &str, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, KvError>;

    // -- schedules ---------------------------------------------------------------------------------------------------

    /// Creates or replaces by name. With the same rule and zone, `last` and `created_at` are kept; with another, `last` is the broker's
    /// now. `last_task` is kept in the same queue. `paused` is kept, unless `says_paused` says something, or said `true` before.
    /// Of a new one, `last` is kept if it is past and not 0; else it is the broker's now.
    async fn put_schedule(&self, schedule: &Schedule) -> Result<()>;
    async fn schedules(&self) -> Result<Vec<Schedule>>;
    /// Whether there was one. Resuming sets `last` to now.
    async fn pause_schedule(&self, name: &str, paused: bool) -> Result<bool>;
    async fn remove_schedule(&self, name: &str) -> Result<bool>;
    /// Checks, moves `last` to `due` and enqueues `task` (id `cron:<schedule>:<due ms>`) in one step.
    async fn fire(&self, schedule: &Schedule, due: Millis, task: &NewTask) -> Result<Fired>;
    /// The broker's clock.
    async fn now(&self) -> Result<Millis>;
}
