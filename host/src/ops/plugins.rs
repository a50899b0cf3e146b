//! The plugins that live workers see.

use std::collections::BTreeMap;

use serde::Serialize;
use taskhost_broker::WorkerInfo;
use taskhost_core::catalogue::PluginInfo;

use super::{connection::Ops, error::OpsError};

/// One file as one or more workers see it.
#[derive(Debug, Serialize)]
pub struct SeenPlugin {
    #[serde(flatten)]
    pub info: PluginInfo,
    pub workers: Vec<String>,
}

/// The plugins of these workers, by file. A file that workers see differently is listed once for each view.
pub fn seen_plugins(workers: &[WorkerInfo]) -> Vec<SeenPlugin> {
    let mut files: BTreeMap<&str, Vec<SeenPlugin>> = BTreeMap::new();
    for worker in workers {
        for info in &worker.plugins {
            let same = files.entry(&info.file).or_default();
            match same.iter_mut().find(|seen| seen.info == *info) {
                Some(seen) => seen.workers.push(worker.id.clone()),
                None => same.push(SeenPlugin { info: info.clone(), workers: vec![worker.id.clone()] }),
            }
        }
    }
    files.into_values().flatten().collect()
}

impl Ops {
    /// The plugins of all live workers.
    pub async fn plugins(&self) -> Result<Vec<SeenPlugin>, OpsError> {
        Ok(seen_plugins(&self.broker.workers().await?))
    }

    /// The plugin with this name or file name, as one of the live workers sees it.
    pub async fn plugin(&self, name: &str) -> Result<PluginInfo, OpsError> {
        let wanted = format!("{name}.wasm");
        let mut plugins = self.broker.workers().await?.into_iter().flat_map(|worker| worker.plugins);
        let found = plugins.find(|info| info.file == wanted || info.file == name);
        found.ok_or_else(|| OpsError::NoSuchPlugin(name.to_owned()))
    }
}
