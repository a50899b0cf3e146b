//! Makes the wasmtime engine of this process, and the runtime for guests.

use tokio::runtime::Runtime;
use wasmtime::{Config, Enabled, InstanceAllocationStrategy, PoolingAllocationConfig, WasmBacktraceDetails};

use super::error::EngineError;

/// More slots than this do not fit into the address space (three memories a slot).
const MOST_SLOTS: usize = 4096;
/// A pool with fewer slots than this is not worth it.
const LEAST_SLOTS: usize = 64;
/// The core instances, memories and tables of one component. Python has over ten instances, JavaScript three memories.
const INSTANCES: u32 = 16;
pub(super) const MEMORIES: u32 = 3;
pub(super) const TABLES: u32 = 4;
pub(super) const TABLE_ELEMENTS: usize = 20_000;
/// The frames of a trap's backtrace: enough to recognise a recursion.
pub(super) const FRAMES: usize = 32;

/// The nice value of the guests' threads. Only on Linux, because elsewhere it would apply to the whole process.
#[cfg(target_os = "linux")]
const NICE: i32 = 7;

/// A pool for `slots` attempts and a few more; a smaller one, or none, if the machine refuses the address space.
pub(super) fn engine(slots: usize) -> Result<wasmtime::Engine, EngineError> {
    if !PoolingAllocationConfig::is_pagemap_scan_available() {
        tracing::info!("the kernel can't tell which pages a guest wrote (Linux 6.7 can): clearing up after each attempt takes more CPU");
    }
    let mut slots = slots.saturating_add(8).min(MOST_SLOTS);
    loop {
        match wasmtime::Engine::new(&config(Some(slots))) {
            Ok(engine) => return Ok(engine),
            Err(error) if slots > LEAST_SLOTS => {
                let fewer = (slots / 2).max(LEAST_SLOTS);
                tracing::warn!("no room to reserve {slots} sandbox slots: {error:#}; trying {fewer}");
                slots = fewer;
            }
            Err(error) => {
                tracing::warn!(
                    "no room to reserve even {slots} sandbox slots: {error:#}; every attempt allocates its own memory, which is slower"
                );
                break;
            }
        }
    }
    wasmtime::Engine::new(&config(None)).map_err(|error| EngineError::Host(format!("can't start the WebAssembly engine: {error:#}")))
}

/// An engine that only compiles. Its code fits the engines that run, which have the same slots, but more of them.
pub(super) fn compiler() -> Result<wasmtime::Engine, EngineError> {
    let pooled = wasmtime::Engine::new(&config(Some(1)));
    pooled
        .or_else(|_| wasmtime::Engine::new(&config(None)))
        .map_err(|error| EngineError::Host(format!("can't start the WebAssembly engine: {error:#}")))
}

fn config(slots: Option<usize>) -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        // Only WASI 0.3 needs it. Without it a call costs a fifth less.
        .concurrency_support(false)
        // A compilation on one core disturbs running guests less.
        .parallel_compilation(false)
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(FRAMES));
    if let Some(slots) = slots {
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(slots)));
    }
    config
}

fn pool(slots: usize) -> PoolingAllocationConfig {
    let n = u32::try_from(slots).unwrap_or(u32::MAX);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(n)
        .total_stacks(n)
        .total_gc_heaps(n)
        .total_memories(MEMORIES.saturating_mul(n))
        .total_tables(TABLES.saturating_mul(n))
        .total_core_instances(INSTANCES.saturating_mul(n))
        .max_memories_per_component(MEMORIES)
        .max_tables_per_component(TABLES)
        .max_tables_per_module(TABLES)
        .table_elements(TABLE_ELEMENTS)
        .table_keep_resident(64 << 10)
        .async_stack_keep_resident(64 << 10)
        // An unused memory keeps its first pages for the next attempt of its plugin. Only a few do: short attempts reuse few slots, and with
        // many plugins a worker would otherwise keep three memories a slot.
        .max_unused_warm_slots(n.min(warm()));
    // Resident pages are cleared instead of given back to the kernel. That pays only if the kernel can tell which pages were written
    // (Linux 6.7). Otherwise clearing all of them costs more than it saves.
    if PoolingAllocationConfig::is_pagemap_scan_available() {
        pool.pagemap_scan(Enabled::Yes).linear_memory_keep_resident(1 << 20);
    } else {
        pool.pagemap_scan(Enabled::No).linear_memory_keep_resident(64 << 10);
    }
    pool
}

/// Four memories a core.
fn warm() -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    u32::try_from(4 * cores).unwrap_or(u32::MAX).clamp(8, 100)
}

/// Guests compute, so they have a runtime of their own. With tokio's default it would check its sockets only every 61 polls: 61 ms here.
pub(super) fn runtime(threads: usize) -> Result<Runtime, EngineError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("guests")
        .on_thread_start(step_back)
        .event_interval(1)
        .enable_all()
        .build()
        .map_err(|error| EngineError::Host(format!("can't start the threads that run guests: {error}")))
}

/// Lowers the priority of this thread, so that threads that talk to the broker, and a broker on this machine, go first. Otherwise they would wait
/// for the time slice of a computing thread, 3 ms. Lowering is always allowed; a container that forbids it has limits of its own.
fn step_back() {
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(None, NICE);
}
