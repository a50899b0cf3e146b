//! Directories that belong to this user alone, held by descriptor: the checked directory is the one that is used.
//!
//! path → made if missing → opened → owner and mode checked by descriptor → each file opened by its name from there, then checked
//!
//! Invariant: everything that is read from there was written by this user. A path that leads elsewhere later changes nothing.

use std::{
    fs::{self, DirBuilder, File, Metadata},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, openat, renameat, statat, unlinkat};

/// Bits of a mode: others may write, others may do anything, only owners may remove entries (sticky).
pub(crate) const OTHERS_WRITE: u32 = 0o022;
const OTHERS: u32 = 0o077;
const STICKY: u32 = 0o1000;
/// The name of a file until it gets its own.
pub(crate) const TEMPORARY: &str = ".tmp-";

/// Why the directory can't be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unusable {
    /// Others could change its content.
    Refused(String),
    /// The machine failed.
    Failed(String),
}

/// One directory.
#[derive(Debug)]
pub(crate) struct Dir {
    path: PathBuf,
    /// Its name in sentences, such as `cache directory`.
    what: &'static str,
    held: Mutex<Arc<File>>,
}

/// One regular file of such a directory.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) modified: SystemTime,
}

impl Dir {
    /// Makes the directory, or refuses one that others could write to. In a volume that root made for everybody, as in Kubernetes, it makes a
    /// directory of its own.
    pub(crate) fn make(path: &Path, what: &'static str) -> Result<Self, Unusable> {
        let (path, held) = hold(path, what)?;
        Ok(Self { path, what, held: Mutex::new(Arc::new(held)) })
    }

    /// A directory in this one.
    pub(crate) fn within(&self, name: &str) -> Result<Self, Unusable> {
        Self::make(&self.path.join(name), self.what)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A sentence if others could replace this directory. This process holds it, but the next start would find another.
    pub(crate) fn warning(&self) -> Option<String> {
        above(&self.path).map(|found| format!("others may put another {} in the place of `{}` by {found}", self.what, self.path.display()))
    }

    /// The descriptor, checked again. A deleted directory is made again.
    fn held(&self) -> io::Result<Arc<File>> {
        let mut held = self.held.lock();
        let about = held.metadata()?;
        if about.nlink() == 0 {
            let (_, anew) = hold(&self.path, self.what).map_err(|why| match why {
                Unusable::Refused(text) => refusal(text),
                Unusable::Failed(text) => io::Error::other(text),
            })?;
            *held = Arc::new(anew);
        } else if let Err(unfit) = judge(about.uid(), about.mode(), me()) {
            return Err(refusal(unfit.sentence(self.what, &self.path)));
        }
        Ok(Arc::clone(&held))
    }

    /// Opens a file for reading, and checks it.
    pub(crate) fn open(&self, name: &str) -> io::Result<File> {
        // If it is a pipe, opening it must not wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = openat(&*self.held()?, name, flags, Mode::empty()).map_err(|error| match error {
            rustix::io::Errno::LOOP => refusal("it is a symbolic link".into()),
            error => error.into(),
        });
        let file = File::from(opened?);
        check(&file.metadata()?)?;
        Ok(file)
    }

    /// Reads a whole file.
    pub(crate) fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open(name)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// A file without a name. It is removed if it is dropped before it gets one.
    pub(crate) fn temporary(&self) -> io::Result<Temporary> {
        let (dir, name) = (self.held()?, format!("{TEMPORARY}{:016x}", fastrand::u64(..)));
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&*dir, &name, flags, Mode::RUSR | Mode::WUSR)?.into();
        Ok(Temporary { dir, name: Some(name), file })
    }

    /// Writes a file in one step. It is never half written, also after a crash.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut new = self.temporary()?;
        new.file.write_all(bytes)?;
        new.persist(name).map(drop)
    }

    /// Opens a file for locking, not for reading. Makes it if it is missing.
    pub(crate) fn open_lock(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(openat(&*self.held()?, name, flags, Mode::RUSR | Mode::WUSR)?.into())
    }

    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        Ok(unlinkat(&*self.held()?, name, AtFlags::empty())?)
    }

    /// The metadata of a name, links not followed.
    pub(crate) fn about(&self, name: &str) -> io::Result<Metadata> {
        self.open(name)?.metadata()
    }

    /// The regular files in it.
    pub(crate) fn entries(&self) -> io::Result<Vec<Entry>> {
        let dir = self.held()?;
        let mut entries = Vec::new();
        for found in rustix::fs::Dir::read_from(&*dir)? {
            let Ok(name) = found?.file_name().to_str().map(str::to_owned) else { continue };
            let Ok(about) = statat(&*dir, &name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            if rustix::fs::FileType::from_raw_mode(about.st_mode).is_file() {
                let modified = UNIX_EPOCH + Duration::from_secs(u64::try_from(about.st_mtime).unwrap_or(0));
                entries.push(Entry { name, bytes: u64::try_from(about.st_size).unwrap_or(0), modified });
            }
        }
        Ok(entries)
    }

    /// Does something under a lock. On a file system without locks it does it without.
    pub(crate) fn locked<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        let dir = self.held()?;
        let locked = rustix::fs::flock(&*dir, rustix::fs::FlockOperation::LockExclusive);
        let done = work();
        if locked.is_ok() {
            let _ = rustix::fs::flock(&*dir, rustix::fs::FlockOperation::Unlock);
        }
        Ok(done)
    }

    /// Whether its files may be mapped for execution.
    pub(crate) fn may_execute(&self) -> bool {
        let about = self.held().and_then(|dir| Ok(rustix::fs::fstatvfs(&*dir)?));
        about.map_or(true, |about| !about.f_flag.contains(rustix::fs::StatVfsMountFlags::NOEXEC))
    }
}

