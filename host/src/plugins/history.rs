//! Remembers which versions each file has served, which were refused, and which were rolled back. Kept in the state directory.
//!
//! a pass → [`Event`]s → [`History`], in memory and in `history.json`. A worker follows what a command writes there.
//!
//! Invariant: applying an event twice changes nothing, so each worker of a directory may record what it sees.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use taskhost_core::task::Millis;

/// How many versions of a file are remembered: as many that served, and as many that were refused.
const KEPT: usize = 5;
/// How many files are remembered that have left the directory.
const GONE_KEPT: usize = 20;

/// One version of a plugin, and its fate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// SHA-256 of the `.wasm`, 64 lower-case hex digits.
    pub digest: String,
    /// The version that the plugin names; empty if it was never described.
    pub version: String,
    pub state: GenerationState,
    /// The time of its last change of state.
    pub at: Millis,
    /// Why it was refused or rolled back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GenerationState {
    /// It serves.
    Current,
    /// It served before, and may serve again.
    Good,
    /// It served until a guard or a command went back to an earlier version.
    RolledBack,
    /// It never served, or can't serve any more.
    Refused,
}

/// A bar: bytes that must not serve although the file has them, and the bytes that serve instead. It holds until the file has other bytes.
/// It names the version that failed, or that an operator saw. It never names bytes that came into the file later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bar {
    pub(super) digest: String,
    pub(super) to: String,
    /// A sentence.
    pub(super) why: String,
}

/// The history of one file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Line {
    /// Each digest once, the newest last.
    pub(super) generations: Vec<Generation>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) bar: Option<Bar>,
    /// The bytes that a worker last found in the file and judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) standing: Option<String>,
}

/// The files, by name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct History {
    pub(super) files: BTreeMap<String, Line>,
}

/// An event in the life of a file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Event {
    pub(super) file: String,
    pub(super) at: Millis,
    pub(super) what: What,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum What {
    Serves {
        digest: String,
        version: String,
    },
    Refused {
        digest: String,
        why: String,
    },
    /// The file has these bytes now.
    Changed {
        digest: String,
    },
    /// The file has these bytes, and a worker has judged them.
    Stands {
        digest: String,
    },
    /// `from` served, and must not serve again.
    RolledBack {
        from: String,
        bar: Bar,
    },
    /// The rollback to `to` failed: it goes on to the version before, or ends. `lasting`: the bytes will never serve. Otherwise another
    /// policy may let them serve.
    Unfit {
        to: String,
        why: String,
        lasting: bool,
    },
}

impl History {
    pub(super) fn apply(&mut self, event: &Event) {
        self.files.entry(event.file.clone()).or_default().apply(&event.what, event.at);
    }

    pub(super) fn bar(&self, file: &str) -> Option<&Bar> {
        self.files.get(file)?.bar.as_ref()
    }

    /// Forgets the oldest versions, and the oldest files that are gone.
    pub(super) fn trim(&mut self, is_present: impl Fn(&str) -> bool) {
        for line in self.files.values_mut() {
            line.trim();
        }
        let newest = |line: &Line| line.generations.iter().map(|generation| generation.at).max();
        let mut gone: Vec<_> =
            self.files.iter().filter(|(file, _)| !is_present(file)).map(|(file, line)| (newest(line), file.clone())).collect();
        gone.sort();
        for (_, file) in gone.iter().rev().skip(GONE_KEPT) {
            self.files.remove(file);
        }
    }

    /// The versions whose bytes must be kept.
    pub(super) fn keeps(&self, digest: &str) -> bool {
        self.files.values().any(|line| {
            line.bar.as_ref().is_some_and(|bar| bar.to == digest)
                || line.generations.iter().any(|generation| generation.digest == digest && generation.state.is_good())
        })
    }
}

impl GenerationState {
    fn is_good(self) -> bool {
        matches!(self, Self::Current | Self::Good)
    }
}

impl Line {
    pub(super) fn current(&self) -> Option<&Generation> {
        self.generations.iter().rev().find(|generation| generation.state == GenerationState::Current)
    }

    pub(super) fn find(&self, digest: &str) -> Option<&Generation> {
        self.generations.iter().find(|generation| generation.digest == digest)
    }

    /// The newest version that served before `digest`; if `digest` never served, the newest that served at all.
    pub(super) fn before(&self, digest: &str) -> Option<&Generation> {
        let end = self.generations.iter().position(|generation| generation.digest == digest).unwrap_or(self.generations.len());
        self.generations.iter().take(end).rev().find(|generation| generation.state.is_good())
    }

