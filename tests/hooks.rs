//! Hooks, with the real program: each end that was asked for is told, once, whoever dies when.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use data_encoding::BASE64;
use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use super::support::{
    on_every_broker,
    program::{Taskhost, until},
    receiver::Receiver,
    tiny::{Does, tiny},
};

const OLD: &str = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const NEW: &str = "C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

fn a_body_is_told_of_ends(host: &Taskhost) {
    host.write(
        "taskhost.toml",
        "retries = 1\nbackoff = \"1ms\"\n[hooks.tell]\non = [\"task.succeeded\", \"task.failed\", \"task.dead\", \"task.started\"]\n\
         tasks = [\"add\", \"panic_task\"]\ntask = \"echo\"\nqueue = \"told\"\npayload = true\n",
    );
    host.drop_in("math");
    host.drop_in("probe");
    let worker = host.worker(&["--queue", "default", "--queue", "told"]);
    assert_eq!(host.ok(&["enqueue", "add", "1", "2", "--id", "sum", "--wait=60s"]), "3\n");
    assert_eq!(host.run(&["enqueue", "panic_task", "as asked", "--id", "bad", "--wait=60s"]).code, 1);
    let told = |kind: &str, id: &str| {
        let events = host.tasks(&["--task", "echo", "--state", "succeeded"]).into_iter().map(|task| task["args"][0].clone());
        events.filter(|event| event["type"] == kind && event["data"]["id"] == id).collect::<Vec<Value>>()
    };
    until("all is told", || !told("task.dead", "bad").is_empty() && told("task.started", "bad").len() == 2);
    let sum = told("task.succeeded", "sum");
    assert_eq!((sum.len(), &sum[0]["data"]["result"], &sum[0]["data"]["args"]), (1, &json!(3), &json!([1, 2])));
    let (failed, dead) = (told("task.failed", "bad"), told("task.dead", "bad"));
    assert_eq!((failed.len(), dead.len(), &dead[0]["data"]["error"]["kind"]), (1, 1, &json!("panic")));
    assert_eq!((&failed[0]["data"]["attempt"], &dead[0]["data"]["attempt"]), (&json!(1), &json!(2)));
    assert_eq!(host.tasks(&["--task", "echo"]).len(), 6, "nothing is told of what tells");
    assert!(worker.stop().success());
}

/// The headers and the body of a delivery.
type Delivery = (BTreeMap<String, String>, String);

fn delivery(head: &str, body: &[u8]) -> Vec<Delivery> {
    let headers = head.lines().filter_map(|line| line.split_once(": ")).map(|(name, value)| (name.to_owned(), value.to_owned()));
    vec![(headers.collect(), String::from_utf8_lossy(body).into_owned())]
}