/// A file that gets its name when it is complete.
#[derive(Debug)]
pub(crate) struct Temporary {
    dir: Arc<File>,
    name: Option<String>,
    pub(crate) file: File,
}

impl Temporary {
    /// Gives it its name, durably. Returns the file, still open.
    pub(crate) fn persist(mut self, name: &str) -> io::Result<File> {
        self.file.sync_all()?;
        if let Some(own) = &self.name {
            renameat(&*self.dir, own, &*self.dir, name)?;
        }
        self.name = None;
        // The rename is durable once the directory is on disk.
        self.dir.sync_all()?;
        self.file.try_clone()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(name) = &self.name
            && let Err(error) = unlinkat(&*self.dir, name, AtFlags::empty())
        {
            tracing::debug!("can't remove a temporary file: {error}: `{name}`");
        }
    }
}

/// Whether a file was refused because others could have written it. Another try is useless until somebody mends it.
pub(crate) fn is_refusal(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidData
}

/// Whether an open file has no second name, by which somebody else could reach it.
pub(crate) fn has_one_name(about: &Metadata) -> bool {
    about.nlink() <= 1
}

/// Whether an open file belongs to this user.
pub(crate) fn is_own(about: &Metadata) -> bool {
    about.uid() == me()
}

fn refusal(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn me() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Whether only this user can have written the opened file.
fn check(about: &Metadata) -> io::Result<()> {
    let why = if !about.is_file() {
        "it is not a regular file".to_owned()
    } else if about.uid() != me() {
        format!("it belongs to user {}, not to this one ({})", about.uid(), me())
    } else if about.mode() & OTHERS_WRITE != 0 {
        "others may write to it".to_owned()
    } else {
        return Ok(());
    };
    Err(refusal(why))
}

/// Why a directory does not belong to this user alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unfit {
    /// It belongs to this user, and others may enter it.
    Open,
    /// It belongs to root, who has all rights anyway.
    Roots,
    Theirs(u32),
}

fn judge(owner: u32, mode: u32, me: u32) -> Result<(), Unfit> {
    match owner {
        _ if owner == me && mode & OTHERS == 0 => Ok(()),
        _ if owner == me => Err(Unfit::Open),
        0 => Err(Unfit::Roots),
        _ => Err(Unfit::Theirs(owner)),
    }
}

