//! The settings of one worker, and the bounds that they keep.

use std::{ops::RangeInclusive, path::PathBuf, sync::Arc, time::Duration};

use super::{hooks::Hooks, summary::WorkerError};
use crate::telemetry::metrics::WorkerMetrics;
use taskhost_broker::{FileSchedule, LEASES};
use taskhost_core::{observe::Observers, retry::RetrySettings, task::QueueName, trace::Sampling, units};

/// The weights that queues may have.
pub const WEIGHTS: RangeInclusive<u32> = 1..=1000;

/// The settings of a worker.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// `host:pid:suffix`, as `workers` lists it; see [`worker_id`].
    pub id: Arc<str>,
    /// Each queue and its weight, at least 1.
    pub queues: Vec<(QueueName, u32)>,
    /// The most attempts at once. Attempts that wait in a host call count.
    pub concurrency: usize,
    /// How many cores the guests have. It bounds how many attempts that want CPU are claimed.
    pub cores: usize,
    /// The worker loses what it holds when no heartbeat reaches the broker for this time. It sends one every third of it.
    pub lease: Duration,
    /// How long attempts may run on after the first signal.
    pub drain: Duration,
    /// How long a cancelled attempt may take to return by itself.
    pub grace: Duration,
    pub retry: RetrySettings,
    /// Where lock files prove to other workers of this machine that this one is gone. With `None` they wait for its lease to end.
    pub state: Option<PathBuf>,
    /// Tells one broker from another in that directory: its address and prefix, without a password.
    pub broker_identity: String,
    /// The schedules of this worker's file. The worker announces them; `schedule::run` fires them.
    pub schedules: Vec<FileSchedule>,
    /// Who is told what happens. The program gives the log here: without an observer, the facts of `observe::Event` are not logged.
    pub observers: Observers,
    /// The observer that counts attempts for the history. `None`: the worker records no history.
    pub metrics: Option<Arc<WorkerMetrics>>,
    /// `None`: no attempt gets a span, and a task's trace is handed on as it is.
    pub sampling: Option<Sampling>,
    /// Who is told of the ends of tasks. With a hook that has an address, the worker also claims from [`HOOK_QUEUE`](super::HOOK_QUEUE).
    pub hooks: Hooks,
}

impl WorkerSettings {
    /// The default queue with every default.
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            id: id.into(),
            queues: vec![(QueueName::default(), 1)],
            concurrency: 128 * cores,
            cores,
            lease: Duration::from_secs(30),
            drain: Duration::from_secs(25),
            grace: Duration::from_secs(5),
            retry: RetrySettings::default(),
            state: None,
            broker_identity: String::new(),
            schedules: Vec::new(),
            observers: Observers::none(),
            metrics: None,
            sampling: None,
            hooks: Hooks::default(),
        }
    }

    pub(super) fn validate(&self) -> Result<(), WorkerError> {
        let refuse = |text: String| Err(WorkerError::Settings(text));
        if self.queues.is_empty() {
            return refuse("a worker needs at least one queue: name one with `--queue`".into());
        }
        for (index, (queue, weight)) in self.queues.iter().enumerate() {
            if !WEIGHTS.contains(weight) {
                let (least, most) = (WEIGHTS.start(), WEIGHTS.end());
                return refuse(format!("the weight of a queue is a number from {least} to {most}: `{queue}={weight}`"));
            }
            if self.queues[..index].iter().any(|(other, _)| other == queue) {
                return refuse(format!("a queue is named once, with one weight: `{queue}`"));
            }
        }
        if self.concurrency == 0 {
            return refuse("concurrency is at least 1: `0`".into());
        }
        if !LEASES.contains(&self.lease) {
            let (least, most) = (units::show_duration(*LEASES.start()), units::show_duration(*LEASES.end()));
            return refuse(format!("the lease is from {least} to {most}, and 30s does for most: `{:?}`", self.lease));
        }
        Ok(())
    }
}

/// A fresh `host:pid:suffix`. The random suffix tells apart two workers of one process id.
pub fn worker_id() -> String {
    format!("{}:{}:{:06x}", host_name(), std::process::id(), fastrand::u32(..) >> 8)
}

/// This machine's name, at most 64 characters of `A-Z a-z 0-9 . _ -`.
pub(super) fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let name: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || "._-".contains(*c)).take(64).collect();
    if name.is_empty() { "localhost".into() } else { name }
}
