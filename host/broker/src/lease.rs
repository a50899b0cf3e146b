//! The role of a worker: register an incarnation, claim tasks, extend the lease, finish attempts, leave.
//!
//! Invariant: a claimed task has one holder. After the lease is lost, the holder can finish nothing.

use std::{fmt, ops::RangeInclusive, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::error::Result;
use taskhost_core::task::{CodeId, Follow, Millis, Progress, QueueName, Task, TaskId, TaskName, Verdict};

/// Claims tasks, holds them under a lease and finishes them.
#[async_trait]
pub trait Lease: Send + Sync {
    /// Starts a new incarnation. Its lease ends `lease` from now.
    async fn register(&self, queue: &QueueName, lease: Duration) -> Result<Incarnation>;
    /// Leases at most `limit` tasks, best first: ready tasks, and tasks parked under one of `startable`. Also extends the lease, promotes
    /// due tasks, adopts what expired incarnations held, and cancels waiting tasks past their `expires`. With `limit` 0 it leases nothing.
    async fn claim(&self, who: &Incarnation, lease: Duration, limit: usize, startable: &[TaskName]) -> Result<LeaseReply<Claimed>>;
    /// The heartbeat: extends the lease.
    async fn extend(&self, who: &Incarnation, lease: Duration) -> Result<LeaseReply<Extended>>;
    /// Everything that the incarnation holds, with its task. A worker calls it after a claim whose reply was lost. An id without a task is
    /// dropped.
    async fn held(&self, who: &Incarnation) -> Result<Vec<Leased>>;
    /// Records each verdict and everything that follows from it in one step, and answers in the order given. If the lease was lost, all
    /// answers are `Stale`.
    async fn finish(&self, who: &Incarnation, finishes: &[Finish]) -> Result<FinishReply>;
    /// Ends the incarnation. Tasks that it still holds are ready again; the attempt does not count.
    async fn leave(&self, who: &Incarnation) -> Result<()>;
    /// Marks an incarnation as expired now, because its process is proved gone. The next claim adopts it.
    async fn expire(&self, who: &Incarnation) -> Result<()>;
    /// Returns when this queue may have something to claim, or after `limit`. It may return early for no reason.
    async fn wait(&self, queue: &QueueName, limit: Duration) -> Result<()>;
    /// Sends `(queue, id)` when a running task is cancelled, until the receiver is dropped. Reconnects by itself.
    async fn cancellations(&self, sender: mpsc::Sender<(QueueName, TaskId)>) -> Result<()>;
    /// Stores the progress of a running task; the newest value replaces the older one. It is removed at the task's end.
    async fn progress(&self, queue: &QueueName, id: &TaskId, progress: &Progress) -> Result<()>;
    /// Shows the log of an attempt that still runs: all of its lines so far, at most 64 KiB of newline-delimited JSON. They replace those of an
    /// earlier call for the same attempt, and the log of its [`Finish`] replaces them. If the attempt is lost, they stay. Nothing changes if the
    /// incarnation does not hold the member any more.
    async fn log_so_far(&self, who: &Incarnation, member: &Member, log: &str) -> Result<()>;
    /// Moves the outbox entries of this queue to their target queues, and answers how many. A child is not added if it is known, or was
    /// within [`STUB`](super::STUB).
    async fn relay(&self, queue: &QueueName) -> Result<usize>;
    /// Trims the dead set to its bounds, ends expired waiting tasks, and relays. A task that was parked for `unknown_task_ttl` ends as
    /// dead (`unknown-task`) if sweeps found its name missing from `offered` for as long. Every worker calls it now and then; it works in
    /// bounded steps.
    async fn sweep(&self, queue: &QueueName, offered: &[TaskName]) -> Result<()>;
}

/// The right of one worker process to the tasks that it holds of one queue. Each registration gets a fresh id.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Incarnation {
    pub queue: QueueName,
    /// Never given twice; `[A-Za-z0-9:._-]`.
    pub id: Arc<str>,
}

/// The answer to `claim` and `extend`. An incarnation lives if it was registered and not adopted since.
#[derive(Debug, Clone)]
pub enum LeaseReply<T> {
    Held(T),
    /// The lease was lost: drop every attempt of this incarnation and register a new one.
    Lost,
}

