//! Laws of edits: a task gets other arguments before it runs, or runs again.

use taskhost_broker::{Broker, BrokerError, EditReply, RetryReply};
use taskhost_core::task::{NewTask, QueueName, Start, State, Verdict};

pub(crate) use super::ends::kilobyte_payloads;
use crate::support::{Worker, add, dead, enqueue, ok, task_id, view};

pub(crate) async fn a_task_runs_with_the_arguments_that_it_was_edited_to(b: &dyn Broker) {
    let (worker, default) = (Worker::new(b).await, QueueName::default());
    let ready = enqueue(b, add()).await;
    assert_eq!(b.edit(&default, &ready, "[2,3]").await.expect("edit"), EditReply::Edited);
    let leased = worker.claim_one().await;
    assert_eq!((&leased.member.id, &*leased.task.args), (&ready, "[2,3]"));
    worker.finish(&leased.member, dead("no")).await;
    assert_eq!(b.edit(&default, &ready, "[4,5]").await.expect("edit"), EditReply::Edited, "it is dead");
    let edited = view(b, &ready).await;
    assert_eq!((edited.state, edited.args.get()), (State::Dead, "[4,5]"));
    assert_eq!(b.retry(&default, &ready).await.expect("retry"), RetryReply::Ready);
    assert_eq!(worker.run_one(ok("9")).await.task.args, "[4,5]");

    let later = enqueue(b, NewTask { start: Start::In(std::time::Duration::from_secs(600)), ..add() }).await;
    let parked = enqueue(b, add()).await;
    worker.run_one(Verdict::Park).await;
    let cancelled = enqueue(b, add()).await;
    b.cancel(&default, &cancelled).await.expect("cancel");
    for (id, state) in [(later, State::Scheduled), (parked, State::Parked), (cancelled, State::Cancelled)] {
        assert_eq!(b.edit(&default, &id, "[7,7]").await.expect("edit"), EditReply::Edited, "{state}");
        let edited = view(b, &id).await;
        assert_eq!((edited.state, edited.args.get()), (state, "[7,7]"));
    }
}

pub(crate) async fn what_runs_or_has_succeeded_is_not_edited(b: &dyn Broker) {
    let (worker, default) = (Worker::new(b).await, QueueName::default());
    let id = enqueue(b, add()).await;
    let leased = worker.claim_one().await;
    assert_eq!(b.edit(&default, &id, "[9]").await.expect("edit"), EditReply::Refused(State::Running));
    worker.finish(&leased.member, ok("2")).await;
    assert_eq!(b.edit(&default, &id, "[9]").await.expect("edit"), EditReply::Refused(State::Succeeded));
    assert_eq!(view(b, &id).await.args.get(), add().args);
    assert_eq!(b.edit(&default, &task_id("nobody"), "[9]").await.expect("edit"), EditReply::NotFound);
}

pub(crate) async fn an_edit_over_the_payload_limit_changes_nothing(b: &dyn Broker) {
    let id = enqueue(b, add()).await;
    let refused = b.edit(&QueueName::default(), &id, &format!("[\"{}\"]", "x".repeat(1000))).await;
    assert!(matches!(&refused, Err(BrokerError::Invalid(why)) if why.contains("1000")), "{refused:?}");
    assert_eq!(view(b, &id).await.args.get(), add().args);
}
