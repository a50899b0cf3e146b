//! Task name → plugin: what stands in the plugin directory becomes a [`Registry`], swapped whole and never broken.
//!
//! watch (notify ∪ rescan ∪ SIGHUP ∪ finished compile) → capture settled bytes → compile in the background → judge all
//! candidates together → swap one `Arc<Registry>`.
//!
//! Invariant: a bad file never takes a name from a good one, and an attempt finishes on the code it began with.

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    catalogue::{Description, PluginInfo},
    engine::{Code, Engine, Grants, Limits},
    task::{CodeId, TaskName},
};

/// Where plugins come from.
#[derive(Debug, Clone)]
pub struct PluginsSettings {
    pub dir: PathBuf,
    /// Last good bytes and owners of names; owned by this user and closed to others.
    pub state: PathBuf,
    /// `taskhost.toml`, whose `[plugins.*]` tables are the policies; read again when it changes.
    pub policy: Option<PathBuf>,
    /// What a policy does not set.
    pub limits: Limits,
}

/// Why the room can't work at all; a bad file is a [`PluginInfo`] instead.
#[derive(Debug, thiserror::Error)]
pub enum PluginsError {
    #[error("{0}")]
    Directory(String),
    #[error("{0}")]
    Policy(String),
}

/// One loaded component under its policy.
#[derive(Debug)]
pub struct Plugin {
    pub id: CodeId,
    /// File name, such as `math.wasm`.
    pub file: String,
    pub description: Description,
    pub code: Arc<Code>,
    pub limits: Arc<Limits>,
    pub grants: Arc<Grants>,
    /// At most so many attempts at once on this worker.
    pub concurrency: Option<usize>,
}

/// What this process can run now. One value a pass; never changed.
#[derive(Debug, Default)]
pub struct Registry {
    pub bodies: HashMap<TaskName, Arc<Plugin>>,
    /// Every file seen, serving or not, by name.
    pub files: Vec<PluginInfo>,
}

impl Registry {
    pub fn resolve(&self, name: &TaskName) -> Option<&Arc<Plugin>> {
        self.bodies.get(name)
    }
}

/// The room: owns the watcher and the reconcile task.
#[derive(Debug)]
pub struct Plugins {
    registry: watch::Sender<Arc<Registry>>,
}

impl Plugins {
    /// Checks the directories and the policy; loads nothing yet.
    pub fn open(_settings: PluginsSettings, _engine: Arc<Engine>) -> Result<Self, PluginsError> {
        unimplemented!()
    }

    pub fn registry(&self) -> watch::Receiver<Arc<Registry>> {
        self.registry.subscribe()
    }

    /// Reconciles until `shutdown`. The first registry is published when every file found at the start has been judged.
    pub async fn run(self, _shutdown: CancellationToken) {
        unimplemented!()
    }
}
