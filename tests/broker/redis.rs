//! Tests of Redis alone: a server that goes away, refuses, forgets its scripts, or is no Redis. The laws are in laws.rs.

mod kept;
mod start;

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener},
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use redis::Value;
use taskhost_broker::{BrokerError, BrokerSettings, Directory, Finished, Lease, Produce, Schedules, Tasks, redis::RedisBroker};
use taskhost_core::task::{NewTask, QueueName, Start, State, TaskId, Verdict};

use crate::support::{End, RedisServer, SOON, Worker, add, enqueue, free_port, ok, queue, retry_after, state, wait_until};

async fn connect(server: &RedisServer) -> RedisBroker {
    RedisBroker::connect(&server.url(), BrokerSettings::default()).await.expect("connect")
}

/// A command of the test's own, beside the broker.
async fn raw(server: &RedisServer, words: &[&str]) -> Value {
    raw_as(&server.url(), words).await
}

async fn raw_as(url: &str, words: &[&str]) -> Value {
    let client = redis::Client::open(url).expect("a URL");
    let mut connection = client.get_multiplexed_async_connection().await.expect("connect");
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]);
    command.query_async(&mut connection).await.unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

async fn refusal(url: &str) -> BrokerError {
    match RedisBroker::connect(url, BrokerSettings::default()).await {
        Ok(broker) => panic!("{url} will do: {broker:?}"),
        Err(error) => error,
    }
}

fn misconfigured(error: BrokerError) -> String {
    match error {
        BrokerError::Misconfigured(text) => text,
        other => panic!("not a matter of settings: {other:?}"),
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_with_what_to_do() {
    let port = free_port();
    let error = refusal(&format!("redis://me:hush@127.0.0.1:{port}")).await;
    assert!(error.is_transient(), "{error:?}");
    assert_eq!(
        error.to_string(),
        format!("cannot reach Redis at 127.0.0.1:{port}: connection refused; is it running? start it, or name another with --broker")
    );
}

#[tokio::test]
async fn a_wrong_or_missing_password_says_where_it_goes_and_is_never_shown() {
    let server = RedisServer::start_with(&["--requirepass", "secret"]);
    let port = server.port();
    let missing = misconfigured(refusal(&server.url()).await);
    assert!(missing.contains("asks for a password; put it in the broker's URL"), "{missing}");
    let wrong = misconfigured(refusal(&format!("redis://:hush@127.0.0.1:{port}")).await);
    assert!(wrong.contains("refused the user or password; correct them"), "{wrong}");
    assert!(!wrong.contains("hush"), "{wrong}");
    let broker = RedisBroker::connect(&format!("redis://:secret@127.0.0.1:{port}"), BrokerSettings::default()).await.expect("connect");
    assert!(!format!("{broker:?}").contains("secret"), "{broker:?}");
    assert!(!broker.check().await.expect("check").about.contains("secret"));
    enqueue(&broker, add()).await;
}

#[tokio::test]
async fn a_user_who_may_too_little_is_told_so() {
    let server = RedisServer::start();
    raw(&server, &["ACL", "SETUSER", "poor", "on", ">p", "~other:*", "+@all"]).await;
    let text = misconfigured(refusal(&format!("redis://poor:p@127.0.0.1:{}", server.port())).await);
    assert!(text.contains("ACL SETUSER"), "{text}");
    // The permissions of this text are enough. docs/protocol.md has the same text.
    raw(&server, &["ACL", "SETUSER", "host", "on", ">p", "~th:*", "&th:*", "+@all", "-@dangerous", "+info"]).await;
    let url = format!("redis://host:p@127.0.0.1:{}", server.port());
    let broker = RedisBroker::connect(&url, BrokerSettings::default()).await.expect("connect");
    let id = enqueue(&broker, add()).await;
    let worker = Worker::new(&broker).await;
    let leased = worker.claim_one().await;
    let (view, _) = tokio::join!(broker.await_end(None, &id, SOON), worker.finish(&leased.member, ok("2")));
    assert_eq!(view.expect("await").expect("known").state, State::Succeeded);
    broker.wait(&QueueName::default(), Duration::from_millis(10)).await.expect("wait");
    assert_eq!(broker.queues().await.expect("queues").len(), 1);
}

#[tokio::test]
async fn a_socket_serves_as_well_as_a_port_in_the_database_that_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("redis.sock");
    let server = RedisServer::start_with(&["--unixsocket", &socket.to_string_lossy(), "--requirepass", "secret"]);
    let url = format!("redis+unix://:secret@{}?db=2", socket.display());
    let broker = RedisBroker::connect(&url, BrokerSettings::default()).await.expect("connect");
    assert!(broker.check().await.expect("check").about.contains(&*socket.to_string_lossy()));
    // One connection for commands, one that blocks, and one that listens.
    let id = enqueue(&broker, add()).await;
    broker.wait(&QueueName::default(), SOON).await.expect("wait");
    let worker = Worker::new(&broker).await;
    let leased = worker.claim_one().await;
    let (view, _) = tokio::join!(broker.await_end(None, &id, SOON), worker.finish(&leased.member, ok("2")));
    assert_eq!(view.expect("await").expect("known").state, State::Succeeded);
    let size = |db: u8| format!("redis://:secret@127.0.0.1:{}/{db}", server.port());
    assert_eq!(raw_as(&size(0), &["DBSIZE"]).await, Value::Int(0));
    assert!(matches!(raw_as(&size(2), &["DBSIZE"]).await, Value::Int(1..)));

    let gone = refusal(&format!("redis+unix://{}/absent.sock", dir.path().display())).await;
    assert!(gone.to_string().contains("absent.sock"), "{gone}");
}

#[tokio::test]
async fn another_kind_of_server_at_the_port_is_no_redis() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let http = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("somebody connects");
        let mut some = [0; 16];
        let _read = stream.read(&mut some);
        let _written = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    });
    let text = misconfigured(refusal(&format!("redis://127.0.0.1:{port}")).await);
    assert!(text.contains("is not a Redis server; correct the host and port"), "{text}");
    http.join().expect("served");
}

