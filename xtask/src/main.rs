//! Set-up and build of taskhost: `cargo xtask <what>`. Each word is a file here.

/// One line to stdout.
macro_rules! say {
    ($($text:tt)*) => {
        crate::print(&(format!($($text)*) + "\n"))
    };
}

mod count;
mod demo;
mod deny;
mod fuzz;
mod plugins;
mod redis;
mod soak;
mod test;

use std::process::ExitCode;

const HELP: &str = "cargo xtask demo               play the story of taskhost with the real program
cargo xtask test               set up this machine and run every check and test
\
cargo xtask fuzz               feed the loader and the policy parser with broken files (--help says more)
cargo xtask count              count what a task costs Redis and the host in instructions, the same on any load
cargo xtask soak               run workers under random faults and account for every task (--help says more)
cargo xtask plugins [NAME…]    build plugins into plugins/NAME.wasm (--help says more)
";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["demo"] => demo::run(),
        ["count"] => count::run(),
        ["test"] => test::run(),
        ["fuzz", rest @ ..] => fuzz::main(rest),
        ["soak", rest @ ..] => soak::main(rest),
        ["plugins", rest @ ..] => plugins::main(rest),
        [] | ["help" | "--help" | "-h"] => {
            print(HELP);
            Ok(())
        }
        [other, ..] => Err(anyhow::anyhow!("no such word: `{other}`\n\n{HELP}")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "what a person asked for goes to stdout")]
pub(crate) fn print(text: &str) {
    print!("{text}");
}
