//! Makes the registry follow the directory. One task does it.
//!
//! trigger → list → read changed files → start loading new bytes → judge everything → publish → record
//!
//! Invariant: passes never overlap, and a pass never compiles. A file that is still loading keeps its last good version.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    digest::Digest,
    directory::{self, Captured, Identity, Listing, SETTLE, Seen},
    judge::{Candidate, Content, Judgement, Owners, Rules, Version, code_id, judge},
    loads::{Loaded, Loader, Loads, Source},
    name::{check_name, stem},
    policy::Policies,
    policy_file::PolicyFile,
    registry::{Plugin, Registry},
    signed::{Signatures, Wanted},
    state::{Index, State},
    watch::{RESCAN, Watch},
    writable::Writable,
};
use crate::engine::Limits;
use taskhost_core::{catalogue::PluginInfo, observe::Observers};

/// How long to wait for more events, because one change causes several.
const COALESCE: Duration = Duration::from_millis(200);
/// How long plugins serve after the directory has disappeared, because another may be about to take its place.
const GONE_GRACE: Duration = Duration::from_secs(10);
/// A removed file is unloaded once two passes, at least this far apart, found it missing.
const ABSENT_GRACE: Duration = Duration::from_secs(1);
/// The first registry waits for all files to be judged, but only this long if some are ready. A file that settles or compiles slowly does not
/// delay the others.
const FIRST_LIMIT: Duration = Duration::from_secs(1);
/// The same if none is ready.
const EMPTY_LIMIT: Duration = Duration::from_secs(10);
/// The most bytes that wait in memory to be compiled.
const BACKLOG_MAX: usize = 256 << 20;

