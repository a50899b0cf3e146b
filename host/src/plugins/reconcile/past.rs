//! Knows the earlier versions of each file, and which of them must not serve again.
//!
//! a lost trial, or a command's bar in the history → load the version to go back to → it serves, and the barred bytes do not → record
//!
//! Invariant: the serving version goes on until the one to go back to is loaded. If none can be loaded, it stays. A decision concerns the
//! version that was examined. Bytes that came into the file later are judged by themselves.

use std::{collections::BTreeMap, fs::File, sync::Arc, time::Duration};

use super::{
    files::{Files, Tracked},
    pass::Pass,
    versions::{Known, Versions},
};
use crate::plugins::{
    digest::Digest,
    directory::Identity,
    history::{Bar, Event, Generation, GenerationState, History, What},
    loads::{Loader, Source},
    registry::Plugin,
    rollback::short,
    state::{State, Unread},
};
use taskhost_core::{
    catalogue::{PluginInfo, PluginStatus},
    task::{Clock, SystemClock},
};

pub(in crate::plugins) struct Past {
    history: History,
    /// The identity of the history as it was read.
    seen: Option<Identity>,
    /// Events that are not written yet.
    events: Vec<Event>,
    /// By file: the state that was last recorded.
    told: BTreeMap<String, Told>,
    /// Shows to commands that a worker serves from here.
    _attending: Option<File>,
}

/// The last recorded state of a file: the serving bytes, the refused bytes, and the judged bytes in the file.
#[derive(Debug, Clone, PartialEq, Default)]
struct Told {
    serving: Option<Digest>,
    refused: Option<(Digest, String)>,
    judged: Option<Digest>,
}

impl Past {
    /// Reads the history. Blocks on the file system. Also returns a sentence about a fault of the history.
    pub(in crate::plugins) fn open(state: Option<&State>) -> (Self, Option<String>) {
        let seen = state.and_then(State::history_identity);
        let read = state.map_or_else(|| Ok(History::default()), State::history);
        let trouble = read.as_ref().err().cloned().map(Unread::into_text);
        let past = Self {
            history: read.unwrap_or_default(),
            seen,
            events: Vec::new(),
            told: BTreeMap::new(),
            _attending: state.and_then(State::attend),
        };
        (past, trouble)
    }

    /// Reads changes of the history by other processes.
    pub(super) async fn read(&mut self, state: Option<Arc<State>>) {
        let Some(state) = state else { return };
        let seen = self.seen;
        let read = tokio::task::spawn_blocking(move || {
            let identity = state.history_identity();
            (identity != seen).then(|| (identity, state.history()))
        });
        let Ok(Some((identity, history))) = read.await else { return };
        match history {
            Ok(mut history) => {
                self.seen = identity;
                for event in &self.events {
                    history.apply(event);
                }
                self.history = history;
            }
            Err(Unread::Spoilt(text)) => {
                self.seen = identity;
                tracing::warn!("{text}");
            }
            // The next pass reads it again.
            Err(Unread::Trouble(text)) => tracing::debug!("{text}"),
        }
    }

    pub(super) fn happened(&mut self, file: &str, what: What) {
        let event = Event { file: file.to_owned(), at: SystemClock.now(), what };
        self.history.apply(&event);
        self.events.push(event);
    }

    pub(super) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    pub(super) fn events(&self) -> &[Event] {
        &self.events
    }

    /// The history with all events is written.
    pub(super) fn written(&mut self, history: History, seen: Option<Identity>) {
        self.events.clear();
        (self.history, self.seen) = (history, seen);
    }

    /// Forgets old versions, where nothing is written.
    pub(super) fn forget(&mut self, is_present: impl Fn(&str) -> bool) {
        self.events.clear();
        self.history.trim(is_present);
    }

    /// The newest version of a file that served before these bytes.
    pub(super) fn before(&self, file: &str, digest: &str) -> Option<&Generation> {
        self.history.files.get(file)?.before(digest)
    }

    /// Whether this version served and was rolled back.
    pub(super) fn is_rolled_back(&self, file: &str, digest: &str) -> bool {
        let known = self.history.files.get(file).and_then(|line| line.find(digest));
        known.is_some_and(|generation| generation.state == GenerationState::RolledBack)
    }

    /// Whether this version replaced another recently, so that a restart must not end its trial.
    pub(super) fn is_fresh(&self, file: &str, digest: &str, window: Duration) -> bool {
        let line = self.history.files.get(file);
        let current = line.and_then(|line| line.current().filter(|current| current.digest == digest));
        current.is_some_and(|current| SystemClock.now().since(current.at) < window)
            && line.is_some_and(|line| line.before(digest).is_some())
    }

    /// Whether the version that a file falls back to was rolled back.
    fn serves_on(&self, file: &str, tracked: &Tracked) -> bool {
        tracked.good.as_ref().is_some_and(|good| self.is_rolled_back(file, good))
    }

    /// The bytes that a file's bar goes back to, whether or not the bar still applies.
    pub(super) fn bar_to(&self, file: &str) -> Option<Digest> {
        self.history.bar(file).map(|bar| bar.to.as_str().into())
    }

    /// The bar on the bytes in the file.
    pub(super) fn bar_on(&self, file: &str, tracked: &Tracked) -> Option<&Bar> {
        let digest = tracked.digest()?;
        self.history.bar(file).filter(|bar| *bar.digest == **digest)
    }

