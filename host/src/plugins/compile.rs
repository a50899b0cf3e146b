//! Bytes → [`Loaded`], in the background: a few at once, each digest once, tried again when the machine was to blame.
//!
//! Invariant: the bytes live as long as the job. Only what is a property of them ends a job with a refusal. A good plugin's are in the
//! state directory before it can serve; where the disk would not have them, they are offered to it until it does.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    sync::Semaphore,
    task::{AbortHandle, JoinSet},
};

use super::{
    digest::Digest,
    state::{State, Unread},
};
use crate::engine::{Code, Engine, EngineError};
use taskhost_core::catalogue::Description;

/// Makes code of bytes: the engine, or whatever stands between it and hostile bytes.
#[async_trait]
pub(super) trait Loader: Send + Sync + 'static {
    type Code: Send + Sync + 'static;
    async fn load(&self, bytes: Arc<[u8]>, digest: &str) -> Result<Loaded<Self::Code>, LoadError>;
}

/// A component that compiled and described itself.
#[derive(Debug)]
pub(super) struct Loaded<C> {
    pub(super) code: Arc<C>,
    pub(super) description: Description,
    pub(super) warnings: Vec<String>,
    /// Bytes of memory that an attempt begins with.
    pub(super) memory: u64,
}

#[derive(Debug)]
pub(super) enum LoadError {
    /// These bytes will never load.
    Bad(String),
    /// The machine could not do it now.
    Busy(String),
}

/// The engine as a [`Loader`].
#[derive(Debug)]
pub(super) struct EngineLoader(pub(super) Arc<Engine>);

#[async_trait]
impl Loader for EngineLoader {
    type Code = Code;
    async fn load(&self, bytes: Arc<[u8]>, digest: &str) -> Result<Loaded<Code>, LoadError> {
        let split = |e: EngineError| match e {
            EngineError::BadComponent(text) | EngineError::BadDescription(text) => LoadError::Bad(text),
            EngineError::Busy(text) | EngineError::Host(text) => LoadError::Busy(text),
        };
        let code = self.0.compile(bytes, digest).await.map_err(split)?;
        let (description, mut warnings) = self.0.describe(&code).await.map_err(split)?;
        warnings.extend(code.unkept().map(str::to_owned));
        let memory = code.initial_memory();
        Ok(Loaded { code, description, warnings, memory })
    }
}

/// Where a job's bytes come from.
#[derive(Debug, Clone)]
pub(super) enum Source {
    Captured(Arc<[u8]>),
    /// The last good version, in the state directory.
    Kept,
}

/// The first wait after `Busy`, doubled each time up to the second.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Jobs at once. The engine bounds how many of them compile: one that takes long keeps nobody from being loaded who was compiled before.
const AT_ONCE: usize = 8;

/// The jobs under way.
pub(super) struct Jobs<L: Loader> {
    loader: Arc<L>,
    state: Option<Arc<State>>,
    gate: Arc<Semaphore>,
    set: JoinSet<Result<Made<L::Code>, String>>,
    running: HashMap<Digest, Job>,
    /// Why a job is waiting for another try.
    notes: Notes,
    /// Bytes that serve and are still to be kept for the next start.
    keeping: JoinSet<()>,
    unkept: Notes,
}

/// By digest, what the machine could not do for it.
type Notes = Arc<Mutex<HashMap<Digest, String>>>;

struct Job {
    handle: AbortHandle,
    bytes: usize,
}

/// What a job has made. `unkept`: bytes that the state directory would not have.
struct Made<C> {
    loaded: Loaded<C>,
    unkept: Option<(Arc<[u8]>, String)>,
}

impl<L: Loader> Jobs<L> {
    pub(super) fn new(loader: Arc<L>, state: Option<Arc<State>>) -> Self {
        Self {
            loader,
            state,
            gate: Arc::new(Semaphore::new(AT_ONCE)),
            set: JoinSet::new(),
            running: HashMap::new(),
            notes: Arc::default(),
            keeping: JoinSet::new(),
            unkept: Arc::default(),
        }
    }

    pub(super) fn start(&mut self, digest: &Digest, source: Source) {
        let bytes = match &source {
            Source::Captured(bytes) => bytes.len(),
            Source::Kept => 0,
        };
        let (loader, state, gate, notes) = (self.loader.clone(), self.state.clone(), self.gate.clone(), self.notes.clone());
        let handle = self.set.spawn(job(digest.clone(), source, loader, state, gate, notes));
        self.running.insert(digest.clone(), Job { handle, bytes });
    }

