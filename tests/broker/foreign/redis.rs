//! Odd values in Redis: every key of docs/protocol.md with every type, and every field with wrong values.

use redis::{Commands, Connection, Value};
use taskhost_broker::{
    BrokerSettings, CatchUp, DeleteReply, Fired, Overlap, Produce, Schedule, Schedules, Source, TaskFilter, Tasks, redis::RedisBroker,
};
use taskhost_core::task::{ErrorKind, Millis, NewTask, QueueName, State, TaskOptions};

use super::{KEY_SHA1, Table, all};
use crate::support::{RedisServer, Worker, add, ok, queue, task_id, task_name};

const ODD: [&[u8]; 12] = [
    b"",
    b"x",
    b"a b",
    b"-1",
    b"1e300",
    b"nan",
    b"inf",
    b"99999999999999999999999",
    b"9223372036854775807",
    b"\xff\xfe",
    b"[",
    b"\x1b[31m\"'`{}",
];

/// A server, and a client of the stranger's.
struct Scene {
    server: RedisServer,
    stranger: Connection,
    table: Table,
}

impl Scene {
    fn start() -> Self {
        let server = RedisServer::start();
        let stranger = redis::Client::open(server.url()).and_then(|client| client.get_connection()).expect("our own server");
        Self { server, stranger, table: Table::default() }
    }

    fn write(&mut self, words: &[&[u8]]) {
        let mut command = redis::cmd(std::str::from_utf8(words[0]).expect("a command"));
        for word in &words[1..] {
            command.arg(*word);
        }
        let shown = || words.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect::<Vec<_>>();
        let _answer: Value = command.query(&mut self.stranger).unwrap_or_else(|error| panic!("{:?}: {error}", shown()));
    }

    /// Sends a command whose words are separated by spaces.
    fn say(&mut self, line: &str) {
        let words: Vec<_> = line.split(' ').map(str::as_bytes).collect();
        self.write(&words);
    }

    /// The hash of a complete task that is in no list yet.
    fn task(&mut self, id: &[u8]) {
        let key = [b"th:{default}:t:", id].concat();
        self.write(&[b"HSET", &key, b"task", b"add", b"args", b"[1,1]", b"at", b"1", b"seq", b"1", b"extra", b"1"]);
    }

    async fn broker(&self) -> RedisBroker {
        RedisBroker::connect(&self.server.url(), BrokerSettings::default()).await.expect("connect")
    }

    /// Plays good tasks beside the value that `write` wrote.
    async fn beside(&mut self, what: &str, write: impl FnOnce(&mut Self)) {
        self.say("FLUSHALL");
        let broker = self.broker().await;
        write(self);
        self.table.beside(&broker, what).await;
    }
}

#[tokio::test]
async fn a_key_of_another_type_stops_no_good_task() {
    let kinds = [
        ("string", "SET KEY x"),
        ("list", "RPUSH KEY x"),
        ("hash", "HSET KEY f v"),
        ("set", "SADD KEY x"),
        ("zset", "ZADD KEY 1 x"),
        ("stream", "XADD KEY * f v"),
    ];
    let keys = [
        ("ready", "zset"),
        ("scheduled", "zset"),
        ("parked", "set"),
        ("parked:add", "zset"),
        ("parked_at:add", "zset"),
        ("expires", "zset"),
        ("workers", "zset"),
        ("held:fake:1000", "set"),
        ("hold:fake:1000", "hash"),
        ("dead", "zset"),
        ("control", "hash"),
        ("cancelled", "set"),
        ("awaited", "set"),
        ("special", "set"),
        ("log:good-1", "string"),
        ("mark", "string"),
        ("wake", "zset"),
        ("events", "stream"),
        ("out", "stream"),
        ("schedules", "set"),
        ("schedule:other", "hash"),
        ("t:odd", "hash"),
        ("aside", "set"),
    ];
    let mut scene = Scene::start();
    for (key, right) in keys {
        for (kind, command) in kinds.iter().filter(|(kind, _)| *kind != right) {
            scene
                .beside(&format!("`{key}` is a {kind}"), |scene| {
                    scene.say(&command.replace("KEY", &format!("th:{{default}}:{key}")));
                    match key {
                        "held:fake:1000" | "hold:fake:1000" => scene.say("ZADD th:{default}:workers 1.5 fake:1000"),
                        "parked:add" | "parked_at:add" => scene.say("SADD th:{default}:parked add"),
                        "schedule:other" => scene.say("HSET th:{_}:schedules other default"),
                        "t:odd" => scene.say("ZADD th:{default}:ready 1 odd"),
                        _ => {}
                    }
                })
                .await;
        }
    }
    for (kind, command) in &kinds {
        for key in ["queues", "schedules", "workers", "worker:x", "catalogue"] {
            if (key == "queues" || key == "workers") && *kind == "set" || (key == "schedules" || key == "catalogue") && *kind == "hash" {
                continue;
            }
            scene.beside(&format!("`{key}` is a {kind}"), |scene| scene.say(&command.replace("KEY", &format!("th:{{_}}:{key}")))).await;
        }
        let unique = format!("th:{{default}}:unique:{KEY_SHA1}");
        scene.beside(&format!("a unique key is a {kind}"), |scene| scene.say(&command.replace("KEY", &unique))).await;
    }
    scene.table.read();
}