#[tokio::test]
async fn another_schema_is_refused_and_bad_settings_are_warned_of() {
    let server = RedisServer::start_with(&["--maxmemory-policy", "allkeys-lru"]);
    let health = connect(&server).await.check().await.expect("check");
    assert!(
        ["Redis ", "Valkey "].iter().any(|name| health.about.starts_with(name)) && health.about.contains("standalone"),
        "{}",
        health.about
    );
    assert!(health.warnings.iter().any(|warning| warning.contains("set maxmemory-policy noeviction")), "{:?}", health.warnings);
    assert!(health.warnings.iter().any(|warning| warning.contains("set appendonly yes")), "{:?}", health.warnings);
    raw(&server, &["SET", "th:{_}:schema", "3"]).await;
    let text = misconfigured(refusal(&server.url()).await);
    assert!(text.contains("schema 3, this one knows 2"), "{text}");
}

#[tokio::test]
async fn a_server_that_was_restarted_is_found_again() {
    let mut server = RedisServer::start();
    let broker = connect(&server).await;
    let (sender, mut told) = tokio::sync::mpsc::channel(8);
    let work = async {
        enqueue(&broker, add()).await;
        assert_eq!(Worker::new(&broker).await.claim(9).await.len(), 1);
        broker.wait(&QueueName::default(), Duration::from_millis(20)).await.expect("wait");
        server.restart(&[]);

        let worker = {
            let begun = Instant::now();
            loop {
                match broker.register(&QueueName::default(), SOON).await {
                    Ok(who) => break Worker { broker: &broker, who, lease: SOON },
                    Err(error) => assert!(error.is_transient() && begun.elapsed() < SOON, "{error:?}"),
                }
            }
        };
        wait_until(SOON, "every connection is made again", || async {
            broker.wait(&QueueName::default(), Duration::from_millis(10)).await.is_ok()
                && broker.extend(&worker.who, SOON).await.is_ok()
                && broker.enqueue(&[add()]).await.is_ok()
        })
        .await;
        let leased = worker.claim_one().await;
        // A message before the next subscription is lost. The heartbeat brings it then.
        let begun = Instant::now();
        let heard = loop {
            assert!(begun.elapsed() < SOON, "the control channel is not listened to again");
            assert_eq!(broker.cancel(&QueueName::default(), &leased.task.id).await.expect("cancel"), taskhost_broker::CancelReply::Asked);
            if let Ok(heard) = tokio::time::timeout(Duration::from_millis(200), told.recv()).await {
                break heard;
            }
        };
        assert_eq!(heard, Some((QueueName::default(), leased.task.id)), "the control channel is listened to again");
        drop(told);
    };
    let (listened, ()) = tokio::join!(broker.cancellations(sender), work);
    listened.expect("until nobody wants to know");
}

