//! The sandbox: bytes → [`Code`] → one attempt → [`Attempted`]. The only room that names wasmtime.
//!
//! compile (cached) → describe → invoke: a fresh store and instance for every attempt, under limits, a deadline and a share
//! of the CPU. A guest's requests to the broker go through [`Services`].
//!
//! Invariant: nothing of one attempt is seen by the next, and no guest crashes or stalls the host.

use std::{fmt, panic::AssertUnwindSafe, pin::pin, sync::Arc, time::Duration};

use futures_util::FutureExt;
use parking_lot::Mutex;
use taskhost_core::{catalogue::Description, task::Outcome};
use tokio::{
    runtime::{Handle, Runtime},
    sync::Semaphore,
};
use tokio_util::task::AbortOnDropHandle;
mod account;
mod address;
mod allocator;
mod artefact;
mod attempt;
mod bindings;
mod blame;
mod cache;
mod call;
mod compile;
mod compile_process;
mod cpu;
mod describe;
mod ending;
mod error;
mod files;
mod guest;
mod held;
mod http;
mod http_bounds;
mod imports;
mod json;
mod limits;
mod linker;
mod machine;
mod memory;
mod network;
mod output;
mod post;
mod requests;
mod secrets;
mod sentence;
mod services;
mod settings;
mod setup;
mod shape;
mod spans;

use cache::Cache;
use cpu::Cpu;
use machine::Machine;

pub use call::{Attempted, Call};
pub use compile_process::{Compiler, SUBCOMMAND as COMPILE_SUBCOMMAND, compile_plugin};
pub use error::EngineError;
pub use guest::{About, Code, Terms};
pub use limits::{EnqueueGrant, FileGrant, FileMode, Grants, HttpGrant, KvGrant, Limits, MEMORY, Rate, SecretGrant, SecretSource};
pub use network::{Network, System};
pub use post::{Posted, Poster};
pub use services::{ServiceError, Services};
pub use settings::EngineSettings;

/// The engine of this process, with its own runtime for guests.
pub struct Engine {
    machine: Arc<Machine>,
    /// `None` after [`Engine::stop`].
    runtime: Mutex<Option<Runtime>>,
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
        let linker = linker::linker(&wasm)?;
        let runtime = setup::runtime(threads)?;
        let cpu = Cpu::start(&wasm, threads)?;
        let machine = Machine {
            linker,
            cpu,
            pool: Arc::new(account::Pool::new(guest_memory, descriptors.unwrap_or(for_guests))),
            outside: network::Outside::new(network),
            cache,
            compiler,
            // At least two, so that one long compilation does not delay all others.
            compiling: Arc::new(Semaphore::new(threads.div_ceil(2).max(2))),
            wasm,
        };
        Ok(Arc::new(Self { machine: Arc::new(machine), guests: runtime.handle().clone(), runtime: Mutex::new(Some(runtime)) }))
    }

    /// Compiles, or loads from the cache, and links. `digest` is the SHA-256 of `bytes` in lower-case hex.
    pub async fn compile(self: &Arc<Self>, bytes: Arc<[u8]>, digest: &str) -> Result<Arc<Code>, EngineError> {
        compile::compile(&self.machine, bytes, digest).await
    }

    /// Calls `describe` with nothing granted (100 ms of CPU, 5 s in all). The warnings name hints that could not be read.
    pub async fn describe(self: &Arc<Self>, code: &Arc<Code>) -> Result<(Description, Vec<String>), EngineError> {
        let described = describe::describe(Arc::clone(&self.machine), Arc::clone(code));
        match AbortOnDropHandle::new(self.guests.spawn(described)).await {
            Ok(answer) => answer,
            Err(gone) if gone.is_cancelled() => Err(EngineError::Busy("the engine was stopped while `describe` ran".into())),
            Err(_) => Err(EngineError::BadDescription("`describe` made the host panic: see the log, and please report it".into())),
        }
    }

    /// Makes one attempt on the guests' runtime. Dropping the future stops the guest.
    pub async fn invoke(self: &Arc<Self>, call: Call) -> Attempted {
        // Counted from here, because an attempt that waits for its first turn wants CPU too.
        let turn = cpu::Turn::new(&self.machine.cpu);
        // A worker's attempts are on that runtime already and need no task of their own.
        if Handle::try_current().is_ok_and(|here| here.id() == self.guests.id()) {
            // Pinned first, because it has some kilobytes and each wrapper would move it.
            let attempt = pin!(attempt::run(Arc::clone(&self.machine), call, turn));
            return AssertUnwindSafe(attempt).catch_unwind().await.unwrap_or_else(|_| Attempted::panicked());
        }
        match AbortOnDropHandle::new(self.guests.spawn(attempt::run(Arc::clone(&self.machine), call, turn))).await {
            Ok(attempted) => attempted,
            Err(gone) if gone.is_cancelled() => {
                Attempted::unrun(Outcome::HostFault { reason: "the engine was stopped".into(), delay: Duration::ZERO })
            }
            Err(_) => Attempted::panicked(),
        }
    }

    /// The guests' runtime, for callers that start many attempts in batches.
    pub fn guests(&self) -> Handle {
        self.guests.clone()
    }

    /// How many attempts want CPU now. Attempts that wait in a host call or for a CPU permit do not count.
    pub fn runnable(&self) -> usize {
        self.machine.cpu.runnable()
    }

    /// Ends the runtime and the ticker, and drops the attempts under way.
    pub fn stop(&self) {
        let runtime = self.runtime.lock().take();
        if let Some(runtime) = runtime {
            // In the background, because `stop` may be called inside another runtime, where blocking is not allowed.
            runtime.shutdown_background();
        }
        self.machine.cpu.stop();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
    }
}
