//! No fault loses an acknowledged task: real worker processes, real servers and a proxy that loses what passes through it.
//!
//! After each fault the account is the same: every acknowledged task has ended, in an end state, within its attempts.
//! The tests print the cost of each fault. docs/delivery.md states the promise.

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