fn an_address_is_told_until_it_says_gone(host: &Taskhost) {
    let answers = Arc::new(Mutex::new(vec!["200 OK\r\n", "503 Busy\r\nretry-after: 1\r\n", "500 Oops\r\n"]));
    let own = answers.clone();
    let receiver = Receiver::answering(delivery, move || own.lock().expect("no panic").pop().unwrap_or("200 OK\r\n").to_owned());
    host.write(
        "taskhost.toml",
        &format!(
            "backoff = \"1ms\"\n[hooks.alerts]\non = [\"task.dead\"]\nurl = \"http://{}/hook?a=b\"\nsecrets = [\"whsec_{NEW}\", \"whsec_{OLD}\"]\n",
            receiver.at
        ),
    );
    host.drop_in("probe");
    let worker = host.worker(&[]);
    host.run(&["enqueue", "panic_task", "as asked", "--id", "first", "--retries", "0", "--wait=60s"]);
    until("it is delivered at last", || receiver.kept().len() == 3);
    let deliveries = receiver.kept();
    let ids: Vec<_> = deliveries.iter().map(|(headers, _)| headers["webhook-id"].clone()).collect();
    assert!(ids[0].starts_with("hook:alerts:first:") && ids.iter().all(|id| *id == ids[0]), "each try has one id: {ids:?}");
    for (headers, body) in &deliveries {
        let event: Value = serde_json::from_str(body).expect("JSON");
        assert_eq!((&event["type"], &event["data"]["id"]), (&json!("task.dead"), &json!("first")));
        assert_eq!(event["data"]["args"], Value::Null, "the payload is told only where it is asked for");
        let signed = format!("{}.{}.{body}", headers["webhook-id"], headers["webhook-timestamp"]);
        // Headers come in lower case here, so the signatures are compared like that.
        for key in [OLD, NEW] {
            let mac = <Hmac<Sha256> as Mac>::new_from_slice(&BASE64.decode(key.as_bytes()).expect("base64"))
                .expect("a key")
                .chain_update(&signed);
            let signature = format!("v1,{}", BASE64.encode(&mac.finalize().into_bytes())).to_lowercase();
            assert!(headers["webhook-signature"].split(' ').any(|given| given == signature), "{headers:?}");
        }
    }
    until("the delivery has succeeded", || host.tasks(&["--queue", "taskhost.hooks", "--state", "succeeded"]).len() == 1);

    answers.lock().expect("no panic").push("410 Gone\r\n");
    for id in ["second", "third"] {
        host.run(&["enqueue", "panic_task", "as asked", "--id", id, "--retries", "0", "--wait=60s"]);
        let dead = || host.tasks(&["--queue", "taskhost.hooks", "--state", "dead"]).len();
        until("its delivery is dead", || dead() == if id == "second" { 1 } else { 2 });
    }
    assert_eq!(receiver.kept().len(), 4, "who said 410 is told nothing more");
    assert!(host.ok(&["hook", "list"]).contains("disabled by its receiver"));
    host.ok(&["hook", "enable", "alerts"]);
    host.ok(&["task", "retry", "--queue", "taskhost.hooks", "--state", "dead", "--yes"]);
    until("they are delivered after all", || receiver.kept().len() == 6);
    assert_eq!(host.run(&["hook", "enable", "nobody"]).code, 2);
    assert!(worker.stop().success());
}

fn a_worker_that_dies_leaves_no_end_untold(host: &Taskhost) {
    const TASKS: usize = 1_500;
    host.write("taskhost.toml", "lease = \"1s\"\n[hooks.tell]\non = [\"task.succeeded\"]\ntask = \"nobody\"\nqueue = \"told\"\n");
    host.drop_in("math");
    let lines: Vec<String> = (0..TASKS).map(|n| format!("{{\"task\":\"add\",\"args\":[{n},1],\"id\":\"n{n}\"}}")).collect();
    host.run_with(&["enqueue", "--bulk", "-", "--unchecked"], &lines.join("\n"));
    for kill in 1..=3 {
        let worker = host.worker(&["--concurrency", "50"]);
        let ended = || host.tasks(&["--queue", "default", "--state", "succeeded"]).len();
        until("some have ended", || ended() >= kill * TASKS / 6);
        worker.stop_by(rustix::process::Signal::KILL);
    }
    let worker = host.worker(&[]);
    until("all have ended", || host.tasks(&["--queue", "default", "--state", "succeeded"]).len() == TASKS);
    let mut told: BTreeMap<String, usize> = BTreeMap::new();
    until("the last ones are told", || host.tasks(&["--queue", "told"]).len() >= TASKS);
    for delivery in host.tasks(&["--queue", "told"]) {
        *told.entry(delivery["args"][0]["data"]["id"].to_string()).or_default() += 1;
    }
    assert_eq!((told.len(), told.values().max()), (TASKS, Some(&1)), "each end is told once");
    assert!(worker.stop().success());
}

