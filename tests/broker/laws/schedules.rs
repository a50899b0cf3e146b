//! Laws of schedules: kept by name, fired once by the first worker that asks, and never too early.

use std::time::Duration;

use futures_util::future::join_all;
use taskhost_broker::{
    Broker, CatchUp, Fired, Overlap, Schedule,
    ScheduleEvent::{self, Begun, Paused, Skipped},
    Source,
};
use taskhost_core::task::{Millis, NewTask, QueueName, TaskId, TaskOptions};

use crate::support::{SOON, Worker, add, ok, task_id, task_name, wait_until};

pub(super) fn schedule(name: &str) -> Schedule {
    Schedule {
        name: name.into(),
        rule: "57 9 * * ?".into(),
        timezone: "Asia/Shanghai".into(),
        task: task_name("add"),
        args: "[1,1]".into(),
        queue: QueueName::default(),
        catch_up: CatchUp::Once,
        overlap: Overlap::Allow,
        source: Source::Cli,
        defined_at: Millis(0),
        says_paused: None,
        created_at: Millis(1_700_000_000_000),
        paused: false,
        last: Millis(0),
        last_task: None,
        options: TaskOptions { timeout: Some(Duration::from_millis(1000)), ..TaskOptions::default() },
    }
}

/// Puts the schedule and returns it as the broker stores it.
async fn put(b: &dyn Broker, schedule: Schedule) -> Schedule {
    b.put_schedule(&schedule).await.expect("put");
    stored(b, &schedule.name).await
}

async fn stored(b: &dyn Broker, name: &str) -> Schedule {
    b.schedules().await.expect("schedules").into_iter().find(|one| one.name == name).expect("stored")
}

fn firing(name: &str, due: Millis) -> NewTask {
    NewTask { id: task_id(&format!("cron:{name}:{}", due.0)), ..add() }
}

/// The next due time, as soon as it has come by the broker's clock.
async fn next_due(b: &dyn Broker, schedule: &Schedule) -> Millis {
    let due = Millis(schedule.last.0 + 1);
    wait_until(SOON, "it is due", || async { b.now().await.expect("now") >= due }).await;
    due
}

pub(crate) async fn a_schedule_is_kept_by_name(one: &dyn Broker, other: &dyn Broker) {
    let before = one.now().await.expect("now");
    let first = put(one, schedule("bu")).await;
    assert!(first.last >= before && first.last <= one.now().await.expect("now"), "it counts from when it is put");
    assert_eq!(first, Schedule { last: first.last, ..schedule("bu") });
    put(one, schedule("staff")).await;
    let mut names: Vec<_> = other.schedules().await.expect("schedules").into_iter().map(|one| one.name).collect();
    names.sort();
    assert_eq!(names, ["bu", "staff"]);
    assert!(other.remove_schedule("bu").await.expect("remove"));
    assert!(!other.remove_schedule("bu").await.expect("remove"));
    assert_eq!(one.schedules().await.expect("schedules").len(), 1);
}

pub(crate) async fn putting_the_same_rule_again_keeps_its_past(b: &dyn Broker) {
    let first = put(b, schedule("bu")).await;
    let due = next_due(b, &first).await;
    let Fired::Enqueued(id) = b.fire(&first, due, &firing("bu", due)).await.expect("fire") else { panic!("it is due") };
    assert!(b.pause_schedule("bu", true).await.expect("pause"));
    let again = put(b, Schedule { args: "[2,2]".into(), created_at: Millis(9), source: Source::Toml, ..schedule("bu") }).await;
    assert_eq!((again.last, again.last_task.as_ref(), again.paused, again.created_at), (due, Some(&id), true, first.created_at));
    assert_eq!((&*again.args, again.source), ("[2,2]", Source::Toml));
    let other = put(b, Schedule { rule: "0 0 * * *".into(), created_at: Millis(9), ..schedule("bu") }).await;
    assert!(other.last >= due && other.last <= b.now().await.expect("now"), "due times of another rule are counted from now");
    assert_eq!((other.last_task, other.created_at), (Some(id), Millis(9)), "but its last task may still run");
}