    fn apply(&mut self, what: &What, at: Millis) {
        match what {
            What::Serves { digest, version } => {
                let is_barred = self.bar.as_ref().is_some_and(|bar| bar.digest == *digest && bar.to != *digest);
                if is_barred || self.current().is_some_and(|current| current.digest == *digest) {
                    return;
                }
                for generation in self.generations.iter_mut().filter(|generation| generation.state == GenerationState::Current) {
                    generation.state = GenerationState::Good;
                }
                self.put(Generation { digest: digest.clone(), version: version.clone(), state: GenerationState::Current, at, why: None });
            }
            What::Refused { digest, why } => match self.generations.iter_mut().find(|generation| generation.digest == *digest) {
                // It was refused for another reason, such as a policy. It served, and may serve again.
                Some(generation) if generation.state != GenerationState::Refused => {}
                Some(generation) => generation.why = Some(why.clone()),
                None => {
                    let why = Some(why.clone());
                    self.put(Generation { digest: digest.clone(), version: String::new(), state: GenerationState::Refused, at, why });
                }
            },
            What::Changed { digest } => {
                if self.bar.as_ref().is_some_and(|bar| bar.digest != *digest) {
                    self.bar = None;
                }
            }
            What::Stands { digest } => self.standing = Some(digest.clone()),
            What::RolledBack { from, bar } => {
                let serves = self.current().is_none_or(|current| current.digest == *from);
                self.mark(from, GenerationState::RolledBack, &bar.why, at);
                // A late event about a version that has left the file does not undo the decision about the present one.
                if serves || self.bar.is_none() {
                    self.bar = Some(bar.clone());
                }
            }
            What::Unfit { to, why, lasting } => {
                let next = self.before(to).map(|generation| generation.digest.clone());
                if *lasting {
                    self.mark(to, GenerationState::Refused, why, at);
                }
                self.bar = match (self.bar.take(), next) {
                    (Some(bar), Some(next)) if bar.to == *to => Some(Bar { to: next, ..bar }),
                    (Some(bar), _) if bar.to != *to => Some(bar),
                    _ => None,
                };
            }
        }
    }

    fn mark(&mut self, digest: &str, state: GenerationState, why: &str, at: Millis) {
        for generation in self.generations.iter_mut().filter(|generation| generation.digest == digest && generation.state != state) {
            generation.state = state;
            generation.at = at;
            generation.why = Some(why.to_owned());
        }
    }

    /// Adds it as the newest, in place of an earlier entry of the same bytes.
    fn put(&mut self, generation: Generation) {
        self.generations.retain(|known| known.digest != generation.digest);
        self.generations.push(generation);
    }

