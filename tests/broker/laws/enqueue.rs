//! Laws of enqueueing: ids, unique keys, limits, time.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use taskhost_broker::{Broker, BrokerError, BrokerSettings, Enqueued};
use taskhost_core::task::{Millis, NewTask, QueueName, Start, State, TaskOptions, Unique};

use crate::support::{SOON, Worker, add, dead, enqueue, named, ok, queue, retry_after, state, still_waits, task_id, view, wait_until};

fn duplicate(holder: &str) -> [Enqueued; 1] {
    [Enqueued::Duplicate { holder: task_id(holder) }]
}

fn with_id(id: &str) -> NewTask {
    NewTask { id: task_id(id), ..add() }
}

fn keyed(id: &str, ttl: Duration) -> NewTask {
    NewTask { unique: Some(Unique { key: "add [1,1]".into(), ttl }), ..with_id(id) }
}

const LONG: Duration = Duration::from_secs(600);

pub(crate) async fn a_known_id_is_a_duplicate_and_changes_nothing(b: &dyn Broker) {
    enqueue(b, with_id("mine")).await;
    let other = NewTask { id: task_id("mine"), ..named("other", "[]") };
    assert_eq!(b.enqueue(std::slice::from_ref(&other)).await.expect("enqueue"), duplicate("mine"));
    assert_eq!(view(b, &other.id).await.task.as_str(), "add");

    let worker = Worker::new(b).await;
    let leased = worker.claim_one().await;
    assert_eq!(b.enqueue(std::slice::from_ref(&other)).await.expect("enqueue"), duplicate("mine"), "while it runs");
    worker.finish(&leased.member, ok("2")).await;
    assert_eq!(b.enqueue(std::slice::from_ref(&other)).await.expect("enqueue"), duplicate("mine"), "while its result is kept");
    assert!(worker.claim(9).await.is_empty());
}

pub(crate) async fn ids_are_unique_in_their_queue_only(b: &dyn Broker) {
    enqueue(b, with_id("mine")).await;
    enqueue(b, NewTask { queue: queue("mail"), ..with_id("mine") }).await;
    let found = b.find(Some(&queue("mail")), &task_id("mine")).await.expect("find").expect("known");
    assert_eq!(found.queue, queue("mail"));
}

pub(crate) async fn an_id_that_stands_in_two_queues_is_acted_on_only_where_one_is_named(b: &dyn Broker) {
    enqueue(b, with_id("mine")).await;
    assert!(b.find(None, &task_id("mine")).await.expect("find").is_some(), "one queue has it");
    enqueue(b, NewTask { queue: queue("mail"), ..with_id("mine") }).await;
    let refusals = [
        b.find(None, &task_id("mine")).await.map(drop),
        b.log(None, &task_id("mine")).await.map(drop),
        b.await_end(None, &task_id("mine"), SOON).await.map(drop),
    ];
    for refused in refusals {
        let Err(refused @ BrokerError::Ambiguous { .. }) = refused else { panic!("{refused:?}") };
        assert_eq!(refused.to_string(), "`mine` is in the queues `default`, `mail`: choose one");
    }
    assert!(b.find(Some(&queue("mail")), &task_id("mine")).await.expect("find").is_some());
}

pub(crate) async fn eight_concurrent_enqueues_of_one_id_add_it_once(one: &dyn Broker, other: &dyn Broker) {
    let task = [with_id("mine")];
    let replies = join_all((0..8).map(|n| if n % 2 == 0 { one.enqueue(&task) } else { other.enqueue(&task) })).await;
    let added = replies.into_iter().filter(|reply| matches!(reply.as_deref().expect("enqueue"), [Enqueued::Added])).count();
    assert_eq!(added, 1);
    assert_eq!(Worker::new(other).await.claim(9).await.len(), 1);
}

