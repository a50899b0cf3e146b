//! Hundreds of replacements, good and bad, under load; a guard that goes back by itself; going back by hand.

use std::{collections::HashMap, fs, io::Write, sync::Arc, thread, time::Duration};

use sha2::Digest as _;
use taskhost_broker::{Broker, BrokerSettings, redis::RedisBroker};
use taskhost_core::task::{Millis, NewTask, QueueName, State, TaskOptions, TaskView};
use tokio_util::sync::CancellationToken;

use super::support::{
    program::{Taskhost, until},
    task_name,
    tiny::{Does, tiny},
};

const SWAPS: u32 = 200;
/// A limit that a leak of each generation would exceed.
const ROOM_KIB: u64 = 64 << 10;

/// One version that was put in place.
struct Put {
    digest: String,
    at: Millis,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_swaps_under_load_fail_no_task_and_leak_nothing() {
    let host = Taskhost::on_redis();
    let url = host.redis_url().expect("a Redis");
    let broker: Arc<dyn Broker> = Arc::new(RedisBroker::connect(&url, BrokerSettings::default()).await.expect("connect"));
    let mut valid: HashMap<u32, Put> = HashMap::new();
    put(&host, &*broker, &mut valid, 0).await;
    let worker = host.worker(&[]);
    until("the first version serves", || host.lists(&valid[&0].digest[..12]));

    let ended = CancellationToken::new();
    let load = |enough: usize| -> Vec<_> { (0..4).map(|_| tokio::spawn(client(broker.clone(), ended.clone(), enough))).collect() };
    let before = all(load(1_000)).await;

    let clients = load(usize::MAX);
    let mut random = fastrand::Rng::with_seed(20_261_123);
    let (mut judged, mut warm) = (0, 0);
    for n in 1..=SWAPS {
        let file = host.plugin("math");
        let bad = match random.u8(0..7) {
            0 => Some(random_bytes(&mut random)),
            1 => Some(tiny("add", n, Does::SpeakOtherwise)),
            2 => Some(tiny("add", n, Does::CrashInDescribe)),
            3 => {
                slowly(&host, &*broker, &mut valid, n).await;
                None
            }
            _ => {
                put(&host, &*broker, &mut valid, n).await;
                None
            }
        };
        if let Some(bytes) = &bad {
            if random.bool() {
                host.place("math", bytes);
            } else {
                fs::write(&file, bytes).unwrap();
            }
        }
        // Some are replaced before the worker looks. The test waits for others, and for the last one.
        if n == SWAPS || random.u8(0..4) == 0 {
            judged += 1;
            let standing = format!("{:x}", sha2::Sha256::digest(fs::read(&file).unwrap()));
            wait_for(&*broker, &standing, bad.is_some()).await;
        } else {
            tokio::time::sleep(Duration::from_millis(random.u64(0..150))).await;
        }
        if n == SWAPS / 4 {
            warm = worker.rss();
        }
    }
    put(&host, &*broker, &mut valid, SWAPS + 1).await;
    wait_for(&*broker, &valid[&(SWAPS + 1)].digest, false).await;
    ended.cancel();
    let mut tasks = all(clients).await;

    tasks.sort_by_key(|task| task.started_at);
    // Versions come in the order of their numbers. A task that started a second after another ran on the same version or a newer one.
    let (mut newest, mut behind) = (0, 0);
    let mut seen = std::collections::BTreeSet::new();
    for task in &tasks {
        assert_eq!((task.state, task.tries), (State::Succeeded, 1), "{task:?}");
        let started = task.started_at.expect("it ran");
        let number = number(task);
        let put = valid.get(&number).unwrap_or_else(|| panic!("no valid version said {number}: {task:?}"));
        assert_eq!(task.digest.as_ref(), Some(&put.digest), "{task:?}");
        assert!(put.at <= started, "{number} ran before it was there: {task:?}");
        while tasks[behind].started_at.expect("it ran").after(Duration::from_secs(1)) < started {
            newest = newest.max(self::number(&tasks[behind]));
            behind += 1;
        }
        assert!(number >= newest, "{number} ran a second after {newest} had begun to serve: {task:?}");
        seen.insert(number);
    }
    until("old code is let go", || worker.mapped_code() <= 2);
    let rss = worker.rss();
    let figures = |tasks: &[TaskView]| {
        let mut latencies: Vec<u128> = tasks.iter().map(|task| task.ended_at.expect("ended").since(task.enqueued_at).as_millis()).collect();
        latencies.sort_unstable();
        let at = |share: usize| latencies[(latencies.len() - 1) * share / 1000];
        format!("{} tasks, p50 {} ms, p99 {} ms, p99.9 {} ms", latencies.len(), at(500), at(990), at(999))
    };
    eprintln!("{SWAPS} swaps, {judged} of them waited for, {} valid ones, {} versions ran tasks", valid.len(), seen.len());
    eprintln!("before: {}; during: {}", figures(&before), figures(&tasks));
    eprintln!("RSS after a quarter of the swaps {warm} KiB, at the end {rss} KiB; mapped pieces of code {}", worker.mapped_code());
    assert!(seen.len() > 10, "only {} versions ran anything", seen.len());
    assert!(rss < warm + ROOM_KIB, "RSS grew from {warm} to {rss} KiB");
    assert!(worker.stop().success());
}

/// Enqueues and waits, a batch at a time, until it is told to stop or so many have ended. Returns the tasks that ended.
async fn client(broker: Arc<dyn Broker>, stop: CancellationToken, enough: usize) -> Vec<TaskView> {
    let mut ended = Vec::new();
    while !stop.is_cancelled() && ended.len() < enough {
        let tasks: Vec<NewTask> = (0..32)
            .map(|_| NewTask {
                options: TaskOptions { max_attempts: Some(1), ..TaskOptions::default() },
                ..NewTask::new(task_name("add"), "[]")
            })
            .collect();
        broker.enqueue(&tasks).await.expect("enqueue");
        for task in tasks {
            let view = broker.await_end(Some(&QueueName::default()), &task.id, Duration::from_secs(60)).await.expect("wait");
            let view = view.unwrap_or_else(|| panic!("{} is lost", task.id));
            assert!(view.state.is_ended(), "{view:?}");
            ended.push(view);
        }
    }
    ended
}

async fn all(clients: Vec<tokio::task::JoinHandle<Vec<TaskView>>>) -> Vec<TaskView> {
    let mut tasks = Vec::new();
    for client in clients {
        tasks.extend(client.await.expect("no client failed"));
    }
    tasks
}

fn number(task: &TaskView) -> u32 {
    task.result.as_ref().and_then(|result| result.get().parse().ok()).unwrap_or_else(|| panic!("no number: {task:?}"))
}

fn random_bytes(random: &mut fastrand::Rng) -> Vec<u8> {
    let length = random.usize(0..20_000);
    let mut bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(length).collect();
    if random.bool() {
        // The head of a component, then random bytes.
        bytes.splice(0..bytes.len().min(8), *b"\0asm\x0d\0\x01\0");
    }
    bytes
}

/// A valid version, renamed into place.
async fn put(host: &Taskhost, broker: &dyn Broker, valid: &mut HashMap<u32, Put>, n: u32) {
    let bytes = note(broker, valid, n).await;
    host.place("math", &bytes);
}

/// A valid version, written over the file piece by piece.
async fn slowly(host: &Taskhost, broker: &dyn Broker, valid: &mut HashMap<u32, Put>, n: u32) {
    let bytes = note(broker, valid, n).await;
    let mut file = fs::File::create(host.plugin("math")).unwrap();
    for piece in bytes.chunks(bytes.len() / 4 + 1) {
        file.write_all(piece).unwrap();
        // A slow writer; nothing waits for this.
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
}

async fn note(broker: &dyn Broker, valid: &mut HashMap<u32, Put>, n: u32) -> Vec<u8> {
    let bytes = tiny("add", n, Does::Answer);
    let digest = format!("{:x}", sha2::Sha256::digest(&bytes));
    valid.insert(n, Put { digest, at: broker.now().await.expect("now") });
    bytes
}

/// Waits until the worker has judged the bytes in the file.
async fn wait_for(broker: &dyn Broker, digest: &str, is_bad: bool) {
    let begun = tokio::time::Instant::now();
    loop {
        let workers = broker.workers().await.expect("workers");
        let infos = || workers.iter().flat_map(|worker| &worker.plugins);
        let judged = infos().any(|info| {
            if is_bad {
                info.error.is_some()
            } else {
                info.serving.as_ref().is_some_and(|code| code.digest == digest) && info.error.is_none()
            }
        });
        if judged {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "{digest} is not judged: {:#?}", infos().collect::<Vec<_>>());
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

#[test]
fn a_guard_rolls_back_by_itself_and_everybody_can_see_it() {
    let host = Taskhost::new();
    host.write("taskhost.toml", "[plugins.math]\nguard = { window = \"1m\", max_failure_rate = 0.5, min_attempts = 10 }\n");
    host.place("math", &tiny("add", 1, Does::Answer));
    let worker = host.worker(&[]);
    let add =
        |times: usize| host.run_with(&["enqueue", "--bulk", "-", "--retries", "0"], &"{\"task\":\"add\",\"args\":[]}\n".repeat(times));
    assert_eq!(host.ok(&["enqueue", "add", "--wait"]), "1\n");
    assert_eq!(add(20).code, 0);
    until("the first version has run them", || host.tasks(&["--state", "succeeded"]).len() == 21);
    host.place("math", &tiny("add", 2, Does::Trap));
    until("the second version serves", || host.json(&["plugin", "list", "--json"])[0]["serving"]["version"] == "2");
    assert_eq!(add(12).code, 0);
    until("it was rolled back", || host.lists("rolled back"));
    let listed = host.ok(&["plugin", "list"]);
    assert!(listed.contains("by its guard to version 1") && listed.contains("attempts failed, of the version before 0 of"), "{listed}");
    assert!(worker.log().contains("rolled back by its guard"), "{}", worker.log());
    assert_eq!(host.ok(&["enqueue", "add", "--wait"]), "1\n");
    let history = host.ok(&["plugin", "history", "math"]);
    assert!(history.contains("serving") && history.contains("rolled back"), "{history}");
    assert!(worker.stop().success());

    let worker = host.worker(&[]);
    assert_eq!(host.ok(&["enqueue", "add", "--wait"]), "1\n", "the bad version stays away after a restart");
    assert!(host.lists("rolled back"));
    host.place("math", &tiny("add", 3, Does::Answer));
    until("the mended version serves", || !host.lists("rolled back") && host.ok(&["enqueue", "add", "--wait"]) == "3\n");
    assert!(worker.stop().success());
}

#[test]
fn an_operator_looks_at_the_history_and_goes_back() {
    let host = Taskhost::new();
    let nothing = host.run(&["plugin", "history", "math"]);
    assert!(nothing.code == 2 && nothing.stderr.contains("no worker has seen a plugin `math`"), "{nothing:?}");
    host.place("math", &tiny("add", 1, Does::Answer));
    let worker = host.worker(&[]);
    let alone = host.run(&["plugin", "rollback", "math"]);
    assert!(alone.code == 2 && alone.stderr.contains("no version of math.wasm to go back to"), "{alone:?}");
    host.place("math", &tiny("add", 2, Does::Answer));
    until("the second version serves", || host.ok(&["enqueue", "add", "--wait"]) == "2\n");
    host.place("math", b"garbage");
    until("garbage is refused", || host.lists("failed"));
    let states = |host: &Taskhost| {
        let history = host.json(&["plugin", "history", "math", "--json"]);
        let state = |generation: &serde_json::Value| {
            format!("{} {}", generation["version"].as_str().unwrap(), generation["state"].as_str().unwrap())
        };
        history.as_array().unwrap().iter().map(state).collect::<Vec<_>>()
    };
    until("the history knows", || states(&host) == [" refused", "2 current", "1 good"]);
    let history = host.ok(&["plugin", "history", "math"]);
    assert!(history.contains("not WebAssembly"), "{history}");
    host.place("math", &tiny("add", 3, Does::Answer));
    until("the third version serves", || states(&host).first().is_some_and(|first| first == "3 current"));

    let slip = host.run(&["plugin", "rollback", "mth"]);
    assert!(slip.code == 2 && slip.stderr.contains("did you mean `math`?"), "{slip:?}");
    let back = host.ok(&["plugin", "rollback", "math"]);
    assert!(back.contains("version 2 (") && back.contains("serves again"), "{back}");
    assert_eq!(host.ok(&["enqueue", "add", "--wait"]), "2\n");
    assert!(host.lists("rolled back by hand to version 2"));
    assert!(worker.stop().success());

    let later = host.ok(&["plugin", "rollback", "math"]);
    assert!(later.contains("version 1 (") && later.contains("from the next start"), "{later}");
    let worker = host.worker(&["--plugin-dir-writable", "allow"]);
    assert_eq!(host.ok(&["enqueue", "add", "--wait"]), "1\n");
    assert!(worker.stop().success());
}

#[test]
fn a_directory_that_others_may_write_to_is_refused_where_that_is_wanted() {
    use std::os::unix::fs::PermissionsExt as _;
    let host = Taskhost::new();
    host.drop_in("math");
    let dir = host.dir().join("plugins");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    let refused = host.run(&["worker", "--plugin-dir-writable", "refuse"]);
    assert!(refused.code == 2 && refused.stderr.contains("chmod go-w"), "{refused:?}");
    let slip = host.run(&["worker", "--plugin-dir-writable", "never"]);
    assert!(slip.code == 2 && slip.stderr.contains("`warn`, `refuse` or `allow`"), "{slip:?}");
    let worker = host.worker(&[]);
    worker.until("it warns", |worker| worker.log().contains("chmod go-w"));
    assert_eq!(host.ok(&["enqueue", "add", "1", "1", "--wait"]), "2\n");
    assert!(worker.stop().success());
}

/// So many that any work for each of them in a pass would show.
#[test]
fn a_thousand_plugins_are_served_from_a_cold_and_from_a_warm_cache() {
    const PLUGINS: u32 = 1_000;
    let host = Taskhost::with_own_cache();
    let empty = host.worker(&[]);
    let base = empty.rss();
    assert!(empty.stop().success());
    for n in 0..PLUGINS {
        fs::write(host.plugin(&format!("p{n}")), tiny(&format!("body{n}"), n, Does::Answer)).unwrap();
    }
    let mut told = Vec::new();
    for cache in ["cold", "warm"] {
        let begun = std::time::Instant::now();
        let worker = host.starting_worker(&[]);
        worker.until("the worker has started", |worker| worker.log().contains("worker started"));
        let started = begun.elapsed();
        // A process of low priority compiles each of them. On a busy machine this takes long.
        while worker.log().matches(" serves ").count() < PLUGINS as usize {
            assert!(begun.elapsed() < Duration::from_secs(900), "not all serve after {:?}", begun.elapsed());
            thread::sleep(Duration::from_millis(50));
        }
        let (served, cpu) = (begun.elapsed(), worker.ticks());
        assert_eq!(host.ok(&["enqueue", "body777", "--wait"]), "777\n");
        let rss = worker.rss();
        let busy = {
            // The cost of an idle worker with these plugins is measured over a fixed time.
            let before = worker.ticks();
            thread::sleep(Duration::from_secs(4));
            (worker.ticks() - before) * 10 / 4
        };
        told.push(format!(
            "{cache}: claims after {started:.1?}, all {PLUGINS} serve after {served:.1?} with {} ms of CPU; {} KiB a plugin; {busy} ms of CPU a second when idle",
            cpu * 10,
            rss.saturating_sub(base) / u64::from(PLUGINS),
        ));
        assert!(worker.stop().success());
    }
    eprintln!("{}", told.join("\n"));
}
