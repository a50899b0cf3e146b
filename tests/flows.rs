//! Flows, with the real program: tasks that depend on tasks, whoever dies when.

use serde_json::{Value, json};

use super::support::{
    on_every_broker,
    program::{Taskhost, until},
};

fn flow(host: &Taskhost, id: &str) -> Value {
    host.json(&["flow", "show", id, "--json"])
}

fn step<'a>(flow: &'a Value, name: &str) -> &'a Value {
    flow["steps"].as_array().expect("steps").iter().find(|step| step["name"] == name).unwrap_or_else(|| panic!("no step {name} in {flow}"))
}

/// The example of the documents: a step that fails is undone, and retried alone once its cause is mended.
fn an_order_is_approved_fails_is_undone_and_retried(host: &Taskhost) {
    host.drop_in("order");
    host.write("order.json", include_str!("../plugins/order/order.json"));
    host.write("taskhost.toml", "[plugins.order]\nkv = true\n");
    let worker = host.worker(&[]);
    assert_eq!(host.ok(&["flow", "check", "order.json"]), "flow `order` can run: 5 steps\n");
    assert_eq!(host.ok(&["flow", "run", "order.json", "--input", r#"{"id": 7}"#, "--id", "o7"]), "o7\n");
    until("it waits for the approval", || step(&flow(host, "o7"), "ok")["state"] == "waiting");
    assert!(host.ok(&["flow", "list"]).contains("order"));
    let drawn = host.ok(&["flow", "show", "o7"]);
    assert!(drawn.contains("◷ ok") && drawn.contains("wait signal approved ← resize") && drawn.contains("succeeded 3 of 3"), "{drawn}");

    host.ok(&["signal", "o7", "approved", r#"{"yes": true}"#]);
    until("it has failed", || flow(host, "o7")["state"] == "failed");
    let failed = flow(host, "o7");
    assert!(failed["why"].as_str().expect("why").contains("account-7 has too little money for 3 pictures"), "{failed}");
    assert_eq!((&step(&failed, "resize")["undo"], &step(&failed, "alert")["state"]), (&json!("succeeded"), &json!("succeeded")));
    assert_eq!(host.tasks(&["--task", "unlink", "--state", "succeeded"]).len(), 3, "each picture is removed again");
    let again = host.run(&["signal", "o7", "approved", "1"]);
    assert!(again.code == 2 && again.stderr.contains("it has ended: it is failed"), "{again:?}");
    let odd = host.run(&["flow", "retry", "o7", "load"]);
    assert!(odd.code == 2 && odd.stderr.contains("no step `load` that is dead; dead are `bill`"), "{odd:?}");

    host.ok(&["enqueue", "top_up", "account-7", "10", "--wait=60s"]);
    host.ok(&["flow", "retry", "o7", "bill"]);
    until("it has succeeded", || flow(host, "o7")["state"] == "succeeded");
    let done = flow(host, "o7");
    assert_eq!(done["result"], json!("account-7 paid 3"), "{done}");
    assert_eq!(host.tasks(&["--task", "load_order"]).len(), 1, "what had succeeded, and was not undone, does not run again");
    assert!(host.ok(&["flow", "show", "o7", "--dot"]).contains("\"resize\" -> \"ok\""));
    assert!(worker.stop().success());
}

fn tasks_follow_each_other_and_one_is_for_failures(host: &Taskhost) {
    host.drop_in("math");
    host.drop_in("probe");
    let worker = host.worker(&[]);
    assert_eq!(host.ok(&["enqueue", "add", "1", "2", "--then", "add=[{\"from\": \"step1\"}, 10]", "--then", "echo", "--wait=60s"]), "13\n");
    let failed =
        host.run(&["enqueue", "add", "9223372036854775807", "1", "--then", "echo", "--else", "echo", "--id", "over", "--wait=60s"]);
    assert!(failed.code == 1 && failed.stdout.is_empty() && failed.stderr.contains("flow `over` is failed: step `step1`"), "{failed:?}");
    let told = host.json(&["task", "show", "over.otherwise.1", "--json"]);
    assert!(told["args"][0][0].as_str().expect("why").contains("overflow"), "{told}");
    assert_eq!((&told["flow"]["id"], &told["flow"]["node"]), (&json!("over"), &json!("otherwise")));
    let both = host.run(&["enqueue", "add", "1", "2", "--then", "echo", "--in", "1h"]);
    assert!(both.code == 2 && both.stderr.contains("--then"), "{both:?}");
    assert!(worker.stop().success());
}

/// A chord whose workers are killed while its members run: each member has one end, and the join comes once.
fn a_chord_outlives_its_workers(host: &Taskhost) {
    const MEMBERS: usize = 80;
    host.drop_in("math");
    host.drop_in("probe");
    host.write("taskhost.toml", "lease = \"1s\"\nretries = 9\nbackoff = \"1ms\"\n");
    let mut worker = host.worker(&["--concurrency", "4"]);
    let members: Vec<Value> = (0..MEMBERS).map(|n| json!({"task": "add", "args": [n, 1]})).collect();
    let steps = json!({
        "slow": {"task": "progress_demo", "args": [4, 50]},
        "all": {"group": members, "parallel": MEMBERS, "after": ["slow"]},
        "sum": {"task": "echo", "args": [{"from": "all"}]}});
    host.write("chord.json", &json!({"flow": 1, "name": "chord", "steps": steps}).to_string());
    host.ok(&["flow", "run", "chord.json", "--id", "c"]);
    for round in 0..3 {
        until("it goes on", || flow(host, "c")["ends"].as_u64().expect("a number") >= round * 20);
        worker.stop_by(rustix::process::Signal::KILL);
        worker = host.worker(&["--concurrency", "4"]);
    }
    until("it has ended", || flow(host, "c")["state"] == "succeeded");
    let expected: Vec<usize> = (1..=MEMBERS).collect();
    let done = flow(host, "c");
    assert_eq!((&done["result"], &done["ends"]), (&json!(expected), &json!(MEMBERS + 3)));
    assert_eq!(host.tasks(&["--task", "echo"]).len(), 1, "the join starts once");
    assert!(worker.stop().success());
}

fn a_flow_is_cancelled_paused_and_goes_on(host: &Taskhost) {
    host.drop_in("math");
    let worker = host.worker(&[]);
    let steps = json!({"wait": {"wait": {"signal": "go", "timeout": "1h"}}, "a": {"task": "add", "args": [1, 1], "after": "wait"}});
    host.write("f.json", &json!({"flow": 1, "name": "f", "steps": steps}).to_string());
    host.ok(&["flow", "run", "f.json", "--id", "p"]);
    assert_eq!(host.ok(&["flow", "pause", "p"]), "flow p is paused; it is running\n");
    host.ok(&["signal", "p", "go"]);
    assert_eq!(flow(host, "p")["steps"][0]["state"], "waiting");
    assert!(host.run(&["flow", "pause", "p"]).stderr.contains("it is paused already"));
    host.ok(&["flow", "resume", "p"]);
    until("it goes on", || flow(host, "p")["state"] == "succeeded");
    host.ok(&["flow", "run", "f.json", "--id", "c"]);
    assert_eq!(host.ok(&["flow", "cancel", "c"]), "flow c is asked to stop; it is cancelled\n");
    let known = host.run(&["flow", "run", "f.json", "--id", "c"]);
    assert!(known.code == 0 && known.stderr.contains("flow `c` is known, so nothing was started"), "{known:?}");
    assert!(worker.stop().success());
}

/// Nobody works on `default` here.
fn a_flow_stands_in_the_queue_of_its_first_task(host: &Taskhost) {
    host.drop_in("math");
    let worker = host.worker(&["--queue", "mail"]);
    let steps = json!({"a": {"task": "add", "args": [1, 1], "queue": "mail"}, "b": {"task": "add", "args": [{"from": "a"}, 1]}});
    host.write("f.json", &json!({"flow": 1, "name": "f", "steps": steps}).to_string());
    assert_eq!(host.ok(&["flow", "run", "f.json", "--wait=60s"]), "3\n");
    assert!(worker.stop().success());
}

/// Without a worker: a file is wrong by itself, and each fault is told with its place.
#[test]
fn a_wrong_flow_is_told_with_its_place() {
    let host = Taskhost::new();
    let many: Vec<Value> = (0..100_001).map(|_| json!("x")).collect();
    for (text, words) in [
        ("", "it is empty"),
        ("{\"flow\": 1,", "not JSON"),
        ("flow = 1\nname = ", "neither JSON (which begins with `{`) nor TOML"),
        ("<xml>", "neither JSON"),
        ("[]", "neither JSON"),
        ("flow = 1\nname = \"t\"\n[steps.a]\ntask = \"x\"\nafter = [\"b\"]\n[steps.b]\ntask = \"x\"\nafter = [\"a\"]\n", "/steps: "),
        (r#"{"flow": 1, "name": "f", "steps": {"a": {"task": "x", "after": "c"}}}"#, "/steps/a/after/0: there is no step `c`"),
        (r#"{"flow": 1, "name": "f", "steps": {"a": {"args": []}}}"#, "/steps/a: a step has a `task`"),
        (r#"{"flow": 1, "name": "f", "steps": {"a": {"task": "taskhost.x"}}}"#, "/steps/a/task: only the host itself"),
        ("\u{202e}{\u{1b}[31m", "neither JSON"),
    ] {
        host.write("f", text);
        let told = host.run(&["flow", "check", "f"]);
        assert!(told.code == 2 && told.stderr.contains(words) && told.stderr.contains("in `f`"), "{text}: {told:?}");
        assert!(!told.stderr.contains('\u{1b}') && !told.stderr.contains('\u{202e}'), "{told:?}");
    }
    host.write("f", &json!({"flow": 1, "name": "f", "steps": {"a": {"group": many}}}).to_string());
    let told = host.run(&["flow", "check", "f"]);
    assert_eq!(told.code, 2, "{told:?}");
    assert!(host.run(&["flow", "check", "none.json"]).stderr.contains("can't read `none.json`"));
    assert!(host.run(&["flow", "show", "nobody"]).stderr.contains("no flow `nobody`"));
    host.write("f", r#"{"flow": 1, "name": "f", "steps": {"a": {"task": "x"}}}"#);
    assert!(host.run(&["flow", "run", "f", "--input", "{"]).stderr.contains("--input is JSON"));
    assert!(host.run(&["signal", "x", "a b"]).stderr.contains("the name of a signal"));
    assert!(host.run(&["signal", "x", "a", "{"]).stderr.contains("the value of a signal is JSON"));
}

/// What the workers offer is known: a step that can't run is told before anything starts.
fn arguments_are_checked_before_a_flow_starts(host: &Taskhost) {
    host.drop_in("math");
    let worker = host.worker(&[]);
    for (step, words) in [
        (json!({"task": "ad", "args": [1, 1]}), "/steps/a/task: unknown task `ad`; did you mean `add`?"),
        (json!({"task": "add", "args": [1, "x"]}), "/steps/a/args/1: "),
        (json!({"task": "add", "args": [1]}), "/steps/a/args: "),
        (json!({"task": "add", "args": [1, {"from": "input"}, 3]}), "/steps/a/args: "),
        (json!({"group": [{"task": "add", "args": [1, 1]}, {"task": "add"}]}), "/steps/a/group/1/args: "),
        (json!({"task": "add", "args": [1, 1], "undo": {"task": "none"}}), "/steps/a/undo/task: "),
    ] {
        host.write("f", &json!({"flow": 1, "name": "f", "steps": {"a": step}}).to_string());
        for verb in ["check", "run"] {
            let told = host.run(&["flow", verb, "f"]);
            assert!(told.code == 2 && told.stderr.contains(words), "{step}: {told:?}");
        }
    }
    assert!(host.run(&["flow", "list"]).stdout.is_empty(), "nothing was started");
    host.write("f", &json!({"flow": 1, "name": "f", "steps": {"a": {"task": "add", "args": [{"from": "input"}, 1]}}}).to_string());
    // What comes from the input is known when it runs only: the body refuses it, and the flow says why.
    let wrong = host.run(&["flow", "run", "f", "--input", "\"x\"", "--wait"]);
    assert!(wrong.code == 1 && wrong.stderr.contains("step `a`: invalid-arguments"), "{wrong:?}");
    assert!(worker.stop().success());
}

on_every_broker! {
    an_order_is_approved_fails_is_undone_and_retried
    tasks_follow_each_other_and_one_is_for_failures
    a_chord_outlives_its_workers
    a_flow_is_cancelled_paused_and_goes_on
    a_flow_stands_in_the_queue_of_its_first_task
    arguments_are_checked_before_a_flow_starts
}
