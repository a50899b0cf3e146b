//! The soak: producers, workers and random faults for as long as asked, then one account. `cargo xtask soak` runs it for longer.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::Signal;
use taskhost_broker::{Broker, BrokerSettings, NewFlow};
use taskhost_core::{
    task::{NewTask, QueueName, Start, State, TaskId},
    workflow::FlowWord,
};
use tokio_util::sync::CancellationToken;

use super::{
    fleet::{Fleet, Process, account_within, alone},
    ground::{DURABLE, Ground},
    proxy::{Act, Moment, Proxy},
};
use crate::support::named;

const WORKERS: usize = 3;
/// The seconds of each broker's soak, unless `cargo xtask soak` sets them.
const CI_SECONDS: u64 = 60;
/// The most tasks open at a time, so that the end does not wait for a backlog.
const OPEN: u64 = 2_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn redis() {
    let _turn = alone().await;
    soak(Ground::redis()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn sqlite() {
    let _turn = alone().await;
    soak(Ground::sqlite()).await;
}

async fn soak(mut ground: Ground) {
    let seconds = std::env::var("SOAK_SECONDS").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(CI_SECONDS);
    let settings = BrokerSettings { result_ttl: Duration::from_secs(24 * 3600), dead_count: 1_000_000, ..BrokerSettings::default() };
    let broker = ground.open_with(settings.clone()).await;
    let proxy = match &ground {
        Ground::Redis(server) => Some(Proxy::before(server.port()).await),
        Ground::Sqlite(_) => None,
    };
    let address = proxy.as_ref().map_or_else(|| ground.address(), Proxy::url);
    // Of 2,000 messages, this many are lost with their connection.
    let losing = Arc::new(AtomicU8::new(0));
    if let Some(proxy) = &proxy {
        let losing = Arc::clone(&losing);
        proxy.hook(move |_, moment| match moment {
            Moment::Answered if fastrand::u32(0..2_000) < u32::from(losing.load(Ordering::Relaxed)) => {
                if fastrand::bool() {
                    Act::Cut
                } else {
                    Act::Half
                }
            }
            _ => Act::Pass,
        });
    }
    let mut fleet = Fleet::new(Duration::from_secs(3));
    let keep = [("result_ttl", "24h"), ("dead_count", "1000000"), ("drain", "1s")];
    let mut crew: Vec<Process> = (0..WORKERS).map(|_| fleet.start(&address, &keep)).collect();
    let (acknowledged, stop) = (Arc::new(Mutex::new(Vec::new())), CancellationToken::new());
    let producer = tokio::spawn(produce(Arc::clone(&broker), Arc::clone(&acknowledged), stop.clone()));
    let starter = tokio::spawn(start_flows(Arc::clone(&broker), stop.clone()));

    let begun = Instant::now();
    let mut faults: std::collections::BTreeMap<&str, u32> = std::collections::BTreeMap::new();
    while begun.elapsed() < Duration::from_secs(seconds) {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(200..2_000))).await;
        let victim = fastrand::usize(0..crew.len());
        let fault = match (fastrand::u8(0..10), &mut ground) {
            (0..4, _) => {
                crew.swap_remove(victim).kill();
                crew.push(fleet.start(&address, &keep));
                "SIGKILL"
            }
            (4..6, _) => {
                crew[victim].signal(Signal::STOP);
                tokio::time::sleep(Duration::from_millis(fastrand::u64(0..8_000))).await;
                crew[victim].signal(Signal::CONT);
                "SIGSTOP"
            }
            (6, _) => {
                let mut told = crew.swap_remove(victim);
                told.signal(Signal::TERM);
                crew.push(fleet.start(&address, &keep));
                let _code = told.ended(Duration::from_secs(60)).await;
                "SIGTERM"
            }
            (7, Ground::Redis(server)) => {
                server.restart(&DURABLE);
                "Redis killed"
            }
            (8, Ground::Redis(_)) => {
                let proxy = proxy.as_ref().expect("there is one before Redis");
                proxy.set_up(false);
                tokio::time::sleep(Duration::from_millis(fastrand::u64(0..8_000))).await;
                proxy.set_up(true);
                "away"
            }
            (_, Ground::Redis(_)) => {
                losing.store(fastrand::u8(1..40), Ordering::Relaxed);
                tokio::time::sleep(Duration::from_secs(2)).await;
                losing.store(0, Ordering::Relaxed);
                "messages lost"
            }
            (_, Ground::Sqlite(_)) => continue,
        };
        *faults.entry(fault).or_default() += 1;
    }
    stop.cancel();
    producer.await.expect("no panic");
    let ids = std::mem::take(&mut *acknowledged.lock().expect("not poisoned"));
    let what = format!("soak of {seconds} s, faults {faults:?}");
    let flows = starter.await.expect("no panic");
    let after = ground.open_with(settings).await;
    let told = account_within(&what, &after, &ids, Duration::from_secs(180)).await;
    told.is_whole();
    have_ended(&*after, &flows, &what).await;
    // A body fails only while its broker is away. A task dies only after four workers died while running it.
    let dead = told.ends.get(&State::Dead).copied().unwrap_or(0);
    assert!(dead * 100 <= ids.len(), "{dead} of {} are dead", ids.len());
}