    /// The next job to end; never, when there is none. A job that panicked is a bad plugin, not a dead host.
    pub(super) async fn next(&mut self) -> (Digest, Result<Loaded<L::Code>, String>) {
        loop {
            let Some(ended) = self.set.join_next_with_id().await else { return std::future::pending().await };
            let (id, result) = match ended {
                Ok((id, result)) => (id, result),
                Err(e) => (e.id(), Err("loading it crashed: please report this with the file, it is a fault of this host".to_owned())),
            };
            // None: it was dropped because no file has these bytes any more.
            let Some(digest) = self.running.iter().find(|(_, job)| job.handle.id() == id).map(|(digest, _)| digest.clone()) else {
                continue;
            };
            self.running.remove(&digest);
            lock(&self.notes).remove(&digest);
            let result = result.map(|Made { loaded, unkept }| {
                if let Some((bytes, why)) = unkept {
                    self.keep_later(&digest, bytes, why);
                }
                loaded
            });
            return (digest, result);
        }
    }

    fn keep_later(&mut self, digest: &Digest, bytes: Arc<[u8]>, why: String) {
        while self.keeping.try_join_next().is_some() {}
        let Some(state) = self.state.clone() else { return };
        lock(&self.unkept).insert(digest.clone(), why);
        self.keeping.spawn(keep(digest.clone(), bytes, state, self.unkept.clone()));
    }

    /// Stops the jobs for bytes that nobody wants any more.
    pub(super) fn retain(&mut self, wanted: &HashSet<Digest>) {
        self.running.retain(|digest, job| {
            let keep = wanted.contains(digest);
            if !keep {
                job.handle.abort();
            }
            keep
        });
        // Its task ends at its next try.
        lock(&self.unkept).retain(|digest, _| wanted.contains(digest));
    }

    /// Bytes that wait in memory to be compiled.
    pub(super) fn backlog(&self) -> usize {
        self.running.values().map(|job| job.bytes).sum()
    }

    pub(super) fn is_busy(&self) -> bool {
        !self.running.is_empty()
    }

    pub(super) fn note(&self, digest: &Digest) -> Option<String> {
        lock(&self.notes).get(digest).cloned()
    }

    /// Why these bytes will not be there after a restart.
    pub(super) fn unkept(&self, digest: &Digest) -> Option<String> {
        lock(&self.unkept).get(digest).cloned()
    }
}

fn lock(notes: &Notes) -> MutexGuard<'_, HashMap<Digest, String>> {
    notes.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn job<L: Loader>(
    digest: Digest,
    source: Source,
    loader: Arc<L>,
    state: Option<Arc<State>>,
    gate: Arc<Semaphore>,
    notes: Notes,
) -> Result<Made<L::Code>, String> {
    let mut delay = RETRY.0;
    loop {
        let permit = gate.acquire().await;
        let tried = match bytes(&source, state.as_ref(), &digest).await {
            Ok(bytes) => loader.load(bytes.clone(), &digest).await.map(|loaded| (loaded, bytes)),
            Err(why) => Err(why),
        };
        match tried {
            Ok((loaded, bytes)) => {
                let unkept = match (&source, state) {
                    (Source::Captured(_), Some(state)) => kept(&state, &digest, &bytes).await.err().map(|why| (bytes, why)),
                    _ => None,
                };
                return Ok(Made { loaded, unkept });
            }
            Err(LoadError::Bad(text)) => return Err(text),
            Err(LoadError::Busy(text)) => {
                drop(permit);
                tracing::warn!("{digest}: {text}; trying again in {} s", delay.as_secs());
                let note = format!("{text}; it is this machine's trouble, not the file's: it is tried again until that is over");
                lock(&notes).insert(digest.clone(), note);
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(RETRY.1);
            }
        }
    }
}

async fn bytes(source: &Source, state: Option<&Arc<State>>, digest: &Digest) -> Result<Arc<[u8]>, LoadError> {
    match source {
        Source::Captured(bytes) => Ok(bytes.clone()),
        Source::Kept => {
            let state = state.cloned().ok_or_else(|| LoadError::Bad("there is no state directory".into()))?;
            let digest = digest.clone();
            let read = tokio::task::spawn_blocking(move || state.read(&digest)).await.map_err(|e| LoadError::Busy(e.to_string()))?;
            read.map(Arc::from).map_err(|why| match why {
                Unread::Spoilt(text) => LoadError::Bad(text),
                Unread::Trouble(text) => LoadError::Busy(text),
            })
        }
    }
}

async fn kept(state: &Arc<State>, digest: &Digest, bytes: &Arc<[u8]>) -> Result<(), String> {
    let (state, digest, bytes) = (state.clone(), digest.clone(), bytes.clone());
    let kept = tokio::task::spawn_blocking(move || state.keep(&digest, &bytes)).await;
    kept.unwrap_or_else(|e| Err(e.to_string())).inspect_err(|why| tracing::warn!("{why}"))
}

/// Offers bytes to the state directory until it has them, or nobody wants them any more.
async fn keep(digest: Digest, bytes: Arc<[u8]>, state: Arc<State>, unkept: Notes) {
    let mut delay = RETRY.0;
    loop {
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(RETRY.1);
        if !lock(&unkept).contains_key(&digest) {
            return;
        }
        if kept(&state, &digest, &bytes).await.is_ok() {
            lock(&unkept).remove(&digest);
            return;
        }
    }
}
