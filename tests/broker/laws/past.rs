//! Laws of the past: counts over time, totals, feeds of ends, notes, and the wish that a worker drains.

use std::{collections::BTreeMap, time::Duration};

use taskhost_broker::{Broker, BrokerError, HistoryStep, Note, QUEUE, Sample, Spread, Totals};
use taskhost_core::task::{Millis, NewTask, QueueName, Start, State, TaskId, TaskOptions};

use crate::support::{SOON, Worker, add, announced, dead, enqueue, ok, queue};

fn succeeded(n: u64) -> Sample {
    Sample { succeeded: n, cpu_us: 10 * n, ran: Spread([(3, n)].into()), ..Sample::default() }
}

/// All counts of a queue in the days around now, by body.
async fn counted(b: &dyn Broker, queue: &QueueName, step: HistoryStep) -> BTreeMap<String, Sample> {
    let now = b.now().await.expect("now");
    let from = Millis(now.0 - 2 * 1000 * step.seconds());
    let mut sums: BTreeMap<String, Sample> = BTreeMap::new();
    for point in b.history(queue, step, from, now).await.expect("history") {
        assert!(point.start.0 % (1000 * step.seconds()) == 0 && point.start <= now, "{point:?}");
        sums.entry(point.task).or_default().add(&point.sample);
    }
    sums
}

pub(crate) async fn records_add_up_by_step_and_body(b: &dyn Broker) {
    let (mail, other) = (queue("mail"), queue("other"));
    let dead = Sample { dead: 1, waited: Spread([(0, 1), (9, 2)].into()), ..Sample::default() };
    b.record(&mail, "box:1:a", 1, &[("add".into(), succeeded(2)), ("send".into(), dead.clone())]).await.expect("record");
    b.record(&mail, "box:1:a", 2, &[("add".into(), succeeded(3)), ("none".into(), Sample::default())]).await.expect("record");
    b.record(&mail, "box:2:b", 1, &[("add".into(), succeeded(1))]).await.expect("record");
    b.record(&other, "box:1:a", 1, &[("add".into(), succeeded(7))]).await.expect("record");
    for step in HistoryStep::ALL {
        let expected = [("add".to_owned(), succeeded(6)), ("send".to_owned(), dead.clone())].into();
        assert_eq!(counted(b, &mail, step).await, expected, "{step}");
        assert_eq!(counted(b, &other, step).await, [("add".to_owned(), succeeded(7))].into(), "{step}");
    }
    let now = b.now().await.expect("now");
    let past = Millis(now.0 - 3_600_000);
    assert!(b.history(&mail, HistoryStep::Minute, past, Millis(past.0 + 600_000)).await.expect("history").is_empty());
}

pub(crate) async fn a_repeated_record_counts_once(b: &dyn Broker) {
    let mail = queue("mail");
    for (number, n) in [(1, 2), (1, 2), (2, 3), (1, 2), (2, 9)] {
        b.record(&mail, "box:1:a", number, &[("add".into(), succeeded(n))]).await.expect("record");
    }
    assert_eq!(counted(b, &mail, HistoryStep::Day).await, [("add".to_owned(), succeeded(5))].into());
}

pub(crate) async fn a_record_notes_the_most_ready_tasks(b: &dyn Broker) {
    let (worker, default) = (Worker::new(b).await, QueueName::default());
    let ready = async || counted(b, &default, HistoryStep::Day).await.remove(QUEUE).unwrap_or_default().ready;
    let record = async |number: u64| b.record(&default, "box:1:a", number, &[]).await.expect("record");
    record(1).await;
    assert_eq!(ready().await, 0);
    for _ in 0..3 {
        enqueue(b, add()).await;
    }
    enqueue(b, NewTask { start: Start::In(SOON), ..add() }).await;
    record(2).await;
    assert_eq!(ready().await, 3, "what is due later is not ready");
    worker.run_one(ok("2")).await;
    record(3).await;
    assert_eq!(ready().await, 3, "the most of a step stays");
    for _ in 0..4 {
        enqueue(b, add()).await;
    }
    record(3).await;
    assert_eq!(ready().await, 3, "a repeated record adds nothing");
    b.record(&default, "box:2:b", 1, &[("add".into(), succeeded(1))]).await.expect("record");
    assert_eq!(ready().await, 6);
}

pub(crate) async fn a_history_of_too_many_steps_is_refused(b: &dyn Broker) {
    let now = b.now().await.expect("now");
    let refused = b.history(&queue("mail"), HistoryStep::Minute, Millis(0), now).await;
    assert!(matches!(&refused, Err(BrokerError::Invalid(why)) if why.contains("at most 400")), "{refused:?}");
    assert!(b.history(&queue("mail"), HistoryStep::Minute, now, Millis(0)).await.expect("history").is_empty());
}

