//! The main job end to end, with the real program: workers and commands as processes, on SQLite and on Redis.
//!
//! Each story is a function of a [`Taskhost`]; the macro at the end plays it on every broker.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    time::{Duration, Instant},
};

use super::support::{
    on_every_broker,
    program::{Taskhost, built, until, variant},
};

fn a_dropped_plugin_becomes_a_task(host: &Taskhost) {
    host.drop_in("math");
    let worker = host.worker(&[]);
    let done = host.run(&["enqueue", "add", "1", "1", "--wait"]);
    assert_eq!((done.code, done.stdout.as_str()), (0, "2\n"), "{done:?}");

    let unknown = host.run(&["enqueue", "ad", "1", "1"]);
    assert!(unknown.code == 2 && unknown.stderr.contains("did you mean `add`?"), "{unknown:?}");
    let wrong = host.run(&["enqueue", "add", "1", "x"]);
    assert!(wrong.code == 2 && wrong.stderr.contains("parameter `b`") && wrong.stderr.contains("64-bit integer"), "{wrong:?}");
    let over = host.run(&["enqueue", "add", "9223372036854775807", "1", "--wait"]);
    assert!(over.code == 1 && over.stdout.is_empty() && over.stderr.contains("integer overflow"), "{over:?}");

    let id = host.ok(&["enqueue", "concat", "[\"a\",\"b\"]", "--unchecked"]);
    until("it waits for its plugin", || host.ok(&["task", "list"]).contains("waiting for a plugin that offers `concat`"));
    host.drop_in("text");
    assert_eq!(host.ok(&["result", id.trim(), "--wait=60s"]), "\"ab\"\n");
    assert!(worker.stop().success());
}

fn a_panic_is_shown_with_its_place_and_its_attempts(host: &Taskhost) {
    host.drop_in("probe");
    let _worker = host.worker(&[]);
    let failed = host.run(&["enqueue", "panic_task", "as asked", "--retries", "1", "--wait"]);
    assert_eq!((failed.code, failed.stdout.as_str()), (1, ""), "{failed:?}");
    for word in ["panic", "lib.rs:", "as asked", "attempt 1", "attempt 2", "taskhost task retry"] {
        assert!(failed.stderr.contains(word), "`{word}` is missing in: {}", failed.stderr);
    }
    let dead = host.tasks(&["--state", "dead"]);
    assert_eq!((dead.len(), &dead[0]["task"], &dead[0]["tries"]), (1, &"panic_task".into(), &2.into()));
}

fn a_plugin_is_replaced_under_ten_thousand_tasks(host: &Taskhost) {
    const TASKS: u64 = 10_000;
    let bytes = built("math");
    host.place("math", &bytes);
    let worker = host.worker(&[]);
    let lines: Vec<String> = (0..TASKS).map(|n| format!("{{\"task\":\"add\",\"args\":[{n},1],\"id\":\"n{n}\"}}")).collect();
    let lines = lines.join("\n");
    std::thread::scope(|scope| {
        let enqueued = scope.spawn(|| host.run_with(&["enqueue", "--bulk", "-"], &lines));
        until("tasks have ended", || !host.run(&["task", "list", "--state", "succeeded", "--limit", "1"]).stdout.is_empty());
        host.place("math", &variant(&bytes, "renamed into place"));
        // Also a slow copy over the file, like `cp`: truncated first, then written piece by piece.
        let slow = variant(&bytes, "copied slowly");
        let mut file = fs::File::create(host.plugin("math")).unwrap();
        for piece in slow.chunks(slow.len() / 10 + 1) {
            file.write_all(piece).unwrap();
            file.sync_all().unwrap();
        }
        assert_eq!(enqueued.join().unwrap().code, 0);
    });
    let open = ["--state", "ready,running,scheduled,parked"];
    until("all tasks have ended", || host.tasks(&open).is_empty());
    let done = host.tasks(&["--state", "succeeded", "--task", "add"]);
    assert_eq!(done.len() as u64, TASKS, "{} dead", host.tasks(&["--state", "dead"]).len());
    for task in &done {
        let n: u64 = task["id"].as_str().unwrap()[1..].parse().unwrap();
        assert_eq!((task["result"].as_u64(), task["tries"].as_u64()), (Some(n + 1), Some(1)), "{task}");
    }
    assert!(worker.stop().success());
}