fn a_pause_and_a_rollback_are_told_once_by_all_workers_together(host: &Taskhost) {
    host.write("taskhost.toml", "[hooks.tell]\non = [\"queue.paused\", \"plugin.rolled-back\"]\ntask = \"nobody\"\nqueue = \"told\"\n");
    host.place("math", &tiny("add", 1, Does::Answer));
    let workers = [host.worker(&[]), host.worker(&[])];
    let told = |kind: &str| {
        let events = host.tasks(&["--queue", "told"]).into_iter().map(|task| task["args"][0].clone());
        events.filter(|event| event["type"] == kind).collect::<Vec<Value>>()
    };
    host.ok(&["queue", "pause", "default"]);
    host.ok(&["enqueue", "add"]);
    until("the pause is told", || !told("queue.paused").is_empty());
    until("both have seen it", || workers.iter().all(|worker| worker.log().contains("paused queue=")));
    let paused = told("queue.paused");
    assert_eq!((paused.len(), &paused[0]["data"]["queue"]), (1, &json!("default")), "{paused:?}");
    assert!(paused[0]["data"]["paused_at"].as_u64().is_some_and(|at| at > 1_700_000_000_000));
    host.ok(&["queue", "resume", "default"]);
    host.ok(&["queue", "pause", "default"]);
    host.ok(&["enqueue", "add"]);
    until("the next pause is told", || told("queue.paused").len() == 2);
    host.ok(&["queue", "resume", "default"]);

    host.place("math", &tiny("add", 2, Does::Answer));
    until("the next version serves", || host.json(&["plugin", "list", "--json"])[0]["serving"]["version"] == "2");
    host.ok(&["plugin", "rollback", "math"]);
    until("the rollback is told", || !told("plugin.rolled-back").is_empty());
    let back = told("plugin.rolled-back");
    assert_eq!((&back[0]["data"]["file"], &back[0]["data"]["version"]), (&json!("math.wasm"), &json!("1")), "{back:?}");
    for worker in workers {
        assert!(worker.stop().success());
    }
    assert_eq!(told("plugin.rolled-back").len(), 1, "both workers tell of one delivery");
}

#[test]
fn hooks_that_can_not_work_are_refused_at_the_start() {
    let host = Taskhost::new();
    for (lines, why) in [
        ("on = []\ntask = \"echo\"", "told nothing"),
        ("on = [\"task.lost\"]\ntask = \"echo\"", "a hook is told task.started"),
        ("on = [\"task.dead\"]", "needs `url`"),
        ("on = [\"task.dead\"]\nurl = \"https://example.com\"\ntask = \"echo\"", "not both"),
        ("on = [\"task.dead\"]\nurl = \"https://example.com\"", "whsec_"),
        ("on = [\"task.dead\"]\nurl = \"https://example.com\"\nsecret = \"hunter2\"", "at least 24 bytes"),
        ("on = [\"task.dead\"]\nurl = \"https://example.com\"\nsecret = \"env:NO_SUCH_VARIABLE\"", "`NO_SUCH_VARIABLE` is not set"),
        ("on = [\"task.dead\"]\nurl = \"ftp://example.com\"\nsecret = \"whsec_x\"", "https://"),
        ("on = [\"task.dead\"]\ntask = \"echo\"\nsecret = \"x\"", "a task needs none"),
        ("on = [\"task.dead\"]\ntask = \"echo\"\nurls = \"x\"", "unknown key `urls` of a hook; did you mean `url`"),
    ] {
        host.write("taskhost.toml", &format!("[hooks.tell]\n{lines}\n"));
        let refused = host.run(&["worker"]);
        assert!(refused.code == 2 && refused.stderr.contains(why), "{lines}: {refused:?}");
        assert!(!refused.stderr.contains("hunter2"), "{refused:?}");
    }
}

on_every_broker! {
    a_body_is_told_of_ends
    an_address_is_told_until_it_says_gone
    a_worker_that_dies_leaves_no_end_untold
    a_pause_and_a_rollback_are_told_once_by_all_workers_together
}
