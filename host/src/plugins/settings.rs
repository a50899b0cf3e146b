//! The settings of the room, and the errors that keep it from working.

use std::path::PathBuf;

use super::writable::Writable;
use crate::engine::Limits;

/// The sources of plugins.
#[derive(Debug, Clone)]
pub struct PluginsSettings {
    pub dir: PathBuf,
    /// The directory for last good bytes and owners of names. It must belong to this user and be closed to others.
    pub state: PathBuf,
    /// `taskhost.toml`, whose `[plugins.*]` tables are the policies. It is read again when it changes.
    pub policy: Option<PathBuf>,
    /// The file of the trusted keys, if only signed plugins may serve. It is read again when it changes.
    pub trust: Option<PathBuf>,
    /// What to do if others may write to the sources of plugins.
    pub writable: Writable,
    /// The limits that a policy does not set.
    pub limits: Limits,
}

/// Why the room can't work at all; a bad file is a [`PluginInfo`](taskhost_core::catalogue::PluginInfo) instead.
#[derive(Debug, thiserror::Error)]
pub enum PluginsError {
    #[error("{0}")]
    Directory(String),
    #[error("{0}")]
    Policy(String),
    /// Others could change the code that this host runs.
    #[error("{0}")]
    State(String),
    /// The one file that was asked for.
    #[error("{0}")]
    File(String),
    /// The machine failed, whatever the file is.
    #[error("{0}")]
    Machine(String),
}