#[tokio::test]
async fn a_field_of_a_task_stops_only_its_own() {
    let fields = [
        "task",
        "args",
        "at",
        "priority",
        "tries",
        "losses",
        "state",
        "end",
        "start",
        "done",
        "result",
        "error",
        "errors",
        "e0",
        "by",
        "progress",
        "live",
        "extra",
        "seq",
        "unique",
        "unique_ttl",
        "headers",
        "timeout",
        "max",
        "ttl",
        "expires",
    ];
    let mut scene = Scene::start();
    for field in fields {
        for value in ODD {
            let what = format!("`{field}` is {:?}", String::from_utf8_lossy(value));
            scene.beside(&what, |scene| odd_tasks(scene, |scene, key| scene.write(&[b"HSET", key, field.as_bytes(), value]))).await;
        }
        scene.beside(&format!("no `{field}`"), |scene| odd_tasks(scene, |scene, key| scene.write(&[b"HDEL", key, field.as_bytes()]))).await;
    }
    scene.table.read();
}

/// Odd tasks: one is ready, one is due, one is delayed and has expired, the worker of one is gone, and one is in no list.
fn odd_tasks(scene: &mut Scene, change: impl Fn(&mut Scene, &[u8])) {
    for id in ["odd-ready", "odd-due", "odd-later", "odd-held", "odd-nowhere"] {
        scene.task(id.as_bytes());
        change(scene, format!("th:{{default}}:t:{id}").as_bytes());
    }
    scene.say("ZADD th:{default}:ready 1 odd-ready");
    scene.say("ZADD th:{default}:scheduled 1 odd-due");
    scene.say("ZADD th:{default}:scheduled 99999999999999 odd-later");
    scene.say("ZADD th:{default}:workers 1.5 fake:1000");
    scene.say("SADD th:{default}:held:fake:1000 odd-held@1");
    scene.say("ZADD th:{default}:expires 1 odd-later");
}

