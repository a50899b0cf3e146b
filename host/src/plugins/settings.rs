//! How the room is set up, and why it can't work at all.

use std::path::PathBuf;

use super::writable::Writable;
use crate::engine::Limits;

/// Where plugins come from.
#[derive(Debug, Clone)]
pub struct PluginsSettings {
    pub dir: PathBuf,
    /// Last good bytes and owners of names; owned by this user and closed to others.
    pub state: PathBuf,
    /// `taskhost.toml`, whose `[plugins.*]` tables are the policies; read again when it changes.
    pub policy: Option<PathBuf>,
    /// The trusted keys, when only signed plugins may serve; read again when it changes.
    pub trust: Option<PathBuf>,
    /// Whether others may write where the plugins come from.
    pub writable: Writable,
    /// What a policy does not set.
    pub limits: Limits,
}

/// Why the room can't work at all; a bad file is a [`PluginInfo`](taskhost_core::catalogue::PluginInfo) instead.
#[derive(Debug, thiserror::Error)]
pub enum PluginsError {
    #[error("{0}")]
    Directory(String),
    #[error("{0}")]
    Policy(String),
    /// Others could change what this host runs.
    #[error("{0}")]
    State(String),
    /// The one file that was asked for.
    #[error("{0}")]
    File(String),
    /// The machine could not do it now, whatever the file is.
    #[error("{0}")]
    Machine(String),
}
