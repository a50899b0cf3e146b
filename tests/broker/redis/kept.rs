//! What is over its time leaves no key behind, whether the server, a sweep or the next batch takes it away.

use std::time::Duration;

use redis::Value;
use taskhost_broker::{BrokerSettings, Finish, Finished, Lease, Produce, Tasks, redis::RedisBroker};
use taskhost_core::task::{ErrorKind, NewTask, QueueName, TaskError, TaskOptions, Unique, Verdict};

use super::{connect, raw};
use crate::support::{RedisServer, SOON, Worker, add, enqueue, finish, ok, wait_until};

/// The server itself forgets cancelled tasks, those with a log or a time of their own, logs and unique keys, also without any host.
#[tokio::test]
async fn what_is_kept_for_a_time_expires_by_that_time_in_the_server() {
    const HOUR: Duration = Duration::from_secs(3600);
    let server = RedisServer::start();
    let broker = connect(&server).await;
    let worker = Worker::new(&broker).await;
    let left = async |key: String| match raw(&server, &["PTTL", &key]).await {
        Value::Int(left) => u64::try_from(left).map_or_else(|_| panic!("{key} has no end: {left}"), Duration::from_millis),
        other => panic!("{key}: {other:?}"),
    };
    // The rest of `whole` is at most that long, and less than an hour shorter.
    let runs_out = async |key: String, whole: Duration| {
        let left = left(key.clone()).await;
        assert!(left <= whole && left + HOUR > whole, "{key} is to be kept for {whole:?}: {left:?}");
    };
    for own in [None, Some(6 * HOUR)] {
        let kept = own.unwrap_or(HOUR);
        for (verdict, log) in [(ok("2"), ""), (ok("2"), "{}\n"), (cancelled(), ""), (cancelled(), "{}\n")] {
            let unique = Some(Unique { key: "k".into(), ttl: 2 * HOUR });
            let id =
                enqueue(&broker, NewTask { unique, options: TaskOptions { result_ttl: own, ..TaskOptions::default() }, ..add() }).await;
            let Value::Array(keys) = raw(&server, &["KEYS", "th:{default}:unique:*"]).await else { panic!("a list") };
            let [Value::BulkString(key)] = &keys[..] else { panic!("one unique key: {keys:?}") };
            runs_out(String::from_utf8_lossy(key).into_owned(), 2 * HOUR).await;
            let leased = worker.claim_one().await;
            let finish = Finish { log: log.into(), ..finish(&leased.member, verdict) };
            assert_eq!(broker.finish(&worker.who, &[finish]).await.expect("finish"), [Finished::Recorded]);
            runs_out(format!("th:{{default}}:t:{id}"), kept).await;
            if !log.is_empty() {
                runs_out(format!("th:{{default}}:log:{id}"), kept).await;
            }
        }
        // An ordinary success is removed by a sweep.
        let id = enqueue(&broker, NewTask { options: TaskOptions { result_ttl: own, ..TaskOptions::default() }, ..add() }).await;
        worker.run_one(ok("2")).await;
        match own {
            Some(_) => runs_out(format!("th:{{default}}:t:{id}"), kept).await,
            None => assert_eq!(raw(&server, &["PTTL", &format!("th:{{default}}:t:{id}")]).await, Value::Int(-1)),
        }
        let id = enqueue(&broker, NewTask { options: TaskOptions { result_ttl: own, ..TaskOptions::default() }, ..add() }).await;
        broker.cancel(&QueueName::default(), &id).await.expect("cancel");
        runs_out(format!("th:{{default}}:t:{id}"), kept).await;
    }
    // The name of the worker is kept longer than any dead task.
    let Value::Array(keys) = raw(&server, &["KEYS", "th:{default}:by:*"]).await else { panic!("a list") };
    let [Value::BulkString(key)] = &keys[..] else { panic!("one worker: {keys:?}") };
    runs_out(String::from_utf8_lossy(key).into_owned(), BrokerSettings::default().dead_age + 24 * HOUR).await;
}

