//! taskhost: a task queue whose task bodies are WebAssembly components. See ARCHITECTURE.md for the map of rooms.

pub mod cli;
pub mod config;
pub mod engine;
pub mod plugins;
mod private;
pub mod schedule;
pub mod telemetry;
pub mod worker;
