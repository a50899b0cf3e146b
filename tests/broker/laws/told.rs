//! Laws of awaiting tasks that are not kept: a waiting caller is told the end, and nothing else of the task is left.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::value::RawValue;
use taskhost_broker::{Broker, BrokerSettings, DeleteReply, Finished};
use taskhost_core::task::{ErrorKind, NewTask, QueueName, State, TaskError, TaskId, TaskOptions, TaskView, Verdict};

use crate::support::{LEASE, SOON, Worker, add, dead, enqueue, ok, queue, still_waits, wait_until};

/// A task whose result is not kept, or is kept for less time than a look takes.
const SHORT: [Duration; 2] = [Duration::ZERO, Duration::from_millis(1)];

fn fleeting(ttl: Duration) -> NewTask {
    NewTask { options: TaskOptions { result_ttl: Some(ttl), ..TaskOptions::default() }, ..add() }
}

fn verdicts() -> [(Verdict, State); 4] {
    [
        (ok("2"), State::Succeeded),
        (ok(&format!("\"{}\"", "x".repeat(100_000))), State::Succeeded),
        (Verdict::Cancel { error: TaskError::new(ErrorKind::Cancelled, "stopped") }, State::Cancelled),
        (dead("no"), State::Dead),
    ]
}

fn is_the_end(told: Option<TaskView>, verdict: &Verdict, state: State) {
    let told = told.expect("the waiting caller gets the end");
    assert_eq!(told.state, state);
    match verdict {
        Verdict::Succeed { result } => assert_eq!(told.result.as_deref().map(RawValue::get), Some(&**result)),
        _ => assert!(told.error.is_some(), "{told:?}"),
    }
}

/// Long enough for a new connection on a busy machine.
async fn surely_waits<F: Future + ?Sized>(mut waiting: std::pin::Pin<&mut F>) {
    for _ in 0..4 {
        still_waits(waiting.as_mut()).await;
    }
}

async fn is_not_kept(b: &dyn Broker, id: &TaskId, state: State) {
    if state != State::Dead {
        wait_until(SOON, "nothing is kept", || async { b.find(None, id).await.expect("find").is_none() }).await;
        let listed = b.list(&taskhost_broker::TaskFilter::default(), None, 1_000).await.expect("list");
        assert!(listed.tasks.iter().all(|view| view.id != *id), "it is not listed");
    }
}

pub(crate) async fn who_waits_when_a_task_ends_gets_the_end_although_nothing_is_kept(one: &dyn Broker, other: &dyn Broker) {
    let default = QueueName::default();
    let worker = Worker::new(one).await;
    for ttl in SHORT {
        for (verdict, state) in verdicts() {
            for (waits, place) in [(one, Some(&default)), (other, None)] {
                let id = enqueue(one, fleeting(ttl)).await;
                let leased = worker.claim_one().await;
                let mut end = waits.await_end(place, &id, SOON);
                surely_waits(end.as_mut()).await;
                assert_eq!(worker.finish(&leased.member, verdict.clone()).await, Finished::Recorded);
                is_the_end(end.await.expect("await"), &verdict, state);
                is_not_kept(one, &id, state).await;
            }
        }
    }
}

/// As `enqueue --wait` waits: the end may come before the caller listens, and its message may be lost.
pub(crate) async fn who_enqueues_to_wait_gets_an_end_that_came_before_it_waited(one: &dyn Broker, other: &dyn Broker) {
    let default = QueueName::default();
    let worker = Worker::new(one).await;
    for ttl in SHORT {
        for (verdict, state) in verdicts() {
            let id = enqueue(other, NewTask { awaited: true, ..fleeting(ttl) }).await;
            worker.run_one(verdict.clone()).await;
            is_not_kept(one, &id, state).await;
            one.sweep(&default, &[]).await.expect("sweep");
            for place in [Some(&default), None] {
                is_the_end(other.await_end(place, &id, SOON).await.expect("await"), &verdict, state);
            }
        }
    }
}

