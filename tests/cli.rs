//! The command line with the real program: its sentences, tables, JSON and exit codes.
//!
//! `options` follows the options of `enqueue` to the attempt. `ends` checks reports of ends. `pipes` closes the reader. `shown` tries to steer the
//! terminal. `address` looks for passwords. `database` removes the file. `bulk` feeds odd files. `wrong` uses commands wrongly. Snapshots
//! (`cli/snapshots`) hold the output without ids, times and sizes of terminals.

mod address;
mod bulk;
mod database;
mod ends;
mod options;
mod pipes;
mod shown;
mod tags;
mod top;
mod wrong;

use std::{fs, net::TcpListener, thread};

use super::support::{
    RedisServer,
    program::{Output, Taskhost},
};

/// A snapshot without ids, digests, ages and temporary directories.
macro_rules! shows {
    ($name:literal, $text:expr) => {
        insta::with_settings!({ filters => vec![
            (r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", "{id}                                "),
            (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", "{time}"),
            (r"\bin \d+[smh]", "in {age}"),
            (r"(\d  +)(now|\d+[sm])\b *", "$1{age}  "),
            (r#""oldest_ready_ms":\d+"#, "\"oldest_ready_ms\":\"{age}\""),
            (r#""(enqueued_at|started_at|ended_at|due_at|at)":\d+"#, "\"$1\":\"{time}\""),
            (r"/[^ `]*/\.tmp[A-Za-z0-9]+", "{dir}"),
        ], snapshot_path => "cli/snapshots", prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!($name, $text)
        })
    };
}

fn refused(output: &Output, code: i32, words: &[&str]) {
    assert_eq!(output.code, code, "{output:?}");
    assert_eq!(output.stdout, "", "what failed prints nothing to stdout");
    for word in words {
        assert!(output.stderr.contains(word), "`{word}` is missing in: {}", output.stderr);
    }
}

#[test]
fn every_command_has_a_help_text_with_an_example() {
    let commands: [&[&str]; 33] = [
        &[],
        &["worker"],
        &["enqueue"],
        &["result"],
        &["task"],
        &["task", "list"],
        &["task", "show"],
        &["task", "logs"],
        &["task", "cancel"],
        &["task", "retry"],
        &["task", "delete"],
        &["queue"],
        &["queue", "list"],
        &["queue", "pause"],
        &["queue", "resume"],
        &["queue", "purge"],
        &["schedule"],
        &["schedule", "add"],
        &["schedule", "list"],
        &["schedule", "pause"],
        &["schedule", "resume"],
        &["schedule", "run"],
        &["schedule", "remove"],
        &["plugin"],
        &["plugin", "list"],
        &["plugin", "inspect"],
        &["plugin", "check"],
        &["plugin", "history"],
        &["plugin", "rollback"],
        &["plugin", "new"],
        &["workers"],
        &["bench"],
        &["run"],
    ];
    let host = Taskhost::new();
    let mut whole: Vec<String> = Vec::new();
    for command in commands {
        let output = host.run(&[command, &["--help"]].concat());
        assert_eq!(output.code, 0, "{output:?}");
        if command.len() < 2 {
            assert!(output.stdout.contains("Example"), "{command:?} shows no example");
        }
        // The part that all help texts share is shown once, with the first.
        let text = if whole.is_empty() { output.stdout.clone() } else { without_globals(&output.stdout) };
        whole.push(format!("$ taskhost {} --help\n{text}\n", command.join(" ")));
    }
    shows!("help", whole.join(""));
}

fn without_globals(text: &str) -> String {
    let mut kept = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        inside = if line == "Everywhere:" { true } else { inside && !line.is_empty() };
        if !inside {
            kept.push(line);
        }
    }
    kept.join("\n")
}

#[test]
fn what_is_asked_wrongly_is_told_what_to_do() {
    let host = Taskhost::new();
    refused(&host.run(&["enqueue"]), 2, &["TASK"]);
    refused(&host.run(&["enqueue", "two words"]), 2, &["a task name starts with a letter", "`two words`"]);
    refused(&host.run(&["enqueue", "add", "--in", "soon", "--unchecked"]), 2, &["a duration is written like `30s`"]);
    refused(&host.run(&["enqueue", "add", "--at", "tomorrow"]), 2, &["2026-01-31T09:00:00+08:00"]);
    refused(&host.run(&["enqueue", "add", "--priority", "11"]), 2, &["from 0 to 9"]);
    refused(&host.run(&["enqueue", "add", "--header", "x"]), 2, &["NAME=VALUE"]);
    refused(&host.run(&["worker", "--plugin", "x"]), 2, &["--plugins"]);
    refused(&host.run(&["wrker"]), 2, &["worker"]);
    refused(&host.run(&["task", "list", "--state", "deaf"]), 2, &["scheduled, ready, parked"]);
    refused(&host.run(&["task", "cancel"]), 2, &["by id, or by a filter"]);
    refused(&host.run(&["result", "nowhere"]), 2, &["no task `nowhere`", "taskhost task list"]);
    refused(&host.run(&["queue", "list", "--broker", "postgres://x"]), 2, &["--broker", "redis://HOST:PORT"]);
    refused(&host.run(&["schedule", "add", "x", "61 * * * *", "add"]), 2, &["61"]);
    refused(&host.run(&["schedule", "add", "x", "* * * * *", "add", "--tz", "Asia/Shanghi"]), 2, &["Asia/Shanghai"]);
    refused(&host.run(&["schedule", "remove", "nothing"]), 2, &["taskhost schedule list"]);
    refused(&host.run(&["run", "absent.wasm", "add"]), 2, &["absent.wasm"]);
}

#[test]
fn a_settings_file_is_refused_with_line_and_key() {
    let host = Taskhost::new();
    host.write("taskhost.toml", "lease = '10s'\nconcurency = 3\n");
    refused(&host.run(&["queue", "list"]), 2, &["taskhost.toml:2", "`concurency`", "did you mean `concurrency`?"]);
    host.write("taskhost.toml", "[plugins.math]\nmemry = '1GiB'\n");
    refused(&host.run(&["queue", "list"]), 2, &["taskhost.toml", "line 2", "memry", "did you mean `memory`?"]);
    fs::remove_file(host.dir().join("taskhost.toml")).unwrap();
    refused(&host.run(&["queue", "list", "--config", "other.toml"]), 2, &["other.toml", "--config"]);
}

#[test]
fn brokers_that_are_no_brokers_end_with_exit_3_and_a_sentence() {
    let host = Taskhost::new();
    let unused = super::support::free_port();
    refused(&host.run(&["queue", "list", "--broker", &format!("redis://127.0.0.1:{unused}")]), 3, &[&unused.to_string()]);

    let locked = RedisServer::start_with(&["--requirepass", "right"]);
    let output = host.run(&["enqueue", "add", "1", "1", "--broker", &format!("redis://:wrong@127.0.0.1:{}", locked.port())]);
    refused(&output, 3, &["password"]);
    assert!(!output.stderr.contains("wrong@"), "a password is never shown: {}", output.stderr);

    let web = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = web.local_addr().unwrap().port();
    let served = thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = web.accept().unwrap();
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
    });
    refused(&host.run(&["queue", "list", "--broker", &format!("redis://127.0.0.1:{port}")]), 3, &["Redis"]);
    served.join().unwrap();

    host.write("not.db", &"no database at all. ".repeat(100));
    refused(&host.run(&["queue", "list", "--broker", "sqlite:not.db"]), 3, &["not.db"]);
    refused(&host.run(&["queue", "list", "--broker", "sqlite:absent/dir/x.db"]), 3, &["absent/dir/x.db"]);
}

#[test]
fn a_worker_refuses_a_plugin_directory_that_is_not_there() {
    let host = Taskhost::new();
    refused(&Output { stdout: String::new(), ..host.run(&["worker", "--plugins", "absent"]) }, 2, &["absent", "--plugins"]);
}

#[test]
fn arguments_beyond_the_payload_limit_are_refused() {
    let host = Taskhost::new();
    let large = format!("[\"{}\"]", "x".repeat(10 << 20));
    refused(&host.run_with(&["enqueue", "echo", "--unchecked", "--args-json", "-"], &large), 2, &["payload limit of 1 MiB"]);
    refused(
        &host.run_with(&["enqueue", "--unchecked", "--bulk", "-"], &format!("{{\"task\":\"echo\",\"args\":{large}}}\n")),
        2,
        &["line 1"],
    );
    assert_eq!(host.run(&["task", "list", "--json"]).stdout.trim(), "[]");
}

#[test]
fn bulk_lines_are_enqueued_or_named() {
    let host = Taskhost::new();
    let lines = "{\"task\":\"add\",\"args\":[1,1],\"id\":\"a\"}\n\nnot json\n{\"task\":\"add\",\"args\":[2,2],\"queue\":\"mail\",\"id\":\"b\",\"delay\":\"1h\"}\n{\"task\":\"two words\"}\n{\"tsk\":\"add\"}";
    let output = host.run_with(&["enqueue", "--unchecked", "--bulk", "-"], lines);
    assert_eq!((output.code, output.stdout.as_str()), (2, "a\nb\n"), "{output:?}");
    for word in ["line 3", "line 5", "line 6", "3 lines were refused, 2 tasks enqueued"] {
        assert!(output.stderr.contains(word), "`{word}` is missing in: {}", output.stderr);
    }
    assert_eq!(host.json(&["task", "show", "b", "--json"])["queue"], "mail");
    assert_eq!(host.json(&["task", "show", "b", "--json"])["state"], "scheduled");
}

#[test]
fn an_id_or_a_unique_task_is_enqueued_once() {
    let host = Taskhost::new();
    let first = host.run(&["enqueue", "add", "1", "1", "--unchecked", "--unique", "10m"]);
    let again = host.run(&["enqueue", "add", "1", "1", "--unchecked", "--unique", "10m"]);
    assert_eq!((again.code, &again.stdout), (0, &first.stdout), "{again:?}");
    assert!(again.stderr.contains("nothing enqueued"), "{again:?}");
    host.run(&["enqueue", "add", "--unchecked", "--id", "mine"]);
    let known = host.run(&["enqueue", "add", "--unchecked", "--id", "mine"]);
    assert!(known.stderr.contains("known already"), "{known:?}");
    assert_eq!(host.json(&["task", "list", "--json"]).as_array().unwrap().len(), 2);
}

#[test]
fn tables_and_json_show_what_there_is() {
    let host = Taskhost::new();
    shows!("empty", host.run(&["queue", "list"]).stderr);
    host.ok(&["enqueue", "add", "1", "1", "--unchecked", "--id", "first", "--header", "Origin=test"]);
    host.ok(&["enqueue", "concat", "[\"a\"]", "--unchecked", "--id", "second", "--queue", "mail", "--in", "1h", "--priority", "9"]);
    host.ok(&["enqueue", "add", "2", "2", "--unchecked", "--id", "third"]);
    host.ok(&["task", "cancel", "third"]);
    host.ok(&["queue", "pause", "mail"]);
    shows!("tasks", host.ok(&["task", "list"]));
    shows!("task", host.ok(&["task", "show", "first"]));
    shows!("task_json", host.ok(&["task", "show", "first", "--json"]));
    shows!("queues_json", host.ok(&["queue", "list", "--json"]));
    assert!(host.run(&["workers"]).stderr.contains("taskhost worker --plugins"));
    assert!(host.run(&["plugin", "list"]).stderr.contains("no live worker"));
}

#[test]
fn tasks_are_steered_by_id_or_by_filter() {
    let host = Taskhost::new();
    for id in ["a", "b", "c"] {
        host.ok(&["enqueue", "add", "--unchecked", "--id", id]);
    }
    refused(&host.run(&["task", "cancel", "--task", "add"]), 2, &["Cancel 3 tasks?", "--yes"]);
    host.ok(&["task", "cancel", "--task", "add", "--yes"]);
    let again = host.run(&["task", "cancel", "a"]);
    assert!(again.code == 2 && again.stderr.contains("already ended"), "{again:?}");
    assert_eq!(host.run(&["result", "a"]).code, 1);
    host.ok(&["task", "retry", "a"]);
    assert_eq!(host.json(&["task", "show", "a", "--json"])["state"], "ready");
    assert_eq!(host.run(&["result", "a"]).code, 4);
    host.ok(&["task", "delete", "--state", "cancelled", "--yes"]);
    refused(&host.run(&["queue", "purge", "default"]), 2, &["Delete the 1 waiting tasks", "--yes"]);
    assert_eq!(host.ok(&["queue", "purge", "default", "--yes"]).trim(), "1 tasks deleted from queue `default`");
}

#[test]
fn a_change_by_filter_is_made_to_all_that_fit_and_is_no_success_where_none_does() {
    let host = Taskhost::new();
    let lines = "{\"task\":\"add\",\"args\":[1,1]}\n".repeat(1_200);
    assert_eq!(host.run_with(&["enqueue", "--unchecked", "--bulk", "-"], &lines).code, 0);
    for (verb, state) in [("cancel", "ready"), ("retry", "cancelled"), ("delete", "ready")] {
        assert_eq!(host.ok(&["task", verb, "--state", state, "--yes"]).lines().count(), 1_200, "{verb}");
        refused(&host.run(&["task", verb, "--state", state, "--yes"]), 2, &["nothing to", verb, "task list"]);
    }
}

#[test]
fn waiting_ends_with_exit_4_and_says_what_is_missing() {
    let host = Taskhost::new();
    let output = host.run(&["enqueue", "add", "1", "1", "--unchecked", "--wait=3s"]);
    refused(&output, 4, &["there is no live worker", "has not ended after 3s", "--wait"]);
}

#[test]
fn schedules_show_their_next_firings() {
    let host = Taskhost::new();
    let added = host.ok(&["schedule", "add", "bu", "57 9 * * ?", "transferBU", "--tz", "Asia/Shanghai", "--unchecked"]);
    assert_eq!(added.lines().filter(|line| line.contains(" 09:57:00 +08:00")).count(), 5, "{added}");
    host.ok(&["schedule", "pause", "bu"]);
    assert!(host.ok(&["schedule", "list"]).contains("paused"));
    host.ok(&["schedule", "resume", "bu"]);
    let listed = host.json(&["schedule", "list", "--json"]);
    assert_eq!((&listed[0]["name"], &listed[0]["timezone"]), (&"bu".into(), &"Asia/Shanghai".into()));
    assert_eq!(listed[0]["next"].as_array().map(Vec::len), Some(5));
    let id = host.ok(&["schedule", "run", "bu"]);
    assert_eq!(host.json(&["task", "show", id.trim(), "--json"])["task"], "transferBU");
    host.ok(&["schedule", "remove", "bu"]);
}

#[test]
fn a_queue_that_is_misspelt_is_not_made_by_pausing_it() {
    let host = Taskhost::new();
    host.ok(&["enqueue", "add", "--unchecked", "--queue", "mail"]);
    refused(&host.run(&["queue", "pause", "mial"]), 2, &["no queue `mial` is known", "did you mean `mail`?", "--create"]);
    refused(&host.run(&["queue", "resume", "mial"]), 2, &["no queue `mial` is known"]);
    assert_eq!(host.json(&["queue", "list", "--json"]).as_array().map(Vec::len), Some(1));
    host.ok(&["queue", "pause", "mail"]);
    host.ok(&["queue", "resume", "mail"]);
    host.ok(&["queue", "pause", "later", "--create"]);
    assert_eq!(host.json(&["queue", "list", "--json"]).as_array().map(Vec::len), Some(2));
    host.ok(&["schedule", "add", "bu", "@daily", "add", "--queue", "reports", "--unchecked"]);
    host.ok(&["queue", "pause", "reports"]);
    let worker = host.worker(&["--queue", "idle"]);
    worker.until("its queue is known", |_| host.run(&["queue", "pause", "idle"]).code == 0);
}

#[test]
fn a_reader_that_goes_away_is_no_panic() {
    let host = Taskhost::new();
    let lines = "{\"task\":\"add\"}\n".repeat(3_000);
    assert_eq!(host.run_with(&["enqueue", "--unchecked", "--bulk", "-"], &lines).code, 0);
    let output = host.run_into_closed_pipe(&["task", "list", "--limit", "3000", "--json"]);
    assert_eq!((output.code, output.stderr.as_str()), (0, ""), "{output:?}");
    let output = host.run(&["task", "list", "--limit", "2000", "--json"]);
    assert!(output.stderr.contains("there are more; --limit 20000"), "a cut list says so, as JSON too: {}", output.stderr);
}

#[test]
fn a_new_plugin_project_is_whole() {
    let host = Taskhost::new();
    host.ok(&["plugin", "new", "greetings"]);
    for file in ["Cargo.toml", "src/lib.rs", "vendor/plugin-sdk/src/lib.rs", "vendor/wit/plugin.wit", ".cargo/config.toml"] {
        assert!(host.dir().join("greetings").join(file).is_file(), "{file}");
    }
    refused(&host.run(&["plugin", "new", "greetings"]), 2, &["not empty", "--dir"]);
    refused(&host.run(&["plugin", "new", "Greetings"]), 2, &["a-z"]);
    assert!(host.ok(&["plugin", "wit"]).contains("package taskhost:plugin@"));
}
