//! The broker's integration binary: the laws on both brokers, the model, foreign records, and what only Redis has.

mod foreign;
mod laws;
mod looks;
mod model;
mod redis;
mod scripts;

extern crate self as taskhost;
use ::taskhost_broker as broker;
use taskhost_core::{catalogue, task};
use taskhost_testing as support;
