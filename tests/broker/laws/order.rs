//! Laws of claiming: each task once, in order, not while its queue is paused, and parked under its name.

use std::{pin::pin, sync::Arc, time::Duration};

use taskhost_broker::{Broker, BrokerSettings, Enqueued, Finished, Leased, TaskFilter};
use taskhost_core::task::{NewTask, Priority, QueueName, Start, State, TaskName, TaskOptions, Verdict};

use crate::support::{SOON, Worker, add, enqueue, named, ok, queue, retry_after, state, still_waits, task_id, task_name, view, wait_until};

pub(crate) async fn a_claimed_task_is_claimed_once(b: &dyn Broker) {
    let (one, two) = (Worker::new(b).await, Worker::new(b).await);
    let id = enqueue(b, add()).await;
    assert_eq!(one.claim_one().await.task.id, id);
    assert!(one.claim(9).await.is_empty());
    assert!(two.claim(9).await.is_empty());
}

pub(crate) async fn racing_workers_claim_each_task_once(one: &dyn Broker, other: &dyn Broker) {
    let tasks: Vec<_> = (0..200).map(|_| add()).collect();
    one.enqueue(&tasks).await.expect("enqueue");
    let (a, b) = (Worker::new(one).await, Worker::new(other).await);
    let drain = async |worker: &Worker<'_>| {
        let mut got = Vec::new();
        loop {
            let some = worker.claim(7).await;
            if some.is_empty() {
                return got;
            }
            got.extend(some.into_iter().map(|leased| leased.task.id));
        }
    };
    let (mut got, more) = tokio::join!(drain(&a), drain(&b));
    got.extend(more);
    got.sort();
    assert_eq!(got, tasks.into_iter().map(|task| task.id).collect::<Vec<_>>());
}

pub(crate) async fn order_is_priority_then_first_in_first_out(b: &dyn Broker) {
    let mut expected = Vec::new();
    for priority in [5, 0, 9, 5, 9, 0, 5] {
        let priority = Priority::new(priority).expect("valid");
        expected
            .push((9 - priority.get(), enqueue(b, NewTask { options: TaskOptions { priority, ..TaskOptions::default() }, ..add() }).await));
    }
    expected.sort_by_key(|(rank, _)| *rank);
    let worker = Worker::new(b).await;
    let mut got = worker.claim(3).await;
    got.extend(worker.claim(9).await);
    assert_eq!(
        got.into_iter().map(|leased| leased.task.id).collect::<Vec<_>>(),
        expected.into_iter().map(|(_, id)| id).collect::<Vec<_>>()
    );
}

pub(crate) async fn first_in_is_first_out_whatever_the_ids_are(b: &dyn Broker) {
    let worker = Worker::new(b).await;
    let mut asked = Vec::new();
    // Rising, falling, mixed, alone; before and after ids of other batches; of other lengths, and by upper case.
    for batch in [&["m1", "m2", "m3"][..], &["z", "y", "x"], &["a"], &["b2", "b10", "b1"], &["B", "a0", "a1"], &["a-", "a.", "a/", "a:"]] {
        let tasks: Vec<_> = batch.iter().map(|id| NewTask { id: task_id(id), ..add() }).collect();
        assert!(b.enqueue(&tasks).await.expect("enqueue").iter().all(|reply| *reply == Enqueued::Added));
        asked.extend(batch.iter().map(|id| (*id).to_owned()));
    }
    let fresh: Vec<_> = (0..50).map(|_| add()).collect();
    b.enqueue(&fresh).await.expect("enqueue");
    asked.extend(fresh.iter().map(|task| task.id.to_string()));
    let of = |held: Vec<Leased>| held.into_iter().map(|leased| leased.task.id.to_string()).collect::<Vec<_>>();
    let filter = TaskFilter { states: vec![State::Ready], ..TaskFilter::default() };
    let listed = b.list(&filter, None, 100).await.expect("list").tasks;
    assert_eq!(listed.into_iter().map(|view| view.id.to_string()).collect::<Vec<_>>(), asked, "as they are listed");
    // A few at a time. Some go back to their places.
    let first = worker.claim(5).await;
    for leased in first.iter().rev() {
        worker.finish(&leased.member, Verdict::HandBack { delay: Duration::ZERO }).await;
    }
    let mut claimed = Vec::new();
    while claimed.len() < asked.len() {
        claimed.extend(of(worker.claim(7).await));
    }
    assert_eq!(claimed, asked, "as they are claimed");
}

