//! Keeps across a restart: the bytes of last good plugins by digest, the file of each, the owner of each name, and the history of each file.
//!
//! `<state>/<hash of the canonical plugin directory>/{index.json, history.json, DIGEST.wasm}`
//!
//! Invariant: a file is never changed in place (temporary file, fsync, rename). Bytes are returned only if they still have their digest.
//! Two workers on one directory write the same index, so the index needs no lock. The history is changed under a lock.

use std::{
    collections::BTreeMap,
    fs::{File, TryLockError},
    io,
    path::Path,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    directory::{Identity, digest},
    history::History,
    judge::Owners,
    settings::PluginsError,
};
use crate::private::{self, Dir, Unusable};

/// How long bytes without a file are kept, because another worker may be about to record them.
const ORPHANS_KEPT: Duration = Duration::from_secs(600);
/// How long to wait for a lock. It is held for moments, so a longer holder is a stopped process, which must not stop others.
const LOCK_TRIES: (u32, Duration) = (100, Duration::from_millis(10));
const INDEX: &str = "index.json";
const HISTORY: &str = "history.json";
const LOCK: &str = "history.lock";
/// Every worker of the directory holds a shared lock on this file.
const ATTENDED: &str = "attended.lock";

/// The index of one plugin directory.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Index {
    /// The path of the directory, for people who look into the state directory.
    pub(super) directory: String,
    /// The digest that each file last served.
    pub(super) files: BTreeMap<String, String>,
    pub(super) owners: Owners,
}

/// The part of the state directory that belongs to one plugin directory.
#[derive(Debug)]
pub(super) struct State {
    dir: Dir,
    directory: String,
}

/// Why kept bytes could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unread {
    /// They are gone or changed. Another try is useless.
    Spoilt(String),
    /// The machine failed. Another try may succeed.
    Trouble(String),
}

impl State {
    /// `Err(Refused)` if others could change the code that this host runs; `Err(Failed)` if the disk fails.
    pub(super) fn open(root: &Path, plugin_dir: &Path) -> Result<Self, OpenError> {
        let canonical = plugin_dir
            .canonicalize()
            .map_err(|e| OpenError::Failed(format!("cannot use the state directory ({e}): `{}`", root.display())))?;
        let key = digest(canonical.as_os_str().as_encoded_bytes());
        let dir = Dir::make(root, "state directory").and_then(|root| root.within(key.get(..16).unwrap_or(&key)));
        let dir = dir.map_err(|why| match why {
            Unusable::Refused(text) => OpenError::Refused(PluginsError::State(text)),
            Unusable::Failed(text) => OpenError::Failed(text),
        })?;
        Ok(Self { dir, directory: canonical.display().to_string() })
    }

    /// A sentence if others could put another directory in the place of this one.
    pub(super) fn warning(&self) -> Option<String> {
        self.dir.warning()
    }

