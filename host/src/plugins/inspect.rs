//! Looks at one file outside of any directory, for `plugin inspect`, `plugin check` and `run`.

use std::{path::Path, sync::Arc};

use super::{
    directory::{self, FILE_MAX},
    loads::{EngineLoader, LoadError, Loader},
    name::{check_name, stem},
    policy::Policies,
    registry::Plugin,
    settings::PluginsError,
    signature::{self, Trust},
};
use crate::engine::{Engine, Limits};
use taskhost_core::task::CodeId;

/// The offers of a file, and its grants under a policy.
#[derive(Debug)]
pub struct Inspection {
    /// The plugin as a worker would run it.
    pub plugin: Plugin,
    pub warnings: Vec<String>,
    /// The interfaces that it imports, granted or not.
    pub imports: Vec<String>,
    /// Bytes of the file.
    pub size: u64,
    /// A phrase: whether it is signed and by which key; or why a worker with these trusted keys would refuse it.
    pub signature: Result<String, String>,
    /// Whether the policy file has a table for it.
    pub has_policy: bool,
}

/// Loads `path` with the policy of its name in `policy`, if there is one, and checks its signature against `trust`. An error is a sentence
/// about the file or the policy.
pub async fn inspect(
    path: &Path,
    engine: &Arc<Engine>,
    policy: Option<&Path>,
    trust: Option<&Path>,
    limits: &Limits,
) -> Result<Inspection, PluginsError> {
    let wrong = |text: String| PluginsError::File(text);
    let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name = stem(&file).to_owned();
    check_name(&name).map_err(|why| wrong(format!("{why}; rename the file")))?;
    let policies = policy.map(Policies::read).transpose().map_err(PluginsError::Policy)?.unwrap_or_default();
    let trust = trust.map(Trust::read).transpose().map_err(PluginsError::Policy)?;
    let bytes = read(path).map_err(wrong)?;
    let signature = signature::status(path, &bytes, trust.as_ref());
    let digest = directory::digest(&bytes);
    let size = bytes.len() as u64;
    let loaded = EngineLoader(engine.clone()).load(bytes.into(), &digest).await.map_err(|e| match e {
        LoadError::Bad(text) => wrong(format!("{file}: {text}")),
        LoadError::Busy(text) => PluginsError::Machine(format!("{file}: {text}; it is this machine's trouble, not the file's: try again")),
    })?;
    let imports = loaded.code.imports();
    let granted = policies.plugins.get(&name).cloned().unwrap_or_default();
    let plugin = Plugin {
        id: CodeId { plugin: name.clone(), version: loaded.description.version.clone(), digest: digest.to_string() },
        file,
        description: loaded.description,
        code: loaded.code,
        limits: granted.limits(limits).into(),
        grants: granted.grants.into(),
        concurrency: granted.concurrency,
        tally: None,
    };
    Ok(Inspection { plugin, warnings: loaded.warnings, imports, size, signature, has_policy: policies.plugins.contains_key(&name) })
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let failed = |e: std::io::Error| format!("cannot read the plugin ({e}): `{}`", path.display());
    let meta = std::fs::metadata(path).map_err(failed)?;
    if !meta.is_file() {
        return Err(format!("not a file; name the .wasm itself: `{}`", path.display()));
    }
    if meta.len() > FILE_MAX {
        return Err(format!("more than the {} MiB a plugin may have: `{}`", FILE_MAX >> 20, path.display()));
    }
    std::fs::read(path).map_err(failed)
}
