//! The files of the plugin directory, as the passes found them.
//!
//! listing → [`Files::note`] → files to read → [`Files::capture`] → their bytes

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use tokio::time::Instant;

use super::pass::Pass;
use crate::plugins::{
    digest::Digest,
    directory::{self, Captured, Identity, Listing, Seen},
    name::{check_name, stem},
};

/// How long plugins serve after the directory has disappeared, because another may be about to take its place.
pub(super) const GONE_GRACE: Duration = Duration::from_secs(10);
/// A removed file is unloaded once two passes, at least this far apart, found it missing.
const ABSENT_GRACE: Duration = Duration::from_secs(1);

/// Every file that serves or is in the directory.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) by_name: BTreeMap<String, Tracked>,
    /// Why the directory can't be listed.
    pub(super) trouble: Option<String>,
    /// A sentence if others may write to the directory.
    pub(super) warning: Option<String>,
    gone_since: Option<Instant>,
}

/// The state of one file.
#[derive(Debug, Default)]
pub(super) struct Tracked {
    /// The digest of the bytes in the file.
    pub(super) captured: Option<(Identity, Digest)>,
    /// Why it can't be a plugin.
    pub(super) trouble: Option<String>,
    /// A sentence if others may write to it.
    pub(super) warning: Option<String>,
    /// Since when it is missing, and in how many passes.
    pub(super) absent: Option<(Instant, u32)>,
    /// The version that it last served, in this process or in an earlier one.
    pub(super) good: Option<Digest>,
}

/// The changes in a listing.
#[derive(Debug, Default)]
pub(super) struct Noted {
    /// The files that must be read.
    pub(super) fresh: Vec<Seen>,
    /// Device and inode of the directory, if it was listed.
    pub(super) place: Option<(u64, u64)>,
    /// Whether a file came, or one that was read before has changed.
    pub(super) is_changed: bool,
}

impl Tracked {
    /// The digest of the bytes in the file.
    pub(super) fn digest(&self) -> Option<&Digest> {
        self.captured.as_ref().map(|(_, digest)| digest)
    }
}

impl Files {
    /// Takes in a listing. `good_before`: the version that a file served in an earlier process.
    pub(super) fn note(&mut self, listing: Listing, good_before: impl Fn(&str) -> Option<Digest>) -> Noted {
        let mut noted = Noted::default();
        let seen = match listing {
            Listing::Files { files, place, warning } => {
                (self.gone_since, self.warning, self.trouble) = (None, warning, None);
                noted.place = Some(place);
                files
            }
            // A failed look does not mean that files are gone.
            Listing::Unreadable(text) => {
                self.trouble = Some(text);
                return noted;
            }
            Listing::Gone(text) => {
                self.trouble = Some(text);
                if self.gone_since.get_or_insert_with(Instant::now).elapsed() < GONE_GRACE {
                    return noted;
                }
                Vec::new()
            }
        };
        self.note_absent(&seen.iter().map(|seen| seen.file.as_str()).collect());
        let mut fresh = Vec::new();
        for seen in seen {
            let is_new = !self.by_name.contains_key(&seen.file);
            let tracked = self.by_name.entry(seen.file.clone());
            let tracked = tracked.or_insert_with(|| Tracked { good: good_before(&seen.file), ..Tracked::default() });
            tracked.absent = None;
            tracked.warning.clone_from(&seen.warning);
            match check_name(stem(&seen.file)).map_err(|why| format!("{why}; rename the file")).and(seen.identity.clone()) {
                Err(why) => (tracked.captured, tracked.trouble) = (None, Some(why)),
                Ok(identity) if tracked.captured.as_ref().is_some_and(|(read, _)| *read == identity) => {}
                Ok(identity) => {
                    noted.is_changed |= is_new || tracked.captured.is_some();
                    fresh.push((identity, seen));
                }
            }
        }
        // Small files compile first, so that they do not wait for large ones.
        fresh.sort_by_key(|(identity, _)| identity.size());
        noted.fresh = fresh.into_iter().map(|(_, seen)| seen).collect();
        noted
    }