pub(crate) async fn a_queue_s_tasks_are_claimed_in_that_queue_only(b: &dyn Broker) {
    let id = enqueue(b, NewTask { queue: queue("mail"), ..add() }).await;
    assert!(Worker::new(b).await.claim(9).await.is_empty());
    let worker = Worker::on(b, &queue("mail"), crate::support::LEASE).await;
    let leased = worker.claim_one().await;
    assert_eq!((leased.task.id, leased.task.queue), (id, queue("mail")));
}

pub(crate) async fn a_claim_says_whether_there_is_more(b: &dyn Broker) {
    let worker = Worker::new(b).await;
    assert!(!worker.look(1, &[]).await.more);
    for _ in 0..3 {
        enqueue(b, add()).await;
    }
    assert!(worker.look(0, &[]).await.tasks.is_empty(), "a limit of 0 claims nothing");
    let first = worker.look(2, &[]).await;
    assert_eq!((first.tasks.len(), first.more), (2, true));
    let second = worker.look(2, &[]).await;
    assert_eq!((second.tasks.len(), second.more), (1, false));
}

pub(crate) async fn a_retried_task_comes_back_after_its_delay_and_is_counted(b: &dyn Broker) {
    let worker = Worker::new(b).await;
    let id = enqueue(b, add()).await;
    worker.run_one(retry_after(Duration::from_millis(1_500))).await;
    let waiting = view(b, &id).await;
    assert_eq!((waiting.state, waiting.tries, waiting.errors.len()), (State::Scheduled, 1, 1));
    assert!(worker.claim(1).await.is_empty());
    let again = worker.claim_soon().await;
    assert_eq!((&again.task.id, again.task.tries, again.task.losses), (&id, 1, 0));
    assert_eq!(worker.finish(&again.member, retry_after(Duration::ZERO)).await, Finished::Recorded);
    assert_eq!(worker.claim_one().await.task.tries, 2, "without a delay it is ready at once");
}

pub(crate) async fn a_task_handed_back_keeps_its_place_and_a_retried_one_goes_behind_the_others(b: &dyn Broker) {
    let worker = Worker::new(b).await;
    let (first, second) = (enqueue(b, add()).await, enqueue(b, add()).await);
    assert_eq!(worker.run_one(Verdict::HandBack { delay: Duration::ZERO }).await.task.id, first);
    assert_eq!(worker.run_one(retry_after(Duration::ZERO)).await.task.id, first);
    let order: Vec<_> = worker.claim(2).await.into_iter().map(|leased| leased.task.id).collect();
    assert_eq!(order, [second, first]);
}

pub(crate) async fn a_task_handed_back_is_not_counted(b: &dyn Broker) {
    let worker = Worker::new(b).await;
    let id = enqueue(b, add()).await;
    worker.run_one(Verdict::HandBack { delay: Duration::from_millis(100) }).await;
    assert_eq!((view(b, &id).await.state, view(b, &id).await.tries), (State::Scheduled, 0));
    let again = worker.claim_soon().await;
    assert_eq!((&again.task.id, again.task.tries), (&id, 0));
    worker.finish(&again.member, Verdict::HandBack { delay: Duration::ZERO }).await;
    assert_eq!(worker.claim_one().await.task.tries, 0);
    assert!(view(b, &id).await.errors.is_empty());
}