pub(crate) async fn many_are_enqueued_in_one_call_and_answered_in_its_order(b: &dyn Broker) {
    enqueue(b, with_id("t7")).await;
    let tasks: Vec<_> = (0..300)
        .map(|n| NewTask { queue: if n % 2 == 0 { QueueName::default() } else { queue("odd") }, ..with_id(&format!("t{n}")) })
        .chain([with_id("t7"), with_id("t8")])
        .collect();
    let reply = b.enqueue(&tasks).await.expect("enqueue");
    assert_eq!(reply.len(), 302);
    assert!(reply[..300].iter().all(|one| *one == Enqueued::Added), "t7 of queue `odd` is another task");
    assert_eq!(reply[300..], [duplicate("t7"), duplicate("t8")].concat());
    let worker = Worker::new(b).await;
    let mut got = Vec::new();
    loop {
        let some = worker.claim(64).await;
        if some.is_empty() {
            break;
        }
        got.extend(some.into_iter().map(|leased| leased.task.id.to_string()));
    }
    let expected: Vec<_> = std::iter::once(7).chain((0..300).step_by(2)).map(|n| format!("t{n}")).collect();
    assert_eq!(got, expected, "in the order given");
}

pub(crate) async fn a_unique_key_holds_until_the_end_and_names_its_holder(b: &dyn Broker) {
    let worker = Worker::new(b).await;
    enqueue(b, keyed("first", LONG)).await;
    let second = [keyed("second", LONG)];
    assert_eq!(b.enqueue(&second).await.expect("enqueue"), duplicate("first"), "while it waits");
    let leased = worker.claim_one().await;
    assert_eq!(b.enqueue(&second).await.expect("enqueue"), duplicate("first"), "while it runs");
    worker.finish(&leased.member, ok("2")).await;
    assert_eq!(b.enqueue(&second).await.expect("enqueue"), [Enqueued::Added], "after success");
    worker.run_one(dead("no")).await;
    enqueue(b, keyed("third", LONG)).await;
    b.cancel(&QueueName::default(), &task_id("third")).await.expect("cancel");
    enqueue(b, keyed("fourth", LONG)).await;
    b.delete(&QueueName::default(), &task_id("fourth")).await.expect("delete");
    enqueue(b, keyed("fifth", LONG)).await;
}

pub(crate) async fn a_unique_key_is_of_one_queue(b: &dyn Broker) {
    enqueue(b, keyed("first", LONG)).await;
    enqueue(b, NewTask { queue: queue("mail"), ..keyed("second", LONG) }).await;
}

pub(crate) async fn a_unique_key_s_time_counts_from_when_its_task_is_due(b: &dyn Broker) {
    let (delay, ttl) = (Duration::from_millis(1_500), Duration::from_millis(300));
    for name in ["in", "at"] {
        let now = b.now().await.expect("now");
        let start = if name == "in" { Start::In(delay) } else { Start::At(now.after(delay)) };
        let keyed = |id: &str| NewTask { unique: Some(Unique { key: name.into(), ttl }), ..with_id(&format!("{name}-{id}")) };
        let first = keyed("first");
        enqueue(b, NewTask { start, ..first.clone() }).await;
        let due = view(b, &first.id).await.due_at.expect("due");
        wait_until(SOON, "its key is free", || async {
            let is_free = b.enqueue(&[keyed("second")]).await.expect("enqueue") == [Enqueued::Added];
            // The clock is read afterwards, so the key was free at this time at the latest. One millisecond is for clocks that round.
            assert!(
                !is_free || b.now().await.expect("now").after(Duration::from_millis(1)) >= due.after(ttl),
                "free before its task is due"
            );
            is_free
        })
        .await;
    }
}

pub(crate) async fn a_unique_key_is_released_when_its_time_is_over_and_then_only_by_its_new_holder(b: &dyn Broker) {
    enqueue(b, keyed("first", Duration::from_secs(2))).await;
    let second = [keyed("second", LONG)];
    assert_eq!(b.enqueue(&second).await.expect("enqueue"), duplicate("first"));
    wait_until(SOON, "the key's time is over", || async { b.enqueue(&second).await.expect("enqueue") == [Enqueued::Added] }).await;
    // The old holder ends. It does not hold the key any more, so it must not release it.
    let worker = Worker::new(b).await;
    assert_eq!(worker.run_one(ok("2")).await.task.id, task_id("first"));
    assert_eq!(b.enqueue(&[keyed("third", LONG)]).await.expect("enqueue"), duplicate("second"));
}

