//! Finds out whether others may write to the sources of plugins, because they could decide what runs here.
//!
//! Checks the directory, each file, the targets of links, and the directories above, whose writers could replace it. A directory above may be
//! sticky, like /tmp. Nobody can write to a read-only file system.

use std::{
    fs::{self, Metadata},
    os::unix::fs::MetadataExt,
    path::Path,
};

use rustix::fs::{StatVfsMountFlags, statvfs};

use crate::private::{OTHERS_WRITE, above, remedy, stranger};

/// What to do if others may write there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Writable {
    Allow,
    #[default]
    Warn,
    /// Use nothing from there.
    Refuse,
}

/// A sentence if others may write to the plugin directory.
pub(super) fn directory(dir: &Path) -> Option<String> {
    let shown = |path: &Path| path.display().to_string();
    let meta = fs::metadata(dir).ok()?;
    let why = stranger(&meta).or_else(|| (meta.mode() & OTHERS_WRITE != 0).then(|| "others may write to it".to_owned()));
    let found = match why {
        Some(why) => format!("the plugin directory: {why}; {}", remedy(&meta, &shown(dir))),
        None => above(dir)?,
    };
    (!is_read_only(dir)).then(|| format!("others may decide what runs here by {found}, or set plugin_dir_writable = \"allow\""))
}

/// A sentence if others may write to one plugin. `meta` is that of a link's target.
pub(super) fn file(name: &str, path: &Path, meta: &Metadata, is_link: bool) -> Option<String> {
    let why = stranger(meta).or_else(|| (meta.mode() & OTHERS_WRITE != 0).then(|| "others may write to it".to_owned()));
    let found = match why {
        Some(why) => format!("{name}: {why}; {}", remedy(meta, &path.display().to_string())),
        None if is_link => above(&path.canonicalize().ok()?)?,
        None => return None,
    };
    (!is_read_only(path)).then(|| format!("others may decide what runs here by {found}, or set plugin_dir_writable = \"allow\""))
}

/// A sentence if others may write to a file that decides about plugins, or replace it. `what` is a phrase such as `the policies in`.
pub fn exposed(what: &str, path: &Path) -> Option<String> {
    let meta = fs::metadata(path).ok()?;
    let why = stranger(&meta).or_else(|| (meta.mode() & OTHERS_WRITE != 0).then(|| "others may write to it".to_owned()));
    let found = match why {
        Some(why) => format!("{why}; {}", remedy(&meta, &path.display().to_string())),
        None => above(path)?,
    };
    (!is_read_only(path)).then(|| format!("others may change {what} `{}`: {found}", path.display()))
}

fn is_read_only(path: &Path) -> bool {
    statvfs(path).is_ok_and(|about| about.f_flag.contains(StatVfsMountFlags::RDONLY))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_told_with_what_to_do() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("plugins");
        fs::create_dir(&dir).unwrap();
        chmod(&dir, 0o755);
        assert_eq!(directory(&dir), None);
        for mode in [0o775, 0o757, 0o1777] {
            chmod(&dir, mode);
            let text = directory(&dir).unwrap();
            assert!(text.contains("others may write to it") && text.contains("chmod go-w"), "{text}");
        }
        chmod(&dir, 0o755);
        chmod(root.path(), 0o777);
        let text = directory(&dir).unwrap();
        assert!(text.contains("which is above it") && text.contains("chmod go-w"), "{text}");
        chmod(root.path(), 0o1777);
        assert_eq!(directory(&dir), None, "in a sticky directory nobody can rename what is not theirs");
    }

    #[test]
    fn a_file_that_decides_is_told_of_as_a_plugin_is() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("keys.pub");
        assert_eq!(exposed("the trusted keys in", &path), None, "there is none");
        fs::write(&path, "x").unwrap();
        chmod(&path, 0o644);
        assert_eq!(exposed("the trusted keys in", &path), None);
        chmod(&path, 0o646);
        let text = exposed("the trusted keys in", &path).unwrap();
        assert!(text.contains("others may change the trusted keys in `") && text.contains("chmod go-w"), "{text}");
        chmod(&path, 0o644);
        chmod(root.path(), 0o777);
        assert!(exposed("the trusted keys in", &path).unwrap().contains("which is above it"));
    }

    #[test]
    fn a_file_that_others_may_write_to_is_told_also_through_a_link() {
        let root = tempfile::tempdir().unwrap();
        let (path, link) = (root.path().join("math.wasm"), root.path().join("link.wasm"));
        fs::write(&path, "x").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        chmod(&path, 0o644);
        let told = |path: &Path, is_link| file("math.wasm", path, &fs::metadata(path).unwrap(), is_link);
        assert_eq!((told(&path, false), told(&link, true)), (None, None));
        chmod(&path, 0o664);
        assert!(told(&path, false).is_some_and(|text| text.contains("math.wasm: others may write to it; run `chmod go-w '")));
        chmod(&path, 0o644);
        chmod(root.path(), 0o777);
        assert!(told(&link, true).is_some_and(|text| text.contains("which is above it")));
    }
}
