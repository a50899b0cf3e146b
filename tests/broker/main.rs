//! The broker's integration binary: the laws on both brokers, the model, foreign records, and what only Redis has.

mod foreign;
mod laws;
mod looks;
mod model;
mod redis;
mod scripts;
mod upgrade;

use taskhost_testing as support;
