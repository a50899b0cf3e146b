//! Keeps compiled code on disk, so that a restart need not compile.
//!
//! An entry is `<digest>-<engine>-<seal>.cwasm`. It is written to a temporary file, synced, renamed, and never changed. The seal is a MAC
//! over plugin, engine and code. Its key lies in the state directory.
//!
//! Invariant: the host executes what it loads. The directory is held by descriptor, belongs to this user and is closed to others. An
//! entry is loaded only if the opened file belongs to this user and has the seal in its name. So nothing is loaded from a directory that
//! was put in its place, nor from files of this user that came from elsewhere.

use std::{
    fs::File,
    hash::{Hash, Hasher},
    io,
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use wasmtime::component::Component;

use super::{
    artefact::{self, Artefact, pieces, read_all},
    error::EngineError,
};
use crate::{
    private::{self, Dir, Entry, Temporary, Unusable},
    random,
};
use taskhost_core::task::{Clock, SystemClock};

const SUFFIX: &str = ".cwasm";
/// The file of the key in the state directory.
const KEY: &str = "compiled.key";
const KEY_BYTES: usize = 32;
/// A temporary file of this age was left behind by a crash.
const STALE: Duration = Duration::from_secs(3600);

#[derive(Debug)]
pub(super) struct Cache {
    dir: Dir,
    key: Key,
    limit: u64,
    /// Whether code may be mapped from the directory; else it is read into memory.
    maps: bool,
}

/// Why an entry was not loaded.
enum Problem {
    /// It was changed: it is removed, and the plugin is compiled again.
    Bad(String),
    /// The machine failed: another process may load it.
    Trouble(String),
}

impl Cache {
    /// Makes the directory, or refuses one that others could write to. `None`, with a warning, if the machine can't make it: compiled code
    /// then stays in memory.
    pub(super) fn open(dir: &Path, state: Option<&Path>, limit: u64) -> Result<Option<Self>, EngineError> {
        let opened = Dir::make(dir, "cache directory").and_then(|dir| {
            let state = state.ok_or_else(|| Unusable::Failed("there is no state directory for its key".into()))?;
            let key = Key::of(state).map_err(|(Unusable::Refused(why) | Unusable::Failed(why))| Unusable::Failed(why))?;
            Ok((dir, key))
        });
        let (dir, key) = match opened {
            Ok(opened) => opened,
            Err(Unusable::Refused(why)) => return Err(EngineError::Host(why)),
            Err(Unusable::Failed(why)) => {
                tracing::warn!(
                    "{why}; compiled code is kept in memory and every start compiles anew: set `cache` and `state` to directories that this \
                     user can write to"
                );
                return Ok(None);
            }
        };
        let maps = dir.may_execute();
        if !maps {
            tracing::warn!(
                "the cache directory lies on a file system that is mounted noexec, so compiled code is read into memory, which takes \
                 more of it: set `cache` to another directory: `{}`",
                dir.path().display()
            );
        }
        if let Some(warning) = dir.warning() {
            tracing::warn!("{warning}");
        }
        let cache = Self { dir, key, limit, maps };
        cache.drop_leftovers();
        Ok(Some(cache))
    }

    /// The kept code, checked. A changed entry is removed and logged, so that the plugin is compiled again.
    pub(super) fn get(&self, engine: &wasmtime::Engine, digest: &str) -> Option<Component> {
        let prefix = self.prefix(engine, digest);
        let entry = self.entries().into_iter().find(|entry| entry.name.starts_with(&prefix))?;
        match self.load_kept(engine, &prefix, &entry.name) {
            Ok(component) => Some(component),
            Err(Problem::Bad(problem)) => {
                tracing::warn!("compiled code in the cache is bad, compiling again: {problem}: `{}`", self.shown(&entry.name));
                self.remove(&entry.name);
                None
            }
            Err(Problem::Trouble(problem)) => {
                tracing::warn!("compiled code in the cache can't be used now, compiling again: {problem}: `{}`", self.shown(&entry.name));
                None
            }
        }
    }

    fn load_kept(&self, engine: &wasmtime::Engine, prefix: &str, name: &str) -> Result<Component, Problem> {
        let problem = |error: io::Error| if private::is_refusal(&error) { Problem::Bad } else { Problem::Trouble }(error.to_string());
        let file = self.dir.open(name).map_err(problem)?;
        if !file.metadata().is_ok_and(|about| private::has_one_name(&about)) {
            return Err(Problem::Bad("it has another name elsewhere".into()));
        }
        let component = self.load(engine, prefix, name, &file)?;
        let now = UNIX_EPOCH + Duration::from_millis(SystemClock.now().0);
        // The time only decides which entry is removed first.
        if let Err(error) = file.set_modified(now) {
            tracing::debug!("can't mark compiled code as used: {error}: `{}`", self.shown(name));
        }
        Ok(component)
    }

    /// A file in this directory for the output of another process's compiler.
    pub(super) fn room(&self) -> Result<Temporary, String> {
        self.dir.temporary().map_err(|error| self.unkept(&error))
    }

    /// Keeps the code that `room` holds, and loads it from there, so that its pages are those of the file. Also returns why it could not be
    /// kept.
    pub(super) fn adopt(&self, engine: &wasmtime::Engine, digest: &str, room: Temporary) -> Result<(Component, Option<String>), String> {
        let prefix = self.prefix(engine, digest);
        let read = |file: &File| seal_of(&self.key, &prefix, file).map_err(|error| format!("can't read compiled code: {error}"));
        let name = format!("{prefix}{}{SUFFIX}", read(&room.file)?);
        let bytes = room.file.try_clone().map_err(|error| error.to_string())?;
        match room.persist(&name) {
            Ok(file) => {
                self.trim(&name);
                let loaded = self.load(engine, &prefix, &name, &file);
                loaded.map(|component| (component, None)).map_err(|(Problem::Bad(why) | Problem::Trouble(why))| why)
            }
            Err(error) => {
                let artefact = read_all(&bytes).map_err(|error| format!("can't read compiled code: {error}"))?;
                Ok((artefact::trust(engine, Artefact::Fresh(&artefact))?, Some(self.unkept(&error))))
            }
        }
    }

    /// Keeps an artefact, and loads it like `adopt`.
    pub(super) fn put(&self, engine: &wasmtime::Engine, digest: &str, artefact: &[u8]) -> Result<(Component, Option<String>), String> {
        let room = self.dir.temporary().and_then(|mut room| {
            io::Write::write_all(&mut room.file, artefact)?;
            Ok(room)
        });
        match room {
            Ok(room) => self.adopt(engine, digest, room),
            Err(error) => Ok((artefact::trust(engine, Artefact::Fresh(artefact))?, Some(self.unkept(&error)))),
        }
    }

    /// Checks the seal, then maps the very file that was checked. If mapping is not allowed, it reads the file.
    fn load(&self, engine: &wasmtime::Engine, prefix: &str, name: &str, file: &File) -> Result<Component, Problem> {
        let said = name.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(SUFFIX));
        let trouble = |error: io::Error| Problem::Trouble(error.to_string());
        let changed = || Problem::Bad("its bytes are not what was written for this plugin".into());
        if self.maps {
            if said != Some(seal_of(&self.key, prefix, file).map_err(trouble)?.as_str()) {
                return Err(changed());
            }
            match artefact::trust(engine, Artefact::Kept(file)) {
                Ok(component) => return Ok(component),
                Err(problem) if artefact::is_unfit(&problem) => return Err(Problem::Bad(problem)),
                Err(problem) => tracing::debug!("compiled code can't be mapped, reading it: {problem}"),
            }
        }
        let artefact = read_all(file).map_err(trouble)?;
        if said != Some(self.key.seal(prefix, |seal| seal.update(&artefact)).as_str()) {
            return Err(changed());
        }
        artefact::trust(engine, Artefact::Fresh(&artefact)).map_err(Problem::Trouble)
    }

    /// `<digest>-<engine>-`: the plugin, and the engine under this key.
    fn prefix(&self, engine: &wasmtime::Engine, digest: &str) -> String {
        let mut hash = Hashing(Sha256::new());
        engine.precompile_compatibility_hash().hash(&mut hash);
        let engine = self.key.seal("engine", |seal| seal.update(&hash.0.finalize()));
        format!("{digest}-{}-", &engine[..16])
    }

    /// Removes the least recently used entries until the rest fits, but never `kept`.
    fn trim(&self, kept: &str) {
        let mut entries = self.entries();
        let mut sum: u64 = entries.iter().map(|entry| entry.bytes).sum();
        entries.sort_by_key(|entry| entry.modified);
        for entry in entries.iter().filter(|entry| entry.name != kept) {
            if sum <= self.limit {
                break;
            }
            sum -= entry.bytes;
            self.remove(&entry.name);
        }
    }

    fn drop_leftovers(&self) {
        let now = UNIX_EPOCH + Duration::from_millis(SystemClock.now().0);
        for entry in self.files().iter().filter(|entry| entry.name.starts_with(private::TEMPORARY)) {
            if now.duration_since(entry.modified).is_ok_and(|age| age > STALE) {
                self.remove(&entry.name);
            }
        }
    }

    fn entries(&self) -> Vec<Entry> {
        let mut entries = self.files();
        entries.retain(|entry| entry.name.ends_with(SUFFIX));
        entries
    }

    fn files(&self) -> Vec<Entry> {
        self.dir.entries().unwrap_or_else(|error| {
            tracing::warn!("can't look into the cache directory: {error}: `{}`", self.dir.path().display());
            Vec::new()
        })
    }

    fn remove(&self, name: &str) {
        if let Err(error) = self.dir.remove(name) {
            tracing::debug!("can't remove compiled code: {error}: `{}`", self.shown(name));
        }
    }

    fn shown(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    pub(super) fn unkept(&self, error: &dyn std::fmt::Display) -> String {
        format!(
            "its compiled code cannot be kept ({error}), so it is compiled again at the next start: make room in, or give this user, `{}`",
            self.dir.path().display()
        )
    }
}

/// A secret that only this user can read. Nobody can make a seal without it.
#[derive(Clone)]
struct Key([u8; KEY_BYTES]);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    /// Reads the key in the state directory, or makes one.
    fn of(state: &Path) -> Result<Self, Unusable> {
        let dir = Dir::make(state, "state directory")?;
        let failed =
            |error: io::Error| Unusable::Failed(format!("cannot keep the key of compiled code ({error}): `{}`", state.join(KEY).display()));
        let made = dir.locked(|| {
            match dir.read(KEY).map(<[u8; KEY_BYTES]>::try_from) {
                Ok(Ok(key)) => return Ok(Self(key)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if !private::is_refusal(&error) => return Err(error),
                Ok(Err(_)) | Err(_) => tracing::warn!("the key of compiled code is not as it was made, so plugins are compiled again"),
            }
            let key: [u8; KEY_BYTES] = random::key();
            dir.write(KEY, &key)?;
            Ok(Self(key))
        });
        made.and_then(|key| key).map_err(failed)
    }

    fn seal(&self, about: &str, add: impl FnOnce(&mut Hmac<Sha256>)) -> String {
        // HMAC takes a key of any length.
        let Ok(mut seal) = Hmac::<Sha256>::new_from_slice(&self.0) else { return String::new() };
        seal.update(about.as_bytes());
        seal.update(&[0]);
        add(&mut seal);
        hex::encode(seal.finalize().into_bytes())
    }
}

/// The seal of a file's content, wherever its cursor is.
fn seal_of(key: &Key, prefix: &str, file: &File) -> io::Result<String> {
    let mut done = Ok(());
    let seal = key.seal(prefix, |seal| done = pieces(file, |piece| seal.update(piece)));
    done.map(|()| seal)
}

/// SHA-256 as a `Hasher`, because the standard hasher may change with the compiler.
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

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, PermissionsExt},
        path::PathBuf,
    };

    use super::*;
    use crate::engine::setup;

    /// A worker's directories, and an engine that runs nothing.
    struct Place {
        root: tempfile::TempDir,
        engine: wasmtime::Engine,
        artefact: Vec<u8>,
    }

    impl Place {
        fn new() -> Self {
            let engine = setup::compiler().unwrap();
            let artefact = engine.precompile_component(&wat::parse_str("(component)").unwrap()).unwrap();
            Self { root: tempfile::tempdir().unwrap(), engine, artefact }
        }

        fn at(&self, name: &str) -> PathBuf {
            self.root.path().join(name)
        }

        fn open(&self) -> Cache {
            Cache::open(&self.at("cache"), Some(&self.at("state")), 1 << 30).unwrap().expect("a cache")
        }

        fn put(&self, cache: &Cache, digest: &str) -> String {
            assert_eq!(cache.put(&self.engine, digest, &self.artefact).unwrap().1, None);
            cache.entries().into_iter().find(|entry| entry.name.starts_with(digest)).unwrap().name
        }
    }

    #[test]
    fn an_entry_of_one_plugin_is_not_loaded_as_another() {
        let place = Place::new();
        let cache = place.open();
        let name = place.put(&cache, "aa");
        assert!(cache.get(&place.engine, "aa").is_some());
        fs::rename(place.at("cache").join(&name), place.at("cache").join(name.replacen("aa", "bb", 1))).unwrap();
        assert!(cache.get(&place.engine, "bb").is_none());
        assert!(cache.entries().is_empty(), "it is not looked at again");
    }

    #[test]
    fn whoever_does_not_have_the_key_can_not_make_an_entry() {
        let place = Place::new();
        let cache = place.open();
        let name = place.put(&cache, "aa");
        let file = fs::metadata(place.at("state").join(KEY)).unwrap();
        assert_eq!((file.mode() & 0o777, file.len()), (0o600, 32));
        // A whole directory of this user's own, made with another key, takes the place of the cache before the next start.
        let other = Cache::open(&place.at("other"), Some(&place.at("state-of-others")), 1 << 30).unwrap().unwrap();
        let theirs = place.put(&other, "aa");
        assert_ne!(name, theirs);
        fs::remove_dir_all(place.at("cache")).unwrap();
        fs::rename(place.at("other"), place.at("cache")).unwrap();
        assert!(place.open().get(&place.engine, "aa").is_none());
        // Also under the name that this key would have given.
        fs::rename(place.at("cache").join(&theirs), place.at("cache").join(format!("{}{}", &name[..20], &theirs[20..]))).unwrap();
        assert!(place.open().get(&place.engine, "aa").is_none());
    }

    #[test]
    fn a_directory_that_takes_the_place_of_the_cache_is_not_loaded_from() {
        let place = Place::new();
        let cache = place.open();
        let name = place.put(&cache, "aa");
        fs::rename(place.at("cache"), place.at("aside")).unwrap();
        fs::create_dir(place.at("cache")).unwrap();
        fs::write(place.at("cache").join(&name), "native code of somebody else").unwrap();
        assert!(cache.get(&place.engine, "aa").is_some(), "the one that was opened is held");
        place.put(&cache, "bb");
        assert_eq!(fs::read_dir(place.at("cache")).unwrap().count(), 1);
    }

    #[test]
    fn an_entry_that_others_could_have_written_is_not_loaded() {
        let place = Place::new();
        let cache = place.open();
        let spoil: [fn(&Path); 4] = [
            |path| fs::set_permissions(path, fs::Permissions::from_mode(0o660)).unwrap(),
            |path| fs::hard_link(path, path.with_extension("second")).unwrap(),
            |path| {
                fs::rename(path, path.with_extension("first")).unwrap();
                std::os::unix::fs::symlink(path.with_extension("first"), path).unwrap();
            },
            |path| {
                let mut bytes = fs::read(path).unwrap();
                bytes[100] ^= 1;
                fs::write(path, bytes).unwrap();
            },
        ];
        for (n, spoil) in spoil.into_iter().enumerate() {
            let digest = format!("d{n}");
            let name = place.put(&cache, &digest);
            spoil(&place.at("cache").join(name));
            assert!(cache.get(&place.engine, &digest).is_none(), "{n}");
        }
        if rustix::process::geteuid().is_root() {
            let name = place.put(&cache, "ff");
            std::os::unix::fs::chown(place.at("cache").join(name), Some(65_534), None).unwrap();
            assert!(cache.get(&place.engine, "ff").is_none());
        }
    }

    #[test]
    fn on_a_noexec_file_system_code_is_read_and_not_compiled_for_ever() {
        let place = Place::new();
        let cache = Cache { maps: false, ..place.open() };
        let name = place.put(&cache, "aa");
        for _ in 0..2 {
            assert!(cache.get(&place.engine, "aa").is_some());
        }
        assert_eq!(cache.entries().into_iter().map(|entry| entry.name).collect::<Vec<_>>(), [name]);
    }

    #[test]
    fn without_a_place_for_a_cache_or_its_key_code_lives_in_memory() {
        let place = Place::new();
        fs::write(place.at("file"), "").unwrap();
        let open = |cache: &Path, state: Option<&Path>| Cache::open(cache, state, 1).unwrap().is_none();
        assert!(open(&place.at("file/cache"), Some(&place.at("state"))));
        assert!(open(&place.at("cache"), Some(&place.at("file/state"))));
        assert!(open(&place.at("cache"), None));
        fs::set_permissions(place.at("cache"), fs::Permissions::from_mode(0o777)).unwrap();
        let why = Cache::open(&place.at("cache"), Some(&place.at("state")), 1).unwrap_err().to_string();
        assert!(why.contains("chmod 700"), "what others may write to is refused: {why}");
    }
}
