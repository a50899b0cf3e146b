//! Tells the changes of a pass, and the faults of the room as a whole.

use std::{collections::HashMap, sync::Arc};

use super::{Loader, Reconciler, Signatures};
use crate::plugins::{digest::Digest, name::stem, policy::Policies, registry::Registry};
use taskhost_core::{
    catalogue::{PluginInfo, PluginStatus},
    observe::{Event, Observers},
};

/// Tells each change once: facts to the observers, warnings to the log.
pub(super) fn tell<C>(before: &Registry<C>, now: &Registry<C>, observers: &Observers) {
    let (old_files, new_files) = (by_file(before), by_file(now));
    for info in &now.files {
        let old = old_files.get(info.file.as_str());
        let (was, is) = (old.and_then(|o| o.serving.as_ref()), info.serving.as_ref());
        match (was, is) {
            (was, Some(is)) if was != Some(is) => {
                let bodies = info.description.as_ref().map_or(0, |d| d.bodies.len());
                observers.tell(|| Event::PluginServes { file: &info.file, code: is, old: was, bodies });
            }
            (Some(was), None) => observers.tell(|| Event::PluginStopped { file: &info.file, code: was }),
            _ => {}
        }
        if let Some(error) = info.error.as_ref().filter(|_| old.is_none_or(|o| o.error != info.error)) {
            observers.tell(|| match info.status {
                PluginStatus::RolledBack => Event::PluginRolledBack { file: &info.file, why: error, serving: is },
                _ => Event::PluginRefused { file: &info.file, error, serving: is },
            });
        }
        for warning in info.warnings.iter().filter(|w| old.is_none_or(|o| !o.warnings.contains(w)) && !now.warnings.contains(w)) {
            tracing::warn!("{}: {warning}", info.file);
        }
    }
    for info in before.files.iter().filter(|info| !new_files.contains_key(info.file.as_str())) {
        observers.tell(|| Event::PluginUnloaded { file: &info.file, code: info.serving.as_ref() });
    }
    for warning in now.warnings.iter().filter(|w| !before.warnings.contains(w)) {
        tracing::warn!("{warning}");
    }
}

/// Whether nobody needs to be told.
pub(super) fn same<C>(a: &Registry<C>, b: &Registry<C>) -> bool {
    a.files == b.files
        && a.warnings == b.warnings
        && a.bodies.len() == b.bodies.len()
        && a.bodies.iter().all(|(name, plugin)| b.bodies.get(name).is_some_and(|other| Arc::ptr_eq(plugin, other)))
}

impl<L: Loader> Reconciler<L> {
    /// Shows a fault of the whole room at every file that it concerns, because `plugin list` lists files.
    pub(super) fn with_trouble(&self, mut files: Vec<PluginInfo>) -> Vec<PluginInfo> {
        for info in &mut files {
            info.warnings.extend(self.policy.missing().get(stem(&info.file)).cloned().unwrap_or_default());
            info.warnings.extend(self.files.get(&info.file).and_then(|tracked| tracked.warning.clone()));
            let unkept = info.serving.as_ref().and_then(|code| self.loads.unkept(&Digest::from(code.digest.as_str())));
            info.warnings.extend(unkept);
            info.warnings.extend(self.directory_trouble.clone());
            info.warnings.extend(self.policy.trouble().map(str::to_owned));
            info.warnings.extend(self.signatures.as_ref().and_then(Signatures::trouble).map(str::to_owned));
        }
        files
    }

    pub(super) fn warnings(&self, policies: &Policies) -> Vec<String> {
        let stems: Vec<&str> = self.files.keys().map(|file| stem(file)).collect();
        let mut warnings = policies.unused(&stems);
        warnings.extend(self.directory_trouble.clone().or_else(|| self.writable_warning.clone()));
        warnings.extend(self.policy.trouble().map(str::to_owned));
        warnings.extend(self.signatures.as_ref().and_then(Signatures::trouble).map(str::to_owned));
        warnings.extend(self.exposed.iter().cloned());
        warnings.extend(self.state_trouble.clone());
        warnings
    }
}

fn by_file<C>(registry: &Registry<C>) -> HashMap<&str, &PluginInfo> {
    registry.files.iter().map(|info| (info.file.as_str(), info)).collect()
}
