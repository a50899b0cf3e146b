//! All commands and the log print text of guests, files and the broker. No text steers a terminal.

use std::{fs, time::Duration};

use taskhost_broker::{
    BrokerSettings, CatchUp, Directory, FileSchedule, Overlap, Schedule, Schedules, Source, WorkerInfo, sqlite::SqliteBroker,
};
use taskhost_core::{
    catalogue::{Body, Description, Hints, PluginInfo, PluginStatus},
    task::{Clock, CodeId, Millis, QueueName, SystemClock, TaskName, TaskOptions},
};

use super::super::support::program::{Output, Taskhost, until};

/// Clears the screen, renames the window, rings, deletes, and reverses the following text.
const HOSTILE: &str = "a\u{9b}2J\u{85}\u{7f}\u{202e}\u{200f}\u{2066}\u{61c}\u{1b}]0;x\u{7}\rb";

fn steers(c: char) -> bool {
    c.is_control() && c != '\n' && c != '\t' || "\u{61c}\u{200e}\u{200f}\u{202a}\u{202e}\u{2066}\u{2069}".contains(c)
}

fn assert_tame(what: &str, text: &str) {
    if let Some(found) = text.lines().find(|line| line.contains(steers)) {
        panic!("{what}: {found:?}");
    }
}

fn tame(host: &Taskhost, words: &[&str]) -> Output {
    let output = host.run(words);
    assert_tame(&format!("{words:?}"), &output.stdout);
    assert_tame(&format!("{words:?}"), &output.stderr);
    assert_ne!(output.code, 101, "it panicked: {output:?}");
    output
}

#[test]
fn no_command_lets_a_guest_steer_the_terminal() {
    let host = Taskhost::new();
    host.drop_in("probe");
    let odd = format!("plugins/{}bad.wasm", HOSTILE.replace('/', ""));
    fs::write(host.dir().join(&odd), "garbage").expect("any name but for a slash");
    let pretty = host.worker(&["--log", "debug"]);
    let json = host.worker(&["--log", "debug", "--log-format", "json"]);
    pretty.until("it serves `echo`", |_| host.lists("echo"));

    let said = serde_json::to_string(HOSTILE).unwrap();
    for (id, body) in [("good", "echo"), ("bad", "fail_permanently"), ("loud", "chatter"), ("mad", "panic_task")] {
        for by in ["one", "two"] {
            let id = format!("{id}-{by}");
            let header = format!("x={HOSTILE}");
            let waited = tame(&host, &["enqueue", body, &said, "--id", &id, "--retries", "0", "--header", &header, "--wait"]);
            assert!(waited.code <= 1, "{waited:?}");
            for words in [&["result", &id][..], &["result", &id, "--json"], &["task", "show", &id], &["task", "show", &id, "--json"]] {
                tame(&host, words);
            }
            until("its log is there", || tame(&host, &["task", "logs", &id]).code == 0);
            tame(&host, &["task", "logs", &id, "--json"]);
        }
    }
    // A script gets the value itself, also from the JSON of the view.
    let result: String = serde_json::from_str(&host.ok(&["result", "good-one"])).unwrap();
    assert_eq!(result, HOSTILE);
    assert_eq!(host.json(&["result", "good-one", "--json"])["result"], HOSTILE);
    assert!(tame(&host, &["task", "logs", "loud-one"]).stdout.contains("a\\u{9b}2J"));

    for words in [
        &["task", "list"][..],
        &["task", "list", "--json"],
        &["task", "list", "--state", "dead"],
        &["plugin", "list"],
        &["plugin", "list", "--json"],
        &["plugin", "inspect", &odd],
        &["plugin", "check", &odd],
        &["plugin", "check", "plugins/probe.wasm"],
        &["plugin", "history", HOSTILE],
        &["plugin", "rollback", HOSTILE],
        &["plugin", "verify", &odd, "--trust", HOSTILE],
        &["plugin", "sign", &odd, "--key", HOSTILE],
        &["run", "plugins/probe.wasm", "echo", &said],
        &["run", "plugins/probe.wasm", "chatter", &said],
        &["run", "plugins/probe.wasm", "fail_permanently", &said],
        &["run", "plugins/probe.wasm", "panic_task", &said],
        &["run", &odd, "echo", "1"],
        &["workers"],
        &["workers", "--json"],
        &["queue", "list"],
        &["enqueue", "echo", HOSTILE],
        &["enqueue", HOSTILE],
        &["enqueue", "--bulk", HOSTILE],
        &["result", HOSTILE],
        &["task", "list", "--state", HOSTILE],
        &["queue", "list", "--config", HOSTILE],
        &["queue", "list", "--broker", HOSTILE],
        &["queue", "list", "--broker", &format!("sqlite:{HOSTILE}/x.db")],
        &["schedule", "add", HOSTILE, HOSTILE, "echo"],
        &["schedule", "run", HOSTILE],
        &[HOSTILE],
    ] {
        tame(&host, words);
    }
    assert!(host.lists("bad.wasm"), "the file is listed");
    assert_tame("the log", &pretty.log());
    assert_tame("the JSON log", &json.log());
    let logs = pretty.log() + &json.log();
    assert!(logs.contains("a\\u{9b}2J") && logs.contains("a\\u009b2J"), "both have told what the bodies said");
    for line in json.log().lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
}

