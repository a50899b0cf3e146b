//! What a pass changed, in the log.

use std::collections::HashMap;

use crate::{catalogue::PluginInfo, plugins::Registry};

/// Logs what changed, once.
pub(super) fn tell<C>(before: &Registry<C>, now: &Registry<C>) {
    let (old_files, new_files) = (by_file(before), by_file(now));
    for info in &now.files {
        let old = old_files.get(info.file.as_str());
        let (was, is) = (old.and_then(|o| o.serving.as_ref()), info.serving.as_ref());
        match (was, is) {
            (was, Some(is)) if was != Some(is) => {
                let digest = is.digest.get(..12).unwrap_or_default();
                let bodies = info.description.as_ref().map_or(0, |d| d.bodies.len());
                tracing::info!(plugin = is.plugin, version = is.version, digest, bodies, "{} serves", info.file);
            }
            (Some(was), None) => tracing::warn!(plugin = was.plugin, "{} does not serve any more", info.file),
            _ => {}
        }
        if let Some(error) = info.error.as_ref().filter(|_| old.is_none_or(|o| o.error != info.error)) {
            let serving = is.map_or("nothing serves in its place", |_| "its last good version serves");
            tracing::warn!("{}: {error}; {serving}", info.file);
        }
        for warning in info.warnings.iter().filter(|w| old.is_none_or(|o| !o.warnings.contains(w)) && !now.warnings.contains(w)) {
            tracing::warn!("{}: {warning}", info.file);
        }
    }
    for info in before.files.iter().filter(|info| !new_files.contains_key(info.file.as_str())) {
        tracing::info!("{} is unloaded", info.file);
    }
    for warning in now.warnings.iter().filter(|w| !before.warnings.contains(w)) {
        tracing::warn!("{warning}");
    }
}

fn by_file<C>(registry: &Registry<C>) -> HashMap<&str, &PluginInfo> {
    registry.files.iter().map(|info| (info.file.as_str(), info)).collect()
}
