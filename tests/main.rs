//! The integration tests, one binary: a module a room.

mod center;
mod engine;
mod transfer;
