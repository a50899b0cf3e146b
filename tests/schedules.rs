//! The schedule loop on real brokers: hosts that share a broker and fire together, and the schedules in a file.

use taskhost::schedule;
use taskhost_broker::{BrokerSettings, CatchUp, Directory, Lease, Overlap, Schedule, Source, TaskFilter, Tasks, redis::RedisBroker};
use taskhost_core::{
    observe::Observers,
    task::{Millis, QueueName, TaskOptions, TaskView},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::support::{
    Place, RedisServer, SOON, SqlitePlace,
    program::{Output, Taskhost},
    task_name, wait_until,
};

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
        catch_up: CatchUp::Skip,
        overlap: Overlap::Allow,
        source: Source::Toml,
        defined_at: Millis(0),
        says_paused: None,
        created_at: Millis(0),
        paused: false,
        last: Millis(0),
        last_task: None,
        options: TaskOptions::default(),
    };
    let (shutdown, mut hosts) = (CancellationToken::new(), JoinSet::new());
    for _ in 0..2 {
        let broker = place.open(BrokerSettings::default()).await;
        hosts.spawn(schedule::run(broker, vec![tick.clone()], Observers::none(), shutdown.clone()));
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
        // On an idle machine it is some 20 ms. No firing may wait a second for the next refresh.
        assert!(late < 1_900, "{due} was fired {late} ms late");
    }
}

/// The due time in the id `cron:<schedule>:<due ms>`.
fn due(task: &TaskView) -> u64 {
    task.id.as_str().strip_prefix("cron:tick:").and_then(|due| due.parse().ok()).expect("an id that names schedule and due time")
}

#[tokio::test]
async fn a_worker_s_next_word_brings_back_what_an_emptied_redis_lost() {
    let mut server = RedisServer::start();
    let broker = RedisBroker::connect(&server.url(), BrokerSettings::default()).await.expect("our own server");
    let queue = QueueName::default();
    let worker = crate::support::announced::serving("box:1:a", "math.wasm", "add");
    broker.register(&queue, SOON).await.expect("register");
    broker.announce(&worker, SOON).await.expect("announce");
    server.restart(&[]);
    let is_back = || async { broker.announce(&worker, SOON).await.is_ok() };
    wait_until(SOON, "it is reached again", is_back).await;
    assert!(broker.catalogue().await.expect("catalogue").offers.contains_key(&task_name("add")), "misspelt names would pass");
    assert_eq!(broker.queues().await.expect("queues").len(), 1);
    assert_eq!(broker.workers().await.expect("workers"), [worker]);

    server.restart(&[]);
    let is_back = || async { broker.register(&queue, SOON).await.is_ok() };
    wait_until(SOON, "it is reached again", is_back).await;
    let mut client = redis::Client::open(server.url()).and_then(|client| client.get_connection()).expect("our own server");
    let schema: Option<String> = redis::cmd("GET").arg("th:{_}:schema").query(&mut client).expect("a read");
    assert_eq!(schema.as_deref(), Some("2"), "a taskhost of another schema is to be refused");
    assert_eq!(broker.queues().await.expect("queues").len(), 1);
}

fn refused(output: &Output, words: &[&str]) {
    assert_eq!(output.code, 2, "{output:?}");
    for word in words {
        assert!(output.stderr.contains(word), "`{word}` is missing in: {}", output.stderr);
    }
}

/// The schedule of this name as `schedule list --json` shows it.
fn listed(host: &Taskhost, name: &str) -> Option<serde_json::Value> {
    let all = host.json(&["schedule", "list", "--json"]);
    all.as_array().expect("an array").iter().find(|schedule| schedule["name"] == name).cloned()
}

/// A worker that has read the file: the broker has `name`, and the worker has announced its file's schedules.
fn read_by_a_worker(host: &Taskhost, name: &str, so: impl Fn(&serde_json::Value) -> bool) -> crate::support::program::Worker {
    let worker = host.worker(&[]);
    let id = format!(":{}:", worker.pid());
    worker.until("its schedules are taken", |_| {
        let workers = host.json(&["workers", "--json"]);
        let announced =
            workers.as_array().expect("an array").iter().any(|worker| worker["id"].as_str().is_some_and(|text| text.contains(&id)));
        announced && listed(host, name).is_some_and(|schedule| so(&schedule))
    });
    worker
}

