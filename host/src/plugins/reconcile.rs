//! Makes the registry follow the directory. One task does it.
//!
//! trigger → list → read changed files → start loading new bytes → judge everything → publish → record
//!
//! Invariant: passes never overlap, and a pass never compiles. A file that is still loading keeps its last good version.

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tokio::{sync::watch as channel, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    digest::Digest,
    directory::{self, SETTLE, Seen},
    judge::{Judgement, Rules, Version, code_id, judge},
    loads::{Loader, Loads, Source},
    name::stem,
    policy::Policies,
    policy_file::PolicyFile,
    registry::{Plugin, Registry},
    signed::Signatures,
    state::{Index, State},
    watch::{RESCAN, Watch},
    writable::Writable,
};
use crate::engine::Limits;
use taskhost_core::observe::Observers;

mod candidates;
mod exposed;
mod files;
mod pass;
mod past;
mod published;
mod record;
mod tell;
mod trials;
mod versions;

pub(super) use past::Past;

use candidates::candidate;
use exposed::exposed;
use files::Files;
use pass::Pass;
use published::{FIRST_LIMIT, Published};
use record::Record;
use trials::Trials;
use versions::{Known, Versions};

/// How long to wait for more events, because one change causes several.
const COALESCE: Duration = Duration::from_millis(200);
/// The most bytes that wait in memory to be compiled.
const BACKLOG_MAX: usize = 256 << 20;

/// The parts of a reconciler at its start.
pub(super) struct Start<L: Loader> {
    pub(super) dir: PathBuf,
    pub(super) writable: Writable,
    pub(super) limits: Limits,
    pub(super) policy: PolicyFile,
    /// `None`: unsigned plugins serve too.
    pub(super) signatures: Option<Signatures>,
    pub(super) state: Option<Arc<State>>,
    /// The record of an earlier process.
    pub(super) index: Index,
    pub(super) past: Past,
    /// The fault of the state directory, if there is one.
    pub(super) trouble: Option<String>,
    pub(super) loads: Loads<L>,
}

pub(super) struct Reconciler<L: Loader> {
    dir: PathBuf,
    writable: Writable,
    limits: Limits,
    policy: PolicyFile,
    files: Files,
    versions: Versions<L>,
    past: Past,
    trials: Trials,
    published: Published<L::Code>,
    record: Record,
    /// Sentences if others may write to other files that decide about plugins.
    exposed: Vec<String>,
    /// Called at each step of a pass, so that a test can change the world during it.
    at: Option<Box<dyn FnMut(&'static str) + Send>>,
}

impl<L: Loader> Reconciler<L> {
    pub(super) fn new(start: Start<L>) -> Self {
        let Start { dir, writable, limits, policy, signatures, state, index, past, trouble, loads } = start;
        Self {
            dir,
            writable,
            limits,
            policy,
            files: Files::default(),
            versions: Versions::new(loads, signatures),
            past,
            trials: Trials::default(),
            published: Published::new(index.owners.clone()),
            record: Record::new(state, index, trouble),
            exposed: Vec::new(),
            at: None,
        }
    }

    /// Who is told which plugins serve, are refused and are rolled back.
    pub(super) fn observe(&mut self, observers: Observers) {
        self.published.observe(observers);
    }

    /// Empty until the first registry is published, which counts as a change.
    pub(super) fn subscribe(&self) -> channel::Receiver<Arc<Registry<L::Code>>> {
        self.published.subscribe()
    }

