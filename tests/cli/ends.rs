//! Reports of ends: for callers that wait, also if nothing is kept, and for operators who steer tasks as the help says.

use std::thread;

use super::super::support::program::{Taskhost, until};

fn on_both() -> [Taskhost; 2] {
    [Taskhost::new(), Taskhost::on_redis()]
}

#[test]
fn a_wait_tells_a_success_although_no_result_is_kept() {
    for host in on_both() {
        host.write("taskhost.toml", "result_ttl = '0s'\n");
        host.drop_in("math");
        let worker = host.worker(&[]);
        worker.until("it serves `add`", |_| host.lists("add"));
        for _ in 0..5 {
            let output = host.run(&["enqueue", "add", "1", "1", "--wait"]);
            assert_eq!((output.code, output.stdout.trim()), (0, "2"), "{output:?}");
        }
        for words in [&["--no-result"][..], &["--result-ttl", "1ms"]] {
            let output = host.run(&[&["enqueue", "add", "2", "2", "--wait", "--id", words[0].trim_start_matches('-')], words].concat());
            assert_eq!((output.code, output.stdout.trim()), (0, "4"), "{output:?}");
        }
        assert_eq!(host.tasks(&[]), Vec::<serde_json::Value>::new(), "nothing is kept");
        // Nobody waited for this one.
        let id = host.ok(&["enqueue", "add", "1", "1"]);
        until("it is gone", || host.run(&["task", "show", id.trim()]).code == 2);
        let output = host.run(&["result", id.trim(), "--wait"]);
        assert!(output.code == 2 && output.stderr.contains("no task") && output.stderr.contains("be gone"), "{output:?}");
    }
}

#[test]
fn a_wait_for_a_task_that_is_deleted_ends_with_exit_1_and_says_so() {
    for host in on_both() {
        for words in [&["task", "delete", "doomed"][..], &["queue", "purge", "default", "--yes"]] {
            thread::scope(|scope| {
                let waits = scope.spawn(|| host.run(&["enqueue", "add", "1", "1", "--unchecked", "--id", "doomed", "--wait"]));
                until("it waits", || host.tasks(&[]).len() == 1);
                host.ok(words);
                let output = waits.join().expect("no panic");
                assert!(output.code == 1 && output.stderr.contains("deleted before it started"), "{words:?}: {output:?}");
                assert_eq!(host.run(&["task", "show", "doomed"]).code, 2, "it is gone");
            });
        }
    }
}

#[test]
fn task_retry_runs_delayed_tasks_at_once_as_its_help_says() {
    for host in on_both() {
        for id in ["a", "b", "c"] {
            host.ok(&["enqueue", "add", "--unchecked", "--id", id, "--in", "1h"]);
        }
        assert_eq!(host.ok(&["task", "retry", "a"]).trim(), "a ready");
        host.ok(&["task", "retry", "--state", "scheduled", "--yes"]);
        assert_eq!(host.tasks(&["--state", "ready"]).len(), 3);
    }
}

#[test]
fn a_state_that_a_verb_does_not_take_is_not_no_such_task() {
    let host = Taskhost::new();
    host.drop_in("probe");
    let worker = host.worker(&[]);
    worker.until("it serves `sleep`", |_| host.lists("sleep"));
    host.ok(&["enqueue", "sleep", "600", "--id", "runs"]);
    host.ok(&["enqueue", "sleep", "1", "--id", "waits", "--in", "1h"]);
    until("it runs", || host.tasks(&["--state", "running"]).len() == 1);
    let refused = |words: &[&str], said: &[&str]| {
        let output = host.run(words);
        assert_eq!(output.code, 2, "{output:?}");
        for word in said {
            assert!(output.stderr.contains(word), "`{word}` is missing in: {}", output.stderr);
        }
    };
    refused(&["task", "delete", "--state", "running", "--yes"], &["1 running", "`taskhost task cancel`"]);
    refused(&["task", "delete", "runs"], &["it runs", "`taskhost task cancel`"]);
    refused(&["task", "retry", "--state", "running", "--yes"], &["1 running", "only dead, cancelled and delayed tasks"]);
    refused(&["task", "delete", "--state", "running,scheduled", "--yes"], &["1 running", "1 of 2 tasks are as they were"]);
    assert_eq!(host.tasks(&[]).len(), 1, "what could be deleted is deleted");
    host.ok(&["task", "cancel", "runs"]);
    until("it has stopped", || host.tasks(&["--state", "cancelled"]).len() == 1);
    refused(&["task", "cancel", "--task", "sleep", "--yes"], &["1 cancelled", "what has ended can't be cancelled"]);
    refused(&["task", "cancel", "--task", "nobody", "--yes"], &["nothing to cancel", "no task is like that"]);
}

#[test]
fn a_bulk_line_knows_what_enqueue_knows() {
    let host = Taskhost::new();
    let line = r#"{"task":"add","args":[1,1],"id":"all","queue":"mail","in":"1h","priority":9,"retries":4,"timeout":"2m","unique":"1h",
        "unique_key":"sum","expires":"2099-02-01T00:00:00Z","ttl":"3h","headers":{"A":"b"}}"#
        .replace('\n', "");
    let lines = [
        &*line,
        r#"{"task":"add","args":[2,2],"id":"twin","queue":"mail","unique":3600000,"unique_key":"sum"}"#,
        r#"{"task":"add","id":"at","at":"2099-01-31T09:00:00+08:00","expires":"2d","retries":0,"result_ttl":0}"#,
        r#"{"task":"add","id":"wrong","unique_key":"sum"}"#,
        r#"{"task":"add","id":"wrong","timeout":"soon"}"#,
        r#"{"task":"add","id":"wrong","timeout":0}"#,
        r#"{"task":"add","id":"wrong","in":"1s","at":"2099-01-31T09:00:00+08:00"}"#,
    ]
    .join("\n");
    let output = host.run_with(&["enqueue", "--unchecked", "--bulk", "-"], &lines);
    assert_eq!((output.code, &*output.stdout), (2, "all\nall\nat\n"), "{output:?}");
    for said in ["line 4: `unique_key` needs `unique`", "line 5: `timeout`", "line 6: `timeout`", "line 7: give `delay` or `at`"] {
        assert!(output.stderr.contains(said), "`{said}` is missing in: {}", output.stderr);
    }
    let shown = host.json(&["task", "show", "all", "--json"]);
    assert_eq!((&shown["queue"], &shown["state"], &shown["priority"]), (&"mail".into(), &"scheduled".into(), &9.into()));
    assert_eq!((&shown["max_attempts"], &shown["expires_at"]), (&5.into(), &4_073_587_200_000_u64.into()));
    assert_eq!(shown["headers"], serde_json::json!([["a", "b"]]));
    let shown = host.json(&["task", "show", "at", "--json"]);
    assert_eq!((&shown["max_attempts"], &shown["due_at"]), (&1.into(), &4_073_504_400_000_u64.into()));
    assert!(shown["expires_at"].is_u64());
    // Options for all lines.
    let same = "{\"task\":\"add\",\"args\":[7,7]}\n".repeat(2);
    let output = host.run_with(&["enqueue", "--unchecked", "--unique", "1h", "--retries", "1", "--bulk", "-"], &same);
    let ids: Vec<&str> = output.stdout.lines().collect();
    assert!(output.code == 0 && ids.len() == 2 && ids[0] == ids[1], "{output:?}");
}
