//! `cargo xtask test`: sets the machine up and runs everything, as CI does.
//!
//! set-up (wasm target, Redis, plugins) → fmt → clippy → tests → instruction counts → docs. Each step is printed with the time it took; the first
//! that fails ends it. One profile and one feature set throughout, so that wasmtime is built once.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{count, deny, plugins, redis};

pub(crate) fn run() -> Result<()> {
    let root = &plugins::root();
    let began = Instant::now();
    let mut done: Vec<(&str, Duration)> = Vec::new();
    let mut step = |name: &'static str, work: &mut dyn FnMut() -> Result<()>| -> Result<()> {
        say!("\n== {name}");
        let began = Instant::now();
        work().with_context(|| format!("{name}: failed after {}", shown(began.elapsed())))?;
        say!("== {name}: {}", shown(began.elapsed()));
        done.push((name, began.elapsed()));
        Ok(())
    };
    step("redis", &mut || redis::server().map(|server| say!("{}", server.display())))?;
    step("format", &mut || cargo(root, &["fmt", "--all", "--check"]))?;
    step("dependencies", &mut || deny::check(root))?;
    step("plugins", &mut || plugins::build(&plugins::Order::default()).map(drop))?;
    let mut tests = vec!["test", "--workspace", "--no-fail-fast"];
    step("greet, a plugin from JavaScript", &mut || {
        if !greet(root) {
            tests.extend(["--", "--skip", "javascript_greets"]);
        }
        Ok(())
    })?;
    step("clippy", &mut || cargo(root, &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    step("tests", &mut || cargo(root, &tests))?;
    step("instructions of a task", &mut count::run)?;
    step("laws on Valkey", &mut || on_valkey(root))?;
    step("documentation", &mut || {
        let mut call = Command::new(cargo_program());
        call.current_dir(root).args(["doc", "--workspace", "--no-deps", "--quiet"]).env("RUSTDOCFLAGS", "-D warnings");
        finish(&mut call)
    })?;
    say!("\nall passed in {}:", shown(began.elapsed()));
    for (name, took) in done {
        say!("  {:>7}  {name}", shown(took));
    }
    Ok(())
}

/// The laws, the scripts and the model on Valkey; where its program can't be had, that is said.
fn on_valkey(root: &Path) -> Result<()> {
    let server = match redis::valkey(root) {
        Ok(server) => server,
        Err(error) => {
            say!("NOT RUN on Valkey, which can't be had here: {error:#}; put `valkey-server` on PATH");
            return Ok(());
        }
    };
    say!("{}", server.display());
    let mut call = cargo_command();
    call.current_dir(root).env("TEST_REDIS_SERVER", server).args(["test", "--workspace", "--test", "main", "--test", "broker", "--"]);
    finish(
        call.args(["laws::redis", "redis::a_", "scripts::", "model::redis", "faults::replicas::without", "worker::points"])
            .args(["--skip", "faults::redis"]),
    )
}

/// Whether it could be built: its tools come from the registry of another language, and where they are missing that is said.
fn greet(root: &Path) -> bool {
    let built = plugins::build_greet(&root.join("plugins"));
    if let Err(error) = &built {
        say!("NOT BUILT, so the tests of it (javascript_greets…) are left out: {error:#}");
    }
    built.is_ok()
}

/// The cargo that runs us, so that the toolchain is the same throughout.
pub(crate) fn cargo_program() -> std::ffi::OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

pub(crate) fn cargo(root: &Path, arguments: &[&str]) -> Result<()> {
    say!("$ cargo {}", arguments.join(" "));
    finish(cargo_command().current_dir(root).args(arguments))
}

/// Without what the cargo that runs us said of our own package: build scripts that look at it (ring's does) would run again, and
/// all that is built on them, each time a person changes between `cargo` and `cargo xtask`.
pub(crate) fn cargo_command() -> Command {
    let mut command = Command::new(cargo_program());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

fn finish(call: &mut Command) -> Result<()> {
    let status = call.status().with_context(|| format!("failed to start {call:?}"))?;
    if status.success() { Ok(()) } else { bail!("ended with {status}") }
}

fn shown(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds >= 60 { format!("{}m {:02}s", seconds / 60, seconds % 60) } else { format!("{:.1}s", time.as_secs_f64()) }
}
