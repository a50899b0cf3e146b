//! Processes that are killed, stopped and continued, or told to end, and races between producers. Runs on every broker.
//!
//! Each scenario ends in an account: 0 lost, 0 stuck, each end recorded as it should be.

use std::{
    collections::BTreeMap,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use taskhost_broker::{Broker, BrokerSettings, CancelReply};
use taskhost_core::task::{QueueName, State, TaskId, TaskView};

use super::{
    fleet::{END, Fleet, Process, account, enqueue_all, notes, open, succeeded, until},
    ground::{Ground, on_each_broker},
};
use crate::support::named;

on_each_broker! {
    workers_killed_at_random_moments_lose_nothing
    a_worker_that_slept_beyond_its_lease_records_nothing
    a_new_worker_takes_over_within_the_lease_and_at_once_on_one_machine
    a_worker_told_to_end_under_load_hands_back_uncounted
    a_second_signal_hands_back_at_once
    a_poison_task_dies_alone
    a_worker_without_the_plugin_leaves_its_tasks_to_others
    a_cancel_and_a_finish_agree_on_one_end
    a_pause_holds_whatever_is_claimed_meanwhile
    ten_producers_and_two_workers_at_once_lose_nothing
    eight_processes_enqueue_one_id_and_one_unique_key
    the_dead_set_and_results_keep_their_bounds_under_load
}

async fn began(broker: &dyn Broker, id: &TaskId) -> u64 {
    let value = broker.kv_get("ledger", &format!("began/{id}")).await.expect("kv");
    value.and_then(|bytes| String::from_utf8(bytes).ok()?.parse().ok()).unwrap_or(0)
}

async fn all_began(broker: &dyn Broker, ids: &[TaskId], times: u64) -> bool {
    for id in ids {
        if began(broker, id).await < times {
            return false;
        }
    }
    true
}

async fn running(broker: &dyn Broker) -> u64 {
    broker.queues().await.expect("queues").iter().filter_map(|queue| queue.counts.get(&State::Running)).sum()
}

async fn find(broker: &dyn Broker, id: &TaskId) -> TaskView {
    broker.find(Some(&QueueName::default()), id).await.expect("find").unwrap_or_else(|| panic!("`{id}` is lost"))
}

async fn workers_killed_at_random_moments_lose_nothing(ground: &Ground) {
    const TASKS: usize = 20_000;
    const KILLS: usize = 50;
    let broker = ground.open().await;
    let mut fleet = Fleet::new(Duration::from_secs(2));
    let mut crew: Vec<Process> = vec![fleet.worker(&ground.address(), &[]).await, fleet.worker(&ground.address(), &[]).await];
    let mut ids = Vec::new();
    for kill in 0..KILLS {
        ids.extend(notes(&*broker, TASKS / KILLS, fastrand::u64(0..10)).await);
        let done = succeeded(&*broker).await;
        // A moment under load: some tasks have ended since the last kill, and some are open.
        until("a task ends", async || succeeded(&*broker).await > done || open(&*broker).await == 0).await;
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..150))).await;
        crew.swap_remove(kill % 2).kill();
        crew.push(fleet.worker(&ground.address(), &[]).await);
    }
    account("killed at random moments", &broker, &ids).await.is_whole();
}

async fn a_worker_that_slept_beyond_its_lease_records_nothing(ground: &Ground) {
    let broker = ground.open().await;
    let mut fleet = Fleet::new(Duration::from_secs(1));
    let zombie = fleet.worker(&ground.address(), &[]).await;
    let ids = notes(&*broker, 40, 400).await;
    until("the first tasks run", async || running(&*broker).await >= 8).await;
    zombie.signal(Signal::STOP);
    let _other = fleet.worker(&ground.address(), &[]).await;
    account("asleep beyond the lease", &broker, &ids).await.all_succeeded();
    let before = views(&*broker, &ids).await;
    zombie.signal(Signal::CONT);
    zombie.says("lost the lease").await;
    let after = notes(&*broker, 40, 0).await;
    account("after its awakening", &broker, &after).await.all_succeeded();
    assert_eq!(views(&*broker, &ids).await, before, "a zombie recorded something");
}

async fn views(broker: &dyn Broker, ids: &[TaskId]) -> BTreeMap<TaskId, String> {
    let mut views = BTreeMap::new();
    for id in ids {
        views.insert(id.clone(), serde_json::to_string(&find(broker, id).await).expect("JSON"));
    }
    views
}

