//! Who may do what: tokens, scopes, patterns, masks.

use serde_json::{Value, json};

use crate::support::{
    http::Http,
    program::{Taskhost, until},
};

/// What nobody without the scope `payload` may see.
const SECRET: &str = "s3cr3t-of-a-producer";

/// A token with these options, and its lines for `taskhost.toml`.
pub(super) fn token(host: &Taskhost, name: &str, options: &[&str]) -> (String, String) {
    let made = host.run(&[&["token", "new", name], options].concat());
    assert_eq!(made.code, 0, "{made:?}");
    let lines = made.stderr.split("anew:\n\n").nth(1).expect("the lines").to_owned();
    (made.stdout.trim().to_owned(), lines)
}

#[test]
fn without_a_token_only_this_machine_is_answered() {
    let host = Taskhost::new();
    for public in ["0.0.0.0:0", "[::]:0"] {
        let refused = host.run(&["serve", "--http", public]);
        assert!(refused.code == 2 && refused.stderr.contains("taskhost token new"), "{refused:?}");
        let refused = host.run(&["worker", "--http", public]);
        assert!(refused.code == 2 && refused.stderr.contains("taskhost token new"), "{refused:?}");
    }
    for (odd, why) in
        [("8080", "HOST:PORT"), ("localhost:x", "HOST:PORT"), ("localhost:99999", "HOST:PORT"), ("no.such.invalid:80", "resolve")]
    {
        let refused = host.run(&["serve", "--http", odd]);
        assert!(refused.code == 2 && refused.stderr.contains(why), "{odd}: {refused:?}");
    }
    let refused = host.run(&["serve"]);
    assert!(refused.code == 2 && refused.stderr.contains("--http 127.0.0.1:8080"), "{refused:?}");
}