    fn reached(&mut self, point: &'static str) {
        if let Some(at) = &mut self.at {
            at(point);
        }
    }

    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let work = async {
            let mut watch = Watch::new(&self.dir);
            let started = Instant::now();
            let trials = self.trials.look_wanted();
            loop {
                let began = Instant::now();
                let pass = self.pass(&mut watch, started).await;
                let took = began.elapsed();
                let mut soon = Instant::now() + if pass.is_unsettled { COALESCE } else { RESCAN };
                if !self.published.has_begun() {
                    soon = soon.min((started + FIRST_LIMIT).max(Instant::now() + COALESCE));
                }
                tokio::select! {
                    (digest, result) = self.versions.loads.next() => {
                        self.versions.loaded(digest, result);
                        // A pass checks everything, so it does not run once for each of a thousand loads.
                        if self.versions.loads.is_busy() {
                            tokio::time::sleep((3 * took).min(RESCAN)).await;
                        }
                    }
                    () = trials.notified() => {}
                    is_burst = watch.next(soon) => if is_burst {
                        tokio::select! {
                            () = tokio::time::sleep(COALESCE) => {}
                            // At the start nothing serves yet, so loaded files do not wait.
                            (digest, result) = self.versions.loads.next(), if !self.published.has_begun() => {
                                self.versions.loaded(digest, result);
                            }
                        }
                    }
                }
            }
        };
        // There is nothing to undo: every write of a pass is complete, and its loads end with it.
        shutdown.run_until_cancelled(work).await;
        // The shutdown may come between a registry and its record. A version that served must be the last good one of the next start.
        if self.published.has_begun()
            && let Some(Err(text)) = self.record.write_served(&self.files, self.published.owners()).await
        {
            tracing::warn!("{text}");
        }
    }

    async fn pass(&mut self, watch: &mut Watch, started: Instant) -> Pass {
        let mut pass = Pass::default();
        self.look(watch, &mut pass).await;
        self.reached("captured");
        self.past.end_bars(&self.files);
        self.trials.look(self.policy.policies(), &self.files, &mut self.past);
        self.reached("trials looked at");
        self.load(&mut pass).await;
        let candidates: Vec<_> = self
            .files
            .by_name
            .iter()
            .map(|(file, tracked)| candidate(file, tracked, self.past.barred(file, tracked), |digest| self.versions.known(digest)))
            .collect();
        let policies = self.policy.policies().clone();
        if let Some(owners) = self.published.owners_to_judge_by(started, &candidates) {
            let judgement = judge(owners, &candidates, Rules { policies: &policies, limits: &self.limits });
            self.reached("judged");
            self.adopt(judgement, &policies);
            self.reached("adopted");
            self.record().await;
            self.reached("recorded");
        }
        pass
    }

