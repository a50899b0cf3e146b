//! Bytes → [`Loaded`], in the background: a few at once, each digest once, tried again only when the machine was to blame.
//!
//! Invariant: the bytes live as long as the job. A good plugin's are in the state directory before it can serve.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    sync::Semaphore,
    task::{AbortHandle, JoinSet},
};

use super::{judge::Digest, state::State};
use crate::{
    catalogue::Description,
    engine::{Code, Engine, EngineError},
};

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
        let (description, warnings) = self.0.describe(&code).await.map_err(split)?;
        let memory = code.initial_memory();
        Ok(Loaded { code, description, warnings, memory })
    }
}

/// Where a job's bytes come from.
#[derive(Debug)]
pub(super) enum Source {
    Captured(Arc<[u8]>),
    /// The last good version, in the state directory.
    Kept,
}

/// The first wait after `Busy`, doubled each time up to the second.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The jobs under way.
pub(super) struct Jobs<L: Loader> {
    loader: Arc<L>,
    state: Option<Arc<State>>,
    gate: Arc<Semaphore>,
    set: JoinSet<Result<Loaded<L::Code>, String>>,
    running: HashMap<Digest, Job>,
    /// Why a job is waiting for another try.
    notes: Arc<Mutex<HashMap<Digest, String>>>,
}

struct Job {
    handle: AbortHandle,
    bytes: usize,
}

impl<L: Loader> Jobs<L> {
    pub(super) fn new(loader: Arc<L>, state: Option<Arc<State>>) -> Self {
        // Two, so that a small plugin gets by a large one; the engine bounds compiling itself further.
        Self { loader, state, gate: Arc::new(Semaphore::new(2)), set: JoinSet::new(), running: HashMap::new(), notes: Arc::default() }
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
            self.notes.lock().unwrap_or_else(PoisonError::into_inner).remove(&digest);
            return (digest, result);
        }
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
    }

    /// Bytes that wait in memory to be compiled.
    pub(super) fn backlog(&self) -> usize {
        self.running.values().map(|job| job.bytes).sum()
    }

    pub(super) fn is_busy(&self) -> bool {
        !self.running.is_empty()
    }

    pub(super) fn note(&self, digest: &Digest) -> Option<String> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).get(digest).cloned()
    }
}

async fn job<L: Loader>(
    digest: Digest,
    source: Source,
    loader: Arc<L>,
    state: Option<Arc<State>>,
    gate: Arc<Semaphore>,
    notes: Arc<Mutex<HashMap<Digest, String>>>,
) -> Result<Loaded<L::Code>, String> {
    let (bytes, keep) = match source {
        Source::Captured(bytes) => (bytes, state),
        Source::Kept => (read_kept(state, digest.clone()).await?, None),
    };
    let mut delay = RETRY.0;
    loop {
        let permit = gate.acquire().await;
        match loader.load(bytes.clone(), &digest).await {
            Ok(made) => {
                if let Some(state) = keep {
                    let digest = digest.clone();
                    let kept = tokio::task::spawn_blocking(move || state.keep(&digest, &bytes)).await;
                    if let Ok(Err(text)) = kept {
                        tracing::warn!("{text}");
                    }
                }
                return Ok(made);
            }
            Err(LoadError::Bad(text)) => return Err(text),
            Err(LoadError::Busy(text)) => {
                drop(permit);
                let note = format!("{text}; trying again");
                tracing::warn!("{digest}: {note} in {} s", delay.as_secs());
                notes.lock().unwrap_or_else(PoisonError::into_inner).insert(digest.clone(), note);
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(RETRY.1);
            }
        }
    }
}

async fn read_kept(state: Option<Arc<State>>, digest: Digest) -> Result<Arc<[u8]>, String> {
    let state = state.ok_or("there is no state directory")?;
    let read = tokio::task::spawn_blocking(move || state.read(&digest)).await;
    read.map_err(|e| e.to_string())?.map(Arc::from)
}
