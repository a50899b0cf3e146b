//! The one integration binary: everything that is tested from outside the crate, each room in a module of its own.

mod center;
mod cli;
mod counted;
mod directories;
mod engine;
mod faults;
mod fuzz;
mod neighbours;
mod odd_records;
mod plugins;
mod schedules;
mod security;
mod steady;
mod story;
mod support;
mod swaps;
mod tidy;
mod transfer;
mod worker;