fn a_good_plugin_outlives_garbage_restarts_and_renames(host: &Taskhost) {
    host.drop_in("math");
    let add = |host: &Taskhost| host.run(&["enqueue", "add", "1", "1", "--wait=60s"]).stdout;
    let worker = host.worker(&[]);
    assert_eq!(add(host), "2\n");

    fs::write(host.plugin("math"), "garbage").unwrap();
    until("the error is listed", || host.lists("failed"));
    assert_eq!(add(host), "2\n");
    assert!(worker.stop().success());

    let worker = host.worker(&[]);
    assert_eq!(add(host), "2\n", "the last good version serves after a restart");
    assert!(host.lists("failed"));

    host.drop_in("math");
    until("the mended file serves", || host.lists("serving") && !host.lists("failed"));
    fs::rename(host.plugin("math"), host.plugin("arith")).unwrap();
    until("the new name is listed", || host.lists("arith.wasm") && !host.lists("math.wasm"));
    assert_eq!(add(host), "2\n");

    fs::remove_file(host.plugin("arith")).unwrap();
    until("it is unloaded", || !host.lists("arith.wasm"));
    let id = host.ok(&["enqueue", "add", "1", "1"]);
    until("its tasks wait", || host.tasks(&["--state", "parked"]).iter().any(|task| task["id"] == id.trim()));
    host.drop_in("math");
    assert_eq!(host.ok(&["result", id.trim(), "--wait=60s"]), "2\n");
    assert!(worker.stop().success());
}

fn a_benchmark_measures_and_leaves_nothing_behind(host: &Taskhost) {
    host.drop_in("math");
    let words = ["bench", "--quick", "--tasks", "200", "--json", "--only", "ceilings", "--only", "drain", "--only", "start"];
    let report = host.json(&words);
    let figures = report["figures"].as_array().unwrap();
    for name in ["drain, default slots", "ceiling: isolated calls, no broker", "start to first result, compiled before"] {
        let figure = figures.iter().find(|figure| figure["name"] == name).unwrap_or_else(|| panic!("`{name}` is missing in {report}"));
        assert!(figure["median"].as_f64().unwrap() > 0.0, "{figure}");
    }
    let drained = figures.iter().find(|figure| figure["name"] == "drain, default slots").unwrap();
    assert!(drained["of_ceiling"].as_f64().unwrap() > 0.0, "{drained}");
    assert_eq!(host.count_named("bench-"), 0);

    let bench = host.starting(&["bench"]);
    until("it has begun", || host.count_named("bench-") > 0);
    assert_eq!(bench.stop().code(), Some(1));
    assert_eq!(host.count_named("bench-"), 0);
    let unfit = host.run(&["bench", "--plugin", "plugins/none.wasm"]);
    assert!(unfit.code == 2 && unfit.stderr.contains("--plugin"), "{unfit:?}");
}

fn two_workers_fire_a_schedule_once_a_second(host: &Taskhost) {
    host.drop_in("math");
    let workers = [host.worker(&[]), host.worker(&[])];
    host.ok(&["schedule", "add", "tick", "* * * * * *", "add", "1", "1"]);
    until("it has fired six times", || host.tasks(&["--state", "succeeded"]).len() >= 6);
    host.ok(&["schedule", "remove", "tick"]);
    until("all have ended", || host.tasks(&["--state", "ready,running"]).is_empty());
    let tasks = host.tasks(&[]);
    let fired: BTreeSet<u64> = tasks.iter().map(|task| task["id"].as_str().unwrap().rsplit(':').next().unwrap().parse().unwrap()).collect();
    assert_eq!(fired.len(), tasks.len(), "each due time once");
    let (first, last) = (fired.first().unwrap(), fired.last().unwrap());
    assert_eq!(last - first, (fired.len() as u64 - 1) * 1_000, "no second left out: {fired:?}");
    assert!(tasks.iter().all(|task| task["tries"] == 1 && task["state"] == "succeeded"));
    for worker in workers {
        assert!(worker.stop().success());
    }
}