#[tokio::test]
async fn an_end_is_told_although_the_server_went_away_while_somebody_waited() {
    let dir = tempfile::tempdir().expect("a directory");
    let aof = ["--appendonly", "yes", "--appendfsync", "always", "--dir", dir.path().to_str().expect("UTF-8")];
    let mut server = RedisServer::start_with(&aof);
    let (waiting, working) = (connect(&server).await, connect(&server).await);
    let id = enqueue(&working, add()).await;
    let worker = Worker::new(&working).await;
    let leased = worker.claim_one().await;
    let end = async {
        wait_until(SOON, "the wait has begun", || async { raw(&server, &["SCARD", "th:{default}:awaited"]).await == Value::Int(1) }).await;
        server.restart(&aof);
        wait_until(SOON, "the lease still stands", || async { working.extend(&worker.who, SOON).await.is_ok() }).await;
        wait_until(SOON, "the server answers", || async { working.now().await.is_ok() }).await;
        assert_eq!(worker.finish(&leased.member, ok("2")).await, Finished::Recorded);
    };
    let (view, ()) = tokio::join!(waiting.await_end(None, &id, SOON), end);
    assert_eq!(view.expect("await").expect("known").state, State::Succeeded);
}

#[tokio::test]
async fn without_memory_nothing_is_enqueued_and_what_runs_still_ends() {
    let server = RedisServer::start();
    let broker = connect(&server).await;
    let worker = Worker::new(&broker).await;
    let ids = [enqueue(&broker, add()).await, enqueue(&broker, add()).await, enqueue(&broker, add()).await];
    let first = worker.claim_one().await;
    raw(&server, &["CONFIG", "SET", "maxmemory", "1"]).await;
    let refused = broker.enqueue(&[add()]).await;
    let Err(BrokerError::Refused(text)) = &refused else { panic!("no memory: {refused:?}") };
    assert!(text.contains("out of memory") && text.contains("raise maxmemory"), "{text}");
    assert_eq!(worker.finish(&first.member, ok("2")).await, Finished::Recorded);
    let second = worker.claim_one().await;
    assert_eq!(worker.finish(&second.member, retry_after(Duration::ZERO)).await, Finished::Recorded);
    worker.extend().await;
    assert_eq!(state(&broker, &ids[0]).await, State::Succeeded);
    raw(&server, &["CONFIG", "SET", "maxmemory", "0"]).await;
    enqueue(&broker, add()).await;
}

#[tokio::test]
async fn scripts_that_the_server_forgot_are_sent_again() {
    let server = RedisServer::start();
    let broker = connect(&server).await;
    for _ in 0..3 {
        raw(&server, &["SCRIPT", "FLUSH"]).await;
        let id = enqueue(&broker, add()).await;
        let worker = Worker::new(&broker).await;
        raw(&server, &["SCRIPT", "FLUSH"]).await;
        worker.run_one(ok("2")).await;
        assert_eq!(state(&broker, &id).await, State::Succeeded);
    }
}

#[tokio::test]
async fn a_blocked_waiter_is_woken_by_what_it_waits_for() {
    let server = RedisServer::start();
    let (one, other) = (connect(&server).await, connect(&server).await);
    let default = QueueName::default();
    let limit = Duration::from_secs(60);
    let woken = async |by: &str, act: &mut dyn FnMut() -> futures_util::future::BoxFuture<'static, ()>| {
        let begun = Instant::now();
        let (waited, ()) = tokio::join!(one.wait(&default, limit), act());
        waited.expect("wait");
        assert!(begun.elapsed() < Duration::from_secs(5), "{by}: {:?}", begun.elapsed());
    };
    let other = std::sync::Arc::new(other);
    let blocked = {
        let url = server.url();
        async move || {
            let client = redis::Client::open(url.clone()).expect("a URL");
            let mut connection = client.get_multiplexed_async_connection().await.expect("connect");
            let begun = Instant::now();
            loop {
                let info: String = redis::cmd("INFO").arg("clients").query_async(&mut connection).await.expect("INFO");
                if info.contains("blocked_clients:1") {
                    break;
                }
                assert!(begun.elapsed() < SOON, "nobody blocks");
            }
        }
    };
    let blocked = std::sync::Arc::new(blocked);
    for what in ["an enqueue", "a delayed task", "resume"] {
        let (other, blocked) = (std::sync::Arc::clone(&other), std::sync::Arc::clone(&blocked));
        let mut act = move || -> futures_util::future::BoxFuture<'static, ()> {
            let (other, blocked) = (std::sync::Arc::clone(&other), std::sync::Arc::clone(&blocked));
            Box::pin(async move {
                blocked().await;
                match what {
                    "an enqueue" => drop(enqueue(&*other, add()).await),
                    "a delayed task" => drop(enqueue(&*other, NewTask { start: Start::In(SOON), ..add() }).await),
                    _ => other.resume(&QueueName::default()).await.expect("resume"),
                }
            })
        };
        woken(what, &mut act).await;
    }
    let worker = Worker::new(&one).await;
    assert_eq!(worker.claim(9).await.len(), 1);
}

