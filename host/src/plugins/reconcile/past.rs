//! Knows the earlier versions, and goes back to one.
//!
//! a lost trial, or a command's bar in the history → load the version to go back to → it serves, and the barred bytes do not → record
//!
//! Invariant: the serving version goes on until the one to go back to is loaded. If none can be loaded, it stays. A decision concerns the
//! version that was examined. Bytes that came into the file later are judged by themselves.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    sync::Arc,
    time::Duration,
};

use tokio::sync::Notify;

use super::{Compiled, Reconciler, Tracked};
use crate::plugins::{
    digest::Digest,
    directory::Identity,
    guard::{Found, Guard, Tally, Trial},
    history::{Bar, Event, GenerationState, History, What},
    judge::Version,
    loads::{Loader, Source},
    name::stem,
    policy::Policies,
    registry::Plugin,
    rollback::short,
    state::{Index, State, Unread},
};
use taskhost_core::{
    catalogue::PluginStatus,
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
    /// The trials by file; only of plugins with a guard.
    trials: BTreeMap<String, Trial>,
    look: Arc<Notify>,
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
            trials: BTreeMap::new(),
            look: Arc::default(),
            _attending: state.and_then(State::attend),
        };
        (past, trouble)
    }

    /// Notified when a trial may be lost.
    pub(super) fn look(&self) -> Arc<Notify> {
        self.look.clone()
    }

    pub(super) fn bar(&self, file: &str) -> Option<&Bar> {
        self.history.bar(file)
    }

    pub(super) fn tally(&self, file: &str) -> Option<Arc<Tally>> {
        self.trials.get(file).map(|trial| trial.tally.clone())
    }

    /// Whether this version served and was rolled back.
    fn is_rolled_back(&self, file: &str, digest: &str) -> bool {
        let known = self.history.files.get(file).and_then(|line| line.find(digest));
        known.is_some_and(|generation| generation.state == GenerationState::RolledBack)
    }

    /// Whether the version that a file falls back to was rolled back.
    fn serves_on(&self, file: &str, tracked: &Tracked) -> bool {
        tracked.good.as_ref().is_some_and(|good| self.is_rolled_back(file, good))
    }

    fn happened(&mut self, file: &str, what: What) {
        let event = Event { file: file.to_owned(), at: SystemClock.now(), what };
        self.history.apply(&event);
        self.events.push(event);
    }

    /// Whether this version replaced another recently, so that a restart must not end its trial.
    fn is_fresh(&self, file: &str, digest: &str, window: Duration) -> bool {
        let line = self.history.files.get(file);
        let current = line.and_then(|line| line.current().filter(|current| current.digest == digest));
        current.is_some_and(|current| SystemClock.now().since(current.at) < window)
            && line.is_some_and(|line| line.before(digest).is_some())
    }
}

/// The guard in force.
fn guard_of(policies: &Policies, file: &str) -> Option<Guard> {
    policies.plugins.get(stem(file)).and_then(|policy| policy.guard)
}

impl<L: Loader> Reconciler<L> {
    /// Reads changes of the history by other processes.
    pub(super) async fn look_at_history(&mut self) {
        let Some(state) = self.state.clone() else { return };
        let seen = self.past.seen;
        let read = tokio::task::spawn_blocking(move || {
            let identity = state.history_identity();
            (identity != seen).then(|| (identity, state.history()))
        });
        let Ok(Some((identity, history))) = read.await else { return };
        match history {
            Ok(mut history) => {
                self.past.seen = identity;
                for event in &self.past.events {
                    history.apply(event);
                }
                self.past.history = history;
            }
            Err(Unread::Spoilt(text)) => {
                self.past.seen = identity;
                tracing::warn!("{text}");
            }
            // The next pass reads it again.
            Err(Unread::Trouble(text)) => tracing::debug!("{text}"),
        }
    }

