//! Laws of the tasks that the broker itself starts: a child is added once, also when nothing of it is kept.

use std::time::Duration;

use taskhost_broker::{Broker, BrokerSettings, CancelReply, DeleteReply, Enqueued, TaskFilter};
use taskhost_core::task::{NewTask, QueueName, State, TaskOptions, Verdict};

use crate::support::{End, SOON, Worker, add, dead, enqueue, named, ok, queue, task_id, wait_until};

/// The queue of a child: the queue of its parent, or another one that it reaches through the outbox.
const PLACES: [&str; 2] = ["default", "mail"];

fn child(id: &str, place: &str) -> NewTask {
    NewTask {
        id: task_id(id),
        queue: queue(place),
        options: TaskOptions { result_ttl: Some(Duration::ZERO), ..TaskOptions::default() },
        ..named("child", "[1]")
    }
}

/// A parent succeeds with this child, and the child is relayed to its queue.
async fn follows(b: &dyn Broker, child: &NewTask) {
    let line = queue("parents");
    // The parent is claimed before children that wait in its own queue.
    enqueue(
        b,
        NewTask {
            queue: line.clone(),
            options: TaskOptions { priority: "9".parse().expect("a priority"), ..TaskOptions::default() },
            ..add()
        },
    )
    .await;
    let worker = Worker::on(b, &line, crate::support::LEASE).await;
    let children =
        vec![NewTask { queue: if child.queue.as_str() == "default" { line.clone() } else { child.queue.clone() }, ..child.clone() }];
    worker.run_one(End::with(ok("2"), children)).await;
    b.relay(&line).await.expect("relay");
}

/// The queue of a place: `default` stands for the parent's own queue, as in [`follows`].
fn home(place: &str) -> QueueName {
    queue(if place == "default" { "parents" } else { place })
}

async fn worker<'a>(b: &'a dyn Broker, place: &str) -> Worker<'a> {
    Worker::on(b, &home(place), crate::support::LEASE).await
}

async fn is_gone(b: &dyn Broker, id: &str, place: &str) {
    let (id, place) = (task_id(id), home(place));
    wait_until(SOON, "nothing of it is kept", || async { b.find(Some(&place), &id).await.expect("find").is_none() }).await;
}

pub(crate) async fn a_child_is_added_once_whatever_its_result_ttl(b: &dyn Broker) {
    for place in PLACES {
        let works = worker(b, place).await;
        for (n, ttl) in [Some(Duration::ZERO), Some(Duration::from_millis(1)), Some(Duration::from_secs(900)), None].into_iter().enumerate()
        {
            let id = format!("child-{n}");
            let child = NewTask { options: TaskOptions { result_ttl: ttl, ..TaskOptions::default() }, ..child(&id, place) };
            follows(b, &child).await;
            follows(b, &child).await;
            assert_eq!(works.run_one(ok("1")).await.task.id, child.id);
            if ttl.is_some_and(|ttl| ttl < Duration::from_secs(1)) {
                is_gone(b, &id, place).await;
            }
            b.sweep(&home(place), &[]).await.expect("sweep");
            follows(b, &child).await;
            assert!(works.claim(9).await.is_empty(), "{place}: added again with {ttl:?}");
        }
    }
}

pub(crate) fn no_results() -> BrokerSettings {
    BrokerSettings { result_ttl: Duration::ZERO, dead_count: 0, ..BrokerSettings::default() }
}

/// The broker's own setting may keep no results, and the dead set may have no room.
pub(crate) async fn a_child_is_added_once_whatever_the_broker_keeps(b: &dyn Broker) {
    for place in PLACES {
        let works = worker(b, place).await;
        for (id, verdict) in [("ends", ok("1")), ("dies", dead("no"))] {
            let child = NewTask { options: TaskOptions::default(), ..child(id, place) };
            follows(b, &child).await;
            works.run_one(verdict).await;
            b.sweep(&home(place), &[]).await.expect("sweep");
            is_gone(b, id, place).await;
            follows(b, &child).await;
            assert!(works.claim(9).await.is_empty(), "{place}: {id}: added again");
        }
    }
}

pub(crate) async fn a_child_that_was_cancelled_deleted_purged_or_has_expired_is_not_added_again(b: &dyn Broker) {
    for place in PLACES {
        let (home, works) = (home(place), worker(b, place).await);
        for way in ["cancelled", "stopped", "deleted", "deleted when dead", "purged", "expired"] {
            let id = way.replace(' ', "-");
            let mut child = child(&id, place);
            if way == "expired" {
                child.expires = Some(b.now().await.expect("now"));
            }
            follows(b, &child).await;
            match way {
                "cancelled" => assert_eq!(b.cancel(&home, &child.id).await.expect("cancel"), CancelReply::Cancelled),
                "stopped" => {
                    let leased = works.claim_one().await;
                    b.cancel(&home, &child.id).await.expect("cancel");
                    works.finish(&leased.member, Verdict::HandBack { delay: Duration::ZERO }).await;
                }
                "deleted" => assert_eq!(b.delete(&home, &child.id).await.expect("delete"), DeleteReply::Deleted),
                "deleted when dead" => {
                    works.run_one(dead("no")).await;
                    assert_eq!(b.delete(&home, &child.id).await.expect("delete"), DeleteReply::Deleted);
                }
                "purged" => assert_eq!(b.purge(&home).await.expect("purge"), 1),
                _ => assert!(works.claim(9).await.is_empty(), "it has expired"),
            }
            is_gone(b, &id, place).await;
            follows(b, &NewTask { expires: None, ..child }).await;
            assert!(works.claim(9).await.is_empty(), "{place}: {way}: added again");
        }
    }
}

pub(crate) async fn a_child_that_is_no_longer_kept_is_nowhere_shown_and_its_id_is_free_to_enqueue(b: &dyn Broker) {
    let child = child("mine", "mail");
    follows(b, &child).await;
    let mail = queue("mail");
    {
        let works = worker(b, "mail").await;
        works.run_one(ok("1")).await;
        b.leave(&works.who).await.expect("leave");
    }
    is_gone(b, "mine", "mail").await;
    let of_mail = TaskFilter { queue: Some(mail.clone()), ..TaskFilter::default() };
    assert!(b.list(&of_mail, None, 10).await.expect("list").tasks.is_empty());
    let counts = b.queues().await.expect("queues").into_iter().find(|view| view.queue == mail).expect("a queue").counts;
    assert!(counts.values().all(|count| *count == 0), "{counts:?}");
    assert_eq!(b.retry(&mail, &child.id).await.expect("retry"), taskhost_broker::RetryReply::NotFound);
    assert_eq!(b.delete(&mail, &child.id).await.expect("delete"), DeleteReply::NotFound);
    assert_eq!(b.purge(&mail).await.expect("purge"), 0);
    assert!(b.queues().await.expect("queues").iter().all(|view| view.queue != mail), "a queue that is purged empty is gone");

    // The stub does not stop a producer that enqueues the id.
    assert_eq!(b.enqueue(std::slice::from_ref(&child)).await.expect("enqueue"), [Enqueued::Added]);
    follows(b, &child).await;
    let works = worker(b, "mail").await;
    works.run_one(ok("1")).await;
    follows(b, &child).await;
    assert!(works.claim(9).await.is_empty(), "and its child stays known all the same");
    assert!(b.find(Some(&mail), &child.id).await.expect("find").is_none_or(|view| view.state == State::Succeeded));
}