async fn a_new_worker_takes_over_within_the_lease_and_at_once_on_one_machine(ground: &Ground) {
    let broker = ground.open().await;
    // A worker of another machine waits for the lease. On the same machine the lock file proves the death at once. These are the limits for the
    // restart and for the end of the tasks.
    for (shares_state, lease, again, limit) in [(false, 30, 32, 35), (false, 5, 7, 10), (true, 30, 15, 15)] {
        let [lease, again, limit] = [lease, again, limit].map(Duration::from_secs);
        let mut fleet = Fleet::new(lease);
        fleet.shares_state = shares_state;
        let settings = [("concurrency", "20"), ("backoff", "100ms")];
        let only = fleet.worker(&ground.address(), &settings).await;
        let ids = notes(&*broker, 20, 1_000).await;
        // Both steps take less than a second: all 20 tasks run, and none has ended.
        until("20 tasks run", async || running(&*broker).await == 20).await;
        until("each has begun", async || all_began(&*broker, &ids, 1).await).await;
        only.kill();
        let killed = Instant::now();
        let _new = fleet.worker(&ground.address(), &settings).await;
        until("each begins again", async || all_began(&*broker, &ids, 2).await || open(&*broker).await == 0).await;
        let restarted = killed.elapsed();
        let what = if shares_state { "on the same machine" } else { "by another machine" };
        let account = account(&format!("taken over {what}, lease {lease:?}"), &broker, &ids).await;
        account.all_succeeded();
        assert_eq!(account.rerun, 20, "the worker was killed when all of them ran");
        let took = killed.elapsed();
        eprintln!("taken over {what}, lease {lease:?}: begun again {restarted:.2?} after the kill, ended {took:.2?} after it");
        assert!(restarted < again, "{what}, lease {lease:?}: they begin again {restarted:?} after the only worker was killed");
        assert!(took < limit, "{what}, lease {lease:?}: they have ended {took:?} after the only worker was killed");
    }
}

async fn a_worker_told_to_end_under_load_hands_back_uncounted(ground: &Ground) {
    let broker = ground.open().await;
    let mut fleet = Fleet::new(Duration::from_secs(30));
    let mut told = fleet.worker(&ground.address(), &[("drain", "1s")]).await;
    let mut ids = notes(&*broker, 300, 5).await;
    ids.extend(notes(&*broker, 12, 4_000).await);
    until("tasks run", async || running(&*broker).await > 0).await;
    told.signal(Signal::TERM);
    let _other = fleet.worker(&ground.address(), &[]).await;
    assert_eq!(told.ended(Duration::from_secs(15)).await, Some(0), "{}", told.log());
    let account = account("told to end under load", &broker, &ids).await;
    account.all_succeeded();
    assert_eq!(account.counted, 0, "what is handed back counts as no attempt");
}

async fn a_second_signal_hands_back_at_once(ground: &Ground) {
    let broker = ground.open().await;
    let mut fleet = Fleet::new(Duration::from_secs(30));
    let mut told = fleet.worker(&ground.address(), &[("drain", "60s")]).await;
    let ids = notes(&*broker, 12, 3_000).await;
    until("tasks run", async || running(&*broker).await == 12).await;
    told.signal(Signal::TERM);
    told.says("stopping: attempts may run on").await;
    told.signal(Signal::TERM);
    assert_eq!(told.ended(Duration::from_secs(10)).await, Some(0), "{}", told.log());
    assert_eq!(running(&*broker).await, 0, "all are handed back");
    let _other = fleet.worker(&ground.address(), &[]).await;
    let account = account("two signals", &broker, &ids).await;
    account.all_succeeded();
    assert_eq!(account.counted, 0, "what is handed back counts as no attempt");
}