pub(crate) async fn a_delayed_task_is_not_claimed_before_it_is_due_and_on_time_then(b: &dyn Broker) {
    let worker = Worker::new(b).await;
    let delay = Duration::from_millis(1_500);
    let begun = Instant::now();
    let id = enqueue(b, NewTask { start: Start::In(delay), ..add() }).await;
    let waiting = view(b, &id).await;
    assert_eq!(waiting.state, State::Scheduled);
    assert_eq!(waiting.due_at.expect("due").since(waiting.enqueued_at), delay);
    let claimed = worker.look(1, &[]).await;
    assert!(claimed.tasks.is_empty());
    assert!(claimed.next_due.expect("a next time") <= delay);
    assert_eq!(worker.claim_soon().await.task.id, id);
    // One millisecond is for clocks that round.
    assert!(begun.elapsed() + Duration::from_millis(2) >= delay, "after {:?}", begun.elapsed());
    assert!(begun.elapsed() < delay + Duration::from_secs(2), "after {:?}", begun.elapsed());
}

pub(crate) async fn a_task_for_a_time_that_has_passed_is_ready(b: &dyn Broker) {
    let id = enqueue(b, NewTask { start: Start::At(Millis(1)), ..add() }).await;
    assert_eq!(Worker::new(b).await.claim_one().await.task.id, id);
}

pub(crate) async fn who_waits_for_work_is_woken_by_an_enqueue(one: &dyn Broker, other: &dyn Broker) {
    let worker = Worker::new(one).await;
    for broker in [one, other] {
        assert!(worker.claim(1).await.is_empty());
        let begun = Instant::now();
        let mut next = pin!(worker.claim_soon());
        still_waits(next.as_mut()).await;
        let id = enqueue(broker, add()).await;
        assert_eq!(next.await.task.id, id);
        assert!(begun.elapsed() < Duration::from_secs(3), "after {:?}", begun.elapsed());
    }
}

pub(crate) async fn an_earlier_due_time_wakes_who_waits_for_a_later_one(one: &dyn Broker, other: &dyn Broker) {
    let worker = Worker::new(one).await;
    enqueue(one, NewTask { start: Start::In(LONG), ..add() }).await;
    let mut next = pin!(worker.claim_soon());
    still_waits(next.as_mut()).await;
    let id = enqueue(other, NewTask { start: Start::In(Duration::from_millis(200)), ..add() }).await;
    assert_eq!(next.await.task.id, id);
}

