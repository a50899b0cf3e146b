//! `durability`: a failover to a replica that lagged. With `replica` it loses no acknowledged task; by default the tests count the loss.
//!
//! A test cuts the replica off from its master under load and then kills the master, before the sentinels restore the link. They
//! promote the replica, so all writes since the cut are lost. By default the broker had acknowledged those; with `replica` it had not.

use std::{
    cell::{Cell, RefCell},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use taskhost_broker::{Broker, BrokerError, BrokerSettings, Directory, Durability, Produce, Schedules, Tasks, redis::RedisBroker};
use taskhost_core::task::{QueueName, TaskId};
use tokio_util::sync::CancellationToken;

use super::{
    fleet::{END, Fleet, account, succeeded, turn, until},
    ground::connect,
    topologies::{Watched, ask, patient_notes, report, text},
};
use crate::support::{RedisServer, add, named, queue};

fn replica() -> BrokerSettings {
    BrokerSettings { durability: Durability::Replica, ..BrokerSettings::default() }
}

/// Enqueues without a pause until `stop`, and notes the acknowledged tasks and their times.
async fn produce(broker: Arc<dyn Broker>, acknowledged: Arc<Mutex<Vec<(Instant, TaskId)>>>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let tasks: Vec<_> = (0..5).map(|_| named("note", "[5]")).collect();
        let taken = tokio::select! {
            taken = broker.enqueue(&tasks) => taken.is_ok(),
            () = stop.cancelled() => false,
        };
        if taken {
            let now = Instant::now();
            acknowledged.lock().expect("not poisoned").extend(tasks.into_iter().map(|task| (now, task.id)));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Load → cut the replica off → load → kill the master → the replica becomes the master. Returns how many tasks were acknowledged
/// before the cut, how many after it, and how many of all these are lost. `written`: how many the master takes between cut and kill.
async fn failover(settings: BrokerSettings, durability: &str, written: u64) -> (usize, usize, usize) {
    let mut watched = Watched::start().await;
    let url = watched.url();
    let broker = connect(&url, settings).await;
    let mut fleet = Fleet::new(Duration::from_secs(10));
    let so = [("durability", durability)];
    let crew = [fleet.worker(&url, &so).await, fleet.worker(&url, &so).await];
    let (acknowledged, stop) = (Arc::new(Mutex::new(Vec::new())), CancellationToken::new());
    let producers: Vec<_> = (0..3).map(|_| tokio::spawn(produce(Arc::clone(&broker), Arc::clone(&acknowledged), stop.clone()))).collect();
    until("it is under load", async || succeeded(&*broker).await > 150).await;
    let master = connect(&watched.master.url(), BrokerSettings::default()).await;
    let known = async || -> u64 { master.queues().await.expect("queues").iter().flat_map(|queue| queue.counts.values()).sum() };
    ask(&watched.replica, &["REPLICAOF", "127.0.0.1", "1"]).await;
    let cut = Instant::now();
    // The sentinels restore the link after about 8 s.
    let enough = known().await + written;
    until("the master alone has new tasks", async || known().await >= enough).await;
    watched.master.kill();
    stop.cancel();
    for producer in producers {
        producer.await.expect("no panic");
    }
    // The new master has no replica, so producers and workers go on without asking for one.
    let plain = connect(&url, BrokerSettings::default()).await;
    let after = patient_notes(&*plain, &queue("default"), 50).await;
    drop(crew);
    let _fresh = fleet.worker(&url, &[]).await;
    let acknowledged = std::mem::take(&mut *acknowledged.lock().expect("not poisoned"));
    let (before, since): (Vec<_>, Vec<_>) = acknowledged.into_iter().partition(|(at, _)| *at < cut);
    let ids: Vec<_> = before.iter().chain(&since).map(|(_, id)| id.clone()).collect();
    let lost =
        report(&format!("failover to a replica that was cut off, durability {durability}"), &plain, &QueueName::default(), &ids).await;
    account("enqueued after the failover", &plain, &after).await.all_succeeded();
    (before.len(), since.len(), lost)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn with_durability_replica_a_failover_loses_nothing_acknowledged() {
    let _turn = turn().await;
    let (before, since, lost) = failover(replica(), "replica", 10).await;
    eprintln!("durability replica: {before} acknowledged before the cut, {since} after it, {lost} lost");
    assert!(before >= 150, "under load: {before}");
    assert_eq!(lost, 0, "acknowledged and lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn by_default_a_failover_may_lose_what_had_not_been_replicated_and_nothing_else() {
    let _turn = turn().await;
    let (before, since, lost) = failover(BrokerSettings::default(), "master", 200).await;
    eprintln!("durability master: {before} acknowledged before the cut, {since} after it, {lost} lost");
    assert!(lost > 0, "nothing was lost: then the test of the other durability shows nothing");
    // Some tasks that were acknowledged just before the cut may not have reached the replica yet.
    assert!(lost <= since + before / 10, "{lost} lost of {since} acknowledged after the cut");
}

/// A master and one replica, without sentinels.
async fn pair() -> (RedisServer, RedisServer) {
    let master = RedisServer::start();
    let port = master.port().to_string();
    let follower = RedisServer::start_with(&["--replicaof", "127.0.0.1", &port, "--repl-diskless-sync-delay", "0"]);
    until("the replica follows", async || text(&follower, &["INFO", "replication"]).await.contains("master_link_status:up")).await;
    (master, follower)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn without_a_replica_that_acknowledges_enqueue_says_so_each_time_it_is_asked() {
    let (master, follower) = pair().await;
    let broker = RedisBroker::connect(&master.url(), replica()).await.expect("connect");
    let task = add();
    assert!(broker.check().await.expect("check").warnings.iter().all(|warning| !warning.contains("replica")));
    broker.enqueue(std::slice::from_ref(&task)).await.expect("acknowledged by the replica");
    assert_eq!(broker.find(None, &task.id).await.expect("find").map(|view| view.id), Some(task.id));

    // The replica is connected and silent: its earlier acknowledgements must not satisfy WAIT.
    let stopped = Pid::from_raw(follower.pid().try_into().expect("a pid")).expect("a pid");
    kill_process(stopped, Signal::STOP).expect("our own child");
    let task = add();
    let not_known = |error: BrokerError| {
        assert!(error.is_transient() && error.is_fate_unknown(), "{error:?}");
        let said = error.to_string();
        assert!(said.contains("no replica acknowledged it within 3 s") && said.contains("it may be there"), "{said}");
    };
    not_known(broker.enqueue(std::slice::from_ref(&task)).await.expect_err("not acknowledged"));
    // The master has the task, so asking again writes nothing. Even on a connection that never wrote, that is no acknowledgement.
    let other = RedisBroker::connect(&master.url(), replica()).await.expect("connect");
    assert!(other.find(None, &task.id).await.expect("find").is_some());
    not_known(other.enqueue(std::slice::from_ref(&task)).await.expect_err("not acknowledged"));
    kill_process(stopped, Signal::CONT).expect("our own child");
    until("asked again it is acknowledged", async || broker.enqueue(std::slice::from_ref(&task)).await.is_ok()).await;

    ask(&follower, &["REPLICAOF", "NO", "ONE"]).await;
    until("the master has noticed", async || text(&master, &["INFO", "replication"]).await.contains("connected_slaves:0")).await;
    let warnings = broker.check().await.expect("check").warnings;
    assert!(warnings.iter().any(|warning| warning.contains("has no replica, and durability is `replica`")), "{warnings:?}");
    not_known(broker.enqueue(&[add()]).await.expect_err("not acknowledged"));
}

/// A worker keeps its results and records them once a replica is back. It runs no task again.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn workers_keep_results_until_a_replica_has_them() {
    let _turn = turn().await;
    let (master, follower) = pair().await;
    let broker = connect(&master.url(), BrokerSettings::default()).await;
    let mut fleet = Fleet::new(Duration::from_secs(5));
    let worker = fleet.worker(&master.url(), &[("durability", "replica")]).await;
    let ids = super::fleet::sleeps(&*broker, 100, 0.05).await;
    until("it works", async || succeeded(&*broker).await > 10).await;
    ask(&follower, &["REPLICAOF", "127.0.0.1", "1"]).await;
    worker.says("no replica acknowledged").await;
    ask(&follower, &["REPLICAOF", "127.0.0.1", &master.port().to_string()]).await;
    let begun = Instant::now();
    let told = account("a replica gone for a while, durability replica", &broker, &ids).await;
    told.all_succeeded();
    assert_eq!(told.counted, 0, "no attempt is counted twice");
    assert!(begun.elapsed() < END);
}

/// Claims succeed and finishes fail. Tasks that wait for a replica keep their slots, so the worker claims no others.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_worker_whose_ends_no_replica_acknowledges_holds_no_more_than_its_slots() {
    const SLOTS: u64 = 8;
    let _turn = turn().await;
    let master = RedisServer::start();
    let broker = connect(&master.url(), BrokerSettings::default()).await;
    let ids = super::fleet::sleeps(&*broker, 300, 0.001).await;
    let mut fleet = Fleet::new(Duration::from_secs(5));
    let slots = SLOTS.to_string();
    let worker = fleet.worker(&master.url(), &[("durability", "replica"), ("concurrency", &slots)]).await;
    let held = async || -> u64 {
        broker.queues().await.expect("queues").iter().filter_map(|queue| queue.counts.get(&taskhost_core::task::State::Running)).sum()
    };
    let most = Cell::new(0);
    until("it has tried to record three times", async || {
        most.set(most.get().max(held().await));
        worker.log().matches("no replica acknowledged").count() >= 3
    })
    .await;
    assert!(most.get() <= SLOTS, "it held {}", most.get());
    let _follower = RedisServer::start_with(&["--replicaof", "127.0.0.1", &master.port().to_string(), "--repl-diskless-sync-delay", "0"]);
    let told = account("a worker that began without a replica", &broker, &ids).await;
    told.all_succeeded();
    assert_eq!(told.counted, 0, "no attempt is counted twice");
}

/// The sentinels are up, and the master that they name can't be reached.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_error_names_the_master_that_is_down_and_not_the_sentinels_as_redis() {
    let _turn = turn().await;
    let mut watched = Watched::start().await;
    let url = watched.url();
    let broker = RedisBroker::connect(&url, BrokerSettings::default()).await.expect("connect");
    let master = format!("127.0.0.1:{}", watched.master.port());
    watched.master.kill();
    let said = RefCell::new(Vec::new());
    // Until the failover is over, each error names the master or says what the sentinels know of it.
    until("the replica is the master", async || match broker.now().await {
        Ok(_) => true,
        Err(error) => {
            said.borrow_mut().push(error.to_string());
            false
        }
    })
    .await;
    assert!(!said.borrow().is_empty());
    for text in said.into_inner() {
        assert!(text.contains(&format!("{master} (the master `mymaster`")) || text.contains("sentinels at"), "{text}");
        assert!(!text.contains("cannot reach Redis at") || text.contains("(the master `mymaster`"), "{text}");
    }
}
