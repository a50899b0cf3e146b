//! Faults from below the program: a wrong wall clock, a full disk, a death in the middle of any write to the database, directories
//! that can't be watched.
//!
//! preload.c stands between the shipped program and the kernel. `cc` builds it here. It needs Linux, as LD_PRELOAD does.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::{Duration, Instant},
};

use taskhost_core::task::{NewTask, QueueName, Start, State, TaskId};

use super::{
    fleet::{END, Fleet, account, enqueue_all, notes, open, sleeps, succeeded, turn, until},
    ground::Ground,
};
use crate::support::named;

/// The library, built once per process and renamed into place.
fn preload() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("preload.so");
        let fresh = target.with_extension(std::process::id().to_string());
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/faults/preload.c");
        let mut call = Command::new(compiler);
        call.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&fresh).arg(source);
        let built = call.output().expect("a C compiler: the one that links Rust programs");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        std::fs::rename(&fresh, &target).expect("in place");
        target
    })
}

/// The environment that injects `faults` into a program.
fn under(faults: &[(&'static str, String)]) -> Vec<(&'static str, String)> {
    let mut environment = vec![("LD_PRELOAD", preload().display().to_string())];
    environment.extend_from_slice(faults);
    environment
}

/// The broker's clock decides when a task is due, a lease ends and a result expires. The clocks of workers and producers decide nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_worker_whose_clock_is_wrong_by_an_hour_costs_nothing() {
    const HOUR: i32 = 3600;
    let _turn = turn().await;
    let ground = Ground::redis();
    let broker = ground.open().await;
    let mut fleet = Fleet::new(Duration::from_secs(4));
    fleet.environment = under(&[("FAULT_CLOCK", HOUR.to_string())]);
    let early = fleet.worker(&ground.address(), &[]).await;
    fleet.environment = under(&[("FAULT_CLOCK", (-HOUR).to_string())]);
    let late = fleet.worker(&ground.address(), &[]).await;
    // A producer that is an hour behind would set an expiry in the past, if its own clock counted.
    let expiring = fleet.call(&ground.address(), &["enqueue", "note", "1", "--unchecked", "--expires", "10m", "--id", "expiring"]);
    assert!(expiring.status.success(), "{expiring:?}");
    let delayed = fleet.call(&ground.address(), &["enqueue", "note", "1", "--unchecked", "--in", "2s", "--id", "delayed"]);
    assert!(delayed.status.success(), "{delayed:?}");
    fleet.environment = Vec::new();
    let _right = fleet.worker(&ground.address(), &[]).await;
    // The tasks run for two leases, so that each worker has looked at every deadline.
    let mut ids = vec![TaskId::new("expiring").expect("an id"), TaskId::new("delayed").expect("an id")];
    ids.extend(notes(&*broker, 300, 100).await);
    ids.extend(sleeps(&*broker, 30, 8.0).await);
    let soon = (0..50).map(|_| NewTask { start: Start::In(Duration::from_secs(1)), ..named("note", "[1]") }).collect();
    ids.extend(enqueue_all(&*broker, soon).await);
    let whole = account("clocks an hour ahead and an hour behind", &broker, &ids).await;
    whole.all_succeeded();
    assert_eq!((whole.counted, whole.rerun, whole.worker_lost), (0, 0, 0), "no lease was lost to a wrong clock");
    for id in &ids {
        let view = broker.find(Some(&QueueName::default()), id).await.expect("find").expect("kept for an hour by the broker's clock");
        let delay = if id.as_str() == "delayed" { 2_000 } else { 0 };
        let (started, asked) = (view.started_at.expect("it ran").0, view.enqueued_at.0 + delay);
        assert!(started >= asked, "started {started} before {asked}: {view:?}");
    }
    // The broker's clock also decides when the tasks of both workers are adopted.
    let ids = sleeps(&*broker, 40, 1.0).await;
    until("they run", async || broker.queues().await.expect("queues")[0].counts.get(&State::Running) >= Some(&30)).await;
    early.kill();
    late.kill();
    account("killed with wrong clocks", &broker, &ids).await.all_succeeded();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_full_disk_refuses_to_enqueue_and_loses_nothing() {
    let _turn = turn().await;
    let ground = Ground::sqlite();
    let broker = ground.open().await;
    let mut fleet = Fleet::new(Duration::from_secs(3));
    let full = fleet.path().join("full");
    fleet.environment = under(&[("FAULT_PATH", "taskhost.db".into()), ("FAULT_FULL", full.display().to_string())]);
    let mut worker = fleet.worker(&ground.address(), &[]).await;
    let ids = sleeps(&*broker, 200, 0.1).await;
    until("it works", async || succeeded(&*broker).await > 20).await;
    std::fs::write(&full, "").expect("the disk fills up");
    let refused = fleet.call(&ground.address(), &["enqueue", "note", "1", "--unchecked", "--id", "refused"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("disk full") && said.contains("free space"), "{refused:?}");
    worker.says("disk full").await;
    // There is no other worker, and this one can't write.
    until("its lease is over", async || broker.workers().await.expect("workers").is_empty()).await;
    assert!(!worker.has_ended() && open(&*broker).await > 0, "{}", worker.log());
    std::fs::remove_file(&full).expect("room is made");
    let told = account("a full disk, then room", &broker, &ids).await;
    told.all_succeeded();
    assert_eq!(told.counted, 0, "a full disk counts as no attempt");
    let gone = TaskId::new("refused").expect("an id");
    assert!(broker.find(None, &gone).await.expect("find").is_none(), "what was refused did not happen");
    let again = fleet.call(&ground.address(), &["enqueue", "note", "1", "--unchecked", "--id", "refused"]);
    assert!(again.status.success(), "{again:?}");
    account("enqueued again", &broker, &[gone]).await.all_succeeded();
}

/// SIGKILL follows half of the n-th write: in a step, between two steps, in a checkpoint, while the schema is created.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_process_killed_in_the_middle_of_any_write_of_its_database_loses_nothing() {
    const WRITES: [u64; 14] = [1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 120, 160, 200, 250];
    let _turn = turn().await;
    let ground = Ground::sqlite();
    let mut fleet = Fleet::new(Duration::from_secs(2));
    fleet.shares_state = true;
    let mut died = Vec::new();
    for nth in WRITES {
        // The first process creates the file and dies in doing so.
        let doom = under(&[("FAULT_PATH", "taskhost.db".into()), ("FAULT_DIE", nth.to_string())]);
        fleet.environment.clone_from(&doom);
        let id = format!("by-cli-{nth}");
        let call = fleet.call(&ground.address(), &["enqueue", "note", "1", "--unchecked", "--id", &id]);
        let broker = ground.open().await;
        let id = TaskId::new(id).expect("an id");
        let is_there = broker.find(None, &id).await.expect("find").is_some();
        assert!(is_there || call.stdout.is_empty(), "write {nth}: acknowledged and lost: {call:?}");

        let mut ids = enqueue_all(&*broker, (0..12).map(|_| named("note_with_child", r#"[20,"default"]"#)).collect()).await;
        if is_there {
            ids.push(id);
        }
        let mut victim = fleet.start(&ground.address(), &[]);
        let begun = Instant::now();
        let by_itself = loop {
            if victim.has_ended() {
                break true;
            }
            if open(&*broker).await == 0 {
                break false;
            }
            assert!(begun.elapsed() < END, "write {nth}: neither dead nor done:\n{}", victim.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        if by_itself {
            died.push(nth);
        }
        victim.kill();
        fleet.environment = Vec::new();
        let heir = fleet.worker(&ground.address(), &[]).await;
        let children: Vec<_> = ids.iter().filter(|id| !id.as_str().starts_with("by-cli")).map(|id| format!("{id}.child")).collect();
        account(&format!("killed in write {nth}"), &broker, &ids).await.all_succeeded();
        let children: Vec<_> = children.into_iter().map(|id| TaskId::new(id).expect("an id")).collect();
        account(&format!("children of write {nth}"), &broker, &children).await.all_succeeded();
        heir.kill();
    }
    eprintln!("died in these writes: {died:?}");
    assert!(died.len() >= WRITES.len() / 2, "most of them are reached: {died:?}");
}

/// Other programs have used up the user's inotify instances or watches. The worker reads the directory every 2 s, and its log says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn where_nothing_can_be_watched_plugins_and_policies_are_found_by_looking() {
    let _turn = turn().await;
    for (fault, because) in [("instances", "os error 24"), ("watches", "limit reached")] {
        let ground = Ground::sqlite();
        let broker = ground.open().await;
        let mut fleet = Fleet::new(Duration::from_secs(30));
        let (ledger, aside) = (fleet.path().join("plugins/ledger.wasm"), fleet.path().join("ledger.aside"));
        std::fs::rename(&ledger, &aside).expect("our own file");
        std::fs::write(fleet.path().join("taskhost.toml"), "").expect("no policy grants anything");
        fleet.environment = under(&[("FAULT_WATCH", fault.into())]);
        let worker = fleet.worker(&ground.address(), &[]).await;
        worker.says("cannot watch the plugin directory").await;
        let warning = worker.log().lines().find(|line| line.contains("cannot watch the plugin directory")).map(str::to_owned);
        let warning = warning.expect("it was said");
        assert!(warning.contains("it is read every 2 s instead") && warning.contains(because), "{fault}: {warning}");

        std::fs::rename(&aside, &ledger).expect("dropped in");
        let view = async |id: &TaskId| broker.find(Some(&QueueName::default()), id).await.expect("find").expect("known");
        // Only the policy is missing: `note` needs its store.
        let denied = notes(&*broker, 1, 0).await;
        until("the plugin serves, with nothing granted", async || {
            view(&denied[0]).await.errors.iter().any(|e| e.error.message.contains("kv"))
        })
        .await;
        std::fs::write(fleet.path().join("taskhost.toml"), "[plugins.ledger]\nkv = true\n").expect("granted");
        until("the policy is in force", async || {
            let id = notes(&*broker, 1, 0).await.remove(0);
            until("it ends, or waits for its next attempt", async || view(&id).await.tries > 0).await;
            view(&id).await.state == State::Succeeded
        })
        .await;
        std::fs::remove_file(&ledger).expect("taken away");
        until("the plugin serves no more", async || {
            let id = notes(&*broker, 1, 0).await.remove(0);
            until("it is taken", async || view(&id).await.state != State::Ready).await;
            view(&id).await.state == State::Parked
        })
        .await;
        assert_eq!(worker.log().matches("cannot watch the plugin directory").count(), 1, "said once:\n{}", worker.log());
    }
}
