//! A worker as a process.

use rustix::process::Signal;

use crate::support::program::{Taskhost, until};

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
