//! The worker from outside: scripted bodies, a real broker, and faults between them.

/// Makes each case a test on every broker.
macro_rules! on_each_broker {
    ($($case:ident,)*) => {
        mod on_sqlite {
            $(
                #[tokio::test]
                async fn $case() {
                    super::$case::<crate::support::SqlitePlace>().await;
                }
            )*
        }
        mod on_redis {
            $(
                #[tokio::test]
                async fn $case() {
                    super::$case::<crate::support::RedisServer>().await;
                }
            )*
        }
    };
}

mod deaths;
mod flaky;
mod observed;
mod points;
mod pressure;
mod script;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use taskhost::worker::WorkerSettings;
use taskhost_broker::{Broker, BrokerSettings, CancelReply};
use taskhost_core::task::{ErrorKind, NewTask, QueueName, State, TaskId, TaskView};

use self::{
    flaky::Flaky,
    script::{offering, settings, start},
};
use crate::support::{Place, SOON, SqlitePlace, Worker, add, enqueue, named, queue, view, wait_until};

async fn place<P: Place>() -> (P, Arc<dyn Broker>) {
    place_with(BrokerSettings::default()).await
}

async fn place_with<P: Place>(settings: BrokerSettings) -> (P, Arc<dyn Broker>) {
    let place = P::make().await;
    let broker = place.open(settings).await;
    (place, broker)
}

async fn ended(broker: &dyn Broker, id: &TaskId) -> TaskView {
    let view = broker.await_end(Some(&QueueName::default()), id, SOON).await.expect("await_end").expect("a known task");
    assert!(view.state.is_ended(), "`{id}` has not ended: {:?}", view.state);
    view
}

async fn becomes(broker: &dyn Broker, id: &TaskId, state: State) {
    wait_until(SOON, &format!("{id} is {state}"), async || view(broker, id).await.state == state).await;
}

async fn enqueue_many(broker: &dyn Broker, tasks: Vec<NewTask>) -> Vec<TaskId> {
    broker.enqueue(&tasks).await.expect("enqueue");
    tasks.into_iter().map(|task| task.id).collect()
}

async fn five_hundred_tasks_end_once_each<P: Place>() {
    let (_place, broker) = place::<P>().await;
    let tasks = (0..500).map(|i| named("add", &format!("[{i},1]"))).collect();
    let ids = enqueue_many(&*broker, tasks).await;
    let worker = start(broker.clone(), settings(), &["add"]);
    for (i, id) in ids.iter().enumerate() {
        let view = ended(&*broker, id).await;
        assert_eq!((view.state, view.result.expect("a result").get()), (State::Succeeded, (i + 1).to_string().as_str()));
    }
    assert_eq!(worker.script.begun("add"), 500);
    assert_eq!(worker.drain().await.succeeded, 500);
}

async fn two_workers_share_a_queue_and_run_nothing_twice<P: Place>() {
    let (place, broker) = place::<P>().await;
    let other = place.open(BrokerSettings::default()).await;
    let one = start(broker.clone(), settings(), &["add", "gate"]);
    let two = start(other, settings(), &["add", "gate"]);
    let ids = enqueue_many(&*broker, (0..200).map(|_| add()).collect()).await;
    for id in &ids {
        assert_eq!(ended(&*broker, id).await.state, State::Succeeded);
    }
    assert_eq!(one.script.begun("add") + two.script.begun("add"), 200);
    // One worker alone has too few slots, so both must run some.
    let gates = enqueue_many(&*broker, (0..32).map(|_| named("gate", "[]")).collect()).await;
    one.script.until_running("gate", 16).await;
    two.script.until_running("gate", 16).await;
    one.script.gate.open(16);
    two.script.gate.open(16);
    for id in &gates {
        assert_eq!(ended(&*broker, id).await.state, State::Succeeded);
    }
    one.drain().await;
    two.drain().await;
}

