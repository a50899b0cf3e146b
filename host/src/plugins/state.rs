//! Last good plugins, kept across a restart: their bytes by digest, which file each belongs to, who owns each name, and the
//! history of each file.
//!
//! `<state>/<hash of the canonical plugin directory>/{index.json, history.json, DIGEST.wasm}`
//!
//! Invariant: what is written is never changed in place (temp file, fsync, rename), and bytes are given back only if they still
//! have their digest. Two workers on one directory write the same index, so it needs no lock; a history is added to under one.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    PluginsError,
    capture::{Identity, digest},
    history::History,
    judge::Owners,
};

/// Bytes that no file is known by are kept so long: another worker may be about to record them.
const ORPHANS_KEPT: Duration = Duration::from_secs(600);
/// A lock is held for moments; whoever holds it longer is stopped, and must not stop others.
const LOCK_TRIES: (u32, Duration) = (100, Duration::from_millis(10));
const INDEX: &str = "index.json";
const HISTORY: &str = "history.json";
const LOCK: &str = "history.lock";
/// Locked, shared, by every worker of the directory.
const ATTENDED: &str = "attended.lock";

/// What is remembered of one plugin directory.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Index {
    /// For people who look into the state directory.
    pub(super) directory: String,
    /// The digest that each file last served.
    pub(super) files: BTreeMap<String, String>,
    pub(super) owners: Owners,
}

/// The part of the state directory that belongs to one plugin directory.
#[derive(Debug)]
pub(super) struct State {
    dir: PathBuf,
    directory: String,
}

impl State {
    /// `Err(Refused)` when others could change what this host runs; `Err(Failed)` when the disk would not have it.
    pub(super) fn open(root: &Path, plugin_dir: &Path) -> Result<Self, OpenError> {
        let failed = |e: io::Error| OpenError::Failed(format!("cannot use the state directory ({e}): `{}`", root.display()));
        let canonical = plugin_dir.canonicalize().map_err(failed)?;
        let mut private = DirBuilder::new();
        private.recursive(true).mode(0o700);
        private.create(root).map_err(failed)?;
        check_private(root)?;
        let key = digest(canonical.as_os_str().as_encoded_bytes());
        let dir = root.join(key.get(..16).unwrap_or(&key));
        private.create(&dir).map_err(failed)?;
        check_private(&dir)?;
        Ok(Self { dir, directory: canonical.display().to_string() })
    }

