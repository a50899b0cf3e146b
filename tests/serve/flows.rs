//! Flows by HTTP and on their pages.

use serde_json::{Value, json};

use super::{access::token, pages::order};
use crate::support::{
    http::Http,
    on_every_broker,
    program::{Taskhost, until},
};

fn step<'a>(flow: &'a Value, name: &str) -> &'a Value {
    flow["steps"].as_array().expect("steps").iter().find(|step| step["name"] == name).unwrap_or_else(|| panic!("no step {name} in {flow}"))
}

fn a_flow_is_started_looked_at_and_steered(host: &Taskhost) {
    let (worker, http) = Http::worker(host, &["math", "probe"]);
    let sum = json!({"flow": {"flow": 1, "name": "sum", "steps": {
        "a": {"task": "add", "args": [{"from": "input", "at": "/n"}, 1]},
        "b": {"task": "add", "args": [{"from": "a"}, 10]}}}, "input": {"n": 5}});
    let done = http.post("/v1/flows?wait=30s", &sum.to_string()).ok(201);
    assert_eq!((&done["state"], &done["result"], &done["progress"]["succeeded"]), (&json!("succeeded"), &json!(16), &json!(2)), "{done}");

    let started = http.post("/v1/flows", &order("words").to_string());
    assert_eq!(started.header("location"), Some("/v1/flows/order?queue=default"), "{started:?}");
    started.ok(201);
    http.post("/v1/flows", &order("words").to_string()).ok(200);
    until("it waits", || {
        let flow = http.get("/v1/flows/order").ok(200);
        step(&flow, "ok")["state"] == "waiting" && step(&flow, "fails")["state"] == "dead"
    });
    assert_eq!(http.get("/v1/flows").ok(200)["flows"].as_array().map(Vec::len), Some(2));
    assert_eq!(http.get("/v1/flows?queue=other&limit=1").ok(200)["flows"], json!([]));
    assert!(http.post("/v1/flows/order/pause", "").ok(200)["paused"].is_u64());
    assert_eq!(http.post("/v1/flows/order/pause", "").problem(409), "wrong-state");
    assert_eq!(
        http.post("/v1/signals", r#"{"flow":"order","name":"approved","value":{"yes":true}}"#).ok(200)["signals"],
        json!(["approved"])
    );
    assert_eq!(http.post("/v1/signals", r#"{"flow":"order","name":"approved"}"#).problem(409), "wrong-state");
    http.post("/v1/flows/order/resume", "").ok(200);
    until("it has ended", || http.get("/v1/flows/order").ok(200)["ended_at"].is_u64());
    assert_eq!(http.post("/v1/flows/order/retry", "").problem(409), "wrong-state");
    assert_eq!(http.post("/v1/flows/order/retry?only=nobody", "").problem(409), "wrong-state");
    assert_eq!(http.post("/v1/flows/order/cancel", "").problem(409), "wrong-state");
    assert_eq!(http.get("/v1/flows/nobody").problem(404), "unknown-flow");
    assert_eq!(http.post("/v1/signals", r#"{"flow":"nobody","name":"x"}"#).problem(404), "unknown-flow");
    assert_eq!(http.post("/v1/signals", r#"{"flow":"order","name":"a b"}"#).problem(422), "invalid");

    for (flow, pointer, kind) in [
        (json!({"flow": 1, "name": "f", "steps": {"a": {"task": "add", "args": [1, 1], "after": "a"}}}), "/steps", "invalid"),
        (json!({"flow": 1, "name": "f", "steps": {"a": {"task": "add", "args": [1, "x"]}}}), "/steps/a/args/1", "invalid-arguments"),
        (json!({"flow": 1, "name": "f", "steps": {"a": {"task": "ad"}}}), "/steps/a/task", "unknown-body"),
    ] {
        let refused = http.post("/v1/flows", &json!({"flow": flow}).to_string());
        assert_eq!((refused.problem(422), &refused.json()["pointer"]), (kind.to_owned(), &json!(pointer)), "{refused:?}");
    }
    assert!(worker.stop().success());
}

fn a_token_sees_and_starts_no_more_flows_than_it_may(host: &Taskhost) {
    let (all, all_lines) = token(host, "all", &["--scope", "read,enqueue,operate,payload"]);
    let (few, few_lines) = token(host, "few", &["--scope", "read,enqueue", "--task", "add"]);
    let (blind, blind_lines) = token(host, "blind", &["--scope", "read"]);
    host.write("taskhost.toml", &[all_lines, few_lines, blind_lines].concat());
    let (worker, http) = Http::worker(host, &["math", "probe"]);
    let by = |token: &String| http.clone().with_token(token);
    by(&all).post("/v1/flows", &order("secret words").to_string()).ok(201);
    until("a step is dead", || step(&by(&all).get("/v1/flows/order").ok(200), "fails")["state"] == "dead");
    let seen = by(&blind).get("/v1/flows/order");
    assert!(!seen.body.contains("secret words") && seen.ok(200)["masked"] == true, "{seen:?}");
    assert!(by(&all).get("/v1/flows/order").body.contains("secret words"));
    assert_eq!(by(&few).get("/v1/flows/order").problem(404), "unknown-flow");
    assert_eq!(by(&few).get("/v1/flows").ok(200)["flows"], json!([]));
    assert_eq!(by(&few).post("/v1/flows", &order("x").to_string()).problem(403), "forbidden");
    assert_eq!(by(&blind).post("/v1/flows/order/cancel", "").problem(403), "forbidden");
    assert!(worker.stop().success());
}

on_every_broker! {
    a_flow_is_started_looked_at_and_steered
    a_token_sees_and_starts_no_more_flows_than_it_may
}
