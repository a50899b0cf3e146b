//! The dashboard in a real browser: a person steers queues, schedules and plugins, below a base path too, and no text of a stranger acts.

use serde_json::json;

use super::{QUIET, open_at};
use crate::support::{
    browser::Browser,
    http::Http,
    program::{Taskhost, built, until, variant},
};

#[test]
fn a_queue_is_paused_a_schedule_run_now_and_a_plugin_rolled_back() {
    let host = Taskhost::new();
    let (worker, http) = Http::worker(&host, &["math"]);
    http.ask("PUT", "/v1/schedules/nightly", Some(r#"{"rule":"0 3 * * *","task":"add","args":[20,22]}"#)).ok(200);
    http.post("/v1/tasks?wait=30s", r#"{"task":"add","args":[1,1]}"#).ok(201);
    let Some(browser) = Browser::open(&http) else { return };

    browser.go("/queues/default");
    browser.click("form:has(input[value=pause]) button");
    browser.until_text("h1", "paused");
    assert_eq!(http.get("/v1/queues/default").ok(200)["paused"], true);
    browser.click("form:has(input[value=resume]) button");
    browser.until("it goes on", || !browser.text("h1").contains("paused"));
    browser.click(".done button");
    browser.until_text("h1", "paused");
    browser.click(".done button");
    browser.until("both are taken back", || !browser.text("h1").contains("paused"));

    browser.go("/schedules/nightly");
    browser.click("form:has(input[value=run]) button");
    browser.until("its task is shown", || browser.place().starts_with("/tasks/"));
    browser.until_text("#state", "succeeded");
    browser.until_text("#data", "42");

    let version = || browser.text("#plugins code");
    browser.go("/plugins");
    let first = version();
    host.place("math", &variant(&built("math"), "newer"));
    browser.until("the newer one serves", || !version().is_empty() && version() != first);
    let newer = version();
    browser.click("form:has(input[value=rollback]) button");
    browser.until_text("form:has(input[value=rollback]) button", "?");
    browser.click("form:has(input[value=rollback]) button");
    browser.until("the first one serves again", || version() == first);
    assert!(browser.text("#plugins").contains("rolled back"), "{}", browser.text("#plugins"));
    assert_ne!(first, newer);
    assert_eq!(http.post("/v1/tasks?wait=30s", r#"{"task":"add","args":[2,2]}"#).ok(201)["result"], 4);
    assert_eq!(browser.complaints(), QUIET);
    drop(browser);
    assert!(worker.stop().success());
}

#[test]
fn a_server_below_a_base_path_that_changes_nothing_lives_as_any_other() {
    let host = Taskhost::new();
    host.write("taskhost.toml", "http_base = \"/ops/taskhost\"\nhttp_read_only = true\n");
    let (at, serve) = open_at(&host);
    let server = serve();
    host.ok(&["enqueue", "add", "1", "1", "--unchecked", "--in", "1h", "--id", "later"]);
    let Some(browser) = Browser::open(&Http::at(&at)) else { return };
    browser.go("/ops/taskhost/queues");
    browser.run("window.kept = true", &[]);
    let scheduled = "#queues tbody tr td.number:nth-child(4)";
    browser.until_text(scheduled, "1");
    host.ok(&["enqueue", "add", "1", "1", "--unchecked", "--in", "1h"]);
    browser.until_text(scheduled, "2");
    assert_eq!(browser.run("return window.kept", &[]), true, "the page was not loaded again");
    browser.press("gt");
    browser.until("the list of tasks", || browser.place() == "/ops/taskhost/tasks");
    browser.until_text("#tasks", "later");
    for page in ["", "/queues/default", "/tasks", "/tasks/later", "/schedules", "/plugins", "/bodies"] {
        browser.go(&format!("/ops/taskhost{page}"));
        let changes = browser.run("return document.querySelectorAll('main form[method=post]').length", &[]);
        assert_eq!(changes, 0, "{page} offers a change");
    }
    assert_eq!(browser.complaints(), QUIET);
    drop(browser);
    assert!(server.stop().success());
}

#[test]
fn chinese_fits_a_narrow_screen_and_the_text_of_strangers_is_text() {
    const HOSTILE: &str = "<img src=x onerror=\"window.hurt=1\"><script>window.hurt=1</script>\u{202e}\u{1b}[31m";
    let host = Taskhost::new();
    let (worker, http) = Http::worker(&host, &["math", "probe"]);
    let dead = json!({"task": "panic_task", "args": [HOSTILE], "id": "dead", "retries": 0, "headers": {"x-evil": HOSTILE}});
    http.post("/v1/tasks?wait=30s", &dead.to_string()).ok(201);
    http.post("/v1/tasks", r#"{"task":"add","args":[1,1],"delay":"1h","id":"later"}"#).ok(201);
    let schedule = json!({"rule": "0 3 * * *", "task": "panic_task", "args": [HOSTILE]});
    http.ask("PUT", "/v1/schedules/nightly", Some(&schedule.to_string())).ok(200);
    http.post("/v1/flows", &super::super::pages::order(HOSTILE).to_string()).ok(201);
    let Some(browser) = Browser::open(&http) else { return };
    browser.go("/");
    browser.click("button[name=language]");
    browser.until_text("nav", "概览");
    browser.emulate("Emulation.setDeviceMetricsOverride", &json!({"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": false}));
    for path in super::super::pages::PAGES {
        browser.go(path);
        assert_eq!(browser.run("return document.documentElement.lang", &[]), "zh", "{path}");
        let wide = browser.run("return document.documentElement.scrollWidth", &[]);
        assert!(wide.as_u64().is_some_and(|wide| wide <= 360), "{path} is {wide} wide");
        let hurt = browser.run("return window.hurt !== undefined || document.querySelector('main img, main script') !== null", &[]);
        assert_eq!(hurt, false, "{path}: the text acts");
    }
    browser.go("/tasks/dead");
    assert!(browser.text("#data").contains("<img src=x"), "it is shown as it is written: {}", browser.text("#data"));
    until("nothing more is said", || browser.complaints() == QUIET);
    drop(browser);
    assert!(worker.stop().success());
}
