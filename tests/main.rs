//! The one integration binary: all tests from outside the crate, with a module for each room.

mod center;
mod cli;
mod counted;
mod directories;
mod engine;
mod faults;
mod flows;
mod fuzz;
mod hooks;
mod neighbours;
mod odd_records;
mod plugins;
mod schedules;
mod security;
mod serve;
mod steady;
mod story;
mod support;
mod swaps;
mod tidy;
mod traces;
mod transfer;
mod worker;
