//! Worker processes of the built program, the faults that hit them, and the account of their tasks afterwards.
//!
//! Invariant: a fleet signals only processes that it started, each by its own handle. No process outlives its fleet.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use rustix::process::{Pid, Signal, kill_process};
use taskhost_broker::Broker;
use taskhost_core::task::{ErrorKind, NewTask, QueueName, State, TaskId, TaskView};
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::support::{
    named,
    program::{built, share_the_key},
};

/// Waits until fewer than two other scenarios with worker processes run. With more, they would delay each other's heartbeats on two cores.
pub(crate) async fn turn() -> SemaphorePermit<'static> {
    TURNS.acquire().await.expect("never closed")
}

/// Waits until no other scenario runs: this one loads the whole machine, or asserts how long something takes.
pub(crate) async fn alone() -> SemaphorePermit<'static> {
    TURNS.acquire_many(2).await.expect("never closed")
}

static TURNS: Semaphore = Semaphore::const_new(2);

/// The limit of each wait for the end of a scenario.
pub(crate) const END: Duration = Duration::from_secs(120);

/// A directory with the plugins, and the workers that run on it.
pub(crate) struct Fleet {
    dir: TempDir,
    pub(crate) lease: Duration,
    /// Whether the workers see each other's lock files, as those of one machine do.
    pub(crate) shares_state: bool,
    /// Further environment variables of processes that start from now on, such as a fault from below.
    pub(crate) environment: Vec<(&'static str, String)>,
    started: usize,
}

impl Fleet {
    pub(crate) fn new(lease: Duration) -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        fs::create_dir(dir.path().join("plugins")).expect("a plugin directory");
        for name in ["ledger", "math", "probe"] {
            fs::write(dir.path().join("plugins").join(name).with_extension("wasm"), built(name)).expect("a plugin");
        }
        let policies = "[plugins.ledger]\nkv = { bytes = '4GiB', keys = 99999999 }\nenqueue = { tasks = ['*'], queues = ['default', 'other', 'mail', 'image', 'report'] }\n[plugins.probe]\nkv = true\nenqueue = ['*']\n";
        fs::write(dir.path().join("taskhost.toml"), policies).expect("policies");
        Self { dir, lease, shares_state: false, environment: Vec::new(), started: 0 }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A worker that is not waited for. `settings` are names and values as in taskhost.toml.
    pub(crate) fn start(&mut self, broker: &str, settings: &[(&str, &str)]) -> Process {
        self.started += 1;
        let state = if self.shares_state { "state".to_owned() } else { format!("state-{}", self.started) };
        share_the_key(&self.path().join(&state));
        let log = self.path().join(format!("worker-{}.log", self.started));
        let file = fs::File::create(&log).expect("a log file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_taskhost"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TASKHOST_")) {
            command.env_remove(name);
        }
        command
            .current_dir(self.path())
            .arg("worker")
            .env("TASKHOST_BROKER", broker)
            .env("TASKHOST_PLUGINS", self.path().join("plugins"))
            .env("TASKHOST_STATE", self.path().join(state))
            .env("TASKHOST_CACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"))
            .env("TASKHOST_LEASE", format!("{}ms", self.lease.as_millis()))
            .env("TASKHOST_CONCURRENCY", "16")
            .env("TASKHOST_THREADS", "1")
            .env("TASKHOST_BACKOFF", "100ms")
            .env("TASKHOST_LOG", "info");
        for (key, value) in settings {
            command.env(format!("TASKHOST_{}", key.to_ascii_uppercase()), value);
        }
        command.envs(self.environment.iter().map(|(name, value)| (*name, value)));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).spawn().expect("a worker starts");
        Process { child, log }
    }

    /// Calls the program in the fleet's directory, with the same broker and environment, to its end.
    pub(crate) fn call(&self, broker: &str, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_taskhost"));
        command.current_dir(self.path()).args(words).stdin(Stdio::null());
        command.env("TASKHOST_BROKER", broker).env("TASKHOST_STATE", self.path().join("state"));
        command.envs(self.environment.iter().map(|(name, value)| (*name, value)));
        command.output().expect("the program starts")
    }

    /// A worker that claims.
    pub(crate) async fn worker(&mut self, broker: &str, settings: &[(&str, &str)]) -> Process {
        let process = self.start(broker, settings);
        process.says("worker started").await;
        process
    }
}

/// A worker process; killed on drop.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("our own child");
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("our own child");
        self.child.wait().expect("our own child");
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) async fn says(&self, text: &str) {
        until(&format!("a worker says `{text}`"), async || self.log().contains(text)).await;
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("our own child").is_some()
    }

    /// Waits for its end; the exit code.
    pub(crate) async fn ended(&mut self, limit: Duration) -> Option<i32> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("our own child") {
                return status.code();
            }
            assert!(begun.elapsed() < limit, "the worker does not end:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _reaped = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let from = log.char_indices().rev().nth(6000).map_or(0, |(at, _)| at);
            eprintln!("-- {} said at last:\n{}", self.log.display(), &log[from..]);
        }
    }
}

