//! What a pass changed, in the log.

use crate::plugins::Registry;

/// Logs what changed, once.
pub(super) fn tell<C>(before: &Registry<C>, now: &Registry<C>) {
    let find = |registry: &Registry<C>, file: &str| registry.files.iter().find(|info| info.file == file).cloned();
    for info in &now.files {
        let old = find(before, &info.file);
        let (was, is) = (old.as_ref().and_then(|o| o.serving.as_ref()), info.serving.as_ref());
        match (was, is) {
            (was, Some(is)) if was != Some(is) => {
                let digest = is.digest.get(..12).unwrap_or_default();
                let bodies = info.description.as_ref().map_or(0, |d| d.bodies.len());
                tracing::info!(plugin = is.plugin, version = is.version, digest, bodies, "{} serves", info.file);
            }
            (Some(was), None) => tracing::warn!(plugin = was.plugin, "{} does not serve any more", info.file),
            _ => {}
        }
        if let Some(error) = info.error.as_ref().filter(|_| old.as_ref().is_none_or(|o| o.error != info.error)) {
            let serving = is.map_or("nothing serves in its place", |_| "its last good version serves");
            tracing::warn!("{}: {error}; {serving}", info.file);
        }
        for warning in info.warnings.iter().filter(|w| old.as_ref().is_none_or(|o| !o.warnings.contains(w)) && !now.warnings.contains(w)) {
            tracing::warn!("{}: {warning}", info.file);
        }
    }
    for info in before.files.iter().filter(|info| find(now, &info.file).is_none()) {
        tracing::info!("{} is unloaded", info.file);
    }
    for warning in now.warnings.iter().filter(|w| !before.warnings.contains(w)) {
        tracing::warn!("{warning}");
    }
}
