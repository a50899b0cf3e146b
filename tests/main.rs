//! The one integration binary: everything that is tested from outside the crate, each room in a module of its own.

mod center;
mod engine;
mod laws;
mod plugins;
mod schedules;
mod security;
mod support;
mod transfer;
mod worker;