/// The keys that begin with `pattern`.
async fn keys(server: &RedisServer, pattern: &str) -> Vec<String> {
    let Value::Array(keys) = raw(server, &["KEYS", pattern]).await else { panic!("a list") };
    keys.into_iter()
        .map(|key| match key {
            Value::BulkString(key) => String::from_utf8_lossy(&key).into_owned(),
            other => panic!("{other:?}"),
        })
        .collect()
}

/// Ends of all kinds, in batches of many sizes. Some are deleted or run again before their time.
#[tokio::test]
async fn a_sweep_leaves_no_key_of_what_is_over_its_time() {
    let server = RedisServer::start();
    let settings = BrokerSettings { result_ttl: Duration::from_millis(700), ..BrokerSettings::default() };
    let broker = RedisBroker::connect(&server.url(), settings).await.expect("connect");
    let worker = Worker::new(&broker).await;
    let place = QueueName::default();
    let mut ids = Vec::new();
    for size in [1, 7, 1300, 40] {
        let tasks: Vec<_> = (0..size).map(|_| add()).collect();
        broker.enqueue(&tasks).await.expect("enqueue");
        let held = worker.claim(size).await;
        let finishes: Vec<_> = held.iter().map(|leased| finish(&leased.member, ok("2"))).collect();
        assert!(broker.finish(&worker.who, &finishes).await.expect("finish").iter().all(|told| *told == Finished::Recorded));
        ids.extend(tasks.into_iter().map(|task| task.id));
    }
    for id in [&ids[0], &ids[3], &ids[900]] {
        broker.delete(&place, id).await.expect("delete");
    }
    let again = enqueue(&broker, add()).await;
    broker.cancel(&place, &again).await.expect("cancel");
    broker.retry(&place, &again).await.expect("retry");
    broker.cancel(&place, &again).await.expect("cancel");
    let logged = enqueue(&broker, add()).await;
    let leased = worker.claim_one().await;
    let finish = Finish { log: "{}\n".into(), ..finish(&leased.member, ok("2")) };
    broker.finish(&worker.who, &[finish]).await.expect("finish");
    wait_until(SOON, "all are over their time", || async { broker.find(None, &logged).await.expect("find").is_none() }).await;
    broker.sweep(&place, &[]).await.expect("sweep");
    for kind in ["t:*", "log:*", "ended*", "left:*", "kept*"] {
        assert_eq!(keys(&server, &format!("th:{{default}}:{kind}")).await, Vec::<String>::new());
    }
}

/// Without any sweep: a batch of successes takes away as many as it leaves.
#[tokio::test]
async fn finishes_take_away_what_is_over_its_time() {
    const BATCH: usize = 100;
    let server = RedisServer::start();
    let settings = BrokerSettings { result_ttl: Duration::from_millis(50), ..BrokerSettings::default() };
    let broker = RedisBroker::connect(&server.url(), settings).await.expect("connect");
    let worker = Worker::new(&broker).await;
    for round in 0..20 {
        broker.enqueue(&vec![(); BATCH].into_iter().map(|()| add()).collect::<Vec<_>>()).await.expect("enqueue");
        let finishes: Vec<_> = worker.claim(BATCH).await.iter().map(|leased| finish(&leased.member, ok("2"))).collect();
        broker.finish(&worker.who, &finishes).await.expect("finish");
        let last = finishes.last().expect("some").member.id.clone();
        wait_until(SOON, "it is over", || async { broker.find(None, &last).await.expect("find").is_none() }).await;
        assert_eq!(keys(&server, "th:{default}:t:*").await.len(), BATCH, "round {round}");
    }
}

fn cancelled() -> Verdict {
    Verdict::Cancel { error: TaskError::new(ErrorKind::Cancelled, "stopped") }
}