async fn a_poison_task_dies_alone(ground: &Ground) {
    let broker = ground.open().await;
    let mut fleet = Fleet::new(Duration::from_secs(2));
    fleet.shares_state = true;
    let mut worker = fleet.worker(&ground.address(), &[]).await;
    let neighbours = notes(&*broker, 150, 100).await;
    let poison = enqueue_all(&*broker, vec![named("poison", "[]")]).await.remove(0);
    for attempt in 1.. {
        until("the poison is taken, or dead", async || {
            began(&*broker, &poison).await >= attempt || find(&*broker, &poison).await.state.is_ended()
        })
        .await;
        if find(&*broker, &poison).await.state.is_ended() {
            break;
        }
        assert!(attempt <= 5, "the poison began {attempt} times");
        worker.kill();
        worker = fleet.worker(&ground.address(), &[]).await;
    }
    let dead = find(&*broker, &poison).await;
    assert_eq!((dead.state, dead.tries, dead.error.expect("an error").kind.as_str()), (State::Dead, 4, "worker-lost"));
    account("beside a poison task", &broker, &neighbours).await.all_succeeded();
}

async fn a_worker_without_the_plugin_leaves_its_tasks_to_others(ground: &Ground) {
    let broker = ground.open().await;
    let mut fleet = Fleet::new(Duration::from_secs(30));
    let empty = fleet.path().join("empty");
    std::fs::create_dir(&empty).expect("a directory");
    let _poor = fleet.worker(&ground.address(), &[("plugins", &empty.to_string_lossy())]).await;
    let first = notes(&*broker, 50, 1).await;
    until("they are parked", async || {
        broker.queues().await.expect("queues").iter().any(|queue| queue.counts.get(&State::Parked) == Some(&50))
    })
    .await;
    let _rich = fleet.worker(&ground.address(), &[]).await;
    let ids = [first, notes(&*broker, 400, 1).await].concat();
    let account = account("one of two workers lacks the plugin", &broker, &ids).await;
    account.all_succeeded();
    assert_eq!((account.counted, account.rerun), (0, 0));
}

async fn a_cancel_and_a_finish_agree_on_one_end(ground: &Ground) {
    let broker = ground.open().await;
    let mut fleet = Fleet::new(Duration::from_secs(30));
    let _worker = fleet.worker(&ground.address(), &[]).await;
    let mut told: BTreeMap<&'static str, usize> = BTreeMap::new();
    for _ in 0..10 {
        let ids = notes(&*broker, 32, 5).await;
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..40))).await;
        let replies = futures_util::future::join_all(
            ids.iter().map(|id| async { (id.clone(), broker.cancel(&QueueName::default(), id).await.expect("cancel")) }),
        )
        .await;
        until("all have ended", async || open(&*broker).await == 0).await;
        for (id, reply) in replies {
            let view = find(&*broker, &id).await;
            let began = began(&*broker, &id).await;
            let (word, agrees) = match reply {
                CancelReply::Cancelled => ("never run", view.state == State::Cancelled && began == 0),
                CancelReply::Asked => ("asked while it ran", matches!(view.state, State::Cancelled | State::Succeeded)),
                CancelReply::AlreadyEnded(state) => ("came too late", view.state == state && state == State::Succeeded),
                CancelReply::NotFound => ("lost", false),
            };
            assert!(agrees, "cancel said {reply:?}, began {began}: {view:#?}");
            *told.entry(word).or_default() += 1;
        }
    }
    eprintln!("cancel against finish: {told:?}");
}

async fn a_pause_holds_whatever_is_claimed_meanwhile(ground: &Ground) {
    let broker = ground.open().await;
    let mut fleet = Fleet::new(Duration::from_secs(30));
    let _one = fleet.worker(&ground.address(), &[]).await;
    let _two = fleet.worker(&ground.address(), &[]).await;
    let queue = QueueName::default();
    let ids = notes(&*broker, 1_500, 10).await;
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(10..100))).await;
        broker.pause(&queue).await.expect("pause");
        let ready = waiting(&*broker).await;
        until("what was claimed has ended", async || running(&*broker).await == 0).await;
        assert_eq!(waiting(&*broker).await, ready, "claimed from a paused queue");
        broker.resume(&queue).await.expect("resume");
    }
    account("pause against claim", &broker, &ids).await.all_succeeded();
}

async fn ten_producers_and_two_workers_at_once_lose_nothing(ground: &Ground) {
    let broker = ground.open().await;
    let mut fleet = Fleet::new(Duration::from_secs(30));
    let _crew = [fleet.worker(&ground.address(), &[]).await, fleet.worker(&ground.address(), &[]).await];
    let mut producers = Vec::new();
    for _ in 0..10 {
        let broker = ground.open().await;
        producers.push(tokio::spawn(async move {
            let mut ids = Vec::new();
            for _ in 0..10 {
                ids.extend(notes(&*broker, 10, 1).await);
            }
            ids
        }));
    }
    let mut ids = Vec::new();
    for producer in producers {
        ids.extend(producer.await.expect("no panic"));
    }
    let account = account("ten producers, two workers", &broker, &ids).await;
    account.all_succeeded();
    assert_eq!((account.counted, account.rerun), (0, 0));
}

