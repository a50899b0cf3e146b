//! The reader of stdout leaves, or its disk is full. A command that changes things goes on to its end and reports it.

use std::{fs::File, process::Stdio};

use super::super::support::program::Taskhost;

/// A pipe whose reader has left.
fn nobody() -> Stdio {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

fn full() -> Stdio {
    File::options().write(true).open("/dev/full").expect("Linux has it").into()
}

fn count(host: &Taskhost, queue: &str, state: &str) -> u64 {
    let queues = host.json(&["queue", "list", "--json"]);
    let found = queues.as_array().unwrap().iter().find(|view| view["queue"] == queue);
    found.map_or(0, |view| view["counts"][state].as_u64().unwrap_or(0))
}

fn lines(queue: &str, count: usize) -> String {
    format!("{{\"task\":\"add\",\"args\":[1,1],\"queue\":\"{queue}\"}}\n").repeat(count)
}

/// All commands that change tasks, one after the other, with a `stdout` that takes nothing.
fn change_everything(host: &Taskhost, stdout: fn() -> Stdio, code: i32, said: &str) {
    let change = |words: &[&str]| {
        let output = host.run_into(words, stdout());
        assert_eq!(output.code, code, "{words:?}: {output:?}");
        assert!(output.stderr.contains(said) && !output.stderr.contains("panicked"), "{words:?}: {output:?}");
        // The advice about a new key or project is still printed.
        assert!(!said.is_empty() || output.stderr.is_empty() || words[0] == "plugin", "{words:?}: {output:?}");
        output.stderr
    };
    host.write("many.ndjson", &lines("many", 5_000));
    change(&["enqueue", "--unchecked", "--bulk", "many.ndjson"]);
    assert_eq!(count(host, "many", "ready"), 5_000);
    host.write("few.ndjson", &lines("few", 40));
    change(&["enqueue", "--unchecked", "--bulk", "few.ndjson"]);
    change(&["task", "cancel", "--queue", "few", "--yes"]);
    assert_eq!(count(host, "few", "cancelled"), 40);
    change(&["task", "retry", "--queue", "few", "--yes"]);
    assert_eq!(count(host, "few", "ready"), 40);
    change(&["task", "delete", "--queue", "few", "--yes"]);
    assert_eq!(host.tasks(&["--queue", "few"]).len(), 0);
    change(&["queue", "purge", "many", "--yes"]);
    assert_eq!(count(host, "many", "ready"), 0);
    change(&["queue", "pause", "many", "--create"]);
    change(&["queue", "resume", "many"]);

    change(&["schedule", "add", "bu", "@daily", "add", "--unchecked"]);
    change(&["schedule", "pause", "bu"]);
    change(&["schedule", "resume", "bu"]);
    change(&["schedule", "run", "bu"]);
    change(&["schedule", "remove", "bu"]);
    assert_eq!((host.tasks(&[]).len(), host.json(&["schedule", "list", "--json"])), (1, serde_json::json!([])));

    let told = change(&["enqueue", "add", "--unchecked", "--queue", "one"]);
    let id = host.tasks(&["--queue", "one"])[0]["id"].as_str().unwrap().to_owned();
    assert!(said.is_empty() || told.contains(&id), "the id is not lost: {told}");

    change(&["plugin", "new", "greetings"]);
    assert!(host.dir().join("greetings/src/lib.rs").is_file());
    change(&["plugin", "keygen", "deploy"]);
    for name in ["a", "b", "c"] {
        host.write(&format!("{name}.wasm"), name);
    }
    change(&["plugin", "sign", "a.wasm", "b.wasm", "c.wasm", "--key", "deploy.key"]);
    for name in ["a", "b", "c"] {
        assert!(host.dir().join(format!("{name}.wasm.minisig")).is_file(), "{name} is signed");
    }
}

#[test]
fn a_reader_that_leaves_ends_no_change_halfway() {
    for host in [Taskhost::new(), Taskhost::on_redis()] {
        let host = &host;
        // Other lines on stderr are not checked here.
        let quiet = |words: &[&str]| host.run_into_closed_pipe(words).code;
        host.write("more.ndjson", &lines("more", 4_000));
        assert_eq!(quiet(&["enqueue", "--unchecked", "--bulk", "more.ndjson"]), 0);
        assert_eq!(count(host, "more", "ready"), 4_000);
        host.ok(&["queue", "purge", "more", "--yes"]);
    }
    let host = Taskhost::new();
    let output = host.run_into(&["plugin", "new", "greetings"], nobody());
    assert!(output.code == 0 && output.stderr.contains("cargo plugin"), "what comes next is said all the same: {output:?}");
    std::fs::remove_dir_all(host.dir().join("greetings")).unwrap();
    change_everything(&host, nobody, 0, "");
}

#[test]
fn a_full_disk_under_stdout_ends_no_change_halfway_and_is_told() {
    for host in [Taskhost::new(), Taskhost::on_redis()] {
        change_everything(&host, full, 1, "all of it is done, but");
    }
    let host = Taskhost::new();
    host.write("odd.ndjson", &format!("{}no json\n", lines("odd", 3)));
    let output = host.run_into(&["enqueue", "--unchecked", "--bulk", "odd.ndjson"], full());
    assert_eq!((output.code, count(&host, "odd", "ready")), (2, 3), "{output:?}");
    assert!(output.stderr.contains("1 lines were refused") && output.stderr.contains("3 lines could not be written"), "{output:?}");
}

#[test]
fn a_reader_that_leaves_turns_no_bad_signature_into_a_good_one() {
    let host = Taskhost::new();
    host.ok(&["plugin", "keygen", "deploy"]);
    for name in ["a.wasm", "b.wasm"] {
        host.write(name, name);
    }
    host.ok(&["plugin", "sign", "a.wasm", "b.wasm", "--key", "deploy.key"]);
    host.write("b.wasm", "changed");
    let output = host.run_into_closed_pipe(&["plugin", "verify", "a.wasm", "b.wasm", "--trust", "deploy.pub"]);
    assert!(output.code == 1 && output.stderr.contains("b.wasm"), "{output:?}");
}
