//! Tags: kept from the enqueue to the end, in children and in schedules; a listing finds tasks by them.

use std::time::Duration;

use taskhost_broker::{Broker, Fired, TaskFilter};
use taskhost_core::task::{Carried, Millis, NewTask, OptionFilter, QueueName, Tag, TaskId, TaskOptions, Verdict};

use super::schedules::schedule;
use crate::support::{End, Worker, add, enqueue, ok, queue, retry_after, view};

fn tagged(words: &[&str]) -> TaskOptions {
    let mut carried = Carried::default();
    carried.tags.extend(words.iter().map(|word| word.parse().expect("a tag"))).expect("few enough");
    TaskOptions { carried, ..TaskOptions::default() }
}

fn words(options: &TaskOptions) -> Vec<&str> {
    options.carried.tags.iter().map(Tag::as_str).collect()
}

async fn listed(b: &dyn Broker, words: &[&str]) -> Vec<TaskId> {
    let tags = words.iter().map(|word| word.parse().expect("a tag")).collect();
    let filter = TaskFilter { options: OptionFilter { tags }, ..TaskFilter::default() };
    let mut ids: Vec<_> = b.list(&filter, None, 100).await.expect("list").tasks.into_iter().map(|view| view.id).collect();
    ids.sort_unstable();
    ids
}

pub(crate) async fn a_task_keeps_its_tags_from_the_enqueue_to_its_end(b: &dyn Broker) {
    let id = enqueue(b, NewTask { options: tagged(&["vip", "eu"]), ..add() }).await;
    assert_eq!(words(&view(b, &id).await.options), ["vip", "eu"]);
    let worker = Worker::new(b).await;
    let leased = worker.claim_one().await;
    assert_eq!(words(&leased.task.options), ["vip", "eu"]);
    worker.finish(&leased.member, retry_after(Duration::ZERO)).await;
    let leased = worker.claim_soon().await;
    assert_eq!((words(&leased.task.options), leased.task.tries), (vec!["vip", "eu"], 1));
    worker.finish(&leased.member, ok("2")).await;
    assert_eq!(words(&view(b, &id).await.options), ["vip", "eu"]);
}

pub(crate) async fn a_listing_by_tags_shows_the_tasks_that_have_all_of_them(b: &dyn Broker) {
    let mut ids = Vec::new();
    for words in [&["vip"][..], &["vip", "eu"], &["eu"], &[]] {
        ids.push(enqueue(b, NewTask { options: tagged(words), ..add() }).await);
    }
    let far = enqueue(b, NewTask { options: tagged(&["vip"]), queue: queue("mail"), ..add() }).await;
    let ended = Worker::new(b).await.run_one(ok("2")).await.task.id;
    assert_eq!(ended, ids[0]);
    let sorted = |mut ids: Vec<TaskId>| {
        ids.sort_unstable();
        ids
    };
    assert_eq!(listed(b, &["vip"]).await, sorted(vec![ids[0].clone(), ids[1].clone(), far]));
    assert_eq!(listed(b, &["eu", "vip"]).await, [ids[1].clone()]);
    assert_eq!(listed(b, &["nobody"]).await, [] as [TaskId; 0]);
    assert_eq!(listed(b, &[]).await.len(), 5);
}

pub(crate) async fn children_and_firings_arrive_with_their_tags(b: &dyn Broker) {
    enqueue(b, add()).await;
    let near = NewTask { options: tagged(&["child"]), ..add() };
    let far = NewTask { options: tagged(&["child"]), queue: queue("mail"), ..add() };
    Worker::new(b).await.run_one(End::with(Verdict::Succeed { result: "1".into() }, vec![near.clone(), far.clone()])).await;
    b.relay(&QueueName::default()).await.expect("relay");
    for child in [&near, &far] {
        let found = b.find(Some(&child.queue), &child.id).await.expect("find").expect("known");
        assert_eq!(words(&found.options), ["child"]);
    }
    let now = b.now().await.expect("now");
    let nightly = taskhost_broker::Schedule { options: tagged(&["night"]), last: Millis(1), ..schedule("nightly") };
    b.put_schedule(&nightly).await.expect("put");
    let stored = b.schedules().await.expect("schedules").pop().expect("one");
    assert_eq!(words(&stored.options), ["night"]);
    let fired = NewTask { options: stored.options.clone(), ..add() };
    assert_eq!(b.fire(&stored, Millis(now.0 - 1), &fired).await.expect("fire"), Fired::Enqueued(fired.id.clone()));
    assert_eq!(words(&view(b, &fired.id).await.options), ["night"]);
}
