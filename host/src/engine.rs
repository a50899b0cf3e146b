//! The sandbox: bytes → [`Code`] → one attempt → [`Attempted`]. The only room that names wasmtime.
//!
//! compile (cached) → describe → invoke: a fresh store and instance for every attempt, under limits, a deadline and a share
//! of the CPU; what a guest asks of the broker goes through [`Services`].
//!
//! Invariant: nothing of one attempt is seen by the next, and no guest crashes or stalls the host.

use std::{fmt, panic::AssertUnwindSafe, path::PathBuf, pin::pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::FutureExt;
use tokio::{
    runtime::{Handle, Runtime},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use wasmtime::component::Linker;

use taskhost_core::{
    catalogue::Description,
    task::{ErrorKind, Millis, Outcome, Progress, QueueName, TaskError, TaskId},
};

mod account;
mod address;
mod allocator;
mod attempt;
mod blame;
mod cache;
mod capture;
mod compile;
mod compiler;
mod cpu;
mod describe;
mod ending;
mod files;
mod guest;
mod host;
mod http;
mod json;
mod limits;
mod memory;
mod network;
mod requests;
mod secrets;
mod setup;
mod shape;
mod words;

use cache::Cache;
use cpu::Cpu;
use guest::Guest;

pub use compile::Code;
pub use compiler::{Compiler, SUBCOMMAND as COMPILE_SUBCOMMAND, compile_plugin};
pub use limits::{EnqueueGrant, FileGrant, FileMode, Grants, HttpGrant, KvGrant, Limits, Rate, SecretGrant, SecretSource};
pub use network::{Network, System};

/// How the engine of this process is set up.
#[derive(Debug, Clone)]
pub struct EngineSettings {
    /// Attempts at once: the worker's concurrency. The pool gets a few more.
    pub slots: usize,
    /// Bytes that all guests together may have grown to.
    pub guest_memory: u64,
    /// Files and connections that all guests together may have open; `None`: three quarters of what this process may open, whose soft limit
    /// is raised to the hard one.
    pub descriptors: Option<usize>,
    /// Threads that run guests; by default the number of cores.
    pub threads: usize,
    /// Where compiled code is kept; owned by this user and closed to others, else refused. `None`, or where it can't be: nothing is.
    pub cache: Option<PathBuf>,
    /// Where the key lies by which kept code is known again; owned by this user as well. Without one nothing is kept.
    pub state: Option<PathBuf>,
    /// The cache is trimmed to this size, least recently used first.
    pub cache_bytes: u64,
    /// What compiles in a process of its own; `None`: a thread of this one does.
    pub compiler: Option<Compiler>,
    /// How guests' requests leave; [`System`] but for tests.
    pub network: Arc<dyn Network>,
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
    /// The plugin's store has no room for it.
    Full(String),
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

/// What is the same in every attempt of a plugin. One count of references for all of it: attempts on every core make and drop one.
#[derive(Debug, Clone)]
pub struct Terms {
    pub code: Arc<Code>,
    /// The plugin's name, as its policy table is called: what a denied call tells the operator to write.
    pub plugin: Arc<str>,
    pub limits: Arc<Limits>,
    pub grants: Arc<Grants>,
}

/// One attempt to be made.
pub struct Call {
    pub terms: Arc<Terms>,
    /// The body's name.
    pub body: String,
    /// A JSON array.
    pub args: String,
    pub about: About,
    /// Cut to `limits.timeout_ceiling`; waiting for a share of the CPU does not count.
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

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("plugin", &self.terms.plugin)
            .field("body", &self.body)
            .field("about", &self.about)
            .finish_non_exhaustive()
    }
}

/// The engine of this process, with its own runtime for guests.
pub struct Engine {
    wasm: wasmtime::Engine,
    linker: Linker<Guest>,
    cpu: Arc<Cpu>,
    pool: Arc<account::Pool>,
    outside: Arc<network::Outside>,
    cache: Option<Cache>,
    compiler: Option<Compiler>,
    /// Compilations at once.
    compiling: Arc<Semaphore>,
    /// `None` once stopped.
    runtime: std::sync::Mutex<Option<Runtime>>,
    guests: Handle,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("runnable", &self.runnable()).finish_non_exhaustive()
    }
}

impl Engine {
    /// Starts the guests' runtime and the epoch ticker.
    pub fn start(settings: EngineSettings) -> Result<Arc<Self>, EngineError> {
        let EngineSettings { slots, guest_memory, descriptors, threads, cache, state, cache_bytes, compiler, network } = settings;
        let threads = threads.max(1);
        allocator::configure();
        let for_guests = account::descriptors_for_guests();
        let cache = cache.map(|dir| Cache::open(&dir, state.as_deref(), cache_bytes)).transpose()?.flatten();
        let wasm = setup::engine(slots)?;
        let linker = setup::linker(&wasm)?;
        let runtime = setup::runtime(threads)?;
        let cpu = Cpu::start(&wasm, threads)?;
        Ok(Arc::new(Self {
            linker,
            cpu,
            pool: Arc::new(account::Pool::new(guest_memory, descriptors.unwrap_or(for_guests))),
            outside: network::Outside::new(network),
            cache,
            compiler,
            // Two at least: one that takes long must not keep all others waiting.
            compiling: Arc::new(Semaphore::new(threads.div_ceil(2).max(2))),
            guests: runtime.handle().clone(),
            runtime: std::sync::Mutex::new(Some(runtime)),
            wasm,
        }))
    }

    /// Compiles, or takes from the cache, and links. `digest`: SHA-256 of `bytes` in lower-case hex.
    pub async fn compile(self: &Arc<Self>, bytes: Arc<[u8]>, digest: &str) -> Result<Arc<Code>, EngineError> {
        compile::compile(self, bytes, digest).await
    }

    /// Calls `describe` with nothing granted (100 ms of CPU, 5 s of wall). The warnings name hints that could not be read.
    pub async fn describe(self: &Arc<Self>, code: &Arc<Code>) -> Result<(Description, Vec<String>), EngineError> {
        let described = describe::describe(Arc::clone(self), Arc::clone(code));
        match AbortOnDropHandle::new(self.guests.spawn(described)).await {
            Ok(answer) => answer,
            Err(gone) if gone.is_cancelled() => Err(EngineError::Busy("the engine was stopped while `describe` ran".into())),
            Err(_) => Err(EngineError::BadDescription("`describe` made the host panic: see the log, and please report it".into())),
        }
    }

    /// One attempt on the guests' runtime. Dropping the future stops the guest.
    pub async fn invoke(self: &Arc<Self>, call: Call) -> Attempted {
        // Counted from here: an attempt that waits for its first turn wants CPU as well.
        let turn = cpu::Turn::new(&self.cpu);
        // Who is there already, as a worker's attempts are, needs no task of its own.
        if Handle::try_current().is_ok_and(|here| here.id() == self.guests.id()) {
            // Pinned first: it is some kilobytes large, and each wrapper would move it.
            let attempt = pin!(attempt::run(Arc::clone(self), call, turn));
            return AssertUnwindSafe(attempt).catch_unwind().await.unwrap_or_else(|_| Attempted::panicked());
        }
        match AbortOnDropHandle::new(self.guests.spawn(attempt::run(Arc::clone(self), call, turn))).await {
            Ok(attempted) => attempted,
            Err(gone) if gone.is_cancelled() => {
                Attempted::unrun(Outcome::HostFault { reason: "the engine was stopped".into(), delay: Duration::ZERO })
            }
            Err(_) => Attempted::panicked(),
        }
    }

    /// Where guests run: whoever makes many attempts starts them there, in batches.
    pub fn guests(&self) -> Handle {
        self.guests.clone()
    }

    /// Attempts that want CPU now: those parked in a host call, or in the line for a CPU permit, do not count.
    pub fn runnable(&self) -> usize {
        self.cpu.runnable()
    }

    /// Ends the runtime and the ticker; attempts under way are dropped.
    pub fn stop(&self) {
        let runtime = self.runtime.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(runtime) = runtime {
            // In the background: `stop` may be called from within another runtime, where waiting is not allowed.
            runtime.shutdown_background();
        }
        self.cpu.stop();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Attempted {
    /// An attempt that did not come to run.
    fn unrun(outcome: Outcome) -> Self {
        Self { outcome, log: String::new(), ran: Duration::ZERO, cpu: Duration::ZERO, memory: 0 }
    }

    /// Counted, so that a task that makes the host panic ends in the dead set and not in an endless loop.
    fn panicked() -> Self {
        Self::unrun(Outcome::Failed {
            error: TaskError::new(ErrorKind::Trap, "the host panicked while it served this attempt: see the worker's log"),
            after: None,
        })
    }
}
