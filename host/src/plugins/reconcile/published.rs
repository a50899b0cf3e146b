//! The registry that is in force, and when the first one may be published.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use super::tell;
use crate::plugins::{
    judge::{Candidate, Content, Owners},
    registry::{Plugin, Registry},
};
use taskhost_core::{catalogue::PluginInfo, observe::Observers};

/// The first registry waits for all files to be judged, but only this long if some are ready. A file that settles or compiles slowly does not
/// delay the others.
pub(super) const FIRST_LIMIT: Duration = Duration::from_secs(1);
/// The same if none is ready.
pub(super) const EMPTY_LIMIT: Duration = Duration::from_secs(10);

pub(super) struct Published<C> {
    registry: watch::Sender<Arc<Registry<C>>>,
    observers: Observers,
    /// The plugins that serve, by file.
    plugins: BTreeMap<String, Arc<Plugin<C>>>,
    owners: Owners,
    /// The owners of names in an earlier process.
    owners_before: Owners,
    has_begun: bool,
    /// Whether every file of the start was judged once.
    is_complete: bool,
}

impl<C: Send + Sync + 'static> Published<C> {
    pub(super) fn new(owners_before: Owners) -> Self {
        let (registry, _) = watch::channel(Arc::default());
        Self {
            registry,
            observers: Observers::none(),
            plugins: BTreeMap::new(),
            owners: owners_before.clone(),
            owners_before,
            has_begun: false,
            is_complete: false,
        }
    }

    pub(super) fn observe(&mut self, observers: Observers) {
        self.observers = observers;
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<Registry<C>>> {
        self.registry.subscribe()
    }

    /// Whether a registry was published.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun
    }

    pub(super) fn owners(&self) -> &Owners {
        &self.owners
    }

    pub(super) fn plugins(&self) -> &BTreeMap<String, Arc<Plugin<C>>> {
        &self.plugins
    }

    /// The registry in force.
    pub(super) fn registry(&self) -> Arc<Registry<C>> {
        self.registry.borrow().clone()
    }

    /// Files of the start that are not judged yet are judged as later ones, because the directory has changed since.
    pub(super) fn end_start(&mut self) {
        self.is_complete |= self.has_begun;
    }

    /// The owners of names by which to judge now; `None`: the first registry still waits for files.
    ///
    /// The order of loading decides no name: until all files of the start are judged, they are judged together.
    pub(super) fn owners_to_judge_by(&mut self, started: Instant, candidates: &[Candidate]) -> Option<&Owners> {
        let is_together = !self.is_complete;
        self.is_complete |= candidates.iter().all(is_judgeable);
        if !self.has_begun && !self.is_complete && !is_time_to_begin(started, candidates) {
            return None;
        }
        Some(if is_together { &self.owners_before } else { &self.owners })
    }

    /// Publishes a registry, and tells its changes, if there are any.
    pub(super) fn publish(
        &mut self,
        owners: Owners,
        plugins: BTreeMap<String, Arc<Plugin<C>>>,
        files: Vec<PluginInfo>,
        warnings: Vec<String>,
    ) {
        let bodies: HashMap<_, _> = owners.iter().filter_map(|(name, file)| Some((name.clone(), plugins.get(file)?.clone()))).collect();
        (self.owners, self.plugins) = (owners, plugins);
        let registry = Registry { bodies, files, warnings };
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        let before = self.registry.borrow().clone();
        if is_first || !tell::same(&before, &registry) {
            tell::tell(&before, &registry, &self.observers);
            self.registry.send_replace(Arc::new(registry));
        }
    }
}

/// Whether the first registry need not wait longer for files that are not judged.
fn is_time_to_begin(started: Instant, candidates: &[Candidate]) -> bool {
    let is_ready = |candidate: &Candidate| matches!(candidate.content, Content::Loaded(_)) || candidate.good.is_some();
    let limit = if candidates.iter().any(is_ready) { FIRST_LIMIT } else { EMPTY_LIMIT };
    started.elapsed() >= limit
}

/// Whether the first registry need not wait for this file, because it waits for a busy machine.
fn is_judgeable(candidate: &Candidate) -> bool {
    !matches!(candidate.content, Content::Loading(None))
}
