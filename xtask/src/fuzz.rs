//! `cargo xtask fuzz`: broken plugins and policies for as long as asked, on the stable compiler.
//!
//! The targets are `tests/fuzz.rs`; here they are only given their time and their seed, and a crash is told with its case.

use std::{
    fs,
    hash::{BuildHasher, Hasher, RandomState},
};

use anyhow::{Context, Result, bail};

use crate::{plugins, test};

const HELP: &str = "\
Feeds the plugin loader and the policy parser with real files that were broken by a seeded generator.

  cargo xtask fuzz [--seconds N] [--target loader|policy] [--seed N] [--case N]

  --seconds N   for all targets together [default: 60]
  --target      only this one [default: loader, then policy]
  --seed N      the number of the first case [default: at random]
  --case N      only this case, as a failure names it
";

const TARGETS: [&str; 2] = ["loader", "policy"];

pub(crate) fn main(words: &[&str]) -> Result<()> {
    let (mut seconds, mut seed, mut case, mut targets) = (60_u64, None, None, TARGETS.to_vec());
    let mut rest = words.iter().copied();
    while let Some(word) = rest.next() {
        let mut value = || rest.next().with_context(|| format!("`{word}` needs a value; see cargo xtask fuzz --help"));
        let number = |text: &str| text.parse::<u64>().with_context(|| format!("`{word}` is followed by a whole number: `{text}`"));
        match word {
            "--help" | "-h" => {
                crate::print(HELP);
                return Ok(());
            }
            "--seconds" => seconds = number(value()?)?,
            "--seed" => seed = Some(number(value()?)?),
            "--case" => case = Some(number(value()?)?),
            "--target" => {
                let name = value()?;
                targets.retain(|target| *target == name);
                if targets.is_empty() {
                    bail!("the targets are {}: `{name}`", TARGETS.join(" and "));
                }
            }
            other => bail!("no such flag: `{other}`\n\n{HELP}"),
        }
    }
    if case.is_some() && targets.len() != 1 {
        bail!("a case is one of `--target loader` or of `--target policy`: name it too");
    }
    plugins::build(&plugins::Order::default())?;
    // Of the system's randomness; far from the fixed cases that every test run tries.
    let seed = seed.unwrap_or_else(|| RandomState::new().build_hasher().finish() >> 8);
    let share = (seconds / targets.len() as u64).max(1);
    for target in targets {
        one(target, share, seed, case)?;
    }
    Ok(())
}

fn one(target: &str, seconds: u64, seed: u64, case: Option<u64>) -> Result<()> {
    // As `cargo xtask test` builds them, so that nothing is built twice.
    let words = ["test", "--workspace", "--test", "main", "--", "--exact", &format!("fuzz::{target}"), "--nocapture"];
    let mut call = test::cargo_command();
    call.current_dir(plugins::root()).args(words).env("FUZZ_SEED", seed.to_string());
    match case {
        Some(case) => call.env("FUZZ_CASE", case.to_string()),
        None => call.env("FUZZ_SECONDS", seconds.to_string()),
    };
    say!("fuzz {target}: {seconds} s from seed {seed}");
    let status = call.status().with_context(|| format!("failed to start {call:?}"))?;
    if status.success() {
        return Ok(());
    }
    // What the target wrote before it tried a case, for when it could not speak any more.
    let notes = (0..16).filter_map(|thread| fs::read_to_string(plugins::target_dir().join(format!("tmp/fuzz-{target}-{thread}"))).ok());
    let cases: Vec<String> = notes.collect();
    bail!(
        "fuzz {target} failed: {status}; the cases under way were {}; play one again with cargo xtask fuzz --target {target} --case N",
        cases.join(", ")
    )
}
