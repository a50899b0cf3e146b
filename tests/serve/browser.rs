//! The dashboard in a real browser: what script adds, by keyboard and by pointer, on narrow screens and in the dark. `many` has 100,000 tasks,
//! `steering` changes what is beside the tasks, `screenshots` draws every page.
//!
//! Each test fails on an error on the browser's console, which also has breaches of the content policy and requests that failed.

mod many;
mod screenshots;
mod steering;

use std::{fs, process::Command};

use serde_json::{Value, json};

use super::{
    access::token,
    pages::{PAGES, order},
};
use crate::support::{
    browser::Browser,
    http::Http,
    program::{Taskhost, Worker},
};
use taskhost_testing::free_port;

const QUIET: Vec<String> = Vec::new();
const ENTER: &str = "\u{e007}";

/// A place for `taskhost serve`, and what starts it there, as often as one likes.
fn open_at(host: &Taskhost) -> (String, impl Fn() -> Worker) {
    let at = format!("127.0.0.1:{}", free_port());
    let place = at.clone();
    let serve = move || {
        let server = host.starting(&["serve", "--http", &place]);
        server.until("it answers", |server| server.log().contains("at=\"http://"));
        server
    };
    (at, serve)
}

#[test]
fn a_task_is_enqueued_by_its_form_and_watched_to_its_end_without_a_reload() {
    let host = Taskhost::new();
    let (worker, http) = Http::worker(&host, &["math", "probe"]);
    let Some(browser) = Browser::open(&http) else { return };
    browser.go("/bodies/progress_demo");
    let fields = browser.run("return [...document.querySelectorAll('form.enqueue input[name^=\"p.\"]')].map((one) => one.name)", &[]);
    for (field, value) in fields.as_array().expect("fields").iter().zip(["4", "700"]) {
        browser.write(&format!("input[name=\"{}\"]", field.as_str().expect("a name")), value);
    }
    browser.click("form.enqueue button.primary");
    browser.until("the task is shown", || browser.place().starts_with("/tasks/"));
    browser.run("window.kept = true", &[]);
    browser.until_text("#state", "running");
    browser.until_text("#state", "succeeded");
    assert_eq!(browser.run("return window.kept", &[]), true, "the page was not loaded again");

    // A running task is cancelled.
    http.post("/v1/tasks", r#"{"task":"progress_demo","args":[100,500],"id":"long"}"#).ok(201);
    browser.go("/tasks/long");
    browser.until_text("#state", "running");
    // Its log follows.
    browser.until_text("#log", "step 1 ");
    browser.until_text("#log", "step 4 ");
    browser.click("#state button.danger");
    browser.until_text("#state button.danger", "?");
    // The question stands while the page goes on.
    let lines = || browser.text("#log").lines().count();
    let before = lines();
    browser.until("the log went on", || lines() > before + 2);
    assert!(browser.text("#state button.danger").contains('?'), "{}", browser.text("#state"));
    browser.click("#state button.danger");
    browser.until_text("#state", "cancelled");

    // A dead one is edited and run again.
    http.post("/v1/tasks?wait=30s", r#"{"task":"panic_task","args":["x"],"retries":0,"id":"dead"}"#).ok(201);
    browser.go("/tasks/dead");
    browser.click("#data details:has(textarea) summary");
    browser.write("#data textarea", "[\"other words\"]");
    browser.click("#data button[value=retry]");
    browser.until_text("#data", "other words");
    browser.until_text("#state", "dead");
    assert_eq!(browser.complaints(), QUIET);
    drop(browser);
    assert!(worker.stop().success());
}

#[test]
fn a_task_is_copied_as_json_as_curl_and_as_a_command() {
    let host = Taskhost::new();
    let (worker, http) = Http::worker(&host, &["text"]);
    let args = json!([["it's", "<b>"], "\u{202e}\n"]);
    http.post("/v1/tasks?wait=30s", &json!({"task": "concat", "args": args, "id": "one"}).to_string()).ok(201);
    let Some(browser) = Browser::open(&http) else { return };
    browser.go("/tasks/one");
    browser.run("navigator.clipboard.writeText = async (text) => { window.copied = text; }", &[]);
    let copied = |of: &str| {
        browser.click(&format!("button[data-copy={of}]"));
        browser.until_text(&format!("button[data-copy={of}]"), "Copied");
        browser.run("return window.copied", &[]).as_str().expect("a text").to_owned()
    };
    assert_eq!(serde_json::from_str::<Value>(&copied("args")).expect("JSON"), args);
    assert_eq!(serde_json::from_str::<Value>(&copied("result")).expect("JSON"), http.get("/v1/tasks/one").ok(200)["result"]);
    assert!(copied("as-command").starts_with("taskhost enqueue concat --queue default --args-json '[["));
    let ran = Command::new("sh").arg("-c").arg(format!("{} -sS", copied("as-curl"))).output().expect("a shell");
    match serde_json::from_slice::<Value>(&ran.stdout) {
        Ok(again) => assert_eq!((&again["args"], &again["task"]), (&args, &json!("concat")), "{ran:?}"),
        Err(_) => eprintln!("NOT RUN: curl, {}", String::from_utf8_lossy(&ran.stderr)),
    }
    // Without a clipboard the text is selected, so that the person can copy it.
    browser.go("/tasks/one");
    browser.run("Object.defineProperty(navigator, 'clipboard', {value: undefined}); document.execCommand = () => false", &[]);
    browser.click("button[data-copy=as-command]");
    let selected = || browser.run("return document.getSelection().toString()", &[]).as_str().unwrap_or_default().to_owned();
    browser.until("it is selected", || selected().starts_with("taskhost enqueue concat"));
    assert_eq!(browser.complaints(), QUIET);
    drop(browser);
    assert!(worker.stop().success());
}

#[test]
fn everything_is_reached_by_keyboard() {
    let host = Taskhost::new();
    let (worker, http) = Http::worker(&host, &["math", "probe"]);
    for n in 0..3 {
        http.post("/v1/tasks", &format!("{{\"task\":\"add\",\"args\":[1,{n}],\"delay\":\"1h\",\"id\":\"k{n}\"}}")).ok(201);
    }
    let Some(browser) = Browser::open(&http) else { return };
    browser.go("/");
    browser.press("?");
    browser.until_text("#keys", "this list");
    browser.press("\u{e00c}");
    browser.until("the list is closed", || browser.text("dialog[open]").is_empty());
    for (key, place) in
        [("q", "/queues"), ("t", "/tasks"), ("e", "/errors"), ("s", "/schedules"), ("w", "/workers"), ("p", "/plugins"), ("b", "/bodies")]
    {
        browser.press(&format!("g{key}"));
        browser.until(place, || browser.place() == place);
    }
    browser.go("/tasks");
    browser.press("jjx");
    assert_eq!(browser.run("return document.querySelectorAll('td.check input:checked').length", &[]), 1);
    browser.press(ENTER);
    browser.until("the second row is open", || browser.place().starts_with("/tasks/k1"));
    browser.press("/");
    browser.press("k2");
    browser.press(ENTER);
    browser.until("the search has found it", || browser.place().starts_with("/tasks/k2"));
    // The first stop of the tab key skips the navigation.
    browser.go("/queues");
    browser.press("\u{e004}");
    assert_eq!(browser.run("return document.activeElement.className", &[]), "skip");
    assert_eq!(browser.complaints(), QUIET);
    drop(browser);
    assert!(worker.stop().success());
}

#[test]
fn a_page_follows_what_happens_and_outlives_its_server() {
    let host = Taskhost::new();
    let (at, serve) = open_at(&host);
    let http = Http::at(&at);
    let server = serve();
    host.ok(&["enqueue", "add", "1", "1", "--unchecked", "--id", "first"]);
    let Some(browser) = Browser::open(&http) else { return };
    browser.go("/queues");
    browser.run("window.kept = true", &[]);
    let ready = "#queues tbody td.number";
    browser.until_text(ready, "1");
    host.ok(&["enqueue", "add", "1", "1", "--unchecked"]);
    browser.until_text(ready, "2");
    assert_eq!(browser.complaints(), QUIET);

    server.stop_by(rustix::process::Signal::KILL);
    browser.until("it says that nothing answers", || !browser.text("#banner").is_empty());
    host.ok(&["enqueue", "add", "1", "1", "--unchecked"]);
    let server = serve();
    browser.until_text(ready, "3");
    browser.until("the word is gone", || browser.text("#banner").is_empty());
    host.ok(&["enqueue", "add", "1", "1", "--unchecked"]);
    browser.until_text(ready, "4");
    assert_eq!(browser.run("return window.kept", &[]), true, "the page was not loaded again");
    let refused = browser.complaints();
    assert!(
        refused.iter().all(|line| line.contains("ERR_CONNECTION_REFUSED")
            || line.contains("ERR_INCOMPLETE_CHUNKED")
            || line.contains("ERR_CONNECTION_RESET")),
        "{refused:?}"
    );
    drop(browser);
    assert!(server.stop().success());
}

#[test]
fn a_person_logs_in_and_changes_the_language() {
    let host = Taskhost::new();
    let (reader, lines) = token(&host, "reader", &["--scope", "read"]);
    host.write("taskhost.toml", &lines);
    host.ok(&["enqueue", "add", "7777", "1", "--unchecked", "--id", "one"]);
    let (server, http) = Http::serve(&host, &[]);
    let Some(browser) = Browser::open(&http) else { return };
    browser.go("/tasks/one?queue=default");
    browser.until("the login", || browser.place().starts_with("/login"));
    browser.write("#token", "th_1_wrong");
    browser.press(ENTER);
    browser.until_text(".wrong", "not known");
    browser.write("#token", &reader);
    browser.press(ENTER);
    browser.until("the page that was asked for", || browser.place() == "/tasks/one?queue=default");
    let shown = browser.text("main");
    assert!(shown.contains("masked") && !shown.contains("7777"), "{shown}");
    browser.click("button[name=language]");
    browser.until_text("nav", "概览");
    assert_eq!(browser.run("return document.documentElement.lang", &[]), "zh");
    assert_eq!(browser.run("return document.cookie", &[]), "", "no script reads a cookie");
    browser.click("form[action='/logout'] button");
    browser.until("the login again", || browser.place() == "/login");
    let said = browser.complaints();
    assert!(said.iter().all(|line| line.contains("401")), "only the wrong token is refused: {said:?}");
    drop(browser);
    assert!(server.stop().success());
}

#[test]
fn a_flow_is_watched_and_steered_on_its_page() {
    let host = Taskhost::new();
    let (worker, http) = Http::worker(&host, &["math", "probe"]);
    http.post("/v1/flows", &order("words").to_string()).ok(201);
    let Some(browser) = Browser::open(&http) else { return };
    browser.go("/flows");
    browser.press("jjk");
    browser.press(ENTER);
    browser.until("the flow is open", || browser.place().starts_with("/flows/order"));
    browser.until_text("#step-ok", "waiting");
    browser.until_text("#step-fails", "dead");
    assert_eq!(browser.run("return document.querySelectorAll('svg.graph g.node').length", &[]), 4);
    browser.click("#state button[name=x], #state form.act:not(.signal) button");
    browser.until_text("#state", "paused");
    browser.until_text(".done", "Undo");
    browser.click(".done button");
    browser.until_text(".done", "Resumed");
    browser.write("form.signal input[name=value]", "{\"yes\": tru");
    browser.click("form.signal button");
    browser.until("a value that is no JSON is refused", || browser.text("main").contains("the value of a signal is JSON"));
    browser.go("/flows/order");
    browser.click("form.signal button");
    browser.until_text("#state", "succeeded");
    assert!(browser.text("#data").contains("\"words\""), "{}", browser.text("#data"));
    browser.click("#step-then a.id");
    browser.until("its task is shown", || browser.place().starts_with("/tasks/order.then.1"));
    drop(browser);
    assert!(worker.stop().success());
}

#[test]
fn each_page_fits_a_narrow_screen_and_everybody_can_use_it() {
    let host = Taskhost::new();
    let (worker, http) = Http::worker(&host, &["math", "probe"]);
    let long = "w".repeat(300);
    http.post("/v1/tasks?wait=30s", &json!({"task": "panic_task", "args": [long], "retries": 0, "id": "dead"}).to_string()).ok(201);
    http.post("/v1/tasks", r#"{"task":"add","args":[1,1],"delay":"1h","id":"later"}"#).ok(201);
    http.ask("PUT", "/v1/schedules/nightly", Some(r#"{"rule":"0 3 * * *","task":"add","args":[1,1]}"#)).ok(200);
    http.post("/v1/flows", &order(&long).to_string()).ok(201);
    let Some(browser) = Browser::open(&http) else { return };
    let axe = axe();
    let mut wrong = Vec::new();
    for (width, scheme) in [(360, "light"), (1280, "dark")] {
        browser.size(width, 800);
        browser.emulate("Emulation.setEmulatedMedia", &json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]}));
        browser.emulate(
            "Emulation.setDeviceMetricsOverride",
            &json!({"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": false}),
        );
        for path in PAGES.into_iter().chain(["/bodies/add", "/audit"]) {
            browser.go(path);
            let wide = browser.run("return document.documentElement.scrollWidth", &[]);
            if wide.as_u64().is_none_or(|wide| wide > u64::from(width)) {
                wrong.push(format!("{path} is {wide} wide at {width}"));
            }
            if let Some(axe) = &axe {
                for violation in browser.audit(axe).as_array().expect("a list") {
                    wrong.push(format!("{path}, {scheme}: {violation}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(browser.complaints(), QUIET);
    drop(browser);
    assert!(worker.stop().success());
}

/// The text of axe-core, which finds what keeps people out; `None`, and a word about it, where it can't be had. It comes from npm and is not kept
/// in this repository.
fn axe() -> Option<String> {
    let place = tempfile::tempdir().expect("a directory");
    let packed = Command::new("npm").args(["pack", "--silent", "axe-core@4.11.0"]).current_dir(place.path()).output();
    let packed = packed.ok().filter(|output| output.status.success());
    let unpacked = packed.and_then(|_| {
        Command::new("tar").args(["xzf", "axe-core-4.11.0.tgz", "package/axe.min.js"]).current_dir(place.path()).status().ok()
    });
    let text = unpacked.and_then(|_| fs::read_to_string(place.path().join("package/axe.min.js")).ok());
    if text.is_none() {
        eprintln!("NOT RUN: axe-core 4.11.0 can't be had from npm here, so nothing is said about accessibility");
    }
    text
}
