//! taskhost: a task queue whose task bodies are WebAssembly components. ARCHITECTURE.md is the map of the rooms.
//!
//! The program `taskhost` is a thin command line over this library. A program of your own can embed a worker:
//!
//! ```no_run
//! use std::sync::Arc;
//! use taskhost::{
//!     engine::{Engine, EngineSettings, Limits, System},
//!     plugins::{Plugins, PluginsSettings, Writable},
//!     worker::{self, Stop, WorkerSettings},
//! };
//! use taskhost_broker::{BrokerAddress, BrokerSettings, connect};
//! use tokio_util::sync::CancellationToken;
//!
//! # async fn embed() -> Result<(), Box<dyn std::error::Error>> {
//! // The sandbox: 64 attempts at once, 1 GiB for all of them, compiled code kept under ./cache.
//! let engine = Engine::start(EngineSettings {
//!     slots: 64,
//!     guest_memory: 1 << 30,
//!     descriptors: None,
//!     threads: 2,
//!     cache: Some("cache".into()),
//!     state: Some("state".into()),
//!     cache_bytes: 1 << 30,
//!     compiler: None,
//!     network: Arc::new(System),
//! })?;
//! // The plugins: every .wasm file in ./plugins, under the policies of ./taskhost.toml.
//! let plugins = Plugins::open(
//!     PluginsSettings {
//!         dir: "plugins".into(),
//!         state: "state".into(),
//!         policy: Some("taskhost.toml".into()),
//!         trust: None,
//!         writable: Writable::Warn,
//!         limits: Limits::default(),
//!     },
//!     engine.clone(),
//! )?;
//! let registry = plugins.registry();
//! let shutdown = CancellationToken::new();
//! let follow = tokio::spawn(plugins.run(shutdown.clone()));
//!
//! let broker = connect(&BrokerAddress::parse("sqlite:taskhost.db")?, BrokerSettings::default()).await?;
//! // Cancel `stop.drain` for a graceful end. `run` returns when the attempts have ended.
//! let stop = Stop::default();
//! let summary = worker::run(WorkerSettings::new(worker::worker_id()), broker, engine.clone(), registry, stop).await?;
//! println!("{} tasks succeeded", summary.succeeded);
//! shutdown.cancel();
//! follow.await?;
//! engine.stop();
//! # Ok(())
//! # }
//! ```

pub mod cli;
pub mod config;
pub mod engine;
pub mod ops;
pub mod plugins;
mod private;
mod random;
pub mod schedule;
pub mod serve;
pub mod telemetry;
pub mod worker;