#[tokio::test]
async fn a_task_is_found_among_a_thousand_queues() {
    let server = RedisServer::start();
    let broker = connect(&server).await;
    let tasks: Vec<_> = (0..1000).map(|n| NewTask { queue: queue(&format!("q{n}")), ..add() }).collect();
    broker.enqueue(&tasks).await.expect("enqueue");
    let begun = Instant::now();
    let found = broker.find(None, &tasks[777].id).await.expect("find").expect("known");
    assert_eq!(found.queue, tasks[777].queue);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(broker.find(None, &TaskId::fresh()).await.expect("find").is_none());
    assert_eq!(broker.queues().await.expect("queues").len(), 1000);
}

#[tokio::test]
async fn two_prefixes_share_a_server_without_meeting() {
    let server = RedisServer::start();
    let one = connect(&server).await;
    let other =
        RedisBroker::connect(&server.url(), BrokerSettings { prefix: "other".into(), ..BrokerSettings::default() }).await.expect("connect");
    let id = enqueue(&one, add()).await;
    assert!(other.find(None, &id).await.expect("find").is_none());
    assert!(Worker::new(&other).await.claim(9).await.is_empty());
    let bad = RedisBroker::connect(&server.url(), BrokerSettings { prefix: "a{b}".into(), ..BrokerSettings::default() }).await;
    assert!(matches!(bad, Err(BrokerError::Misconfigured(_))), "{bad:?}");
}

#[tokio::test]
async fn an_outbox_is_told_of_by_the_heartbeat_and_relayed_once() {
    let server = RedisServer::start();
    let broker = connect(&server).await;
    let worker = Worker::new(&broker).await;
    enqueue(&broker, add()).await;
    let leased = worker.claim_one().await;
    let child = NewTask { queue: queue("mail"), ..add() };
    let verdict = End::with(Verdict::Succeed { result: "1".into() }, vec![child.clone()]);
    assert_eq!(worker.finish(&leased.member, verdict).await, Finished::Recorded);
    assert!(broker.find(None, &child.id).await.expect("find").is_none(), "another slot's");
    assert!(worker.extend().await.outbox);
    assert_eq!(broker.relay(&QueueName::default()).await.expect("relay"), 1);
    assert_eq!(broker.relay(&QueueName::default()).await.expect("relay"), 0);
    assert!(!worker.extend().await.outbox);
    assert_eq!(broker.find(None, &child.id).await.expect("find").expect("it came to be").queue, queue("mail"));
}

/// The script for producers in other languages, put together from the files that docs/protocol.md lists.
pub(crate) fn enqueue_script() -> String {
    let list = include_str!("../../docs/protocol.md").lines().find_map(|line| line.strip_prefix("    cat ")).expect("a list of files");
    let lua = |file| format!("{}/src/redis/lua/{file}", env!("CARGO_MANIFEST_DIR"));
    let texts = list.split_whitespace().map(|file| std::fs::read_to_string(lua(file)).unwrap_or_else(|error| panic!("{file}: {error}")));
    format!("#!lua\n{}", texts.collect::<String>())
}

