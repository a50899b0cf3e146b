//! Laws of what is shown and steered: listings, counts, purge.

use std::{collections::BTreeMap, time::Duration};

use taskhost::{
    broker::{Broker, BrokerError, TaskFilter},
    task::{ErrorKind, NewTask, QueueName, Start, State, TaskError, TaskId, Verdict},
};

use crate::support::{SOON, Worker, add, dead, enqueue, named, ok, queue, task_name, wait_until};

/// One task of each state in the default queue, by its id; and one ready in `mail`.
async fn one_of_each(b: &dyn Broker) -> BTreeMap<State, TaskId> {
    let worker = Worker::new(b).await;
    let mut ids = BTreeMap::new();
    ids.insert(State::Succeeded, enqueue(b, add()).await);
    worker.run_one(ok("2")).await;
    tick(b).await;
    ids.insert(State::Dead, enqueue(b, named("fail", "[]")).await);
    let leased = worker.claim_one().await;
    let error = TaskError { code: Some("http-404".into()), ..TaskError::new(ErrorKind::Permanent, "Not found: \"x\"") };
    worker.finish(&leased.member, Verdict::Dead { error }).await;
    tick(b).await;
    ids.insert(State::Cancelled, enqueue(b, add()).await);
    b.cancel(&QueueName::default(), &ids[&State::Cancelled]).await.expect("cancel");
    ids.insert(State::Parked, enqueue(b, named("late", "[]")).await);
    worker.run_one(Verdict::Park).await;
    ids.insert(State::Running, enqueue(b, add()).await);
    worker.claim_one().await;
    ids.insert(State::Ready, enqueue(b, add()).await);
    ids.insert(State::Scheduled, enqueue(b, NewTask { start: Start::In(Duration::from_secs(600)), ..add() }).await);
    enqueue(b, NewTask { queue: queue("mail"), ..add() }).await;
    ids
}

async fn tick(b: &dyn Broker) {
    let before = b.now().await.expect("now");
    wait_until(SOON, "the clock ticks", || async { b.now().await.expect("now") > before }).await;
}

async fn ids(b: &dyn Broker, filter: &TaskFilter) -> Vec<TaskId> {
    let page = b.list(filter, None, 100).await.expect("list");
    assert!(page.next.is_none());
    page.tasks.into_iter().map(|view| view.id).collect()
}

pub(crate) async fn a_listing_goes_from_running_to_ended_newest_first(b: &dyn Broker) {
    let all = one_of_each(b).await;
    let listed = ids(b, &TaskFilter { queue: Some(QueueName::default()), ..TaskFilter::default() }).await;
    let order = [State::Running, State::Ready, State::Scheduled, State::Parked, State::Cancelled, State::Dead, State::Succeeded];
    assert_eq!(listed, order.map(|state| all[&state].clone()));
    assert_eq!(ids(b, &TaskFilter::default()).await.len(), 8, "all queues");
}

pub(crate) async fn a_listing_is_filtered(b: &dyn Broker) {
    let all = one_of_each(b).await;
    let in_default = TaskFilter { queue: Some(QueueName::default()), ..TaskFilter::default() };
    for state in State::ALL {
        assert_eq!(ids(b, &TaskFilter { states: vec![state], ..in_default.clone() }).await, [all[&state].clone()], "{state}");
    }
    let two = TaskFilter { states: vec![State::Dead, State::Ready], ..in_default.clone() };
    assert_eq!(ids(b, &two).await, [all[&State::Ready].clone(), all[&State::Dead].clone()]);
    let late = TaskFilter { task: Some(task_name("late")), ..TaskFilter::default() };
    assert_eq!(ids(b, &late).await, [all[&State::Parked].clone()]);
    for (part, found) in [("Not found: \"x", true), ("http-404", true), ("permanent", true), ("not found", false), ("message", false)] {
        let filter = TaskFilter { error: Some(part.into()), states: vec![State::Dead], ..TaskFilter::default() };
        assert_eq!(ids(b, &filter).await.contains(&all[&State::Dead]), found, "{part}");
    }
    let old = TaskFilter { older: Some(Duration::from_secs(60)), ..TaskFilter::default() };
    assert!(ids(b, &old).await.is_empty());
    tick(b).await;
    let any = TaskFilter { older: Some(Duration::ZERO), states: vec![State::Dead], ..TaskFilter::default() };
    assert_eq!(ids(b, &any).await, [all[&State::Dead].clone()]);
    assert!(ids(b, &TaskFilter { queue: Some(queue("nobody")), ..TaskFilter::default() }).await.is_empty());
}