pub(crate) async fn a_paused_queue_claims_nothing_and_resuming_wakes(one: &dyn Broker, other: &dyn Broker) {
    let worker = Worker::new(one).await;
    let running = enqueue(one, add()).await;
    let leased = worker.claim_one().await;
    let before = one.now().await.expect("now");
    other.pause(&QueueName::default()).await.expect("pause");
    let id = enqueue(one, add()).await;
    let claimed = worker.look(9, &[]).await;
    assert!(claimed.tasks.is_empty());
    let since = claimed.paused.expect("it is paused");
    assert!(since >= before && since <= one.now().await.expect("now"), "{since:?}");
    other.pause(&QueueName::default()).await.expect("pause");
    assert_eq!(worker.look(9, &[]).await.paused, Some(since), "a queue that is paused keeps the time of its pause");
    assert!(one.queues().await.expect("queues")[0].paused);
    // A pause stops claims and nothing else.
    worker.finish(&leased.member, ok("2")).await;
    assert_eq!(state(one, &running).await, State::Succeeded);
    let default = QueueName::default();
    let mut next = pin!(worker.claim_soon());
    still_waits(next.as_mut()).await;
    other.resume(&default).await.expect("resume");
    assert_eq!(next.await.task.id, id);
    assert!(!one.queues().await.expect("queues")[0].paused);
}

pub(crate) async fn a_delayed_task_becomes_ready_while_its_queue_is_paused(b: &dyn Broker) {
    let worker = Worker::new(b).await;
    b.pause(&QueueName::default()).await.expect("pause");
    let id = enqueue(b, NewTask { start: Start::In(Duration::from_millis(50)), ..add() }).await;
    wait_until(SOON, "it is ready", || async {
        assert!(worker.claim(1).await.is_empty());
        state(b, &id).await == State::Ready
    })
    .await;
}

pub(crate) async fn a_parked_task_is_claimed_by_who_names_it_and_by_nobody_else(one: &dyn Broker, other: &dyn Broker) {
    let id = enqueue(one, named("unknown", "[]")).await;
    let (a, b) = (Worker::new(one).await, Worker::new(other).await);
    a.run_one(Verdict::Park).await;
    assert_eq!((state(one, &id).await, view(one, &id).await.tries), (State::Parked, 0));
    let claimed = b.look(9, &["add"]).await;
    assert!(claimed.tasks.is_empty());
    assert_eq!(claimed.parked, [task_name("unknown")]);
    let claimed = b.look(9, &["add", "unknown"]).await;
    assert_eq!(claimed.tasks.len(), 1);
    assert_eq!((&claimed.tasks[0].task.id, claimed.tasks[0].task.tries), (&id, 0));
    assert!(b.look(9, &["unknown"]).await.parked.is_empty());
    assert_eq!(b.finish(&claimed.tasks[0].member, ok("null")).await, Finished::Recorded);
}

pub(crate) async fn parked_tasks_are_claimed_in_order_with_the_ready_ones(b: &dyn Broker) {
    let worker = Worker::new(b).await;
    let low = enqueue(
        b,
        NewTask { options: TaskOptions { priority: Priority::new(1).expect("valid"), ..TaskOptions::default() }, ..named("late", "[]") },
    )
    .await;
    let high = enqueue(
        b,
        NewTask { options: TaskOptions { priority: Priority::new(9).expect("valid"), ..TaskOptions::default() }, ..named("late", "[]") },
    )
    .await;
    worker.run_one(Verdict::Park).await;
    worker.run_one(Verdict::Park).await;
    let plain = enqueue(b, add()).await;
    let mut got = worker.look(1, &["late"]).await.tasks;
    assert_eq!(got[0].task.id, high, "a limit takes the best of both");
    got.extend(worker.look(9, &["late"]).await.tasks);
    assert_eq!(got.into_iter().map(|leased| leased.task.id).collect::<Vec<_>>(), [high, plain, low]);
}

pub(crate) async fn a_parked_task_can_be_cancelled(b: &dyn Broker) {
    let worker = Worker::new(b).await;
    let id = enqueue(b, named("late", "[]")).await;
    worker.run_one(Verdict::Park).await;
    assert_eq!(b.cancel(&QueueName::default(), &id).await.expect("cancel"), taskhost_broker::CancelReply::Cancelled);
    assert!(worker.look(9, &["late"]).await.tasks.is_empty());
    assert_eq!(state(b, &id).await, State::Cancelled);
}