pub(super) struct Reconciler<L: Loader> {
    pub(super) dir: PathBuf,
    pub(super) writable: Writable,
    pub(super) limits: Limits,
    pub(super) policy: PolicyFile,
    /// `None`: unsigned plugins serve too.
    pub(super) signatures: Option<Signatures>,
    pub(super) state: Option<Arc<State>>,
    pub(super) loads: Loads<L>,
    pub(super) registry: watch::Sender<Arc<Registry<L::Code>>>,
    pub(super) observers: Observers,
    /// Every file that serves or is in the directory.
    files: BTreeMap<String, Tracked>,
    compiled: HashMap<Digest, Compiled<L::Code>>,
    owners: Owners,
    /// The owners of names in an earlier process.
    recorded_owners: Owners,
    plugins: BTreeMap<String, Arc<Plugin<L::Code>>>,
    /// The index in the state directory, so that it is written only when it changes.
    recorded: Index,
    directory_trouble: Option<String>,
    gone_since: Option<Instant>,
    state_trouble: Option<String>,
    /// A sentence if others may write to the directory.
    writable_warning: Option<String>,
    /// Sentences if others may write to other files that decide about plugins.
    exposed: Vec<String>,
    past: Past,
    /// The bytes that this pass has read.
    waiting: Vec<(Digest, Arc<[u8]>)>,
    /// Whether another pass is needed soon, because a file changed during this one or waits for memory.
    unsettled: bool,
    published: bool,
    /// Whether every file of the start was judged once.
    complete: bool,
    /// Called at each step of a pass, so that a test can change the world during it.
    at: Option<Box<dyn FnMut(&'static str) + Send>>,
}

/// The state of one file.
#[derive(Debug, Default)]
struct Tracked {
    /// The digest of the bytes in the file.
    captured: Option<(Identity, Digest)>,
    trouble: Option<String>,
    /// A sentence if others may write to it.
    warning: Option<String>,
    /// Since when it is missing, and in how many passes.
    absent: Option<(Instant, u32)>,
    /// The version that it last served, in this process or in an earlier one.
    good: Option<Digest>,
}

/// The result of loading some bytes.
enum Compiled<C> {
    Loading,
    Bad(String),
    Loaded(Version, Arc<C>),
}

impl<L: Loader> Reconciler<L> {
    pub(super) fn new(
        (dir, writable): (PathBuf, Writable),
        limits: Limits,
        policy: PolicyFile,
        signatures: Option<Signatures>,
        (state, recorded, past, state_trouble): (Option<Arc<State>>, Index, Past, Option<String>),
        loads: Loads<L>,
        registry: watch::Sender<Arc<Registry<L::Code>>>,
    ) -> Self {
        Self {
            dir,
            writable,
            limits,
            policy,
            signatures,
            state,
            loads,
            registry,
            observers: Observers::none(),
            files: BTreeMap::new(),
            compiled: HashMap::new(),
            owners: recorded.owners.clone(),
            recorded_owners: recorded.owners.clone(),
            plugins: BTreeMap::new(),
            recorded,
            directory_trouble: None,
            gone_since: None,
            state_trouble,
            writable_warning: None,
            exposed: Vec::new(),
            past,
            waiting: Vec::new(),
            unsettled: false,
            published: false,
            complete: false,
            at: None,
        }
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
            let trials = self.past.look();
            loop {
                let began = Instant::now();
                self.pass(&mut watch, started).await;
                let took = began.elapsed();
                let mut soon = Instant::now() + if self.unsettled { COALESCE } else { RESCAN };
                if !self.published {
                    soon = soon.min((started + FIRST_LIMIT).max(Instant::now() + COALESCE));
                }
                tokio::select! {
                    (digest, result) = self.loads.next() => {
                        self.loaded(digest, result);
                        // A pass checks everything, so it does not run once for each of a thousand loads.
                        if self.loads.is_busy() {
                            tokio::time::sleep((3 * took).min(RESCAN)).await;
                        }
                    }
                    () = trials.notified() => {}
                    is_burst = watch.next(soon) => if is_burst {
                        tokio::select! {
                            () = tokio::time::sleep(COALESCE) => {}
                            // At the start nothing serves yet, so loaded files do not wait.
                            (digest, result) = self.loads.next(), if !self.published => self.loaded(digest, result),
                        }
                    }
                }
            }
        };
        // There is nothing to undo: every write of a pass is complete, and its loads end with it.
        shutdown.run_until_cancelled(work).await;
        // The shutdown may come between a registry and its record. A version that served must be the last good one of the next start.
        if self.published
            && let Some(Err(text)) = self.record_served().await
        {
            tracing::warn!("{text}");
        }
    }

