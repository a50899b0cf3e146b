//! Tags: `--tag` at enqueue, in bulk lines and in schedules; shown, and a filter of lists and changes.

use super::super::support::program::Taskhost;

#[test]
fn tasks_are_found_by_the_tags_they_were_enqueued_with() {
    let host = Taskhost::new();
    host.ok(&["enqueue", "add", "1", "1", "--unchecked", "--id", "a", "--tag", "vip", "--tag", "eu", "--tag", "vip"]);
    let lines = [
        r#"{"task":"add","id":"b","tags":["eu"]}"#,
        r#"{"task":"add","id":"c","tag":"us"}"#,
        r#"{"task":"add","id":"wrong","tags":["two words"]}"#,
        r#"{"task":"add","id":"wrong","tags":7}"#,
    ]
    .join("\n");
    let output = host.run_with(&["enqueue", "--unchecked", "--tag", "bulk", "--bulk", "-"], &lines);
    assert_eq!((output.code, &*output.stdout), (2, "b\nc\n"), "{output:?}");
    for said in ["line 3: a tag is 1 to 32 characters", "line 4: tags are a text or a list of texts"] {
        assert!(output.stderr.contains(said), "`{said}` is missing in: {}", output.stderr);
    }
    let listed = |words: &[&str]| -> Vec<String> {
        let mut ids: Vec<_> = host.tasks(words).iter().map(|task| task["id"].as_str().expect("an id").to_owned()).collect();
        ids.sort();
        ids
    };
    assert_eq!(listed(&["--tag", "vip"]), ["a"]);
    assert_eq!(listed(&["--tag", "eu"]), ["a", "b"]);
    assert_eq!(listed(&["--tag", "bulk", "--tag", "us"]), ["c"]);
    assert_eq!(host.json(&["task", "show", "a", "--json"])["tags"], serde_json::json!(["vip", "eu"]));
    assert!(host.json(&["task", "show", "a", "--json"]).get("options").is_none());
    assert!(host.ok(&["task", "show", "a"]).contains("tags      vip eu"));
    let table = host.ok(&["task", "list"]);
    assert!(table.contains("TAGS") && table.contains("bulk eu"), "{table}");
    host.ok(&["task", "cancel", "--tag", "eu", "--yes"]);
    assert_eq!(listed(&["--state", "cancelled"]), ["a", "b"]);
}

#[test]
fn a_schedule_gives_its_tags_to_its_tasks() {
    let host = Taskhost::new();
    host.ok(&["schedule", "add", "nightly", "0 3 * * *", "add", "1", "1", "--unchecked", "--tag", "night"]);
    assert_eq!(host.json(&["schedule", "list", "--json"])[0]["tags"], serde_json::json!(["night"]));
    let id = host.ok(&["schedule", "run", "nightly"]);
    assert_eq!(host.json(&["task", "show", id.trim(), "--json"])["tags"], serde_json::json!(["night"]));
}

#[test]
fn a_tag_that_is_none_is_refused() {
    let host = Taskhost::new();
    for odd in ["", "two words", "ä", "\u{1b}[1m", &"x".repeat(33)] {
        let output = host.run(&["enqueue", "add", "--unchecked", "--tag", odd]);
        assert!(output.code == 2 && output.stderr.contains("a tag is 1 to 32 characters"), "{output:?}");
        assert!(!output.stderr.contains('\u{1b}'), "{output:?}");
    }
    let nine: Vec<String> = (0..9).flat_map(|n| ["--tag".to_owned(), format!("t{n}")]).collect();
    let words: Vec<&str> = ["enqueue", "add", "--unchecked"].into_iter().chain(nine.iter().map(String::as_str)).collect();
    let output = host.run(&words);
    assert!(output.code == 2 && output.stderr.contains("a task has at most 8 tags: `t8` is one too many"), "{output:?}");
    assert!(host.tasks(&[]).is_empty());
}
