//! A worker hurt by nobody: hostile guests beside a steady stream of `add`, on a real worker process with a Redis of its own.
//!
//! warm every slot → `add` alone (idle) → each hostile guest, then eight at once, beside `add` → its error, `add`'s p99, the RSS.
//!
//! Times are judged against the same run's idle value, with a floor for what a busy machine does to anybody, and only what is
//! too slow each time counts: a guest that starves others does it always, a neighbour on the machine does not.

use std::{
    fmt::Write,
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use taskhost::{
    broker::{Broker, BrokerSettings, redis::RedisBroker},
    task::{NewTask, State, TaskId, TaskView},
};
use tokio::task::JoinSet;

use super::{
    engine::hostile::{FIELDS, Guest, LOG, OWN_RESOURCE, large_component},
    support::{
        named,
        program::{Taskhost, Worker, until},
    },
};

const SLOTS: usize = 16;
/// A stream of `add`: one each so often, whatever became of the one before.
const PACE: Duration = Duration::from_millis(10);
/// `add`s in one measurement, at least.
const ADDS: u32 = 150;
/// What two busy cores may do to the p99 of anything, in milliseconds, for each thread that wants a core and those before it.
const FLOOR: f64 = 40.0;
/// Measurements until one is good enough.
const TRIES: usize = 5;
/// How much more memory the worker may hold on to than before, in bytes.
const KEPT: u64 = 32 << 20;
const LIMIT: Duration = Duration::from_secs(120);

const POLICY: &str = r#"
retries = 0
timeout = "2s"

[plugins.probe]
timeout = "2s"
concurrency = 8
kv = { bytes = "1MiB", keys = 1000 }
enqueue = { tasks = ["echo"], rate = "2000/m" }
"#;

/// Guests that no SDK builds, each a plugin of its own with one body of the same name.
fn written() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let bomb = "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) (unreachable)";
    let deep = "(func $deep (param i64) (result i64) (i64.add (call $deep (i64.add (local.get 0) (i64.const 1))) (local.get 0)))";
    let tables = "(table $t 1 funcref) (func $grow (loop $l (drop (table.grow $t (ref.null func) (i32.const 500))) (br $l)))";
    let objects = "(type $node (struct (field (ref null $node)) (field i64 i64 i64 i64)))
        (func $grow (local $list (ref null $node))
            (loop $l
                (local.set $list (struct.new $node (local.get $list) (i64.const 1) (i64.const 2) (i64.const 3) (i64.const 4)))
                (br $l)))";
    let shouting =
        "(loop $l (call $log (i32.const 2) (i32.const 9000) (i32.const 8000) (i32.const 0) (i32.const 0)) (br $l)) (unreachable)";
    let guest = Guest::default;
    vec![
        ("loop", Guest { name: "loop", run: "(loop $l (br $l)) (unreachable)", ..guest() }.build(), "timed out after 2 s"),
        ("bomb", Guest { name: "bomb", run: bomb, ..guest() }.build(), "memory limit of 64 MiB reached"),
        (
            "deep",
            Guest { name: "deep", more: deep, run: "(drop (call $deep (i64.const 0))) (unreachable)", ..guest() }.build(),
            "stack overflow",
        ),
        ("tables", Guest { name: "tables", more: tables, run: "(call $grow) (unreachable)", ..guest() }.build(), "timed out after 2 s"),
        (
            "fields",
            Guest {
                name: "fields",
                imports: &[FIELDS],
                run: "(loop $l (drop (call $.constructor.fields)) (br $l)) (unreachable)",
                ..guest()
            }
            .build(),
            "more than 10000 resources",
        ),
        (
            "own",
            Guest {
                name: "own",
                imports: &[OWN_RESOURCE],
                run: "(loop $l (drop (call $own (i32.const 1))) (br $l)) (unreachable)",
                ..guest()
            }
            .build(),
            "more than 10000 resources",
        ),
        (
            "heap",
            Guest { name: "heap", more: objects, run: "(call $grow) (unreachable)", ..guest() }.build(),
            "memory limit of 64 MiB reached",
        ),
        ("shout", Guest { name: "shout", imports: &[LOG], run: shouting, memory: 2, ..guest() }.build(), "timed out after 2 s"),
        ("alloc", Guest { name: "alloc", realloc: "(unreachable)", ..guest() }.build(), "trapped: wasm `unreachable`"),
        (
            "error",
            Guest { name: "error", run: "(call $failed (i32.const 10000) (i32.const 4000000))", memory: 200, ..guest() }.build(),
            "failed without a message",
        ),
    ]
}