    /// One pass.
    async fn pass(&mut self, watch: &mut Watch, started: Instant) {
        self.unsettled = false;
        let (dir, writable) = (self.dir.clone(), self.writable);
        let (mut policy, signatures, state) = (self.policy.clone(), self.signatures.clone(), self.state.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let exposed = trusted::exposed(writable, &policy, signatures.as_ref(), state.as_deref());
            let seen = if writable == Writable::Refuse && policy.exposed().is_some() { None } else { policy.changed() };
            policy.look_for_directories();
            (directory::list(&dir, writable), policy, seen, exposed)
        });
        let Ok((listing, policy, policy_seen, exposed)) = looked.await else { return };
        (self.policy, self.exposed) = (policy, exposed);
        self.reached("listed");
        self.look_at_history().await;
        let fresh = self.note(listing, watch);
        self.reached("noted");
        if !fresh.is_empty() || policy_seen.is_some() {
            // Files that were not changed for long before the start need not be watched while they settle.
            if self.published || policy_seen.is_some() || !fresh.iter().all(Seen::is_old) {
                tokio::time::sleep(SETTLE).await;
            }
            if let Some(seen) = policy_seen {
                let mut policy = self.policy.clone();
                if let Ok((settled, policy)) = tokio::task::spawn_blocking(move || (policy.reread(seen), policy)).await {
                    self.policy = policy;
                    self.unsettled |= !settled;
                }
            }
            self.capture(fresh).await;
        }
        self.reached("captured");
        self.look_at_trials();
        self.reached("trials looked at");
        self.look_at_signatures().await;
        self.compile_captured();
        self.follow_bars();
        self.reached("bars followed");
        self.compile_kept();
        self.take_finished();
        self.drop_unwanted();
        let candidates = self.candidates();
        let together = !self.complete;
        self.complete |= candidates.iter().all(is_judgeable);
        if self.published || self.complete || is_time_to_begin(started, &candidates) {
            let policies = self.policy.policies().clone();
            // The order of loading decides no name: until all files of the start are judged, they are judged together.
            let owners = if together { &self.recorded_owners } else { &self.owners };
            let judgement = judge(owners, &candidates, Rules { policies: &policies, limits: &self.limits });
            self.reached("judged");
            self.adopt(judgement, &policies);
            self.reached("adopted");
            self.record().await;
            self.reached("recorded");
        }
    }

    /// Takes in the listing, and returns the files that must be read.
    fn note(&mut self, listing: Listing, watch: &mut Watch) -> Vec<Seen> {
        let (seen, trouble) = match listing {
            Listing::Files { files, place, warning } => {
                watch.follow(place);
                self.gone_since = None;
                self.writable_warning = warning;
                (files, None)
            }
            // A failed look does not mean that files are gone.
            Listing::Unreadable(text) => {
                self.directory_trouble = Some(text);
                return Vec::new();
            }
            Listing::Gone(text) => {
                let since = *self.gone_since.get_or_insert_with(Instant::now);
                if since.elapsed() < GONE_GRACE {
                    self.directory_trouble = Some(text);
                    return Vec::new();
                }
                (Vec::new(), Some(text))
            }
        };
        self.directory_trouble = trouble;
        let present: HashSet<&str> = seen.iter().map(|s| s.file.as_str()).collect();
        for (_, tracked) in self.files.iter_mut().filter(|(file, _)| !present.contains(file.as_str())) {
            let (_, passes) = tracked.absent.get_or_insert_with(|| (Instant::now(), 0));
            *passes += 1;
            tracked.captured = None;
            tracked.trouble = None;
        }
        self.files.retain(|_, t| t.absent.is_none_or(|(since, passes)| t.good.is_some() && (passes < 2 || since.elapsed() < ABSENT_GRACE)));
        let mut fresh = Vec::new();
        for seen in seen {
            // The versions of an earlier process count only for files of the start.
            let before = self.past.bar(&seen.file).map(|bar| &bar.to).or_else(|| self.recorded.files.get(&seen.file));
            let before = before.filter(|_| !self.published).map(|d| Digest::from(d.as_str()));
            let is_new = !self.files.contains_key(&seen.file);
            let tracked = self.files.entry(seen.file.clone()).or_insert_with(|| Tracked { good: before, ..Tracked::default() });
            tracked.absent = None;
            tracked.warning.clone_from(&seen.warning);
            match check_name(stem(&seen.file)).map_err(|why| format!("{why}; rename the file")).and(seen.identity.clone()) {
                Err(why) => {
                    tracked.captured = None;
                    tracked.trouble = Some(why);
                }
                Ok(identity) if tracked.captured.as_ref().is_some_and(|(read, _)| *read == identity) => {}
                Ok(identity) => {
                    // A later file is judged by the owners of names at that time.
                    self.complete |= self.published && (is_new || tracked.captured.is_some());
                    fresh.push((identity, seen));
                }
            }
        }
        // Small files compile first, so that they do not wait for large ones.
        fresh.sort_by_key(|(identity, _)| identity.size());
        fresh.into_iter().map(|(_, seen)| seen).collect()
    }

    /// Reads files that were seen a settling time ago.
    async fn capture(&mut self, fresh: Vec<Seen>) {
        for Seen { file, path, identity, .. } in fresh {
            let Ok(identity) = identity else { continue };
            let Some(tracked) = self.files.get_mut(&file) else { continue };
            tracked.captured = None;
            tracked.trouble = None;
            if self.loads.backlog() > BACKLOG_MAX {
                continue; // a finished load starts the next pass
            }
            let name = file.clone();
            let captured = tokio::task::spawn_blocking(move || directory::capture(&name, &path, identity)).await;
            match captured {
                Ok(Captured::Settled { digest, bytes }) => {
                    tracked.captured = Some((identity, digest.clone()));
                    self.waiting.push((digest, bytes));
                }
                Ok(Captured::Trouble(why)) => tracked.trouble = Some(why),
                Ok(Captured::Unsettled) | Err(_) => self.unsettled = true,
            }
        }
    }

    /// Starts to load the bytes that this pass has read. Bytes that are not trusted, or were rolled back, are not even compiled.
    fn compile_captured(&mut self) {
        for (digest, bytes) in std::mem::take(&mut self.waiting) {
            if self.distrust(&digest).is_none() && !self.is_barred(&digest) {
                self.compile(&digest, Source::Captured(bytes));
            }
        }
    }

    /// At the start: loads the versions that served before from files that have other bytes now.
    fn compile_kept(&mut self) {
        let kept = self.files.values().filter_map(|t| t.good.clone()).filter(|digest| self.distrust(digest).is_none());
        let kept: Vec<Digest> = kept.collect();
        for digest in kept {
            self.compile(&digest, Source::Kept);
        }
    }

    fn compile(&mut self, digest: &Digest, source: Source) {
        if !self.compiled.contains_key(digest) {
            self.compiled.insert(digest.clone(), Compiled::Loading);
            self.loads.start(digest, source);
        }
    }

    fn loaded(&mut self, digest: Digest, result: Result<Loaded<L::Code>, String>) {
        let compiled = match result {
            Ok(Loaded { code, description, warnings, memory }) => {
                let version = Version { digest: digest.clone(), description: description.into(), warnings: warnings.into(), memory };
                Compiled::Loaded(version, code)
            }
            Err(why) => Compiled::Bad(why),
        };
        self.compiled.insert(digest, compiled);
    }

    fn take_finished(&mut self) {
        while let Some((digest, result)) = futures_util::FutureExt::now_or_never(self.loads.next()) {
            self.loaded(digest, result);
        }
    }

    /// Forgets bytes that no file has or falls back to, and last good versions that turned out bad.
    fn drop_unwanted(&mut self) {
        for (file, tracked) in &mut self.files {
            if let Some(Compiled::Bad(why)) = tracked.good.as_ref().and_then(|digest| self.compiled.get(digest)) {
                tracing::warn!("{file}: its last good version does not load any more: {why}");
                tracked.good = None;
            }
        }
        let captured = |file: &str, t: &Tracked| t.captured.clone().filter(|_| self.barred(file, t).is_none()).map(|(_, digest)| digest);
        let wanted = self.files.iter().flat_map(|(file, t)| [captured(file, t), t.good.clone()]).flatten();
        let wanted: HashSet<Digest> = wanted.chain(self.gone_back_to()).collect();
        self.loads.retain(&wanted);
        self.compiled.retain(|digest, _| wanted.contains(digest));
    }

    fn candidates(&self) -> Vec<Candidate> {
        self.files
            .iter()
            .map(|(file, tracked)| {
                let state = |digest: &Digest| self.compiled.get(digest);
                let trusted = tracked.good.as_ref().filter(|digest| self.distrust(digest).is_none());
                let good = match trusted.map(state) {
                    Some(Some(Compiled::Loaded(version, _))) => Some(version.clone()),
                    _ => None,
                };
                // The file's fate is open until its last good version is loaded.
                let good_pending = good.is_none() && trusted.is_some();
                let barred = self.barred(file, tracked);
                let distrusted = tracked.captured.as_ref().and_then(|(_, digest)| self.distrust(digest));
                let content = match (&tracked.absent, &tracked.trouble, &tracked.captured) {
                    (Some(_), _, _) => Content::Absent,
                    (None, Some(why), _) if !good_pending => Content::Bad(why.clone()),
                    (None, None, Some(_)) if barred.is_some() && !good_pending => Content::Barred(barred.unwrap_or_default()),
                    (None, None, Some(_)) if barred.is_some() => Content::Loading(None),
                    (None, None, Some((_, digest))) if distrusted.is_some() && self.is_open(digest) => Content::Loading(distrusted),
                    (None, None, Some(_)) if !good_pending && distrusted.is_some() => Content::Bad(distrusted.unwrap_or_default()),
                    (None, None, Some((_, digest))) => match state(digest) {
                        Some(Compiled::Loaded(version, _)) => Content::Loaded(version.clone()),
                        Some(Compiled::Bad(why)) if !good_pending => Content::Bad(why.clone()),
                        _ => Content::Loading(self.loads.note(digest)),
                    },
                    _ => Content::Loading(None),
                };
                let plugin = stem(file).to_owned();
                Candidate { file: file.clone(), plugin, content, good }
            })
            .collect()
    }

    /// Turns a judgement into the registry.
    fn adopt(&mut self, judgement: Judgement, policies: &Policies) {
        let Judgement { serving, owners, files } = judgement;
        // A file that is gone and serves nothing was renamed, and its new name has its task names.
        self.files.retain(|file, tracked| tracked.absent.is_none() || serving.contains_key(file));
        let files: Vec<PluginInfo> = files.into_iter().filter(|info| self.files.contains_key(&info.file)).collect();
        let mut plugins = BTreeMap::new();
        for (file, version) in &serving {
            self.put_on_trial(file, version, policies);
            let Some(plugin) = self.plugin(file, version, policies) else { continue };
            plugins.insert(file.clone(), plugin);
            if let Some(tracked) = self.files.get_mut(file) {
                tracked.good = Some(version.digest.clone());
            }
        }
        self.owners = owners;
        self.plugins = plugins;
        let bodies: HashMap<_, _> =
            self.owners.iter().filter_map(|(name, file)| Some((name.clone(), self.plugins.get(file)?.clone()))).collect();
        let registry = Registry { bodies, files: self.with_trouble(files), warnings: self.warnings(policies) };
        let first = !std::mem::replace(&mut self.published, true);
        let before = self.registry.borrow().clone();
        if first || !tell::same(&before, &registry) {
            tell::tell(&before, &registry, &self.observers);
            self.registry.send_replace(Arc::new(registry));
        }
    }

    /// The present plugin if neither code nor policy changed; else a new one.
    fn plugin(&self, file: &str, version: &Version, policies: &Policies) -> Option<Arc<Plugin<L::Code>>> {
        let policy = policies.plugins.get(stem(file)).cloned().unwrap_or_default();
        let limits = policy.limits(&self.limits);
        if let Some(plugin) = self.plugins.get(file) {
            let same_policy = *plugin.limits == limits && *plugin.grants == policy.grants && plugin.concurrency == policy.concurrency;
            if same_policy && plugin.id.digest == *version.digest && self.counts_right(file, plugin) {
                return Some(plugin.clone());
            }
        }
        let Some(Compiled::Loaded(_, code)) = self.compiled.get(&version.digest) else { return None };
        Some(Arc::new(Plugin {
            id: code_id(stem(file), version),
            file: file.to_owned(),
            description: (*version.description).clone(),
            code: code.clone(),
            limits: limits.into(),
            grants: policy.grants.into(),
            concurrency: policy.concurrency,
            tally: self.past.tally(file),
        }))
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

mod past;
mod tell;
mod trusted;

pub(super) use past::Past;

#[cfg(test)]
mod tests;
