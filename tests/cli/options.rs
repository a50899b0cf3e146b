//! The options of `enqueue`, once a worker runs the task.

use serde_json::Value;
use taskhost_core::task::{Clock, SystemClock};

use super::super::support::program::{Taskhost, until};

fn now() -> u64 {
    SystemClock.now().0
}

/// A host whose worker serves `math` and `probe`.
fn serving(host: &Taskhost) -> super::super::support::program::Worker {
    host.drop_in("math");
    host.drop_in("probe");
    let worker = host.worker(&["--log-format", "json", "--log", "debug"]);
    worker.until("it serves `about`", |_| host.lists("about") && host.lists("add"));
    worker
}

#[test]
fn times_are_kept_as_they_were_given() {
    let host = Taskhost::new();
    let day = 1_000 * 60 * 60 * 24;
    host.ok(&["enqueue", "add", "--unchecked", "--id", "at", "--at", "2099-01-31T09:00:00+08:00", "--expires", "2099-02-01T00:00:00Z"]);
    let shown = host.json(&["task", "show", "at", "--json"]);
    assert_eq!((&shown["state"], &shown["due_at"]), (&"scheduled".into(), &4_073_504_400_000_u64.into()));
    assert_eq!(shown["expires_at"], 4_073_587_200_000_u64);

    let before = now();
    host.ok(&["enqueue", "add", "--unchecked", "--id", "in", "--in", "1d", "--expires", "2d", "--retries", "7"]);
    let shown = host.json(&["task", "show", "in", "--json"]);
    let (due, expires) = (shown["due_at"].as_u64().unwrap(), shown["expires_at"].as_u64().unwrap());
    assert!((before + day..=now() + day).contains(&due), "{due} is not a day from {before}");
    assert!((before + 2 * day..=now() + 2 * day).contains(&expires), "{expires} is not two days from {before}");
    assert_eq!(shown["max_attempts"], 8);
}

#[test]
fn what_has_expired_does_not_run() {
    let host = Taskhost::new();
    host.ok(&["enqueue", "add", "1", "1", "--unchecked", "--id", "late", "--expires", "1"]);
    let _worker = serving(&host);
    until("it has ended", || host.json(&["task", "show", "late", "--json"])["state"] == "cancelled");
    let output = host.run(&["result", "late"]);
    assert!(output.code == 1 && output.stderr.contains("expired"), "{output:?}");
}

#[test]
fn a_unique_key_stands_for_any_arguments_until_the_task_has_ended() {
    let host = Taskhost::new();
    let unique = ["--unchecked", "--unique", "1h", "--unique-key", "the sum"];
    let first = host.ok(&[&["enqueue", "add", "1", "1"], &unique[..]].concat());
    let other = host.run(&[&["enqueue", "add", "2", "2"], &unique[..]].concat());
    assert!(other.stdout == first && other.stderr.contains("nothing enqueued"), "{other:?}");
    let _worker = serving(&host);
    assert_eq!(host.ok(&["result", first.trim(), "--wait"]).trim(), "2");
    assert_eq!(host.ok(&[&["enqueue", "add", "2", "2", "--wait"], &unique[..]].concat()).trim(), "4", "the key is free again");
}

#[test]
fn results_are_kept_as_long_as_was_asked() {
    let host = Taskhost::new();
    let _worker = serving(&host);
    let none = host.ok(&["enqueue", "add", "1", "1", "--no-result"]);
    until("it is gone with its end", || host.run(&["task", "show", none.trim()]).code == 2);
    let short = host.ok(&["enqueue", "add", "1", "1", "--result-ttl", "1s"]);
    until("it is gone soon after", || host.run(&["task", "show", short.trim()]).code == 2);
    assert_eq!(host.ok(&["enqueue", "add", "1", "1", "--wait"]).trim(), "2");
}

#[test]
fn a_body_sees_its_options_and_its_words_are_kept() {
    let host = Taskhost::new();
    let worker = serving(&host);
    let words = ["enqueue", "about", "--id", "mine", "--timeout", "1h", "--retries", "4", "--header", "Origin=test", "--wait"];
    let about: Value = serde_json::from_str(&host.ok(&words)).unwrap();
    assert_eq!((&about["id"], &about["max_attempts"], &about["attempt"]), (&"mine".into(), &5.into(), &1.into()));
    assert_eq!(about["headers"], serde_json::json!([["origin", "test"]]));
    assert!((3_500_000..=3_600_000).contains(&about["milliseconds_left"].as_u64().unwrap()), "{about}");

    let id = host.ok(&["enqueue", "chatter", "Grüße, 世界"]);
    host.ok(&["result", id.trim(), "--wait"]);
    let mut logs = String::new();
    until("its words have come", || {
        logs = host.ok(&["task", "logs", id.trim()]);
        logs.matches("Grüße, 世界").count() >= 5
    });
    for word in ["stdout", "stderr", "WARN", "ERROR"] {
        assert!(logs.to_uppercase().contains(&word.to_uppercase()), "`{word}` is missing in {logs}");
    }

    // Every line of the worker's log is JSON. The lines of an attempt name it.
    let lines: Vec<Value> = worker.log().lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let said = lines.iter().find(|line| line.to_string().contains("Grüße")).expect("what a body logs is in the worker's log");
    for (key, value) in [("task", "chatter"), ("id", id.trim()), ("plugin", "probe"), ("queue", "default")] {
        assert!(said.to_string().contains(&format!("\"{key}\":\"{value}\"")), "`{key}` is missing in {said}");
    }
    assert!(said.to_string().contains("\"attempt\":1") && said.to_string().contains("\"worker\":"), "{said}");
}

#[test]
fn a_time_behind_wait_is_its_limit_where_the_body_takes_no_more_arguments() {
    let host = Taskhost::new();
    let unknown = host.run(&["enqueue", "add", "1", "1", "--unchecked", "--wait", "30s"]);
    assert!(unknown.code == 2 && unknown.stderr.contains("write `--wait=30s`") && unknown.stdout.is_empty(), "{unknown:?}");
    let _worker = serving(&host);
    assert_eq!(host.ok(&["enqueue", "add", "1", "1", "--wait", "30s"]).trim(), "2");
    assert_eq!(host.ok(&["enqueue", "--wait", "30s", "add", "1", "1"]).trim(), "2");
    assert_eq!(host.ok(&["enqueue", "add", "--wait", "30s", "1", "1"]).trim(), "2");
    let id = host.ok(&["enqueue", "add", "2", "2"]);
    assert_eq!(host.ok(&["result", id.trim(), "--wait", "30s"]).trim(), "4");
    let short = host.run(&["enqueue", "add", "1", "--wait", "30s"]);
    assert!(short.code == 2 && short.stderr.contains("missing `b`"), "{short:?}");
    // A body that wants the word as its argument gets it.
    let said = host.run(&["enqueue", "echo", "--wait", "30s"]);
    assert!(said.code == 0 && said.stdout.trim() == "\"30s\"" && said.stderr.contains("`--wait=30s`"), "{said:?}");
}
