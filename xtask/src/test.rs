//! `cargo xtask test`: sets the machine up and runs everything, as CI does.
//!
//! set-up (wasm target, Redis, plugins) → fmt → clippy → tests → instruction counts → docs. Each step prints the time that it took.
//! The first failure ends the run. All steps use one profile and one feature set, so that wasmtime is built once.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{
    cargo::{self, cargo, finish},
    count, deny,
    packages::{self, Wanted},
    plugins, redis,
};

pub(crate) fn run() -> Result<()> {
    let root = &cargo::root();
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
    step("browser and terminal", &mut || {
        helpers();
        Ok(())
    })?;
    step("format", &mut || cargo(&["fmt", "--all", "--check"]))?;
    step("dependencies", &mut || deny::check())?;
    step("plugins", &mut || plugins::build(&plugins::Order::default()).map(drop))?;
    let mut tests = vec!["test", "--workspace", "--no-fail-fast"];
    step("greet, a plugin from JavaScript", &mut || {
        if !greet(root) {
            tests.extend(["--", "--skip", "javascript_greets"]);
        }
        Ok(())
    })?;
    step("clippy", &mut || cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    step("tests", &mut || cargo(&tests))?;
    step("instructions of a task", &mut count::run)?;
    step("laws on Valkey", &mut || on_valkey(root))?;
    step("documentation", &mut || {
        let mut call = cargo::command();
        call.args(["doc", "--workspace", "--no-deps", "--quiet"]).env("RUSTDOCFLAGS", "-D warnings");
        finish(&mut call)
    })?;
    say!("\nall passed in {}:", shown(began.elapsed()));
    for (name, took) in done {
        say!("  {:>7}  {name}", shown(took));
    }
    Ok(())
}

/// Installs programs for some tests, where that can be done: a browser for the dashboard, and tmux for `top`. Without them these tests say that
/// they were not run.
pub(crate) fn helpers() {
    let chromium = ["chromium", "chromium-driver"];
    for wanted in [
        Wanted { program: "chromedriver", apt: &chromium, dnf: &["chromium", "chromedriver"], apk: &["chromium", "chromium-chromedriver"] },
        Wanted { program: "tmux", apt: &["tmux"], dnf: &["tmux"], apk: &["tmux"] },
    ] {
        let program = wanted.program;
        if packages::on_path(&[program]).is_none()
            && packages::is_root()
            && let Err(error) = packages::install(&wanted)
        {
            say!("{error:#}");
        }
        match packages::on_path(&[program]) {
            Some(found) => say!("{}", found.display()),
            None => say!("NOT RUN: the tests that need `{program}`, which is not on PATH"),
        }
    }
}

/// Runs the laws, the scripts and the model on Valkey; says so where its program is not available.
fn on_valkey(root: &Path) -> Result<()> {
    let server = match redis::valkey(root) {
        Ok(server) => server,
        Err(error) => {
            say!("NOT RUN on Valkey, which is not available here: {error:#}; put `valkey-server` on PATH");
            return Ok(());
        }
    };
    say!("{}", server.display());
    let mut call = cargo::command();
    call.env("TEST_REDIS_SERVER", server).args(["test", "--workspace", "--test", "main", "--test", "broker", "--"]);
    finish(
        call.args(["laws::redis", "redis::a_", "scripts::", "model::redis", "faults::replicas::without", "worker::points"])
            .args(["--skip", "faults::redis"]),
    )
}

/// Builds greet.wasm; says so and returns false where its tools, which come from npm's registry, are missing.
fn greet(root: &Path) -> bool {
    let built = plugins::build_greet(&root.join("plugins"));
    if let Err(error) = &built {
        say!("NOT BUILT, so the tests of it (javascript_greets…) are left out: {error:#}");
    }
    built.is_ok()
}

fn shown(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds >= 60 { format!("{}m {:02}s", seconds / 60, seconds % 60) } else { format!("{:.1}s", time.as_secs_f64()) }
}
