//! Grants and denials of policies, as guests see them.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;

use super::{
    hostile::{ENQUEUE, Guest, running},
    support::{Fake, call, compile, granted, load, plugin, result, run, settings, told},
};
use taskhost::engine::{
    Call, Code, Engine, EngineSettings, EnqueueGrant, FileGrant, FileMode, Grants, HttpGrant, Limits, Network, Rate, SecretGrant,
    SecretSource,
};
use taskhost_core::task::ErrorKind;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::OnceCell,
};

async fn probe() -> &'static Arc<Code> {
    static CODE: OnceCell<Arc<Code>> = OnceCell::const_new();
    CODE.get_or_init(async || load(&plugin("probe")).await).await
}

async fn probing(body: &str, args: &str, grants: Grants) -> Call {
    let mut probing = call(probe().await, body, args);
    Arc::make_mut(&mut probing.terms).grants = Arc::new(grants);
    probing
}

fn origin(port: u16) -> HttpGrant {
    HttpGrant::new("http", "127.0.0.1", port)
}

#[tokio::test]
async fn nothing_is_granted_that_no_policy_grants() {
    for (body, args, line) in [
        ("kv_get", r#"["a"]"#, "`[plugins.probe] kv = true`"),
        ("kv_set", r#"["a",1]"#, "`[plugins.probe] kv = true`"),
        ("kv_remove", r#"["a"]"#, "`[plugins.probe] kv = true`"),
        ("kv_increment", r#"["a"]"#, "`[plugins.probe] kv = true`"),
        ("kv_keys", "[]", "`[plugins.probe] kv = true`"),
        ("spawn_children", "[1]", r#"`[plugins.probe] enqueue = ["echo"]`"#),
        ("fetch", r#"["http://127.0.0.1:1/"]"#, r#"`[plugins.probe] http = ["http://127.0.0.1:1"]`"#),
    ] {
        let services = Arc::new(Fake::default());
        let mut asking = probing(body, args, Grants::default()).await;
        asking.services = Arc::clone(&services) as _;
        let attempted = run(asking).await;
        assert!(attempted.log.contains("denied: "), "{body}: {}", attempted.log);
        let (kind, message) = told(attempted);
        // Another host may answer, so the SDK tries again.
        assert_eq!(kind, if body == "fetch" { ErrorKind::Retry } else { ErrorKind::Permanent }, "{body}: {message}");
        assert!(message.contains("denied") && message.contains(line), "{body}: {message}");
        assert!(services.kv.lock().unwrap().is_empty());
    }
    // Every guest has these: the context, a log, clocks, random numbers.
    for (body, args) in [("about", "[]"), ("chatter", r#"["x"]"#), ("spin", "[0.001]")] {
        result(run(probing(body, args, Grants::default()).await).await);
    }
}

#[tokio::test]
async fn files_environment_and_sockets_are_closed() {
    assert_eq!(result(run(probing("env", r#"["PATH"]"#, Grants::default()).await).await), "null");
    for path in ["/etc/passwd", "/", "../../etc/passwd", "/proc/self/environ"] {
        let (_, message) = told(run(probing("read_file", &format!(r#"["{path}"]"#), Grants::default()).await).await);
        assert!(message.contains("No such file or directory"), "nothing is mounted: {path}: {message}");
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    for (asked, refused) in [(address.to_string(), "Permission denied"), ("localhost:80".into(), "failed to lookup address")] {
        let (_, message) = told(run(probing("connect", &format!(r#"["{asked}"]"#), granted()).await).await);
        assert!(message.contains(refused), "{asked}: {message}");
    }
    assert_eq!(
        result(run(probing("listen", r#"["127.0.0.1:0"]"#, granted()).await).await),
        r#"["Permission denied (os error 2)","Permission denied (os error 2)"]"#
    );
}

#[tokio::test]
async fn a_granted_directory_is_all_that_is_seen_of_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let inside = dir.path().join("inside");
    std::fs::create_dir(&inside).unwrap();
    std::fs::write(dir.path().join("outside.txt"), "outside").unwrap();
    std::fs::write(inside.join("note.txt"), "inside").unwrap();
    std::os::unix::fs::symlink("/etc/shadow", inside.join("shadow")).unwrap();
    std::os::unix::fs::symlink("../outside.txt", inside.join("link.txt")).unwrap();
    let granting = |mode| Grants { files: vec![FileGrant { host: inside.clone(), guest: "/in".into(), mode }], ..Grants::default() };
    let ask = async |body: &str, args: &str, mode| run(probing(body, args, granting(mode)).await).await;
    assert_eq!(result(ask("read_file", r#"["/in/note.txt"]"#, FileMode::ReadOnly).await), r#""inside""#);
    for path in ["/in/../outside.txt", "/in/link.txt", "/in/shadow", "/etc/passwd"] {
        let (_, message) = told(ask("read_file", &format!(r#"["{path}"]"#), FileMode::ReadWrite).await);
        assert!(["Operation not permitted", "No such file"].iter().any(|no| message.contains(no)), "{path}: {message}");
    }
    let (_, message) = told(ask("write_file", r#"["/in/note.txt","changed"]"#, FileMode::ReadOnly).await);
    assert!(message.contains("Operation not permitted"), "{message}");
    assert_eq!(std::fs::read_to_string(inside.join("note.txt")).unwrap(), "inside");
    result(ask("write_file", r#"["/in/note.txt","changed"]"#, FileMode::ReadWrite).await);
    assert_eq!(std::fs::read_to_string(inside.join("note.txt")).unwrap(), "changed");
}

#[tokio::test]
async fn children_go_where_the_policy_says() {
    let enqueue = |tasks: &[&str], queues: &[&str]| {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Grants { enqueue: Some(EnqueueGrant { tasks: list(tasks), queues: list(queues), rate: None }), ..Grants::default() }
    };
    result(run(probing("spawn_children", "[2]", enqueue(&["ec*"], &[])).await).await);
    let (_, message) = told(run(probing("spawn_children", r#"[1,"add"]"#, enqueue(&["ec*"], &[])).await).await);
    assert!(message.contains("enqueueing `add` is not granted"), "{message}");
    let (_, message) = told(run(probing("spawn_children", "[1]", enqueue(&["echo"], &["post"])).await).await);
    assert!(message.contains("queue `mail` is not granted"), "{message}");
}

#[tokio::test]
async fn a_rate_is_of_all_attempts_together() {
    let enqueue = EnqueueGrant { tasks: vec!["echo".into()], queues: Vec::new(), rate: Some(Rate::new(5, Duration::from_secs(3600))) };
    let grants = Grants { enqueue: Some(enqueue), ..Grants::default() };
    result(run(probing("spawn_children", "[3]", grants.clone()).await).await);
    let (_, message) = told(run(probing("spawn_children", "[3]", grants.clone()).await).await);
    assert!(message.contains("5 tasks in 3600 s"), "{message}");
}

#[tokio::test]
async fn cpu_time_has_a_limit_of_its_own() {
    let mut endless = call(&load(&running("(loop $l (br $l)) (unreachable)")).await, "go", "[]");
    Arc::make_mut(&mut endless.terms).limits = Arc::new(Limits { cpu: Some(Duration::from_millis(50)), ..Limits::default() });
    assert_eq!(told(run(endless).await), (ErrorKind::Timeout, "used up its CPU time of 50 ms".into()));
}

/// A server that answers each request with its content, or with `answer`. Also returns the heads of the requests.
async fn mirror(answer: Option<String>) -> (u16, Arc<std::sync::Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let heads = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&heads);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (answer, seen) = (answer.clone(), Arc::clone(&seen));
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {}
                let head = String::from_utf8_lossy(&head).into_owned();
                let answer = answer.unwrap_or_else(|| format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\nok", 2));
                seen.lock().unwrap().push(head);
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
                // Read the rest of the request, such as the end of an empty body, so that the client meets no closed connection.
                while stream.read_buf(&mut Vec::with_capacity(1024)).await.is_ok_and(|read| read > 0) {}
            });
        }
    });
    (port, heads)
}

#[tokio::test]
async fn a_secret_reaches_its_host_and_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("token"), "open-sesame\n").unwrap();
    let (own, own_heads) = mirror(None).await;
    let (other, other_heads) = mirror(None).await;
    let secret = SecretGrant { source: SecretSource::File(dir.path().join("token")), origins: vec![origin(own)] };
    let grants = Grants { http: vec![origin(own), origin(other)], secrets: [("TOKEN".into(), secret)].into(), ..Grants::default() };
    // The guest sees a placeholder, and so does its log.
    let seen = run(probing("env", r#"["TOKEN"]"#, grants.clone()).await).await;
    assert!(!seen.log.contains("open-sesame"));
    let placeholder = result(seen);
    assert!(placeholder.starts_with("\"taskhost-secret-"), "{placeholder}");
    result(run(probing("fetch", &format!(r#"["http://127.0.0.1:{own}/x","TOKEN"]"#), grants.clone()).await).await);
    assert!(own_heads.lock().unwrap()[0].contains("authorization: Bearer open-sesame\r\n"), "{own_heads:?}");
    let attempted = run(probing("fetch", &format!(r#"["http://127.0.0.1:{other}/x","TOKEN"]"#), grants.clone()).await).await;
    assert!(!attempted.log.contains("open-sesame"), "{}", attempted.log);
    let (_, message) = told(attempted);
    assert!(message.contains("the secret TOKEN is not for this host") && !message.contains("open-sesame"), "{message}");
    assert_eq!(other_heads.lock().unwrap().len(), 0, "nothing was sent");
    std::fs::remove_file(dir.path().join("token")).unwrap();
    let (_, message) = told(run(probing("fetch", &format!(r#"["http://127.0.0.1:{own}/x","TOKEN"]"#), grants).await).await);
    assert!(message.contains("can't be had on this host"), "{message}");
}

#[tokio::test]
async fn a_secret_that_is_shouted_is_still_none() {
    let path = std::env::var("PATH").expect("every test has one");
    let secret = SecretGrant { source: SecretSource::Variable("PATH".into()), origins: vec![origin(1)] };
    let services = Arc::new(Fake::default());
    let mut shouting =
        probing("shout_env", r#"["TOKEN"]"#, Grants { secrets: [("TOKEN".into(), secret.clone())].into(), ..Grants::default() }).await;
    shouting.services = Arc::clone(&services) as _;
    let attempted = run(shouting).await;
    let said = format!("{attempted:?} {:?} {:?}", services.lines.lock().unwrap(), services.progress.lock().unwrap());
    assert!(said.matches("taskhost-secret-").count() >= 9, "stdout, stderr, five levels, progress, message: {said}");
    assert!(!said.contains(&path), "{said}");
    // A secret from the environment works like one from a file.
    let (own, heads) = mirror(None).await;
    let secret = SecretGrant { origins: vec![origin(own)], ..secret };
    let grants = Grants { http: vec![origin(own)], secrets: [("TOKEN".into(), secret)].into(), ..Grants::default() };
    result(run(probing("fetch", &format!(r#"["http://127.0.0.1:{own}/x","TOKEN"]"#), grants).await).await);
    assert!(heads.lock().unwrap()[0].contains(&format!("authorization: Bearer {path}\r\n")), "{heads:?}");
}

/// Names whose addresses change, with one server behind all addresses.
#[derive(Debug)]
struct Rebinding {
    answers: Mutex<VecDeque<&'static [&'static str]>>,
    dialled: Mutex<Vec<SocketAddr>>,
    server: u16,
}

#[async_trait]
impl Network for Rebinding {
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        assert_eq!(host, "hr.example.com");
        let answer = self.answers.lock().unwrap().pop_front().expect("asked no more often than it is called");
        Ok(answer.iter().map(|address| SocketAddr::new(address.parse().unwrap(), port)).collect())
    }

    async fn dial(&self, address: SocketAddr) -> io::Result<TcpStream> {
        self.dialled.lock().unwrap().push(address);
        TcpStream::connect(("127.0.0.1", self.server)).await
    }
}

#[tokio::test]
async fn a_name_that_changes_its_mind_is_dialled_where_it_was_checked() {
    let (server, heads) = mirror(None).await;
    // The first lookup gives a public address, the second one an address of this network.
    let answers: [&[&str]; 6] =
        [&["93.184.215.14"], &["127.0.0.1"], &["93.184.215.14", "10.0.0.7"], &["::ffff:169.254.169.254"], &["100.64.1.1"], &["fe80::1"]];
    let network = Arc::new(Rebinding { answers: Mutex::new(answers.into()), dialled: Mutex::default(), server });
    let engine = Engine::start(EngineSettings { network: Arc::clone(&network) as _, ..settings() }).unwrap();
    let code = compile(&engine, &plugin("probe")).await.unwrap();
    let grant = HttpGrant::new("http", "hr.example.com", 80);
    let fetch = async || {
        let mut fetching = call(&code, "fetch", r#"["http://hr.example.com/x"]"#);
        Arc::make_mut(&mut fetching.terms).grants = Arc::new(Grants { http: vec![grant.clone()], ..Grants::default() });
        engine.invoke(fetching).await
    };
    assert_eq!(result(fetch().await), "\"ok\"");
    let public = vec![SocketAddr::new("93.184.215.14".parse().unwrap(), 80)];
    assert_eq!(*network.dialled.lock().unwrap(), public, "the very address that was checked");
    assert!(heads.lock().unwrap()[0].contains("host: hr.example.com\r\n"), "{heads:?}");
    assert_eq!(network.answers.lock().unwrap().len(), 5, "resolved once");
    for closed in ["127.0.0.1", "10.0.0.7", "::ffff:169.254.169.254", "100.64.1.1", "fe80::1"] {
        let (_, message) = told(fetch().await);
        let expected =
            format!("denied: hr.example.com resolves to {closed}, which is not a public address; to allow it: `[plugins.probe] http");
        assert!(message.contains(&expected), "{message}");
    }
    assert_eq!(*network.dialled.lock().unwrap(), public, "nothing else was dialled");
}

#[tokio::test]
async fn only_the_granted_methods_are_sent() {
    let (port, heads) = mirror(None).await;
    let methods = |methods: &[&str]| {
        let methods = methods.iter().map(|method| (*method).to_owned()).collect();
        Grants { http: vec![HttpGrant { methods, ..origin(port) }], ..Grants::default() }
    };
    let fetch = async |grants| run(probing("fetch", &format!(r#"["http://127.0.0.1:{port}/"]"#), grants).await).await;
    let (_, message) = told(fetch(methods(&["PUT", "POST"])).await);
    assert!(message.contains(&format!("denied: GET to http://127.0.0.1:{port} is not granted, only PUT, POST")), "{message}");
    assert!(heads.lock().unwrap().is_empty());
    assert_eq!(result(fetch(methods(&["GET"])).await), "\"ok\"");
}

#[tokio::test]
async fn a_server_that_says_nothing_costs_the_attempts_time_and_no_more() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut waiting =
        probing("fetch", &format!(r#"["http://127.0.0.1:{port}/"]"#), Grants { http: vec![origin(port)], ..Grants::default() }).await;
    waiting.timeout = Duration::from_millis(500);
    assert_eq!(told(run(waiting).await), (ErrorKind::Timeout, "timed out after 500 ms".into()));
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_not_followed() {
    let (inner, inner_heads) = mirror(None).await;
    let (port, _) =
        mirror(Some(format!("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:{inner}/secret\r\ncontent-length: 0\r\n\r\n"))).await;
    let grants = Grants { http: vec![origin(port)], ..Grants::default() };
    assert_eq!(result(run(probing("fetch", &format!(r#"["http://127.0.0.1:{port}/"]"#), grants).await).await), "\"\"");
    assert!(inner_heads.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_host_header_cannot_be_forged() {
    let (port, heads) = mirror(None).await;
    let grants = Grants { http: vec![origin(port)], ..Grants::default() };
    let attempted = run(probing("fetch", &format!(r#"["http://127.0.0.1:{port}/",null,"internal.example.com"]"#), grants).await).await;
    let (_, message) = told(attempted);
    assert!(message.contains("rejected header `host:") && message.contains("Forbidden"), "{message}");
    assert!(heads.lock().unwrap().is_empty(), "nothing was sent");
}

#[tokio::test]
async fn an_endless_answer_is_cut_off() {
    let body = "x".repeat(300_000);
    let (port, _) = mirror(Some(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()))).await;
    let mut fetching =
        probing("fetch", &format!(r#"["http://127.0.0.1:{port}/"]"#), Grants { http: vec![origin(port)], ..Grants::default() }).await;
    Arc::make_mut(&mut fetching.terms).limits = Arc::new(Limits { http_response: 100_000, ..Limits::default() });
    let (_, message) = told(run(fetching).await);
    assert!(message.ends_with("HTTP response body size exceeds limit"), "{message}");
    let head = "a".repeat(1_000_000);
    let (port, _) = mirror(Some(format!("HTTP/1.1 200 OK\r\nx: {head}\r\ncontent-length: 0\r\n\r\n"))).await;
    let fetching =
        probing("fetch", &format!(r#"["http://127.0.0.1:{port}/"]"#), Grants { http: vec![origin(port)], ..Grants::default() }).await;
    let (_, message) = told(run(fetching).await);
    assert!(message.contains("HttpResponseHeaderSectionSize"), "{message}");
}

#[tokio::test]
async fn a_guest_that_hammers_a_closed_door_is_only_told_no() {
    // Ten thousand denied calls. Each gets an answer, and the log stays within its bounds.
    let more = "(func $number (result i32) (local $left i32)
        (local.set $left (i32.const 10000))
        (loop $l
            (call $enqueue (i32.const 2050) (i32.const 2) (i32.const 2065) (i32.const 2)
                (i32.const 0) (i32.const 0) (i32.const 0) (i64.const 0)
                (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
                (i32.const 4000))
            (local.set $left (i32.sub (local.get $left) (i32.const 1)))
            (br_if $l (local.get $left)))
        (i32.const 7))";
    let run_ = "(i32.store8 (i32.const 4096) (i32.add (i32.const 48) (call $number))) (call $ok (i32.const 4096) (i32.const 1))";
    let mut hammering =
        call(&load(&Guest { imports: &[ENQUEUE], more, run: run_, memory: 100, ..Guest::default() }.build()).await, "go", "[]");
    Arc::make_mut(&mut hammering.terms).grants = Arc::new(Grants::default());
    let attempted = run(hammering).await;
    assert!(attempted.log.len() <= 64 << 10);
    assert_eq!(result(attempted), "7");
}