/// docs/protocol.md, as a producer in another language would read it.
#[tokio::test]
async fn a_producer_that_only_knows_the_protocol_can_enqueue() {
    let server = RedisServer::start();
    let broker = connect(&server).await;
    let script = enqueue_script();
    let record = ["my-id", "9", "", "", "", "3", "task", "add", "args", "[1,2]", "headers", r#"[["tenant","x"]]"#];
    let call = [&["EVAL", &script, "1", "th:{default}:", "1"][..], &record[..]].concat();
    let rights =
        include_str!("../../docs/protocol.md").lines().find(|line| line.contains("SETUSER producer")).expect("what a producer needs");
    raw(&server, &rights.split_whitespace().collect::<Vec<_>>()).await;
    let url = format!("redis://producer:PASSWORD@127.0.0.1:{}", server.port());
    assert_eq!(raw_as(&url, &call).await, Value::Array(Vec::new()));
    assert_eq!(raw_as(&url, &call).await, Value::Array(vec![Value::BulkString(b"my-id".to_vec())]));
    let leased = Worker::new(&broker).await.claim_one().await;
    assert_eq!((leased.task.id.as_str(), &*leased.task.args, leased.task.options.priority.get()), ("my-id", "[1,2]", 9));
    assert_eq!(leased.task.options.headers, [("tenant".to_owned(), "x".to_owned())]);
}

#[tokio::test]
async fn the_message_of_an_end_brings_what_is_known_of_it_where_that_is_short() {
    let server = RedisServer::start();
    let broker = connect(&server).await;
    let worker = Worker::new(&broker).await;
    let mut ear = redis::Client::open(server.url()).expect("a URL").get_async_pubsub().await.expect("connect");
    for (result, is_short) in [("2".to_owned(), true), (format!("\"{}\"", "x".repeat(20_000)), false)] {
        let id = enqueue(&broker, add()).await;
        let leased = worker.claim_one().await;
        ear.subscribe(format!("th:{{default}}:done:{id}")).await.expect("subscribe");
        raw(&server, &["SADD", "th:{default}:awaited", id.as_str()]).await;
        worker.finish(&leased.member, ok(&result)).await;
        let message = tokio::time::timeout(SOON, ear.on_message().next()).await.expect("told in time").expect("a message");
        let text: String = message.get_payload().expect("text");
        let (state, told) = text.split_once(' ').unwrap_or((&text, ""));
        assert_eq!((state, told.is_empty()), ("succeeded", !is_short));
        if is_short {
            let told: serde_json::Value = serde_json::from_str(told).expect("JSON");
            assert_eq!((&told[0], &told[2]), (&id.as_str().into(), &"succeeded".into()));
        }
    }
}

/// The connections of this kind.
async fn connections(server: &RedisServer, kind: &str) -> usize {
    match raw(server, &["CLIENT", "LIST", "TYPE", kind]).await {
        Value::VerbatimString { text, .. } => text.lines().count(),
        Value::BulkString(text) => String::from_utf8_lossy(&text).lines().count(),
        other => panic!("{other:?}"),
    }
}

/// The channels that somebody listens to.
async fn channels(server: &RedisServer) -> usize {
    match raw(server, &["PUBSUB", "CHANNELS", "*done:*"]).await {
        Value::Array(channels) => channels.len(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn many_who_wait_share_a_connection_and_each_hears_its_end_although_redis_restarts() {
    const MANY: usize = 1_000;
    let durable = ["--appendonly", "yes", "--appendfsync", "always"];
    let mut server = RedisServer::start_with(&durable);
    let (one, other) = (connect(&server).await, connect(&server).await);
    let default = QueueName::default();
    let tasks: Vec<_> = (0..MANY).map(|_| add()).collect();
    one.enqueue(&tasks).await.expect("enqueue");
    let before = connections(&server, "normal").await;
    let waits = tasks.iter().map(|task| other.await_end(Some(&default), &task.id, Duration::from_secs(120)));
    let waits = futures_util::future::join_all(waits);
    let look_on = async {
        wait_until(SOON, "all are listened to", || async { channels(&server).await == MANY }).await;
        assert_eq!(connections(&server, "pubsub").await, 1);
        assert_eq!(connections(&server, "normal").await, before, "nobody waits on a connection of its own");
        // The connection is cut, then the server restarts while half of the tasks end.
        raw(&server, &["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        wait_until(SOON, "all are listened to again", || async { channels(&server).await == MANY }).await;
        for task in &tasks[..MANY / 2] {
            one.cancel(&default, &task.id).await.expect("cancel");
        }
        server.restart(&durable);
        for task in &tasks[MANY / 2..] {
            wait_until(SOON, "it is cancelled", || async { one.cancel(&default, &task.id).await.is_ok() }).await;
        }
    };
    let (ends, ()) = tokio::join!(waits, look_on);
    for end in ends {
        assert_eq!(end.expect("await").expect("known").state, State::Cancelled);
    }
    wait_until(SOON, "nothing is listened to any more", || async { channels(&server).await == 0 }).await;
}

#[tokio::test]
async fn who_waits_is_answered_in_its_time_while_redis_is_away() {
    let mut server = RedisServer::start();
    let broker = connect(&server).await;
    let id = enqueue(&broker, add()).await;
    let default = QueueName::default();
    let wait = broker.await_end(Some(&default), &id, Duration::from_secs(1));
    let kill = async {
        wait_until(SOON, "it is listened to", || async { channels(&server).await == 1 }).await;
        server.kill();
    };
    let (answer, ()) = tokio::join!(wait, kill);
    let error = answer.expect_err("nobody knows whether it has ended");
    assert!(error.is_transient(), "{error:?}");
}