    /// Ends rollbacks whose file has changed, and begins those that a guard demands.
    pub(super) fn look_at_trials(&mut self) {
        for (file, tracked) in &self.files {
            let others = tracked.captured.as_ref().filter(|(_, digest)| self.past.bar(file).is_some_and(|bar| *bar.digest != **digest));
            // While the failed version still serves, it is rolled back, whatever bytes the file has now.
            if let Some((_, digest)) = others.filter(|_| !self.past.serves_on(file, tracked)) {
                self.past.happened(file, What::Changed { digest: digest.to_string() });
            }
        }
        let policies = self.policy.policies().clone();
        let trials = self.past.trials.iter_mut();
        // The guard in force decides. A guard that was removed or eased since no longer counts.
        let trials = trials.filter(|(file, trial)| guard_of(&policies, file).is_some_and(|guard| trial.is_under(&guard)));
        let found: Vec<_> = trials.map(|(file, trial)| (file.clone(), trial.digest.clone(), trial.look())).collect();
        for (file, digest, found) in found {
            match found {
                Found::Nothing => {}
                Found::Proven => tracing::debug!("{file}: the new version keeps to its guard"),
                Found::NoBetterBefore(now) => tracing::warn!(
                    "{file}: {} of {} attempts failed, but of the version before as many did: its guard lets it be",
                    now.failed,
                    now.ended
                ),
                Found::Worse { now, before } => {
                    let counts = format!(
                        "{} of its {} attempts failed, of the version before {} of {}",
                        now.failed, now.ended, before.failed, before.ended
                    );
                    self.begin_rollback(&file, &digest, &counts);
                }
            }
        }
    }

    /// Rolls the failed version back. The file may have another version by now, which was never tried.
    fn begin_rollback(&mut self, file: &str, from: &Digest, counts: &str) {
        let Some(to) = self.past.history.files.get(file).and_then(|line| line.before(from)) else {
            tracing::warn!("{file}: {counts}, and there is no version to go back to: mend it, or take it away");
            return;
        };
        let (version, to) = (to.version.clone(), to.digest.clone());
        let why = format!(
            "rolled back by its guard to version {version} ({}): {counts}; it holds until other bytes stand in the file",
            short(&to)
        );
        let replaced = self.files.get(file).and_then(|tracked| tracked.captured.as_ref()).is_some_and(|(_, digest)| digest != from);
        if replaced {
            tracing::warn!("{file}: version {} was {why}; others stand there already, and serve if they are good", short(from));
        }
        if let Some(trial) = self.past.trials.get_mut(file) {
            trial.leave();
        }
        let bar = Bar { digest: from.to_string(), to, why };
        self.past.happened(file, What::RolledBack { from: from.to_string(), bar });
    }

    /// Loads the versions to go back to.
    pub(super) fn follow_bars(&mut self) {
        let barred: Vec<String> = self.files.keys().filter(|file| self.bar_in_force(file).is_some()).cloned().collect();
        for file in barred {
            while let Some(to) = self.bar_in_force(&file).map(|bar| Digest::from(bar.to.as_str())) {
                let (why, lasting) = match (self.distrust(&to), self.compiled.get(&to)) {
                    // Nothing is known of it before its signature was verified.
                    (Some(_), _) if self.is_open(&to) => break,
                    (Some(why), _) => (why, false),
                    (None, Some(Compiled::Bad(why))) => (why.clone(), true),
                    (None, Some(Compiled::Loaded(..))) => {
                        if let Some(tracked) = self.files.get_mut(&file) {
                            tracked.good = Some(to);
                        }
                        break;
                    }
                    (None, Some(Compiled::Loading)) => break,
                    (None, None) => {
                        self.compile(&to, Source::Kept);
                        break;
                    }
                };
                tracing::warn!("{file}: cannot go back to {}: {why}", short(&to));
                self.past.happened(&file, What::Unfit { to: to.to_string(), why, lasting });
                if self.past.bar(&file).is_none() {
                    tracing::warn!("{file}: no earlier version can serve, so what stands in the file does");
                    self.take_again(&file);
                }
            }
        }
    }