async fn a_failing_body_is_retried_until_no_attempt_is_left<P: Place>() {
    let (_place, broker) = place::<P>().await;
    let worker = start(broker.clone(), settings(), &["fail"]);
    let mut task = named("fail", "[]");
    task.options.max_attempts = Some(3);
    let id = enqueue(&*broker, task).await;
    let view = ended(&*broker, &id).await;
    assert_eq!((view.state, view.tries, view.errors.len()), (State::Dead, 3, 3));
    assert_eq!(view.errors[0].code.plugin, "plugin-fail");
    let begun = worker.script.begun.lock().expect("not poisoned").clone();
    assert_eq!(begun, [("fail".into(), 1), ("fail".into(), 2), ("fail".into(), 3)]);
    assert_eq!(worker.drain().await.failed, 3);
}

async fn a_task_waits_for_its_plugin_and_is_not_claimed_again_meanwhile<P: Place>() {
    let (_place, broker) = place::<P>().await;
    let flaky = Flaky::new(broker.clone());
    let worker = start(flaky.clone(), settings(), &[]);
    let id = enqueue(&*broker, add()).await;
    becomes(&*broker, &id, State::Parked).await;
    // Another task comes and is parked. The first one keeps its place.
    let claims = flaky.claims.load(Ordering::SeqCst);
    let second = enqueue(&*broker, add()).await;
    becomes(&*broker, &second, State::Parked).await;
    let spent = flaky.claims.load(Ordering::SeqCst) - claims;
    assert!(spent < 10, "{spent} claims for one task: it spins");

    worker.offers.send_replace(Arc::new(offering(&["add"])));
    for id in [&id, &second] {
        let view = ended(&*broker, id).await;
        assert_eq!((view.state, view.tries), (State::Succeeded, 1));
    }
    worker.drain().await;
}

async fn a_plugin_at_its_concurrency_parks_and_goes_on_when_it_has_room<P: Place>() {
    let (_place, broker) = place::<P>().await;
    let worker = start(broker.clone(), settings(), &["gate*2", "add"]);
    let gates = enqueue_many(&*broker, (0..9).map(|_| named("gate", "[]")).collect()).await;
    worker.script.until_running("gate", 2).await;
    let id = enqueue(&*broker, add()).await;
    assert_eq!(ended(&*broker, &id).await.state, State::Succeeded, "others are not held up");
    worker.script.gate.open(9);
    for id in &gates {
        let view = ended(&*broker, id).await;
        assert_eq!((view.state, view.tries), (State::Succeeded, 1), "parking is not counted");
    }
    assert_eq!(worker.script.most.lock().expect("not poisoned")["gate"], 2);
    worker.drain().await;
}

async fn a_running_task_is_cancelled_at_once<P: Place>() {
    let (_place, broker) = place::<P>().await;
    let worker = start(broker.clone(), settings(), &["gate"]);
    let id = enqueue(&*broker, named("gate", "[]")).await;
    worker.script.until_running("gate", 1).await;
    assert_eq!(broker.cancel(&QueueName::default(), &id).await.expect("cancel"), CancelReply::Asked);
    let view = ended(&*broker, &id).await;
    assert_eq!((view.state, view.error.expect("an error").kind), (State::Cancelled, ErrorKind::Cancelled));
    assert_eq!(worker.script.cancelled(), 1, "the body was told");
    worker.drain().await;
}

async fn a_body_that_does_not_listen_is_stopped_after_the_grace_time<P: Place>() {
    let (_place, broker) = place::<P>().await;
    let worker = start(broker.clone(), settings(), &["deaf"]);
    let id = enqueue(&*broker, named("deaf", "[]")).await;
    worker.script.until_running("deaf", 1).await;
    broker.cancel(&QueueName::default(), &id).await.expect("cancel");
    assert_eq!(ended(&*broker, &id).await.state, State::Cancelled);
    worker.script.until_running("deaf", 0).await;
    worker.drain().await;
}