pub(crate) async fn who_waits_for_a_task_that_is_deleted_or_purged_is_told_that_it_is_cancelled(one: &dyn Broker, other: &dyn Broker) {
    let default = QueueName::default();
    for way in ["delete", "purge"] {
        for waits in [one, other] {
            let id = enqueue(one, add()).await;
            let mut end = waits.await_end(Some(&default), &id, SOON);
            surely_waits(end.as_mut()).await;
            match way {
                "delete" => assert_eq!(one.delete(&default, &id).await.expect("delete"), DeleteReply::Deleted),
                _ => assert_eq!(one.purge(&default).await.expect("purge"), 1),
            }
            let told = end.await.expect("await").expect("the waiting caller is told");
            let error = told.error.expect("an error");
            assert_eq!((told.state, error.kind, &*error.message), (State::Cancelled, ErrorKind::Cancelled, "deleted before it started"));
            assert!(one.find(None, &id).await.expect("find").is_none(), "it is gone all the same");
            assert!(Worker::new(one).await.claim(9).await.is_empty(), "and never runs");
        }
    }
}

pub(crate) async fn who_waits_for_a_task_that_expires_is_told_although_nothing_is_kept(one: &dyn Broker, other: &dyn Broker) {
    let line = queue("late");
    for ttl in SHORT {
        let now = one.now().await.expect("now");
        let expires = Some(now.after(Duration::from_millis(150)));
        let id = enqueue(one, NewTask { expires, queue: line.clone(), awaited: true, ..fleeting(ttl) }).await;
        let mut end = other.await_end(Some(&line), &id, SOON);
        let _waits = tokio::time::timeout(Duration::from_millis(40), end.as_mut()).await;
        wait_until(SOON, "it has expired", || async { one.now().await.expect("now") > now.after(Duration::from_millis(150)) }).await;
        assert!(Worker::on(one, &line, LEASE).await.claim(9).await.is_empty());
        let told = end.await.expect("await").expect("the waiting caller is told");
        assert_eq!((told.state, told.error.expect("an error").kind), (State::Cancelled, ErrorKind::Expired));
    }
}

/// Some wait for the same task, some leave before its end, some come again.
pub(crate) async fn many_who_wait_at_once_are_each_told_their_own_end(one: &dyn Broker, other: &dyn Broker) {
    const MANY: usize = 200;
    let default = QueueName::default();
    let tasks: Vec<_> = (0..MANY).map(|n| NewTask { args: format!("[{n},1]"), ..fleeting(Duration::ZERO) }).collect();
    one.enqueue(&tasks).await.expect("enqueue");
    let wait = |n: usize| other.await_end(Some(&default), &tasks[n].id, SOON);
    let leave = tasks.iter().take(MANY / 4).map(|task| other.await_end(Some(&default), &task.id, Duration::from_millis(50)));
    for left in join_all(leave).await {
        assert!(!left.expect("await").expect("known").state.is_ended());
    }
    let mut ends = Box::pin(join_all((0..MANY).chain(0..MANY / 2).map(wait)));
    surely_waits(ends.as_mut()).await;
    let worker = Worker::new(one).await;
    for leased in worker.claim(MANY).await {
        worker.finish(&leased.member, ok(&format!("{:?}", leased.task.args))).await;
    }
    for (n, told) in ends.await.into_iter().enumerate() {
        let args = format!("[{},1]", n % MANY);
        is_the_end(told.expect("await"), &ok(&format!("{args:?}")), State::Succeeded);
    }
}

pub(crate) fn no_results() -> BrokerSettings {
    BrokerSettings { result_ttl: Duration::ZERO, ..BrokerSettings::default() }
}

pub(crate) async fn a_success_is_told_when_the_broker_keeps_no_results(b: &dyn Broker) {
    let worker = Worker::new(b).await;
    let id = enqueue(b, NewTask { awaited: true, ..add() }).await;
    worker.run_one(ok("2")).await;
    is_the_end(b.await_end(None, &id, SOON).await.expect("await"), &ok("2"), State::Succeeded);
    let id = enqueue(b, add()).await;
    let leased = worker.claim_one().await;
    let mut end = b.await_end(None, &id, SOON);
    surely_waits(end.as_mut()).await;
    worker.finish(&leased.member, ok("3")).await;
    is_the_end(end.await.expect("await"), &ok("3"), State::Succeeded);
    is_not_kept(b, &id, State::Succeeded).await;
}