    /// Loads bytes again whose bar has ended, because they were not compiled or were dropped.
    fn take_again(&mut self, file: &str) {
        let Some(tracked) = self.files.get_mut(file) else { return };
        if tracked.captured.as_ref().is_some_and(|(_, digest)| !self.compiled.contains_key(digest)) {
            tracked.captured = None;
            self.unsettled = true;
        }
    }

    /// The bar of a file, if it still applies: its bytes are in the file, or serve.
    fn bar_in_force(&self, file: &str) -> Option<&Bar> {
        let tracked = self.files.get(file)?;
        self.bar_on(file).or_else(|| self.past.bar(file).filter(|_| self.past.serves_on(file, tracked)))
    }

    /// The bar on the bytes in the file.
    fn bar_on(&self, file: &str) -> Option<&Bar> {
        let (_, digest) = self.files.get(file)?.captured.as_ref()?;
        self.past.bar(file).filter(|bar| *bar.digest == **digest)
    }

    /// The sentence of a rollback that has taken place.
    pub(super) fn barred(&self, file: &str, tracked: &Tracked) -> Option<String> {
        let bar = self.bar_on(file)?;
        tracked.good.as_ref().is_some_and(|good| **good == *bar.to).then(|| bar.why.clone())
    }

    /// Whether these bytes are rolled back in every file that has them.
    pub(super) fn is_barred(&self, digest: &Digest) -> bool {
        if self.past.history.files.values().all(|line| line.bar.is_none()) {
            return false;
        }
        let mut holders =
            self.files.iter().filter(|(_, tracked)| tracked.captured.as_ref().is_some_and(|(_, captured)| captured == digest)).peekable();
        holders.peek().is_some() && holders.all(|(file, _)| self.bar_on(file).is_some())
    }

    /// The versions that bars need in memory.
    pub(super) fn gone_back_to(&self) -> impl Iterator<Item = Digest> {
        self.files.keys().filter_map(|file| self.bar_in_force(file)).map(|bar| Digest::from(bar.to.as_str()))
    }

    /// Makes counters for the serving versions. A version that replaced another is on trial, unless it came by a rollback.
    pub(super) fn put_on_trial(&mut self, file: &str, version: &Version, policies: &Policies) {
        let Some(guard) = guard_of(policies, file) else {
            self.past.trials.remove(file);
            return;
        };
        let known = self.past.trials.remove(file);
        let trial = match known {
            Some(known) if known.digest == version.digest && known.is_under(&guard) => known,
            Some(known) if known.digest == version.digest => known.anew(guard, self.past.look()),
            mut known => {
                // Also a version that was rolled back by hand, or by another worker.
                if let Some(known) = known.as_mut().filter(|known| self.past.is_rolled_back(file, &known.digest)) {
                    known.leave();
                }
                let good = self.files.get(file).and_then(|tracked| tracked.good.as_ref());
                let replaced = good.is_some_and(|good| *good != version.digest);
                let fresh = !self.published && self.past.is_fresh(file, &version.digest, guard.window);
                let on_trial = (replaced || fresh) && self.bar_on(file).is_none();
                Trial::new(version.digest.clone(), guard, self.past.look(), known.as_ref(), on_trial)
            }
        };
        self.past.trials.insert(file.to_owned(), trial);
    }

    /// Whether a plugin's attempts are counted by the right counter.
    pub(super) fn counts_right(&self, file: &str, plugin: &Plugin<L::Code>) -> bool {
        match (&plugin.tally, self.past.trials.get(file)) {
            (None, None) => true,
            (Some(tally), Some(trial)) => Arc::ptr_eq(tally, &trial.tally),
            _ => false,
        }
    }