pub(crate) async fn pages_show_each_task_once(b: &dyn Broker) {
    let worker = Worker::new(b).await;
    for n in 0..30 {
        let queue = if n % 3 == 0 { queue("mail") } else { QueueName::default() };
        enqueue(b, NewTask { queue, ..add() }).await;
    }
    for _ in 0..6 {
        worker.run_one(ok("2")).await;
        worker.run_one(dead("no")).await;
    }
    for filter in [TaskFilter::default(), TaskFilter { queue: Some(QueueName::default()), ..TaskFilter::default() }] {
        let whole = ids(b, &filter).await;
        assert_eq!(whole.len(), if filter.queue.is_some() { 20 } else { 30 });
        for limit in [1, 7, 20, 30] {
            let (mut got, mut from) = (Vec::new(), None);
            loop {
                let page = b.list(&filter, from.as_deref(), limit).await.expect("list");
                assert!(page.tasks.len() <= limit);
                got.extend(page.tasks.into_iter().map(|view| view.id));
                from = page.next;
                if from.is_none() {
                    break;
                }
                assert!(got.len() <= 30, "a listing that does not end");
            }
            assert_eq!(got, whole, "pages of {limit}");
        }
    }
    let nonsense = b.list(&TaskFilter::default(), Some("nonsense"), 1).await;
    assert!(matches!(nonsense, Err(BrokerError::Invalid(_))), "{nonsense:?}");
}

pub(crate) async fn queues_count_their_tasks(b: &dyn Broker) {
    one_of_each(b).await;
    let queues = b.queues().await.expect("queues");
    let default = queues.iter().find(|view| view.queue == QueueName::default()).expect("known");
    for state in State::ALL {
        assert_eq!(default.counts.get(&state), Some(&1), "{state}");
    }
    assert!(default.oldest_ready_ms.is_some_and(|age| age < 60_000) && !default.paused);
    let mail = queues.iter().find(|view| view.queue == queue("mail")).expect("known");
    assert_eq!(mail.counts.values().sum::<u64>(), 1);
    assert_eq!(queues.len(), 2);
}

pub(crate) async fn a_purge_deletes_what_waits_and_nothing_else(b: &dyn Broker) {
    let all = one_of_each(b).await;
    let many: Vec<_> = (0..1_500).map(|_| add()).collect();
    for chunk in many.chunks(500) {
        b.enqueue(chunk).await.expect("enqueue");
    }
    assert_eq!(b.purge(&QueueName::default()).await.expect("purge"), 1_503);
    for (state, id) in all {
        let kept = !matches!(state, State::Ready | State::Scheduled | State::Parked);
        assert_eq!(b.find(None, &id).await.expect("find").is_some(), kept, "{state}");
    }
    assert!(Worker::new(b).await.look(9, &["late"]).await.tasks.is_empty());
    assert_eq!(b.purge(&QueueName::default()).await.expect("purge"), 0);
    assert_eq!(b.purge(&queue("mail")).await.expect("purge"), 1);
    let left: Vec<_> = b.queues().await.expect("queues").into_iter().map(|view| view.queue).collect();
    assert_eq!(left, [QueueName::default()], "a queue purged empty is forgotten");
}

pub(crate) async fn a_purge_gives_unique_keys_back(b: &dyn Broker) {
    let unique = Some(taskhost::task::Unique { key: "k".into(), ttl: Duration::from_secs(600) });
    enqueue(b, NewTask { unique: unique.clone(), ..add() }).await;
    b.purge(&QueueName::default()).await.expect("purge");
    enqueue(b, NewTask { unique, ..add() }).await;
}

pub(crate) async fn a_check_says_what_the_broker_is(b: &dyn Broker) {
    let health = b.check().await.expect("check");
    assert!(!health.about.is_empty());
}
