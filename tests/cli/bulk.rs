//! `enqueue --bulk` with files of other programs, and the file of refused lines.

use std::fs;

use serde_json::Value;

use super::{super::support::program::Taskhost, refused};

#[test]
fn a_byte_order_mark_costs_no_line() {
    let host = Taskhost::new();
    host.write("marked.ndjson", "\u{feff}{\"task\":\"add\",\"id\":\"a\"}\r\n{\"task\":\"add\",\"id\":\"b\"}\r\n\r\n");
    assert_eq!(host.ok(&["enqueue", "--unchecked", "--bulk", "marked.ndjson"]), "a\nb\n");
    host.write("taskhost.toml", "\u{feff}prefix = 'other'\r\nlease = '10s'\r\n[plugins.math]\r\nmemory = '1MiB'\r\n");
    host.ok(&["queue", "list"]);
    host.write("taskhost.toml", "\u{feff}lease = '10s'\r\nlese = '1s'\r\n");
    refused(&host.run(&["queue", "list"]), 2, &["taskhost.toml:2", "`lese`"]);
    fs::remove_file(host.dir().join("taskhost.toml")).unwrap();
    let args = host.run_with(&["enqueue", "add", "--unchecked", "--args-json", "-", "--id", "c"], "\u{feff}[1,1]");
    assert_eq!(args.code, 0, "{args:?}");
    let utf16: Vec<u8> = "\u{feff}{\"task\":\"add\"}\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    fs::write(host.dir().join("utf16.ndjson"), utf16).unwrap();
    refused(&host.run(&["enqueue", "--unchecked", "--bulk", "utf16.ndjson"]), 2, &["UTF-16", "UTF-8"]);
}

#[test]
fn every_refused_line_is_in_a_file_that_can_be_mended_and_enqueued() {
    let host = Taskhost::new();
    let large = "x".repeat(2 << 20);
    let line = |task: &str, id: &str, number: u32| {
        format!("{{\"task\":\"{task}\",\"args\":[{number},12345678901234567890.5],\"id\":\"{id}-{number}\"}}\n")
    };
    let mut text: String = (0..60).map(|number| line("add", "good", number) + &line("two words", "bad", number)).collect();
    text += "no json\n{\"task\":\"add\",\"args\":[\"";
    text += &large;
    text += "\"]}\n";
    host.write("tasks.ndjson", &text);
    let short = host.run(&["enqueue", "--unchecked", "--bulk", "tasks.ndjson"]);
    assert!(short.code == 2 && short.stderr.contains("--rejected FILE"), "{}", short.stderr);

    let output = host.run(&["enqueue", "--unchecked", "--bulk", "tasks.ndjson", "--rejected", "rejected.ndjson"]);
    assert_eq!(output.code, 2, "{output:?}");
    for word in ["62 lines were refused", "they stand in `rejected.ndjson`"] {
        assert!(output.stderr.contains(word), "`{word}` is missing in: {}", output.stderr);
    }
    let kept = fs::read_to_string(host.dir().join("rejected.ndjson")).unwrap();
    let lines: Vec<Value> = kept.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert_eq!(lines.len(), 62);
    assert!(lines[0]["refused"].as_str().unwrap().starts_with("line 2: a task name starts with"), "{}", lines[0]);
    assert!(kept.contains("12345678901234567890.5"), "no number is changed");
    assert_eq!(lines[60]["line"], "no json");
    assert!(lines[61]["refused"].as_str().unwrap().contains("payload limit"));

    // An existing file is not overwritten.
    refused(&host.run(&["enqueue", "--unchecked", "--bulk", "tasks.ndjson", "--rejected", "rejected.ndjson"]), 2, &["is there already"]);

    let mended = kept.replace("two words", "add");
    host.write("mended.ndjson", &mended.lines().take(60).collect::<Vec<_>>().join("\n"));
    let ids = host.ok(&["enqueue", "--unchecked", "--bulk", "mended.ndjson", "--rejected", "again.ndjson"]);
    assert_eq!((ids.lines().count(), ids.lines().next()), (60, Some("bad-0")));
    assert!(!host.dir().join("again.ndjson").exists(), "nothing was refused");
    refused(&host.run(&["enqueue", "add", "--rejected", "x"]), 2, &["--bulk"]);
}

#[test]
fn a_result_is_json_with_its_state_however_the_task_ended() {
    let host = Taskhost::new();
    host.ok(&["enqueue", "add", "1", "1", "--unchecked", "--id", "waits"]);
    let waits = host.run(&["result", "waits", "--json"]);
    let view: Value = serde_json::from_str(&waits.stdout).unwrap();
    assert_eq!((waits.code, &view["state"]), (4, &"ready".into()), "{waits:?}");
    host.ok(&["task", "cancel", "waits"]);
    let cancelled = host.run(&["result", "waits", "--json"]);
    let view: Value = serde_json::from_str(&cancelled.stdout).unwrap();
    assert_eq!((cancelled.code, &view["state"]), (1, &"cancelled".into()), "{cancelled:?}");
    host.drop_in("math");
    let _worker = host.worker(&[]);
    host.ok(&["enqueue", "add", "1", "1", "--unchecked", "--id", "done", "--wait"]);
    let view = host.json(&["result", "done", "--json", "--wait=30s"]);
    assert_eq!((&view["state"], &view["result"]), (&"succeeded".into(), &2.into()));
}
