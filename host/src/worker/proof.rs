//! Proof that a worker is gone: a locked file an incarnation, in a directory that the workers of this machine share.
//!
//! registered → file made, locked, then named → the process ends, however it does: the lock is free → whoever takes it knows,
//! and asks the broker to expire the incarnation: its tasks are adopted at once instead of when the lease ends.
//!
//! The files of one worker are links to one file, so that one open descriptor holds them all locked, however many queues there are.
//!
//! Invariant: a named file is locked for as long as its incarnation may claim. The directory is one broker's.

use std::{
    collections::HashMap,
    fs::{File, TryLockError},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use sha2::{Digest as _, Sha256};

use super::{Shared, WorkerSettings, lock};
use crate::private;
use taskhost_broker::Incarnation;
use taskhost_core::task::QueueName;

/// How often to look for others that are gone.
const LOOK: Duration = Duration::from_secs(5);
/// A file that was never named is cleared away after this time.
const ABANDONED: Duration = Duration::from_secs(60);
const NAMED: &str = "lock";
const MAKING: &str = "making";

/// A locked file: shows that its incarnation lives. Dropped without [`Proof::retire`], it shows the opposite.
#[derive(Debug)]
pub(super) struct Proof {
    path: PathBuf,
    _locked: Arc<File>,
}

/// The file that the proofs of one worker are links to, and where it stands; made with the first of them.
#[derive(Debug, Default)]
pub(super) struct Anchor(Mutex<Option<(PathBuf, Arc<File>)>>);

impl Drop for Anchor {
    fn drop(&mut self) {
        if let Some((path, _locked)) = lock(&self.0).take() {
            // What can't be removed is cleared away by others.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Proof {
    /// The incarnation is over and nobody needs to know: the file goes.
    pub(super) fn retire(&self, shared: &Shared) {
        let path = self.path.clone();
        shared.tracker.spawn_blocking_on(
            move || {
                if let Err(error) = std::fs::remove_file(&path) {
                    tracing::debug!(path = %path.display(), %error, "could not remove a lock file");
                }
            },
            &shared.control,
        );
    }
}

/// Makes the proof of an incarnation; without one the others wait for the lease.
pub(super) async fn take(shared: &Arc<Shared>, incarnation: &Incarnation) -> Option<Proof> {
    let dir = directory(&shared.settings)?;
    let (shared, incarnation) = (Arc::clone(shared), incarnation.clone());
    let made = tokio::task::spawn_blocking(move || make(&dir, &incarnation, &shared.anchor)).await;
    match made {
        Ok(Ok(proof)) => Some(proof),
        Ok(Err(error)) => {
            tracing::warn!(%error, "could not lock a file in the state directory: if this worker dies, others wait for its lease to end");
            None
        }
        Err(error) => {
            tracing::error!(%error, "making a lock file panicked: please report it");
            None
        }
    }
}

/// Looks for incarnations whose process is gone, at the start and now and then.
pub(super) async fn watch(shared: Arc<Shared>) {
    let Some(dir) = directory(&shared.settings) else { return shared.end.cancelled().await };
    loop {
        let looked = dir.clone();
        let gone = tokio::task::spawn_blocking(move || scan(&looked)).await.unwrap_or_else(|error| Err(io::Error::other(error)));
        match gone {
            Ok(gone) => {
                for found in gone {
                    expire(&shared, found).await;
                }
            }
            Err(error) => tracing::debug!(dir = %dir.display(), %error, "could not look for workers that are gone"),
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK.mul_f64(0.75 + fastrand::f64() / 2.0)) => {}
            () = shared.end.cancelled() => return,
        }
    }
}

/// An incarnation whose process is gone; its lock is ours now.
struct Gone {
    incarnation: Incarnation,
    path: PathBuf,
    locked: Arc<File>,
}

async fn expire(shared: &Shared, gone: Gone) {
    let Gone { incarnation, path, locked } = gone;
    match shared.broker.expire(&incarnation).await {
        Ok(()) => {
            tracing::info!(queue = %incarnation.queue, incarnation = %incarnation.id, "a worker of this machine is gone: its tasks are taken over now");
            let removed = tokio::task::spawn_blocking(move || {
                let removed = std::fs::remove_file(path);
                drop(locked);
                removed
            });
            if let Ok(Err(error)) = removed.await {
                tracing::debug!(%error, "could not remove a lock file");
            }
            for lane in shared.lanes.iter().filter(|lane| lane.queue == incarnation.queue) {
                lane.heat();
            }
            shared.wake.notify_one();
        }
        Err(error) => {
            shared.link.failed(&error);
            tracing::debug!(incarnation = %incarnation.id, %error, "could not tell the broker that a worker is gone; later");
        }
    }
}

/// One directory a broker, so that nobody expires what another broker knows.
fn directory(settings: &WorkerSettings) -> Option<PathBuf> {
    let digest = Sha256::digest(settings.broker_identity.as_bytes());
    let short = digest.iter().take(8).fold(0_u64, |short, byte| short << 8 | u64::from(*byte));
    Some(settings.state.as_ref()?.join("incarnations").join(format!("{short:016x}")))
}

/// Makes the directory if it is missing. Whoever else could write to it could say of live workers that they are gone.
fn own(dir: &Path) -> io::Result<()> {
    private::Dir::make(dir, "directory of lock files").map(drop).map_err(|why| {
        let (private::Unusable::Refused(text) | private::Unusable::Failed(text)) = why;
        io::Error::other(text)
    })
}

fn make(dir: &Path, incarnation: &Incarnation, anchor: &Anchor) -> io::Result<Proof> {
    own(dir)?;
    // Neither a queue's name nor an incarnation's id has an `@`.
    let stem = format!("{}@{}", incarnation.queue, incarnation.id);
    let path = dir.join(format!("{stem}.{NAMED}"));
    let mut anchor = lock(&anchor.0);
    if let Some((making, locked)) = &*anchor
        && std::fs::hard_link(making, &path).is_ok()
    {
        return Ok(Proof { path, _locked: locked.clone() });
    }
    // The first; or somebody has cleared the anchor away.
    let making = dir.join(format!("{stem}.{MAKING}"));
    let file = File::options().write(true).create_new(true).mode(0o600).open(&making)?;
    file.try_lock().map_err(io::Error::from)?;
    let file = Arc::new(file);
    if std::fs::hard_link(&making, &path).is_ok() {
        if let Some((old, _locked)) = anchor.replace((making, file.clone())) {
            let _gone_already = std::fs::remove_file(old);
        }
    } else {
        // A file system without links: each has a file of its own.
        std::fs::rename(&making, &path)?;
    }
    Ok(Proof { path, _locked: file })
}

/// Every named file whose lock is free, now locked by us.
fn scan(dir: &Path) -> io::Result<Vec<Gone>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    own(dir)?;
    let mut gone = Vec::new();
    // Links to one file share its lock.
    let mut ours: HashMap<(u64, u64), Arc<File>> = HashMap::new();
    for entry in entries {
        let path = entry?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        let Some(extension @ (NAMED | MAKING)) = extension else { continue };
        let Ok(file) = File::open(&path) else { continue };
        let about = file.metadata()?;
        if !private::is_own(&about) {
            continue;
        }
        let inode = (about.dev(), about.ino());
        let file = if let Some(locked) = ours.get(&inode) {
            locked.clone()
        } else {
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(error)) => return Err(error),
            }
            ours.entry(inode).or_insert(Arc::new(file)).clone()
        };
        if extension == NAMED {
            let Some(incarnation) = path.file_stem().and_then(|stem| parse(stem.to_str()?)) else { continue };
            gone.push(Gone { incarnation, path, locked: file });
        } else if about.modified()?.elapsed().is_ok_and(|age| age > ABANDONED) {
            std::fs::remove_file(&path)?;
        }
    }
    Ok(gone)
}