#[tokio::test]
async fn what_stands_in_a_set_or_stream_stops_no_good_task() {
    let mut scene = Scene::start();
    let long = [b'a'; 300];
    for odd in ODD.into_iter().chain([&long[..], b"a@b", b"@", b"a@", b"@1", b"odd@x", b"odd@1", b"x:99999999999999999999999"]) {
        let what = |place: &str| format!("{:?} in `{place}`", String::from_utf8_lossy(odd));
        for with_task in [false, true] {
            for set in ["ready", "scheduled", "dead", "expires", "parked:add", "workers"] {
                for score in ["1", "-inf", "+inf", "1e300"] {
                    if odd.is_empty() && with_task {
                        continue;
                    }
                    scene
                        .beside(&what(set), |scene| {
                            if with_task {
                                scene.task(odd);
                            }
                            scene.write(&[b"ZADD", format!("th:{{default}}:{set}").as_bytes(), score.as_bytes(), odd]);
                            scene.say("SADD th:{default}:parked add");
                        })
                        .await;
                }
            }
        }
        for set in ["parked", "cancelled", "awaited", "special", "schedules"] {
            scene.beside(&what(set), |scene| scene.write(&[b"SADD", format!("th:{{default}}:{set}").as_bytes(), odd])).await;
        }
        for set in ["queues", "workers"] {
            scene.beside(&what(set), |scene| scene.write(&[b"SADD", format!("th:{{_}}:{set}").as_bytes(), odd])).await;
        }
        let in_string = [format!("th:{{default}}:unique:{KEY_SHA1}"), "th:{default}:log:good-1".to_owned(), "th:{_}:worker:x".to_owned()];
        for key in in_string {
            scene
                .beside(&what(&key), |scene| {
                    scene.say("SADD th:{_}:workers x");
                    scene.write(&[b"SET", key.as_bytes(), odd]);
                })
                .await;
        }
        scene.beside(&what("seq"), |scene| scene.write(&[b"HSET", b"th:{default}:control", b"seq", odd])).await;
        scene.beside(&what("paused"), |scene| scene.write(&[b"HSET", b"th:{default}:control", b"paused", odd])).await;
        scene.beside(&what("catalogue"), |scene| scene.write(&[b"HSET", b"th:{_}:catalogue", b"add", odd])).await;
        scene.beside(&what("catalogue"), |scene| scene.write(&[b"HSET", b"th:{_}:catalogue", odd, b"{}"])).await;
        scene.beside(&what("events"), |scene| scene.write(&[b"XADD", b"th:{default}:events", b"*", b"at", odd, b"dead", odd])).await;
        scene.beside(&what("out"), |scene| scene.write(&[b"XADD", b"th:{default}:out", b"*", b"queue", odd, b"record", b"[]"])).await;
        scene.beside(&what("out"), |scene| scene.write(&[b"XADD", b"th:{default}:out", b"*", b"queue", b"mail", b"record", odd])).await;
        scene
            .beside(&what("held"), |scene| {
                scene.task(b"odd");
                scene.say("ZADD th:{default}:workers 1.5 fake:1000");
                scene.write(&[b"SADD", b"th:{default}:held:fake:1000", odd]);
            })
            .await;
    }
    let events = |scene: &mut Scene| scene.say("XADD th:{default}:events 18446744073709551615-18446744073709551615 f v");
    scene.beside("the last entry there can be in `events`", events).await;
    let record = r#"["a b","5","","","","2","task","add","args","[]"]"#;
    let out = |scene: &mut Scene| scene.write(&[b"XADD", b"th:{default}:out", b"*", b"queue", b"mail", b"record", record.as_bytes()]);
    scene.beside("a child that is none in `out`", out).await;
    scene.table.read();
}

#[tokio::test]
async fn one_foreign_record_ends_alone_is_shown_and_can_be_deleted() {
    let mut scene = Scene::start();
    let broker = scene.broker().await;
    let tasks: Vec<_> = (0..168).map(|n| NewTask { id: task_id(&format!("good-{n}")), ..add() }).collect();
    broker.enqueue(&tasks[..84]).await.expect("enqueue");
    for (id, field, value) in [("name", "task", "e mail send"), ("a b", "at", "1"), ("args", "args", "")] {
        scene.task(id.as_bytes());
        let key = format!("th:{{default}}:t:{id}");
        match value {
            "" => scene.write(&[b"HDEL", key.as_bytes(), field.as_bytes()]),
            value => scene.write(&[b"HSET", key.as_bytes(), field.as_bytes(), value.as_bytes()]),
        }
        scene.write(&[b"ZADD", b"th:{default}:ready", b"400000000000085", id.as_bytes()]);
    }
    broker.enqueue(&tasks[84..]).await.expect("enqueue");

    let worker = Worker::new(&broker).await;
    let claimed = worker.claim(200).await;
    assert_eq!(claimed.len(), 168, "each good task of the claim");
    for leased in claimed {
        worker.finish(&leased.member, ok("2")).await;
    }
    let dead = all(&broker, &TaskFilter { states: vec![State::Dead], ..TaskFilter::default() }, "dead").await;
    assert_eq!(dead.len(), 3, "{dead:?}");
    assert!(dead.iter().all(|view| view.error.as_ref().is_some_and(|error| error.kind == ErrorKind::Unreadable)), "{dead:?}");
    assert!(dead.iter().any(|view| view.error.as_ref().is_some_and(|error| error.message.contains("(its id was `a b`)"))), "{dead:?}");
    for view in dead {
        assert!(broker.find(None, &view.id).await.expect("find").is_some(), "`task show {}`", view.id);
        assert_eq!(broker.delete(&view.queue, &view.id).await.expect("delete"), DeleteReply::Deleted);
    }
    assert!(worker.extend().await.held == 0);
}

