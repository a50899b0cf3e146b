//! Guests built with the SDK: the results and errors that an author sees.

use std::{sync::Arc, time::Duration};

use super::support::{Fake, call, engine, error, granted, load, plugin, result, run, told};
use taskhost::engine::{Call, Code, Grants, HttpGrant, Limits};
use taskhost_core::task::{ErrorKind, LogLine, Outcome};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::OnceCell,
};

async fn math() -> &'static Arc<Code> {
    static CODE: OnceCell<Arc<Code>> = OnceCell::const_new();
    CODE.get_or_init(async || load(&plugin("math")).await).await
}

async fn probe() -> &'static Arc<Code> {
    static CODE: OnceCell<Arc<Code>> = OnceCell::const_new();
    CODE.get_or_init(async || load(&plugin("probe")).await).await
}

#[tokio::test]
async fn add_adds() {
    assert_eq!(result(run(call(math().await, "add", "[1,1]")).await), "2");
    assert_eq!(told(run(call(math().await, "add", "[9223372036854775807,1]")).await), (ErrorKind::Permanent, "integer overflow".into()));
}

#[tokio::test]
async fn wrong_arguments_and_bodies_are_told_apart() {
    let (kind, message) = told(run(call(math().await, "add", r#"[1,"x"]"#)).await);
    assert_eq!(kind, ErrorKind::InvalidArguments);
    assert!(message.contains("`b`"), "{message}");
    let (kind, message) = told(run(call(math().await, "ad", "[1,1]")).await);
    assert_eq!(kind, ErrorKind::NoSuchBody);
    assert!(message.contains("`ad`"), "{message}");
}

#[tokio::test]
async fn a_plugin_describes_itself() {
    let (description, warnings) = engine().describe(math().await).await.unwrap();
    let add = description.bodies.iter().find(|body| body.name.as_str() == "add").unwrap();
    let parameters: Vec<&str> = add.parameters.iter().map(|parameter| parameter.name.as_str()).collect();
    assert_eq!((parameters, warnings), (vec!["a", "b"], vec![]));
    assert_eq!(add.parameters[0].schema["type"], "integer");
    let (description, warnings) = engine().describe(probe().await).await.unwrap();
    let sleep = description.bodies.iter().find(|body| body.name.as_str() == "sleep").unwrap();
    assert_eq!((sleep.hints.timeout_ms, warnings), (Some(3_600_000), vec![]));
}

#[tokio::test]
async fn a_panic_is_told_with_message_and_place() {
    let error = error(run(call(probe().await, "panic_task", r#"["it broke"]"#)).await);
    assert_eq!(error.kind, ErrorKind::Panic);
    assert!(error.message.starts_with("panicked at ") && error.message.ends_with(": it broke"), "{error:?}");
    assert!(error.message.contains("src/lib.rs:"), "{error:?}");
    assert!(error.detail.unwrap().contains("it broke"));
}

#[tokio::test]
async fn a_sleeping_body_times_out() {
    let mut asleep = call(probe().await, "sleep", "[3600]");
    asleep.timeout = Duration::from_millis(300);
    let attempted = run(asleep).await;
    assert!(attempted.cpu < attempted.ran, "{attempted:?}");
    assert_eq!(told(attempted), (ErrorKind::Timeout, "timed out after 300 ms".into()));
}

#[tokio::test]
async fn rust_falls_off_its_limits_in_words() {
    assert_eq!(told(run(call(probe().await, "recurse", "[]")).await).0, ErrorKind::StackOverflow);
    let attempted = run(call(probe().await, "allocate", "[100]")).await;
    assert_eq!(told(attempted), (ErrorKind::MemoryLimit, "memory limit of 64 MiB reached".into()));
    let mut allowed = call(probe().await, "allocate", "[100]");
    Arc::make_mut(&mut allowed.terms).limits = Arc::new(Limits { memory: 256 << 20, ..Limits::default() });
    let attempted = run(allowed).await;
    assert!(attempted.memory > 100 << 20);
    result(attempted);
    assert_eq!(told(run(call(probe().await, "exit", "[0]")).await), (ErrorKind::Exit, "left with exit(0) without a result".into()));
    assert_eq!(told(run(call(probe().await, "exit", "[3]")).await).0, ErrorKind::Exit);
    assert_eq!(told(run(call(probe().await, "large_result", "[2000000]")).await).0, ErrorKind::ResultTooLarge);
}

#[tokio::test]
async fn a_body_reads_its_context() {
    let about = result(run(call(probe().await, "about", "[]")).await);
    let about: serde_json::Value = serde_json::from_str(&about).unwrap();
    assert_eq!(about["id"], "task-1");
    assert_eq!(about["queue"], "mail");
    assert_eq!((&about["attempt"], &about["max_attempts"]), (&2.into(), &4.into()));
    assert_eq!(about["headers"][0][0], "traceparent");
    let left = about["milliseconds_left"].as_u64().unwrap();
    assert!((1..=120_000).contains(&left), "{left}");
}

#[tokio::test]
async fn a_body_sees_only_the_environment_that_was_granted() {
    assert_eq!(result(run(call(probe().await, "env", r#"["PATH"]"#)).await), "null");
    let mut granted = call(probe().await, "env", r#"["CENTER_URL"]"#);
    Arc::make_mut(&mut granted.terms).grants =
        Arc::new(Grants { env: [("CENTER_URL".into(), "https://hr".into())].into(), ..Grants::default() });
    assert_eq!(result(run(granted).await), r#""https://hr""#);
}

#[tokio::test]
async fn the_store_keeps_what_a_body_puts() {
    let services = Arc::new(Fake::default());
    let ask = async |body: &str, args: &str| {
        let mut asked = call(probe().await, body, args);
        asked.services = Arc::clone(&services) as _;
        result(run(asked).await)
    };
    assert_eq!(ask("kv_get", r#"["a"]"#).await, "null");
    ask("kv_set", r#"["a",{"x":[1,2]}]"#).await;
    assert_eq!(ask("kv_get", r#"["a"]"#).await, r#"{"x":[1,2]}"#);
    assert_eq!(ask("kv_increment", r#"["n",41]"#).await, "41");
    assert_eq!(ask("kv_increment", r#"["n"]"#).await, "42");
    assert_eq!(ask("kv_keys", "[]").await, r#"["a","n"]"#);
    assert_eq!(ask("kv_remove", r#"["a"]"#).await, "true");
    assert_eq!(ask("kv_remove", r#"["a"]"#).await, "false");
    let mut away = call(probe().await, "kv_get", r#"["a"]"#);
    away.services = Arc::new(Fake { down: true, ..Fake::default() });
    assert_eq!(told(run(away).await).0, ErrorKind::Retry, "a broker that is away is worth another attempt");
    let mut wide = call(probe().await, "kv_set", &format!(r#"["a","{}"]"#, "x".repeat(2 << 20)));
    Arc::make_mut(&mut wide.terms).limits = Arc::new(Limits { memory: 256 << 20, ..Limits::default() });
    assert!(told(run(wide).await).1.contains("1 MiB"), "over the payload limit");
}

#[tokio::test]
async fn what_a_body_says_is_kept_and_passed_on() {
    let services = Arc::new(Fake::default());
    let mut chatty = call(probe().await, "chatter", r#"["hello"]"#);
    chatty.services = Arc::clone(&services) as _;
    let attempted = run(chatty).await;
    let kept: Vec<LogLine> = attempted.log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let levels: Vec<&str> = kept.iter().map(|line| line.level.as_str()).collect();
    assert_eq!(levels, ["stdout", "stderr", "trace", "debug", "info", "warn", "error"]);
    assert_eq!((kept[0].message.as_str(), kept[4].message.as_str(), kept[4].attempt), ("stdout: hello", "hello", 2));
    assert_eq!(kept[4].fields, [("level".to_owned(), "Info".to_owned())]);
    assert_eq!(*services.lines.lock().unwrap(), kept);

    let mut steps = call(probe().await, "progress_demo", "[2]");
    steps.services = Arc::clone(&services) as _;
    assert_eq!(result(run(steps).await), "2");
    let progress = services.progress.lock().unwrap();
    assert_eq!((progress[1].done, progress[1].total, progress[1].note.as_str()), (2, Some(2), "step 2"));
}

#[tokio::test]
async fn a_flood_of_output_is_bounded() {
    // One line of 800,000 characters on each stream, and five in the log.
    let flood = run(call(probe().await, "chatter", &format!(r#"["{}"]"#, "x".repeat(800_000)))).await;
    assert!(flood.log.len() <= 64 << 10, "{}", flood.log.len());
    result(flood);
    let error = error(run(call(probe().await, "panic_task", &format!(r#"["{}"]"#, "x".repeat(800_000)))).await);
    assert!(error.message.len() < 4 << 10 && error.detail.unwrap().len() <= 8 << 10);
}

#[tokio::test]
async fn children_of_a_failed_body_are_none() {
    let attempted = run(call(probe().await, "spawn_children", "[3]")).await;
    let Outcome::Done { children, result } = attempted.outcome else { panic!("{attempted:?}") };
    let ids: Vec<String> = serde_json::from_str(&result).unwrap();
    assert_eq!(ids, children.iter().map(|child| child.id.to_string()).collect::<Vec<_>>());
    assert_eq!((children[2].name.as_str(), children[2].args.as_str()), ("echo", "[2]"));
    assert_eq!(told(run(call(probe().await, "spawn_children", "[3,null,true]")).await).0, ErrorKind::Permanent);
}

#[tokio::test]
async fn a_body_that_watches_for_the_word_ends_cancelled() {
    let asleep = call(probe().await, "long_running_task", "[3600]");
    let cancel = asleep.cancelled.clone();
    let (attempted, ()) = tokio::join!(run(asleep), async { cancel.cancel() });
    assert_eq!(told(attempted).0, ErrorKind::Cancelled);
}

/// Transfers departments from this centre, under these grants.
async fn transferring(center: &str, http: Vec<HttpGrant>) -> Call {
    let mut transfer = call(&load(&plugin("org-transfer")).await, "transferDepartment", "[]");
    Arc::make_mut(&mut transfer.terms).plugin = "org-transfer".into();
    Arc::make_mut(&mut transfer.terms).grants = Arc::new(Grants { http, env: [("CENTER_URL".into(), center.into())].into(), ..granted() });
    transfer
}

#[tokio::test]
async fn a_denied_call_names_the_line_that_would_allow_it() {
    let attempted = run(transferring("https://hr.example.com/api", vec![]).await).await;
    let line = r#"to allow it: `[plugins.org-transfer] http = ["https://hr.example.com"]`"#;
    assert!(attempted.log.contains("https://hr.example.com is not granted"), "{}", attempted.log);
    let (kind, message) = told(attempted);
    assert!(message.contains("denied") && message.ends_with(line), "{kind}: {message}");
}

#[tokio::test]
async fn a_granted_call_is_made() {
    let center = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = center.local_addr().unwrap().port();
    let page = r#"{"items":[{"id":"1","name":"Sales"},{"id":"2","name":"Works"}]}"#;
    let served = tokio::spawn(async move {
        let (mut stream, _) = center.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.unwrap() > 0 {}
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{page}", page.len());
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(head).unwrap()
    });
    let grant = HttpGrant::new("http", "127.0.0.1", port);
    let mut transfer = transferring(&format!("http://127.0.0.1:{port}"), vec![grant]).await;
    let services = Arc::new(Fake::default());
    transfer.services = Arc::clone(&services) as _;
    assert_eq!(result(run(transfer).await), "2");
    assert!(services.kv.lock().unwrap().contains_key("staged:department:1"));
    let head = served.await.unwrap();
    assert!(head.starts_with("GET /department?page=1 HTTP/1.1\r\n") && head.contains(&format!("host: 127.0.0.1:{port}\r\n")), "{head}");
}
