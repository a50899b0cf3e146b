//! Lists the plugin directory, and reads files once they have settled.
//!
//! list → stat → wait → stat equal → read → stat equal → SHA-256. The path is never opened again: these bytes are the plugin.
//!
//! Invariant: a file whose identity has not changed since it was read is not read again.

use std::{
    fs::{File, Metadata},
    io::{self, Read},
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use sha2::{Digest as _, Sha256};

use super::{
    digest::Digest,
    writable::{self, Writable},
};
use taskhost_core::task::{Clock, SystemClock};

/// The most bytes of a plugin.
pub(super) const FILE_MAX: u64 = 64 << 20;

/// A file that has not changed for this time has settled. It is longer than a tick of any file system's clock, so that equal times
/// can't hide a write after the last stat.
pub(super) const SETTLE: Duration = Duration::from_millis(100);

/// A file whose last change is longer ago than this has settled already.
const OLD: Duration = Duration::from_secs(2);

/// Tells two contents of a path apart without reading them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    dev: u64,
    ino: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn of(meta: &Metadata) -> Self {
        Self {
            dev: meta.dev(),
            ino: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// One `*.wasm` of the directory.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) file: String,
    pub(super) path: PathBuf,
    /// The identity of the file that a link leads to; or a sentence that says why it can't be a plugin.
    pub(super) identity: Result<Identity, String>,
    /// A sentence if others may write to it.
    pub(super) warning: Option<String>,
}

impl Seen {
    /// Whether it was written or moved long ago. This goes by the change time, which nobody can set, and leaves room for coarse clocks.
    pub(super) fn is_old(&self) -> bool {
        let Ok(identity) = &self.identity else { return true };
        let changed = u64::try_from(identity.changed.0).unwrap_or(u64::MAX);
        SystemClock.now().0 / 1000 > changed.saturating_add(OLD.as_secs())
    }
}

/// The result of a look into the directory.
#[derive(Debug)]
pub(super) enum Listing {
    /// In the order of names. `place` is the device and inode of the directory. Others mean that the directory was replaced.
    Files {
        files: Vec<Seen>,
        place: (u64, u64),
        /// A sentence if others may write to it.
        warning: Option<String>,
    },
    /// The directory itself is missing.
    Gone(String),
    Unreadable(String),
}

/// Lists the directory. Blocks on the file system. With `plugin_dir_writable = "refuse"`, files that others may write to count as unreadable.
pub(super) fn list(dir: &Path, writable: Writable) -> Listing {
    let failed = |e: &io::Error| {
        if e.kind() == io::ErrorKind::NotFound {
            Listing::Gone(format!("the plugin directory is gone, make it again or stop the worker: `{}`", dir.display()))
        } else {
            Listing::Unreadable(format!(
                "the plugin directory cannot be read ({e}), give this user the right to list it: `{}`",
                dir.display()
            ))
        }
    };
    let place = match std::fs::metadata(dir) {
        Ok(meta) => (meta.dev(), meta.ino()),
        Err(e) => return failed(&e),
    };
    let warning = if writable == Writable::Allow { None } else { writable::directory(dir) };
    if let Some(text) = warning.as_ref().filter(|_| writable == Writable::Refuse) {
        return Listing::Unreadable(text.clone());
    }
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) => return failed(&e),
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            // Half a listing would unload the files of the other half.
            Err(e) => return failed(&e),
        };
        let file = entry.file_name().to_string_lossy().into_owned();
        if !is_candidate(&file) {
            continue;
        }
        let path = entry.path();
        let mut warning = None;
        let identity = match std::fs::metadata(&path) {
            Ok(meta) => usable(&file, &meta).and_then(|()| {
                let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
                warning = if writable == Writable::Allow { None } else { writable::file(&file, &path, &meta, is_link) };
                match warning.take_if(|_| writable == Writable::Refuse) {
                    Some(text) => Err(text),
                    None => Ok(Identity::of(&meta)),
                }
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                if std::fs::symlink_metadata(&path).is_err() {
                    continue; // removed since it was listed
                }
                Err(format!("{file} is a symbolic link that leads nowhere: point it at the plugin, or remove it"))
            }
            Err(e) => Err(unreadable(&file, &e)),
        };
        files.push(Seen { file, path, identity, warning });
    }
    files.sort_by(|a, b| a.file.cmp(&b.file));
    Listing::Files { files, place, warning }
}

/// `*.wasm`, except the temporary files of editors, copy tools and Kubernetes (`..data`).
fn is_candidate(file: &str) -> bool {
    file.strip_suffix(".wasm").is_some_and(|stem| !stem.is_empty()) && !file.starts_with('.')
}

fn usable(file: &str, meta: &Metadata) -> Result<(), String> {
    let kind = meta.file_type();
    if !kind.is_file() {
        let what = if kind.is_dir() {
            "a directory"
        } else if kind.is_fifo() {
            "a pipe"
        } else {
            "a device or socket"
        };
        return Err(format!("{file} is {what}, not a file: put the component itself there"));
    }
    if meta.size() > FILE_MAX {
        return Err(format!(
            "{file} has {} MiB, more than the {} MiB a plugin may have: build it with `opt-level`, `lto` and `strip`",
            meta.size() >> 20,
            FILE_MAX >> 20
        ));
    }
    Ok(())
}

