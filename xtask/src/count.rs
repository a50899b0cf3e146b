//! `cargo xtask count`: what one task costs Redis, in instructions under callgrind: the same on a loaded machine as on a quiet one.
//!
//! build → redis-server under callgrind ← `taskhost bench --only ceilings` with few tasks, again with many → the difference, a task
//!
//! Redis and not the host, because every broker script runs there and it is what a fleet of workers shares; the host's own calls can't
//! be counted this way: valgrind has no room for the engine's pool of instances.

use std::{
    fs,
    io::Write,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{plugins, redis, test};

/// Tasks of the two runs: what a start and an empty queue cost is in both.
const FEW: u64 = 1_000;
const MANY: u64 = 6_000;
const LIMIT: Duration = Duration::from_secs(60);

/// Prints the count; where there is no valgrind it says so.
pub(crate) fn run() -> Result<()> {
    let has_valgrind = Command::new("valgrind").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !has_valgrind.is_ok_and(|status| status.success()) {
        say!("NOT COUNTED: the instructions of a task are counted by valgrind, which is not installed (Debian: apt-get install valgrind)");
        return Ok(());
    }
    let (root, server) = (plugins::root(), redis::server()?);
    // As the tests build it: another set of features would build much of it a second time.
    test::cargo(&root, &["test", "--workspace", "--no-run"])?;
    plugins::build(&plugins::Order::default())?;
    let few = count(&root, &server, FEW)?;
    let many = count(&root, &server, MANY)?;
    let each = many.saturating_sub(few) / (MANY - FEW);
    say!("Redis, instructions a task (enqueued in bulk, claimed and finished in batches): {each}");
    Ok(())
}

/// Instructions of a Redis that so many tasks went through.
fn count(root: &Path, server: &Path, tasks: u64) -> Result<u64> {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let scratch = root.join(format!("target/count-{}-{tasks}", std::process::id()));
    fs::create_dir_all(&scratch)?;
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(server);
    valgrind.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"]).arg(&scratch);
    valgrind.stdout(Stdio::null()).stderr(Stdio::piped());
    let running = valgrind.spawn().context("failed to start redis-server under valgrind")?;
    let counted = through(root, running, port, tasks);
    fs::remove_dir_all(&scratch).with_context(|| format!("can't remove `{}`", scratch.display()))?;
    counted
}

fn through(root: &Path, mut server: Child, port: u16, tasks: u64) -> Result<u64> {
    let benched = bench(root, port, tasks);
    let asked = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).and_then(|mut server| server.write_all(b"SHUTDOWN NOSAVE\r\n"));
    if asked.is_err() {
        server.kill()?;
    }
    let told = server.wait_with_output()?;
    benched?;
    let told = String::from_utf8_lossy(&told.stderr);
    let collected = told.lines().find_map(|line| line.split_once("Collected :")).context("callgrind said no count")?.1;
    collected.trim().parse().with_context(|| format!("not a count: `{collected}`"))
}

fn bench(root: &Path, port: u16, tasks: u64) -> Result<()> {
    let began = Instant::now();
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        ensure!(began.elapsed() < LIMIT, "redis-server did not listen within {} s under valgrind", LIMIT.as_secs());
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut bench = Command::new(root.join("target/debug/taskhost"));
    bench.current_dir(root).args(["bench", "--only", "ceilings", "--repeat", "1", "--tasks", &tasks.to_string()]);
    bench.args(["--broker", &format!("redis://127.0.0.1:{port}")]).stdout(Stdio::null());
    let status = bench.status().context("failed to start taskhost")?;
    if status.success() { Ok(()) } else { bail!("the benchmark ended with {status}") }
}