fn javascript_greets_when_dropped_in(host: &Taskhost) {
    host.drop_in("greet");
    let _worker = host.worker(&[]);
    assert_eq!(host.ok(&["enqueue", "greet", "Ada", "--wait=60s"]), "\"Hello, Ada!\"\n");
}

on_every_broker! {
    a_dropped_plugin_becomes_a_task
    a_panic_is_shown_with_its_place_and_its_attempts
    a_plugin_is_replaced_under_ten_thousand_tasks
    a_good_plugin_outlives_garbage_restarts_and_renames
    a_benchmark_measures_and_leaves_nothing_behind
    two_workers_fire_a_schedule_once_a_second
    javascript_greets_when_dropped_in
}

#[test]
fn a_worker_waits_for_a_broker_that_is_away_and_stops_when_told() {
    let host = Taskhost::new();
    let url = format!("redis://127.0.0.1:{}", super::support::free_port());
    let worker = host.starting_worker(&["--broker", &url]);
    worker.until("it says so", |worker| worker.log().contains("keeps trying"));
    assert!(worker.stop().success());
}

#[test]
fn a_wait_that_the_broker_ends_names_the_task() {
    let mut host = Taskhost::on_redis();
    let mut asked = host.starting(&["enqueue", "add", "1", "1", "--unchecked", "--id", "known", "--wait=6s"]);
    until("it is enqueued", || host.run(&["task", "show", "known"]).code == 0);
    host.kill_redis();
    assert_eq!(asked.ended().code(), Some(3), "{}", asked.log());
    assert!(asked.log().contains("task `known` is enqueued"), "{}", asked.log());
}

#[test]
fn one_attempt_needs_no_broker() {
    let host = Taskhost::new();
    host.drop_in("math");
    host.drop_in("probe");
    assert_eq!(host.ok(&["run", "plugins/math.wasm", "add", "20", "22"]), "42\n");
    let failed = host.run(&["run", "plugins/probe.wasm", "panic_task"]);
    assert!(failed.code == 1 && failed.stderr.contains("lib.rs:"), "{failed:?}");
    let wrong = host.run(&["run", "plugins/math.wasm", "ad", "1", "1"]);
    assert!(wrong.code == 2 && wrong.stderr.contains("`add`"), "{wrong:?}");
    assert!(host.ok(&["plugin", "inspect", "plugins/math.wasm"]).contains("add(a: "));
    assert!(host.ok(&["plugin", "check", "plugins/math.wasm"]).contains("would serve"));
    host.write("plugins/bad.wasm", "garbage");
    assert_eq!(host.run(&["plugin", "check", "plugins/bad.wasm"]).code, 1);
    assert!(!host.dir().join("taskhost.db").exists());
}

/// Scaled down from 200 bodies of 2 s under a timeout of 30 s. Together they take far longer than the timeout. The broker makes no difference.
#[test]
fn bodies_that_compute_share_the_cores() {
    const BODIES: usize = 24;
    let host = &Taskhost::new();
    host.drop_in("probe");
    host.drop_in("math");
    let worker = host.worker(&["--threads", "2"]);
    let begun = Instant::now();
    host.ok(&["enqueue", "burn", "600", "--wait"]);
    let alone = begun.elapsed();
    // Two at a time, all together take twelve times as long as one.
    let timeout = format!("{}ms", (alone * 8).as_millis());
    let lines = "{\"task\":\"burn\",\"args\":[600]}\n".repeat(BODIES);
    assert_eq!(host.run_with(&["enqueue", "--bulk", "-", "--timeout", &timeout, "--retries", "0"], &lines).code, 0);
    until("they run", || host.tasks(&["--state", "running"]).len() > 2);
    let begun = Instant::now();
    assert_eq!(host.ok(&["enqueue", "add", "1", "1", "--wait"]), "2\n");
    assert!(begun.elapsed() < Duration::from_secs(5), "a small task waited for {:?}", begun.elapsed());
    until("all have ended", || host.tasks(&["--state", "ready,running,scheduled,parked"]).is_empty());
    let dead = host.tasks(&["--state", "dead"]);
    assert!(dead.is_empty(), "{} of {BODIES} timed out at {timeout}: {}", dead.len(), dead[0]);
    assert!(worker.stop().success());
}
