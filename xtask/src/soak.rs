//! `cargo xtask soak`: producers, real workers and random faults for as long as asked, then the account.
//!
//! The scenario is in `tests/faults/soak.rs`. This file gives it its time and its broker.

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::{cargo, plugins, redis};

#[derive(Debug, Args)]
pub(crate) struct Order {
    /// Minutes of faults on each broker; settling takes up to three minutes more
    #[arg(long, value_name = "N", default_value_t = 10)]
    minutes: u64,
    /// Run on this broker only [default: redis, then sqlite]
    #[arg(long)]
    broker: Option<Broker>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Broker {
    Redis,
    Sqlite,
}

pub(crate) fn run(order: &Order) -> Result<()> {
    let brokers = order.broker.map_or_else(|| Broker::value_variants().to_vec(), |broker| vec![broker]);
    redis::server()?;
    plugins::build(&plugins::Order::default())?;
    for broker in brokers {
        let broker = match broker {
            Broker::Redis => "redis",
            Broker::Sqlite => "sqlite",
        };
        let scenario = format!("faults::soak::{broker}");
        let mut call = cargo::command();
        call.env("SOAK_SECONDS", (order.minutes * 60).to_string());
        call.args(["test", "--workspace", "--test", "main", "--", "--exact", &scenario, "--nocapture"]);
        let status = call.status().with_context(|| format!("failed to start {call:?}"))?;
        if !status.success() {
            bail!("the soak on {broker} failed: {status}; the account above names the tasks that are lost or stuck");
        }
    }
    Ok(())
}