#[tokio::test]
async fn a_schedule_that_cannot_be_read_stops_no_other_and_can_be_removed() {
    let mut scene = Scene::start();
    let broker = scene.broker().await;
    let schedule = Schedule {
        name: "good".into(),
        rule: "@every 1s".into(),
        timezone: "UTC".into(),
        task: task_name("add"),
        args: "[1,1]".into(),
        queue: QueueName::default(),
        catch_up: CatchUp::Once,
        overlap: Overlap::Allow,
        source: Source::Cli,
        created_at: Millis(1),
        defined_at: Millis(0),
        says_paused: None,
        paused: false,
        last: Millis(0),
        last_task: None,
        options: TaskOptions::default(),
    };
    broker.put_schedule(&schedule).await.expect("put");
    for odd in ODD {
        let shown = format!("{:?}", String::from_utf8_lossy(odd));
        for field in ["", "definition", "last", "name"] {
            let name = if field == "name" { odd } else { b"bad" };
            let to = if field.is_empty() { odd } else { b"default" };
            scene.write(&[b"HSET", b"th:{_}:schedules", name, to]);
            if !field.is_empty() {
                broker.put_schedule(&Schedule { name: "bad".into(), ..schedule.clone() }).await.expect("put");
                scene.write(&[b"HSET", b"th:{_}:schedules", name, to]);
                scene.write(&[b"HSET", b"th:{default}:schedule:bad", field.as_bytes(), odd]);
            }
            let read = broker.schedules().await.unwrap_or_else(|error| panic!("schedules, `{field}` {shown}: {error}"));
            let good = read.iter().find(|one| one.name == "good").unwrap_or_else(|| panic!("`{field}` {shown}"));
            let due = Millis(good.last.0 + 1);
            let task = NewTask { id: task_id(&format!("cron:good:{}", due.0)), ..add() };
            let fired = loop {
                match broker.fire(good, due, &task).await.expect("fire") {
                    Fired::TooEarly(wait) => tokio::time::sleep(wait).await,
                    fired => break fired,
                }
            };
            assert_eq!(fired, Fired::Enqueued(task.id.clone()), "`{field}` {shown}");
            if field != "name" {
                assert!(broker.remove_schedule("bad").await.expect("remove"), "`{field}` {shown}");
                assert_eq!(scene.stranger.hexists::<_, _, bool>("th:{_}:schedules", "bad").ok(), Some(false));
            }
        }
    }
    scene.say("DEL th:{_}:schedules");
    scene.write(&[b"HSET", b"th:{_}:schedules", b"\xff\x1b", b"default"]);
    assert!(broker.remove_schedule("\u{fffd}\\u{1b}").await.expect("remove"), "as the log shows it");
}

