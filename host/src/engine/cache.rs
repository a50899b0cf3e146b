//! Compiled code kept on disk, so that a restart need not compile.
//!
//! An entry is `<digest>-<engine>-<sha256 of the entry>.cwasm`: written to a temporary file, synced, renamed, never changed.
//!
//! Invariant: compiled code is code the host executes. The directory belongs to this user and is closed to others, and an entry
//! is loaded only when its bytes have the digest that its name says.

use std::{
    fs::{self, DirBuilder, File},
    hash::{Hash, Hasher},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use wasmtime::component::Component;

use super::{
    EngineError,
    compile::{self, Artefact},
};
use crate::task::{Clock, SystemClock};

const SUFFIX: &str = ".cwasm";
/// A temporary file this old was left behind by a crash.
const STALE_MS: u64 = 3_600_000;

#[derive(Debug)]
pub(super) struct Cache {
    dir: PathBuf,
    limit: u64,
}

impl Cache {
    /// Makes the directory, or refuses one that others could write to.
    pub(super) fn open(dir: &Path, limit: u64) -> Result<Self, EngineError> {
        check_dir(dir).map_err(EngineError::Host)?;
        let cache = Self { dir: dir.to_owned(), limit };
        cache.drop_leftovers();
        Ok(cache)
    }

    /// The kept code, checked. What does not load is removed and logged, so that it is compiled again.
    pub(super) fn get(&self, engine: &wasmtime::Engine, digest: &str) -> Option<Component> {
        let prefix = prefix(engine, digest);
        let entry = self.entries().find(|entry| entry.name.starts_with(&prefix))?;
        match load(engine, &entry) {
            Ok(component) => {
                touch(&entry.path);
                Some(component)
            }
            Err(problem) => {
                tracing::warn!("compiled code in the cache is bad, compiling again: {problem}: `{}`", entry.path.display());
                remove(&entry.path);
                None
            }
        }
    }

    /// Keeps an artefact and loads it from there, so that its pages are the file's.
    pub(super) fn put(&self, engine: &wasmtime::Engine, digest: &str, artefact: &[u8]) -> Result<Component, String> {
        let name = format!("{}{}{SUFFIX}", prefix(engine, digest), format_args!("{:x}", Sha256::digest(artefact)));
        let entry = Entry { path: self.dir.join(&name), name, bytes: artefact.len() as u64, used: 0 };
        self.write(&entry.path, artefact).map_err(|error| format!("{error}: `{}`", entry.path.display()))?;
        self.trim(&entry.path);
        load(engine, &entry)
    }

    /// A file in this directory for what another process compiles.
    pub(super) fn room(&self) -> Result<NamedTempFile, String> {
        let made = tempfile::Builder::new().prefix(".tmp-").tempfile_in(&self.dir);
        made.map_err(|error| format!("no room for compiled code: {error}: `{}`", self.dir.display()))
    }

    /// Keeps what stands in `room`, and loads it.
    pub(super) fn adopt(&self, engine: &wasmtime::Engine, digest: &str, room: NamedTempFile) -> Result<Component, String> {
        let failed = |error: io::Error| format!("can't keep compiled code: {error}: `{}`", self.dir.display());
        let bytes = room.as_file().metadata().map_err(failed)?.len();
        let name = format!("{}{}{SUFFIX}", prefix(engine, digest), digest_of(room.path()).map_err(failed)?);
        let entry = Entry { path: self.dir.join(&name), name, bytes, used: 0 };
        room.as_file().sync_all().map_err(failed)?;
        room.persist(&entry.path).map_err(|error| failed(error.error))?;
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(failed)?;
        self.trim(&entry.path);
        load(engine, &entry)
    }

    fn write(&self, path: &Path, artefact: &[u8]) -> io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(".tmp-").tempfile_in(&self.dir)?;
        file.write_all(artefact)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        File::open(&self.dir)?.sync_all()
    }

    /// Forgets the least recently used until the rest fits; never `kept`.
    fn trim(&self, kept: &Path) {
        let mut entries: Vec<Entry> = self.entries().collect();
        let mut sum: u64 = entries.iter().map(|entry| entry.bytes).sum();
        entries.sort_by_key(|entry| entry.used);
        for entry in entries.iter().filter(|entry| entry.path != kept) {
            if sum <= self.limit {
                break;
            }
            sum -= entry.bytes;
            remove(&entry.path);
        }
    }

    fn drop_leftovers(&self) {
        for entry in self.files().filter(|entry| entry.name.starts_with(".tmp-")) {
            if SystemClock.now().0.saturating_sub(entry.used) > STALE_MS {
                remove(&entry.path);
            }
        }
    }

    fn entries(&self) -> impl Iterator<Item = Entry> {
        self.files().filter(|entry| entry.name.ends_with(SUFFIX))
    }

    fn files(&self) -> impl Iterator<Item = Entry> {
        fs::read_dir(&self.dir).into_iter().flatten().flatten().filter_map(|found| {
            let about = found.metadata().ok().filter(fs::Metadata::is_file)?;
            let used = about.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
            let used = u64::try_from(used.as_millis()).ok()?;
            Some(Entry { path: found.path(), name: found.file_name().into_string().ok()?, bytes: about.len(), used })
        })
    }
}