    /// The bar of a file, if it still applies: its bytes are in the file, or serve.
    fn bar_in_force(&self, file: &str, tracked: &Tracked) -> Option<&Bar> {
        self.bar_on(file, tracked).or_else(|| self.history.bar(file).filter(|_| self.serves_on(file, tracked)))
    }

    /// The sentence of a rollback that has taken place.
    pub(super) fn barred(&self, file: &str, tracked: &Tracked) -> Option<String> {
        let bar = self.bar_on(file, tracked)?;
        tracked.good.as_ref().is_some_and(|good| **good == *bar.to).then(|| bar.why.clone())
    }

    /// Whether these bytes are rolled back in every file that has them.
    pub(super) fn is_barred(&self, digest: &Digest, files: &Files) -> bool {
        if self.history.files.values().all(|line| line.bar.is_none()) {
            return false;
        }
        let mut holders = files.by_name.iter().filter(|(_, tracked)| tracked.digest() == Some(digest)).peekable();
        holders.peek().is_some() && holders.all(|(file, tracked)| self.bar_on(file, tracked).is_some())
    }

    /// The versions that bars need in memory.
    pub(super) fn gone_back_to(&self, files: &Files) -> Vec<Digest> {
        let bars = files.by_name.iter().filter_map(|(file, tracked)| self.bar_in_force(file, tracked));
        bars.map(|bar| bar.to.as_str().into()).collect()
    }

    /// Ends the bars of files that have other bytes by now.
    pub(super) fn end_bars(&mut self, files: &Files) {
        for (file, tracked) in &files.by_name {
            let Some(digest) = tracked.digest() else { continue };
            let has_others = self.history.bar(file).is_some_and(|bar| *bar.digest != **digest);
            // While the failed version still serves, it is rolled back, whatever bytes the file has now.
            if has_others && !self.serves_on(file, tracked) {
                self.happened(file, What::Changed { digest: digest.to_string() });
            }
        }
    }

    /// Loads the versions to go back to, and falls back to those that are loaded.
    pub(super) fn follow_bars<L: Loader>(&mut self, files: &mut Files, versions: &mut Versions<L>, pass: &mut Pass) {
        let barred = files.by_name.iter().filter(|(file, tracked)| self.bar_in_force(file, tracked).is_some());
        let barred: Vec<String> = barred.map(|(file, _)| file.clone()).collect();
        for file in barred {
            self.follow_bar(&file, files, versions, pass);
        }
    }

    fn follow_bar<L: Loader>(&mut self, file: &str, files: &mut Files, versions: &mut Versions<L>, pass: &mut Pass) {
        loop {
            let Some(tracked) = files.by_name.get_mut(file) else { return };
            let Some(to) = self.bar_in_force(file, tracked).map(|bar| Digest::from(bar.to.as_str())) else { return };
            let (why, lasting) = match versions.known(&to) {
                Known::Unverified(_) => return,
                Known::Loading(_) => return versions.load(&to, Source::Kept),
                Known::Loaded(_) => {
                    tracked.good = Some(to);
                    return;
                }
                Known::Distrusted(why) => (why, false),
                Known::Bad(why) => (why, true),
            };
            tracing::warn!("{file}: cannot go back to {}: {why}", short(&to));
            self.happened(file, What::Unfit { to: to.to_string(), why, lasting });
            if self.history.bar(file).is_none() {
                tracing::warn!("{file}: no earlier version can serve, so what stands in the file does");
                // Bytes under a bar were not compiled, or were dropped.
                if tracked.digest().is_some_and(|digest| !versions.has(digest)) {
                    files.read_again(file, pass);
                }
                return;
            }
        }
    }

    /// Notes the versions that serve or are refused now, as far as they are new. `serving` are the plugins by file.
    pub(super) fn note<C>(&mut self, infos: &[PluginInfo], serving: &BTreeMap<String, Arc<Plugin<C>>>, files: &Files) {
        let mut told = BTreeMap::new();
        for info in infos {
            let captured = files.by_name.get(&info.file).and_then(Tracked::digest).cloned();
            let serving = serving.get(&info.file);
            let error = info.error.clone().filter(|_| info.status == PluginStatus::Failed);
            // A version that the machine can't load now was examined too. Only a new version that is being loaded was not.
            let is_judged = info.status != PluginStatus::Loading || info.error.is_some();
            let judged = captured.clone().filter(|_| is_judged);
            let now = Told { serving: serving.map(|plugin| plugin.id.digest.as_str().into()), refused: captured.zip(error), judged };
            let before = self.told.remove(&info.file).unwrap_or_default();
            if let Some(plugin) = serving.filter(|_| before.serving != now.serving) {
                let what = What::Serves { digest: plugin.id.digest.clone(), version: plugin.id.version.clone() };
                self.happened(&info.file, what);
            }
            if let Some((digest, why)) = now.refused.as_ref().filter(|_| before.refused != now.refused) {
                self.happened(&info.file, What::Refused { digest: digest.to_string(), why: why.clone() });
            }
            if let Some(digest) = now.judged.as_ref().filter(|_| before.judged != now.judged) {
                self.happened(&info.file, What::Stands { digest: digest.to_string() });
            }
            told.insert(info.file.clone(), now);
        }
        self.told = told;
    }
}