async fn waiting(broker: &dyn Broker) -> u64 {
    broker.queues().await.expect("queues").iter().filter_map(|queue| queue.counts.get(&State::Ready)).sum()
}

async fn eight_processes_enqueue_one_id_and_one_unique_key(ground: &Ground) {
    let broker = ground.open().await;
    let mut fleet = Fleet::new(Duration::from_secs(30));
    let _worker = fleet.worker(&ground.address(), &[]).await;
    let call = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_taskhost"));
        command.current_dir(fleet.path()).args(["enqueue", "note", "300", "--unchecked"]).args(words);
        command.env("TASKHOST_BROKER", ground.address()).env("TASKHOST_STATE", fleet.path().join("state"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
    };
    let same_id: Vec<_> = (0..8).map(|_| call(&["--id", "the-one"])).collect();
    for child in same_id {
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "the-one", "{output:?}");
    }
    let id = TaskId::new("the-one").expect("an id");
    account("one id from eight processes", &broker, std::slice::from_ref(&id)).await.all_succeeded();
    assert_eq!(began(&*broker, &id).await, 1);

    broker.pause(&QueueName::default()).await.expect("pause");
    let same_key: Vec<_> = (0..8).map(|_| call(&["--unique", "10m"])).collect();
    let ended = same_key.into_iter().map(|child| child.wait_with_output().expect("it ends"));
    let printed: Vec<String> = ended.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).collect();
    assert_eq!(waiting(&*broker).await, 1, "one holds the key: {printed:?}");
    let Some(holder) = printed.iter().find_map(|id| TaskId::new(id).ok()) else { panic!("nobody says who: {printed:?}") };
    broker.resume(&QueueName::default()).await.expect("resume");
    let broker: Arc<dyn Broker> = broker;
    account("one key from eight processes", &broker, &[holder]).await.all_succeeded();
}

async fn the_dead_set_and_results_keep_their_bounds_under_load(ground: &Ground) {
    const DEAD: u64 = 40;
    let settings = BrokerSettings { dead_count: DEAD, result_ttl: Duration::from_secs(1), ..BrokerSettings::default() };
    let broker = ground.open_with(settings).await;
    let mut fleet = Fleet::new(Duration::from_secs(30));
    let _worker = fleet.worker(&ground.address(), &[("dead_count", "40"), ("result_ttl", "1s")]).await;
    let queue = QueueName::default();
    let counted = async |state: State| {
        let queues = broker.queues().await.expect("queues");
        queues.iter().filter_map(|queue| queue.counts.get(&state)).sum::<u64>()
    };
    let mut dead = Vec::new();
    let mut most = 0;
    // Until the sweep has run under load: the oldest dead tasks are gone, and the newest are there.
    let begun = Instant::now();
    loop {
        let some: Vec<_> = (0..30).map(|_| named("fail_permanently", "[]")).collect();
        dead.extend(enqueue_all(&*broker, some).await);
        let _more = notes(&*broker, 100, 0).await;
        until("what was enqueued has ended", async || open(&*broker).await == 0).await;
        most = most.max(counted(State::Dead).await);
        if broker.find(Some(&queue), &dead[0]).await.expect("find").is_none() {
            break;
        }
        assert!(begun.elapsed() < END, "the dead set is never trimmed");
    }
    assert!(most >= DEAD, "there was something to trim: {most}");
    until("it has its bound", async || counted(State::Dead).await <= DEAD).await;
    let (old, new) = dead.split_at(dead.len() - 30);
    for id in new {
        assert!(broker.find(Some(&queue), id).await.expect("find").is_some(), "the newest of the dead are kept: {id}");
    }
    until("the oldest are gone", async || broker.find(Some(&queue), &old[0]).await.expect("find").is_none()).await;
    until("results are gone after their time", async || counted(State::Succeeded).await == 0).await;
    eprintln!("bounds under load: {} dead in all, at most {most} at once, at last {}", dead.len(), counted(State::Dead).await);
}