pub(crate) async fn an_operator_s_pause_outlives_another_rule_zone_and_queue(one: &dyn Broker, other: &dyn Broker) {
    put(one, schedule("bu")).await;
    assert!(other.pause_schedule("bu", true).await.expect("pause"));
    let mail = QueueName::new("mail").expect("valid");
    for changed in [
        Schedule { rule: "0 0 * * *".into(), ..schedule("bu") },
        Schedule { timezone: "UTC".into(), ..schedule("bu") },
        Schedule { queue: mail.clone(), rule: "1 1 * * *".into(), ..schedule("bu") },
        Schedule { queue: mail, source: Source::Toml, ..schedule("bu") },
        schedule("bu"),
    ] {
        let stored = put(one, changed.clone()).await;
        assert!(stored.paused, "{changed:?}");
        assert_eq!(stored.queue, changed.queue);
    }
    let before = one.now().await.expect("now");
    assert!(other.pause_schedule("bu", false).await.expect("resume"));
    assert!(stored(one, "bu").await.last >= before);
}

pub(crate) async fn a_definition_that_names_paused_is_as_it_says(b: &dyn Broker) {
    let says = |says_paused| Schedule { says_paused, ..schedule("bu") };
    assert!(put(b, says(Some(true))).await.paused, "of a new one");
    assert!(!put(b, says(Some(false))).await.paused);
    let before = b.now().await.expect("now");
    assert!(put(b, says(Some(true))).await.paused, "of a known one");
    let resumed = put(b, says(Some(false))).await;
    assert!(!resumed.paused && resumed.last >= before, "what passed while it was paused is not made up for");
    assert!(b.pause_schedule("bu", true).await.expect("pause"));
    assert!(put(b, says(None)).await.paused, "nothing is said, and nothing was asked for before");
    put(b, says(Some(true))).await;
    assert!(!put(b, says(None)).await.paused, "a pause that only the definition asked for ends with its word");
    put(b, says(Some(true))).await;
    assert!(b.pause_schedule("bu", true).await.expect("pause"));
    assert!(put(b, says(None)).await.paused, "an operator has asked for it since");

    put(b, says(Some(true))).await;
    assert!(b.pause_schedule("bu", true).await.expect("pause"));
    let moved = put(b, Schedule { queue: QueueName::new("mail").expect("valid"), ..says(None) }).await;
    assert!(moved.paused, "an operator's pause also outlives a move");

    let past = Millis(b.now().await.expect("now").0 - 60_000);
    let back = put(b, Schedule { name: "back".into(), last: past, paused: true, ..says(Some(false)) }).await;
    assert_eq!((back.paused, back.last), (false, past), "a new one was not paused here, so no due time is passed over");
}

pub(crate) async fn a_schedule_that_moves_to_another_queue_goes_on_there_and_there_only(b: &dyn Broker) {
    let first = put(b, schedule("bu")).await;
    let mail = QueueName::new("mail").expect("valid");
    let moved = put(b, Schedule { queue: mail.clone(), created_at: Millis(9), ..schedule("bu") }).await;
    assert_eq!((&moved.queue, moved.last, moved.created_at), (&mail, first.last, first.created_at), "no due time is lost between");
    let due = next_due(b, &first).await;
    let task = NewTask { queue: mail.clone(), ..firing("bu", due) };
    assert_eq!(b.fire(&first, due, &firing("bu", due)).await.expect("fire"), Fired::NotNow);
    assert_eq!(b.fire(&moved, due, &task).await.expect("fire"), Fired::Enqueued(task.id));
    assert_eq!(b.schedules().await.expect("schedules").len(), 1);
    assert!(b.remove_schedule("bu").await.expect("remove"));
}