    fn trim(&mut self) {
        for refused in [true, false] {
            let is = |generation: &Generation| (generation.state == GenerationState::Refused) == refused;
            let mut over = self.generations.iter().filter(|generation| is(generation)).count().saturating_sub(KEPT);
            let to = self.bar.as_ref().map(|bar| bar.to.clone());
            self.generations.retain(|generation| {
                let needed = generation.state == GenerationState::Current || to.as_ref() == Some(&generation.digest);
                let goes = over > 0 && is(generation) && !needed;
                over -= usize::from(goes);
                !goes
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FILE: &str = "math.wasm";

    fn serves(digest: &str) -> What {
        What::Serves { digest: digest.into(), version: format!("{digest}.0") }
    }

    fn rolled_back(from: &str, to: &str) -> What {
        What::RolledBack { from: from.into(), bar: Bar { digest: from.into(), to: to.into(), why: "by hand".into() } }
    }

    fn after(events: Vec<What>) -> Line {
        let mut history = History::default();
        for (n, what) in events.into_iter().enumerate() {
            history.apply(&Event { file: FILE.into(), at: Millis(n as u64), what });
        }
        history.files.remove(FILE).unwrap_or_default()
    }

    fn shown(line: &Line) -> Vec<String> {
        line.generations.iter().map(|generation| format!("{} {:?}", generation.digest, generation.state)).collect()
    }

    #[test]
    fn versions_follow_each_other_and_a_rollback_goes_one_back_each_time() {
        let mut line = after(vec![serves("1"), serves("2"), What::Refused { digest: "x".into(), why: "garbage".into() }, serves("3")]);
        assert_eq!(shown(&line), ["1 Good", "2 Good", "x Refused", "3 Current"]);
        assert_eq!(line.before("3").map(|g| g.digest.as_str()), Some("2"));
        line.apply(&rolled_back("3", "2"), Millis(9));
        line.apply(&serves("2"), Millis(10));
        assert_eq!(shown(&line), ["1 Good", "x Refused", "3 RolledBack", "2 Current"]);
        assert_eq!(line.before("2").map(|g| g.digest.as_str()), Some("1"));
        line.apply(&What::Changed { digest: "3".into() }, Millis(11));
        assert!(line.bar.is_some(), "the same bytes stand there");
        line.apply(&What::Changed { digest: "4".into() }, Millis(12));
        assert!(line.bar.is_none());
        line.apply(&serves("3"), Millis(13));
        assert_eq!(shown(&line), ["1 Good", "x Refused", "2 Good", "3 Current"], "it was put there again on purpose");
    }

    #[test]
    fn a_version_that_can_not_come_back_gives_way_to_the_one_before_it() {
        let unfit = |to: &str| What::Unfit { to: to.into(), why: "changed on disk".into(), lasting: true };
        let mut line = after(vec![serves("1"), serves("2"), serves("3"), rolled_back("3", "2"), unfit("2")]);
        assert_eq!(line.bar.as_ref().map(|bar| bar.to.as_str()), Some("1"));
        line.apply(&unfit("2"), Millis(8));
        assert_eq!(line.bar.as_ref().map(|bar| bar.to.as_str()), Some("1"), "saying it twice changes nothing");
        line.apply(&unfit("1"), Millis(9));
        assert_eq!(line.bar, None);
        assert_eq!(shown(&line), ["1 Refused", "2 Refused", "3 RolledBack"]);
        assert_eq!(line.before("3"), None);
    }

    #[test]
    fn a_late_word_of_a_version_that_has_gone_undoes_nothing() {
        let mut line = after(vec![serves("1"), serves("2"), serves("3"), rolled_back("3", "2")]);
        line.apply(&serves("2"), Millis(8));
        line.apply(&rolled_back("1", "0"), Millis(9));
        assert_eq!(line.bar.as_ref().map(|bar| bar.digest.as_str()), Some("3"));
        assert_eq!(shown(&line), ["1 RolledBack", "3 RolledBack", "2 Current"]);
    }

    #[test]
    fn a_version_that_only_a_policy_keeps_away_may_serve_again() {
        let passed_over = What::Unfit { to: "2".into(), why: "its key is not trusted here".into(), lasting: false };
        let line = after(vec![serves("1"), serves("2"), serves("3"), rolled_back("3", "2"), passed_over]);
        assert_eq!(line.bar.as_ref().map(|bar| bar.to.as_str()), Some("1"));
        assert_eq!(shown(&line), ["1 Good", "2 Good", "3 RolledBack"]);
    }

    fn any_event() -> impl Strategy<Value = What> {
        let digest = || "[a-j]";
        prop_oneof![
            digest().prop_map(|d| serves(&d)),
            digest().prop_map(|d| What::Refused { digest: d, why: "bad".into() }),
            digest().prop_map(|d| What::Changed { digest: d }),
            (digest(), digest()).prop_map(|(from, to)| rolled_back(&from, &to)),
            digest().prop_map(|d| What::Stands { digest: d }),
            (digest(), any::<bool>()).prop_map(|(d, lasting)| What::Unfit { to: d, why: "gone".into(), lasting }),
        ]
    }

    proptest! {
        #[test]
        fn a_history_is_bounded_and_every_event_may_be_told_twice(events in proptest::collection::vec(any_event(), 0..60)) {
            let mut history = History::default();
            for (n, what) in events.into_iter().enumerate() {
                let event = Event { file: FILE.into(), at: Millis(n as u64), what };
                history.apply(&event);
                let once = history.clone();
                history.apply(&event);
                prop_assert_eq!(&history, &once, "{:?}", event);
                history.trim(|_| true);
                let line = &history.files[FILE];
                prop_assert!(line.generations.len() <= 2 * KEPT + 1, "{:?}", line);
                prop_assert!(line.generations.iter().filter(|g| g.state == GenerationState::Current).count() <= 1);
                let mut digests: Vec<_> = line.generations.iter().map(|g| &g.digest).collect();
                digests.sort();
                digests.dedup();
                prop_assert_eq!(digests.len(), line.generations.len(), "each digest once");
            }
        }

        #[test]
        fn files_that_are_gone_are_forgotten_in_the_end(count in 0_usize..60) {
            let mut history = History::default();
            for n in 0..count {
                history.apply(&Event { file: format!("p{n}.wasm"), at: Millis(n as u64), what: serves("1") });
            }
            history.trim(|file| file == "p0.wasm");
            prop_assert!(history.files.len() <= GONE_KEPT + 1);
            prop_assert!(count == 0 || history.files.contains_key("p0.wasm"));
            prop_assert!(count < 2 || history.files.contains_key(&format!("p{}.wasm", count - 1)), "the newest stay");
        }
    }
}
