//! How an engine is set up.

use std::{path::PathBuf, sync::Arc};

use super::{compiler::Compiler, network::Network};

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
    /// How guests' requests leave; [`System`](super::System) but for tests.
    pub network: Arc<dyn Network>,
}