pub(crate) async fn another_rule_does_not_let_a_firing_overlap(b: &dyn Broker) {
    let bu = put(b, Schedule { overlap: Overlap::Skip, ..schedule("bu") }).await;
    let due = next_due(b, &bu).await;
    let Fired::Enqueued(first) = b.fire(&bu, due, &firing("bu", due)).await.expect("fire") else { panic!("nothing is under way") };
    let changed = put(b, Schedule { rule: "0 0 * * *".into(), ..bu }).await;
    let due = next_due(b, &changed).await;
    assert_eq!(b.fire(&changed, due, &firing("bu", due)).await.expect("fire"), Fired::Skipped(first), "it waits still");
}

pub(crate) async fn a_schedule_that_comes_back_goes_on_from_where_it_was(b: &dyn Broker) {
    let past = Millis(b.now().await.expect("now").0 - 60_000);
    let back = put(b, Schedule { last: past, paused: true, ..schedule("bu") }).await;
    assert_eq!((back.last, back.created_at, back.paused), (past, schedule("bu").created_at, true));
    let future = b.now().await.expect("now").after(Duration::from_secs(3600));
    let other = put(b, Schedule { last: future, ..schedule("staff") }).await;
    assert!(other.last <= b.now().await.expect("now"), "no due time is passed over");
}

pub(crate) async fn a_due_time_is_fired_once_by_racing_hosts(one: &dyn Broker, other: &dyn Broker) {
    let bu = put(one, schedule("bu")).await;
    let due = next_due(one, &bu).await;
    let task = firing("bu", due);
    let fired = join_all([one, other, one, other].map(|b| b.fire(&bu, due, &task))).await;
    let fired: Vec<_> = fired.into_iter().map(|fired| fired.expect("fire")).collect();
    assert_eq!(fired.iter().filter(|fired| **fired == Fired::Enqueued(task.id.clone())).count(), 1, "{fired:?}");
    assert_eq!(fired.iter().filter(|fired| **fired == Fired::NotNow).count(), 3, "{fired:?}");
    let after = stored(other, "bu").await;
    assert_eq!((after.last, after.last_task), (due, Some(task.id.clone())));
    assert_eq!(Worker::new(one).await.claim(9).await.into_iter().map(|leased| leased.task.id).collect::<Vec<_>>(), [task.id]);
}

pub(crate) async fn nothing_fires_too_early(b: &dyn Broker) {
    let bu = put(b, schedule("bu")).await;
    let due = b.now().await.expect("now").after(Duration::from_secs(60));
    let fired = b.fire(&bu, due, &firing("bu", due)).await.expect("fire");
    assert!(matches!(fired, Fired::TooEarly(wait) if wait > Duration::from_secs(50) && wait <= Duration::from_secs(60)), "{fired:?}");
    assert_eq!(stored(b, "bu").await.last, bu.last);
    assert!(Worker::new(b).await.claim(9).await.is_empty());
}

pub(crate) async fn nothing_fires_that_is_not_after_the_last(b: &dyn Broker) {
    let bu = put(b, schedule("bu")).await;
    for due in [bu.last, Millis(bu.last.0 - 1000)] {
        assert_eq!(b.fire(&bu, due, &firing("bu", due)).await.expect("fire"), Fired::NotNow);
    }
    assert!(Worker::new(b).await.claim(9).await.is_empty());
}

pub(crate) async fn a_schedule_that_is_gone_changed_or_paused_does_not_fire(b: &dyn Broker) {
    let bu = put(b, schedule("bu")).await;
    let due = next_due(b, &bu).await;
    let task = firing("bu", due);
    let changed = Schedule { rule: "* * * * *".into(), ..bu.clone() };
    assert_eq!(b.fire(&changed, due, &task).await.expect("fire"), Fired::NotNow);
    assert!(b.pause_schedule("bu", true).await.expect("pause"));
    assert!(stored(b, "bu").await.paused);
    assert_eq!(b.fire(&bu, due, &task).await.expect("fire"), Fired::NotNow);
    let before = b.now().await.expect("now");
    assert!(b.pause_schedule("bu", false).await.expect("resume"));
    let resumed = stored(b, "bu").await;
    assert!(!resumed.paused && resumed.last >= before, "what passed while it was paused is not made up for");
    assert!(b.remove_schedule("bu").await.expect("remove"));
    assert_eq!(b.fire(&resumed, Millis(resumed.last.0 + 1), &task).await.expect("fire"), Fired::NotNow);
    assert!(!b.pause_schedule("bu", true).await.expect("pause"));
    assert!(Worker::new(b).await.claim(9).await.is_empty());
}

