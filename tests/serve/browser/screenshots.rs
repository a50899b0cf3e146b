//! `cargo xtask screenshots`: every page of the dashboard from a seeded broker, in both themes and on a narrow screen. The suite leaves it out.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use taskhost_core::task::{Clock as _, SystemClock};

use super::{
    super::pages::{PAGES, order},
    QUIET,
};
use crate::support::{
    browser::Browser,
    http::Http,
    program::{Taskhost, until},
};

/// What the documents show: a page, and the file's name.
const SHOWN: [(&str, &str, &str); 4] = [
    ("/", "overview", "light"),
    ("/tasks?state=dead", "tasks", "light"),
    ("/tasks/dead?queue=default", "task", "dark"),
    ("/bodies/concat", "body", "dark"),
];

#[test]
#[ignore = "it writes pictures for people to look at; `cargo xtask screenshots` runs it"]
fn every_page_is_drawn() {
    let place = PathBuf::from(std::env::var_os("SCREENSHOTS").expect("SCREENSHOTS names a directory"));
    let shown = std::env::var_os("SCREENSHOTS_SHOWN").map(PathBuf::from);
    let host = Taskhost::on_redis();
    host.write("taskhost.toml", "queues = [\"default\", \"mail\", \"reports\"]\nconcurrency = 16\n");
    let (worker, http) = Http::worker(&host, &["math", "text", "ledger", "probe"]);
    seed(&host, &http);
    let Some(browser) = Browser::open(&http) else { panic!("pictures need a browser") };
    for (name, width, scheme) in [("light", 1280, "light"), ("dark", 1280, "dark"), ("narrow", 360, "light")] {
        fs::create_dir_all(place.join(name)).expect("a directory");
        browser.emulate("Emulation.setEmulatedMedia", &json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]}));
        for path in PAGES.into_iter().chain(["/bodies/concat", "/audit"]) {
            draw(&browser, path, width, None, &place.join(name).join(file(path)));
        }
    }
    for (path, name, scheme) in shown.iter().flat_map(|_| SHOWN) {
        browser.emulate("Emulation.setEmulatedMedia", &json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]}));
        let file = shown.as_ref().expect("it is given").join(format!("{name}.png"));
        draw(&browser, path, 1280, Some(720), &file);
        let size = fs::metadata(&file).expect("it is written").len();
        assert!(size < 150_000, "{} has {size} bytes, more than 150,000: show less of the page", file.display());
    }
    assert_eq!(browser.complaints(), QUIET);
    drop(browser);
    assert!(worker.stop().success());
}

/// `/tasks?state=dead` is `tasks-state-dead.png`.
fn file(path: &str) -> String {
    let name = path.trim_matches('/').replace(|letter: char| !letter.is_ascii_alphanumeric(), "-");
    format!("{}.png", if name.is_empty() { "overview" } else { &name })
}

/// The whole page, or its upper part.
fn draw(browser: &Browser, path: &str, width: u32, height: Option<u32>, file: &Path) {
    let set = |height: u32| {
        browser.emulate(
            "Emulation.setDeviceMetricsOverride",
            &json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false}),
        );
    };
    set(height.unwrap_or(900));
    browser.go(path);
    if height.is_none() {
        let tall = browser.run("return document.documentElement.scrollHeight", &[]).as_u64().unwrap_or(900);
        set(u32::try_from(tall.clamp(600, 5_000)).expect("it is bounded"));
    }
    fs::write(file, browser.picture()).expect("a picture is written");
}

