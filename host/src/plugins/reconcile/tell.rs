//! Tells the changes of a pass, and the faults of the room as a whole.

use std::{collections::HashMap, sync::Arc};

use super::{files::Files, versions::Versions};
use crate::plugins::{digest::Digest, loads::Loader, name::stem, policy_file::PolicyFile, registry::Registry, signed::Signatures};
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

/// Shows a fault of the whole room at every file that it concerns, because `plugin list` lists files.
pub(super) fn with_faults<L: Loader>(
    mut infos: Vec<PluginInfo>,
    files: &Files,
    policy: &PolicyFile,
    versions: &Versions<L>,
) -> Vec<PluginInfo> {
    for info in &mut infos {
        info.warnings.extend(policy.missing().get(stem(&info.file)).cloned().unwrap_or_default());
        info.warnings.extend(files.by_name.get(&info.file).and_then(|tracked| tracked.warning.clone()));
        let unkept = info.serving.as_ref().and_then(|code| versions.loads.unkept(&Digest::from(code.digest.as_str())));
        info.warnings.extend(unkept);
        info.warnings.extend(files.trouble.clone());
        info.warnings.extend(faults_of_settings(policy, versions));
    }
    infos
}

/// The faults of the room as a whole, but for those of `elsewhere`.
pub(super) fn faults<L: Loader>(
    files: &Files,
    policy: &PolicyFile,
    versions: &Versions<L>,
    elsewhere: impl IntoIterator<Item = String>,
) -> Vec<String> {
    let stems: Vec<&str> = files.by_name.keys().map(|file| stem(file)).collect();
    let mut faults = policy.policies().unused(&stems);
    faults.extend(files.trouble.clone().or_else(|| files.warning.clone()));
    faults.extend(faults_of_settings(policy, versions));
    faults.extend(elsewhere);
    faults
}

/// The faults of the policies and the keys.
fn faults_of_settings<'a, L: Loader>(policy: &'a PolicyFile, versions: &'a Versions<L>) -> impl Iterator<Item = String> + 'a {
    let keys = versions.signatures.as_ref().and_then(Signatures::trouble);
    policy.trouble().into_iter().chain(keys).map(str::to_owned)
}

fn by_file<C>(registry: &Registry<C>) -> HashMap<&str, &PluginInfo> {
    registry.files.iter().map(|info| (info.file.as_str(), info)).collect()
}