    /// Records the serving versions and the events for the next start. A failing state directory keeps nothing from serving.
    pub(super) async fn record(&mut self) {
        self.past.trials.retain(|file, _| self.plugins.contains_key(file));
        self.tell_history();
        let Some(state) = self.state.clone() else {
            self.past.events.clear();
            let files = &self.files;
            self.past.history.trim(|file| files.contains_key(file));
            return;
        };
        let mut tried = !self.past.events.is_empty();
        let mut trouble = self.record_history(&state).await.err();
        if let Some(recorded) = self.record_served().await {
            tried = true;
            trouble = recorded.err().or(trouble);
        }
        if !tried {
            return;
        }
        if let Some(text) = trouble.as_ref().filter(|_| trouble != self.state_trouble) {
            tracing::warn!("{text}");
        }
        self.state_trouble = trouble;
    }

    /// Records the serving versions for the next start, if they are new. `None`: nothing is new, or there is no state directory.
    pub(super) async fn record_served(&mut self) -> Option<Result<(), String>> {
        let state = self.state.clone()?;
        let files: BTreeMap<String, String> =
            self.files.iter().filter_map(|(file, t)| Some((file.clone(), t.good.as_ref()?.to_string()))).collect();
        if files == self.recorded.files && self.owners == self.recorded.owners {
            return None;
        }
        let (new_files, owners) = (files.clone(), self.owners.clone());
        let written = tokio::task::spawn_blocking(move || state.record(new_files, owners)).await;
        let written = written.unwrap_or_else(|error| Err(error.to_string()));
        if written.is_ok() {
            self.recorded = Index { directory: String::new(), files, owners: self.owners.clone() };
        }
        Some(written)
    }

    /// The new events: versions that serve or are refused now.
    fn tell_history(&mut self) {
        let registry = self.registry.borrow().clone();
        let mut told = BTreeMap::new();
        for info in &registry.files {
            let captured = self.files.get(&info.file).and_then(|tracked| tracked.captured.as_ref()).map(|(_, digest)| digest.clone());
            let serving = self.plugins.get(&info.file);
            let error = info.error.clone().filter(|_| info.status == PluginStatus::Failed);
            // A version that the machine can't load now was examined too. Only a new version that is being loaded was not.
            let is_judged = info.status != PluginStatus::Loading || info.error.is_some();
            let judged = captured.clone().filter(|_| is_judged);
            let now = Told { serving: serving.map(|plugin| plugin.id.digest.as_str().into()), refused: captured.zip(error), judged };
            let before = self.past.told.remove(&info.file).unwrap_or_default();
            if let Some(plugin) = serving.filter(|_| before.serving != now.serving) {
                let what = What::Serves { digest: plugin.id.digest.clone(), version: plugin.id.version.clone() };
                self.past.happened(&info.file, what);
            }
            if let Some((digest, why)) = now.refused.as_ref().filter(|_| before.refused != now.refused) {
                self.past.happened(&info.file, What::Refused { digest: digest.to_string(), why: why.clone() });
            }
            if let Some(digest) = now.judged.as_ref().filter(|_| before.judged != now.judged) {
                self.past.happened(&info.file, What::Stands { digest: digest.to_string() });
            }
            told.insert(info.file.clone(), now);
        }
        self.past.told = told;
    }

    async fn record_history(&mut self, state: &Arc<State>) -> Result<(), String> {
        if self.past.events.is_empty() {
            return Ok(());
        }
        let (state, events) = (state.clone(), self.past.events.clone());
        let present: BTreeSet<String> = self.files.keys().cloned().collect();
        let written = tokio::task::spawn_blocking(move || {
            state.change_history(|history| {
                for event in &events {
                    history.apply(event);
                }
                history.trim(|file| present.contains(file));
                history.clone()
            })
        });
        let (history, identity) = written.await.map_err(|e| e.to_string())??;
        self.past.events.clear();
        self.past.history = history;
        self.past.seen = identity;
        Ok(())
    }
}
