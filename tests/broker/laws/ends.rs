//! Laws of ends: how a task ends, and what is known of it then.

use std::time::{Duration, Instant};

use serde_json::value::RawValue;
use taskhost_broker::{Broker, BrokerSettings, CancelReply, DeleteReply, Enqueued, Finished, RetryReply};
use taskhost_core::task::{ErrorKind, NewTask, Priority, Progress, QueueName, Start, State, TaskError, TaskOptions, Unique, Verdict};

use crate::support::{
    End, SOON, Worker, add, dead, enqueue, finish_with, named, ok, queue, retry_after, state, still_waits, task_id, view,
};

pub(crate) async fn an_enqueued_task_is_claimed_finished_and_has_its_result(b: &dyn Broker) {
    let task = add();
    let id = enqueue(b, task.clone()).await;
    let waiting = view(b, &id).await;
    assert_eq!((waiting.state, waiting.args.get(), waiting.tries), (State::Ready, "[1,1]", 0));

    let worker = Worker::new(b).await;
    let leased = worker.claim_one().await;
    assert_eq!((&leased.member.id, &leased.task.name, &leased.task.args, leased.task.tries), (&id, &task.name, &task.args, 0));
    assert_eq!(view(b, &id).await.state, State::Running);

    assert_eq!(worker.finish(&leased.member, ok("2")).await, Finished::Recorded);
    let ended = view(b, &id).await;
    assert_eq!((ended.state, ended.result.as_deref().map(RawValue::get), ended.tries), (State::Succeeded, Some("2"), 1));
    assert!(ended.error.is_none() && ended.errors.is_empty());
    assert!(ended.enqueued_at <= ended.started_at.expect("started") && ended.started_at <= ended.ended_at);
    assert_eq!((ended.plugin.as_deref(), ended.version.as_deref()), (Some("math"), Some("1.0.0")));
    assert_eq!((ended.digest, ended.worker.as_deref()), (Some("ab".repeat(32)), Some("box:1:test")));
}

pub(crate) async fn who_awaits_an_end_is_woken_by_it(one: &dyn Broker, other: &dyn Broker) {
    for awaiting in [one, other] {
        let id = enqueue(one, add()).await;
        let worker = Worker::new(one).await;
        let leased = worker.claim_one().await;
        let begun = Instant::now();
        let mut end = awaiting.await_end(None, &id, SOON);
        still_waits(end.as_mut()).await;
        assert_eq!(worker.finish(&leased.member, ok("2")).await, Finished::Recorded);
        let view = end.await.expect("await").expect("known");
        assert_eq!((view.state, view.result.as_deref().map(RawValue::get)), (State::Succeeded, Some("2")));
        assert!(begun.elapsed() < Duration::from_secs(3), "by push, not by a poll of seconds: {:?}", begun.elapsed());
    }
}

/// The waiting caller gets the whole view, whether short or long, with any characters and with the earlier errors.
pub(crate) async fn who_awaits_an_end_is_told_all_that_is_known_of_it(one: &dyn Broker, other: &dyn Broker) {
    let awkward = r#""\u0000 \" \\ / {[, \u001f é 日本 🦀""#;
    let (worker, default) = (Worker::new(one).await, QueueName::default());
    for (args, verdict) in [
        ("[1,1]".to_owned(), ok("2")),
        (format!("[{awkward}]"), ok(awkward)),
        ("[]".to_owned(), ok(&format!("\"{}\"", "x".repeat(100_000)))),
        (format!("[\"{}\"]", "y".repeat(100_000)), dead("no \n 日本")),
        ("[2]".to_owned(), dead("no")),
    ] {
        let task = NewTask {
            options: TaskOptions {
                headers: vec![("trace".into(), "é\n".into())],
                priority: Priority::new(7).expect("a priority"),
                ..TaskOptions::default()
            },
            ..named("add", &args)
        };
        let id = enqueue(one, task).await;
        worker.run_one(retry_after(Duration::ZERO)).await;
        let leased = worker.claim_one().await;
        let mut end = other.await_end(Some(&default), &id, SOON);
        still_waits(end.as_mut()).await;
        assert_eq!(worker.finish(&leased.member, verdict).await, Finished::Recorded);
        let told = end.await.expect("await").expect("known");
        let known = view(one, &id).await;
        assert_eq!((told.state.is_ended(), told.tries, told.errors.is_empty()), (true, 2, false));
        assert_eq!(serde_json::to_string(&told).expect("JSON"), serde_json::to_string(&known).expect("JSON"));
        let again = other.await_end(None, &id, SOON).await.expect("await").expect("known");
        assert_eq!(serde_json::to_string(&again).expect("JSON"), serde_json::to_string(&known).expect("JSON"));
    }
}

