//! Loads plugins in the background: bytes → [`Loaded`]. A few at once, each digest once, and again if the machine failed.
//!
//! Invariant: a load owns its bytes. Only a property of the bytes ends a load with a refusal. The bytes of a good plugin are in the state
//! directory before it serves. If the disk does not take them, they are offered again and again.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::{
    sync::Semaphore,
    task::{AbortHandle, JoinSet},
};

use super::{
    digest::Digest,
    state::{State, Unread},
};
use crate::engine::{Code, Engine, EngineError};
use taskhost_core::{backoff::Backoff, catalogue::Description};

/// Makes code from bytes: the engine, or a stand-in for it in tests.
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
    /// Bytes of memory at the start of an attempt.
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

/// Where the bytes of a load come from.
#[derive(Debug, Clone)]
pub(super) enum Source {
    Captured(Arc<[u8]>),
    /// The last good version, in the state directory.
    Kept,
}

/// The delay before the next try after the machine failed.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));

/// The most loads at once. The engine limits how many of them compile, so cached plugins do not wait for a slow compilation.
const AT_ONCE: usize = 8;

/// The loads under way.
pub(super) struct Loads<L: Loader> {
    loader: Arc<L>,
    state: Option<Arc<State>>,
    gate: Arc<Semaphore>,
    set: JoinSet<Result<Made<L::Code>, String>>,
    running: HashMap<Digest, Load>,
    /// Why a load waits for its next try.
    notes: Notes,
    /// Stores bytes of plugins that serve already, for the next start.
    keeping: JoinSet<()>,
    unkept: Notes,
}

/// By digest: the machine's failure.
type Notes = Arc<Mutex<HashMap<Digest, String>>>;

struct Load {
    handle: AbortHandle,
    bytes: usize,
}

/// The result of a load. `unkept`: bytes that the state directory did not take, and why.
struct Made<C> {
    loaded: Loaded<C>,
    unkept: Option<(Arc<[u8]>, String)>,
}

impl<L: Loader> Loads<L> {
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
        let handle = self.set.spawn(load(digest.clone(), source, loader, state, gate, notes));
        self.running.insert(digest.clone(), Load { handle, bytes });
    }

    /// Waits for the next load to end; for ever if there is none. A panic in a load is a bad plugin, not a dead host.
    pub(super) async fn next(&mut self) -> (Digest, Result<Loaded<L::Code>, String>) {
        loop {
            let Some(ended) = self.set.join_next_with_id().await else { return std::future::pending().await };
            let (id, result) = match ended {
                Ok((id, result)) => (id, result),
                Err(e) => (e.id(), Err("loading it crashed: please report this with the file, it is a fault of this host".to_owned())),
            };
            // None: it was dropped because no file has these bytes any more.
            let Some(digest) = self.running.iter().find(|(_, load)| load.handle.id() == id).map(|(digest, _)| digest.clone()) else {
                continue;
            };
            self.running.remove(&digest);
            self.notes.lock().remove(&digest);
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
        self.unkept.lock().insert(digest.clone(), why);
        self.keeping.spawn(keep(digest.clone(), bytes, state, self.unkept.clone()));
    }

    /// Stops the loads of bytes that no file has any more.
    pub(super) fn retain(&mut self, wanted: &HashSet<Digest>) {
        self.running.retain(|digest, load| {
            let keep = wanted.contains(digest);
            if !keep {
                load.handle.abort();
            }
            keep
        });
        // The task that stores these bytes ends at its next try.
        self.unkept.lock().retain(|digest, _| wanted.contains(digest));
    }

    /// How many bytes wait in memory to be compiled.
    pub(super) fn backlog(&self) -> usize {
        self.running.values().map(|load| load.bytes).sum()
    }

    pub(super) fn is_busy(&self) -> bool {
        !self.running.is_empty()
    }

    pub(super) fn note(&self, digest: &Digest) -> Option<String> {
        self.notes.lock().get(digest).cloned()
    }

    /// Why these bytes will be missing after a restart.
    pub(super) fn unkept(&self, digest: &Digest) -> Option<String> {
        self.unkept.lock().get(digest).cloned()
    }
}

async fn load<L: Loader>(
    digest: Digest,
    source: Source,
    loader: Arc<L>,
    state: Option<Arc<State>>,
    gate: Arc<Semaphore>,
    notes: Notes,
) -> Result<Made<L::Code>, String> {
    let mut failures = 0;
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
                let delay = RETRY.delay(failures, fastrand::f64());
                failures += 1;
                tracing::warn!("{digest}: {text}; trying again in {:.1} s", delay.as_secs_f64());
                let note = format!("{text}; it is this machine's trouble, not the file's: it is tried again until that is over");
                notes.lock().insert(digest.clone(), note);
                tokio::time::sleep(delay).await;
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

/// Offers bytes to the state directory until it takes them, or until no file has them any more.
async fn keep(digest: Digest, bytes: Arc<[u8]>, state: Arc<State>, unkept: Notes) {
    for failures in 0.. {
        tokio::time::sleep(RETRY.delay(failures, fastrand::f64())).await;
        if !unkept.lock().contains_key(&digest) {
            return;
        }
        if kept(&state, &digest, &bytes).await.is_ok() {
            unkept.lock().remove(&digest);
            return;
        }
    }
}