pub(crate) async fn a_firing_is_skipped_while_the_last_one_s_task_has_not_ended(b: &dyn Broker) {
    let worker = Worker::new(b).await;
    let bu = put(b, Schedule { overlap: Overlap::Skip, ..schedule("bu") }).await;
    let fire = async || {
        let now = stored(b, "bu").await;
        let due = next_due(b, &now).await;
        (due, b.fire(&now, due, &firing("bu", due)).await.expect("fire"))
    };
    let (_, first) = fire().await;
    let Fired::Enqueued(first) = first else { panic!("nothing is under way: {first:?}") };
    let (due, second) = fire().await;
    assert_eq!(second, Fired::Skipped(first.clone()), "it waits");
    assert_eq!(stored(b, "bu").await.last, due, "the due time has passed all the same");
    let leased = worker.claim_one().await;
    assert_eq!(fire().await.1, Fired::Skipped(first), "it runs");
    worker.finish(&leased.member, ok("2")).await;
    let (due, fourth) = fire().await;
    assert_eq!(fourth, Fired::Enqueued(TaskId::new(format!("cron:bu:{}", due.0)).expect("valid")));
    assert_eq!(worker.claim(9).await.len(), 1);
    assert!(bu.last < due);
}

pub(crate) async fn a_schedule_remembers_its_firings_skips_and_pauses(b: &dyn Broker) {
    let record = async || b.schedule_record("bu").await.expect("a record");
    let events = async || record().await.into_iter().map(|entry| entry.event).collect::<Vec<ScheduleEvent>>();
    assert_eq!(record().await, []);
    let before = b.now().await.expect("now");
    let bu = put(b, Schedule { overlap: Overlap::Skip, ..schedule("bu") }).await;
    assert!(record().await[0].at >= before);
    let first = next_due(b, &bu).await;
    assert!(matches!(b.fire(&bu, first, &firing("bu", first)).await.expect("fire"), Fired::Enqueued(_)));
    let second = next_due(b, &stored(b, "bu").await).await;
    assert!(matches!(b.fire(&bu, second, &firing("bu", second)).await.expect("fire"), Fired::Skipped(_)));
    assert_eq!(b.fire(&bu, second, &firing("bu", second)).await.expect("fire"), Fired::NotNow, "it adds no entry");
    for paused in [true, true, false, false] {
        assert!(b.pause_schedule("bu", paused).await.expect("pause"));
    }
    put(b, Schedule { says_paused: Some(true), ..bu.clone() }).await;
    put(b, Schedule { args: "[2,2]".into(), says_paused: Some(true), ..bu.clone() }).await;
    let expected = [Begun, ScheduleEvent::Fired, Skipped, Paused, Begun, Paused];
    assert_eq!(events().await, expected);
    assert_eq!((record().await[1].at, record().await[2].at), (first, second));
    put(b, Schedule { says_paused: Some(true), queue: QueueName::new("mail").expect("valid"), ..bu }).await;
    assert!(events().await.starts_with(&expected), "it moves with its schedule");
    for n in 0..45 {
        assert!(b.pause_schedule("bu", n % 2 == 1).await.expect("pause"));
    }
    let all = record().await;
    assert!(all.len() == 40 && all.is_sorted_by_key(|entry| entry.at), "{all:?}");
    assert!(b.remove_schedule("bu").await.expect("remove"));
    assert_eq!(record().await, []);
}
