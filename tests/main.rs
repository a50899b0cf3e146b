//! The one integration binary: everything that is tested from outside the crate, each room in a module of its own.

mod laws;
mod redis;
mod support;
