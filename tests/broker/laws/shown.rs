//! Laws of listings, counts and purges.

use std::{collections::BTreeMap, time::Duration};

use taskhost_broker::{Broker, BrokerError, BrokerSettings, TaskFilter};
use taskhost_core::task::{ErrorKind, NewTask, QueueName, Start, State, TaskError, TaskId, TaskOptions, Verdict};

use crate::support::{SOON, Worker, add, dead, enqueue, named, ok, queue, task_name, wait_until};

/// One task of each state in the default queue, by its id, and one ready task in `mail`.
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

pub(crate) async fn a_filter_looks_into_arguments_headers_code_and_time(b: &dyn Broker) {
    let options = |headers: &[(&str, &str)]| TaskOptions {
        headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        ..TaskOptions::default()
    };
    let worker = Worker::new(b).await;
    let begin = b.now().await.expect("now");
    let ended = enqueue(b, NewTask { options: options(&[("tenant", "7"), ("x", "")]), ..named("add", r#"["eu",1]"#) }).await;
    worker.run_one(ok("2")).await;
    tick(b).await;
    let middle = b.now().await.expect("now");
    tick(b).await;
    let ready = enqueue(b, NewTask { options: options(&[("tenant", "8")]), ..named("add", r#"["us",1]"#) }).await;
    let of = |filter: TaskFilter| async move { ids(b, &filter).await };
    let all = TaskFilter::default;
    let header = |value: Option<&str>| Some(("tenant".to_owned(), value.map(str::to_owned)));
    for (filter, found) in [
        (TaskFilter { args: Some("\"eu\"".into()), ..all() }, vec![&ended]),
        (TaskFilter { args: Some("\"EU\"".into()), ..all() }, vec![]),
        (TaskFilter { header: header(Some("8")), ..all() }, vec![&ready]),
        (TaskFilter { header: header(None), ..all() }, vec![&ready, &ended]),
        (TaskFilter { header: Some(("none".into(), None)), ..all() }, vec![]),
        (TaskFilter { plugin: Some("math".into()), ..all() }, vec![&ended]),
        (TaskFilter { plugin: Some("mat".into()), ..all() }, vec![]),
        (TaskFilter { worker: Some(":1:".into()), ..all() }, vec![&ended]),
        (TaskFilter { from: Some(middle), ..all() }, vec![&ready]),
        (TaskFilter { to: Some(middle), ..all() }, vec![&ended]),
        (TaskFilter { from: Some(begin), to: Some(middle), plugin: Some("math".into()), ..all() }, vec![&ended]),
    ] {
        let shown = format!("{filter:?}");
        assert_eq!(of(filter).await.iter().collect::<Vec<_>>(), found, "{shown}");
    }
    let page = b.list(&TaskFilter { args: Some("nothing".into()), ..all() }, None, 10).await.expect("list");
    assert_eq!((page.tasks.len(), page.looked), (0, 2), "a page says how many it looked at");
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
    let unique = Some(taskhost_core::task::Unique { key: "k".into(), ttl: Duration::from_secs(600) });
    enqueue(b, NewTask { unique: unique.clone(), ..add() }).await;
    b.purge(&QueueName::default()).await.expect("purge");
    enqueue(b, NewTask { unique, ..add() }).await;
}

pub(crate) async fn a_check_says_what_the_broker_is(b: &dyn Broker) {
    let health = b.check().await.expect("check");
    assert!(!health.about.is_empty());
}

/// Every id of a listing, read in pages of `limit`. `between` is called after each page.
async fn in_pages(b: &dyn Broker, filter: &TaskFilter, limit: usize, mut between: impl AsyncFnMut(&[TaskId])) -> Vec<TaskId> {
    let (mut got, mut from) = (Vec::new(), None);
    loop {
        let page = b.list(filter, from.as_deref(), limit).await.expect("list");
        assert!(page.tasks.len() <= limit);
        let ids: Vec<_> = page.tasks.into_iter().map(|view| view.id).collect();
        between(&ids).await;
        got.extend(ids);
        from = page.next;
        if from.is_none() {
            return got;
        }
    }
}

fn only(states: &[State]) -> TaskFilter {
    TaskFilter { states: states.to_vec(), ..TaskFilter::default() }
}

async fn counted(b: &dyn Broker, state: State) -> u64 {
    b.queues().await.expect("queues").iter().map(|view| view.counts.get(&state).copied().unwrap_or(0)).sum()
}

/// More single ends than the 2,000 that earlier builds listed.
pub(crate) async fn every_ended_task_is_listed_and_counted_however_many_ended_after_it(b: &dyn Broker) {
    const ENDS: usize = 2_300;
    let first = enqueue(b, add()).await;
    b.cancel(&QueueName::default(), &first).await.expect("cancel");
    let worker = Worker::new(b).await;
    let succeeded = enqueue(b, add()).await;
    worker.run_one(ok("2")).await;
    let tasks: Vec<_> = (0..ENDS).map(|_| NewTask { queue: queue("busy"), ..add() }).collect();
    for some in tasks.chunks(500) {
        b.enqueue(some).await.expect("enqueue");
    }
    for task in &tasks {
        b.cancel(&task.queue, &task.id).await.expect("cancel");
    }
    let mut listed = in_pages(b, &only(&[State::Cancelled]), 500, async |_| {}).await;
    assert_eq!(listed.last(), Some(&first), "the oldest is the last of the list");
    listed.sort();
    let mut known: Vec<_> = tasks.iter().map(|task| task.id.clone()).chain([first]).collect();
    known.sort();
    assert!(listed == known, "{} of {} are listed", listed.len(), known.len());
    assert_eq!(in_pages(b, &only(&[State::Succeeded]), 9, async |_| {}).await, [succeeded]);
    assert_eq!((counted(b, State::Cancelled).await, counted(b, State::Succeeded).await), (ENDS as u64 + 1, 1));
}

pub(crate) async fn what_leaves_before_its_time_is_neither_listed_nor_counted(b: &dyn Broker) {
    let default = QueueName::default();
    let own = |ttl| NewTask { options: TaskOptions { result_ttl: Some(ttl), ..TaskOptions::default() }, ..add() };
    let worker = Worker::new(b).await;
    let mut succeeded = Vec::new();
    for task in [add(), add(), add(), own(Duration::from_secs(7)), own(Duration::from_secs(7)), own(Duration::ZERO)] {
        succeeded.push(enqueue(b, task).await);
        worker.run_one(ok("2")).await;
    }
    let mut cancelled = Vec::new();
    for task in [add(), add(), own(Duration::from_secs(7)), own(Duration::from_secs(7)), own(Duration::ZERO)] {
        cancelled.push(enqueue(b, task).await);
        b.cancel(&default, cancelled.last().expect("one")).await.expect("cancel");
    }
    assert_eq!((counted(b, State::Succeeded).await, counted(b, State::Cancelled).await), (5, 4));
    for id in [&succeeded[0], &succeeded[3]] {
        b.delete(&default, id).await.expect("delete");
        b.delete(&default, id).await.expect("delete");
    }
    for id in [&cancelled[0], &cancelled[2]] {
        b.retry(&default, id).await.expect("retry");
    }
    assert_eq!((counted(b, State::Succeeded).await, counted(b, State::Cancelled).await), (3, 2));
    // One task ends a second time, so the stored lists of ends have it twice.
    b.cancel(&default, &cancelled[0]).await.expect("cancel");
    worker.run_one(dead("no")).await;
    assert_eq!((counted(b, State::Succeeded).await, counted(b, State::Cancelled).await), (3, 3));
    for (state, mut known) in [
        (State::Succeeded, vec![succeeded[1].clone(), succeeded[2].clone(), succeeded[4].clone()]),
        (State::Cancelled, vec![cancelled[0].clone(), cancelled[1].clone(), cancelled[3].clone()]),
        (State::Dead, vec![cancelled[2].clone()]),
    ] {
        let mut listed = in_pages(b, &only(&[state]), 2, async |_| {}).await;
        listed.sort();
        known.sort();
        assert_eq!(listed, known, "{state}");
    }
    b.sweep(&default, &[]).await.expect("sweep");
    assert_eq!((counted(b, State::Succeeded).await, counted(b, State::Cancelled).await, counted(b, State::Dead).await), (3, 3, 1));
}

const KEPT: Duration = Duration::from_millis(400);

pub(crate) fn short_results() -> BrokerSettings {
    BrokerSettings { result_ttl: KEPT, ..BrokerSettings::default() }
}

pub(crate) async fn what_is_over_its_time_is_neither_listed_nor_counted_swept_or_not(b: &dyn Broker) {
    let worker = Worker::new(b).await;
    let mut last = enqueue(b, add()).await;
    worker.run_one(ok("2")).await;
    let long =
        enqueue(b, NewTask { options: TaskOptions { result_ttl: Some(Duration::from_secs(600)), ..TaskOptions::default() }, ..add() })
            .await;
    worker.run_one(ok("2")).await;
    for swept in [false, true] {
        wait_until(SOON, "a result is over its time", || async { b.find(None, &last).await.expect("find").is_none() }).await;
        if swept {
            b.sweep(&QueueName::default(), &[]).await.expect("sweep");
        }
        assert_eq!((counted(b, State::Succeeded).await, ids(b, &TaskFilter::default()).await), (1, vec![long.clone()]));
        last = enqueue(b, add()).await;
        worker.run_one(ok("2")).await;
    }
    b.delete(&QueueName::default(), &long).await.expect("delete");
    wait_until(SOON, "the rest is over its time", || async { b.find(None, &last).await.expect("find").is_none() }).await;
    b.sweep(&QueueName::default(), &[]).await.expect("sweep");
    assert_eq!((counted(b, State::Succeeded).await, ids(b, &TaskFilter::default()).await), (0, vec![]));
}

pub(crate) async fn a_listing_goes_on_where_it_was_whatever_comes_and_goes(b: &dyn Broker) {
    let (default, mail) = (QueueName::default(), queue("mail"));
    // The tasks of the first page go away. The next page must still show the tasks behind them.
    for state in [State::Ready, State::Scheduled, State::Cancelled] {
        let new = || match state {
            State::Scheduled => NewTask { start: Start::In(Duration::from_secs(600)), ..add() },
            _ => add(),
        };
        let mut all = Vec::new();
        for _ in 0..10 {
            all.push(enqueue(b, new()).await);
            all.push(enqueue(b, NewTask { queue: mail.clone(), ..new() }).await);
        }
        if state == State::Cancelled {
            for (n, id) in all.iter().enumerate() {
                b.cancel(if n % 2 == 0 { &default } else { &mail }, id).await.expect("cancel");
            }
        }
        let filter = only(&[state]);
        let shown = in_pages(b, &filter, 3, async |ids| {
            for id in ids {
                let task = b.find(None, id).await.expect("find").expect("known");
                b.delete(&task.queue, id).await.expect("delete");
            }
            let more = enqueue(b, add()).await;
            b.cancel(&default, &more).await.expect("cancel");
            b.delete(&default, &more).await.expect("delete");
        });
        let mut shown = shown.await;
        assert_eq!(shown.len(), 20, "each {state} task once");
        shown.sort();
        all.sort();
        assert_eq!(shown, all);
    }
    // A task that ends meanwhile belongs before the page that was shown, so it is not shown later.
    let mut all = Vec::new();
    for _ in 0..9 {
        all.push(enqueue(b, add()).await);
        b.cancel(&default, all.last().expect("one")).await.expect("cancel");
    }
    tick(b).await;
    all.reverse();
    let filter = only(&[State::Cancelled, State::Dead]);
    let shown = in_pages(b, &filter, 2, async |_| {
        let more = enqueue(b, NewTask { queue: mail.clone(), ..add() }).await;
        b.cancel(&mail, &more).await.expect("cancel");
    });
    let shown = shown.await;
    assert_eq!(shown.iter().filter(|id| all.contains(id)).count(), 9);
    assert_eq!(shown.len(), 9, "and nothing else");
}

pub(crate) async fn a_page_looks_at_some_thousand_tasks_and_says_where_it_goes_on(b: &dyn Broker) {
    let many: Vec<_> = (0..6_000).map(|_| add()).collect();
    for some in many.chunks(1_000) {
        b.enqueue(some).await.expect("enqueue");
    }
    let rare = enqueue(b, named("rare", "[]")).await;
    let filter = TaskFilter { task: Some(task_name("rare")), ..TaskFilter::default() };
    let page = b.list(&filter, None, 9).await.expect("list");
    assert!(page.tasks.is_empty() && page.next.is_some(), "it does not look at all of them at once");
    assert_eq!(in_pages(b, &filter, 9, async |_| {}).await, [rare]);
}

pub(crate) async fn a_queue_is_known_while_what_ended_there_is_kept(b: &dyn Broker) {
    let id = enqueue(b, NewTask { queue: queue("mail"), ..add() }).await;
    b.cancel(&queue("mail"), &id).await.expect("cancel");
    assert_eq!(b.purge(&queue("mail")).await.expect("purge"), 0);
    assert_eq!(ids(b, &only(&[State::Cancelled])).await, std::slice::from_ref(&id));
    b.delete(&queue("mail"), &id).await.expect("delete");
    assert_eq!(b.purge(&queue("mail")).await.expect("purge"), 0);
    assert!(b.queues().await.expect("queues").is_empty());
}
