//! People and programs replace files in a plugin directory, in all common ways, with the real engine. Some ways cause no event of the kernel, and a
//! flood of events comes in between.
//!
//! During each of them the test calls `add` without a pause, and every call must succeed.

use std::{
    fs,
    io::Write,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use taskhost::plugins::Registry;
use taskhost_core::task::TaskName;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::plugins::{Place, Room, built, digest_of, done, run, variant};

/// Replaces `math.wasm` in the directory by these bytes.
type Way = fn(&Path, &[u8]);

/// Like vim by default: move the old file to a backup, write a new one, remove the backup.
fn backup_moved_aside(dir: &Path, bytes: &[u8]) {
    fs::rename(dir.join("math.wasm"), dir.join("math.wasm~")).unwrap();
    fs::write(dir.join("math.wasm"), bytes).unwrap();
    fs::remove_file(dir.join("math.wasm~")).unwrap();
}

/// Like vim with `backupcopy=yes`, or if the file is a link: copy to a backup, then write in place.
fn backup_copied(dir: &Path, bytes: &[u8]) {
    fs::copy(dir.join("math.wasm"), dir.join("math.wasm~")).unwrap();
    fs::write(dir.join("4913"), "").unwrap();
    fs::remove_file(dir.join("4913")).unwrap();
    fs::write(dir.join("math.wasm"), bytes).unwrap();
    fs::remove_file(dir.join("math.wasm~")).unwrap();
}

/// Like other editors: write beside, link the old file to a backup, then rename over it.
fn renamed_over(dir: &Path, bytes: &[u8]) {
    fs::write(dir.join(".goutputstream-X1Y2Z3"), bytes).unwrap();
    fs::hard_link(dir.join("math.wasm"), dir.join("math.wasm~")).unwrap();
    fs::rename(dir.join(".goutputstream-X1Y2Z3"), dir.join("math.wasm")).unwrap();
    fs::remove_file(dir.join("math.wasm~")).unwrap();
}

/// The real `cp`, over the existing file.
fn cp(dir: &Path, bytes: &[u8]) {
    let new = tempfile::NamedTempFile::new().unwrap();
    fs::write(new.path(), bytes).unwrap();
    assert!(Command::new("cp").arg(new.path()).arg(dir.join("math.wasm")).status().unwrap().success());
}

/// Like `install`, `tar` and `unzip`: unlink, then write a new file.
fn unlinked_first(dir: &Path, bytes: &[u8]) {
    fs::remove_file(dir.join("math.wasm")).unwrap();
    fs::write(dir.join("math.wasm"), bytes).unwrap();
}

/// The real `rsync` if it is installed, else the same steps: write a temporary file, set its times, rename it over the file.
fn rsync(dir: &Path, bytes: &[u8]) {
    let from = tempfile::tempdir().unwrap();
    fs::write(from.path().join("math.wasm"), bytes).unwrap();
    let mut program = Command::new("rsync");
    let ran = program.arg("-a").arg("--no-owner").arg("--no-group").arg(from.path().join("math.wasm")).arg(dir).status();
    if let Ok(status) = ran {
        assert!(status.success());
    } else {
        let new = dir.join(".math.wasm.Xa9Qz7");
        let mut file = fs::File::create(&new).unwrap();
        bytes.chunks(32 << 10).for_each(|piece| file.write_all(piece).unwrap());
        file.set_modified(fs::metadata(from.path().join("math.wasm")).unwrap().modified().unwrap()).unwrap();
        drop(file);
        fs::rename(new, dir.join("math.wasm")).unwrap();
    }
}

/// Like `rsync --inplace`: the same length, block by block, without truncating first.
fn block_by_block(dir: &Path, bytes: &[u8]) {
    let mut file = fs::File::options().write(true).open(dir.join("math.wasm")).unwrap();
    bytes.chunks(32 << 10).for_each(|piece| file.write_all(piece).unwrap());
    file.set_len(bytes.len() as u64).unwrap();
}

/// A deployment deletes the whole directory and makes it anew.
fn directory_made_anew(dir: &Path, bytes: &[u8]) {
    fs::remove_dir_all(dir).unwrap();
    fs::create_dir(dir).unwrap();
    fs::write(dir.join("math.wasm"), bytes).unwrap();
}

/// The directory is swapped for another under its name.
fn directory_renamed_over(dir: &Path, bytes: &[u8]) {
    let (new, old) = (dir.with_extension("new"), dir.with_extension("old"));
    fs::create_dir(&new).unwrap();
    fs::write(new.join("math.wasm"), bytes).unwrap();
    fs::rename(dir, &old).unwrap();
    fs::rename(new, dir).unwrap();
    fs::remove_dir_all(old).unwrap();
}

/// The file becomes a link into another directory, whose file is then written in place. The plugin directory gets no event.
fn behind_a_link(dir: &Path, bytes: &[u8]) {
    let away = dir.with_extension("away");
    if !away.exists() {
        fs::create_dir(&away).unwrap();
        fs::copy(dir.join("math.wasm"), away.join("math.wasm")).unwrap();
        symlink(away.join("math.wasm"), dir.join(".link")).unwrap();
        fs::rename(dir.join(".link"), dir.join("math.wasm")).unwrap();
    }
    fs::write(away.join("math.wasm"), bytes).unwrap();
}

/// The file has a second name elsewhere and is written through that name. Again there is no event.
fn by_another_name(dir: &Path, bytes: &[u8]) {
    let other = dir.with_extension("other");
    fs::remove_file(dir.join("math.wasm")).unwrap();
    fs::write(&other, bytes).unwrap();
    fs::hard_link(&other, dir.join("math.wasm")).unwrap();
    let mut file = fs::File::options().append(true).open(&other).unwrap();
    file.write_all(&[0, 2, 1, b'm']).unwrap();
}

/// Thousands of events of other files, before and after the event of the plugin.
fn in_a_flood(dir: &Path, bytes: &[u8]) {
    let flood = || {
        for n in 0..6_000 {
            let path = dir.join(format!("noise-{}.tmp", n % 50));
            fs::write(&path, "x").unwrap();
            fs::remove_file(path).unwrap();
        }
    };
    flood();
    fs::write(dir.join(".math.tmp"), bytes).unwrap();
    fs::rename(dir.join(".math.tmp"), dir.join("math.wasm")).unwrap();
    flood();
}

const WAYS: [(&str, Way); 12] = [
    ("backup moved aside", backup_moved_aside),
    ("backup copied", backup_copied),
    ("renamed over", renamed_over),
    ("cp", cp),
    ("unlinked first", unlinked_first),
    ("rsync", rsync),
    ("block by block", block_by_block),
    ("directory made anew", directory_made_anew),
    ("directory renamed over", directory_renamed_over),
    ("in a flood", in_a_flood),
    ("by another name", by_another_name),
    ("behind a link", behind_a_link),
];

/// Calls `add` until it is told to stop. Every call must succeed.
fn caller(room: &Room, stop: &CancellationToken) -> JoinHandle<u64> {
    let (engine, registry, stop) = (room.engine.clone(), room.registry.clone(), stop.clone());
    tokio::spawn(async move {
        let mut calls = 0;
        while !stop.is_cancelled() {
            let plugin = served(&registry).expect("`add` is served without a gap");
            assert_eq!(run(&engine, &plugin, "add", "[40,2]").await, done("42"));
            calls += 1;
            // Leave CPU time for the other tests.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        calls
    })
}

fn served(registry: &watch::Receiver<Arc<Registry>>) -> Option<Arc<taskhost::plugins::Plugin>> {
    registry.borrow().resolve(&TaskName::new("add").unwrap()).cloned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_a_file_is_replaced_the_new_one_serves_and_no_call_fails() {
    let place = Place::new();
    let math = built("math");
    place.put("math.wasm", &math);
    let mut room = place.start();
    room.until("`add`", |registry| !digest_of(registry, "add").is_empty()).await;
    let stop = CancellationToken::new();
    let calls = caller(&room, &stop);
    let dir: PathBuf = place.root.path().join("plugins");
    for (n, (name, way)) in (0_u8..).zip(WAYS) {
        let bytes = variant(&math, n);
        let (to, content) = (dir.clone(), bytes.clone());
        tokio::task::spawn_blocking(move || way(&to, &content)).await.unwrap();
        let standing = fs::read(dir.join("math.wasm")).unwrap();
        assert!(standing.starts_with(&bytes), "{name} has put it there");
        let wanted = sha256(&standing);
        room.until(name, |registry| digest_of(registry, "add") == wanted).await;
    }
    stop.cancel();
    assert!(calls.await.unwrap() > 0);
    room.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kubernetes_volume_is_swapped_under_calls() {
    let place = Place::new();
    let (math, dir) = (built("math"), place.root.path().join("plugins"));
    let volume = |n: u8| {
        let data = dir.join(format!("..2026_11_23_{n}"));
        fs::create_dir(&data).unwrap();
        fs::write(data.join("math.wasm"), variant(&math, n)).unwrap();
        symlink(data.file_name().unwrap(), dir.join("..data_tmp")).unwrap();
        fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
        if n > 0 {
            fs::remove_dir_all(dir.join(format!("..2026_11_23_{}", n - 1))).unwrap();
        }
    };
    volume(0);
    symlink("..data/math.wasm", dir.join("math.wasm")).unwrap();
    let mut room = place.start();
    room.until("`add`", |registry| digest_of(registry, "add") == sha256(&variant(&math, 0))).await;
    let stop = CancellationToken::new();
    let calls = caller(&room, &stop);
    for n in 1..4 {
        volume(n);
        room.until("the new volume", |registry| digest_of(registry, "add") == sha256(&variant(&math, n))).await;
    }
    stop.cancel();
    assert!(calls.await.unwrap() > 0);
    room.stop().await;
}

/// Like deployments with a `current` link. There is no event either, because another directory is watched.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_to_the_directory_is_turned_under_calls() {
    let place = Place::new();
    let (math, dir) = (built("math"), place.root.path().join("plugins"));
    let release = |n: u8| {
        let release = place.root.path().join(format!("release-{n}"));
        fs::create_dir(&release).unwrap();
        fs::write(release.join("math.wasm"), variant(&math, n)).unwrap();
        let link = place.root.path().join("link");
        symlink(&release, &link).unwrap();
        fs::rename(&link, &dir).unwrap();
    };
    fs::remove_dir(&dir).unwrap();
    release(0);
    let mut room = place.start();
    room.until("`add`", |registry| digest_of(registry, "add") == sha256(&variant(&math, 0))).await;
    let stop = CancellationToken::new();
    let calls = caller(&room, &stop);
    for n in 1..3 {
        release(n);
        room.until("the new release", |registry| digest_of(registry, "add") == sha256(&variant(&math, n))).await;
    }
    stop.cancel();
    assert!(calls.await.unwrap() > 0);
    room.stop().await;
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    format!("{:x}", sha2::Sha256::digest(bytes))
}