pub(crate) async fn what_was_asked_for_arrives(b: &dyn Broker) {
    let task = NewTask {
        options: TaskOptions {
            timeout: Some(Duration::from_millis(1500)),
            max_attempts: Some(7),
            result_ttl: Some(Duration::from_millis(90_001)),
            priority: "8".parse().expect("valid"),
            headers: vec![("traceparent".into(), "00-ab".into()), ("x".into(), "ü\u{0}\"".into())],
            ..TaskOptions::default()
        },
        ..named("concat", r#"["ä\u0000",9223372036854775807,{"k":[null,1.5]}]"#)
    };
    let id = enqueue(b, task.clone()).await;
    let got = Worker::new(b).await.claim_one().await.task;
    assert_eq!(
        (&got.id, &got.name, &got.args, &got.queue, got.options.priority),
        (&id, &task.name, &task.args, &task.queue, task.options.priority)
    );
    assert_eq!(got.options, task.options);
    assert_eq!((got.tries, got.losses), (0, 0));
    let shown = view(b, &id).await;
    assert_eq!((shown.args.get(), &shown.options), (&*task.args, &task.options));
    assert_eq!(shown.enqueued_at, got.enqueued_at);
}

pub(crate) async fn headers_arrive_in_their_order_those_of_a_trace_too(b: &dyn Broker) {
    const PARENT: (&str, &str) = ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    const BAGGAGE: (&str, &str) = ("baggage", "batch.id=7,user=%C3%BC");
    let given: [&[(&str, &str)]; 9] = [
        &[PARENT],
        &[PARENT, BAGGAGE],
        &[BAGGAGE],
        &[BAGGAGE, PARENT],
        &[PARENT, BAGGAGE, ("tenant", "x")],
        &[("tenant", "x"), PARENT],
        &[PARENT, ("tracestate", "a=b"), BAGGAGE],
        &[("traceparent", "00-4BF92F3577B34DA6A3CE929D0E0E473-00f067aa0ba902b7-01"), ("baggage", "ü")],
        &[PARENT, PARENT],
    ];
    let worker = Worker::new(b).await;
    for headers in given {
        let headers: Vec<_> = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        for max_attempts in [None, Some(3)] {
            let options = TaskOptions { headers: headers.clone(), max_attempts, ..TaskOptions::default() };
            let id = enqueue(b, NewTask { options: options.clone(), ..add() }).await;
            for attempt in ["the first", "the second"] {
                let leased = worker.claim_one().await;
                assert_eq!((&leased.task.id, &leased.task.options), (&id, &options), "{attempt}");
                assert_eq!(view(b, &id).await.options, options);
                let end = if attempt == "the first" { retry_after(Duration::ZERO) } else { ok("2") };
                worker.finish(&leased.member, end).await;
            }
        }
    }
}

pub(crate) fn small_payloads() -> BrokerSettings {
    BrokerSettings { payload_limit: 100, ..BrokerSettings::default() }
}

pub(crate) async fn a_payload_over_the_limit_refuses_the_whole_call(b: &dyn Broker) {
    let large = named("add", &format!("[\"{}\"]", "x".repeat(97)));
    let small = add();
    let error = b.enqueue(&[small.clone(), large]).await.expect_err("over the limit");
    assert!(matches!(&error, BrokerError::Invalid(text) if text.contains("101") && text.contains("100")), "{error:?}");
    assert!(b.find(None, &small.id).await.expect("find").is_none(), "nothing was written");
    let by_headers = NewTask { options: TaskOptions { headers: vec![("h".into(), "x".repeat(100))], ..TaskOptions::default() }, ..add() };
    assert!(matches!(b.enqueue(&[by_headers]).await, Err(BrokerError::Invalid(_))));
    enqueue(b, named("add", &format!("[\"{}\"]", "x".repeat(96)))).await;
}

pub(crate) async fn an_expired_waiting_task_ends_cancelled_and_is_not_run(b: &dyn Broker) {
    let now = b.now().await.expect("now");
    let late = enqueue(b, NewTask { expires: Some(now.after(Duration::from_millis(50))), ..add() }).await;
    let fine = enqueue(b, NewTask { expires: Some(now.after(LONG)), ..add() }).await;
    wait_until(SOON, "it has expired", || async { b.now().await.expect("now") > now.after(Duration::from_millis(50)) }).await;
    let worker = Worker::new(b).await;
    assert_eq!(worker.claim(9).await.into_iter().map(|leased| leased.task.id).collect::<Vec<_>>(), [fine]);
    let ended = b.await_end(Some(&QueueName::default()), &late, SOON).await.expect("await").expect("known");
    assert_eq!((ended.state, ended.error.expect("an error").kind.as_str(), ended.tries), (State::Cancelled, "expired", 0));
}

pub(crate) async fn a_sweep_ends_what_expired_in_a_paused_queue(b: &dyn Broker) {
    b.pause(&QueueName::default()).await.expect("pause");
    let now = b.now().await.expect("now");
    let id = enqueue(b, NewTask { expires: Some(now.after(Duration::from_millis(30))), ..add() }).await;
    wait_until(SOON, "a sweep cancels it", || async {
        b.sweep(&QueueName::default(), &[]).await.expect("sweep");
        state(b, &id).await == State::Cancelled
    })
    .await;
}
