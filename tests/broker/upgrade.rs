//! What taskhost 0.1 left: every state is there under today's schema, and goes on.
//!
//! `upgrade/redis_0_1.jsonl` and `upgrade/sqlite_0_1.sql` were written by taskhost 0.1 itself, by one scene on both brokers. Its worker was
//! killed while it held four tasks. All times in them are moved as if that had been just now.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use taskhost_broker::{
    Broker, BrokerSettings, Enqueued, Finished, Incarnation, LeaseReply, Leased, TaskFilter, redis::RedisBroker, sqlite::SqliteBroker,
};
use taskhost_core::task::{Clock, ErrorKind, NewTask, QueueName, State, SystemClock, TaskError, Unique, Verdict};

use crate::support::{
    LEASE, Place, RedisServer, SqlitePlace, Worker, add, enqueue, finish, ok,
    proxy::{Act, Moment, Proxy},
    queue, state, task_id, view,
};

const REDIS: &str = include_str!("upgrade/redis_0_1.jsonl");
const SQLITE: &str = include_str!("upgrade/sqlite_0_1.sql");
/// The incarnation of the worker that was killed.
const KILLED: &str = "01a21ae8-81a9-736e-8e54-fde9e85fe9fe:60000";
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The text with every time moved by as much as its first line, a time, is before now.
fn moved(text: &str) -> String {
    let (first, rest) = text.split_once('\n').expect("a time, then the rest");
    let then: u64 = first.trim_start_matches("-- ").parse().expect("a time in ms");
    let by = SystemClock.now().0 - then;
    let mut text = String::new();
    let is_digit = |c: char| c.is_ascii_digit();
    for part in rest.split_inclusive(|c| !is_digit(c)) {
        let digits = part.trim_end_matches(|c| !is_digit(c));
        match (digits.len(), digits.starts_with("179")) {
            (13, true) => text.push_str(&(digits.parse::<u64>().expect("digits") + by).to_string()),
            (16, true) => text.push_str(&(digits.parse::<u64>().expect("digits") + by * 1000).to_string()),
            _ => text.push_str(digits),
        }
        text.push_str(&part[digits.len()..]);
    }
    text
}

fn settings() -> BrokerSettings {
    BrokerSettings { result_ttl: DAY, ..BrokerSettings::default() }
}

fn redis_0_1() -> RedisServer {
    let server = RedisServer::start();
    let mut connection = redis::Client::open(server.url()).and_then(|client| client.get_connection()).expect("our own server");
    for line in moved(REDIS).lines() {
        let words: Vec<String> = serde_json::from_str(line).expect("a command");
        redis::cmd(&words[0]).arg(&words[1..]).exec(&mut connection).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
    server
}

fn get(server: &RedisServer, command: &[&str]) -> String {
    let mut connection = redis::Client::open(server.url()).and_then(|client| client.get_connection()).expect("our own server");
    redis::cmd(command[0]).arg(&command[1..]).query(&mut connection).expect("an answer")
}

async fn sqlite_0_1() -> (SqlitePlace, Arc<dyn Broker>) {
    let place = SqlitePlace::make().await;
    let file = rusqlite::Connection::open(place.path()).expect("a new file");
    file.execute_batch(&moved(SQLITE)).expect("the dump");
    drop(file);
    let broker = Arc::new(SqliteBroker::open(place.path(), settings()).expect("a database of 0.1 opens"));
    (place, broker)
}

/// All tasks by state, as the scene left them.
fn known() -> BTreeMap<State, Vec<&'static str>> {
    BTreeMap::from([
        (State::Succeeded, vec!["again", "child", "parent", "sender", "succeeded", "succeeded-logged", "succeeded-own"]),
        (State::Dead, vec!["dead"]),
        (State::Cancelled, vec!["cancelled", "cancelled-running"]),
        (State::Running, vec!["running", "running-again", "running-asked", "running-options"]),
        (
            State::Ready,
            vec![
                "batch-1",
                "batch-2",
                "batch-3",
                "child-away",
                "paused",
                "ready",
                "ready-awaited",
                "ready-expires",
                "ready-first",
                "ready-unique",
            ],
        ),
        (State::Scheduled, vec!["between", "delayed"]),
        (State::Parked, vec!["parked"]),
    ])
}

async fn listed(b: &dyn Broker) -> BTreeMap<State, Vec<String>> {
    let tasks = b.list(&TaskFilter::default(), None, 100).await.expect("list").tasks;
    let mut found: BTreeMap<State, Vec<String>> = BTreeMap::new();
    for view in tasks {
        found.entry(view.state).or_default().push(view.id.to_string());
    }
    for ids in found.values_mut() {
        ids.sort();
    }
    // SQLite moves children to other queues in the step of the end, so there is no outbox.
    if let Some(ready) = found.get_mut(&State::Ready) {
        ready.retain(|id| id != "child-late");
    }
    found
}

