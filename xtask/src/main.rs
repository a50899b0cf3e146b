//! Set-up and build of taskhost: `cargo xtask COMMAND`. Each command has a file here.

#[macro_use]
mod say;

mod cargo;
mod count;
mod demo;
mod deny;
mod fuzz;
mod packages;
mod plugins;
mod redis;
mod screenshots;
mod soak;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Sets up, builds, plays and tests taskhost",
    arg_required_else_help = true
)]
struct Words {
    #[command(subcommand)]
    word: Word,
}

#[derive(Debug, Subcommand)]
enum Word {
    /// Play the story of taskhost with the real program
    Demo,
    /// Set up this machine and run every check and test
    Test,
    /// Feed the plugin loader and the policy parser with files that a seeded generator broke
    Fuzz(fuzz::Order),
    /// Count the instructions that a task costs Redis and the host; load does not change them
    Count,
    /// Run workers under random faults and account for every task
    Soak(soak::Order),
    /// Draw every page of the dashboard, in both themes and on a narrow screen, for people to look at
    Screenshots(screenshots::Order),
    /// Build plugin folders into plugins/NAME.wasm
    Plugins(plugins::Order),
}

fn main() -> ExitCode {
    let done = match Words::parse().word {
        Word::Demo => demo::run(),
        Word::Test => test::run(),
        Word::Fuzz(order) => fuzz::run(&order),
        Word::Count => count::run(),
        Word::Soak(order) => soak::run(&order),
        Word::Screenshots(order) => screenshots::run(&order),
        Word::Plugins(order) => plugins::run(&order),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