async fn a_drain_lets_attempts_end_and_claims_nothing_more<P: Place>() {
    let (_place, broker) = place::<P>().await;
    let worker = start(broker.clone(), settings(), &["gate", "add"]);
    let runs = enqueue(&*broker, named("gate", "[]")).await;
    worker.script.until_running("gate", 1).await;
    worker.stop.drain.cancel();
    wait_until(SOON, "the worker says that it drains", async || broker.workers().await.expect("workers").iter().any(|w| w.draining)).await;
    let late = enqueue(&*broker, add()).await;
    worker.script.gate.open(1);
    let summary = worker.drain().await;
    assert_eq!((summary.succeeded, summary.handed_back, summary.left_behind), (1, 0, 0));
    assert_eq!(view(&*broker, &runs).await.state, State::Succeeded);
    assert_eq!(view(&*broker, &late).await.state, State::Ready);
    assert!(broker.workers().await.expect("workers").is_empty());
}

async fn an_attempt_that_outlasts_the_drain_time_is_handed_back_uncounted<P: Place>() {
    let (_place, broker) = place::<P>().await;
    let mut patience = settings();
    patience.drain = Duration::from_millis(50);
    let worker = start(broker.clone(), patience, &["deaf"]);
    let id = enqueue(&*broker, named("deaf", "[]")).await;
    worker.script.until_running("deaf", 1).await;
    let script = worker.script.clone();
    assert_eq!(worker.drain().await.handed_back, 1);
    assert_eq!(script.running("deaf"), 0, "the attempt is gone");
    let view = view(&*broker, &id).await;
    assert_eq!((view.state, view.tries), (State::Ready, 0));
}

async fn a_second_signal_hands_back_at_once<P: Place>() {
    let (_place, broker) = place::<P>().await;
    let worker = start(broker.clone(), settings(), &["deaf"]);
    let ids = enqueue_many(&*broker, (0..3).map(|_| named("deaf", "[]")).collect()).await;
    worker.script.until_running("deaf", 3).await;
    assert_eq!(worker.stop().await.handed_back, 3);
    for id in &ids {
        assert_eq!(view(&*broker, id).await.state, State::Ready);
    }
}

async fn heartbeats_keep_a_long_attempt<P: Place>() {
    let (place, broker) = place::<P>().await;
    let flaky = Flaky::new(broker.clone());
    let mut short = settings();
    short.lease = Duration::from_millis(600);
    let worker = start(flaky.clone(), short.clone(), &["gate"]);
    let id = enqueue(&*broker, named("gate", "[]")).await;
    worker.script.until_running("gate", 1).await;
    // Another worker is there, and would take over an expired lease.
    let rival = start(place.open(BrokerSettings::default()).await, short, &["gate"]);
    let from = flaky.beats.load(Ordering::SeqCst);
    wait_until(SOON, "three leases have passed", async || flaky.beats.load(Ordering::SeqCst) > from + 9).await;
    worker.script.gate.open(1);
    let view = ended(&*broker, &id).await;
    assert_eq!((view.state, view.tries, rival.script.begun("gate")), (State::Succeeded, 1, 0));
    worker.drain().await;
    rival.drain().await;
}

async fn a_lost_lease_stops_its_attempts_and_they_record_nothing<P: Place>() {
    let (_place, broker) = place::<P>().await;
    let flaky = Flaky::new(broker.clone());
    let mut short = settings();
    short.lease = Duration::from_secs(3);
    let worker = start(flaky.clone(), short, &["gate", "add"]);
    let id = enqueue(&*broker, named("gate", "[]")).await;
    worker.script.until_running("gate", 1).await;
    let lost = flaky.registered.lock().expect("not poisoned")[0].clone();
    // The broker is away for this worker, so the others adopt its tasks.
    flaky.away.store(true, Ordering::SeqCst);
    let thief = Worker::new(&*broker).await;
    broker.expire(&lost).await.expect("expire");
    let adopted = thief.adopt().await;
    flaky.away.store(false, Ordering::SeqCst);
    assert_eq!((&adopted[0].task.id, adopted[0].task.losses), (&id, 0));
    wait_until(SOON, "its body is asked to return", async || worker.script.cancelled() == 1).await;
    assert_eq!(view(&*broker, &id).await.state, State::Running, "the thief holds it, and nobody else has recorded an end");
    assert_eq!(thief.finish(&adopted[0].member, crate::support::ok("7")).await, taskhost_broker::Finished::Recorded);
    // The worker goes on with a new incarnation.
    let next = enqueue(&*broker, add()).await;
    assert_eq!(ended(&*broker, &next).await.state, State::Succeeded);
    assert_eq!(ended(&*broker, &id).await.result.expect("a result").get(), "7");
    assert_eq!(worker.drain().await.succeeded, 1);
}

