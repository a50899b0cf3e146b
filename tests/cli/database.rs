//! The database file: who may read it, and a worker whose file is taken away.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::super::support::program::{Taskhost, Worker};

fn saved(host: &Taskhost) -> Vec<PathBuf> {
    let files = fs::read_dir(host.dir()).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.to_string_lossy().contains(".saved-")).collect()
}

/// The worker has ended by itself, and one saved copy has the content of the old file.
fn ended(host: &Taskhost, worker: &mut Worker, ids: &[&str]) {
    let status = worker.ended();
    assert_eq!(status.code(), Some(3), "{}", worker.log());
    let log = worker.log();
    assert!(log.contains("was deleted or replaced while this process had it open"), "{log}");
    let [copy] = &saved(host)[..] else { panic!("one copy: {:?}", saved(host)) };
    assert!(log.contains(&*copy.file_name().unwrap().to_string_lossy()), "{log}");
    assert_eq!(mode(copy), 0o600);
    let broker = format!("sqlite:{}", copy.display());
    for id in ids {
        assert_eq!(host.json(&["task", "show", id, "--json", "--broker", &broker])["id"], **id);
    }
}

fn take_away(host: &Taskhost) {
    for name in ["taskhost.db", "taskhost.db-wal", "taskhost.db-shm"] {
        fs::remove_file(host.dir().join(name)).expect("it is there");
    }
}

#[test]
fn a_database_that_is_deleted_under_a_worker_is_noticed_and_nothing_of_it_is_lost() {
    let host = Taskhost::new();
    let mut worker = host.worker(&["--lease", "3s"]);
    for id in ["a", "b"] {
        host.ok(&["enqueue", "nobody.has.it", "--unchecked", "--id", id]);
    }
    take_away(&host);
    host.ok(&["enqueue", "add", "1", "1", "--unchecked", "--id", "new"]);
    ended(&host, &mut worker, &["a", "b"]);
    assert_eq!(host.tasks(&[]).len(), 1, "the new file is left alone");
    drop(worker);

    // The next worker goes on with the new file, and another one with the saved copy.
    host.drop_in("math");
    let _worker = host.worker(&[]);
    assert_eq!(host.ok(&["result", "new", "--wait"]).trim(), "2");
}

#[test]
fn a_database_that_is_replaced_under_a_worker_is_noticed_and_nothing_of_it_is_lost() {
    let host = Taskhost::new();
    host.ok(&["enqueue", "add", "--unchecked", "--broker", "sqlite:other.db"]);
    let mut worker = host.worker(&["--lease", "3s"]);
    host.ok(&["enqueue", "nobody.has.it", "--unchecked", "--id", "a"]);
    fs::rename(host.dir().join("other.db"), host.dir().join("taskhost.db")).unwrap();
    ended(&host, &mut worker, &["a"]);
}

#[test]
fn who_waits_for_a_result_learns_that_the_database_was_deleted() {
    let host = Taskhost::new();
    host.ok(&["enqueue", "add", "--unchecked", "--id", "a"]);
    let mut waits = host.starting(&["result", "a", "--wait"]);
    waits.until("it waits", |waits| waits.log().contains("there is no live worker"));
    take_away(&host);
    assert_eq!(waits.ended().code(), Some(3), "{}", waits.log());
    assert!(waits.log().contains("was deleted or replaced"), "{}", waits.log());
}

#[test]
fn nobody_else_may_read_what_we_write_whatever_the_umask_is() {
    let host = Taskhost::with_open_umask();
    host.ok(&["enqueue", "add", "--unchecked"]);
    assert_eq!(mode(&host.dir().join("taskhost.db")), 0o600);
    host.drop_in("math");
    let worker = host.worker(&[]);
    worker.until("it serves `add`", |_| host.lists("add"));
    for name in ["taskhost.db", "taskhost.db-wal", "taskhost.db-shm"] {
        assert_eq!(mode(&host.dir().join(name)), 0o600, "{name}");
    }
    let mut found = 0;
    private(&host.dir().join("state"), &mut found);
    assert!(found > 3, "lock files and plugins are there");
    worker.stop();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap_or_else(|error| panic!("{error}: {}", path.display())).permissions().mode() & 0o777
}

fn private(path: &Path, found: &mut u32) {
    *found += 1;
    // A temporary file may disappear between listing and look.
    let Ok(meta) = fs::metadata(path) else { return };
    assert_eq!(meta.permissions().mode() & 0o077, 0, "{}", path.display());
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        private(&entry.path(), found);
    }
}
