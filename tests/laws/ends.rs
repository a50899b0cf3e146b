//! Laws of how a task ends and what is kept of it.

use taskhost::{broker::Broker, task::State};

use crate::support::{Worker, add, enqueue, ok, view};

pub(crate) async fn an_enqueued_task_is_claimed_finished_and_has_its_result(b: &dyn Broker) {
    let task = add();
    let id = enqueue(b, task.clone()).await;
    let waiting = view(b, &id).await;
    assert_eq!((waiting.state, waiting.args.get(), waiting.tries), (State::Ready, "[1,1]", 0));

    let worker = Worker::new(b).await;
    let leased = worker.claim_one().await;
    assert_eq!((&leased.member.id, &leased.task.name, &leased.task.args, leased.task.tries), (&id, &task.name, &task.args, 0));
    assert_eq!(view(b, &id).await.state, State::Running);

    assert_eq!(worker.finish(&leased.member, ok("2")).await, taskhost::broker::Finished::Recorded);
    let ended = view(b, &id).await;
    assert_eq!((ended.state, ended.result.as_deref().map(|raw| raw.get()), ended.tries), (State::Succeeded, Some("2"), 1));
    assert!(ended.error.is_none() && ended.errors.is_empty());
    assert!(ended.enqueued_at <= ended.started_at.expect("started") && ended.started_at <= ended.ended_at);
    assert_eq!((ended.plugin.as_deref(), ended.version.as_deref()), (Some("math"), Some("1.0.0")));
    assert_eq!((ended.digest, ended.worker.as_deref()), (Some("ab".repeat(32)), Some("box:1:test")));
}
