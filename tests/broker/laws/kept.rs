//! Laws of keeping: how long an ended task is kept, and that it is forgotten then.

use std::time::Duration;

use taskhost_broker::{Broker, BrokerSettings, Enqueued, Finished};
use taskhost_core::task::{ErrorKind, NewTask, QueueName, State, TaskError, TaskId, TaskOptions, Verdict};

use crate::support::{End, SOON, Worker, add, dead, enqueue, finish, ok, retry_after, state, task_id, view, wait_until};

/// Long enough to be read after the end, on a busy machine too.
const KEPT: Duration = Duration::from_secs(1);

/// Waits until an ended task is forgotten, and calls `forget` before each look. By the broker's clock the task must go when its time is
/// over, and before twice that time. The check allows a quarter of the time less, because the broker may read its clock more than once.
async fn is_forgotten_in_time(b: &dyn Broker, id: &TaskId, forget: impl AsyncFn()) {
    let ended = view(b, id).await.ended_at.expect("it has ended");
    wait_until(SOON, "it is forgotten", || async {
        let before = b.now().await.expect("now").since(ended);
        forget().await;
        let is_gone = b.find(None, id).await.expect("find").is_none();
        let after = b.now().await.expect("now").since(ended);
        assert!(!is_gone || after >= KEPT * 3 / 4, "{id} is to be kept for {KEPT:?} and gone after {after:?}");
        assert!(is_gone || before < KEPT * 2, "{id} is to be kept for {KEPT:?} and still there after {before:?}");
        is_gone
    })
    .await;
    assert!(b.log(None, id).await.expect("log").is_none());
}

pub(crate) async fn a_result_is_gone_after_its_time_and_its_id_free_again(b: &dyn Broker) {
    let worker = Worker::new(b).await;
    let task = NewTask { options: TaskOptions { result_ttl: Some(KEPT), ..TaskOptions::default() }, ..add() };
    let id = enqueue(b, task.clone()).await;
    worker.run_one(ok("2")).await;
    assert_eq!(state(b, &id).await, State::Succeeded);
    is_forgotten_in_time(b, &id, async || {}).await;
    assert_eq!(b.enqueue(&[task]).await.expect("enqueue"), [Enqueued::Added]);
}

pub(crate) fn short_results() -> BrokerSettings {
    BrokerSettings { result_ttl: KEPT, ..BrokerSettings::default() }
}

pub(crate) async fn the_broker_s_time_for_results_counts_from_the_end(b: &dyn Broker) {
    let worker = Worker::new(b).await;
    let short = enqueue(b, add()).await;
    let long =
        enqueue(b, NewTask { options: TaskOptions { result_ttl: Some(Duration::from_secs(600)), ..TaskOptions::default() }, ..add() })
            .await;
    let leased = worker.claim(2).await;
    let now = b.now().await.expect("now");
    wait_until(SOON, "its time would be over", || async { b.now().await.expect("now") > now.after(KEPT) }).await;
    assert_eq!(state(b, &short).await, State::Running, "not before the end");
    for leased in &leased {
        worker.finish(&leased.member, ok("2")).await;
    }
    assert_eq!(state(b, &short).await, State::Succeeded);
    is_forgotten_in_time(b, &short, async || {}).await;
    assert_eq!(state(b, &long).await, State::Succeeded, "the task's own word counts more");
}

pub(crate) async fn every_end_but_death_is_kept_for_that_time_and_no_longer(b: &dyn Broker) {
    let worker = Worker::new(b).await;
    let default = QueueName::default();
    let mut ids = Vec::new();
    for verdict in [ok("2"), Verdict::Cancel { error: TaskError::new(ErrorKind::Cancelled, "stopped") }] {
        for log in ["", "{\"n\":1}\n"] {
            ids.push(enqueue(b, add()).await);
            let leased = worker.claim_one().await;
            let finish = taskhost_broker::Finish { log: log.into(), ..finish(&leased.member, verdict.clone()) };
            assert_eq!(b.finish(&worker.who, &[finish]).await.expect("finish"), [Finished::Recorded]);
        }
    }
    let asked = enqueue(b, add()).await;
    let leased = worker.claim_one().await;
    b.cancel(&default, &asked).await.expect("cancel");
    assert_eq!(worker.finish(&leased.member, retry_after(Duration::ZERO)).await, Finished::CancelledInstead);
    let waiting = enqueue(b, add()).await;
    b.cancel(&default, &waiting).await.expect("cancel");
    ids.extend([asked, waiting]);
    futures_util::future::join_all(ids.iter().map(|id| is_forgotten_in_time(b, id, async || {}))).await;
}

