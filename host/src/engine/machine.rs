//! The parts of an engine that an attempt, a compilation and `describe` work with.

use std::sync::Arc;

use tokio::sync::Semaphore;
use wasmtime::component::Linker;

use super::{account::Pool, cache::Cache, compile_process::Compiler, cpu::Cpu, guest::Guest, network::Outside};

pub(super) struct Machine {
    pub(super) wasm: wasmtime::Engine,
    pub(super) linker: Linker<Guest>,
    pub(super) cpu: Arc<Cpu>,
    pub(super) pool: Arc<Pool>,
    pub(super) outside: Arc<Outside>,
    pub(super) cache: Option<Cache>,
    pub(super) compiler: Option<Compiler>,
    /// A permit for each compilation at once.
    pub(super) compiling: Arc<Semaphore>,
}
