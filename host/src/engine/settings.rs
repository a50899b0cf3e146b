//! The settings of an engine.

use std::{path::PathBuf, sync::Arc};

use super::{compile_process::Compiler, network::Network};

/// The settings of this process's engine.
#[derive(Debug, Clone)]
pub struct EngineSettings {
    /// Attempts at once, which is the worker's concurrency. The pool gets a few more slots.
    pub slots: usize,
    /// The most bytes of all guests together.
    pub guest_memory: u64,
    /// The most open files and connections of all guests together. `None`: three quarters of this process's limit, after the soft limit was
    /// raised to the hard one.
    pub descriptors: Option<usize>,
    /// Threads that run guests; by default the number of cores.
    pub threads: usize,
    /// The directory for compiled code. It must belong to this user and be closed to others. `None`, or if it can't be made: nothing is kept.
    pub cache: Option<PathBuf>,
    /// The directory of the key for the seals of kept code. It must belong to this user too. Without it nothing is kept.
    pub state: Option<PathBuf>,
    /// The cache is trimmed to this size, least recently used first.
    pub cache_bytes: u64,
    /// The compiler in a process of its own. `None`: a thread of this process compiles.
    pub compiler: Option<Compiler>,
    /// The network for guests' requests: [`System`](super::System), except in tests.
    pub network: Arc<dyn Network>,
}