impl Unfit {
    fn sentence(self, what: &str, path: &Path) -> String {
        let (me, shown) = (me(), path.display());
        let owner = match self {
            Self::Open => {
                return format!(
                    "others may enter the {what}, so what is in it cannot be trusted: check it and run `chmod 700 '{shown}'`, or name another"
                );
            }
            Self::Roots => 0,
            Self::Theirs(owner) => owner,
        };
        format!(
            "the {what} belongs to user {owner}, not to this one ({me}), so what is in it cannot be trusted: run `chown {me} '{shown}'`, or \
             name another"
        )
    }
}

/// The real path of the directory, and its descriptor.
fn hold(path: &Path, what: &'static str) -> Result<(PathBuf, File), Unusable> {
    let failed = |error: io::Error| Unusable::Failed(format!("cannot use the {what} ({error}): `{}`", path.display()));
    let refused = |unfit: Unfit, path: &Path| Unusable::Refused(unfit.sentence(what, path));
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let held = File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(|error| failed(error.into()))?);
    let about = held.metadata().map_err(failed)?;
    match judge(about.uid(), about.mode(), me()) {
        Ok(()) => Ok((path.to_owned(), held)),
        Err(Unfit::Roots) => {
            let own = format!("taskhost-{}", me());
            let path = path.join(&own);
            match mkdirat(&held, &own, Mode::RWXU) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(_) => return Err(refused(Unfit::Roots, path.parent().unwrap_or(&path))),
            }
            let held = openat(&held, &own, flags | OFlags::NOFOLLOW, Mode::empty()).map_err(|error| failed(error.into()))?;
            let held = File::from(held);
            let about = held.metadata().map_err(failed)?;
            judge(about.uid(), about.mode(), me()).map_err(|unfit| refused(unfit, &path))?;
            Ok((path, held))
        }
        Err(unfit) => Err(refused(unfit, path)),
    }
}

/// The nearest directory above that others may write to, and what to do about it. A sticky one such as /tmp is fine: nobody can rename
/// other users' entries in it.
pub(crate) fn above(path: &Path) -> Option<String> {
    // Both the path as written, because links on it could be replaced, and the real path.
    let (written, real) = (std::path::absolute(path).ok()?, path.canonicalize().ok()?);
    written.ancestors().skip(1).chain(real.ancestors().skip(1)).find_map(|ancestor| {
        let meta = fs::metadata(ancestor).ok()?;
        let open = meta.mode() & OTHERS_WRITE != 0 && meta.mode() & STICKY == 0;
        let why = stranger(&meta).or_else(|| open.then(|| "others may write to it".to_owned()))?;
        Some(format!("`{}`, which is above it: {why}; {}", ancestor.display(), remedy(&meta, &ancestor.display().to_string())))
    })
}

/// Whether it belongs to neither this user nor root.
pub(crate) fn stranger(meta: &Metadata) -> Option<String> {
    (![0, me()].contains(&meta.uid())).then(|| format!("it belongs to user {}", meta.uid()))
}

