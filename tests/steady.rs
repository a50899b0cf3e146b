//! A worker process with a log that nobody reads, with signals, and with few descriptors. It goes on, or ends with an error.

use std::{
    io::{BufRead, BufReader, PipeReader, Read},
    process::Stdio,
};

use rustix::process::Signal;

use crate::support::program::{Taskhost, until};

/// A worker that writes its log to a pipe, read until it has started.
fn on_a_pipe(host: &Taskhost, words: &[&str]) -> (crate::support::program::Worker, BufReader<PipeReader>) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let worker = host.worker_logging_to(Stdio::from(writer), words);
    let mut log = BufReader::new(reader);
    let mut line = String::new();
    while !line.contains("worker started") {
        line.clear();
        assert!(log.read_line(&mut line).expect("a line") > 0, "the worker has ended");
    }
    (worker, log)
}

fn runs_and_stops(host: &Taskhost, worker: crate::support::program::Worker) {
    // Each writes a line to the log, because it waits for a plugin.
    host.ok(&["enqueue", "nosuch", "--unchecked"]);
    until("it is parked", || host.tasks(&["--state", "parked"]).len() == 1);
    assert_eq!(host.ok(&["enqueue", "add", "2", "2", "--wait=60s"]).trim(), "4");
    assert!(worker.stop().success(), "SIGTERM ends it in good order");
    assert!(host.json(&["workers", "--json"]).as_array().expect("a list").is_empty());
}

#[test]
fn a_worker_whose_log_has_no_reader_any_more_runs_tasks_and_stops() {
    let host = Taskhost::new();
    host.drop_in("math");
    let (worker, log) = on_a_pipe(&host, &["--lease", "6s"]);
    drop(log);
    runs_and_stops(&host, worker);
}

#[test]
fn a_worker_whose_log_is_not_read_runs_tasks_and_stops() {
    let host = Taskhost::new();
    host.drop_in("math");
    let (worker, log) = on_a_pipe(&host, &["--lease", "6s", "--log", "info,taskhost::worker=debug"]);
    // More lines than a pipe holds. Nobody reads them.
    let lines = "{\"task\":\"add\",\"args\":[1,1]}\n".repeat(2_000);
    assert_eq!(host.run_with(&["enqueue", "--bulk", "-"], &lines).code, 0);
    until("all have run", || host.tasks(&["--state", "succeeded"]).len() == 2_000);
    runs_and_stops(&host, worker);
    let mut rest = String::new();
    log.into_inner().read_to_string(&mut rest).expect("what the pipe held");
    assert!(rest.len() >= 32 << 10, "the pipe was full: {}", rest.len());
}

#[test]
fn sigquit_drains_as_sigterm_does() {
    let host = Taskhost::new();
    host.drop_in("probe");
    let worker = host.worker(&[]);
    let id = host.ok(&["enqueue", "sleep", "1"]).trim().to_owned();
    until("it runs", || host.tasks(&["--state", "running"]).len() == 1);
    assert!(worker.stop_by(Signal::QUIT).success());
    assert_eq!(host.ok(&["result", &id]).trim(), "1.0");
}

#[test]
fn sigusr1_says_what_runs_and_the_worker_goes_on() {
    let host = Taskhost::new();
    host.drop_in("probe");
    let worker = host.worker(&[]);
    let id = host.ok(&["enqueue", "sleep", "2"]).trim().to_owned();
    until("it runs", || host.tasks(&["--state", "running"]).len() == 1);
    for (signal, times) in [(Signal::USR1, 1), (Signal::USR2, 2)] {
        worker.signal(signal);
        worker.until("it says what runs", |worker| worker.log().matches("running now").count() == times);
    }
    worker.until("the task is named", |worker| worker.log().lines().any(|line| line.contains("runs") && line.contains(&id)));
    worker.signal(Signal::HUP);
    worker.until("it reads its plugins again", |worker| worker.log().contains("SIGHUP: reading plugins"));
    assert_eq!(host.ok(&["result", &id, "--wait"]).trim(), "2.0");
    assert!(worker.stop().success());
}

#[test]
fn sigtstp_stops_claims_and_not_the_worker() {
    let host = Taskhost::new();
    host.drop_in("math");
    let worker = host.worker(&["--lease", "3s"]);
    assert_eq!(host.ok(&["enqueue", "add", "1", "1", "--wait=60s"]).trim(), "2");
    worker.signal(Signal::TSTP);
    worker.until("it says so", |worker| worker.log().contains("claims nothing more"));
    let waited = host.run(&["enqueue", "add", "1", "2", "--wait=2s"]);
    assert_eq!(waited.code, 4, "{waited:?}");
    worker.signal(Signal::CONT);
    let waiting = host.tasks(&["--state", "ready,running,succeeded"]);
    assert_eq!(waiting.len(), 2);
    until("both have ended", || host.tasks(&["--state", "succeeded"]).len() == 2);
    assert!(worker.stop().success());
}

#[test]
fn a_task_that_waits_for_a_slot_is_not_said_to_wait_for_a_plugin() {
    let host = Taskhost::new();
    host.drop_in("probe");
    host.write("taskhost.toml", "[plugins.probe]\nconcurrency = 1\n");
    let worker = host.worker(&[]);
    host.ok(&["enqueue", "sleep", "600"]);
    let slot = host.ok(&["enqueue", "sleep", "600"]).trim().to_owned();
    let plugin = host.ok(&["enqueue", "nosuch", "--unchecked"]).trim().to_owned();
    until("two are parked", || host.tasks(&["--state", "parked"]).len() == 2);
    let listed = host.ok(&["task", "list", "--state", "parked"]);
    let line = |id: &str| listed.lines().find(|line| line.contains(id)).expect("it is listed").to_owned();
    assert!(line(&slot).contains("waiting for a free slot of the plugin that offers `sleep`"), "{listed}");
    assert!(line(&plugin).contains("waiting for a plugin that offers `nosuch`"), "{listed}");
    assert!(host.ok(&["task", "show", &slot]).contains("waits     for a free slot of the plugin that offers `sleep`"));
    let told = |id: &str| host.json(&["task", "show", id, "--json"])["waits_for"].as_str().map(str::to_owned);
    assert_eq!((told(&slot).as_deref(), told(&plugin).as_deref()), (Some("slot"), Some("plugin")));
    worker.signal(Signal::TERM);
    worker.stop();
}

#[test]
fn more_queues_than_descriptors_are_refused_at_the_start() {
    let host = Taskhost::new();
    let output = std::process::Command::new("prlimit")
        .args(["--nofile=60:60", env!("CARGO_BIN_EXE_taskhost"), "worker"])
        .current_dir(host.dir())
        .env("TASKHOST_STATE", host.dir().join("state"))
        .output()
        .expect("prlimit of util-linux");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("1 queues want some 64 open files, and this process may open 60; raise the limit"), "{said}");
}