pub(crate) fn impatient() -> BrokerSettings {
    BrokerSettings { unknown_task_ttl: Duration::from_millis(150), ..BrokerSettings::default() }
}

pub(crate) async fn a_task_parked_too_long_under_a_name_nobody_offers_is_dead(b: &dyn Broker) {
    let worker = Worker::new(b).await;
    let known = enqueue(b, named("known", "[]")).await;
    let unknown = enqueue(b, named("unknown", "[]")).await;
    worker.run_one(Verdict::Park).await;
    worker.run_one(Verdict::Park).await;
    b.sweep(&QueueName::default(), &[task_name("known")]).await.expect("sweep");
    assert_eq!(state(b, &unknown).await, State::Parked, "its time is not over");
    wait_until(SOON, "a sweep ends it", || async {
        b.sweep(&QueueName::default(), &[task_name("known")]).await.expect("sweep");
        state(b, &unknown).await == State::Dead
    })
    .await;
    let ended = view(b, &unknown).await.error.expect("an error");
    assert_eq!(ended.kind.as_str(), "unknown-task");
    assert!(ended.message.contains("unknown"), "{}", ended.message);
    assert_eq!(state(b, &known).await, State::Parked, "somebody offers it");
}

/// Sweeps as a worker that offers these names, until `unknown_task_ttl` of [`impatient`] is over by the broker's clock.
async fn sweep_for_its_time(b: &dyn Broker, offered: &[TaskName]) {
    let begun = b.now().await.expect("now");
    wait_until(SOON, "the time is over", || async {
        b.sweep(&QueueName::default(), offered).await.expect("sweep");
        b.now().await.expect("now").since(begun) > 2 * impatient().unknown_task_ttl
    })
    .await;
}

/// The time in which it waited for a free slot of its plugin does not count: a worker offered its name.
pub(crate) async fn a_task_that_waited_for_a_slot_outlives_its_plugin_by_the_whole_time(b: &dyn Broker) {
    let worker = Worker::new(b).await;
    let id = enqueue(b, named("known", "[]")).await;
    worker.run_one(Verdict::Park).await;
    sweep_for_its_time(b, &[task_name("known")]).await;
    b.sweep(&QueueName::default(), &[]).await.expect("sweep");
    assert_eq!(state(b, &id).await, State::Parked, "its plugin went a moment ago");
    sweep_for_its_time(b, &[]).await;
    assert_eq!(state(b, &id).await, State::Dead);
}

pub(crate) async fn a_plugin_that_comes_back_gives_those_who_wait_their_time_anew(b: &dyn Broker) {
    let worker = Worker::new(b).await;
    let id = enqueue(b, named("known", "[]")).await;
    worker.run_one(Verdict::Park).await;
    b.sweep(&QueueName::default(), &[]).await.expect("sweep");
    sweep_for_its_time(b, &[task_name("known")]).await;
    b.sweep(&QueueName::default(), &[]).await.expect("sweep");
    assert_eq!(state(b, &id).await, State::Parked);
}

/// As in a deploy: the tasks were parked long ago, and no worker has swept since.
pub(crate) async fn a_backlog_older_than_the_time_outlives_the_first_sweep(b: &dyn Broker) {
    let worker = Worker::new(b).await;
    let id = enqueue(b, named("known", "[]")).await;
    worker.run_one(Verdict::Park).await;
    let begun = b.now().await.expect("now");
    wait_until(SOON, "the time is over", || async { b.now().await.expect("now").since(begun) > 2 * impatient().unknown_task_ttl }).await;
    b.sweep(&QueueName::default(), &[]).await.expect("sweep");
    assert_eq!(state(b, &id).await, State::Parked);
}

