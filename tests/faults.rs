//! Nothing lost: the promise under faults, with real worker processes, real servers and a proxy that loses what passes.
//!
//! A fault → the same account each time: every acknowledged task has ended, in a state that says so, within its attempts.
//! What each fault costs is printed; docs/delivery.md says what is promised.

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod below;
mod fleet;
mod ground;
mod processes;
mod redis;
mod replicas;
mod soak;
mod topologies;

use taskhost_testing::proxy;