/// Bodies of `probe` that misbehave, and what becomes of them.
const PROBES: &[(&str, &str, &str)] = &[
    ("spin_forever", "[]", "timed out after 2 s"),
    ("sleep", "[3600]", "timed out after 2 s"),
    ("allocate", "[1000]", "memory limit of 64 MiB reached"),
    ("recurse", "[]", "stack overflow"),
    ("large_result", "[10000000]", "over the limit of 1 MiB"),
    ("flood", r#"["log",1000000000000]"#, "timed out after 2 s"),
    ("flood", r#"["stdout",1000000000000]"#, "timed out after 2 s"),
    ("flood", r#"["progress",1000000000000]"#, "timed out after 2 s"),
    ("flood_kv", "[1000000,2000]", "1048576 are the most"),
    ("spawn_children", "[100000]", "may enqueue"),
    ("exit", "[0]", "left with exit(0) without a result"),
    ("exit", "[3]", "left with exit("),
    ("panic_loudly", "[3]", "panicked at"),
];

/// Milliseconds of every `add`, and how many threads of the whole machine wanted each core meanwhile.
struct Took {
    each: Vec<f64>,
    crowd: f64,
}

impl Took {
    /// What a machine that has become busier since does to `add` alone.
    fn or_slower(self, now: Self) -> Self {
        if now.p99() > self.p99() { now } else { self }
    }

    /// The most that its p99 may be, `add` alone having taken so long.
    fn most(&self, idle: &Took) -> f64 {
        (10.0 * idle.p99()).max(FLOOR * self.crowd.max(1.0))
    }

    fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.each.clone();
        sorted.sort_by(f64::total_cmp);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a rank in a short list")]
        let rank = ((sorted.len() as f64 * share) as usize).min(sorted.len() - 1);
        sorted[rank]
    }

    fn p99(&self) -> f64 {
        self.quantile(0.99)
    }
}

struct Scene {
    host: Taskhost,
    broker: Arc<dyn Broker>,
    worker: Worker,
}

impl Scene {
    async fn open(words: &[&str]) -> Self {
        let host = Taskhost::on_redis();
        host.write("taskhost.toml", POLICY);
        host.drop_in("math");
        let worker = host.worker(&[&["--concurrency", &SLOTS.to_string()], words].concat());
        let url = host.redis_url().expect("it is on Redis");
        let broker = RedisBroker::connect(&url, BrokerSettings::default()).await.expect("our own Redis");
        Self { host, broker: Arc::new(broker), worker }
    }

    /// `add`s at the usual pace until `done` says so and there are enough of them.
    async fn adds(&self, mut done: impl FnMut() -> bool) -> Took {
        let mut under_way = JoinSet::new();
        let mut pace = tokio::time::interval(PACE);
        let begun = Instant::now();
        let (mut sent, mut crowd) = (0, 0.0);
        while !done() || sent < ADDS {
            assert!(begun.elapsed() < LIMIT, "what runs beside `add` does not end");
            pace.tick().await;
            crowd += crowd_now();
            let broker = Arc::clone(&self.broker);
            under_way.spawn(async move {
                let begun = Instant::now();
                let view = end(&*broker, named("add", "[1,1]")).await;
                assert_eq!(view.state, State::Succeeded, "{view:?}");
                begun.elapsed().as_secs_f64() * 1e3
            });
            sent += 1;
        }
        Took { each: under_way.join_all().await, crowd: crowd / f64::from(sent) }
    }

    /// `add` while `count` of this task run; and how these ended.
    async fn beside(&self, name: &str, args: &str, count: usize) -> (Took, Vec<TaskView>) {
        let mut hostile = JoinSet::new();
        for _ in 0..count {
            let (broker, task) = (Arc::clone(&self.broker), named(name, args));
            hostile.spawn(async move { end(&*broker, task).await });
        }
        let ended = tokio::spawn(hostile.join_all());
        let took = self.adds(|| ended.is_finished()).await;
        (took, ended.await.expect("nobody panics"))
    }

    fn resident(&self) -> u64 {
        resident(self.worker.pid())
    }

    /// Every slot has been used at once, so that what it keeps is there.
    async fn warm(&self) {
        for (name, args) in [("sleep", "[0.3]"), ("allocate", "[40]"), ("echo", "[1]")] {
            let (_, ended) = self.beside(name, args, SLOTS).await;
            assert!(ended.iter().all(|view| view.state == State::Succeeded), "{name}: {ended:?}");
        }
    }
}

/// Enqueues it and waits until it has ended.
async fn end(broker: &dyn Broker, task: NewTask) -> TaskView {
    let (queue, id): (_, TaskId) = (task.queue.clone(), task.id.clone());
    broker.enqueue(&[task]).await.expect("enqueue");
    let view = broker.await_end(Some(&queue), &id, LIMIT).await.expect("await").expect("a task that is known");
    assert!(view.state.is_ended(), "it ends: {view:?}");
    view
}

fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the worker lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a resident size");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

/// Threads that want a core now, for each core there is.
fn crowd_now() -> f64 {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let running = load.split(' ').nth(3).and_then(|field| field.split('/').next()?.parse::<f64>().ok()).unwrap_or(1.0);
    let cores = std::thread::available_parallelism().map_or(1.0, |cores| f64::from(u32::try_from(cores.get()).unwrap_or(1)));
    running / cores
}

fn message(view: &TaskView) -> &str {
    view.error.as_ref().map_or("", |error| &error.message)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_is_hurt_by_nobody() {
    let scene = Scene::open(&[]).await;
    scene.host.drop_in("probe");
    for (file, bytes, _) in written() {
        scene.host.place(file, &bytes);
    }
    until("all of them serve", || {
        written().iter().all(|(file, ..)| scene.host.lists(&format!("{file}.wasm"))) && !scene.host.lists("loading")
    });
    assert!(!scene.host.lists("failed"), "{}", scene.host.ok(&["plugin", "list"]));

    scene.warm().await;
    let mut idle = scene.adds(|| true).await;
    let before = scene.resident();
    let mut table = format!("add alone: p50 {:.1} ms, p99 {:.1} ms; RSS {} MiB\n", idle.quantile(0.5), idle.p99(), before >> 20);

    let probes = PROBES.iter().map(|(name, args, expected)| (*name, *args, *expected));
    let guests: Vec<_> = probes.chain(written().iter().map(|(name, _, expected)| (*name, "[]", *expected))).collect();
    for (name, args, expected) in guests {
        let mut tries = 0;
        loop {
            let (took, ended) = scene.beside(name, args, 4).await;
            let _ = writeln!(
                table,
                "  {name}{args}: p50 {:.1}, p99 {:.1} ms, RSS {} MiB",
                took.quantile(0.5),
                took.p99(),
                scene.resident() >> 20
            );
            // What got so little of a busy machine that it came to its deadline instead is tried again too.
            let other = ended.iter().map(message).find(|message| !message.contains(expected));
            let most = took.most(&idle);
            if other.is_none() && took.p99() < most {
                break;
            }
            tries += 1;
            assert!(
                tries < TRIES,
                "{name}{args}: expected `{expected}`, it ended with {other:?}; `add` may take {most:.1} ms beside it at its p99:\n{table}"
            );
            idle = idle.or_slower(scene.adds(|| true).await);
        }
        settled(&scene, before, name, &table);
    }
    eprintln!("{table}");
    eight_at_once(&scene, before).await;
    assert!(scene.worker.stop().success());
}

/// Waits until the worker's memory is what it was.
fn settled(scene: &Scene, before: u64, what: &str, table: &str) {
    let begun = Instant::now();
    while scene.resident() > before + KEPT {
        let now = scene.resident() >> 20;
        assert!(begun.elapsed() < LIMIT, "{what} left {now} MiB behind; before it {} MiB:\n{table}", before >> 20);
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Eight hostile plugins, each always at work, beside `add`.
async fn eight_at_once(scene: &Scene, before: u64) {
    const EIGHT: [&str; 8] = ["loop", "bomb", "deep", "tables", "fields", "own", "heap", "shout"];
    let mut tries = 0;
    let (idle, during, peak) = loop {
        let idle = scene.adds(|| true).await;
        let until = Instant::now() + Duration::from_secs(5);
        let mut hostile = JoinSet::new();
        for name in EIGHT {
            let broker = Arc::clone(&scene.broker);
            hostile.spawn(async move {
                while Instant::now() < until {
                    let view = end(&*broker, named(name, "[]")).await;
                    assert_ne!(view.state, State::Succeeded, "{view:?}");
                }
            });
        }
        let mut peak = 0;
        let ended = tokio::spawn(hostile.join_all());
        let during = scene
            .adds(|| {
                peak = peak.max(scene.resident());
                ended.is_finished()
            })
            .await;
        ended.await.expect("each of them fails and nothing else");
        tries += 1;
        let most = during.most(&idle);
        if during.p99() < most {
            break (idle, during, peak);
        }
        assert!(tries < TRIES, "`add` takes {:.1} ms beside eight hostile plugins at its p99, more than {most:.1}", during.p99());
    };
    settled(scene, before, "eight hostile plugins", "");
    let after = scene.adds(|| true).await;
    eprintln!("eight hostile plugins at once\n          add p50 ms  p99 ms  RSS MiB");
    for (when, took, resident) in [("before", &idle, before), ("during", &during, peak), ("after", &after, scene.resident())] {
        eprintln!("{when:<8}  {:>10.1}  {:>6.1}  {:>7}", took.quantile(0.5), took.p99(), resident >> 20);
    }
}

/// The process that compiles for this worker, if one is there.
fn compiler_of(worker: u32) -> Option<u32> {
    let ours = |pid: u32| {
        let dir = Path::new("/proc").join(pid.to_string());
        let stat = fs::read_to_string(dir.join("stat")).ok()?;
        // After the name in brackets: state, then the parent.
        let parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<u32>().ok()?;
        let words = fs::read(dir.join("cmdline")).ok()?;
        let compiles = words.split(|byte| *byte == 0).any(|word| word == taskhost::engine::COMPILE_SUBCOMMAND.as_bytes());
        (parent == worker && compiles).then_some(pid)
    };
    let all = fs::read_dir("/proc").expect("a list of processes");
    all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).find_map(ours)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compiling_twenty_megabytes_starves_nobody() {
    let scene = Scene::open(&[]).await;
    until("`add` is served", || scene.host.lists("serving"));
    let _begun = scene.adds(|| true).await;
    let idle = scene.adds(|| true).await;

    // Never the same twice: nobody has compiled it before.
    scene.host.place("large", &large_component(20 << 20, fastrand::u64(..)));
    until("it is being compiled", || compiler_of(scene.worker.pid()).is_some());
    let child = compiler_of(scene.worker.pid()).expect("it is at work for many seconds");
    let mut during = scene.adds(|| true).await;
    for _ in 1..TRIES {
        if during.p99() >= during.most(&idle) {
            let again = scene.adds(|| true).await;
            during = if again.p99() < during.p99() { again } else { during };
        }
    }
    assert_eq!(compiler_of(scene.worker.pid()), Some(child), "all of these ran beside the compiler");
    eprintln!(
        "add alone: p50 {:.1}, p99 {:.1} ms; while 20 MiB are compiled: p50 {:.1}, p99 {:.1} ms",
        idle.quantile(0.5),
        idle.p99(),
        during.quantile(0.5),
        during.p99()
    );

    // It is held down: low priority, one thread, bounds that the kernel keeps.
    let read = |file: &str| fs::read_to_string(format!("/proc/{child}/{file}")).expect("it is at work");
    let stat = read("stat");
    let nice = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(16)?.parse::<i32>().ok());
    assert_eq!(nice, Some(15), "{stat}");
    assert!(read("status").contains("Threads:\t1\n"), "{}", read("status"));
    let limits = read("limits");
    let bound = |name: &str| {
        limits.lines().find(|line| line.starts_with(name)).and_then(|line| line.split_whitespace().rev().nth(1)?.parse::<u64>().ok())
    };
    assert_eq!(bound("Max cpu time"), Some(240), "{limits}");
    assert_eq!(bound("Max file size"), Some(1 << 30), "{limits}");
    assert!(bound("Max address space").is_some(), "{limits}");
    assert!(read("environ").is_empty(), "it knows nothing of the host's environment");

    // Whoever takes the file away takes its compiler along; a larger one is not even read.
    fs::remove_file(scene.host.plugin("large")).expect("our own file");
    until("the compiler is gone", || compiler_of(scene.worker.pid()).is_none());
    let idle = idle.or_slower(scene.adds(|| true).await);
    let most = during.most(&idle);
    assert!(during.p99() < most, "`add` takes {:.1} ms beside the compiler at its p99, more than {most:.1}", during.p99());
    let huge = fs::File::create(scene.host.dir().join("huge.wasm")).expect("a file");
    huge.set_len(100_000_000).expect("a sparse file");
    fs::rename(scene.host.dir().join("huge.wasm"), scene.host.plugin("huge")).expect("into its place");
    std::os::unix::fs::symlink("/etc/shadow", scene.host.plugin("shadow")).expect("a link");
    until("it is refused", || scene.host.lists("huge.wasm has 95 MiB, more than the 64 MiB a plugin may have"));
    // Whether this user may read it or not: nothing of it is shown.
    until("the link is refused", || ["not WebAssembly", "cannot read shadow.wasm"].iter().any(|why| scene.host.lists(why)));
    assert!(!scene.host.lists("root:"), "{}", scene.host.ok(&["plugin", "list"]));
    let refused = scene.host.run(&["plugin", "check", "plugins/huge.wasm"]);
    assert!(refused.code != 0 && refused.stderr.contains("more than the 64 MiB a plugin may have"), "{refused:?}");
    assert!(scene.worker.stop().success());
}
