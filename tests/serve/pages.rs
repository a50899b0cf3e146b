//! The dashboard without script: pages, forms and logins.

use std::io::Write as _;

use serde_json::json;

use super::access::token;
use crate::support::{
    http::{Http, Reply},
    on_every_broker,
    program::{Taskhost, until},
};

/// A text by which a producer tries to break out of a page.
const HOSTILE: &str = "<script>alert(1)</script>\"'&\u{202e}";

/// The pages that a reader without the scope `admin` may open, of a server with a task `dead`, a task `later`, a flow `order`
/// and a schedule `nightly`.
pub(super) const PAGES: [&str; 18] = [
    "/",
    "/queues",
    "/queues/default",
    "/tasks",
    "/tasks?state=dead",
    "/tasks/dead?queue=default",
    "/tasks/later",
    "/flows",
    "/flows/order",
    "/errors",
    "/schedules",
    "/schedules/nightly",
    "/workers",
    "/plugins",
    "/bodies",
    "/bodies/panic_task",
    "/operations",
    "/settings",
];

/// Posts a form as a browser does.
fn submit(http: &Http, path: &str, fields: &[(&str, &str)]) -> Reply {
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    let browser = http.clone().with("Content-Type", "application/x-www-form-urlencoded").with("Sec-Fetch-Site", "same-origin");
    browser.ask("POST", path, Some(&body))
}

/// Where a form leads to.
fn led(reply: &Reply) -> String {
    assert_eq!(reply.status, 303, "{reply:?}");
    reply.header("location").expect("a place").to_owned()
}

/// A flow with a step that is dead and one that waits, as it is ordered.
pub(super) fn order(words: &str) -> serde_json::Value {
    let steps = json!({
        "sum": {"task": "add", "args": [1, 2]},
        "fails": {"task": "panic_task", "args": [{"from": "input"}], "after": "sum", "retries": 0, "on_failure": "continue"},
        "ok": {"wait": {"signal": "approved"}, "after": "sum"},
        "then": {"task": "add", "args": [{"from": "sum"}, 1], "after": "ok"}});
    json!({"id": "order", "input": words, "flow": {"flow": 1, "name": "order", "steps": steps}})
}

