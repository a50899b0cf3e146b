//! `cargo xtask fuzz`: broken plugins and policies for as long as asked, on the stable compiler.
//!
//! The targets are in `tests/fuzz.rs`. This file gives them their time and their seed, and reports the case of a crash.

use std::{
    fs,
    hash::{BuildHasher, Hasher, RandomState},
};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::{cargo, plugins};

#[derive(Debug, Args)]
pub(crate) struct Order {
    /// Seconds for all targets together
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u64,
    /// Fuzz only this target [default: loader, then policy]
    #[arg(long)]
    target: Option<Target>,
    /// The number of the first case [default: at random]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Try only this case, which a failure has named
    #[arg(long, value_name = "N", requires = "target")]
    case: Option<u64>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Target {
    Loader,
    Policy,
}

impl Target {
    fn name(self) -> &'static str {
        match self {
            Self::Loader => "loader",
            Self::Policy => "policy",
        }
    }
}

pub(crate) fn run(order: &Order) -> Result<()> {
    let targets = order.target.map_or_else(|| Target::value_variants().to_vec(), |target| vec![target]);
    plugins::build(&plugins::Order::default())?;
    // The shift leaves the numbers of the fixed cases, which every test run tries, far below.
    let seed = order.seed.unwrap_or_else(|| RandomState::new().build_hasher().finish() >> 8);
    let share = (order.seconds / targets.len() as u64).max(1);
    for target in targets {
        one(target.name(), share, seed, order.case)?;
    }
    Ok(())
}

fn one(target: &str, seconds: u64, seed: u64, case: Option<u64>) -> Result<()> {
    // The same selection as in `cargo xtask test`: another one would build much a second time.
    let words = ["test", "--workspace", "--test", "main", "--", "--exact", &format!("fuzz::{target}"), "--nocapture"];
    let mut call = cargo::command();
    call.args(words).env("FUZZ_SEED", seed.to_string());
    match case {
        Some(case) => call.env("FUZZ_CASE", case.to_string()),
        None => call.env("FUZZ_SECONDS", seconds.to_string()),
    };
    say!("fuzz {target}: {seconds} s from seed {seed}");
    let status = call.status().with_context(|| format!("failed to start {call:?}"))?;
    if status.success() {
        return Ok(());
    }
    // Each thread of the target notes its case before it tries it, because a crash leaves no time to report.
    let notes = (0..16).filter_map(|thread| fs::read_to_string(cargo::target_dir().join(format!("tmp/fuzz-{target}-{thread}"))).ok());
    let cases: Vec<String> = notes.collect();
    bail!(
        "fuzz {target} failed: {status}; the cases under way were {}; play one again with cargo xtask fuzz --target {target} --case N",
        cases.join(", ")
    )
}