/// Everything that a user sees of what 0.1 left.
async fn is_shown(b: &dyn Broker) {
    let known: BTreeMap<_, Vec<_>> =
        known().into_iter().map(|(state, ids)| (state, ids.into_iter().map(str::to_owned).collect())).collect();
    assert_eq!(listed(b).await, known);
    let counts = b.queues().await.expect("queues").into_iter().find(|view| view.queue == QueueName::default()).expect("known").counts;
    let ready = if counts[&State::Ready] == 8 { 8 } else { 0 };
    let default =
        [(State::Scheduled, 2), (State::Ready, ready), (State::Parked, 1), (State::Running, 4), (State::Succeeded, 7), (State::Dead, 1)];
    for (state, count) in default.into_iter().chain([(State::Cancelled, 2)]) {
        assert_eq!(counts[&state], count, "{state}");
    }
    let of = async |id: &str| view(b, &task_id(id)).await;
    assert_eq!(of("succeeded-own").await.result.expect("a result").get(), r#"{"n":3}"#);
    assert_eq!(b.log(None, &task_id("succeeded-logged")).await.expect("log").as_deref(), Some("{\"n\":1}\n"));
    let dead = of("dead").await;
    assert_eq!((dead.tries, dead.errors.len(), dead.error.expect("an error").message.as_str()), (2, 2, "no"));
    assert_eq!(
        (&*of("succeeded").await.plugin.expect("a plugin"), &*of("succeeded").await.worker.expect("a worker")),
        ("math", "box:1:test")
    );
    let first = of("ready-first").await.options;
    assert_eq!((first.priority.get(), first.headers.len(), first.carried.shown()[0].1.as_str()), (9, 2, "vip"));
    assert!(of("running-asked").await.cancel_asked && of("running").await.started_at.is_some());
    assert_eq!(b.kv_get("math", "k").await, Ok(Some(b"v".to_vec())));
    assert_eq!(b.schedules().await.expect("schedules").len(), 1);
}

/// After the killed worker's lease is over, everything goes on.
async fn goes_on(b: &dyn Broker) {
    let default = QueueName::default();
    let worker = Worker::new(b).await;
    let mut adopted = worker.look(0, &[]).await.adopted;
    if adopted.is_empty() {
        adopted = worker.adopt().await;
    }
    let mut ids: Vec<_> = adopted.iter().map(|leased| leased.task.id.as_str()).collect();
    ids.sort_unstable();
    assert_eq!(ids, known()[&State::Running]);
    let options = adopted.iter().find(|leased| leased.task.id.as_str() == "running-options").expect("adopted");
    assert_eq!((options.task.options.max_attempts, options.task.options.carried.shown()[0].1.as_str()), (Some(9), "vip eu"));
    let lost = Verdict::Retry { error: TaskError::new(ErrorKind::WorkerLost, "gone"), delay: Duration::ZERO };
    let lost: Vec<_> = adopted.iter().map(|leased| finish(&leased.member, lost.clone())).collect();
    let told = b.finish(&worker.who, &lost).await.expect("finish");
    assert_eq!(told.iter().filter(|told| **told == Finished::Recorded).count(), 3, "{told:?}");
    assert_eq!(state(b, &task_id("running-asked")).await, State::Cancelled);

    // What is known stays known, what holds a key holds it.
    for id in ["succeeded", "ready", "parked", "delayed", "running", "dead"] {
        assert_eq!(
            b.enqueue(&[NewTask { id: task_id(id), ..add() }]).await.expect("enqueue"),
            [Enqueued::Duplicate { holder: task_id(id) }]
        );
    }
    let keyed = NewTask { unique: Some(Unique { key: "k".into(), ttl: DAY }), ..add() };
    assert_eq!(b.enqueue(&[keyed]).await.expect("enqueue"), [Enqueued::Duplicate { holder: task_id("ready-unique") }]);
    let fresh = enqueue(b, NewTask { id: task_id("fresh"), ..add() }).await;
    b.retry(&default, &task_id("dead")).await.expect("retry");
    b.retry(&default, &task_id("delayed")).await.expect("retry");
    b.delete(&default, &task_id("succeeded")).await.expect("delete");
    b.relay(&default).await.expect("relay");
    assert!(b.find(Some(&queue("mail")), &task_id("child-late")).await.expect("find").is_some(), "its parent ended under 0.1");

    let claimed = worker.look(100, &["unknown"]).await.tasks;
    let order: Vec<_> = claimed.iter().map(|leased| leased.task.id.as_str()).collect();
    let expected = ["ready-first", "parked", "ready", "ready-unique", "ready-expires", "ready-awaited", "batch-3", "batch-1", "batch-2"];
    assert_eq!(order[..9], expected);
    let mut rest = order[9..].to_vec();
    rest.sort_unstable();
    assert_eq!(rest, ["dead", "delayed", "fresh", "running", "running-again", "running-options"]);
    let all: Vec<_> = claimed.iter().map(|leased| finish(&leased.member, ok("9"))).collect();
    assert!(b.finish(&worker.who, &all).await.expect("finish").iter().all(|told| *told == Finished::Recorded));
    b.sweep(&default, &[]).await.expect("sweep");
    for id in ["fresh", "running", "ready-first", "parked", "dead", "child", "succeeded-own"] {
        assert_eq!(state(b, &task_id(id)).await, State::Succeeded, "{id}");
    }
    assert_eq!(view(b, &task_id("running-again")).await.tries, 3, "one under 0.1, one lost, one now");
    assert!(b.find(None, &task_id("succeeded")).await.expect("find").is_none(), "deleted");
    let counts = b.queues().await.expect("queues").into_iter().find(|view| view.queue == default).expect("known").counts;
    assert_eq!((counts[&State::Succeeded], counts[&State::Cancelled], counts[&State::Running]), (6 + 15, 3, 0));
    drop(fresh);
}

#[tokio::test]
async fn a_database_of_0_1_has_every_state_and_goes_on() {
    let (_place, broker) = sqlite_0_1().await;
    is_shown(&*broker).await;
    broker.expire(&Incarnation { queue: QueueName::default(), id: "1".into() }).await.expect("expire");
    goes_on(&*broker).await;
}

#[tokio::test]
async fn a_redis_of_0_1_has_every_state_and_goes_on_when_its_last_worker_has_stopped() {
    let server = redis_0_1();
    let broker = RedisBroker::connect(&server.url(), settings()).await.expect("connect");
    is_shown(&broker).await;
    assert!(taskhost_broker::Directory::check(&broker).await.expect("check").warnings.iter().any(|text| text.contains("schema 1")));
    // Producers go on meanwhile, and 0.1 may still start.
    let refused = taskhost_broker::Lease::register(&broker, &queue("mail"), LEASE).await.expect_err("a worker of 0.1 lives");
    assert!(refused.is_transient() && refused.to_string().contains("1 of queue `default`"), "{refused}");
    assert_eq!(get(&server, &["GET", "th:{_}:schema"]), "1");

    let killed = Incarnation { queue: QueueName::default(), id: KILLED.into() };
    taskhost_broker::Lease::expire(&broker, &killed).await.expect("its lease is over");
    goes_on(&broker).await;
    assert_eq!(get(&server, &["GET", "th:{_}:schema"]), "2", "a worker of 0.1 is refused from now on");
    assert_eq!(get(&server, &["EXISTS", &format!("th:{{default}}:held:{KILLED}")]), "0");
    // What ended under 0.1 expires by itself, and no sweep takes an id that is used again.
    get(&server, &["DEL", "th:{default}:t:parent"]);
    enqueue(&broker, NewTask { id: task_id("parent"), ..add() }).await;
    taskhost_broker::Tasks::find(&broker, None, &task_id("parent")).await.expect("find").expect("it is new");
}

/// The heir dies, or its call breaks off, at any call of Redis in which it takes over.
#[tokio::test]
async fn a_takeover_of_0_1_that_breaks_off_anywhere_is_ended_by_the_next() {
    for verb in ["claim", "extend"] {
        for call in 1.. {
            let server = redis_0_1();
            let proxy = Proxy::before(server.port()).await;
            let broker = RedisBroker::connect(&proxy.url(), settings()).await.expect("connect");
            let killed = Incarnation { queue: QueueName::default(), id: KILLED.into() };
            taskhost_broker::Lease::expire(&broker, &killed).await.expect("its lease is over");
            let worker = Worker::new(&broker).await;
            proxy.hook(move |seen, moment| if seen == verb && moment == Moment::Asked { Act::Break(call) } else { Act::Pass });
            let broken = match verb {
                "claim" => worker.broker.claim(&worker.who, LEASE, 0, &[]).await.map(|reply| adopted(reply, |claimed| claimed.adopted)),
                _ => worker.broker.extend(&worker.who, LEASE).await.map(|reply| adopted(reply, |extended| extended.adopted)),
            };
            proxy.hook(|_, _| Act::Pass);
            let is_over = broken.is_ok();
            // The first heir is gone too. Whatever it held or not, the second one has each task once.
            worker.broker.expire(&worker.who).await.expect("expire");
            let heir = Worker::new(&broker).await;
            let mut ids = Vec::new();
            for _ in 0..4 {
                ids.extend(heir.look(0, &[]).await.adopted.into_iter().map(|leased| leased.task.id.to_string()));
            }
            ids.sort();
            assert_eq!(ids, known()[&State::Running], "{verb}, call {call}");
            if is_over {
                assert!(call > 5, "{verb} has more calls than {call}");
                break;
            }
        }
    }
}

fn adopted<T>(reply: LeaseReply<T>, of: impl FnOnce(T) -> Vec<Leased>) -> Vec<Leased> {
    match reply {
        LeaseReply::Held(held) => of(held),
        LeaseReply::Lost => panic!("the lease is lost"),
    }
}
