//! What hostile or broken clients try. Each gets an answer that is a problem, or none, and the next client is served.

use std::io::{Read, Write};

use crate::support::{
    http::{Http, Reply},
    program::{Taskhost, until},
};

/// Sends these bytes, and reads what comes back until the server ends the connection.
fn raw(http: &Http, bytes: &[u8]) -> Option<Reply> {
    let mut stream = http.connect();
    let _broken_pipe = stream.write_all(bytes);
    let _ended = stream.shutdown(std::net::Shutdown::Write);
    let mut first = [0];
    match stream.peek(&mut first) {
        Ok(1..) => Some(Reply::read(stream)),
        _ => None,
    }
}

#[test]
fn odd_requests_get_a_problem_and_harm_nobody() {
    let host = Taskhost::new();
    let (server, http) = Http::serve(&host, &[]);
    let at = |name: &str, value: &str| http.clone().with(name, value);
    let task = r#"{"task":"add","args":[1,1]}"#;
    let deep = format!(r#"{{"task":"add","args":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    for (what, reply, status, kind) in [
        ("a method that is not there", http.ask("BREW", "/v1/tasks", None), 405, "method-not-allowed"),
        ("a method that is not this resource's", http.ask("PATCH", "/v1/queues", Some("{}")), 405, "method-not-allowed"),
        ("a path that is not there", http.get("/v2/tasks"), 404, "not-found"),
        ("a path that climbs", http.get("/v1/../../etc/passwd"), 404, "not-found"),
        ("a path that climbs in disguise", http.get("/v1/tasks/%2e%2e%2f%2e%2e%2fetc%2fpasswd"), 404, "unknown-task"),
        ("a path with a NUL", http.get("/v1/tasks/a%00b"), 404, "unknown-task"),
        ("a path that is not UTF-8", http.get("/v1/tasks/%ff%fe"), 400, "bad-request"),
        ("a queue with a brace", http.get("/v1/queues/%7Bx%7D"), 404, "unknown-queue"),
        ("a query that is not there", http.get("/v1/tasks?sate=dead"), 400, "bad-request"),
        ("a query that is given twice", http.get("/v1/tasks?limit=1&limit=2"), 400, "bad-request"),
        ("a state that is not there", http.get("/v1/tasks?state=lost"), 400, "bad-request"),
        ("a limit beyond its bounds", http.get("/v1/tasks?limit=0"), 400, "bad-request"),
        ("a wait that is none", http.post("/v1/tasks?wait=soon", task), 400, "bad-request"),
        ("a filter without a value", http.get("/v1/tasks?state="), 400, "bad-request"),
        ("a body of another type", at("Content-Type", "text/xml").post("/v1/tasks", task), 415, "wrong-content-type"),
        ("a form of a page", at("Content-Type", "multipart/form-data").post("/v1/tasks", task), 415, "wrong-content-type"),
        ("no body", http.post("/v1/tasks", ""), 422, "invalid"),
        ("a body that is not an object", http.post("/v1/tasks", "[1]"), 422, "invalid"),
        ("an unknown member", http.post("/v1/tasks", r#"{"task":"add","arg":[1]}"#), 422, "invalid"),
        ("a depth without end", http.post("/v1/tasks", &deep), 422, "invalid-arguments"),
        ("a number without end", http.post("/v1/tasks", r#"{"task":"add","args":[1e999]}"#), 422, "invalid-arguments"),
        ("an id with a line end", http.post("/v1/tasks", "{\"task\":\"add\",\"id\":\"a\\nb\"}"), 422, "invalid"),
        ("an oversized body", http.post("/v1/tasks", &" ".repeat(3 << 20)), 413, "too-large"),
        ("an oversized key", at("Idempotency-Key", &"k".repeat(300)).post("/v1/tasks", task), 400, "bad-request"),
        ("a page of another site", at("Origin", "https://evil.example").post("/v1/tasks", task), 403, "cross-origin"),
        ("a frame of another site", at("Sec-Fetch-Site", "cross-site").get("/v1/tasks"), 403, "cross-origin"),
        ("a name that somebody made to point here", at("Host", "evil.example").get("/v1/tasks"), 403, "wrong-host"),
        (
            "a schedule's name that is not one",
            http.ask("PUT", "/v1/schedules/a%20b", Some(r#"{"rule":"@hourly","task":"x"}"#)),
            422,
            "invalid",
        ),
        ("a plugin that climbs", http.post("/v1/plugins/..%2F..%2Fx/rollback", ""), 409, "wrong-state"),
    ] {
        assert_eq!(reply.problem(status), kind, "{what}: {reply:?}");
    }
    let listed = http.get("/v1/tasks").ok(200);
    assert_eq!(listed["tasks"].as_array().map(Vec::len), Some(0), "nothing was enqueued: {listed}");
    assert!(server.stop().success());
}

#[test]
fn bytes_that_are_no_request_harm_nobody() {
    let host = Taskhost::new();
    let (server, http) = Http::serve(&host, &[]);
    let many_headers = (0..500).map(|n| format!("x-{n}: y\r\n")).collect::<Vec<_>>().concat();
    let long_header = format!("x: {}\r\n", "y".repeat(200_000));
    for (what, bytes, statuses) in [
        ("garbage", b"\x00\xff\x16\x03\x01garbage\r\n\r\n".to_vec(), &[400][..]),
        ("TLS", [b"\x16\x03\x01\x02\x00\x01".as_slice(), &[0; 600]].concat(), &[400]),
        ("HTTP/2 without asking", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), &[400, 505]),
        ("a flood of headers", format!("GET /livez HTTP/1.1\r\nHost: localhost\r\n{many_headers}\r\n").into_bytes(), &[431, 400]),
        ("a header without end", format!("GET /livez HTTP/1.1\r\nHost: localhost\r\n{long_header}\r\n").into_bytes(), &[431, 400]),
        ("a path without end", format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "a".repeat(100_000)).into_bytes(), &[414, 431, 400]),
        ("two lengths", b"POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\n{}".to_vec(), &[400]),
        (
            "a length and chunks",
            b"POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(),
            &[400, 422],
        ),
        (
            "a chunk that is none",
            b"POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_vec(),
            &[400],
        ),
        ("a body that ends early", b"POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{".to_vec(), &[400]),
    ] {
        if let Some(reply) = raw(&http, &bytes) {
            assert!(statuses.contains(&reply.status), "{what}: {reply:?}");
        }
        assert_eq!(http.get("/livez").status, 200, "after {what}");
    }
    assert!(!server.log().contains("panicked"), "{}", server.log());
    assert!(server.stop().success());
}

#[test]
fn a_body_in_chunks_without_end_is_cut_at_its_limit() {
    let host = Taskhost::new();
    let (_server, http) = Http::serve(&host, &[]);
    for (path, kind) in [("/v1/tasks", "application/json"), ("/v1/tasks/bulk", "application/x-ndjson")] {
        let mut stream = http.connect();
        let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("the head");
        let chunk = format!("10000\r\n{}\r\n", "a".repeat(0x10000));
        let mut sent = 0;
        while sent < 64 << 20 && stream.write_all(chunk.as_bytes()).is_ok() {
            sent += chunk.len();
        }
        assert!(sent < 64 << 20, "{path}: the server reads no further");
        let mut answer = Vec::new();
        let _reset = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.contains("too-large"), "{path}: {answer}");
    }
    assert_eq!(http.get("/livez").status, 200);
}

#[test]
fn silent_clients_take_nothing_from_others() {
    let host = Taskhost::new();
    let (server, http) = Http::serve(&host, &[]);
    let before = server.rss();
    let mut silent = Vec::new();
    for n in 0..500 {
        let mut stream = http.connect();
        match n % 3 {
            0 => {}
            1 => stream.write_all(b"GET /livez HTTP/1.1\r\nHost: local").expect("half a head"),
            _ => stream.write_all(b"POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{").expect("half a body"),
        }
        silent.push(stream);
    }
    for _ in 0..20 {
        assert_eq!(http.get("/livez").status, 200);
    }
    let grown = server.rss().saturating_sub(before);
    assert!(grown < 40 << 10, "{grown} KiB for 500 silent clients");
    assert!(server.stop().success(), "silent clients keep no server from ending");
    drop(silent);
}

#[test]
fn the_broker_may_go_and_come_back() {
    let mut host = Taskhost::on_redis();
    let (_server, http) = Http::serve(&host, &[]);
    http.post("/v1/tasks", r#"{"task":"add","args":[1,1]}"#).ok(201);
    let waiting = std::thread::spawn({
        let http = http.clone();
        move || http.post("/v1/tasks?wait=5s", r#"{"task":"add","args":[1,1],"id":"known"}"#)
    });
    until("it is enqueued", || http.get("/v1/tasks/known").status == 200);
    host.kill_redis();
    let cut = waiting.join().expect("an answer");
    assert!(cut.body.contains("\"id\":\"known\""), "the client learns what it has enqueued: {cut:?}");
    until("it is not ready", || http.get("/readyz").status == 503);
    assert_eq!(http.get("/livez").status, 200);
    let away = http.post("/v1/tasks", r#"{"task":"add","args":[1,1]}"#);
    assert_eq!(away.problem(503), "broker-unavailable");
    assert!(away.header("retry-after").is_some(), "{away:?}");
    host.empty_redis();
    until("it is ready again", || http.get("/readyz").status == 200);
    http.post("/v1/tasks", r#"{"task":"add","args":[1,1]}"#).ok(201);
}