    /// Nothing, when nothing was recorded yet.
    pub(super) fn index(&self) -> Result<Index, String> {
        let path = self.dir.join(INDEX);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Index::default()),
            Err(e) => return Err(format!("cannot read what was last served ({e}): `{}`", path.display())),
        };
        serde_json::from_slice(&text).map_err(|e| format!("what was last served is unreadable and starts anew ({e}): `{}`", path.display()))
    }

    /// The bytes of `wanted`, if they are still what they were.
    pub(super) fn read(&self, wanted: &str) -> Result<Vec<u8>, String> {
        let path = self.blob(wanted);
        let bytes = fs::read(&path).map_err(|e| format!("cannot read the last good version ({e}): `{}`", path.display()))?;
        if *digest(&bytes) == *wanted {
            Ok(bytes)
        } else {
            Err(format!("the last good version was changed on disk and is not used: `{}`", path.display()))
        }
    }

    /// Keeps `bytes` under their digest.
    pub(super) fn keep(&self, digest: &str, bytes: &[u8]) -> Result<(), String> {
        let path = self.blob(digest);
        // Present with the right length: `read` checks the digest, and a wrong one only costs the fallback.
        if fs::metadata(&path).is_ok_and(|meta| meta.len() == bytes.len() as u64) {
            // Young again, so that nobody takes it for an orphan before it is recorded.
            let touched = File::options().write(true).open(&path).and_then(|f| f.set_modified(self.now()?));
            if touched.is_ok() {
                return Ok(());
            }
        }
        self.write(&path, bytes).map_err(|e| self.unkept(&e))
    }

    /// Keeps the signature that made bytes trusted, so that they can be checked again after a restart.
    pub(super) fn keep_signature(&self, digest: &str, text: &str) -> Result<(), String> {
        let path = self.blob(digest).with_extension("minisig");
        if fs::read(&path).is_ok_and(|kept| kept == text.as_bytes()) {
            return Ok(());
        }
        self.write(&path, text.as_bytes()).map_err(|e| self.unkept(&e))
    }

    pub(super) fn signature(&self, digest: &str) -> Option<String> {
        fs::read_to_string(self.blob(digest).with_extension("minisig")).ok()
    }

    /// Remembers what is served now, and drops bytes that nothing is known by.
    pub(super) fn record(&self, files: BTreeMap<String, String>, owners: Owners) -> Result<(), String> {
        let index = Index { directory: self.directory.clone(), files, owners };
        let text = serde_json::to_vec_pretty(&index).map_err(|e| self.unkept(&e.into()))?;
        let path = self.dir.join(INDEX);
        self.write(&path, &text).map_err(|e| self.unkept(&e))?;
        self.drop_orphans(&index).map_err(|e| self.unkept(&e))
    }

    /// Which history stands there: another identity, another history. `None`: there is none.
    pub(super) fn history_identity(&self) -> Option<Identity> {
        fs::metadata(self.dir.join(HISTORY)).ok().map(|meta| Identity::of(&meta))
    }

    pub(super) fn history(&self) -> Result<History, String> {
        let path = self.dir.join(HISTORY);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(History::default()),
            Err(e) => return Err(format!("cannot read the history of the plugins ({e}): `{}`", path.display())),
        };
        serde_json::from_slice(&text)
            .map_err(|e| format!("the history of the plugins is unreadable and starts anew ({e}): `{}`", path.display()))
    }

    /// Changes the history while nobody else does. Also the identity of what then stands there.
    pub(super) fn change_history<T>(&self, change: impl FnOnce(&mut History) -> T) -> Result<(T, Option<Identity>), String> {
        let _lock = self.lock().map_err(|e| self.unkept(&e))?;
        let before = self.history();
        let mut after = before.clone().unwrap_or_else(|text| {
            tracing::warn!("{text}");
            History::default()
        });
        let changed = change(&mut after);
        if before.as_ref() != Ok(&after) {
            let text = serde_json::to_vec_pretty(&after).map_err(|e| self.unkept(&e.into()))?;
            self.write(&self.dir.join(HISTORY), &text).map_err(|e| self.unkept(&e))?;
        }
        Ok((changed, self.history_identity()))
    }

    fn lock(&self) -> io::Result<File> {
        let file = self.open_lock(LOCK)?;
        for _ in 0..LOCK_TRIES.0 {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_TRIES.1),
                // A file system without locks: then only two who write in the same moment can lose what one of them wrote.
                Err(TryLockError::Error(e)) => {
                    tracing::debug!("no lock on the state directory: {e}");
                    return Ok(file);
                }
            }
        }
        Err(io::Error::other(format!("somebody has held `{LOCK}` for a second")))
    }

    fn open_lock(&self, name: &str) -> io::Result<File> {
        File::options().create(true).truncate(false).write(true).mode(0o600).open(self.dir.join(name))
    }

    /// Shows, as long as the answer is held, that a worker attends to this directory.
    pub(super) fn attend(&self) -> Option<File> {
        let shown = self.open_lock(ATTENDED).and_then(|file| file.try_lock_shared().map(|()| file).map_err(io::Error::from));
        shown.inspect_err(|e| tracing::debug!("`plugin rollback` will not see this worker: {e}")).ok()
    }

    pub(super) fn is_attended(&self) -> bool {
        self.open_lock(ATTENDED).is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
    }

    fn drop_orphans(&self, index: &Index) -> io::Result<()> {
        let now = self.now()?;
        // What can't be told for sure is kept.
        let Ok(history) = self.history() else { return Ok(()) };
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let known = [INDEX, HISTORY, LOCK, ATTENDED].contains(&name.as_str())
                || name
                    .strip_suffix(".wasm")
                    .or(name.strip_suffix(".minisig"))
                    .is_some_and(|digest| index.files.values().any(|d| d == digest) || history.keeps(digest));
            let age = entry.metadata().and_then(|meta| meta.modified()).map(|at| now.duration_since(at).unwrap_or_default());
            if !known && age.is_ok_and(|age| age >= ORPHANS_KEPT) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// The time by the file system's own clock, which the ages of its files are measured by.
    fn now(&self) -> io::Result<std::time::SystemTime> {
        tempfile::Builder::new().prefix(".now").tempfile_in(&self.dir)?.as_file().metadata()?.modified()
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(".new").tempfile_in(&self.dir)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|e| e.error)?;
        // The rename itself lasts once the directory is on disk.
        File::open(&self.dir)?.sync_all()
    }

    fn blob(&self, digest: &str) -> PathBuf {
        // An index that somebody edited must not lead out of the directory.
        let name: String = digest.chars().filter(char::is_ascii_hexdigit).collect();
        self.dir.join(format!("{name}.wasm"))
    }

    fn unkept(&self, e: &io::Error) -> String {
        format!(
            "cannot keep the last good plugins ({e}): they serve on, but a bad file will not be replaced by its last good version after a \
             restart; make room in or give this user `{}`",
            self.dir.display()
        )
    }
}