/// Waits until `so` answers yes, within the limit of a scenario.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut so: impl FnMut() -> F) {
    let begun = Instant::now();
    while !so().await {
        assert!(begun.elapsed() < END, "waited {END:?} in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Enqueues `count` tasks `note` of this many milliseconds, and returns their ids.
pub(crate) async fn notes(broker: &dyn Broker, count: usize, ms: u64) -> Vec<TaskId> {
    enqueue_all(broker, (0..count).map(|_| named("note", &format!("[{ms}]"))).collect()).await
}

/// Bodies without calls of the broker, so that only the host adds to their cost.
pub(crate) async fn sleeps(broker: &dyn Broker, count: usize, seconds: f64) -> Vec<TaskId> {
    enqueue_all(broker, (0..count).map(|_| named("sleep", &format!("[{seconds}]"))).collect()).await
}

pub(crate) async fn enqueue_all(broker: &dyn Broker, tasks: Vec<NewTask>) -> Vec<TaskId> {
    broker.enqueue(&tasks).await.expect("enqueue");
    tasks.into_iter().map(|task| task.id).collect()
}

/// The number of tasks in all queues that have not ended.
pub(crate) async fn open(broker: &dyn Broker) -> u64 {
    try_open(broker).await.expect("queues")
}

/// The same; `None` while the broker does not answer.
pub(crate) async fn try_open(broker: &dyn Broker) -> Option<u64> {
    let ended = |state: State| matches!(state, State::Succeeded | State::Dead | State::Cancelled);
    let queues = broker.queues().await.ok()?;
    Some(queues.iter().flat_map(|queue| &queue.counts).filter(|(state, _)| !ended(**state)).map(|(_, count)| count).sum())
}

/// The number of tasks in all queues that have succeeded.
pub(crate) async fn succeeded(broker: &dyn Broker) -> u64 {
    broker.queues().await.expect("queues").iter().filter_map(|queue| queue.counts.get(&State::Succeeded)).sum()
}

/// The fate of the acknowledged tasks.
#[derive(Debug, Default)]
pub(crate) struct Account {
    pub(crate) tasks: usize,
    pub(crate) ends: BTreeMap<State, usize>,
    pub(crate) lost: Vec<TaskId>,
    pub(crate) stuck: Vec<TaskView>,
    /// Ended without what its state promises, or with more tries than it had.
    pub(crate) wrong: Vec<TaskView>,
    /// Attempts that began beyond the first of each task.
    pub(crate) rerun: u64,
    /// Attempts beyond the first of each task that the host counted, and lost attempts of dead tasks.
    pub(crate) counted: u64,
    pub(crate) most_tries: u32,
    /// Attempts among the recorded errors that were lost with their worker.
    pub(crate) worker_lost: usize,
}

/// Waits until nothing is open, then draws up the account of these tasks and prints it.
pub(crate) async fn account(what: &str, broker: &Arc<dyn Broker>, ids: &[TaskId]) -> Account {
    account_within(what, broker, ids, END).await
}

pub(crate) async fn account_within(what: &str, broker: &Arc<dyn Broker>, ids: &[TaskId], limit: Duration) -> Account {
    let begun = Instant::now();
    while open(&**broker).await > 0 && begun.elapsed() < limit {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let took = begun.elapsed();
    let looked = stream::iter(ids).map(|id| {
        let broker = Arc::clone(broker);
        async move {
            let view = broker.find(Some(&QueueName::default()), id).await.expect("find");
            let ledger = broker.kv_get("ledger", &format!("began/{id}")).await.expect("kv");
            let attempts = ledger.and_then(|bytes| std::str::from_utf8(&bytes).ok()?.parse::<u64>().ok()).unwrap_or(0);
            (id, view, attempts)
        }
    });
    let mut account = Account { tasks: ids.len(), ..Account::default() };
    let mut looked = looked.buffer_unordered(64);
    while let Some((id, view, began)) = looked.next().await {
        let Some(view) = view else {
            account.lost.push(id.clone());
            continue;
        };
        account.rerun += began.saturating_sub(1);
        account.most_tries = account.most_tries.max(view.tries);
        *account.ends.entry(view.state).or_default() += 1;
        account.worker_lost += view.errors.iter().filter(|entry| entry.error.kind == ErrorKind::WorkerLost).count();
        let told = match view.state {
            State::Succeeded => {
                account.counted += u64::from(view.tries.saturating_sub(1));
                // The result of `note` is the number of the attempt that made it: one that began.
                let nth = view.result.as_ref().and_then(|result| result.get().parse::<u64>().ok());
                if view.task.as_str().starts_with("note") {
                    nth.is_some_and(|nth| (1..=began).contains(&nth))
                } else {
                    view.result.is_some()
                }
            }
            State::Dead | State::Cancelled => {
                account.counted += u64::from(view.tries);
                view.error.is_some()
            }
            _ => {
                account.stuck.push(view);
                continue;
            }
        };
        if !told || view.tries > 4 {
            account.wrong.push(view);
        }
    }
    eprintln!(
        "{what}: {} tasks, {:?}; lost {}, stuck {}, wrongly recorded {}; begun again {}, counted {} of which lost with a worker {}, most tries {}; settled in {took:.1?}",
        account.tasks,
        account.ends,
        account.lost.len(),
        account.stuck.len(),
        account.wrong.len(),
        account.rerun,
        account.counted,
        account.worker_lost,
        account.most_tries,
    );
    account
}

impl Account {
    /// Fails unless nothing is lost or stuck, and each end is as its state promises.
    pub(crate) fn is_whole(&self) -> &Self {
        assert!(self.lost.is_empty(), "lost: {:?}", self.lost);
        assert!(self.stuck.is_empty(), "stuck: {:#?}", self.stuck);
        assert!(self.wrong.is_empty(), "wrongly recorded: {:#?}", self.wrong);
        self
    }

    pub(crate) fn all_succeeded(&self) -> &Self {
        self.is_whole();
        assert_eq!(self.ends.get(&State::Succeeded), Some(&self.tasks), "{:?}", self.ends);
        self
    }
}