#[test]
fn what_a_worker_put_into_redis_is_there_again_after_it_came_back_empty() {
    let mut host = Taskhost::on_redis();
    host.drop_in("math");
    host.write("taskhost.toml", "[schedules.nightly]\nrule = '0 3 1 1 *'\ntask = 'add'\nargs = [1, 1]\n");
    let worker = read_by_a_worker(&host, "nightly", |_| true);
    host.ok(&["schedule", "add", "mine", "0 4 1 1 *", "add", "1", "1"]);
    host.ok(&["schedule", "pause", "nightly"]);
    worker.until("the worker has seen the pause", |worker| worker.log().contains("schedule is paused"));
    host.empty_redis();
    worker.until("all of it is back", |_| {
        let queues = host.json(&["queue", "list", "--json"]);
        listed(&host, "nightly").is_some() && host.lists("add") && queues[0]["queue"] == "default"
    });
    refused(&host.run(&["enqueue", "ad", "1", "1"]), &["unknown task `ad`", "did you mean `add`?"]);
    assert_eq!(host.ok(&["enqueue", "add", "1", "1", "--wait"]).trim(), "2");
    assert!(worker.log().contains("was missing in the broker: put again"), "{}", worker.log());
    assert_eq!(listed(&host, "nightly").expect("it is back")["paused"], true, "the worker knew of the pause");
    assert_eq!(listed(&host, "mine"), None, "nobody but the broker had it");
}

#[test]
fn a_pause_in_the_file_holds_a_known_schedule_and_an_operator_s_outlives_a_deploy() {
    let host = Taskhost::new();
    let file = |rest: &str| host.write("taskhost.toml", &format!("[schedules.nightly]\ntask = 'add'\n{rest}"));
    file("rule = '0 3 * * *'\n");
    read_by_a_worker(&host, "nightly", |_| true).stop();
    file("rule = '0 3 * * *'\npaused = true\n");
    read_by_a_worker(&host, "nightly", |schedule| schedule["paused"] == true).stop();
    file("rule = '0 3 * * *'\n");
    read_by_a_worker(&host, "nightly", |schedule| schedule["paused"] == false).stop();
    host.ok(&["schedule", "pause", "nightly"]);
    file("rule = '0 4 * * *'\nqueue = 'mail'\n");
    let worker = read_by_a_worker(&host, "nightly", |schedule| schedule["rule"] == "0 4 * * *" && schedule["queue"] == "mail");
    let nightly = listed(&host, "nightly").expect("it stands there");
    assert_eq!((&nightly["paused"], &nightly["differs"]), (&true.into(), &serde_json::json!(["paused"])));
    assert!(host.ok(&["schedule", "list"]).contains("taskhost.toml (differs: paused)"));
    worker.stop();
    file("rule = '0 4 * * *'\nqueue = 'mail'\npaused = false\n");
    let _worker = read_by_a_worker(&host, "nightly", |schedule| schedule["paused"] == false);
    let output = host.run(&["schedule", "pause", "nightly"]);
    assert!(output.code == 0 && output.stderr.contains("says `paused = false`: the next worker that starts"), "{output:?}");
}

#[test]
fn what_no_file_names_any_more_is_shown_and_removed_on_demand() {
    let host = Taskhost::new();
    let one = "[schedules.kept]\nrule = '0 3 * * *'\ntask = 'add'\n";
    host.write("taskhost.toml", &format!("{one}[schedules.gone]\nrule = '0 4 * * *'\ntask = 'add'\n"));
    read_by_a_worker(&host, "gone", |_| true).stop();
    refused(&host.run(&["schedule", "remove", "--orphans", "--yes"]), &["no live worker"]);
    host.write("taskhost.toml", one);
    let worker = read_by_a_worker(&host, "gone", |schedule| schedule["orphan"] == true);
    let shown = host.run(&["schedule", "list"]);
    assert!(shown.stdout.contains("taskhost.toml (no longer in it)") && shown.stderr.contains("schedule remove --orphans"), "{shown:?}");
    refused(&host.run(&["schedule", "remove", "kept"]), &["stands in the taskhost.toml of worker", "schedule pause kept"]);
    refused(&host.run(&["schedule", "remove", "--orphans"]), &["Remove `gone`?", "--yes"]);
    assert_eq!(host.ok(&["schedule", "remove", "--orphans", "--yes"]).trim(), "schedule `gone` is removed");
    assert_eq!((listed(&host, "gone"), listed(&host, "kept").is_some()), (None, true));
    host.ok(&["schedule", "add", "kept", "0 5 * * *", "add", "--unchecked"]);
    assert!(host.ok(&["schedule", "list"]).contains("cli (taskhost.toml differs: rule)"));
    worker.stop();
    assert!(host.ok(&["schedule", "remove", "kept"]).contains("is removed"));
}