fn unreadable(file: &str, e: &io::Error) -> String {
    format!("cannot read {file} ({e}): let this user read the file, and copy it again if that does not help")
}

/// The result of reading one file.
#[derive(Debug)]
pub(super) enum Captured {
    Settled {
        digest: Digest,
        bytes: Arc<[u8]>,
    },
    /// It changed meanwhile: read it again soon.
    Unsettled,
    Trouble(String),
}

/// Reads the file whose `identity` was seen [`SETTLE`] ago. Blocks on the file system.
pub(super) fn capture(file: &str, path: &Path, identity: Identity) -> Captured {
    match read(path, identity) {
        Ok(Some(bytes)) => Captured::Settled { digest: digest(&bytes), bytes: bytes.into() },
        Ok(None) => Captured::Unsettled,
        // The next listing tells whether it is gone.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Captured::Unsettled,
        Err(e) => Captured::Trouble(unreadable(file, &e)),
    }
}

/// The identity and digest of a file at this moment. Blocks on the file system.
pub(super) fn standing(path: &Path) -> io::Result<(Identity, Digest)> {
    let meta = open(path)?.metadata()?;
    if !meta.is_file() || meta.size() > FILE_MAX {
        return Err(io::Error::other("it is no file that could be a plugin"));
    }
    let identity = Identity::of(&meta);
    let bytes = read(path, identity)?.ok_or_else(|| io::Error::other("it is being changed: try again"))?;
    Ok((identity, digest(&bytes)))
}

/// Whether the path still leads to the same content.
pub(super) fn is_still(path: &Path, identity: Identity) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| Identity::of(&meta) == identity)
}

/// Opens without blocking: if a pipe has taken the file's place, opening must not wait for a writer.
fn open(path: &Path) -> io::Result<File> {
    let nonblock = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    File::options().read(true).custom_flags(nonblock).open(path)
}

fn read(path: &Path, identity: Identity) -> io::Result<Option<Vec<u8>>> {
    let file = open(path)?;
    if Identity::of(&file.metadata()?) != identity {
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(usize::try_from(identity.size).unwrap_or(0));
    (&file).take(FILE_MAX + 1).read_to_end(&mut bytes)?;
    let unchanged = Identity::of(&file.metadata()?) == identity && Identity::of(&std::fs::metadata(path)?) == identity;
    Ok((unchanged && bytes.len() as u64 == identity.size).then_some(bytes))
}

/// SHA-256 in lower-case hex.
pub(super) fn digest(bytes: &[u8]) -> Digest {
    hex::encode(Sha256::digest(bytes)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(dir: &Path) -> Vec<Seen> {
        match list(dir, Writable::Warn) {
            Listing::Files { files, .. } => files,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_plugins_are_listed_and_links_are_followed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["math.wasm", ".math.wasm", "math.wasm.tmp", "..data.wasm", ".wasm", "README.md"] {
            std::fs::write(at(name), b"x").unwrap();
        }
        std::fs::create_dir(at("deep.wasm")).unwrap();
        std::os::unix::fs::symlink(at("math.wasm"), at("link.wasm")).unwrap();
        std::os::unix::fs::symlink(at("nothing"), at("nowhere.wasm")).unwrap();
        let files = seen(dir.path());
        assert_eq!(files.iter().map(|s| s.file.as_str()).collect::<Vec<_>>(), ["deep.wasm", "link.wasm", "math.wasm", "nowhere.wasm"]);
        assert_eq!(files[0].identity, Err("deep.wasm is a directory, not a file: put the component itself there".into()));
        assert_eq!(files[1].identity, files[2].identity, "a link is what it leads to");
        assert!(files[3].identity.as_ref().unwrap_err().contains("leads nowhere"));
    }

    #[test]
    fn a_directory_that_is_gone_is_told_from_one_that_cannot_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, b"").unwrap();
        assert!(matches!(list(&dir.path().join("none"), Writable::Warn), Listing::Gone(_)));
        assert!(matches!(list(&file, Writable::Warn), Listing::Unreadable(_)));
    }

    #[test]
    fn only_bytes_that_stood_still_are_captured() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("math.wasm");
        std::fs::write(&path, b"abc").unwrap();
        let identity = *seen(dir.path())[0].identity.as_ref().unwrap();
        match capture("math.wasm", &path, identity) {
            Captured::Settled { digest, bytes } => {
                // FIPS 180-2, appendix B.1
                assert_eq!(&*digest, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
                assert_eq!(&*bytes, b"abc");
            }
            other => panic!("{other:?}"),
        }
        std::fs::write(&path, b"abcd").unwrap();
        assert!(matches!(capture("math.wasm", &path, identity), Captured::Unsettled), "it grew");
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(capture("math.wasm", &path, identity), Captured::Unsettled), "it went");
    }

    #[test]
    fn a_file_beyond_the_limit_is_refused_unread() {
        let dir = tempfile::tempdir().unwrap();
        File::create(dir.path().join("big.wasm")).unwrap().set_len(FILE_MAX + 1).unwrap();
        assert!(seen(dir.path())[0].identity.as_ref().unwrap_err().starts_with("big.wasm has 64 MiB, more than the 64 MiB"));
    }
}