#[tokio::test]
async fn no_command_lets_what_stands_in_the_broker_steer_the_terminal() {
    let host = Taskhost::new();
    let broker = SqliteBroker::open(host.dir().join("taskhost.db"), BrokerSettings::default()).expect("a fresh file");
    let hostile = || HOSTILE.to_owned();
    let body = Body {
        name: TaskName::new("greet").unwrap(),
        doc: hostile(),
        parameters: Vec::new(),
        returns: serde_json::json!({ "title": HOSTILE }),
        hints: Hints { cron: Some(hostile()), ..Hints::default() },
    };
    let code = CodeId { plugin: hostile(), version: hostile(), digest: hostile() };
    let plugin = |file: String| PluginInfo {
        file,
        status: PluginStatus::Serving,
        serving: Some(code.clone()),
        error: Some(format!("{HOSTILE}\n{HOSTILE}")),
        warnings: vec![hostile()],
        description: Some(Description { version: hostile(), doc: hostile(), bodies: vec![body.clone()] }),
        granted: vec![hostile()],
        lacking: vec![hostile()],
    };
    let worker = WorkerInfo {
        id: hostile(),
        host: hostile(),
        pid: 1,
        started_at: Millis(0),
        queues: vec![QueueName::default()],
        concurrency: 1,
        running: Vec::new(),
        draining: false,
        plugins: vec![plugin("greet.wasm".to_owned()), plugin(hostile())],
        schedules: Some(vec![FileSchedule { name: format!("of the file {HOSTILE}"), keys: [(hostile(), hostile())].into(), paused: None }]),
    };
    broker.announce(&worker, Duration::from_secs(600)).await.expect("announced");
    let schedule = Schedule {
        name: hostile(),
        rule: hostile(),
        timezone: hostile(),
        task: TaskName::new("greet").unwrap(),
        args: serde_json::json!([HOSTILE]).to_string(),
        queue: QueueName::default(),
        catch_up: CatchUp::default(),
        overlap: Overlap::default(),
        source: Source::Cli,
        created_at: Millis(0),
        defined_at: Millis(0),
        says_paused: None,
        paused: false,
        last: SystemClock.now(),
        last_task: None,
        options: TaskOptions::default(),
    };
    broker.put_schedule(&schedule).await.expect("put");
    for words in [
        &["workers"][..],
        &["workers", "--json"],
        &["plugin", "list"],
        &["plugin", "list", "--json"],
        &["plugin", "inspect", "greet"],
        &["plugin", "inspect", "greet", "--json"],
        &["schedule", "list"],
        &["schedule", "list", "--json"],
        &["schedule", "remove", HOSTILE],
    ] {
        let output = tame(&host, words);
        assert_eq!(output.code, 0, "{words:?}: {output:?}");
    }
}
