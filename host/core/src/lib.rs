//! Plain data and pure decisions: what everything else in taskhost speaks of.
//!
//! Invariant: no I/O and no runtime here. A decision that depends on time or chance gets the time or the random number handed in.

pub mod backoff;
pub mod catalogue;
pub mod cron;
pub mod observe;
pub mod pattern;
pub mod retry;
pub mod task;
pub mod text;
pub mod trace;
pub mod units;
pub mod workflow;