    /// The index; empty if nothing was recorded yet.
    pub(super) fn index(&self) -> Result<Index, Unread> {
        let text = match self.dir.read(INDEX) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Index::default()),
            Err(e) => return Err(Unread::of(&e, format!("cannot read what was last served ({e}): `{}`", self.shown(INDEX)))),
        };
        serde_json::from_slice(&text)
            .map_err(|e| Unread::Spoilt(format!("what was last served is unreadable and starts anew ({e}): `{}`", self.shown(INDEX))))
    }

    /// The bytes of `wanted`, if they still have that digest.
    pub(super) fn read(&self, wanted: &str) -> Result<Vec<u8>, Unread> {
        let name = blob(wanted);
        let bytes = self
            .dir
            .read(&name)
            .map_err(|e| Unread::of(&e, format!("cannot read the last good version ({e}): `{}`", self.shown(&name))))?;
        if *digest(&bytes) == *wanted {
            Ok(bytes)
        } else {
            Err(Unread::Spoilt(format!("the last good version was changed on disk and is not used: `{}`", self.shown(&name))))
        }
    }

    /// Keeps `bytes` under their digest.
    pub(super) fn keep(&self, digest: &str, bytes: &[u8]) -> Result<(), String> {
        let name = blob(digest);
        // The file exists with the right length. `read` checks the digest; a wrong one only costs the fallback.
        let there = self.dir.open(&name).ok().filter(|file| file.metadata().is_ok_and(|meta| meta.len() == bytes.len() as u64));
        // Its time is renewed, so that no worker removes it before it is recorded.
        if there.is_some_and(|file| self.now().and_then(|now| file.set_modified(now)).is_ok()) {
            return Ok(());
        }
        self.dir.write(&name, bytes).map_err(|e| self.unkept(&e))
    }

    /// Keeps the signature of trusted bytes, so that they can be verified again after a restart.
    pub(super) fn keep_signature(&self, digest: &str, text: &str) -> Result<(), String> {
        let name = signature(digest);
        if self.dir.read(&name).is_ok_and(|kept| kept == text.as_bytes()) {
            return Ok(());
        }
        self.dir.write(&name, text.as_bytes()).map_err(|e| self.unkept(&e))
    }

    /// `None`: there is none.
    pub(super) fn signature(&self, digest: &str) -> Result<Option<String>, Unread> {
        let name = signature(digest);
        match self.dir.read(&name) {
            Ok(text) => Ok(String::from_utf8(text).ok()),
            Err(e) if e.kind() == io::ErrorKind::NotFound || private::is_refusal(&e) => Ok(None),
            Err(e) => Err(Unread::Trouble(format!("cannot read the signature of its last good version ({e}): `{}`", self.shown(&name)))),
        }
    }

    /// Records the serving versions, and removes bytes that belong to nothing.
    pub(super) fn record(&self, files: BTreeMap<String, String>, owners: Owners) -> Result<(), String> {
        let index = Index { directory: self.directory.clone(), files, owners };
        let text = serde_json::to_vec_pretty(&index).map_err(|e| self.unkept(&e.into()))?;
        self.dir.write(INDEX, &text).map_err(|e| self.unkept(&e))?;
        self.drop_orphans(&index).map_err(|e| self.unkept(&e))
    }

    /// The identity of the history's file. Another identity means another content. `None`: there is no history.
    pub(super) fn history_identity(&self) -> Option<Identity> {
        self.dir.about(HISTORY).ok().map(|meta| Identity::of(&meta))
    }

    pub(super) fn history(&self) -> Result<History, Unread> {
        let text = match self.dir.read(HISTORY) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(History::default()),
            Err(e) => return Err(Unread::of(&e, format!("cannot read the history of the plugins ({e}): `{}`", self.shown(HISTORY)))),
        };
        serde_json::from_slice(&text).map_err(|e| {
            Unread::Spoilt(format!("the history of the plugins is unreadable and starts anew ({e}): `{}`", self.shown(HISTORY)))
        })
    }

    /// Changes the history under its lock. Also returns the identity of the new file.
    pub(super) fn change_history<T>(&self, change: impl FnOnce(&mut History) -> T) -> Result<(T, Option<Identity>), String> {
        let _lock = self.lock().map_err(|e| self.unkept(&e))?;
        let before = self.history();
        let mut after = match before.clone() {
            Ok(history) => history,
            Err(Unread::Spoilt(text)) => {
                tracing::warn!("{text}");
                History::default()
            }
            // The history exists and must not be overwritten.
            Err(Unread::Trouble(text)) => return Err(text),
        };
        let changed = change(&mut after);
        if before.as_ref() != Ok(&after) {
            let text = serde_json::to_vec_pretty(&after).map_err(|e| self.unkept(&e.into()))?;
            self.dir.write(HISTORY, &text).map_err(|e| self.unkept(&e))?;
        }
        Ok((changed, self.history_identity()))
    }

    fn lock(&self) -> io::Result<File> {
        let file = self.dir.open_lock(LOCK)?;
        for _ in 0..LOCK_TRIES.0 {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_TRIES.1),
                // The file system has no locks. Then two writers at the same moment may lose the change of one.
                Err(TryLockError::Error(e)) => {
                    tracing::debug!("no lock on the state directory: {e}");
                    return Ok(file);
                }
            }
        }
        Err(io::Error::other(format!("somebody has held `{LOCK}` for a second")))
    }

    /// Shows that a worker serves from this directory, as long as the answer is held.
    pub(super) fn attend(&self) -> Option<File> {
        let shown = self.dir.open_lock(ATTENDED).and_then(|file| file.try_lock_shared().map(|()| file).map_err(io::Error::from));
        shown.inspect_err(|e| tracing::debug!("`plugin rollback` will not see this worker: {e}")).ok()
    }

    pub(super) fn is_attended(&self) -> bool {
        self.dir.open_lock(ATTENDED).is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
    }

    fn drop_orphans(&self, index: &Index) -> io::Result<()> {
        let now = self.now()?;
        // When in doubt, the bytes are kept.
        let Ok(history) = self.history() else { return Ok(()) };
        for entry in self.dir.entries()? {
            let name = entry.name.as_str();
            let known = [INDEX, HISTORY, LOCK, ATTENDED].contains(&name)
                || name
                    .strip_suffix(".wasm")
                    .or(name.strip_suffix(".minisig"))
                    .is_some_and(|digest| index.files.values().any(|d| d == digest) || history.keeps(digest));
            if !known && now.duration_since(entry.modified).unwrap_or_default() >= ORPHANS_KEPT {
                self.dir.remove(name)?;
            }
        }
        Ok(())
    }

    /// The time by the file system's own clock, by which the ages of its files are measured.
    fn now(&self) -> io::Result<std::time::SystemTime> {
        self.dir.temporary()?.file.metadata()?.modified()
    }

    fn shown(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn unkept(&self, e: &io::Error) -> String {
        format!(
            "cannot keep the last good plugins ({e}): they serve on, but a bad file will not be replaced by its last good version after a \
             restart; make room in or give this user `{}`",
            self.dir.path().display()
        )
    }
}