#[tokio::test]
async fn the_script_refuses_a_record_that_cannot_be_read_and_writes_nothing() {
    let mut scene = Scene::start();
    let text = crate::redis::enqueue_script();
    let eval = |scene: &mut Scene, key: &str, words: &[&str]| {
        let mut command = redis::cmd("EVAL");
        command.arg(&text).arg(2).arg(key).arg(format!("{key}-")).arg(words);
        command.query::<Vec<String>>(&mut scene.stranger)
    };
    let key = "th:{default}:";
    let good = ["1", "my-id", "5", "", "", "", "2", "task", "email:send", "args", "[1,1]"];
    let with = |at: usize, word: &'static str| {
        let mut words = good;
        words[at] = word;
        words.to_vec()
    };
    let long: &'static str = "a".repeat(129).leak();
    let mut refused: Vec<Vec<&str>> = vec![vec![], vec!["x"], vec!["-1"], vec!["1e3"], good[..10].to_vec(), good[..5].to_vec()];
    refused.push([&good[..], &["more"]].concat());
    refused.push(with(0, "2"));
    for (at, words) in [
        (1, &["", "a b", "a@b", "{x}", "\u{e9}", long][..]),
        (2, &["", "10", "x", "-1"]),
        (3, &["x", "5", "+x", "@1e9", "+99999999999999999"]),
        (4, &["k"]),
        (6, &["", "x", "-1", "3", "99", "1e9"]),
        (7, &["", "state", "seq", "Task"]),
        (8, &["", "a b", ":x", "7up", long]),
        (9, &["task", "result"]),
        (10, &["", "{}", "1", "null", "[1", "1]"]),
    ] {
        refused.extend(words.iter().map(|word| with(at, word)));
    }
    for (field, values) in [
        ("timeout", &["", "x", "-1", "1e300", "99999999999999999999"][..]),
        ("max", &["", "0", "x", "99999999999"]),
        ("ttl", &["", "x", "-1"]),
        ("expires", &["", "x", "tomorrow"]),
        ("headers", &["", "{}", "x"]),
        ("task", &["add"]),
    ] {
        for value in values {
            refused.push(["1", "my-id", "5", "", "", "", "3", "task", "add", "args", "[]", field, value].to_vec());
        }
    }
    for time in ["", "x", "0", "-1"] {
        refused.push(["1", "my-id", "5", "", "k", time, "2", "task", "add", "args", "[]"].to_vec());
    }
    let plain = [&["plain"][..], &["plain", "a"], &["plain", "a", "add"], &["plain", "a b", "add", "[]"], &["plain", "a", "a b", "[]"]];
    refused.extend(plain.iter().skip(1).map(|words| words.to_vec()));
    refused.push(["plain", "ok", "add", "[]", "a", "add", "{}"].to_vec());
    for words in &refused {
        let error = eval(&mut scene, key, words).expect_err(&format!("{words:?} is refused"));
        assert_eq!(error.code(), Some("INVALID"), "{words:?}: {error}");
        let keys: Vec<String> = scene.stranger.keys("th:{default}:*").expect("keys");
        assert!(keys.is_empty(), "{words:?} wrote {keys:?}");
    }
    for key in ["th:default:", "th:{}:", "th:{a b}:", "th:{default}"] {
        assert_eq!(eval(&mut scene, key, &good).expect_err(key).code(), Some("INVALID"), "{key}");
    }
    let error = eval(&mut scene, key, &with(8, "two words")).expect_err("refused").to_string();
    assert!(error.contains("record 1: `task` is a letter, then at most 127 of") && error.contains("nothing was enqueued"), "{error}");
    assert_eq!(eval(&mut scene, key, &good).expect("good"), Vec::<String>::new());
    assert_eq!(eval(&mut scene, key, &["plain", "other", "reports/daily", "[]"]).expect("good"), Vec::<String>::new());
    let whole =
        ["1", "whole", "9", "+5", "k", "1000", "7", "task", "a", "args", "[ ]", "headers", "[]", "timeout", "1", "max", "1", "ttl", "0"];
    assert_eq!(eval(&mut scene, key, &[&whole[..], &["expires", "99999999999999"]].concat()).expect("good"), Vec::<String>::new());
    let broker = scene.broker().await;
    assert_eq!(broker.find(Some(&queue("default")), &task_id("my-id")).await.expect("find").expect("known").task, task_name("email:send"));
    assert_eq!(broker.find(Some(&queue("default")), &task_id("whole")).await.expect("find").expect("known").options.priority.get(), 9);
}