pub(crate) async fn awaiting_gives_the_newest_view_when_the_time_is_over(b: &dyn Broker) {
    let id = enqueue(b, add()).await;
    let begun = Instant::now();
    let view = b.await_end(Some(&QueueName::default()), &id, Duration::from_millis(150)).await.expect("await").expect("known");
    assert_eq!(view.state, State::Ready);
    assert!(begun.elapsed() >= Duration::from_millis(150) && begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(b.await_end(None, &task_id("nobody"), SOON).await.expect("await").is_none());
    assert!(begun.elapsed() < Duration::from_secs(5), "an id nobody knows is not awaited");
}

pub(crate) async fn a_dead_end_stands_in_the_dead_set_and_is_awaited_like_any(b: &dyn Broker) {
    let worker = Worker::new(b).await;
    let id = enqueue(b, add()).await;
    let leased = worker.claim_one().await;
    let error = TaskError { code: Some("http-404".into()), detail: Some("a\nb".into()), ..TaskError::new(ErrorKind::Permanent, "gone") };
    worker.finish(&leased.member, Verdict::Dead { error: error.clone() }).await;
    let ended = b.await_end(None, &id, SOON).await.expect("await").expect("known");
    assert_eq!((ended.state, ended.tries, ended.error.as_ref()), (State::Dead, 1, Some(&error)));
    assert_eq!((ended.errors.len(), ended.errors[0].attempt, &*ended.errors[0].worker), (1, 1, "box:1:test"));
    assert_eq!((&ended.errors[0].error, &*ended.errors[0].code.plugin), (&error, "math"));
    assert!(worker.claim(9).await.is_empty());
}

pub(crate) async fn a_dead_task_retried_begins_anew(b: &dyn Broker) {
    let worker = Worker::new(b).await;
    let id = enqueue(b, add()).await;
    worker.run_one(retry_after(Duration::ZERO)).await;
    worker.run_one(dead("no")).await;
    assert_eq!(b.retry(&QueueName::default(), &id).await.expect("retry"), RetryReply::Ready);
    let again = worker.claim_one().await;
    assert_eq!((again.task.tries, again.task.losses), (0, 0));
    assert_eq!(worker.finish(&again.member, ok("2")).await, Finished::Recorded);
    let ended = view(b, &id).await;
    assert_eq!((ended.state, ended.tries), (State::Succeeded, 1));
    assert!(ended.error.is_none());
}

pub(crate) async fn only_what_ended_without_a_result_or_is_delayed_is_retried(b: &dyn Broker) {
    let worker = Worker::new(b).await;
    let default = QueueName::default();
    assert_eq!(b.retry(&default, &task_id("nobody")).await.expect("retry"), RetryReply::NotFound);
    let id = enqueue(b, add()).await;
    assert_eq!(b.retry(&default, &id).await.expect("retry"), RetryReply::NotEnded(State::Ready));
    let leased = worker.claim_one().await;
    assert_eq!(b.retry(&default, &id).await.expect("retry"), RetryReply::NotEnded(State::Running));
    worker.finish(&leased.member, retry_after(Duration::from_secs(600))).await;
    assert_eq!(b.retry(&default, &id).await.expect("retry"), RetryReply::Ready, "its next attempt begins at once");
    let again = worker.claim_one().await;
    assert_eq!(again.task.tries, 1, "the count goes on");
    worker.finish(&again.member, ok("2")).await;
    assert_eq!(b.retry(&default, &id).await.expect("retry"), RetryReply::NotEnded(State::Succeeded));

    let cancelled = enqueue(b, add()).await;
    b.cancel(&default, &cancelled).await.expect("cancel");
    assert_eq!(b.retry(&default, &cancelled).await.expect("retry"), RetryReply::Ready);
    assert_eq!(worker.claim_one().await.task.id, cancelled);
}

pub(crate) async fn a_delayed_task_is_run_at_once_by_a_retry(b: &dyn Broker) {
    let default = QueueName::default();
    let (now, hour) = (b.now().await.expect("now"), Duration::from_secs(3600));
    for start in [Start::In(hour), Start::At(now.after(hour))] {
        let expires = Some(now.after(2 * hour));
        let id = enqueue(b, NewTask { start, expires, ..add() }).await;
        assert_eq!(b.retry(&default, &id).await.expect("retry"), RetryReply::Ready);
        let shown = view(b, &id).await;
        assert_eq!((shown.state, shown.due_at, shown.expires_at), (State::Ready, None, expires), "only its delay is over");
        let worker = Worker::new(b).await;
        let leased = worker.claim_one().await;
        assert_eq!((&leased.task.id, leased.task.tries), (&id, 0));
        assert_eq!(b.retry(&default, &id).await.expect("retry"), RetryReply::NotEnded(State::Running));
        worker.finish(&leased.member, Verdict::HandBack { delay: hour }).await;
        assert_eq!(b.retry(&default, &id).await.expect("retry"), RetryReply::Ready, "also one that was handed back");
        worker.run_one(ok("2")).await;
    }
}

pub(crate) async fn a_retry_is_refused_while_another_holds_the_unique_key(b: &dyn Broker) {
    let worker = Worker::new(b).await;
    let unique = Some(Unique { key: "k".into(), ttl: Duration::from_secs(600) });
    let first = enqueue(b, NewTask { unique: unique.clone(), ..add() }).await;
    worker.run_one(dead("no")).await;
    let second = enqueue(b, NewTask { unique: unique.clone(), ..add() }).await;
    let reply = b.retry(&QueueName::default(), &first).await.expect("retry");
    assert_eq!(reply, RetryReply::Duplicate { holder: second.clone() });
    assert_eq!(state(b, &first).await, State::Dead);
    worker.run_one(ok("2")).await;
    assert_eq!(b.retry(&QueueName::default(), &first).await.expect("retry"), RetryReply::Ready);
    let third = NewTask { unique, ..add() };
    let reply = b.enqueue(&[third]).await.expect("enqueue");
    assert_eq!(reply, [Enqueued::Duplicate { holder: first }], "the retried one holds it again");
}

pub(crate) async fn a_task_is_deleted_unless_it_runs(b: &dyn Broker) {
    let worker = Worker::new(b).await;
    let default = QueueName::default();
    let id = enqueue(b, add()).await;
    let leased = worker.claim_one().await;
    assert_eq!(b.delete(&default, &id).await.expect("delete"), DeleteReply::Running);
    worker.finish(&leased.member, dead("no")).await;
    assert_eq!(b.delete(&default, &id).await.expect("delete"), DeleteReply::Deleted);
    assert!(b.find(None, &id).await.expect("find").is_none());
    assert_eq!(b.delete(&default, &id).await.expect("delete"), DeleteReply::NotFound);
    let waiting = enqueue(b, add()).await;
    assert_eq!(b.delete(&default, &waiting).await.expect("delete"), DeleteReply::Deleted);
    assert!(worker.claim(9).await.is_empty());
}

pub(crate) async fn a_result_over_the_limit_is_dead_and_says_so(b: &dyn Broker) {
    let worker = Worker::new(b).await;
    let id = enqueue(b, add()).await;
    let leased = worker.claim_one().await;
    assert_eq!(worker.finish(&leased.member, ok(&format!("\"{}\"", "x".repeat(2000)))).await, Finished::Recorded);
    let ended = view(b, &id).await;
    let error = ended.error.expect("an error");
    assert_eq!((ended.state, error.kind), (State::Dead, ErrorKind::ResultTooLarge));
    assert!(error.message.contains("2002"), "{}", error.message);
}

pub(crate) async fn a_child_over_the_payload_limit_makes_its_parent_dead_and_says_so(b: &dyn Broker) {
    let worker = Worker::new(b).await;
    let id = enqueue(b, add()).await;
    let leased = worker.claim_one().await;
    let near = NewTask { id: task_id("near"), ..add() };
    let far = NewTask { id: task_id("far"), queue: queue("mail"), ..named("child", &format!("[\"{}\"]", "x".repeat(2000))) };
    let done = finish_with(&leased.member, "2", vec![near, far]);
    assert_eq!(b.finish(&worker.who, &[done]).await.expect("finish"), [Finished::Recorded]);
    b.relay(&QueueName::default()).await.expect("relay");
    let ended = view(b, &id).await;
    let error = ended.error.expect("an error");
    assert_eq!((ended.state, error.kind, ended.result.is_some()), (State::Dead, ErrorKind::Permanent, false));
    assert!(error.message.contains("a child is too large") && error.message.contains("2004 bytes"), "{}", error.message);
    for child in ["near", "far"] {
        assert!(b.find(None, &task_id(child)).await.expect("find").is_none(), "{child}: no child comes to be");
    }
}

pub(crate) fn kilobyte_payloads() -> BrokerSettings {
    BrokerSettings { payload_limit: 1000, ..BrokerSettings::default() }
}

pub(crate) async fn the_last_five_errors_are_kept(b: &dyn Broker) {
    let worker = Worker::new(b).await;
    let id = enqueue(b, add()).await;
    for n in 1..=7 {
        let error = TaskError::new(ErrorKind::Retry, format!("error {n}"));
        worker.run_one(Verdict::Retry { error, delay: Duration::ZERO }).await;
    }
    let errors = view(b, &id).await.errors;
    let texts: Vec<_> = errors.iter().map(|entry| (entry.attempt, entry.error.message.as_str())).collect();
    assert_eq!(texts, [(3, "error 3"), (4, "error 4"), (5, "error 5"), (6, "error 6"), (7, "error 7")]);
    assert!(errors.is_sorted_by_key(|entry| entry.at));
    assert_eq!(errors[4].code.digest, "ab".repeat(32));
}

pub(crate) async fn progress_is_shown_while_it_runs_and_gone_with_the_end(b: &dyn Broker) {
    let worker = Worker::new(b).await;
    let id = enqueue(b, add()).await;
    let leased = worker.claim_one().await;
    for (done, total) in [(1, None), (2, Some(10))] {
        let progress = Progress { done, total, note: "half".into() };
        b.progress(&QueueName::default(), &id, &progress).await.expect("progress");
        assert_eq!(view(b, &id).await.progress, Some(progress));
    }
    worker.finish(&leased.member, ok("2")).await;
    assert_eq!(view(b, &id).await.progress, None);
    let late = Progress { done: 3, total: None, note: String::new() };
    b.progress(&QueueName::default(), &id, &late).await.expect("progress");
    assert_eq!(view(b, &id).await.progress, None, "a late word changes nothing");
}

pub(crate) async fn children_come_to_be_with_success_in_any_queue(b: &dyn Broker) {
    let worker = Worker::new(b).await;
    enqueue(b, add()).await;
    let near = NewTask { id: task_id("near"), ..named("child", "[1]") };
    let far = NewTask { id: task_id("far"), queue: queue("mail"), ..named("child", "[2]") };
    let leased = worker.claim_one().await;
    let verdict = End::with(Verdict::Succeed { result: "2".into() }, vec![near.clone(), far.clone()]);
    assert_eq!(worker.finish(&leased.member, verdict.clone()).await, Finished::Recorded);
    b.relay(&QueueName::default()).await.expect("relay");
    assert_eq!(worker.claim_one().await.task.id, near.id);
    let mail = Worker::on(b, &queue("mail"), crate::support::LEASE).await;
    let got = mail.claim_soon().await;
    assert_eq!((got.task.id, got.task.args), (far.id.clone(), far.args));

    // The same children with the same fixed ids, as after a lost reply, are not added again.
    assert_eq!(worker.finish(&leased.member, verdict.clone()).await, Finished::Stale);
    enqueue(b, add()).await;
    worker.run_one(verdict).await;
    b.relay(&QueueName::default()).await.expect("relay");
    assert!(worker.claim(9).await.is_empty() && mail.claim(9).await.is_empty());
}

pub(crate) async fn a_late_success_brings_no_children(b: &dyn Broker) {
    let worker = Worker::new(b).await;
    enqueue(b, add()).await;
    let leased = worker.run_one(dead("no")).await;
    let verdict = End::with(Verdict::Succeed { result: "2".into() }, vec![NewTask { id: task_id("child"), ..add() }]);
    assert_eq!(worker.finish(&leased.member, verdict).await, Finished::Stale);
    b.relay(&QueueName::default()).await.expect("relay");
    assert!(b.find(None, &task_id("child")).await.expect("find").is_none());
}

pub(crate) async fn what_follows_comes_with_every_verdict_that_is_recorded(b: &dyn Broker) {
    let error = |kind| TaskError::new(kind, "no");
    let verdicts = [
        ok("2"),
        Verdict::Retry { error: error(ErrorKind::Retry), delay: Duration::from_secs(3600) },
        Verdict::Dead { error: error(ErrorKind::Permanent) },
        Verdict::Cancel { error: error(ErrorKind::Cancelled) },
        Verdict::HandBack { delay: Duration::from_secs(3600) },
        Verdict::Park,
    ];
    for (n, verdict) in verdicts.into_iter().enumerate() {
        for cancels in [false, true] {
            let worker = Worker::new(b).await;
            let id = enqueue(b, add()).await;
            let leased = worker.claim_one().await;
            if cancels {
                assert_eq!(b.cancel(&QueueName::default(), &id).await.expect("cancel"), CancelReply::Asked);
            }
            let child = |place: &str| NewTask { id: task_id(&format!("{place}-{n}-{cancels}")), ..named("child", "[]") };
            let (near, far) = (child("near"), NewTask { queue: queue("mail"), ..child("far") });
            let end = End::with(verdict.clone(), [near.clone(), far.clone()]);
            let recorded = worker.finish(&leased.member, end.clone()).await == Finished::Recorded;
            assert_eq!(worker.finish(&leased.member, end).await, Finished::Stale);
            b.relay(&QueueName::default()).await.expect("relay");
            for child in [near, far] {
                let found = b.find(Some(&child.queue), &child.id).await.expect("find");
                assert_eq!(found.is_some(), recorded, "{verdict:?}, cancelled {cancels}");
                b.delete(&child.queue, &child.id).await.expect("delete");
            }
            b.delete(&QueueName::default(), &id).await.expect("delete");
            b.leave(&worker.who).await.expect("leave");
        }
    }
}