/// A small shop at work: three queues, tasks in every state, two schedules, an operation, and an hour of history.
fn seed(host: &Taskhost, http: &Http) {
    let post = |task: &Value| http.post("/v1/tasks", &task.to_string()).ok(201);
    past_hour(host);
    http.post("/v1/flows", &order("no address").to_string()).ok(201);
    for n in 0..24 {
        post(&json!({"task": "add", "args": [n, 1_000 + n], "queue": "reports", "tags": ["monthly"]}));
        post(&json!({"task": "concat", "args": [[format!("Order {n}"), "is on its way"], ": "], "queue": "mail"}));
    }
    for (n, why) in ["the mail server answered 451", "the mail server answered 451", "no such customer: 7741"].iter().enumerate() {
        post(&json!({"task": "panic_task", "args": [why], "retries": 0, "queue": "mail", "id": format!("welcome-mail-{n}")}));
    }
    post(&json!({"task": "panic_task", "args": ["the invoice of order 4711 has no address"], "retries": 0, "id": "dead", "tags": ["vip"]}));
    post(&json!({"task": "multiply", "args": [9_223_372_036_854_775_807_i64, 2], "retries": 0, "queue": "reports"}));
    for n in 0..6 {
        post(&json!({"task": "add", "args": [n, n], "delay": "2h", "queue": "reports", "tags": ["nightly"]}));
    }
    post(&json!({"task": "add", "args": [1, 1], "delay": "1h", "id": "later"}));
    host.ok(&["enqueue", "resize_image", "\"cover.png\"", "640", "--unchecked", "--queue", "mail"]);
    for n in 0..3 {
        post(&json!({"task": "progress_demo", "args": [40, 60_000], "id": format!("import-{n}")}));
    }
    let schedule = |name: &str, rule: &str, task: &str| {
        let schedule = json!({"rule": rule, "timezone": "Europe/Berlin", "task": task, "args": [1, 1], "queue": "reports"});
        http.ask("PUT", &format!("/v1/schedules/{name}"), Some(&schedule.to_string())).ok(200);
    };
    schedule("nightly", "0 3 * * *", "add");
    schedule("month-end", "0 8 1 * *", "multiply");
    http.post("/v1/schedules/nightly/run", "").ok(200);
    http.post("/v1/queues/mail/pause", "").ok(200);
    http.post("/v1/queues/mail/resume", "").ok(200);
    http.post("/v1/operations", r#"{"verb":"cancel","filter":{"tag":"nightly"}}"#).ok(202);
    until("what can end has ended", || {
        let counts = |queue: &str| http.get(&format!("/v1/queues/{queue}")).ok(200)["counts"].clone();
        counts("reports")["cancelled"] == 6 && counts("mail")["dead"] == 3 && counts("default")["running"] == 3
    });
}

/// An hour of counts, as workers would have written them (docs/protocol.md).
fn past_hour(host: &Taskhost) {
    let mut redis =
        redis::Client::open(host.redis_url().expect("it is on Redis")).and_then(|client| client.get_connection()).expect("our own server");
    // Otherwise the overview warns of it.
    redis::cmd("CONFIG").arg("SET").arg("appendonly").arg("yes").exec(&mut redis).expect("our own server");
    let now = SystemClock.now().0 / 60_000 * 60;
    let bodies =
        [("default", "add", 900, 4), ("mail", "concat", 2_600, 9), ("mail", "panic_task", 40, 11), ("reports", "multiply", 160, 14)];
    for ago in 1..60_u64 {
        for (queue, most) in [("default", 40), ("mail", 900), ("reports", 0)] {
            let ready = most * (ago % 23) * (ago % 23) / 400;
            redis::cmd("HSET")
                .arg(format!("th:{{{queue}}}:past:60:{}", now - ago * 60))
                .arg("_queue")
                .arg(format!("q={ready}"))
                .exec(&mut redis)
                .expect("our own server");
        }
        for (at, (queue, body, rate, place)) in bodies.iter().enumerate() {
            // A day's up and down in an hour, each body with its own.
            let phase = (f64::from(u32::try_from(ago).expect("a minute")) + 11.0 * f64::from(u8::try_from(at).expect("few"))) / 9.5;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some thousands, above zero")]
            let count = (f64::from(*rate) * (1.3 + phase.sin())) as u64;
            let bad = if *body == "panic_task" { count / 3 } else { count / 400 };
            let text = format!(
                "s={} f={bad} d={} u={} r{place}={} r{}={} w{}={} w{}={}",
                count - bad,
                bad / 4,
                count * 400,
                count * 19 / 20,
                place + 4,
                count / 20,
                place + 2,
                count * 18 / 20,
                place + 7,
                count / 10
            );
            redis::cmd("HSET")
                .arg(format!("th:{{{queue}}}:past:60:{}", now - ago * 60))
                .arg(body)
                .arg(text)
                .exec(&mut redis)
                .expect("our own server");
        }
    }
}
