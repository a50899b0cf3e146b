//! Operations over many tasks, on every broker.

use serde_json::json;

use crate::support::{
    http::Http,
    on_every_broker,
    program::{Taskhost, until},
};

fn an_operation_outlives_the_server_that_runs_it(host: &Taskhost) {
    const TASKS: usize = 10_000;
    let task = |n: usize, tag: &str| format!("{{\"task\":\"add\",\"args\":[{n},1],\"delay\":\"1h\",\"tags\":[\"{tag}\"]}}");
    let lines: Vec<String> = (0..TASKS).map(|n| task(n, "old")).chain((0..10).map(|n| task(n, "new"))).collect();
    assert_eq!(host.run_with(&["enqueue", "--bulk", "-", "--unchecked"], &lines.join("\n")).code, 0);
    let (first, http) = Http::serve(host, &[]);
    let order = |dry_run: bool| json!({"verb": "cancel", "filter": {"tag": "old"}, "dry_run": dry_run}).to_string();
    let counted = http.post("/v1/operations", &order(true)).ok(200);
    assert_eq!((&counted["matches"], &counted["complete"]), (&json!(TASKS), &json!(true)));
    let ordered = http.post("/v1/operations", &order(false)).ok(202);
    let place = format!("/v1/operations/{}", ordered["id"].as_str().expect("an id"));
    until("it has begun", || http.get(&place).ok(200)["done"]["changed"].as_u64().is_some_and(|changed| changed > 0));
    first.stop_by(rustix::process::Signal::KILL);

    let (second, http) = Http::serve(host, &[]);
    until("it has ended", || http.get(&place).ok(200)["state"] == "succeeded");
    let done = http.get(&place).ok(200);
    let cancelled = http.get("/v1/queues/default").ok(200)["counts"]["cancelled"].clone();
    assert_eq!((&cancelled, http.get("/v1/queues/default").ok(200)["counts"]["scheduled"].clone()), (&json!(TASKS), json!(10)), "{done}");
    // A page that was changed, and not written down, is not counted again.
    let changed = done["done"]["changed"].as_u64().expect("a number");
    assert!(changed <= TASKS as u64 && changed + 1_000 >= TASKS as u64, "{done}");
    assert_eq!(http.get("/v1/operations").ok(200)["operations"].as_array().map(Vec::len), Some(1));
    assert!(second.stop().success());
}

fn an_operation_does_what_it_was_ordered_and_no_more(host: &Taskhost) {
    host.write("taskhost.toml", "retries = 0\n");
    let (worker, http) = Http::worker(host, &["probe"]);
    for n in 0..20 {
        http.post("/v1/tasks", &format!("{{\"task\":\"panic_task\",\"args\":[\"x\"],\"id\":\"p{n}\"}}")).ok(201);
    }
    until("all are dead", || http.get("/v1/queues/default").ok(200)["counts"]["dead"] == 20);
    let ordered = http.post("/v1/operations", r#"{"verb":"retry","filter":{"state":"dead","task":"panic_task"}}"#).ok(202);
    let place = format!("/v1/operations/{}", ordered["id"].as_str().expect("an id"));
    until("it has ended", || http.get(&place).ok(200)["state"] == "succeeded");
    assert_eq!(http.get(&place).ok(200)["done"]["changed"], 20, "a task that dies again meanwhile is not retried again");
    for (odd, kind) in [
        (r#"{"verb":"retry","filter":{}}"#, "invalid"),
        (r#"{"verb":"burn","filter":{"state":"dead"}}"#, "invalid"),
        (r#"{"verb":"retry","filter":{"sate":"dead"}}"#, "bad-request"),
        (r#"{"verb":"retry","filter":{"state":"lost"}}"#, "bad-request"),
        (r#"{"verb":"retry"}"#, "invalid"),
    ] {
        let refused = http.post("/v1/operations", odd);
        assert_eq!(refused.problem(refused.status), kind, "{odd}: {refused:?}");
    }
    assert_eq!(http.get("/v1/operations/nobody").problem(404), "unknown-task");
    assert_eq!(http.ask("DELETE", &place, None).problem(409), "wrong-state");
    assert!(worker.stop().success());
}

on_every_broker! {
    an_operation_outlives_the_server_that_runs_it
    an_operation_does_what_it_was_ordered_and_no_more
}
