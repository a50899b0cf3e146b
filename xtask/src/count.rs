//! `cargo xtask count`: the instructions that one task costs, counted by callgrind. The load of the machine does not change them.
//!
//! Redis: redis-server under callgrind ← `taskhost bench --only ceilings`. Host: the tests of `tests/counted.rs` under callgrind, an
//! isolated call and a whole drain. Each runs with few tasks and again with many; the difference gives the cost per task.

use std::{
    fs,
    io::Write,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{cargo, plugins, redis};

/// Tasks of the two runs. The costs of the start and of an empty queue are in both, so the difference leaves them out.
const SERVER: [u64; 2] = [1_000, 6_000];
const HOST: [u64; 2] = [200, 1_200];
const LIMIT: Duration = Duration::from_secs(60);
/// Ways to observe a drain, and the variables for them. The collector is away: spans are made, batched, encoded, and then lost. The batch has
/// room for all of them.
const OBSERVED: [(&str, &[(&str, &str)]); 3] = [
    ("metrics", &[("COUNT_OBSERVED", "metrics")]),
    ("traces 1 %", &[TRACES, COLLECTOR, ROOM, ("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "0.01")]),
    ("traces 100 %", &[TRACES, COLLECTOR, ROOM, ("OTEL_TRACES_SAMPLER", "always_on")]),
];
const TRACES: (&str, &str) = ("COUNT_OBSERVED", "traces");
/// Nobody listens on the port `discard`.
const COLLECTOR: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9");
const ROOM: (&str, &str) = ("OTEL_BSP_MAX_QUEUE_SIZE", "100000");
/// Where a drain pays for its observers. Only instructions within these functions are counted, because the batches of two whole drains differ
/// by more than metrics cost.
const PAYING: [&str; 3] = [
    "--toggle-collect=taskhost_core::observe::Observers::tell_all",
    "--toggle-collect=taskhost::worker::attempt::Attempt::trace",
    "--toggle-collect=opentelemetry_sdk::trace::span_processor::BatchSpanProcessor::get_spans_and_export",
];
const CALLGRIND: [&str; 2] = ["--tool=callgrind", "--callgrind-out-file=/dev/null"];

/// Prints the counts, or says that valgrind is missing.
pub(crate) fn run() -> Result<()> {
    let has_valgrind = Command::new("valgrind").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !has_valgrind.is_ok_and(|status| status.success()) {
        say!("NOT COUNTED: the instructions of a task are counted by valgrind, which is not installed (Debian: apt-get install valgrind)");
        return Ok(());
    }
    let (root, server) = (cargo::root(), redis::server()?);
    // The same selection as in `cargo xtask test`: another set of features would build much a second time.
    cargo::cargo(&["test", "--workspace", "--no-run"])?;
    plugins::build(&plugins::Order::default())?;
    say!("instructions a task, of the dev build's host:");
    say!("{:>9}  Redis: enqueued in bulk, claimed and finished in batches", each(SERVER, |tasks| of_server(&root, &server, tasks))?);
    say!("{:>9}  host: an isolated call of `add`", each(HOST, |tasks| of_host("isolated_calls_end", tasks))?);
    let drain = each(HOST, |tasks| of_host("a_full_queue_is_drained", tasks))?;
    say!("{drain:>9}  host: an `add` drained by a worker of 16 slots");
    for (name, variables) in OBSERVED {
        let observed = each(HOST, |tasks| of_host_within("a_full_queue_is_drained", tasks, &PAYING, variables))?;
        // In tenths of a per cent.
        let share = observed * 1_000 / drain.max(1);
        say!("{observed:>9}  host: {name}, {}.{} % of that drain", share / 10, share % 10);
    }
    Ok(())
}

fn each([few, many]: [u64; 2], count: impl Fn(u64) -> Result<u64>) -> Result<u64> {
    Ok(count(many)?.saturating_sub(count(few)?) / (many - few))
}

/// Instructions of the host in one test of `tests/counted.rs`.
fn of_host(name: &str, tasks: u64) -> Result<u64> {
    of_host_within(name, tasks, &[], &[])
}

/// The same within the functions that these options of callgrind name, with these variables.
fn of_host_within(name: &str, tasks: u64, within: &[&str], variables: &[(&str, &str)]) -> Result<u64> {
    let runner = ["valgrind"].into_iter().chain(CALLGRIND).chain(within.iter().copied());
    let runner: Vec<String> = runner.map(|word| format!("\"{word}\"")).collect();
    let mut call = cargo::command();
    call.env("COUNT_TASKS", tasks.to_string()).envs(variables.iter().copied());
    call.args(["test", "--quiet", "--workspace", "--test", "main"]);
    call.args(["--config", &format!("target.'cfg(all())'.runner = [{}]", runner.join(", "))]);
    call.args(["--", "--exact", &format!("counted::{name}")]);
    let told = call.output().context("failed to start cargo")?;
    let text = String::from_utf8_lossy(&told.stderr);
    ensure!(told.status.success(), "{name} failed under valgrind: {}{text}", String::from_utf8_lossy(&told.stdout));
    collected(&text)
}

/// Instructions of a Redis that `tasks` tasks passed through.
fn of_server(root: &Path, server: &Path, tasks: u64) -> Result<u64> {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let scratch = root.join(format!("target/count-{}-{tasks}", std::process::id()));
    fs::create_dir_all(&scratch)?;
    let mut valgrind = Command::new("valgrind");
    valgrind.args(CALLGRIND).arg(server);
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
    collected(&String::from_utf8_lossy(&told.stderr))
}

/// The count that callgrind prints at its end.
fn collected(told: &str) -> Result<u64> {
    let count = told.lines().find_map(|line| line.split_once("Collected :")).context("callgrind printed no count")?.1;
    count.trim().parse().with_context(|| format!("not a count: `{count}`"))
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
