//! Finds the plugin of a task name: the files of the plugin directory become a [`Registry`], which is swapped as a whole.
//!
//! watch (notify, rescan, SIGHUP, a finished load) → read settled files → load in the background → judge all candidates together → swap
//! one `Arc<Registry>`
//!
//! Invariant: a bad file never takes a name from a good one. An attempt ends on the code that it began with.

use std::sync::Arc;

use tokio::sync::watch as channel;
use tokio_util::sync::CancellationToken;

use crate::engine::Engine;
use taskhost_core::observe::Observers;

mod digest;
mod directory;
mod guard;
mod history;
mod inspect;
mod judge;
mod loads;
mod name;
mod policy;
mod policy_file;
mod reconcile;
mod registry;
mod rollback;
mod settings;
mod signature;
mod signed;
mod state;
mod wants;
mod watch;
mod writable;

use directory::Listing;
use loads::{EngineLoader, Loader, Loads};
use policy_file::PolicyFile;
use reconcile::{Past, Reconciler, Start};
use signature::TrustFile;
use signed::Signatures;
use state::{Index, OpenError, State, Unread};

pub use guard::{Guard, Tally};
pub use history::{Generation, GenerationState};
pub use inspect::{Inspection, inspect};
pub use policy::{Policies, Policy, http_grant};
pub use registry::{Plugin, Registry};
pub use rollback::{RolledBack, history, roll_back};
pub use settings::{PluginsError, PluginsSettings};
pub use signature::{Trust, keygen, read_signature, sign, signature_path};
pub use wants::Wants;
pub use writable::{Writable, exposed};

/// The room: it owns the watcher and the reconcile task.
pub struct Plugins {
    reconciler: Reconciler<EngineLoader>,
}

impl std::fmt::Debug for Plugins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugins").finish_non_exhaustive()
    }
}

impl Plugins {
    /// Checks the directories and the policy, and loads nothing yet. Blocks on the file system.
    pub fn open(settings: PluginsSettings, engine: Arc<Engine>) -> Result<Self, PluginsError> {
        let reconciler = open(settings, EngineLoader(engine))?;
        Ok(Self { reconciler })
    }

    /// Tells these observers which plugins serve, are refused and are rolled back. Without one, these facts are not logged.
    pub fn observed(mut self, observers: Observers) -> Self {
        self.reconciler.observe(observers);
        self
    }

    /// Empty until the first registry is published, which counts as a change.
    pub fn registry(&self) -> channel::Receiver<Arc<Registry>> {
        self.reconciler.subscribe()
    }

    /// Reconciles until `shutdown`. The first registry is published when all files of the start are judged, or after a second with those
    /// that are ready, or after ten seconds in any case. A plugin directory that disappears counts as empty after ten seconds. One that can't
    /// be read changes nothing.
    pub async fn run(self, shutdown: CancellationToken) {
        self.reconciler.run(shutdown).await;
    }
}

fn open<L: Loader>(settings: PluginsSettings, loader: L) -> Result<Reconciler<L>, PluginsError> {
    let PluginsSettings { dir, state, policy, trust, writable, limits } = settings;
    match directory::list(&dir, writable) {
        Listing::Files { .. } => {}
        Listing::Gone(_) => {
            let text = format!("there is no plugin directory, make it or name another with --plugins: `{}`", dir.display());
            return Err(PluginsError::Directory(text));
        }
        Listing::Unreadable(text) => return Err(PluginsError::Directory(text)),
    }
    let policy = PolicyFile::open(policy.as_deref())?;
    let signatures = trust.map(|path| TrustFile::open(&path)).transpose()?.map(Signatures::new);
    let exposed = policy.exposed().or_else(|| signatures.as_ref().and_then(Signatures::exposed));
    if let Some(text) = exposed.filter(|_| writable == Writable::Refuse) {
        return Err(PluginsError::Policy(text));
    }
    let without = |text: String| {
        let text = format!(
            "{text}; plugins serve, but after a restart a bad file will not be replaced by its last good version, and what was rolled \
             back serves again; `plugin history` and `plugin rollback` know nothing: set `state` to a directory that this user can write to"
        );
        (None, Index::default(), Some(text))
    };
    let state = match State::open(&state, &dir) {
        Ok(state) => match state.index() {
            Ok(index) => (Some(Arc::new(state)), index, None),
            Err(Unread::Spoilt(text)) => (Some(Arc::new(state)), Index::default(), Some(text)),
            // The index exists and must not be overwritten.
            Err(Unread::Trouble(text)) => without(text),
        },
        Err(OpenError::Refused(e)) => return Err(e),
        Err(OpenError::Failed(text)) => without(text),
    };
    let (state, index, trouble) = state;
    let (past, past_trouble) = Past::open(state.as_deref());
    let loads = Loads::new(Arc::new(loader), state.clone());
    let trouble = trouble.or(past_trouble);
    Ok(Reconciler::new(Start { dir, writable, limits, policy, signatures, state, index, past, trouble, loads }))
}
