//! The policies in force. The file is read again when it changes. A bad edit leaves the last good policies in force.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{directory::Identity, policy::Policies, settings::PluginsError, writable::exposed};
use crate::engine::FileGrant;

#[derive(Debug, Clone, Default)]
pub(super) struct PolicyFile {
    path: Option<PathBuf>,
    /// The identity of the file as it was last read, good or bad.
    read: Option<Identity>,
    policies: Arc<Policies>,
    /// The mistake in the file, if there is one.
    trouble: Option<String>,
    /// By plugin: sentences about granted directories that are missing.
    missing: BTreeMap<String, Vec<String>>,
}

impl PolicyFile {
    /// At the start a bad file is an error, because there is no earlier good one.
    pub(super) fn open(path: Option<&Path>) -> Result<Self, PluginsError> {
        let Some(path) = path else { return Ok(Self::default()) };
        let read = identity(path).ok();
        let policies = Policies::read(path).map_err(PluginsError::Policy)?;
        Ok(Self { path: Some(path.to_owned()), read, policies: policies.into(), ..Self::default() })
    }

    pub(super) fn policies(&self) -> &Arc<Policies> {
        &self.policies
    }

    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    pub(super) fn missing(&self) -> &BTreeMap<String, Vec<String>> {
        &self.missing
    }

    /// A sentence if others may write to the file. Blocks on the file system.
    pub(super) fn exposed(&self) -> Option<String> {
        exposed("the policies in", self.path.as_deref()?)
    }

    /// Checks that the granted directories exist. Blocks on the file system.
    pub(super) fn look_for_directories(&mut self) {
        let absent = |grant: &&FileGrant| !grant.host.is_dir();
        let sentence = |grant: &FileGrant| {
            format!("its policy grants `{}`, which is not a directory: make it, or its attempts cannot start", grant.host.display())
        };
        let plugins = self.policies.plugins.iter();
        self.missing =
            plugins.map(|(name, policy)| (name.clone(), policy.grants.files.iter().filter(absent).map(sentence).collect())).collect();
    }

    /// The identity of the file, if that version was not read yet. Blocks on the file system.
    pub(super) fn changed(&mut self) -> Option<Identity> {
        match identity(self.path.as_deref()?) {
            Ok(identity) => (self.read != Some(identity)).then_some(identity),
            Err(e) => {
                // A missing file changes nothing, because an editor may leave a gap while it replaces the file. To take all grants away, empty the file.
                self.read = None;
                self.trouble =
                    self.path.as_ref().map(|path| kept(&format!("{}: cannot read the policies ({e}); put the file back", path.display())));
                None
            }
        }
    }

    /// Reads the file that was `seen` a settling time ago. Returns whether it has settled. Blocks on the file system.
    pub(super) fn reread(&mut self, seen: Identity) -> bool {
        let Some(path) = self.path.clone() else { return true };
        if identity(&path).ok() != Some(seen) {
            return false;
        }
        let policies = Policies::read(&path);
        if identity(&path).ok() != Some(seen) {
            return false;
        }
        self.read = Some(seen);
        match policies {
            Ok(policies) => {
                self.policies = policies.into();
                self.trouble = None;
            }
            Err(wrong) => self.trouble = Some(kept(&wrong)),
        }
        true
    }
}

fn kept(wrong: &str) -> String {
    format!("{wrong}; the last good policies stay in force")
}

fn identity(path: &Path) -> io::Result<Identity> {
    std::fs::metadata(path).map(|meta| Identity::of(&meta))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(file: &mut PolicyFile) {
        while let Some(seen) = file.changed() {
            file.reread(seen);
        }
    }

    #[test]
    fn a_bad_edit_keeps_the_last_good_policies() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("taskhost.toml");
        std::fs::write(&path, "[plugins.math]\nconcurrency = 2\n").unwrap();
        let mut file = PolicyFile::open(Some(&path)).unwrap();
        assert_eq!(file.changed(), None, "it was just read");

        std::fs::write(&path, "[plugins.math]\nconcurrency = 30\nmemroy = 1\n").unwrap();
        update(&mut file);
        assert_eq!(file.policies().plugins["math"].concurrency, Some(2));
        let trouble = file.trouble().unwrap();
        assert!(trouble.contains("taskhost.toml: line 3, `plugins.math.memroy`") && trouble.ends_with("stay in force"), "{trouble}");

        std::fs::remove_file(&path).unwrap();
        update(&mut file);
        assert_eq!(file.policies().plugins["math"].concurrency, Some(2));
        assert!(file.trouble().unwrap().contains("cannot read the policies"));

        std::fs::write(&path, "[plugins.math]\nconcurrency = 3\n").unwrap();
        update(&mut file);
        assert_eq!((file.policies().plugins["math"].concurrency, file.trouble()), (Some(3), None));
    }

    #[test]
    fn a_bad_file_at_the_start_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("taskhost.toml");
        assert!(PolicyFile::open(Some(&path)).is_err());
        std::fs::write(&path, "plugins.math.memory = true").unwrap();
        let error = PolicyFile::open(Some(&path)).unwrap_err().to_string();
        assert!(error.contains("line 1, `plugins.math.memory`"), "{error}");
        assert!(PolicyFile::open(None).unwrap().policies().plugins.is_empty());
    }
}
