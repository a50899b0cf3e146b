//! Proof that a worker is gone: a locked file an incarnation, in a directory that the workers of this machine share.
//!
//! registered → file made, locked, then named → the process ends, however it does: the lock is free → whoever takes it knows,
//! and asks the broker to expire the incarnation: its tasks are adopted at once instead of when the lease ends.
//!
//! Invariant: a named file is locked for as long as its incarnation may claim. The directory is one broker's.

use std::{
    fs::{File, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use sha2::{Digest as _, Sha256};

use super::{Shared, WorkerSettings};
use crate::{broker::Incarnation, task::QueueName};

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
    _locked: File,
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
pub(super) async fn take(shared: &Shared, incarnation: &Incarnation) -> Option<Proof> {
    let dir = directory(&shared.settings)?;
    let incarnation = incarnation.clone();
    let made = tokio::task::spawn_blocking(move || make(&dir, &incarnation)).await;
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
    let Some(dir) = directory(&shared.settings) else { return };
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
    locked: File,
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

fn make(dir: &Path, incarnation: &Incarnation) -> io::Result<Proof> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    // Neither a queue's name nor an incarnation's id has an `@`.
    let stem = format!("{}@{}", incarnation.queue, incarnation.id);
    let making = dir.join(format!("{stem}.{MAKING}"));
    let path = dir.join(format!("{stem}.{NAMED}"));
    let file = File::options().write(true).create_new(true).mode(0o600).open(&making)?;
    file.try_lock().map_err(io::Error::from)?;
    std::fs::rename(&making, &path)?;
    Ok(Proof { path, _locked: file })
}

/// Every named file whose lock is free, now locked by us.
fn scan(dir: &Path) -> io::Result<Vec<Gone>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut gone = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        let Some(extension @ (NAMED | MAKING)) = extension else { continue };
        let Ok(file) = File::open(&path) else { continue };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => continue,
            Err(TryLockError::Error(error)) => return Err(error),
        }
        if extension == NAMED {
            let Some(incarnation) = path.file_stem().and_then(|stem| parse(stem.to_str()?)) else { continue };
            gone.push(Gone { incarnation, path, locked: file });
        } else if file.metadata()?.modified()?.elapsed().is_ok_and(|age| age > ABANDONED) {
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
        let lives = make(&dir, &incarnation("a:1.x")).unwrap();
        let dies = make(&dir, &incarnation("b:2.y")).unwrap();
        assert!(scan(&dir).unwrap().is_empty());
        drop(dies);
        let gone = scan(&dir).unwrap();
        assert_eq!(gone.iter().map(|gone| gone.incarnation.clone()).collect::<Vec<_>>(), [incarnation("b:2.y")]);
        assert!(scan(&dir).unwrap().is_empty(), "one finder at a time");
        drop((gone, lives));
        assert_eq!(scan(&dir).unwrap().len(), 2);
    }

    #[test]
    fn brokers_do_not_share_a_directory() {
        let settings =
            |identity: &str| WorkerSettings { state: Some("/state".into()), broker_identity: identity.into(), ..WorkerSettings::new("w") };
        assert_ne!(directory(&settings("redis://a")), directory(&settings("redis://b")));
        assert_eq!(directory(&WorkerSettings::new("w")), None);
    }
}
