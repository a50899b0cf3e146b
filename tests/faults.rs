//! Nothing lost: the promise under faults, with real worker processes, real servers and a proxy that loses what passes.
//!
//! A fault → the same account each time: every acknowledged task has ended, in a state that says so, within its attempts.
//! What each fault costs is printed; docs/delivery.md says what is promised.

mod fleet;
mod ground;
mod processes;
mod proxy;
mod redis;