struct Entry {
    path: PathBuf,
    name: String,
    bytes: u64,
    /// Milliseconds since 1970.
    used: u64,
}

/// Checks the bytes, then maps them. A process loads an entry once, so this is the once that it is checked.
fn load(engine: &wasmtime::Engine, entry: &Entry) -> Result<Component, String> {
    let said = entry.name.strip_suffix(SUFFIX).and_then(|name| name.rsplit_once('-')).map(|(_, sha)| sha);
    let found = digest_of(&entry.path).map_err(|error| error.to_string())?;
    if said != Some(found.as_str()) {
        return Err("its bytes are not what was written".into());
    }
    compile::trust(engine, Artefact::Kept(&entry.path))
}

fn digest_of(path: &Path) -> io::Result<String> {
    let (mut file, mut hash, mut buffer) = (File::open(path)?, Sha256::new(), vec![0; 64 << 10]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(format!("{:x}", hash.finalize())),
            read => hash.update(&buffer[..read]),
        }
    }
}

fn prefix(engine: &wasmtime::Engine, digest: &str) -> String {
    let mut hash = Hashing(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut hash);
    let engine = format!("{:x}", hash.0.finalize());
    format!("{digest}-{}-", &engine[..16])
}

/// SHA-256 as a `Hasher`: the standard one may change with the compiler.
struct Hashing(Sha256);

impl Hasher for Hashing {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let digest = self.0.clone().finalize();
        digest.iter().take(8).fold(0, |sum, &byte| sum << 8 | u64::from(byte))
    }
}

fn check_dir(dir: &Path) -> Result<(), String> {
    let shown = dir.display();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| format!("can't make the cache directory: {error}: `{shown}`"))?;
    let about = fs::symlink_metadata(dir).map_err(|error| format!("can't look at the cache directory: {error}: `{shown}`"))?;
    let me = rustix::process::geteuid().as_raw();
    if !about.is_dir() {
        return Err(format!("the cache is not a directory: name another one: `{shown}`"));
    }
    if about.uid() != me {
        return Err(format!(
            "the cache directory belongs to user {}, not to user {me}, and what is in it would be executed: name another one: `{shown}`",
            about.uid()
        ));
    }
    if about.permissions().mode() & 0o077 != 0 {
        return Err(format!("the cache directory is open to other users, and what is in it would be executed: `chmod 700 {shown}`"));
    }
    Ok(())
}

/// Marks an entry as used now; only its place in the line depends on it.
fn touch(path: &Path) {
    let now = UNIX_EPOCH + Duration::from_millis(SystemClock.now().0);
    if let Err(error) = File::open(path).and_then(|file| file.set_modified(now)) {
        tracing::debug!("can't mark compiled code as used: {error}: `{}`", path.display());
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::debug!("can't remove compiled code: {error}: `{}`", path.display());
    }
}