/// Why there is no state directory.
#[derive(Debug)]
pub(super) enum OpenError {
    Refused(PluginsError),
    Failed(String),
}

impl Unread {
    fn of(error: &io::Error, text: String) -> Self {
        let lasting = error.kind() == io::ErrorKind::NotFound || private::is_refusal(error);
        if lasting { Self::Spoilt(text) } else { Self::Trouble(text) }
    }

    pub(super) fn into_text(self) -> String {
        let (Self::Spoilt(text) | Self::Trouble(text)) = self;
        text
    }
}

fn blob(digest: &str) -> String {
    format!("{}.wasm", only_hex(digest))
}

fn signature(digest: &str) -> String {
    format!("{}.minisig", only_hex(digest))
}

/// Refuses names by which an edited index could lead out of the directory.
fn only_hex(digest: &str) -> String {
    digest.chars().filter(char::is_ascii_hexdigit).collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

    use super::*;

    fn state(root: &Path, plugins: &Path) -> State {
        match State::open(root, plugins) {
            Ok(state) => state,
            Err(e) => panic!("{e:?}"),
        }
    }

    fn at(state: &State, digest: &str) -> PathBuf {
        state.dir.path().join(blob(digest))
    }

    #[test]
    fn last_good_bytes_are_spoilt_only_when_they_are_not_what_they_were() {
        let (root, plugins) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let state = state(&root.path().join("state"), plugins.path());
        let hash = digest(b"good");
        assert!(matches!(state.read(&hash), Err(Unread::Spoilt(_))), "there is none");
        for errno in [rustix::io::Errno::MFILE, rustix::io::Errno::IO, rustix::io::Errno::NOMEM, rustix::io::Errno::ACCESS] {
            assert!(matches!(Unread::of(&errno.into(), String::new()), Unread::Trouble(_)), "{errno}");
        }
        state.keep(&hash, b"good").unwrap();
        fs::set_permissions(at(&state, &hash), fs::Permissions::from_mode(0o622)).unwrap();
        assert!(matches!(state.read(&hash), Err(Unread::Spoilt(text)) if text.contains("others may write")));
        fs::remove_file(at(&state, &hash)).unwrap();
        std::os::unix::fs::symlink(root.path().join("elsewhere"), at(&state, &hash)).unwrap();
        assert!(matches!(state.read(&hash), Err(Unread::Spoilt(text)) if text.contains("symbolic link")));
        state.keep(&hash, b"good").unwrap();
        assert_eq!(state.read(&hash).unwrap(), b"good", "what stood in the way was replaced");
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
        fs::write(at(&again, &hash), b"evil").unwrap();
        assert!(again.read(&hash).unwrap_err().into_text().contains("changed on disk"));
        fs::write(again.dir.path().join("index.json"), b"{").unwrap();
        assert!(again.index().is_err());
    }

    #[test]
    fn each_plugin_directory_has_its_own() {
        let (root, one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = root.path().join("state");
        assert_ne!(state(&root, one.path()).dir.path(), state(&root, two.path()).dir.path());
        assert_eq!(state(&root, one.path()).dir.path(), state(&root, &one.path().join(".")).dir.path());
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
            File::options().write(true).open(at(&state, hash)).unwrap().set_modified(long_ago).unwrap();
        }
        state.record(BTreeMap::from([("math.wasm".to_owned(), used.to_string())]), Owners::default()).unwrap();
        assert!(state.read(&old).is_err());
        assert!(state.read(&young).is_ok() && state.read(&used).is_ok());
    }
}
