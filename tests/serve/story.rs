//! What people do by HTTP, on every broker.

use serde_json::{Value, json};

use crate::support::{
    http::Http,
    on_every_broker,
    program::{Taskhost, until},
};

fn a_task_is_enqueued_waited_for_and_looked_at(host: &Taskhost) {
    let (worker, http) = Http::worker(host, &["math"]);
    let curl = http.clone().with("Content-Type", "application/x-www-form-urlencoded");
    let done = curl.post("/v1/tasks?wait=30s", r#"{"task":"add","args":[1,1]}"#);
    let view = done.ok(201);
    assert_eq!((&view["result"], &view["state"], &view["args"]), (&json!(2), &json!("succeeded"), &json!([1, 1])), "{view}");

    let place = done.header("location").expect("where it is");
    assert_eq!(http.get(place).ok(200)["id"], view["id"]);

    let wrong = http.post("/v1/tasks", r#"{"task":"add","args":[1,"x"]}"#);
    assert_eq!((wrong.problem(422).as_str(), &wrong.json()["pointer"]), ("invalid-arguments", &json!("/args/1")));
    let named = http.post("/v1/tasks", r#"{"task":"add","args":{"a":1,"b":"x"}}"#);
    assert_eq!((named.problem(422).as_str(), &named.json()["pointer"]), ("invalid-arguments", &json!("/args/b")));
    let unknown = http.post("/v1/tasks", r#"{"task":"ad","args":[1,1]}"#);
    assert_eq!((unknown.problem(422).as_str(), &unknown.json()["near"]), ("unknown-body", &json!(["add"])));
    assert_eq!(http.post("/v1/tasks", "{").problem(422), "invalid");
    assert_eq!(http.get("/v1/tasks/nobody").problem(404), "unknown-task");
    assert!(worker.stop().success());
}

fn a_request_that_is_sent_again_enqueues_nothing_more(host: &Taskhost) {
    let (_worker, http) = Http::worker(host, &["math"]);
    let keyed = http.clone().with("Idempotency-Key", "order 7");
    let first = keyed.post("/v1/tasks?wait=30s", r#"{"task":"add","args":[1,2]}"#).ok(201);
    let again = keyed.post("/v1/tasks?wait=30s", r#"{"task":"add","args":[1, 2]}"#).ok(200);
    assert_eq!((&first["id"], &first["result"]), (&again["id"], &again["result"]));
    assert_eq!(keyed.post("/v1/tasks", r#"{"task":"add","args":[2,2]}"#).problem(422), "idempotency-key-reused");

    let unique = r#"{"task":"add","args":[5,5],"delay":"1h","unique":"1h"}"#;
    let one = http.post("/v1/tasks", unique).ok(201);
    let same = http.post("/v1/tasks", unique).ok(200);
    assert_eq!((&one["id"], &same["state"]), (&same["id"], &json!("scheduled")));
}

fn many_lines_are_enqueued_and_each_is_answered(host: &Taskhost) {
    let (_worker, http) = Http::worker(host, &["math"]);
    let mut lines: Vec<String> = (0..2_000).map(|n| format!(r#"{{"task":"add","args":[{n},1],"id":"n{n}"}}"#)).collect();
    lines.insert(7, r#"{"task":"add","args":["x",1]}"#.into());
    lines.insert(8, "nonsense".into());
    lines.push(lines[0].clone());
    let bulk = http.clone().with("Content-Type", "application/x-ndjson").post("/v1/tasks/bulk", &lines.join("\n"));
    let answers: Vec<Value> = bulk.body.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((bulk.status, answers.len()), (200, lines.len()));
    assert!(answers.iter().enumerate().all(|(at, answer)| answer["line"] == at as u64 + 1), "in the order of the lines");
    assert_eq!(answers[7]["problem"]["type"], "/problems/invalid-arguments");
    assert_eq!(answers[8]["problem"]["type"], "/problems/invalid");
    assert_eq!((&answers[9]["id"], &answers.last().expect("answers")["duplicate"]), (&json!("n7"), &json!(true)));
    until("all have ended", || http.get("/v1/queues/default").ok(200)["counts"]["succeeded"] == 2_000);

    let mut seen = std::collections::BTreeSet::new();
    let mut cursor = String::new();
    loop {
        let page = http.get(&format!("/v1/tasks?state=succeeded&task=add&limit=300&cursor={cursor}")).ok(200);
        let ids = page["tasks"].as_array().expect("tasks").iter().map(|task| task["id"].to_string());
        ids.for_each(|id| assert!(seen.insert(id), "a task is listed once"));
        let Some(next) = page["next"].as_str() else { break };
        next.clone_into(&mut cursor);
    }
    assert_eq!(seen.len(), 2_000);
    assert_eq!(http.get("/v1/tasks?args=[7,1]").ok(200)["tasks"][0]["id"], "n7");
    assert_eq!(http.get("/v1/tasks?plugin=math&from=1h&limit=1").ok(200)["tasks"].as_array().map(Vec::len), Some(1));
    assert_eq!(http.get("/v1/tasks?to=1h").ok(200)["tasks"], json!([]));
    assert_eq!(http.get("/v1/tasks?cursor=7b7d").problem(409), "stale-cursor");
}

fn tasks_queues_and_schedules_are_steered(host: &Taskhost) {
    let (_worker, http) = Http::worker(host, &["math"]);
    let delayed = http.post("/v1/tasks", r#"{"task":"add","args":[1,1],"delay":"1h","id":"a/b"}"#).ok(201);
    assert_eq!((&delayed["state"], &delayed["id"]), (&json!("scheduled"), &json!("a/b")));
    http.post("/v1/tasks", r#"{"task":"add","args":[3,4],"delay":"1h","id":"soon"}"#).ok(201);
    assert_eq!(http.post("/v1/tasks/soon/run-now", "").ok(200)["outcome"], "ready");
    assert_eq!(http.get("/v1/tasks/soon?wait=30s").ok(200)["result"], 7);
    assert_eq!(http.post("/v1/tasks/soon/run-now", "").problem(409), "wrong-state");
    assert_eq!(http.post("/v1/tasks/a%2Fb/cancel", "").ok(200)["outcome"], "cancelled");
    assert_eq!(http.post("/v1/tasks/a%2Fb/cancel", "").problem(409), "wrong-state");
    assert_eq!(http.post("/v1/tasks/a%2Fb/retry", "").ok(200)["outcome"], "ready");
    assert_eq!(http.get("/v1/tasks/a%2Fb?wait=30s").ok(200)["result"], 2);
    assert_eq!(http.ask("DELETE", "/v1/tasks/a%2Fb", None).status, 204);
    assert_eq!(http.ask("DELETE", "/v1/tasks/a%2Fb", None).problem(404), "unknown-task");

    assert_eq!(http.post("/v1/queues/default/pause", "").ok(200)["paused"], true);
    http.post("/v1/tasks", r#"{"task":"add","args":[1,1],"id":"late"}"#).ok(201);
    assert_eq!(http.get("/v1/tasks/late?wait=1s").ok(200)["state"], "ready", "the newest view when the time is over");
    assert_eq!(http.post("/v1/queues/default/purge", "").ok(200)["purged"], 1);
    assert_eq!(http.post("/v1/queues/default/resume", "").ok(200)["paused"], false);
    assert_eq!(http.post("/v1/queues/defualt/pause", "").problem(404), "unknown-queue");

    let nightly = r#"{"rule":"0 3 * * *","task":"add","args":{"a":1,"b":2},"timezone":"Europe/Berlin","tags":["night"]}"#;
    let written = http.ask("PUT", "/v1/schedules/nightly", Some(nightly)).ok(200);
    assert_eq!((&written["args"], &written["next"].as_array().map(Vec::len)), (&json!([1, 2]), &Some(5)), "{written}");
    assert_eq!(http.ask("PUT", "/v1/schedules/odd", Some(r#"{"rule":"61 * * * *","task":"add","args":[1,1]}"#)).problem(422), "invalid");
    let plain = r#"{"rule":"0 4 * * *","task":"add","args":[1,1],"priority":7.0,"retries":2.0,"overlap":null,"tags":null}"#;
    let plain = http.ask("PUT", "/v1/schedules/plain", Some(plain)).ok(200);
    assert_eq!((&plain["priority"], &plain["max_attempts"], &plain["overlap"]), (&json!(7), &json!(3), &json!("allow")), "{plain}");
    assert_eq!(http.ask("DELETE", "/v1/schedules/plain", None).status, 204);
    let ran = http.post("/v1/schedules/nightly/run", "").ok(200);
    assert_eq!(http.get(&format!("/v1/tasks/{}?wait=30s", ran["id"].as_str().expect("an id"))).ok(200)["result"], 3);
    assert_eq!(http.post("/v1/schedules/nightly/pause", "").ok(200)["paused"], true);
    assert_eq!(http.get("/v1/schedules").ok(200)["schedules"][0]["paused"], true);
    assert_eq!(http.ask("DELETE", "/v1/schedules/nightly", None).status, 204);
    assert_eq!(http.get("/v1/schedules/nightly").problem(404), "unknown-schedule");

    let workers = http.get("/v1/workers").ok(200);
    assert_eq!(workers["workers"].as_array().map(Vec::len), Some(1));
    assert_eq!(http.get("/v1/catalogue").ok(200)["bodies"]["add"]["parameters"][0]["name"], "a");
    assert_eq!(http.get("/v1/plugins").ok(200)["plugins"][0]["file"], "math.wasm");
}

fn a_task_is_watched_until_its_end(host: &Taskhost) {
    let (worker, http) = Http::worker(host, &["probe"]);
    http.post("/v1/tasks", r#"{"task":"progress_demo","args":[3,400],"id":"watched"}"#).ok(201);
    let stream = http.get("/v1/tasks/watched/events");
    assert_eq!((stream.status, stream.header("content-type")), (200, Some("text/event-stream")), "{stream:?}");
    let events: Vec<Value> =
        stream.body.lines().filter_map(|line| line.strip_prefix("data: ")).map(|data| serde_json::from_str(data).expect("JSON")).collect();
    assert!(events.len() >= 2, "{stream:?}");
    assert_eq!(events.last().map(|event| &event["state"]), Some(&json!("succeeded")), "{stream:?}");
    assert!(events.windows(2).all(|pair| pair[0] != pair[1]), "each event is a change");
    assert_eq!(http.get("/v1/tasks/nobody/events").problem(404), "unknown-task");
    assert!(worker.stop().success());
}

fn what_a_body_logs_is_seen_while_it_runs(host: &Taskhost) {
    let (worker, http) = Http::worker(host, &["probe"]);
    http.post("/v1/tasks", r#"{"task":"progress_demo","args":[1000,100],"id":"talks"}"#).ok(201);
    let lines = || http.get("/v1/tasks/talks/log").body.lines().count();
    until("its lines are there before its end", || lines() > 0);
    assert_eq!(http.get("/v1/tasks/talks").ok(200)["state"], "running");
    let mut following = host.starting_into(&["task", "logs", "--follow", "talks"], "followed");
    let followed = || std::fs::read_to_string(host.dir().join("followed")).unwrap_or_default();
    let before = lines();
    until("later ones follow", || lines() > before && followed().lines().count() > before);
    let page = http.get("/tasks/talks").body;
    assert!(page.contains("step 1"), "{page}");
    let (kind, event) = http.events("/v1/tasks/talks/events", 1).remove(0);
    assert_eq!((kind.as_str(), &event["lines"][0]["message"], &event["lines"][0]["attempt"]), ("log", &json!("step 1"), &json!(1)));

    http.post("/v1/tasks/talks/cancel", "").ok(200);
    http.get("/v1/tasks/talks?wait=30s").ok(200);
    assert!(following.ended().success(), "who follows is let go at the end");
    let steps: Vec<_> = followed().lines().filter_map(|line| line.split("step ").nth(1).map(str::to_owned)).collect();
    let expected: Vec<_> = (1..=steps.len()).map(|step| format!("{step} of=1000")).collect();
    assert_eq!(steps, expected, "each line once, in order");
    assert_eq!(lines(), steps.len(), "and none is missing");
    assert!(worker.stop().success());
}

fn a_server_alone_serves_and_ends_gently(host: &Taskhost) {
    host.drop_in("math");
    let (server, http) = Http::serve(host, &[]);
    http.post("/v1/tasks", r#"{"task":"add","args":[20,22],"id":"early"}"#).ok(201);
    let waiting = std::thread::spawn({
        let http = http.clone();
        move || http.get("/v1/tasks/early?wait=60s").ok(200)
    });
    let worker = host.worker(&[]);
    assert_eq!(waiting.join().expect("an answer")["result"], 42);
    assert!(worker.stop().success());

    http.post("/v1/tasks", r#"{"task":"add","args":[1,1],"id":"never"}"#).ok(201);
    let waiting = std::thread::spawn({
        let http = http.clone();
        move || http.get("/v1/tasks/never?wait=60s").ok(200)
    });
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert!(server.stop().success());
    assert_eq!(waiting.join().expect("an answer")["state"], "ready", "a server that stops answers those that wait");
}

on_every_broker! {
    a_task_is_enqueued_waited_for_and_looked_at
    a_request_that_is_sent_again_enqueues_nothing_more
    many_lines_are_enqueued_and_each_is_answered
    tasks_queues_and_schedules_are_steered
    a_task_is_watched_until_its_end
    what_a_body_logs_is_seen_while_it_runs
    a_server_alone_serves_and_ends_gently
}
