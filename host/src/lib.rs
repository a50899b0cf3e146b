//! taskhost: a task queue whose task bodies are WebAssembly components. See ARCHITECTURE.md for the map of rooms.

pub mod backoff;
pub mod broker;
pub mod catalogue;
pub mod cli;
pub mod config;
pub mod cron;
pub mod engine;
pub mod plugins;
mod private;
pub mod retry;
pub mod schedule;
pub mod task;
pub mod telemetry;
pub mod text;
pub mod worker;