async fn free_slots_go_to_queues_by_weight<P: Place>() {
    let (_place, broker) = place::<P>().await;
    let mut weighted = settings();
    weighted.concurrency = 8;
    weighted.queues = vec![(queue("mail"), 3), (queue("default"), 1), (queue("idle"), 4)];
    let on = |name: &str, body: &str| NewTask { queue: queue(name), ..named(body, "[]") };
    let tasks = (0..20).flat_map(|_| [on("mail", "mail"), on("default", "other")]).collect();
    enqueue_many(&*broker, tasks).await;
    // The idle queue is asked once and then holds no slots. Its share goes to the others.
    let worker = start(broker.clone(), weighted, &["mail", "other"]);
    wait_until(SOON, "all slots are taken", async || worker.script.running("mail") + worker.script.running("other") == 8).await;
    let (mail, other) = (worker.script.running("mail"), worker.script.running("other"));
    assert!((5..=6).contains(&mail) && (2..=3).contains(&other), "{mail} and {other}");
    worker.stop().await;
}

async fn a_task_that_lost_its_worker_runs_alone_on_its_last_attempt<P: Place>() {
    let (_place, broker) = place::<P>().await;
    let mut victim = named("victim", "[]");
    victim.options.max_attempts = Some(2);
    let id = enqueue(&*broker, victim).await;
    let dying = Worker::new(&*broker).await;
    assert_eq!(dying.claim_one().await.task.id, id);
    broker.expire(&dying.who).await.expect("expire");

    let worker = start(broker.clone(), settings(), &["gate", "victim", "add"]);
    let neighbour = enqueue(&*broker, named("gate", "[]")).await;
    worker.script.until_running("gate", 1).await;
    wait_until(SOON, "it was adopted, judged and is ready again", async || {
        let view = view(&*broker, &id).await;
        view.tries == 1 && view.state == State::Ready
    })
    .await;
    assert_eq!(worker.script.begun("victim"), 0, "not beside its neighbour");
    worker.script.gate.open(1);
    assert_eq!(ended(&*broker, &neighbour).await.state, State::Succeeded);
    worker.script.until_running("victim", 1).await;
    let behind = enqueue(&*broker, add()).await;
    assert_eq!(view(&*broker, &behind).await.state, State::Ready, "nothing else is claimed beside it");
    worker.script.gate.open(1);
    let view = ended(&*broker, &id).await;
    assert_eq!((view.state, view.tries), (State::Succeeded, 2));
    assert_eq!(view.errors[0].error.kind, ErrorKind::WorkerLost);
    assert_eq!(ended(&*broker, &behind).await.state, State::Succeeded);
    assert_eq!(*worker.script.beside.lock().expect("not poisoned"), [1, 1, 1]);
    worker.drain().await;
}

async fn an_attempt_that_ends_while_the_broker_is_away_is_recorded_when_it_is_back<P: Place>() {
    let (_place, broker) = place::<P>().await;
    let flaky = Flaky::new(broker.clone());
    let worker = start(flaky.clone(), settings(), &["gate", "add"]);
    let id = enqueue(&*broker, named("gate", "[]")).await;
    worker.script.until_running("gate", 1).await;
    flaky.away.store(true, Ordering::SeqCst);
    worker.script.gate.open(1);
    worker.script.until_running("gate", 0).await;
    let waiting = enqueue(&*broker, add()).await;
    assert_eq!(view(&*broker, &id).await.state, State::Running);
    flaky.away.store(false, Ordering::SeqCst);
    for id in [&id, &waiting] {
        let view = ended(&*broker, id).await;
        assert_eq!((view.state, view.tries), (State::Succeeded, 1));
    }
    assert_eq!(worker.script.begun("gate"), 1);
    worker.drain().await;
}

