//! All commands of the README's table with wrong arguments. They explain the mistake, change nothing, and never panic.

use super::super::support::program::Taskhost;

#[test]
fn every_command_that_is_asked_wrongly_says_so() {
    let host = Taskhost::new();
    host.write("garbage.wasm", "no component");
    host.write("tasks.ndjson", "{\"task\":\"add\"}\n");
    let cases: [&[&str]; 74] = [
        &["worker", "--lease", "soon"],
        &["worker", "--lease", "0s"],
        &["worker", "--lease", "1ms"],
        &["worker", "--drain", "-1s"],
        &["worker", "--queue", "two words"],
        &["worker", "--queue", "mail=0"],
        &["worker", "--queue", "mail=many"],
        &["worker", "--concurrency", "0"],
        &["worker", "--concurrency", "many"],
        &["worker", "--threads", "-1"],
        &["worker", "--memory", "lots"],
        &["worker", "--guest-memory", "1.5GB"],
        &["worker", "--retries", "-1"],
        &["worker", "--timeout", "0"],
        &["worker", "--require-signed"],
        &["worker", "--plugin-dir-writable", "perhaps"],
        &["worker", "--plugins", "absent"],
        &["worker", "--log", "taskhost=loud"],
        &["worker", "--log-format", "xml"],
        &["worker", "--config", "absent.toml"],
        &["worker", "extra"],
        &["enqueue"],
        &["enqueue", ""],
        &["enqueue", "add", "--args-json", "{"],
        &["enqueue", "add", "--args-json", "7", "--unchecked"],
        &["enqueue", "add", "--arg", "a"],
        &["enqueue", "add", "--in", "1d", "--at", "2099-01-01T00:00:00Z"],
        &["enqueue", "add", "--expires", "later"],
        &["enqueue", "add", "--unique", "0s"],
        &["enqueue", "add", "--unique-key", "x"],
        &["enqueue", "add", "--id", "two words"],
        &["enqueue", "add", "--wait=soon"],
        &["enqueue", "--bulk", "absent.ndjson"],
        &["enqueue", "add", "--bulk", "tasks.ndjson"],
        &["result"],
        &["result", "two words"],
        &["result", "absent"],
        &["result", "absent", "--wait=1s"],
        &["task"],
        &["task", "list", "--limit", "-1"],
        &["task", "list", "--older", "long"],
        &["task", "show", "absent"],
        &["task", "logs", "absent", "--queue", "absent"],
        &["task", "cancel"],
        &["task", "cancel", "absent"],
        &["task", "retry", "absent", "--state", "dead"],
        &["task", "delete", "absent", "--queue", "absent"],
        &["queue", "pause"],
        &["queue", "pause", "two words"],
        &["queue", "purge", ""],
        &["schedule", "add", "x"],
        &["schedule", "add", "x", "* * *", "add", "--unchecked"],
        &["schedule", "add", "x", "* * * * *", "add", "--unchecked", "--overlap", "perhaps"],
        &["schedule", "add", "two words", "* * * * *", "add", "--unchecked"],
        &["schedule", "pause", "absent"],
        &["schedule", "resume", "absent"],
        &["schedule", "run", "absent"],
        &["plugin", "inspect", "absent"],
        &["plugin", "inspect", "garbage.wasm"],
        &["plugin", "check", "absent.wasm"],
        &["plugin", "check", "garbage.wasm"],
        &["plugin", "new", "../x"],
        &["plugin", "keygen"],
        &["plugin", "sign", "garbage.wasm", "--key", "absent.key"],
        &["plugin", "sign", "garbage.wasm", "--key", "tasks.ndjson"],
        &["plugin", "verify", "garbage.wasm", "--trust", "absent.pub"],
        &["plugin", "verify", "garbage.wasm", "--trust", "tasks.ndjson"],
        &["plugin", "rollback", "absent"],
        &["plugin", "wit", "extra"],
        &["workers", "extra"],
        &["run", "garbage.wasm", "add"],
        &["run", "absent.wasm", "add"],
        &["bench", "--plugin", "absent.wasm", "--only", "idle"],
        &["bench", "--only", "everything"],
    ];
    for words in cases {
        let output = host.run(words);
        assert!(matches!(output.code, 1 | 2), "{words:?}: {output:?}");
        assert_eq!(output.stdout, "", "{words:?}");
        let first = output.stderr.lines().next().unwrap_or_default();
        assert!(first.starts_with("taskhost: ") || first.starts_with("error: ") || words.len() == 1, "{words:?}: {output:?}");
        assert!(!output.stderr.contains("panicked") && !output.stderr.contains("RUST_BACKTRACE"), "{words:?}: {output:?}");
    }
    assert_eq!(host.json(&["task", "list", "--json"]), serde_json::json!([]), "nothing was enqueued");
    assert_eq!(host.json(&["schedule", "list", "--json"]), serde_json::json!([]));
}