pub(crate) async fn an_id_whose_time_is_over_is_free_and_no_sweep_takes_its_next_task(b: &dyn Broker) {
    let default = QueueName::default();
    let worker = Worker::new(b).await;
    let named = |id: &str| NewTask { id: task_id(id), ..add() };
    let tagged = |id: &str| NewTask { options: TaskOptions { max_attempts: Some(9), ..TaskOptions::default() }, ..named(id) };
    for id in ["plain", "other", "child", "deleted", "twice"] {
        enqueue(b, named(id)).await;
        worker.run_one(ok("2")).await;
    }
    // These begin their second life before their time is over.
    for id in ["deleted", "twice"] {
        b.delete(&default, &task_id(id)).await.expect("delete");
        assert_eq!(b.enqueue(&[named(id)]).await.expect("enqueue"), [Enqueued::Added], "{id}");
    }
    let retried = enqueue(b, named("retried")).await;
    b.cancel(&default, &retried).await.expect("cancel");
    b.retry(&default, &retried).await.expect("retry");
    let first: Vec<_> = worker.claim(9).await;
    let ended = first.iter().find(|leased| leased.task.id.as_str() == "twice").expect("it is ready");
    worker.finish(&ended.member, ok("2")).await;
    wait_until(SOON, "all ends are over their time", || async { b.find(None, &task_id("twice")).await.expect("find").is_none() }).await;

    let parent = enqueue(b, named("parent")).await;
    let leased = worker.claim_one().await;
    assert_eq!(leased.task.id, parent);
    assert_eq!(worker.finish(&leased.member, End::with(ok("1"), vec![named("child")])).await, Finished::Recorded);
    assert_eq!(b.enqueue(&[named("plain"), named("fresh")]).await.expect("enqueue"), [Enqueued::Added, Enqueued::Added]);
    assert_eq!(
        b.enqueue(&[tagged("other"), tagged("plain")]).await.expect("enqueue"),
        [Enqueued::Added, Enqueued::Duplicate { holder: task_id("plain") }]
    );
    b.sweep(&default, &[]).await.expect("sweep");
    for id in ["child", "plain", "fresh", "other"] {
        assert_eq!(state(b, &task_id(id)).await, State::Ready, "{id}");
    }
    for id in ["deleted", "retried"] {
        assert_eq!(state(b, &task_id(id)).await, State::Running, "{id}");
    }
    let order: Vec<_> = worker.claim(9).await.into_iter().map(|leased| leased.task.id.to_string()).collect();
    assert_eq!(order, ["child", "plain", "fresh", "other"]);
}

pub(crate) async fn a_task_that_wants_no_result_keeps_none(b: &dyn Broker) {
    let worker = Worker::new(b).await;
    let task = NewTask { options: TaskOptions { result_ttl: Some(Duration::ZERO), ..TaskOptions::default() }, ..add() };
    let id = enqueue(b, task.clone()).await;
    let leased = worker.claim_one().await;
    let (ended, _) = tokio::join!(b.await_end(None, &id, SOON), worker.finish(&leased.member, ok("2")));
    assert!(ended.expect("await").is_none_or(|view| view.state == State::Succeeded));
    wait_until(SOON, "nothing is kept", || async { b.find(None, &id).await.expect("find").is_none() }).await;
    let id = enqueue(b, NewTask { id: task_id("other"), ..task }).await;
    worker.run_one(dead("no")).await;
    assert_eq!(state(b, &id).await, State::Dead, "the dead set keeps it all the same");
}

pub(crate) fn small_dead_set() -> BrokerSettings {
    BrokerSettings { dead_count: 3, ..BrokerSettings::default() }
}

pub(crate) async fn a_sweep_keeps_the_newest_of_the_dead(b: &dyn Broker) {
    let worker = Worker::new(b).await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(enqueue(b, add()).await);
        worker.run_one(dead("no")).await;
        let before = b.now().await.expect("now");
        wait_until(SOON, "the clock ticks", || async { b.now().await.expect("now") > before }).await;
    }
    b.sweep(&QueueName::default(), &[]).await.expect("sweep");
    let mut kept = Vec::new();
    for id in &ids {
        kept.push(b.find(None, id).await.expect("find").is_some());
    }
    assert_eq!(kept, [false, false, true, true, true]);
    let counts = &b.queues().await.expect("queues")[0].counts;
    assert_eq!(counts.get(&State::Dead), Some(&3));
}

pub(crate) fn young_dead_set() -> BrokerSettings {
    BrokerSettings { dead_age: KEPT, ..BrokerSettings::default() }
}

pub(crate) async fn a_sweep_forgets_the_old_dead(b: &dyn Broker) {
    let worker = Worker::new(b).await;
    let id = enqueue(b, add()).await;
    worker.run_one(dead("no")).await;
    is_forgotten_in_time(b, &id, async || b.sweep(&QueueName::default(), &[]).await.expect("sweep")).await;
}