async fn a_drain_ends_also_when_the_broker_is_gone<P: Place>() {
    let (_place, broker) = place::<P>().await;
    let flaky = Flaky::new(broker.clone());
    let mut patience = settings();
    patience.drain = Duration::from_millis(50);
    let worker = start(flaky.clone(), patience, &["deaf"]);
    enqueue(&*broker, named("deaf", "[]")).await;
    worker.script.until_running("deaf", 1).await;
    flaky.away.store(true, Ordering::SeqCst);
    let summary = tokio::time::timeout(SOON, worker.drain()).await.expect("it ends");
    assert_eq!((summary.handed_back, summary.left_behind), (1, 1));
}

async fn a_claim_whose_reply_was_lost_loses_nothing_and_counts_nothing<P: Place>() {
    let (_place, broker) = place::<P>().await;
    let flaky = Flaky::new(broker.clone());
    flaky.points.lock().expect("not poisoned").push_back(("claim", flaky::Moment::After));
    let ids = enqueue_many(&*broker, (0..5).map(|_| add()).collect()).await;
    let worker = start(flaky.clone(), settings(), &["add"]);
    for id in &ids {
        let view = ended(&*broker, id).await;
        assert_eq!((view.state, view.tries), (State::Succeeded, 1));
    }
    assert_eq!(worker.script.begun("add"), 5);
    assert!(flaky.points.lock().expect("not poisoned").is_empty(), "a reply was lost");
    worker.drain().await;
}

async fn a_result_that_is_too_large_is_dead_and_takes_no_other_along<P: Place>() {
    let bounds = BrokerSettings { payload_limit: 1024, ..BrokerSettings::default() };
    let (_place, broker) = place_with::<P>(bounds).await;
    let tasks = (0..20).map(|i| if i == 7 { named("long", "[]") } else { add() }).collect();
    let ids = enqueue_many(&*broker, tasks).await;
    let worker = start(broker.clone(), settings(), &["add", "long"]);
    for (i, id) in ids.iter().enumerate() {
        let view = ended(&*broker, id).await;
        if i == 7 {
            assert_eq!((view.state, view.error.expect("an error").kind), (State::Dead, ErrorKind::ResultTooLarge));
        } else {
            assert_eq!(view.state, State::Succeeded);
        }
    }
    worker.drain().await;
}

async fn a_fault_of_the_host_hands_the_task_back<P: Place>() {
    let (_place, broker) = place::<P>().await;
    let worker = start(broker.clone(), settings(), &["panic"]);
    let id = enqueue(&*broker, named("panic", "[]")).await;
    becomes(&*broker, &id, State::Scheduled).await;
    assert_eq!(view(&*broker, &id).await.tries, 0);
    worker.drain().await;
}

async fn short_bodies_wait_for_none_that_was_claimed_with_them<P: Place>() {
    let (_place, broker) = place::<P>().await;
    let worker = start(broker.clone(), settings(), &["add", "gate", "panic"]);
    // From these the worker learns that bodies are short. It then starts a few as one task of the runtime.
    for id in enqueue_many(&*broker, (0..100).map(|_| add()).collect()).await {
        ended(&*broker, &id).await;
    }
    let names = ["add", "gate", "add", "panic", "add", "gate", "add", "add"];
    let ids = enqueue_many(&*broker, names.map(|name| named(name, "[1,1]")).into()).await;
    for (id, name) in ids.iter().zip(names) {
        if name == "add" {
            assert_eq!(ended(&*broker, id).await.state, State::Succeeded);
        }
    }
    worker.script.until_running("gate", 2).await;
    becomes(&*broker, &ids[3], State::Scheduled).await;
    worker.script.gate.open(2);
    for id in [&ids[1], &ids[5]] {
        assert_eq!(ended(&*broker, id).await.state, State::Succeeded);
    }
    worker.drain().await;
}