/// The answer of `claim`.
#[derive(Debug, Clone, Default)]
pub struct Claimed {
    /// Tasks to run, best first.
    pub tasks: Vec<Leased>,
    /// Tasks taken over from an expired incarnation, now held by this one. Their attempts are lost: judge them as
    /// `worker-lost`. Tasks taken by an earlier claim whose reply was lost are not included; `held` lists them.
    pub adopted: Vec<Leased>,
    /// Names under which tasks of this queue are parked, at most 1,000. Pass the startable ones to the next claim.
    pub parked: Vec<TaskName>,
    /// Whether more tasks could have been claimed at once.
    pub more: bool,
    /// Time from now until the next delayed task is due or the next incarnation may have expired.
    pub next_due: Option<Duration>,
    /// When the queue was paused; 1 if the time is not known.
    pub paused: Option<Millis>,
    /// Whether a flow of this queue waits for its next step: call `step_flows`.
    pub flows: bool,
}

/// The answer of `extend`.
#[derive(Debug, Clone, Default)]
pub struct Extended {
    /// How many tasks the incarnation holds, adopted ones included.
    pub held: usize,
    /// Tasks of this queue that were cancelled and have not ended yet, in case the control channel missed one.
    pub cancelled: Vec<TaskId>,
    /// As in [`Claimed`].
    pub adopted: Vec<Leased>,
    /// Whether the outbox of this queue has entries: call `relay`.
    pub outbox: bool,
    /// As in [`Claimed`].
    pub flows: bool,
}

/// A task that an incarnation holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Leased {
    pub member: Member,
    pub task: Task,
}

/// One attempt that an incarnation holds: the task, and when it was claimed. Shown as `<id>@<claim time µs>`.
///
/// The claim time is unique for a task: claiming it again never gives the same member.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Member {
    pub id: TaskId,
    /// The broker's clock, microseconds since 1970-01-01T00:00:00Z.
    pub claimed_us: u64,
    /// The place of the task in its claim, if the broker counts them.
    pub place: u32,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.id, self.claimed_us)
    }
}

/// One attempt to be recorded.
#[derive(Debug, Clone)]
pub struct Finish {
    pub member: Member,
    pub verdict: Verdict,
    /// What is done in the same step, if this verdict is recorded. See [`transition`](taskhost_core::retry::transition).
    pub follows: Vec<Follow>,
    /// The code that ran, if any did.
    pub code: Option<Arc<CodeId>>,
    /// `host:pid:…` as `workers` lists it.
    pub worker: Arc<str>,
    /// How many milliseconds the attempt ran. `started_at` of the view is the time of the claim.
    pub ran_ms: u64,
    /// The attempt's log, at most 64 KiB of newline-delimited JSON. It is kept with the task, newest attempt last.
    pub log: String,
}

impl Finish {
    /// The end of an attempt that ran no code: nothing is logged, and nothing follows.
    pub fn new(member: Member, verdict: Verdict, worker: impl Into<Arc<str>>) -> Self {
        Self { member, verdict, follows: Vec::new(), code: None, worker: worker.into(), ran_ms: 0, log: String::new() }
    }
}

/// The answer for one [`Finish`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finished {
    Recorded,
    /// The task was cancelled meanwhile and the verdict was not an end: it ended `cancelled`.
    CancelledInstead,
    /// The member is not held (a late or repeated finish, a lost lease): nothing changed.
    Stale,
}

/// One answer for each finish, in the order given.
pub type FinishReply = Vec<Finished>;

/// How long leases may be. A shorter one would not outlast a slow heartbeat; a longer one would hold the tasks of a lost worker for years.
pub const LEASES: RangeInclusive<Duration> = Duration::from_millis(300)..=Duration::from_secs(365 * 24 * 3600);

/// The last sixth of a lease, in whole milliseconds.
///
/// An incarnation's deadline is this much before the end of its lease. The first caller that finds a passed deadline only grants this
/// much more. So a lost worker's tasks are never taken over before its lease ends. And after an outage of the broker, when every
/// heartbeat is late, each worker still has this time to come back.
pub fn grace(lease: Duration) -> Duration {
    Duration::from_millis(u64::try_from(lease.as_millis().div_ceil(6)).unwrap_or(u64::MAX))
}