/// The command that takes write permission from others.
pub(crate) fn remedy(meta: &Metadata, shown: &str) -> String {
    let me = me();
    match (stranger(meta).is_some(), meta.mode() & OTHERS_WRITE != 0) {
        (true, true) => format!("run `chown {me} '{shown}'` and `chmod go-w '{shown}'`"),
        (true, false) => format!("run `chown {me} '{shown}'`"),
        _ => format!("run `chmod go-w '{shown}'`"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn made(path: &Path) -> Dir {
        Dir::make(path, "test directory").unwrap()
    }

    #[test]
    fn a_directory_is_this_users_and_closed_or_it_is_not_used() {
        for (owner, mode, me, expected) in [
            (1000, 0o700, 1000, Ok(())),
            (1000, 0o750, 1000, Err(Unfit::Open)),
            (1000, 0o701, 1000, Err(Unfit::Open)),
            (0, 0o700, 0, Ok(())),
            (0, 0o777, 0, Err(Unfit::Open)),
            (0, 0o777, 1000, Err(Unfit::Roots)),
            (0, 0o2770, 1000, Err(Unfit::Roots)),
            (1001, 0o700, 1000, Err(Unfit::Theirs(1001))),
            (1001, 0o777, 0, Err(Unfit::Theirs(1001))),
        ] {
            assert_eq!(judge(owner, mode, me), expected, "{owner} {mode:o} {me}");
        }
    }

    #[test]
    fn what_is_held_is_used_though_another_directory_takes_its_place() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("own");
        let dir = made(&path);
        dir.write("a", b"ours").unwrap();
        fs::rename(&path, root.path().join("aside")).unwrap();
        fs::create_dir(&path).unwrap();
        fs::write(path.join("a"), b"theirs").unwrap();
        assert_eq!(dir.read("a").unwrap(), b"ours");
        dir.write("b", b"ours").unwrap();
        assert!(!path.join("b").exists() && root.path().join("aside/b").exists());
        assert_eq!(dir.entries().unwrap().len(), 2, "nothing is left of what was written");
    }

    #[test]
    fn what_was_opened_is_checked() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("own");
        let dir = made(&path);
        let refused = |name: &str| {
            let error = dir.open(name).unwrap_err();
            assert!(is_refusal(&error), "{name}: {error}");
            error.to_string()
        };
        dir.write("good", b"x").unwrap();
        assert_eq!(fs::metadata(path.join("good")).unwrap().mode() & 0o777, 0o600);
        dir.write("open", b"x").unwrap();
        chmod(&path.join("open"), 0o620);
        assert!(refused("open").contains("others may write"));
        symlink("good", path.join("link")).unwrap();
        assert!(refused("link").contains("symbolic link"));
        fs::create_dir(path.join("dir")).unwrap();
        assert!(refused("dir").contains("not a regular file"));
        rustix::fs::mknodat(rustix::fs::CWD, path.join("pipe"), rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
        assert!(refused("pipe").contains("not a regular file"));
        assert!(!is_refusal(&dir.open("none").unwrap_err()));
        chmod(&path, 0o770);
        assert!(refused("good").contains("chmod 700"), "the directory is checked at each use");
    }

    #[test]
    fn a_directory_that_was_deleted_is_made_anew() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/own");
        let dir = made(&path);
        dir.write("a", b"x").unwrap();
        fs::remove_dir_all(root.path().join("a")).unwrap();
        assert_eq!(dir.read("a").unwrap_err().kind(), io::ErrorKind::NotFound);
        dir.write("a", b"y").unwrap();
        assert_eq!(fs::read(path.join("a")).unwrap(), b"y");
    }

    #[test]
    fn a_parent_that_others_may_write_to_is_warned_about_and_used() {
        let root = tempfile::tempdir().unwrap();
        chmod(root.path(), 0o777);
        let dir = made(&root.path().join("own"));
        assert!(dir.warning().unwrap().contains("which is above it: others may write to it; run `chmod go-w"), "{:?}", dir.warning());
        chmod(root.path(), 0o700);
        assert_eq!(dir.warning(), None);
    }

    #[test]
    fn a_link_in_a_directory_that_others_may_write_to_is_warned_about() {
        let (root, open) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir(root.path().join("real")).unwrap();
        symlink(root.path().join("real"), open.path().join("link")).unwrap();
        assert_eq!(above(&open.path().join("link")), None);
        chmod(open.path(), 0o777);
        assert!(above(&open.path().join("link")).is_some());
        assert_eq!(above(&root.path().join("real")), None);
    }

    #[test]
    fn a_file_in_the_way_is_the_machines_trouble() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("file"), "").unwrap();
        assert!(matches!(Dir::make(&root.path().join("file/own"), "test directory"), Err(Unusable::Failed(_))));
    }
}
