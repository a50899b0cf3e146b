//! Starts the engine by the settings, for a worker or for a command.

use std::{path::PathBuf, sync::Arc};

use super::error::OpsError;
use crate::{
    config::Settings,
    engine::{Compiler, Engine, EngineSettings, System},
};

/// The engine of a worker, for `slots` attempts at once.
pub fn worker_engine(settings: &Settings, slots: usize) -> Result<Arc<Engine>, OpsError> {
    start(settings, slots, Compiler::new)
}

/// The engine of a command: it compiles at normal priority, because a person waits.
pub fn foreground_engine(settings: &Settings) -> Result<Arc<Engine>, OpsError> {
    start(settings, 1, Compiler::foreground)
}

fn start(settings: &Settings, slots: usize, compiler: fn(PathBuf) -> Compiler) -> Result<Arc<Engine>, OpsError> {
    Engine::start(EngineSettings {
        slots,
        guest_memory: settings.guest_memory,
        descriptors: None,
        threads: settings.threads,
        cache: Some(settings.cache.clone()),
        state: Some(settings.state.clone()),
        cache_bytes: settings.cache_bytes,
        compiler: this_program().map(compiler),
        network: Arc::new(System),
    })
    .map_err(|error| OpsError::Machine(error.to_string()))
}

/// This program, as the kernel runs it, because a newer one may have replaced its file.
fn this_program() -> Option<PathBuf> {
    let running = PathBuf::from("/proc/self/exe");
    if running.exists() { Some(running) } else { std::env::current_exe().ok() }
}
