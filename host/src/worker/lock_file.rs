//! Lock files: a locked file for each incarnation proves to the other workers of this machine that its process lives.
//!
//! registered → a file is made, locked, then named → the process ends in any way, which frees the lock → the worker that takes the
//! lock next knows that the process is gone. It has the broker expire the incarnation, so that its tasks are adopted at once.
//!
//! The files of one worker are links to one file. So one open descriptor keeps all of them locked, however many queues there are.
//!
//! Invariant: a named file is locked as long as its incarnation may claim. The directory belongs to one broker.

use std::{
    collections::HashMap,
    fs::{File, TryLockError},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use crate::private;
use taskhost_broker::Incarnation;
use taskhost_core::task::QueueName;

/// A file that was never named is removed after this time.
const ABANDONED: Duration = Duration::from_secs(60);
const NAMED: &str = "lock";
const MAKING: &str = "making";

/// The lock files of one worker.
#[derive(Debug)]
pub(super) struct LockFiles {
    /// `None`: no state directory. Then other workers wait for the lease to end.
    dir: Option<PathBuf>,
    anchor: Anchor,
    tracker: TaskTracker,
    control: Handle,
}

/// A locked file: its incarnation lives. Dropped without [`LockFiles::retire`], it shows the opposite.
#[derive(Debug)]
pub(super) struct LockFile {
    path: PathBuf,
    _locked: Arc<File>,
}

/// The file that the lock files of one worker are links to, and its path. It is made with the first of them.
#[derive(Debug, Default)]
struct Anchor(Mutex<Option<(PathBuf, Arc<File>)>>);

/// An incarnation whose process is gone. This process has its lock now.
pub(super) struct Gone {
    pub(super) incarnation: Incarnation,
    pub(super) path: PathBuf,
    pub(super) locked: Arc<File>,
}

impl LockFiles {
    /// `tracker` waits for file operations, which run on `control`.
    pub(super) fn new(state: Option<&Path>, broker_identity: &str, tracker: TaskTracker, control: Handle) -> Self {
        Self { dir: state.map(|state| directory(state, broker_identity)), anchor: Anchor::default(), tracker, control }
    }

    pub(super) fn dir(&self) -> Option<&Path> {
        self.dir.as_deref()
    }

    /// Makes the lock file of an incarnation. Without one, other workers wait for its lease to end.
    pub(super) async fn make(self: &Arc<Self>, incarnation: &Incarnation) -> Option<LockFile> {
        let dir = self.dir.clone()?;
        let (files, incarnation) = (Arc::clone(self), incarnation.clone());
        match tokio::task::spawn_blocking(move || make(&dir, &incarnation, &files.anchor)).await {
            Ok(Ok(file)) => Some(file),
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

    /// Removes the file of an incarnation that is over and that nobody needs to expire.
    pub(super) fn retire(&self, file: &LockFile) {
        let path = file.path.clone();
        let remove = move || {
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::debug!(path = %path.display(), %error, "could not remove a lock file");
            }
        };
        self.tracker.spawn_blocking_on(remove, &self.control);
    }
}

impl Drop for Anchor {
    fn drop(&mut self) {
        if let Some((path, _locked)) = self.0.lock().take() {
            // Other workers remove a file that stays.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The directory of one broker, so that no worker expires an incarnation of another broker.
fn directory(state: &Path, broker_identity: &str) -> PathBuf {
    let digest = Sha256::digest(broker_identity.as_bytes());
    state.join("incarnations").join(hex::encode(&digest[..8]))
}

/// Makes the directory if it is missing. A user who can write to it could make live workers look gone, so it is this user's alone.
fn own(dir: &Path) -> io::Result<()> {
    private::Dir::make(dir, "directory of lock files").map(drop).map_err(|why| {
        let (private::Unusable::Refused(text) | private::Unusable::Failed(text)) = why;
        io::Error::other(text)
    })
}

fn make(dir: &Path, incarnation: &Incarnation, anchor: &Anchor) -> io::Result<LockFile> {
    own(dir)?;
    // Neither a queue's name nor an incarnation's id has an `@`.
    let stem = format!("{}@{}", incarnation.queue, incarnation.id);
    let path = dir.join(format!("{stem}.{NAMED}"));
    let mut anchor = anchor.0.lock();
    if let Some((making, locked)) = &*anchor
        && std::fs::hard_link(making, &path).is_ok()
    {
        return Ok(LockFile { path, _locked: locked.clone() });
    }
    // This is the first file, or somebody has removed the anchor.
    let making = dir.join(format!("{stem}.{MAKING}"));
    let file = File::options().write(true).create_new(true).mode(0o600).open(&making)?;
    file.try_lock().map_err(io::Error::from)?;
    let file = Arc::new(file);
    if std::fs::hard_link(&making, &path).is_ok() {
        if let Some((old, _locked)) = anchor.replace((making, file.clone())) {
            let _gone_already = std::fs::remove_file(old);
        }
    } else {
        // A file system without links: each incarnation has a file of its own.
        std::fs::rename(&making, &path)?;
    }
    Ok(LockFile { path, _locked: file })
}

/// Every named file whose lock was free. This process has the locks now. Blocks on the file system.
pub(super) fn scan(dir: &Path) -> io::Result<Vec<Gone>> {
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
    fn a_file_that_others_could_write_proves_nothing() {
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
    fn a_thousand_queues_need_one_open_file_and_all_of_them_are_gone_together() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("incarnations");
        let open = || {
            std::fs::read_dir("/proc/self/fd")
                .unwrap()
                .filter(|fd| fd.as_ref().is_ok_and(|fd| std::fs::read_link(fd.path()).is_ok_and(|file| file.starts_with(&dir))))
        };
        let anchor = Anchor::default();
        let of = |n: usize| Incarnation { queue: QueueName::new(format!("q{n}")).unwrap(), id: format!("a:{n}").into() };
        let files: Vec<_> = (0..1000).map(|n| make(&dir, &of(n), &anchor).unwrap()).collect();
        assert_eq!(open().count(), 1);
        assert!(scan(&dir).unwrap().is_empty());
        drop((files, anchor));
        let mut gone: Vec<_> = scan(&dir).unwrap().into_iter().map(|gone| gone.incarnation.id.to_string()).collect();
        gone.sort_unstable();
        gone.dedup();
        assert_eq!(gone.len(), 1000);
    }

    #[test]
    fn brokers_do_not_share_a_directory() {
        let of = |identity: &str| directory(Path::new("/state"), identity);
        assert_ne!(of("redis://a"), of("redis://b"));
    }
}
