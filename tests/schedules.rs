//! The schedule loop on real brokers: hosts that share one and fire together.

use taskhost::{
    broker::{BrokerSettings, CatchUp, Overlap, Schedule, Source, TaskFilter},
    schedule,
    task::{Millis, Priority, QueueName, TaskView},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::support::{Place, SOON, SqlitePlace, task_name, wait_until};

#[tokio::test]
async fn two_hosts_on_one_sqlite_file_fire_every_second_once() {
    two_hosts_fire_every_second_once(&SqlitePlace::make().await).await;
}

async fn two_hosts_fire_every_second_once(place: &impl Place) {
    let tick = Schedule {
        name: "tick".into(),
        rule: "* * * * * *".into(),
        timezone: "UTC".into(),
        task: task_name("add"),
        args: "[1,1]".into(),
        queue: QueueName::default(),
        priority: Priority::default(),
        timeout_ms: None,
        max_attempts: None,
        catch_up: CatchUp::Skip,
        overlap: Overlap::Allow,
        source: Source::Toml,
        created_at: Millis(0),
        paused: false,
        last: Millis(0),
        last_task: None,
    };
    let (shutdown, mut hosts) = (CancellationToken::new(), JoinSet::new());
    for _ in 0..2 {
        hosts.spawn(schedule::run(place.open(BrokerSettings::default()).await, vec![tick.clone()], shutdown.clone()));
    }
    let broker = place.open(BrokerSettings::default()).await;
    let tasks = || async { broker.list(&TaskFilter::default(), None, 1000).await.expect("list").tasks };
    wait_until(SOON, "five seconds have fired", || async { tasks().await.len() >= 5 }).await;
    shutdown.cancel();
    tokio::time::timeout(SOON, hosts.join_all()).await.expect("the loops end when they are told");

    let mut fired: Vec<(u64, TaskView)> = tasks().await.into_iter().map(|task| (due(&task), task)).collect();
    fired.sort_by_key(|(due, _)| *due);
    let first = fired[0].0;
    let seconds: Vec<_> = (0..).map(|second| first + second * 1000).take(fired.len()).collect();
    assert_eq!(fired.iter().map(|(due, _)| *due).collect::<Vec<_>>(), seconds, "each second once, none left out");
    for (due, task) in &fired {
        let late = task.enqueued_at.0.checked_sub(*due).expect("never before it is due");
        // On an idle machine it is some 20 ms; what counts here is that no second waits for the next refresh.
        assert!(late < 1_900, "{due} was fired {late} ms late");
    }
}

/// From the id, `cron:<schedule>:<due ms>`.
fn due(task: &TaskView) -> u64 {
    task.id.as_str().strip_prefix("cron:tick:").and_then(|due| due.parse().ok()).expect("an id that names schedule and due time")
}