    /// Looks at the directory, the policies and the history, and reads what has changed.
    async fn look(&mut self, watch: &mut Watch, pass: &mut Pass) {
        let (dir, writable) = (self.dir.clone(), self.writable);
        let (mut policy, signatures, state) = (self.policy.clone(), self.versions.signatures.clone(), self.record.state.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let exposed = exposed(writable, &policy, signatures.as_ref(), state.as_deref());
            let seen = if writable == Writable::Refuse && policy.exposed().is_some() { None } else { policy.changed() };
            policy.look_for_directories();
            (directory::list(&dir, writable), policy, seen, exposed)
        });
        let Ok((listing, policy, policy_seen, exposed)) = looked.await else { return };
        (self.policy, self.exposed) = (policy, exposed);
        self.reached("listed");
        self.past.read(self.record.state.clone()).await;
        // The versions of an earlier process count only for files of the start.
        let is_start = !self.published.has_begun();
        let good_before = |file: &str| self.past.bar_to(file).or_else(|| self.record.served(file)).filter(|_| is_start);
        let noted = self.files.note(listing, good_before);
        if let Some(place) = noted.place {
            watch.follow(place);
        }
        if noted.is_changed {
            self.published.end_start();
        }
        self.reached("noted");
        if noted.fresh.is_empty() && policy_seen.is_none() {
            return;
        }
        // Files that were not changed for long before the start need not be watched while they settle.
        if !is_start || policy_seen.is_some() || !noted.fresh.iter().all(Seen::is_old) {
            tokio::time::sleep(SETTLE).await;
        }
        if let Some(seen) = policy_seen {
            let mut policy = self.policy.clone();
            if let Ok((is_settled, policy)) = tokio::task::spawn_blocking(move || (policy.reread(seen), policy)).await {
                self.policy = policy;
                pass.is_unsettled |= !is_settled;
            }
        }
        let room = BACKLOG_MAX.saturating_sub(self.versions.loads.backlog());
        self.files.capture(noted.fresh, room, pass).await;
    }

    /// Starts to load what is needed, and forgets what is not.
    async fn load(&mut self, pass: &mut Pass) {
        let kept = self.files.good().cloned().chain(self.past.gone_back_to(&self.files)).collect();
        self.versions.verify((&self.dir, self.writable), self.record.state.clone(), &mut self.files, kept, pass).await;
        for (digest, bytes) in std::mem::take(&mut pass.captured) {
            if !self.past.is_barred(&digest, &self.files) {
                self.versions.load(&digest, Source::Captured(bytes));
            }
        }
        self.past.follow_bars(&mut self.files, &mut self.versions, pass);
        self.reached("bars followed");
        // At the start, files may have other bytes than those that they served before.
        for digest in self.files.good() {
            self.versions.load(digest, Source::Kept);
        }
        self.versions.take_loaded();
        self.drop_unwanted();
    }

    /// Forgets last good versions that turned out bad, and bytes that no file has or falls back to.
    fn drop_unwanted(&mut self) {
        for (file, tracked) in &mut self.files.by_name {
            if let Some(Known::Bad(why)) = tracked.good.as_ref().map(|digest| self.versions.known(digest)) {
                tracing::warn!("{file}: its last good version does not load any more: {why}");
                tracked.good = None;
            }
        }
        let files = self.files.by_name.iter();
        let standing = files.filter(|(file, tracked)| self.past.barred(file, tracked).is_none()).filter_map(|(_, t)| t.digest());
        let wanted: HashSet<Digest> = standing.chain(self.files.good()).cloned().chain(self.past.gone_back_to(&self.files)).collect();
        self.versions.retain(&wanted);
    }

    /// Turns a judgement into the registry.
    fn adopt(&mut self, judgement: Judgement, policies: &Policies) {
        let Judgement { serving, owners, files: mut infos } = judgement;
        // A file that is gone and serves nothing was renamed, and its new name has its task names.
        self.files.by_name.retain(|file, tracked| tracked.absent.is_none() || serving.contains_key(file));
        infos.retain(|info| self.files.by_name.contains_key(&info.file));
        let mut plugins = BTreeMap::new();
        for (file, version) in &serving {
            let is_first = !self.published.has_begun();
            self.trials.count(file, &version.digest, policies, &self.files, &self.past, is_first);
            let Some(plugin) = self.plugin(file, version, policies) else { continue };
            plugins.insert(file.clone(), plugin);
            if let Some(tracked) = self.files.by_name.get_mut(file) {
                tracked.good = Some(version.digest.clone());
            }
        }
        let infos = tell::with_faults(infos, &self.files, &self.policy, &self.versions);
        let elsewhere = self.exposed.iter().chain(&self.record.trouble).cloned();
        let faults = tell::faults(&self.files, &self.policy, &self.versions, elsewhere);
        self.published.publish(owners, plugins, infos, faults);
    }

    /// The present plugin if neither code nor policy changed; else a new one.
    fn plugin(&self, file: &str, version: &Version, policies: &Policies) -> Option<Arc<Plugin<L::Code>>> {
        let policy = policies.plugins.get(stem(file)).cloned().unwrap_or_default();
        let limits = policy.limits(&self.limits);
        if let Some(plugin) = self.published.plugins().get(file) {
            let same_policy = *plugin.limits == limits && *plugin.grants == policy.grants && plugin.concurrency == policy.concurrency;
            if same_policy && plugin.id.digest == *version.digest && self.trials.counts(file, plugin) {
                return Some(plugin.clone());
            }
        }
        Some(Arc::new(Plugin {
            id: code_id(stem(file), version),
            file: file.to_owned(),
            description: (*version.description).clone(),
            code: self.versions.code(&version.digest)?,
            limits: limits.into(),
            grants: policy.grants.into(),
            concurrency: policy.concurrency,
            tally: self.trials.tally(file),
        }))
    }

    /// Records for the next start what the registry says.
    async fn record(&mut self) {
        self.trials.retain(|file| self.published.plugins().contains_key(file));
        self.past.note(&self.published.registry().files, self.published.plugins(), &self.files);
        self.record.write(&mut self.past, &self.files, self.published.owners()).await;
    }
}

#[cfg(test)]
mod tests;