pub(crate) async fn totals_only_grow(b: &dyn Broker) {
    let (worker, default) = (Worker::new(b).await, QueueName::default());
    let totals = || async { b.queues().await.expect("queues").into_iter().find(|view| view.queue == default).expect("it").totals };
    let fleeting = NewTask { options: TaskOptions { result_ttl: Some(Duration::ZERO), ..TaskOptions::default() }, ..add() };
    let tasks = [add(), fleeting, add()];
    b.enqueue(&tasks).await.expect("enqueue");
    let _duplicates = b.enqueue(&tasks[..1]).await.expect("enqueue");
    assert_eq!(totals().await, Totals { enqueued: 3, ..Totals::default() });
    worker.run_one(ok("2")).await;
    worker.run_one(ok("2")).await;
    let died = worker.run_one(dead("no")).await.member.id;
    assert_eq!(totals().await, Totals { enqueued: 3, succeeded: 2, dead: 1, cancelled: 0 });
    b.retry(&default, &died).await.expect("retry");
    worker.run_one(dead("no")).await;
    let (cancelled, deleted) = (enqueue(b, add()).await, enqueue(b, add()).await);
    b.cancel(&default, &cancelled).await.expect("cancel");
    b.delete(&default, &deleted).await.expect("delete");
    b.delete(&default, &died).await.expect("delete");
    assert_eq!(totals().await, Totals { enqueued: 5, succeeded: 2, dead: 2, cancelled: 1 });
    let many: Vec<_> = (0..40).map(|_| add()).collect();
    b.enqueue(&many).await.expect("enqueue");
    b.purge(&default).await.expect("purge");
    assert_eq!(totals().await, Totals { enqueued: 45, succeeded: 2, dead: 2, cancelled: 1 });
}

pub(crate) async fn a_feed_has_each_end_once_and_oldest_first(b: &dyn Broker) {
    let (worker, default) = (Worker::new(b).await, QueueName::default());
    let own_time = || NewTask { options: TaskOptions { result_ttl: Some(Duration::from_secs(900)), ..TaskOptions::default() }, ..add() };
    let mut since = b.now().await.expect("now");
    let (mut expected, mut told): (Vec<(TaskId, State)>, Vec<_>) = (Vec::new(), Vec::new());
    for round in 0..4 {
        let ids = [enqueue(b, add()).await, enqueue(b, own_time()).await, enqueue(b, add()).await, enqueue(b, add()).await];
        for (end, state) in [(ok("1"), State::Succeeded), (ok("1"), State::Succeeded), (dead("no"), State::Dead)] {
            expected.push((worker.run_one(end).await.member.id, state));
        }
        b.cancel(&default, &ids[3]).await.expect("cancel");
        expected.push((ids[3].clone(), State::Cancelled));
        if round % 2 == 0 {
            let feed = b.feed(&default, since, 99).await.expect("feed");
            assert!(!feed.is_cut && feed.until >= since && feed.ends.iter().all(|end| end.at >= since && end.at < feed.until), "{feed:?}");
            since = feed.until;
            told.extend(feed.ends);
        }
    }
    let rest = async {
        while told.len() < expected.len() {
            let feed = b.feed(&default, since, 99).await.expect("feed");
            since = feed.until;
            told.extend(feed.ends);
        }
    };
    tokio::time::timeout(SOON, rest).await.expect("the feed has all ends");
    assert!(told.is_sorted_by_key(|end| end.at), "{told:?}");
    let mut told: Vec<_> = told.into_iter().map(|end| (end.id, end.state)).collect();
    told.sort();
    expected.sort();
    assert_eq!(told, expected);
}

pub(crate) async fn a_feed_of_many_ends_gives_the_newest_and_says_so(b: &dyn Broker) {
    let (worker, since) = (Worker::new(b).await, b.now().await.expect("now"));
    let mut ids = Vec::new();
    for _ in 0..6 {
        ids.push(enqueue(b, add()).await);
        worker.run_one(ok("1")).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let feed = b.feed(&QueueName::default(), since, 2).await.expect("feed");
    assert!(feed.is_cut);
    assert_eq!(feed.ends.into_iter().map(|end| end.id).collect::<Vec<_>>(), ids[4..]);
    let nothing = b.feed(&QueueName::default(), Millis(feed.until.0 + 600_000), 2).await.expect("feed");
    assert!(nothing.ends.is_empty() && !nothing.is_cut);
}

fn note(n: u16) -> Note {
    let about = [("queue".to_owned(), "mail\u{1b}".to_owned())].into();
    Note { by: "ops".into(), from: "127.0.0.1".into(), what: "POST /v1/queues/{queue}/pause".into(), about, status: n }
}

pub(crate) async fn notes_are_read_newest_first_and_page_by_page(one: &dyn Broker, other: &dyn Broker) {
    assert!(one.notes(None, 9).await.expect("notes").is_empty());
    for n in 0..5 {
        one.note(&note(n)).await.expect("note");
    }
    let page = other.notes(None, 3).await.expect("notes");
    assert_eq!(page.iter().map(|noted| &noted.note).collect::<Vec<_>>(), [&note(4), &note(3), &note(2)]);
    let now = one.now().await.expect("now");
    assert!(page.iter().all(|noted| noted.at <= now && noted.at.0 + 60_000 > now.0), "{page:?}");
    let rest = other.notes(Some(&page[2].id), 9).await.expect("notes");
    assert_eq!(rest.iter().map(|noted| noted.note.status).collect::<Vec<_>>(), [1, 0]);
    assert!(matches!(one.notes(Some("nowhere"), 3).await, Err(BrokerError::Invalid(_))));
}

pub(crate) async fn a_worker_hears_that_it_was_asked_to_drain(one: &dyn Broker, other: &dyn Broker) {
    let (asked, spared) = (announced::worker("box:1:a", Vec::new()), announced::worker("box:2:b", Vec::new()));
    for worker in [&asked, &spared] {
        assert!(!one.announce(worker, SOON).await.expect("announce"));
    }
    assert!(other.ask_to_drain(&asked.id).await.expect("ask"));
    assert!(!other.ask_to_drain("box:3:c").await.expect("ask"), "nobody has this name");
    assert!(one.announce(&asked, SOON).await.expect("announce"));
    assert!(one.announce(&asked, SOON).await.expect("announce"), "until it is gone");
    assert!(!one.announce(&spared, SOON).await.expect("announce"));
}