/// Enqueues tasks of every kind and notes the acknowledged ones.
async fn produce(broker: Arc<dyn Broker>, acknowledged: Arc<Mutex<Vec<TaskId>>>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let tasks: Vec<NewTask> = (0..fastrand::usize(1..40))
            .map(|_| match fastrand::u8(0..10) {
                0 => NewTask { start: Start::In(Duration::from_millis(fastrand::u64(0..1_500))), ..named("note", "[1]") },
                1 => named("note_with_child", r#"[1,"default"]"#),
                2 => named("note", "[300]"),
                _ => named("note", &format!("[{}]", fastrand::u8(0..10))),
            })
            .collect();
        if broker.enqueue(&tasks).await.is_ok() {
            acknowledged.lock().expect("not poisoned").extend(tasks.into_iter().map(|task| task.id));
        }
        while !stop.is_cancelled() && super::fleet::try_open(&*broker).await.is_none_or(|open| open > OPEN) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Starts flows, each with a chord in it, until it is stopped. Answers the acknowledged ones.
async fn start_flows(broker: Arc<dyn Broker>, stop: CancellationToken) -> Vec<TaskId> {
    let members: Vec<_> = (0..5).map(|n| serde_json::json!({"task": "note", "args": [n * 20], "retries": 20})).collect();
    let steps = serde_json::json!({
        "first": {"task": "note", "args": [1], "retries": 20},
        "all": {"group": members, "parallel": 3, "after": "first"},
        "pause": {"wait": {"for": "300ms"}, "after": "all"},
        "last": {"task": "note", "args": [{"from": "first"}], "after": "pause", "retries": 20}});
    let plan = serde_json::json!({"flow": 1, "name": "soak", "steps": steps}).to_string();
    let mut started = Vec::new();
    while !stop.is_cancelled() {
        let id = TaskId::fresh();
        let flow = NewFlow {
            id: id.clone(),
            queue: QueueName::default(),
            plan: plan.clone(),
            input: "null".into(),
            headers: Vec::new(),
            parent: None,
        };
        if broker.start_flow(&flow).await.is_ok() {
            started.push(id);
        }
        tokio::time::sleep(Duration::from_millis(fastrand::u64(20..400))).await;
    }
    started
}

/// Each flow has ended, and each of its nodes once. A body that died with its workers lets its flow fail.
async fn have_ended(broker: &dyn Broker, flows: &[TaskId], what: &str) {
    let (begun, mut failed) = (Instant::now(), 0);
    for id in flows {
        let view = loop {
            let view = broker.flow(None, id).await.expect("flow").unwrap_or_else(|| panic!("flow `{id}` is lost: {what}"));
            if view.line.ended_at.is_some() {
                break view;
            }
            assert!(begun.elapsed() < Duration::from_secs(180), "a flow has not ended: {what}: {view:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        if view.line.state == FlowWord::Succeeded {
            assert_eq!((view.line.ends, view.line.nodes), (9, 9), "each node ends once: {what}: {view:?}");
        } else {
            failed += 1;
        }
    }
    eprintln!("{} flows have ended, {failed} of them failed", flows.len());
    assert!(failed * 20 <= flows.len() + 20, "{failed} of {} flows failed", flows.len());
}
