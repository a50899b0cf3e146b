//! History, events of all queues, edits, notes of changes, and workers that are asked to drain.

use serde_json::{Value, json};

use super::access::token;
use crate::support::{
    http::Http,
    on_every_broker,
    program::{Taskhost, until},
};

fn history_and_totals_say_what_was(host: &Taskhost) {
    let (worker, http) = Http::worker(host, &["math", "probe"]);
    for _ in 0..3 {
        http.post("/v1/tasks?wait=30s", r#"{"task":"add","args":[1,1]}"#).ok(201);
    }
    http.post("/v1/tasks?wait=30s", r#"{"task":"panic_task","args":["x"],"retries":0}"#).ok(201);
    let totals = http.get("/v1/queues/default").ok(200)["totals"].clone();
    assert_eq!(totals, json!({"enqueued": 4, "succeeded": 3, "dead": 1, "cancelled": 0}));
    http.post("/v1/queues/default/pause", "").ok(200);
    for _ in 0..2 {
        http.post("/v1/tasks", r#"{"task":"add","args":[1,1]}"#).ok(201);
    }
    // A worker records its last counts when it ends.
    assert!(worker.stop().success());
    let (_server, http) = Http::serve(host, &[]);
    for step in ["1m", "10m", "1d"] {
        let history = http.get(&format!("/v1/history?step={step}")).ok(200);
        let points = history["points"].as_array().expect("points");
        assert_eq!(points.len(), 60, "{step}");
        let sum = |of: &dyn Fn(&Value) -> &Value| points.iter().map(|point| of(point).as_u64().unwrap_or(0)).sum::<u64>();
        assert_eq!(sum(&|point| &point["succeeded"]), 3, "{step}: {history}");
        assert_eq!(sum(&|point| &point["dead"]), 1, "{step}");
        assert_eq!(sum(&|point| &point["tasks"]["add"]["succeeded"]), 3, "{step}");
        assert_eq!(points.iter().filter_map(|point| point["ready"].as_u64()).max(), Some(2), "{step}");
        assert!(!history.to_string().contains("_queue"), "what is of a queue is no body: {history}");
        assert_eq!(sum(&|point| &point["ran"]["count"]), 4, "{step}");
        assert_eq!(sum(&|point| &point["waited"]["count"]), 4, "{step}");
        assert!(points.iter().any(|point| point["tasks"]["add"]["ran"]["p95_ms"].as_f64().is_some_and(|ms| ms > 0.0)), "{history}");
    }
    let of = |query: &str| http.get(&format!("/v1/history?{query}"));
    let page = http.get("/queues").body;
    assert!(page.contains("class=\"spark\"") && page.contains(", 4 in the hour"), "{page}");
    let add: u64 = of("task=add").ok(200)["points"].as_array().expect("points").iter().filter_map(|point| point["dead"].as_u64()).sum();
    assert_eq!(add, 0);
    assert_eq!(of("queue=other").ok(200)["points"][59]["succeeded"], 0);
    assert_eq!(of("from=10h").problem(400), "bad-request", "600 minutes are too many");
    assert_eq!(of("step=7m").problem(400), "bad-request");
    assert_eq!(of("from=1h&to=2h").ok(200)["points"].as_array().map(Vec::len), Some(0));
}

fn what_ends_is_told_to_those_who_watch(host: &Taskhost) {
    let (worker, http) = Http::worker(host, &["math"]);
    http.post("/v1/tasks?wait=30s", r#"{"task":"add","args":[1,1],"id":"early"}"#).ok(201);
    let watched = http.clone();
    let watching = std::thread::spawn(move || watched.events("/v1/events?queue=default", 3));
    until("it is told", || {
        if watching.is_finished() {
            return true;
        }
        http.post("/v1/tasks", r#"{"task":"add","args":[1,1]}"#).ok(201);
        std::thread::sleep(std::time::Duration::from_millis(300));
        false
    });
    let events = watching.join().expect("events");
    assert_eq!(events[0].0, "queues", "{events:?}");
    assert_eq!(events[0].1["queues"][0]["queue"], "default");
    let ends: Vec<_> =
        events.iter().filter(|(kind, _)| kind == "ends").filter_map(|(_, data)| data["ends"].as_array().cloned()).flatten().collect();
    assert!(!ends.is_empty() && ends.iter().all(|end| end["state"] == "succeeded" && end["queue"] == "default"), "{events:?}");

    let missed = http.clone().with("Last-Event-ID", "1").events("/v1/events", 1);
    assert!(missed[0].0 == "ends" && missed[0].1["ends"][0]["id"] == "early", "the reader learns what it missed: {missed:?}");
    assert!(worker.stop().success());
}

fn a_task_is_edited_and_run_again(host: &Taskhost) {
    let (worker, http) = Http::worker(host, &["math"]);
    http.post("/v1/tasks", r#"{"task":"add","args":[1,1],"delay":"1h","id":"later"}"#).ok(201);
    let patch = |id: &str, body: &str| http.ask("PATCH", &format!("/v1/tasks/{id}"), Some(body));
    assert_eq!(patch("later", r#"{"args":[20,22]}"#).ok(200)["args"], json!([20, 22]));
    assert_eq!(patch("later", r#"{"args":["x",1]}"#).problem(422), "invalid-arguments");
    assert_eq!(patch("later", r#"{"args":[1,2],"queue":"mail"}"#).problem(422), "invalid", "nothing else is edited");
    assert_eq!(patch("nobody", r#"{"args":[1,2]}"#).problem(404), "unknown-task");
    http.post("/v1/tasks/later/run-now", "").ok(200);
    assert_eq!(http.get("/v1/tasks/later?wait=30s").ok(200)["result"], 42);
    assert_eq!(patch("later", r#"{"args":[1,2]}"#).problem(409), "wrong-state");
    host.ok(&["enqueue", "add", "1", "1", "--in", "1h", "--id", "by-hand"]);
    assert!(host.ok(&["task", "edit", "by-hand", "[5, 6]"]).contains("by-hand"));
    assert_eq!(http.get("/v1/tasks/by-hand").ok(200)["args"], json!([5, 6]));
    let refused = host.run(&["task", "edit", "by-hand", "[5]"]);
    assert!(refused.code == 2 && refused.stderr.contains("add"), "{refused:?}");
    assert!(worker.stop().success());
}

fn each_change_is_noted_with_who_made_it(host: &Taskhost) {
    let (boss, one) = token(host, "boss", &["--scope", "admin"]);
    let (ops, two) = token(host, "ops", &["--scope", "operate,read"]);
    host.write("taskhost.toml", &(one + &two));
    let (_server, http) = Http::serve(host, &[]);
    let (boss, ops) = (http.clone().with_token(&boss), http.with_token(&ops));
    boss.post("/v1/tasks", r#"{"task":"add","args":[1,1],"id":"one"}"#).ok(201);
    ops.post("/v1/queues/default/pause", "").ok(200);
    ops.post("/v1/tasks/one/cancel?queue=default", "").ok(200);
    ops.post("/v1/tasks/one/cancel", "").problem(409);
    ops.post("/v1/queues/nowhere/pause", "").problem(404);
    let ordered = ops.post("/v1/operations", r#"{"verb":"delete","filter":{"state":"cancelled"}}"#).ok(202);
    ops.post("/v1/operations", r#"{"verb":"delete","filter":{"state":"cancelled"},"dry_run":true}"#).ok(200);
    assert_eq!(ops.get("/v1/audit").problem(403), "forbidden");
    let page = boss.get("/v1/audit?limit=2").ok(200);
    let notes = page["notes"].as_array().expect("notes");
    assert_eq!(notes[0]["what"], "POST /v1/operations", "the refused, the rehearsed and the enqueued are no changes: {page}");
    assert_eq!(notes[0]["about"], json!({"id": ordered["id"], "verb": "delete"}));
    assert_eq!((&notes[1]["by"], &notes[1]["from"], &notes[1]["status"]), (&json!("ops"), &json!("127.0.0.1"), &json!(200)));
    assert_eq!(notes[1]["about"], json!({"id": "one", "queue": "default"}));
    let next = page["next"].as_str().expect("there is more");
    let rest = boss.get(&format!("/v1/audit?cursor={next}")).ok(200);
    assert_eq!(rest["notes"].as_array().map(Vec::len), Some(1), "{rest}");
    assert_eq!(rest["notes"][0]["what"], "POST /v1/queues/{queue}/pause");
    assert_eq!(boss.get("/v1/audit?cursor=1-1").problem(409), "stale-cursor");
}

fn a_worker_is_asked_to_drain_and_ends(host: &Taskhost) {
    host.drop_in("math");
    let (_server, http) = Http::serve(host, &[]);
    let (mut one, mut other) = (host.worker(&[]), host.worker(&[]));
    let mut ids = Vec::new();
    until("both are listed", || {
        let workers = http.get("/v1/workers").ok(200)["workers"].as_array().cloned().expect("workers");
        ids = workers.iter().map(|worker| (worker["pid"].as_u64(), worker["id"].as_str().expect("an id").to_owned())).collect();
        ids.len() == 2
    });
    let id = |pid: u32| ids.iter().find(|(of, _)| *of == Some(u64::from(pid))).map(|(_, id)| id.clone()).expect("it is listed");
    assert_eq!(http.post(&format!("/v1/workers/{}/drain", id(one.pid())), "").ok(202)["outcome"], "asked-to-drain");
    assert_eq!(http.post("/v1/workers/box:1:nobody/drain", "").problem(404), "unknown-worker");
    one.until("it has heard", |one| one.log().contains("an operator asked this worker to drain"));
    assert!(one.ended().success());
    assert!(host.ok(&["workers", "--drain", &id(other.pid())]).contains("drain"));
    assert!(other.ended().success());
    until("none is listed", || http.get("/v1/workers").ok(200)["workers"] == json!([]));
}

on_every_broker! {
    history_and_totals_say_what_was
    what_ends_is_told_to_those_who_watch
    a_task_is_edited_and_run_again
    each_change_is_noted_with_who_made_it
    a_worker_is_asked_to_drain_and_ends
}