async fn a_body_has_its_kv_and_says_its_progress<P: Place>() {
    let (_place, broker) = place::<P>().await;
    let worker = start(broker.clone(), settings(), &["kv"]);
    let id = enqueue(&*broker, named("kv", "[]")).await;
    wait_until(SOON, "its progress is shown", async || view(&*broker, &id).await.progress.is_some_and(|progress| progress.done == 2)).await;
    assert_eq!(broker.kv_get("plugin-kv", "runs").await.expect("kv_get"), Some(b"2".to_vec()));
    let running = broker.workers().await.expect("workers");
    assert_eq!(running.len(), 1);
    worker.script.gate.open(1);
    assert_eq!(ended(&*broker, &id).await.state, State::Succeeded);
    worker.drain().await;
}

async fn a_worker_that_dies_beside_another_is_adopted_at_once<P: Place>() {
    let (place, broker) = place::<P>().await;
    let state = tempfile::tempdir().expect("a temporary directory");
    let mut lasting = settings();
    lasting.lease = Duration::from_secs(3600);
    lasting.state = Some(state.path().to_owned());
    let id = enqueue(&*broker, named("gate", "[]")).await;

    // A runtime of its own: dropping it stops everything at once, like the end of a process.
    let doomed = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let dies = {
        let _in = doomed.enter();
        start(place.open(BrokerSettings::default()).await, lasting.clone(), &["gate"])
    };
    dies.script.until_running("gate", 1).await;
    doomed.shutdown_background();

    let heir = start(broker.clone(), WorkerSettings { id: "heir".into(), ..lasting }, &["gate"]);
    heir.script.until_running("gate", 1).await;
    heir.script.gate.open(1);
    let view = ended(&*broker, &id).await;
    assert_eq!((view.state, view.tries, view.errors[0].error.kind), (State::Succeeded, 2, ErrorKind::WorkerLost));
    heir.drain().await;
}

#[tokio::test]
async fn settings_that_can_not_work_are_refused() {
    let (_place, broker) = place::<SqlitePlace>().await;
    let mut twice = settings();
    twice.queues = vec![(queue("a"), 1), (queue("a"), 2)];
    let script = Arc::new(script::Script::default());
    let (_plugins, offers) = tokio::sync::watch::channel(Arc::new(offering(&[])));
    let refused =
        taskhost::worker::run_with(twice, broker, Arc::new(script::Scripted(script)), offers, taskhost::worker::Stop::default()).await;
    assert_eq!(refused.expect_err("refused").to_string(), "a queue is named once, with one weight: `a`");
}

on_each_broker! {
    five_hundred_tasks_end_once_each,
    two_workers_share_a_queue_and_run_nothing_twice,
    a_failing_body_is_retried_until_no_attempt_is_left,
    a_task_waits_for_its_plugin_and_is_not_claimed_again_meanwhile,
    a_plugin_at_its_concurrency_parks_and_goes_on_when_it_has_room,
    a_running_task_is_cancelled_at_once,
    a_body_that_does_not_listen_is_stopped_after_the_grace_time,
    a_drain_lets_attempts_end_and_claims_nothing_more,
    an_attempt_that_outlasts_the_drain_time_is_handed_back_uncounted,
    a_second_signal_hands_back_at_once,
    heartbeats_keep_a_long_attempt,
    a_lost_lease_stops_its_attempts_and_they_record_nothing,
    free_slots_go_to_queues_by_weight,
    a_task_that_lost_its_worker_runs_alone_on_its_last_attempt,
    an_attempt_that_ends_while_the_broker_is_away_is_recorded_when_it_is_back,
    a_drain_ends_also_when_the_broker_is_gone,
    a_claim_whose_reply_was_lost_loses_nothing_and_counts_nothing,
    a_result_that_is_too_large_is_dead_and_takes_no_other_along,
    a_fault_of_the_host_hands_the_task_back,
    short_bodies_wait_for_none_that_was_claimed_with_them,
    a_body_has_its_kv_and_says_its_progress,
    a_worker_that_dies_beside_another_is_adopted_at_once,
}