    fn note_absent(&mut self, present: &HashSet<&str>) {
        for (_, tracked) in self.by_name.iter_mut().filter(|(file, _)| !present.contains(file.as_str())) {
            let (_, passes) = tracked.absent.get_or_insert_with(|| (Instant::now(), 0));
            *passes += 1;
            (tracked.captured, tracked.trouble) = (None, None);
        }
        self.by_name.retain(|_, tracked| {
            let is_awaited = |(since, passes): (Instant, u32)| passes < 2 || since.elapsed() < ABSENT_GRACE;
            tracked.absent.is_none_or(|absent| tracked.good.is_some() && is_awaited(absent))
        });
    }

    /// Reads files that were seen a settling time ago into the pass, as long as `room` bytes suffice. A later pass reads the others.
    pub(super) async fn capture(&mut self, fresh: Vec<Seen>, room: usize, pass: &mut Pass) {
        let mut left = room as u64;
        for Seen { file, path, identity, .. } in fresh {
            let Ok(identity) = identity else { continue };
            let Some(tracked) = self.by_name.get_mut(&file) else { continue };
            (tracked.captured, tracked.trouble) = (None, None);
            let Some(rest) = left.checked_sub(identity.size()) else {
                pass.is_unsettled = true;
                continue;
            };
            let name = file.clone();
            let captured = tokio::task::spawn_blocking(move || directory::capture(&name, &path, identity)).await;
            match captured {
                Ok(Captured::Settled { digest, bytes }) => {
                    left = rest;
                    tracked.captured = Some((identity, digest.clone()));
                    pass.captured.push((digest, bytes));
                }
                Ok(Captured::Trouble(why)) => tracked.trouble = Some(why),
                Ok(Captured::Unsettled) | Err(_) => pass.is_unsettled = true,
            }
        }
    }

    /// Lets the next pass read a file again.
    pub(super) fn read_again(&mut self, file: &str, pass: &mut Pass) {
        if let Some(tracked) = self.by_name.get_mut(file) {
            tracked.captured = None;
            pass.is_unsettled = true;
        }
    }

    /// The version of each file that serves, or would serve again.
    pub(super) fn good(&self) -> impl Iterator<Item = &Digest> {
        self.by_name.values().filter_map(|tracked| tracked.good.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::writable::Writable;

    #[tokio::test]
    async fn no_pass_reads_more_bytes_than_it_has_room_for() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.wasm", "b.wasm", "c.wasm"] {
            std::fs::write(dir.path().join(name), vec![b'x'; 100]).unwrap();
        }
        let list = || directory::list(dir.path(), Writable::Warn);
        let mut files = Files::default();
        for read in [2, 3] {
            let mut pass = Pass::default();
            let fresh = files.note(list(), |_| None).fresh;
            files.capture(fresh, 250, &mut pass).await;
            let captured = files.by_name.values().filter(|tracked| tracked.captured.is_some()).count();
            assert_eq!((captured, pass.is_unsettled), (read, read < 3), "each pass reads what it has room for");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_served_is_kept_until_two_passes_miss_it() {
        let mut files = Files::default();
        files.by_name.insert("math.wasm".into(), Tracked { good: Some("d".into()), ..Tracked::default() });
        files.by_name.insert("never.wasm".into(), Tracked::default());
        let none = || Listing::Files { files: Vec::new(), place: (1, 1), warning: None };
        files.note(none(), |_| None);
        assert_eq!(files.by_name.keys().collect::<Vec<_>>(), ["math.wasm"], "one that never served is forgotten at once");
        files.note(none(), |_| None);
        assert_eq!(files.by_name.len(), 1, "two passes in one moment may have looked during one rename");
        tokio::time::advance(ABSENT_GRACE).await;
        files.note(none(), |_| None);
        assert!(files.by_name.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_fails_takes_no_file_away() {
        let mut files = Files::default();
        files.by_name.insert("math.wasm".into(), Tracked { good: Some("d".into()), ..Tracked::default() });
        for _ in 0..3 {
            files.note(Listing::Unreadable("no right".into()), |_| None);
            files.note(Listing::Gone("gone".into()), |_| None);
            tokio::time::advance(GONE_GRACE / 4).await;
        }
        assert!(files.by_name["math.wasm"].absent.is_none() && files.trouble.is_some());
        tokio::time::advance(GONE_GRACE).await;
        files.note(Listing::Gone("gone".into()), |_| None);
        assert!(files.by_name["math.wasm"].absent.is_some(), "a directory that stays away counts as empty");
    }
}