fn parse(stem: &str) -> Option<Incarnation> {
    let (queue, id) = stem.split_once('@')?;
    Some(Incarnation { queue: QueueName::new(queue).ok()?, id: id.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_incarnation_whose_process_let_go_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("incarnations");
        assert!(scan(&dir).unwrap().is_empty(), "no directory yet");
        let incarnation = |id: &str| Incarnation { queue: QueueName::new("mail").unwrap(), id: id.into() };
        let lives = make(&dir, &incarnation("a:1.x"), &Anchor::default()).unwrap();
        let dies = make(&dir, &incarnation("b:2.y"), &Anchor::default()).unwrap();
        assert!(scan(&dir).unwrap().is_empty());
        drop(dies);
        let gone = scan(&dir).unwrap();
        assert_eq!(gone.iter().map(|gone| gone.incarnation.clone()).collect::<Vec<_>>(), [incarnation("b:2.y")]);
        assert!(scan(&dir).unwrap().is_empty(), "one finder at a time");
        drop((gone, lives));
        assert_eq!(scan(&dir).unwrap().len(), 2);
    }

    #[test]
    fn who_could_have_been_written_by_others_is_not_believed_to_be_gone() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("incarnations");
        let chmod = |mode| std::fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        let incarnation = Incarnation { queue: QueueName::new("mail").unwrap(), id: "a:1.x".into() };
        drop(make(&dir, &incarnation, &Anchor::default()).unwrap());
        chmod(0o777);
        assert!(scan(&dir).err().is_some_and(|error| error.to_string().contains("chmod 700")));
        assert!(make(&dir, &incarnation, &Anchor::default()).is_err());
        chmod(0o700);
        assert_eq!(scan(&dir).unwrap().len(), 1);
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(dir.join("mail@a:1.x.lock"), Some(65_534), None).unwrap();
            assert!(scan(&dir).unwrap().is_empty());
        }
    }

    #[test]
    fn a_thousand_queues_are_proved_by_one_open_file_and_all_of_them_are_gone_together() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("incarnations");
        let open = || {
            std::fs::read_dir("/proc/self/fd")
                .unwrap()
                .filter(|fd| fd.as_ref().is_ok_and(|fd| std::fs::read_link(fd.path()).is_ok_and(|file| file.starts_with(&dir))))
        };
        let anchor = Anchor::default();
        let of = |n: usize| Incarnation { queue: QueueName::new(format!("q{n}")).unwrap(), id: format!("a:{n}").into() };
        let proofs: Vec<_> = (0..1000).map(|n| make(&dir, &of(n), &anchor).unwrap()).collect();
        assert_eq!(open().count(), 1);
        assert!(scan(&dir).unwrap().is_empty());
        drop((proofs, anchor));
        let mut gone: Vec<_> = scan(&dir).unwrap().into_iter().map(|gone| gone.incarnation.id.to_string()).collect();
        gone.sort_unstable();
        gone.dedup();
        assert_eq!(gone.len(), 1000);
    }

    #[test]
    fn brokers_do_not_share_a_directory() {
        let settings =
            |identity: &str| WorkerSettings { state: Some("/state".into()), broker_identity: identity.into(), ..WorkerSettings::new("w") };
        assert_ne!(directory(&settings("redis://a")), directory(&settings("redis://b")));
        assert_eq!(directory(&WorkerSettings::new("w")), None);
    }
}
