//! Laws of cancelling: a waiting task never runs, a running one is told, an end that came first wins.

use std::time::Duration;

use taskhost_broker::{Broker, CancelReply, Finished};
use taskhost_core::task::{ErrorKind, NewTask, QueueName, Start, State, TaskError, TaskOptions, Verdict};
use tokio::sync::mpsc;

use crate::support::{SOON, Worker, add, dead, enqueue, ok, retry_after, state, task_id, view};

pub(crate) async fn a_cancelled_waiting_task_never_runs(b: &dyn Broker) {
    let default = QueueName::default();
    let ready = enqueue(b, add()).await;
    let delayed = enqueue(b, NewTask { start: Start::In(Duration::from_millis(50)), ..add() }).await;
    for id in [&ready, &delayed] {
        assert_eq!(b.cancel(&default, id).await.expect("cancel"), CancelReply::Cancelled);
        let ended = b.await_end(None, id, SOON).await.expect("await").expect("known");
        assert_eq!((ended.state, ended.error.expect("an error").kind), (State::Cancelled, ErrorKind::Cancelled));
        assert!(ended.ended_at.is_some());
        assert_eq!(b.cancel(&default, id).await.expect("cancel"), CancelReply::AlreadyEnded(State::Cancelled));
    }
    assert_eq!(b.cancel(&default, &task_id("nobody")).await.expect("cancel"), CancelReply::NotFound);
    let last = enqueue(b, NewTask { start: Start::In(Duration::from_millis(100)), ..add() }).await;
    let worker = Worker::new(b).await;
    assert_eq!(worker.claim_soon().await.task.id, last);
}

pub(crate) async fn a_running_task_s_worker_is_told_and_a_retry_then_ends_cancelled(one: &dyn Broker, other: &dyn Broker) {
    for (broker, verdict) in [
        (one, retry_after(Duration::ZERO)),
        (other, retry_after(Duration::from_secs(60))),
        (one, Verdict::HandBack { delay: Duration::ZERO }),
        (other, Verdict::Park),
    ] {
        let worker = Worker::new(one).await;
        let id = enqueue(one, add()).await;
        let leased = worker.claim_one().await;
        assert!(worker.extend().await.cancelled.is_empty());

        let (sender, mut receiver) = mpsc::channel(8);
        let listen = async {
            let told = tokio::time::timeout(SOON, receiver.recv()).await.expect("told in time");
            drop(receiver);
            told
        };
        let default = QueueName::default();
        let (listened, told, reply) = tokio::join!(one.cancellations(sender), listen, broker.cancel(&default, &id));
        listened.expect("cancellations");
        assert_eq!(told, Some((QueueName::default(), id.clone())));
        assert_eq!(reply.expect("cancel"), CancelReply::Asked);
        assert!(view(one, &id).await.cancel_asked);
        assert_eq!(worker.extend().await.cancelled, std::slice::from_ref(&id), "the heartbeat is the net");

        assert_eq!(worker.finish(&leased.member, verdict).await, Finished::CancelledInstead);
        let ended = view(one, &id).await;
        assert_eq!((ended.state, ended.error.expect("an error").kind, ended.cancel_asked), (State::Cancelled, ErrorKind::Cancelled, false));
        assert!(worker.extend().await.cancelled.is_empty());
        assert!(worker.claim(1).await.is_empty());
    }
}

pub(crate) async fn an_end_after_a_cancel_is_recorded_as_it_is(b: &dyn Broker) {
    let worker = Worker::new(b).await;
    let stopped = Verdict::Cancel { error: TaskError::new(ErrorKind::Cancelled, "it stopped") };
    for (verdict, expected) in [(ok("2"), State::Succeeded), (dead("no"), State::Dead), (stopped, State::Cancelled)] {
        let id = enqueue(b, add()).await;
        let leased = worker.claim_one().await;
        assert_eq!(b.cancel(&QueueName::default(), &id).await.expect("cancel"), CancelReply::Asked);
        assert_eq!(b.cancel(&QueueName::default(), &id).await.expect("cancel"), CancelReply::Asked, "asked twice");
        assert_eq!(worker.finish(&leased.member, verdict).await, Finished::Recorded);
        assert_eq!((state(b, &id).await, view(b, &id).await.cancel_asked), (expected, false));
    }
}

pub(crate) async fn a_finish_that_came_first_wins(b: &dyn Broker) {
    let worker = Worker::new(b).await;
    let id = enqueue(b, add()).await;
    worker.run_one(ok("2")).await;
    assert_eq!(b.cancel(&QueueName::default(), &id).await.expect("cancel"), CancelReply::AlreadyEnded(State::Succeeded));
    assert_eq!(state(b, &id).await, State::Succeeded);
}

pub(crate) async fn a_task_cancelled_while_its_worker_dies_ends_cancelled(b: &dyn Broker) {
    let id = enqueue(b, add()).await;
    let gone = Worker::new(b).await;
    gone.claim_one().await;
    b.cancel(&QueueName::default(), &id).await.expect("cancel");
    b.expire(&gone.who).await.expect("expire");
    let heir = Worker::new(b).await;
    for leased in heir.look(0, &[]).await.adopted {
        let lost = TaskError::new(ErrorKind::WorkerLost, "its worker is gone");
        heir.finish(&leased.member, Verdict::Retry { error: lost, delay: Duration::ZERO }).await;
    }
    assert_eq!(state(b, &id).await, State::Cancelled);
    assert!(heir.claim(9).await.is_empty());
}

pub(crate) async fn a_task_cancelled_while_its_worker_dies_ends_cancelled_without_attempts_left(b: &dyn Broker) {
    let id = enqueue(b, NewTask { options: TaskOptions { max_attempts: Some(1), ..TaskOptions::default() }, ..add() }).await;
    let gone = Worker::new(b).await;
    gone.claim_one().await;
    assert_eq!(b.cancel(&QueueName::default(), &id).await.expect("cancel"), CancelReply::Asked);
    b.expire(&gone.who).await.expect("expire");
    let heir = Worker::new(b).await;
    for leased in heir.adopt().await {
        let error = TaskError::new(ErrorKind::WorkerLost, "its worker is gone");
        assert_eq!(heir.finish(&leased.member, Verdict::Dead { error }).await, Finished::CancelledInstead);
    }
    let ended = view(b, &id).await;
    assert_eq!((ended.state, ended.error.expect("an error").kind, ended.tries), (State::Cancelled, ErrorKind::Cancelled, 1));
    assert_eq!(ended.errors.last().expect("it was lost").error.kind, ErrorKind::WorkerLost);
}

pub(crate) async fn a_task_cancelled_while_its_worker_leaves_ends_cancelled(b: &dyn Broker) {
    let id = enqueue(b, add()).await;
    let worker = Worker::new(b).await;
    worker.claim_one().await;
    b.cancel(&QueueName::default(), &id).await.expect("cancel");
    b.leave(&worker.who).await.expect("leave");
    assert_eq!(state(b, &id).await, State::Cancelled);
    assert!(Worker::new(b).await.claim(9).await.is_empty());
}