/// Why there is no state directory.
#[derive(Debug)]
pub(super) enum OpenError {
    Refused(PluginsError),
    Failed(String),
}

fn check_private(dir: &Path) -> Result<(), OpenError> {
    let meta = fs::metadata(dir).map_err(|e| OpenError::Failed(format!("cannot use the state directory ({e}): `{}`", dir.display())))?;
    let me = rustix::process::geteuid().as_raw();
    let shown = dir.display();
    let refused = |text: String| Err(OpenError::Refused(PluginsError::State(text)));
    if meta.uid() != me {
        return refused(format!(
            "the state directory belongs to user {}, not to this one ({me}): run `chown {me} '{shown}'` or set another",
            meta.uid()
        ));
    }
    if meta.mode() & 0o077 != 0 {
        return refused(format!(
            "others may enter the state directory, so its code cannot be trusted: check it and run `chmod 700 '{shown}'`"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn state(root: &Path, plugins: &Path) -> State {
        match State::open(root, plugins) {
            Ok(state) => state,
            Err(e) => panic!("{e:?}"),
        }
    }

    #[test]
    fn what_is_kept_is_given_back_unless_it_was_changed() {
        let (root, plugins) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = root.path().join("state");
        let kept = state(&root, plugins.path());
        assert_eq!(kept.index().unwrap(), Index::default());
        let hash = digest(b"good");
        kept.keep(&hash, b"good").unwrap();
        kept.keep(&hash, b"good").unwrap();
        let files = BTreeMap::from([("math.wasm".to_owned(), hash.to_string())]);
        kept.record(files.clone(), Owners::default()).unwrap();
        let again = state(&root, plugins.path());
        assert_eq!(again.index().unwrap().files, files);
        assert_eq!(again.read(&hash).unwrap(), b"good");
        fs::write(again.blob(&hash), b"evil").unwrap();
        assert!(again.read(&hash).unwrap_err().contains("changed on disk"));
        fs::write(again.dir.join("index.json"), b"{").unwrap();
        assert!(again.index().is_err());
    }

    #[test]
    fn each_plugin_directory_has_its_own() {
        let (root, one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = root.path().join("state");
        assert_ne!(state(&root, one.path()).dir, state(&root, two.path()).dir);
        assert_eq!(state(&root, one.path()).dir, state(&root, &one.path().join(".")).dir);
    }

    #[test]
    fn a_directory_open_to_others_is_refused() {
        let (root, plugins) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o750)).unwrap();
        match State::open(root.path(), plugins.path()) {
            Err(OpenError::Refused(e)) => assert!(e.to_string().contains("chmod 700"), "{e}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_state_directory_that_cannot_be_made_is_no_refusal() {
        let (root, plugins) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = root.path().join("file");
        fs::write(&file, b"").unwrap();
        assert!(matches!(State::open(&file.join("state"), plugins.path()), Err(OpenError::Failed(_))));
    }

    #[test]
    fn old_orphans_are_dropped_and_young_ones_kept() {
        let (root, plugins) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let state = state(&root.path().join("state"), plugins.path());
        let [old, young, used] = [b"old", b"new", b"use"].map(|bytes| {
            state.keep(&digest(bytes), bytes).unwrap();
            digest(bytes)
        });
        let long_ago = state.now().unwrap() - ORPHANS_KEPT * 2;
        for hash in [&old, &used] {
            File::options().write(true).open(state.blob(hash)).unwrap().set_modified(long_ago).unwrap();
        }
        state.record(BTreeMap::from([("math.wasm".to_owned(), used.to_string())]), Owners::default()).unwrap();
        assert!(state.read(&old).is_err());
        assert!(state.read(&young).is_ok() && state.read(&used).is_ok());
    }
}
