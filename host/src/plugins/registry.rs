//! The plugins that this process can run now.

use std::{collections::HashMap, sync::Arc};

use taskhost_core::{
    catalogue::{Description, PluginInfo},
    task::{CodeId, TaskName},
};

use super::guard::Tally;
use crate::engine::{Code, Grants, Limits, Terms};

/// One loaded component under its policy. `C` is the engine's code; tests use another type.
#[derive(Debug)]
pub struct Plugin<C = Code> {
    pub id: CodeId,
    /// File name, such as `math.wasm`.
    pub file: String,
    pub description: Description,
    pub code: Arc<C>,
    pub limits: Arc<Limits>,
    pub grants: Arc<Grants>,
    /// The most attempts at once on this worker.
    pub concurrency: Option<usize>,
    /// Counts its attempts, if it has a guard.
    pub tally: Option<Arc<Tally>>,
}

impl Plugin {
    /// The code and terms of each of its attempts.
    pub fn terms(&self) -> Terms {
        let (code, limits, grants) = (self.code.clone(), self.limits.clone(), self.grants.clone());
        Terms { code, plugin: self.id.plugin.as_str().into(), limits, grants }
    }
}

/// The plugins that this process can run. Each pass makes a new value; a value never changes.
#[derive(Debug)]
pub struct Registry<C = Code> {
    pub bodies: HashMap<TaskName, Arc<Plugin<C>>>,
    /// Every file, serving or not, by name.
    pub files: Vec<PluginInfo>,
    /// Faults of the room as a whole: its directories, its policies.
    pub warnings: Vec<String>,
}

impl<C> Registry<C> {
    pub fn resolve(&self, name: &TaskName) -> Option<&Arc<Plugin<C>>> {
        self.bodies.get(name)
    }
}

impl<C> Default for Registry<C> {
    fn default() -> Self {
        Self { bodies: HashMap::new(), files: Vec::new(), warnings: Vec::new() }
    }
}
