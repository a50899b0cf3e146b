//! Lists hooks, and enables those again that their receivers disabled.

use serde::Serialize;

use super::{connection::Ops, error::OpsError};
use crate::worker::{HOOK_PLUGIN, Hook, HookEvent, HookTarget};

/// A hook of the settings, and whether it is told anything.
#[derive(Debug, Serialize)]
pub struct SeenHook {
    pub name: String,
    pub on: Vec<&'static str>,
    /// `url` or the name of a task.
    pub target: String,
    /// Its receiver answered 410.
    pub disabled: bool,
}

impl Ops {
    /// The hooks of these settings.
    pub async fn hooks(&self, hooks: &[Hook]) -> Result<Vec<SeenHook>, OpsError> {
        let mut seen = Vec::new();
        for hook in hooks {
            let disabled = self.broker.kv_get(HOOK_PLUGIN, &hook.name).await.map_err(|error| OpsError::Machine(error.to_string()))?;
            seen.push(SeenHook {
                name: hook.name.clone(),
                on: hook.on.iter().map(|event| HookEvent::as_str(*event)).collect(),
                target: match &hook.target {
                    HookTarget::Task { task, queue } => format!("task {task} in {queue}"),
                    HookTarget::Url { url, .. } => url.clone(),
                },
                disabled: disabled.is_some(),
            });
        }
        Ok(seen)
    }

    /// Has a hook told again. Answers whether it was disabled.
    pub async fn enable_hook(&self, name: &str) -> Result<bool, OpsError> {
        self.broker.kv_remove(HOOK_PLUGIN, name).await.map_err(|error| OpsError::Machine(error.to_string()))
    }
}