fn fill(http: &Http) {
    let dead = json!({"task": "panic_task", "args": [HOSTILE], "id": "dead", "retries": 0, "headers": {"x-evil": HOSTILE}});
    http.post("/v1/tasks?wait=30s", &dead.to_string()).ok(201);
    http.post("/v1/tasks", r#"{"task":"add","args":[1,1],"delay":"1h","id":"later"}"#).ok(201);
    http.post("/v1/flows", &order(HOSTILE).to_string()).ok(201);
    let schedule = json!({"rule": "0 3 * * *", "task": "panic_task", "args": [HOSTILE]});
    http.ask("PUT", "/v1/schedules/nightly", Some(&schedule.to_string())).ok(200);
}

fn each_page_is_whole_and_nothing_breaks_out_of_it(host: &Taskhost) {
    let (worker, http) = Http::worker(host, &["math", "probe"]);
    fill(&http);
    for language in ["en", "zh-CN"] {
        for path in PAGES {
            let page = http.clone().with("Accept-Language", language).get(path);
            assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")), "{path}: {page:?}");
            assert!(page.header("content-security-policy").is_some_and(|policy| policy.contains("default-src 'none'")), "{page:?}");
            assert!(page.body.ends_with("</html>") && page.body.contains(&format!("lang=\"{}\"", &language[..2])), "{path}");
            for foreign in ["<script>alert", "\u{202e}", "style=\"", "onclick=", "http://", "https://"] {
                assert!(!page.body.contains(foreign) || path == "/settings" || path.starts_with("/tasks/"), "{path} has {foreign}");
            }
            assert!(!page.body.contains("<script>alert") && !page.body.contains('\u{202e}'), "{path}");
        }
    }
    let shown = http.get("/tasks/dead").body;
    assert!(shown.contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "it is shown as it is written: {shown}");
    for (path, status) in
        [("/tasks/nobody", 404), ("/queues/nowhere", 404), ("/schedules/none", 404), ("/bodies/none", 404), ("/tasks?state=lost", 400)]
    {
        let page = http.get(path);
        assert!(page.status == status && page.body.contains("<h1>"), "{path}: {page:?}");
    }
    assert!(worker.stop().success());
}

fn forms_do_what_they_say(host: &Taskhost) {
    let (worker, http) = Http::worker(host, &["math", "probe"]);
    fill(&http);
    assert_eq!(
        led(&submit(&http, "/queues/default", &[("do", "pause")])),
        "/queues/default?done=paused&of=%2Ftasks%3Fqueue%3Ddefault%26state%3Drunning"
    );
    assert_eq!(http.get("/v1/queues/default").ok(200)["paused"], true);
    let answer = http.get(&led(&submit(&http, "/queues/default", &[("do", "pause")]))).body;
    let answer = answer.split("class=\"done\"").nth(1).and_then(|rest| rest.split("</div>").next()).expect("it says what was done");
    for words in ["Nothing more starts", "href=\"/tasks?queue=default&amp;state=running\"", "value=\"resume\"", "Undo"] {
        assert!(answer.contains(words), "{words}: {answer}");
    }
    let foreign = http.get("/queues/default?done=paused&of=%2F%2Fevil.example").body;
    assert!(!foreign.contains("evil"), "{foreign}");
    led(&submit(&http, "/queues/default", &[("do", "resume")]));

    // Edit a dead task and run it again.
    let place = led(&submit(&http, "/tasks/dead?queue=default", &[("do", "edit"), ("args", "[\"once more\"]")]));
    assert_eq!(http.get("/v1/tasks/dead").ok(200)["args"], json!(["once more"]));
    // Take the edit back, and that back.
    let page = http.get(&place).body;
    assert!(page.contains("The arguments are changed.") && !place.contains("alert"), "{place}: {page}");
    let key = page.split("name=\"key\" value=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a key").to_owned();
    let undone = led(&submit(&http, "/tasks/dead?queue=default", &[("do", "undo"), ("key", &key)]));
    assert_eq!(http.get("/v1/tasks/dead").ok(200)["args"], json!([HOSTILE]));
    let key = undone.split("undo=").nth(1).and_then(|rest| rest.split('&').next()).expect("a key").to_owned();
    assert_eq!(submit(&http, "/tasks/later", &[("do", "undo"), ("key", &key)]).status, 409, "the key of another task");
    led(&submit(&http, "/tasks/dead", &[("do", "undo"), ("key", &key)]));
    assert_eq!(http.get("/v1/tasks/dead").ok(200)["args"], json!(["once more"]));
    assert_eq!(submit(&http, "/tasks/dead", &[("do", "edit"), ("args", "[1,2,3]")]).status, 422);
    assert!(led(&submit(&http, "/tasks/later", &[("do", "run-now")])).ends_with("done=ready"));
    assert_eq!(http.get("/v1/tasks/later?wait=30s").ok(200)["result"], 2);
    assert!(led(&submit(&http, "/tasks/later", &[("do", "cancel")])).ends_with("done=unchanged"));
    assert!(led(&submit(&http, "/tasks/dead", &[("do", "run-now")])).ends_with("done=unchanged"), "only a retry runs an ended task again");
    assert_eq!(http.get("/v1/tasks/dead").ok(200)["state"], "dead");
    assert_eq!(led(&submit(&http, "/tasks/later", &[("do", "delete")])), "/tasks?done=deleted&of=%2Fqueues%2Fdefault");
    assert_eq!(http.get("/v1/tasks/later").status, 404);

    // Enqueue by the form of a body; a wrong one comes back as it was filled in.
    let wrong = submit(&http, "/bodies/add", &[("p.a", "twenty"), ("p.b", "22")]);
    assert!(wrong.status == 200 && wrong.body.contains("is not a number") && wrong.body.contains("value=\"twenty\""), "{wrong:?}");
    let place = led(&submit(&http, "/bodies/add", &[("p.a", "20"), ("p.b", "22"), ("id", "by-form")]));
    assert_eq!(place, "/tasks/by-form?queue=default&done=enqueued");
    assert_eq!(http.get("/v1/tasks/by-form?wait=30s").ok(200)["result"], 42);
    let page = http.get("/tasks/by-form").body;
    let request = "curl -d '{&quot;task&quot;:&quot;add&quot;,&quot;queue&quot;:&quot;default&quot;,&quot;args&quot;:[20,22]}'";
    let (curl, command) =
        (format!("{request} 'http://{}/v1/tasks'", http.at), "taskhost enqueue add --queue default --args-json '[20,22]'");
    assert!(page.contains(&curl) && page.contains(command), "{page}");

    // The selected ones, then all that match.
    for n in 0..5 {
        http.post("/v1/tasks", &format!("{{\"task\":\"add\",\"args\":[1,{n}],\"delay\":\"1h\",\"id\":\"w{n}\",\"tags\":[\"many\"]}}"))
            .ok(201);
    }
    led(&submit(&http, "/tasks", &[("do", "cancel"), ("task", "default w0"), ("task", "default w1")]));
    assert_eq!(http.get("/v1/tasks/w1").ok(200)["state"], "cancelled");
    let asked = submit(&http, "/tasks", &[("all", "rehearse"), ("do", "cancel"), ("tag", "many")]);
    assert!(asked.status == 200 && asked.body.contains("Cancel 3 tasks?"), "{asked:?}");
    assert_eq!(http.get("/v1/tasks/w2").ok(200)["state"], "scheduled", "nothing was changed yet");
    assert_eq!(led(&submit(&http, "/tasks", &[("all", "order"), ("do", "cancel"), ("tag", "many")])), "/operations?done=ordered");
    until("it is done", || http.get("/v1/tasks/w4").ok(200)["state"] == "cancelled");
    assert_eq!(submit(&http, "/tasks", &[("all", "order"), ("do", "cancel")]).status, 400, "without a filter it would be all tasks");

    http.post("/v1/tasks", r#"{"task":"add","args":[1,1],"delay":"1h","id":"waits"}"#).ok(201);
    assert_eq!(submit(&http, "/queues/default", &[("do", "purge"), ("confirm", "7")]).status, 409);
    assert_eq!(submit(&http, "/queues/nowhere", &[("do", "purge"), ("confirm", "0")]).status, 404);
    assert_eq!(
        led(&submit(&http, "/queues/default", &[("do", "purge"), ("confirm", "1")])),
        "/queues?done=purged&of=%2Ftasks%3Fqueue%3Ddefault"
    );
    let fired = led(&submit(&http, "/schedules/nightly", &[("do", "run")]));
    assert!(fired.starts_with("/tasks/") && http.get(&fired).status == 200, "{fired}");
    led(&submit(&http, "/schedules/nightly", &[("do", "pause")]));
    assert!(http.get("/schedules").body.contains("paused"));
    assert_eq!(led(&submit(&http, "/schedules/nightly", &[("do", "remove")])), "/schedules?done=removed");
    let audit = http.get("/audit").body;
    for what in ["/queues/{queue} purge", "/tasks/{id} edit", "/schedules/{name} remove", "/operations"] {
        assert!(audit.contains(what), "{what} is noted: {audit}");
    }
    assert_eq!(submit(&http, "/queues/default", &[("do", "burn")]).status, 400);
    assert!(worker.stop().success());
}

fn what_is_looked_for_is_found(host: &Taskhost) {
    const MANY: usize = 3_000;
    let (worker, http) = Http::worker(host, &["math", "probe"]);
    fill(&http);
    let lines: Vec<String> = (0..MANY).map(|n| format!("{{\"task\":\"add\",\"args\":[{n},1]}}")).collect();
    assert_eq!(host.run_with(&["enqueue", "--bulk", "-"], &lines.join("\n")).code, 0);
    until("all have ended, and a step of the flow", || http.get("/v1/queues/default").ok(200)["counts"]["succeeded"] == MANY + 1);
    let search =
        |words: &str| led(&http.get(&format!("/search?q={}", form_urlencoded::byte_serialize(words.as_bytes()).collect::<String>())));
    http.post("/v1/tasks", r#"{"task":"add","args":[1,1],"queue":"mail","delay":"1h"}"#).ok(201);
    until("the frame leads to each queue", || {
        let page = http.get("/queues").body;
        page.contains("class=\"switch\"") && page.contains("<option>mail</option>")
    });
    assert_eq!(led(&http.get("/queues?to=mail")), "/queues/mail");
    assert_eq!(search("dead"), "/tasks/dead?queue=default");
    assert_eq!(search("add"), "/tasks?task=add");
    assert_eq!(search("default"), "/queues/default");
    assert_eq!(search("alert(1)"), "/tasks?state=dead&error=alert%281%29");
    assert!(http.get("/tasks?error=alert%281%29").body.contains("/tasks/dead?"), "one dead task among thousands");
    let page = http.get("/tasks?task=add").body;
    let next =
        page.split("class=\"next\" href=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("there is more").replace("&amp;", "&");
    assert!(http.get(&next).body.contains("/tasks/"), "{next}");
    assert!(http.get("/errors").body.contains("panic_task"));
    assert!(worker.stop().success());
}

fn a_schedule_shows_what_became_of_its_due_times(host: &Taskhost) {
    let (worker, http) = Http::worker(host, &["math"]);
    // No worker serves this queue, so the first task does not end.
    let tick = r#"{"rule":"* * * * * *","task":"add","args":[1,1],"queue":"held","overlap":"skip"}"#;
    http.ask("PUT", "/v1/schedules/tick", Some(tick)).ok(200);
    let shown = || http.get("/schedules/tick").body;
    until("one is fired, and others are skipped", || {
        let page = shown();
        page.contains("/tasks/cron:tick") && page.matches("pill skipped").count() >= 2
    });
    let page = shown();
    assert_eq!(page.split("<ol>").nth(1).and_then(|rest| rest.split("</ol>").next()).map(|list| list.matches("<li>").count()), Some(10));
    assert!(!page.contains("pill missed"), "{page}");
    led(&submit(&http, "/schedules/tick", &[("do", "pause")]));
    until("it was due while it was paused", || shown().matches("pill paused").count() >= 3);
    assert!(worker.stop().success());
}

fn a_task_that_runs_again_says_so_and_what_failed_before(host: &Taskhost) {
    let (worker, http) = Http::worker(host, &["probe"]);
    http.post("/v1/tasks", r#"{"task":"sleep","args":[100],"timeout":"3s","retries":9,"id":"again"}"#).ok(201);
    let mut page = String::new();
    until("it runs again", || {
        page = http.get("/tasks/again").body;
        page.contains("running since") && page.contains("last failure, attempt")
    });
    assert!(page.contains("class=\"before\"") && !page.contains("class=\"because\""), "the failure is the past: {page}");
    assert!(http.get("/tasks?task=sleep").body.contains("last failure"));
    http.post("/v1/tasks/again/cancel", "").ok(200);
    http.get("/v1/tasks/again?wait=30s").ok(200);
    assert!(worker.stop().success());
}

on_every_broker! {
    a_task_that_runs_again_says_so_and_what_failed_before
    a_schedule_shows_what_became_of_its_due_times
    each_page_is_whole_and_nothing_breaks_out_of_it
    forms_do_what_they_say
    what_is_looked_for_is_found
}

#[test]
fn a_person_logs_in_once_and_sees_what_the_token_may() {
    let host = Taskhost::new();
    let (boss, one) = token(&host, "boss", &["--scope", "admin"]);
    let (reader, two) = token(&host, "reader", &["--scope", "read"]);
    host.write("taskhost.toml", &(one + &two));
    let (worker, http) = Http::worker(&host, &["math", "probe"]);
    fill(&http.clone().with_token(&boss));
    let away = http.get("/tasks?state=dead");
    assert_eq!(led(&away), "/login?back=%2Ftasks%3Fstate%3Ddead");
    assert!(http.get("/login").body.contains("type=\"password\""));
    let wrong = submit(&http, "/login", &[("token", "th_1_wrong")]);
    assert!(wrong.status == 401 && wrong.header("set-cookie").is_none(), "{wrong:?}");
    let entered = submit(&http, "/login", &[("token", &reader), ("back", "/tasks?state=dead")]);
    assert_eq!(led(&entered), "/tasks?state=dead");
    let cookie = entered.header("set-cookie").expect("a cookie").to_owned();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict") && !cookie.contains("Secure"), "{cookie}");
    let cookie = cookie.split(';').next().expect("a pair").to_owned();
    let person = http.clone().with("Cookie", &cookie);
    for path in PAGES {
        let page = person.get(path);
        assert_eq!(page.status, 200, "{path}: {page:?}");
        assert!(!page.body.contains("alert(1)"), "{path} shows what a producer wrote");
        assert!(!page.body.contains("name=\"do\""), "{path} offers what the token may not do");
        assert!(!page.body.contains("data-copy"), "{path} copies what the token may not see");
    }
    assert!(!person.get("/queues/default?done=paused").body.contains("Undo"), "it may not take it back");
    assert_eq!(person.get("/audit").status, 403);
    assert_eq!(person.get("/v1/tasks/dead").ok(200)["masked"], true, "the page's own requests need no header");
    for (path, fields) in [("/queues/default", [("do", "pause")]), ("/tasks/dead", [("do", "retry")]), ("/bodies/add", [("p.a", "1")])] {
        assert_eq!(submit(&person, path, &fields).status, 403, "{path}");
    }
    let forged = person.clone().with("Content-Type", "application/x-www-form-urlencoded").with("Sec-Fetch-Site", "cross-site");
    assert_eq!(forged.ask("POST", "/queues/default", Some("do=pause")).problem(403), "cross-origin");
    let left = submit(&person, "/logout", &[]);
    assert!(led(&left) == "/login" && left.header("set-cookie").is_some_and(|cookie| cookie.contains("Max-Age=0")), "{left:?}");
    assert!(worker.stop().success());
}

#[test]
fn a_base_path_a_read_only_server_and_empty_pages() {
    let host = Taskhost::new();
    host.write("taskhost.toml", "http_base = \"/ops/taskhost\"\nhttp_read_only = true\n");
    let server = host.starting(&["serve", "--http", "127.0.0.1:0"]);
    server.until("it answers", |server| Http::logged(&server.log()).is_some_and(|http| http.get("/ops/taskhost/readyz").status == 200));
    let http = Http::logged(&server.log()).expect("it says where it answers");
    assert_eq!((http.get("/tasks").status, http.get("/ops/taskhost/").header("location")), (404, Some("/ops/taskhost")));
    for path in ["/", "/queues", "/tasks", "/errors", "/schedules", "/workers", "/plugins", "/bodies", "/operations", "/audit", "/settings"]
    {
        let page = http.get(&format!("/ops/taskhost{}", path.trim_end_matches('/')));
        assert_eq!(page.status, 200, "{path}: {page:?}");
        assert!(path == "/settings" || path == "/" || page.body.contains("class=\"empty\""), "{path} says what to do next: {}", page.body);
        let links = page.body.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next());
        assert!(links.into_iter().all(|link| link.starts_with("/ops/taskhost") || link.starts_with('#')), "{path}: {}", page.body);
    }
    assert_eq!(submit(&http, "/ops/taskhost/queues/default", &[("do", "pause")]).status, 403);
    assert!(server.stop().success());
    for odd in ["ops", "/ops/", "/o ps", "//x", "/../x"] {
        host.write("taskhost.toml", &format!("http_base = \"{odd}\"\n"));
        let refused = host.run(&["serve", "--http", "127.0.0.1:0"]);
        assert!(refused.code == 2 && refused.stderr.contains("base path"), "{odd}: {refused:?}");
    }
}

#[test]
fn the_first_load_is_small_and_kept() {
    let host = Taskhost::new();
    let (server, http) = Http::serve(&host, &[]);
    let page = http.get("/");
    let assets = page.body.split("/assets/").skip(1).filter_map(|rest| rest.split('"').next());
    let mut all = page.body.clone();
    for asset in assets {
        let file = http.get(&format!("/assets/{asset}"));
        assert!(file.status == 200 && file.header("cache-control").is_some_and(|kept| kept.contains("immutable")), "{asset}: {file:?}");
        all.push_str(&file.body);
    }
    let mut gzip =
        std::process::Command::new("gzip").arg("-c").stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn();
    match &mut gzip {
        Ok(gzip) => gzip.stdin.take().expect("a pipe").write_all(all.as_bytes()).expect("written"),
        Err(_) => eprintln!("NOT RUN: gzip is not installed here, so the size is that of plain text"),
    }
    let size = gzip.map_or(all.len(), |gzip| gzip.wait_with_output().expect("its end").stdout.len());
    assert!(size <= 30_000, "{size} bytes");
    assert_eq!(http.get("/assets/none.css").status, 404);
    assert!(server.stop().success());
}