/// The name has been missing for a long time when this task is parked.
pub(crate) async fn a_task_that_is_parked_late_has_its_own_time(b: &dyn Broker) {
    let worker = Worker::new(b).await;
    let first = enqueue(b, named("nosuch", "[]")).await;
    worker.run_one(Verdict::Park).await;
    let begun = b.now().await.expect("now");
    wait_until(SOON, "the first is dead", || async {
        b.sweep(&QueueName::default(), &[]).await.expect("sweep");
        state(b, &first).await == State::Dead
    })
    .await;
    assert!(b.now().await.expect("now").since(begun) >= impatient().unknown_task_ttl / 2);
    let (late, parked) = (enqueue(b, named("nosuch", "[]")).await, b.now().await.expect("now"));
    worker.run_one(Verdict::Park).await;
    b.sweep(&QueueName::default(), &[]).await.expect("sweep");
    let was_early = b.now().await.expect("now").since(parked) < impatient().unknown_task_ttl;
    assert!(!was_early || state(b, &late).await == State::Parked);
}

/// 3,000 tasks, four incarnations on two handles, and every kind of verdict. Each task ends once.
pub(crate) async fn a_random_drain_ends_each_task_once(one: &dyn Broker, other: &dyn Broker) {
    const TASKS: usize = 3_000;
    let ids: Vec<_> = (0..TASKS).map(|_| add()).collect();
    for chunk in ids.chunks(500) {
        one.enqueue(chunk).await.expect("enqueue");
    }
    let ends = Arc::new(std::sync::Mutex::new(std::collections::HashMap::<String, u32>::new()));
    let drain = async |broker: &dyn Broker, seed: u64| {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut worker = Worker::new(broker).await;
        while ends.lock().expect("no panic").len() < TASKS {
            let claimed = worker.look(random.usize(1..64), &["add"]).await;
            let verdicts: Vec<_> = claimed
                .tasks
                .iter()
                .map(|leased| {
                    let verdict = match random.u8(0..20) {
                        0 => retry_after(Duration::from_millis(random.u64(0..20))),
                        1 => Verdict::HandBack { delay: Duration::from_millis(random.u64(0..20)) },
                        2 => Verdict::Park,
                        3 => crate::support::dead("no"),
                        _ => ok("2"),
                    };
                    crate::support::finish(&leased.member, verdict)
                })
                .collect();
            let replies = broker.finish(&worker.who, &verdicts).await.expect("finish");
            assert!(replies.iter().all(|reply| *reply == Finished::Recorded));
            for finish in &verdicts {
                if matches!(finish.verdict, Verdict::Succeed { .. } | Verdict::Dead { .. }) {
                    *ends.lock().expect("no panic").entry(finish.member.id.to_string()).or_default() += 1;
                }
            }
            let again = broker.finish(&worker.who, &verdicts).await.expect("finish");
            assert!(again.iter().all(|reply| *reply == Finished::Stale), "a repeated finish changes nothing");
            if random.u8(0..10) == 0 {
                // The worker leaves while it holds tasks, and registers again.
                let _held = worker.claim(5).await;
                broker.leave(&worker.who).await.expect("leave");
                worker = Worker::new(broker).await;
            } else if claimed.tasks.is_empty() {
                broker.wait(&worker.who.queue, claimed.next_due.unwrap_or(SOON).min(Duration::from_millis(50))).await.expect("wait");
            }
        }
    };
    let all = async { tokio::join!(drain(one, 1), drain(other, 2), drain(one, 3), drain(other, 4)) };
    tokio::time::timeout(4 * SOON, all).await.expect("the drain ends");
    assert!(ends.lock().expect("no panic").values().all(|ended| *ended == 1), "each task ends once");
    let counts = &one.queues().await.expect("queues")[0].counts;
    let count = |state| counts.get(&state).copied().unwrap_or(0);
    assert_eq!(count(State::Succeeded) + count(State::Dead), TASKS as u64);
    assert_eq!(count(State::Ready) + count(State::Scheduled) + count(State::Parked) + count(State::Running), 0);
}