#[test]
fn each_scope_opens_what_it_names() {
    let host = Taskhost::new();
    let mut file = String::new();
    let mut tokens = Vec::new();
    for scope in ["enqueue", "read", "payload", "operate", "schedule", "metrics", "admin"] {
        let (token, lines) = token(&host, scope, &["--scope", scope]);
        file.push_str(&lines);
        tokens.push((scope, token));
    }
    host.write("taskhost.toml", &file);
    let (_server, http) = Http::serve(&host, &[]);
    let document = http.get("/v1/openapi.json").ok(200);
    for (path, method, operation) in operations(&document) {
        let path = filled(&path);
        let scopes: Vec<&str> = operation["x-scopes"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let nobody = http.ask(&method, &path, Some(""));
        if scopes.is_empty() {
            assert_ne!(nobody.status, 401, "{method} {path} needs no token");
            continue;
        }
        assert_eq!(nobody.problem(401), "unauthorized", "{method} {path}");
        assert_eq!(nobody.header("www-authenticate"), Some("Bearer"));
        for (scope, token) in &tokens {
            let reply = http.clone().with_token(token).ask(&method, &path, Some(""));
            let may = *scope == "admin" || scopes == [*scope];
            assert_eq!(reply.status != 403, may, "{method} {path} with the scope {scope}: {reply:?}");
        }
    }
}

#[test]
fn without_the_scope_payload_nothing_of_a_producer_or_a_body_is_seen() {
    let host = Taskhost::new();
    let (all, all_lines) = token(&host, "all", &["--scope", "admin"]);
    let (some, some_lines) = token(&host, "some", &["--scope", "enqueue,read,operate,schedule,metrics"]);
    host.write("taskhost.toml", &(all_lines + &some_lines));
    let (_worker, http) = Http::worker(&host, &["probe"]);
    let (all, some) = (http.clone().with_token(&all), http.clone().with_token(&some));
    let tasks = [
        json!({"task": "panic_task", "args": [SECRET], "id": "dead", "retries": 0, "headers": {"x-secret": SECRET}}),
        json!({"task": "echo", "args": [SECRET], "id": "echo", "headers": {"x-secret": SECRET}}),
        json!({"task": "later", "args": [SECRET], "id": "later", "delay": "1h", "headers": {"x-secret": SECRET}}),
    ];
    for mut task in tasks {
        if all.post("/v1/tasks", &task.to_string()).status != 201 {
            // The body is of another plugin: it waits for it.
            task["args"] = json!([SECRET]);
            host.ok(&[
                "enqueue",
                task["task"].as_str().expect("a name"),
                &format!("\"{SECRET}\""),
                "--unchecked",
                "--id",
                task["id"].as_str().expect("an id"),
            ]);
        }
    }
    let schedule = json!({"rule": "0 3 * * *", "task": "panic_task", "args": [SECRET]});
    all.ask("PUT", "/v1/schedules/nightly", Some(&schedule.to_string())).ok(200);
    until("it is dead", || all.get("/v1/tasks/dead").json()["state"] == "dead");
    assert!(all.get("/v1/tasks/dead").body.contains(SECRET) && all.get("/v1/schedules").body.contains(SECRET), "it is there to be seen");

    let document = http.get("/v1/openapi.json").ok(200);
    let mut asked = 0;
    for (path, method, _) in operations(&document) {
        for id in ["dead", "echo", "later"] {
            let path = path
                .replace("{id}", id)
                .replace("{name}", "nightly")
                .replace("{queue}", "default")
                .replace("{plugin}", "probe")
                .replace("{worker}", "nobody");
            // What would remove the tasks comes last.
            if method == "DELETE" || path.ends_with("/purge") {
                continue;
            }
            let reply = some.ask(&method, &path, Some(""));
            assert!(!reply.body.contains(SECRET), "{method} {path} shows it: {reply:?}");
            asked += 1;
        }
    }
    assert!(asked > 50, "all resources are asked: {asked}");
    for query in ["args=s3cr3t", "error=s3cr3t", "header=x-secret"] {
        assert_eq!(some.get(&format!("/v1/tasks?{query}")).problem(403), "forbidden", "looking for it is seeing it");
    }
    assert_eq!(some.get("/v1/tasks/dead").ok(200)["masked"], true);
    assert_eq!(some.get("/v1/tasks/dead/log").problem(403), "forbidden");
}

#[test]
fn a_token_extends_to_its_queues_and_tasks_only() {
    let host = Taskhost::new();
    let (mail, lines) = token(&host, "mail", &["--scope", "enqueue,read,operate,payload", "--queue", "mail*", "--task", "send.*"]);
    host.write("taskhost.toml", &lines);
    let (_server, http) = Http::serve(&host, &[]);
    let mail = http.with_token(&mail);
    host.ok(&["enqueue", "other", "1", "--unchecked", "--queue", "mail", "--id", "hidden"]);
    host.ok(&["enqueue", "send.now", "1", "--unchecked", "--queue", "elsewhere", "--id", "far"]);
    mail.post("/v1/tasks", r#"{"task":"send.now","queue":"mail-eu","id":"mine"}"#).ok(201);
    assert_eq!(mail.post("/v1/tasks", r#"{"task":"send.now","queue":"default"}"#).problem(403), "forbidden");
    assert_eq!(mail.post("/v1/tasks", r#"{"task":"add","queue":"mail"}"#).problem(403), "forbidden");
    let listed: Vec<Value> =
        mail.get("/v1/tasks").ok(200)["tasks"].as_array().expect("tasks").iter().map(|task| task["id"].clone()).collect();
    assert_eq!(listed, ["mine"]);
    for hidden in ["hidden", "far"] {
        assert_eq!(mail.get(&format!("/v1/tasks/{hidden}")).problem(404), "unknown-task");
        assert_eq!(mail.post(&format!("/v1/tasks/{hidden}/cancel"), "").problem(404), "unknown-task");
        assert_eq!(mail.ask("DELETE", &format!("/v1/tasks/{hidden}"), None).problem(404), "unknown-task");
    }
    let queues: Vec<Value> =
        mail.get("/v1/queues").ok(200)["queues"].as_array().expect("queues").iter().map(|queue| queue["queue"].clone()).collect();
    assert_eq!(queues, ["mail", "mail-eu"]);
    assert_eq!(mail.post("/v1/queues/elsewhere/pause", "").problem(403), "forbidden");
    assert_eq!(mail.post("/v1/queues/mail/purge", "").problem(403), "forbidden", "it would delete tasks that the token does not extend to");
    let bulk = mail.post("/v1/tasks/bulk", "{\"task\":\"send.x\",\"queue\":\"mail\"}\n{\"task\":\"send.x\",\"queue\":\"default\"}");
    let answers: Vec<Value> = bulk.body.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(answers[0]["id"].is_string() && answers[1]["problem"]["type"] == "/problems/forbidden", "{bulk:?}");
}

#[test]
fn a_server_that_is_read_only_changes_nothing() {
    let host = Taskhost::new();
    host.write("taskhost.toml", "http_read_only = true\n");
    host.ok(&["enqueue", "add", "1", "1", "--unchecked", "--id", "one"]);
    let (_server, http) = Http::serve(&host, &[]);
    let document = http.get("/v1/openapi.json").ok(200);
    for (path, method, _) in operations(&document).into_iter().filter(|(_, method, _)| method != "GET") {
        assert_eq!(http.ask(&method, &path.replace("{id}", "one").replace(['{', '}'], ""), Some("{}")).problem(403), "read-only");
    }
    assert_eq!(http.get("/v1/tasks/one").ok(200)["state"], "ready");
}

#[test]
fn tokens_that_can_not_work_are_refused_at_the_start() {
    let host = Taskhost::new();
    let sha = "0".repeat(64);
    for (lines, why) in [
        ("[tokens.a]\nsha256 = \"12\"\nscopes = [\"read\"]".to_owned(), "64 hexadecimal digits"),
        (format!("[tokens.a]\nsha256 = \"{sha}\"\nscopes = [\"reed\"]"), "a scope is one of"),
        (format!("[tokens.a]\nsha256 = \"{sha}\"\nscopes = []"), "may do nothing"),
        (
            format!("[tokens.a]\nsha256 = \"{sha}\"\nscopes = [\"read\"]\nqueue = [\"x\"]"),
            "unknown key `queue` of a token; did you mean `queues`",
        ),
        (format!("[tokens.a]\nsha256 = \"{sha}\"\nscopes = [\"read\"]\ntasks = [\"a b\"]"), "a pattern is a name"),
        (
            format!("[tokens.a]\nsha256 = \"{sha}\"\nscopes = [\"read\"]\n[tokens.b]\nsha256 = \"{sha}\"\nscopes = [\"read\"]"),
            "are the same",
        ),
        (format!("[tokens.\"a b\"]\nsha256 = \"{sha}\"\nscopes = [\"read\"]"), "a token's name"),
        ("tokens = 1".to_owned(), "tokens are tables"),
        ("http_cors = \"app.example.com\"".to_owned(), "an origin is"),
        ("tls_cert = \"cert.pem\"".to_owned(), "it needs `tls_key`"),
    ] {
        host.write("taskhost.toml", &lines);
        let refused = host.run(&["serve", "--http", "127.0.0.1:0"]);
        assert!(refused.code == 2 && refused.stderr.contains(why), "{lines}: {refused:?}");
    }
    let refused = host.run(&["token", "new", "a b", "--scope", "read"]);
    assert_eq!(refused.code, 2, "{refused:?}");
}

/// Path, method and description of all operations.
fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let paths = document["paths"].as_object().expect("paths");
    let operations = paths.iter().flat_map(|(path, methods)| {
        methods.as_object().expect("methods").iter().map(|(method, operation)| (path.clone(), method.to_uppercase(), operation.clone()))
    });
    operations.collect()
}

/// A path with names that nobody has.
fn filled(path: &str) -> String {
    path.replace("{id}", "nobody")
        .replace("{name}", "none")
        .replace("{queue}", "nowhere")
        .replace("{plugin}", "nothing")
        .replace("{worker}", "nobody")
}
