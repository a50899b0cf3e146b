//! `cargo xtask soak`: producers, real workers and random faults for as long as asked, then the account.
//!
//! The scenario is `tests/faults/soak.rs`; here it is only given its time and its broker.

use anyhow::{Context, Result, bail};

use crate::{plugins, redis, test};

const HELP: &str = "\
Runs workers under random faults and prints what became of every task.

  cargo xtask soak [--minutes N] [--broker redis|sqlite]

  --minutes N   how long faults go on [default: 10]; settling takes up to three minutes more
  --broker      only on this one [default: first redis, then sqlite]
";

pub(crate) fn main(words: &[&str]) -> Result<()> {
    let (mut minutes, mut brokers) = (10_u64, vec!["redis", "sqlite"]);
    let mut rest = words.iter().copied();
    while let Some(word) = rest.next() {
        let mut value = || rest.next().with_context(|| format!("`{word}` needs a value; see cargo xtask soak --help"));
        match word {
            "--help" | "-h" => {
                crate::print(HELP);
                return Ok(());
            }
            "--minutes" => {
                let text = value()?;
                minutes = text.parse().with_context(|| format!("minutes are a whole number: `{text}`"))?;
            }
            "--broker" => match value()? {
                "redis" => brokers = vec!["redis"],
                "sqlite" => brokers = vec!["sqlite"],
                other => bail!("a soak is on `redis` or `sqlite`: `{other}`"),
            },
            other => bail!("no such flag: `{other}`\n\n{HELP}"),
        }
    }
    redis::server()?;
    plugins::build(&plugins::Order::default())?;
    for broker in brokers {
        let scenario = format!("faults::soak::{broker}");
        let mut call = test::cargo_command();
        call.current_dir(plugins::root()).env("SOAK_SECONDS", (minutes * 60).to_string());
        call.args(["test", "--workspace", "--test", "main", "--", "--exact", &scenario, "--nocapture"]);
        let status = call.status().with_context(|| format!("failed to start {call:?}"))?;
        if !status.success() {
            bail!("the soak on {broker} failed: {status}; what is lost or stuck is named above");
        }
    }
    Ok(())
}
