//! What an attempt may use, and what its plugin was granted: plain types.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

/// Bounds of one attempt; every one has a default.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Bytes, summed over the attempt's memories.
    pub memory: u64,
    /// Elements, summed over its tables.
    pub table_elements: u64,
    /// Handles in the resource table.
    pub resources: usize,
    /// The default, and the ceiling of what hints and enqueuers may ask.
    pub timeout: Duration,
    pub timeout_ceiling: Option<Duration>,
    /// Bytes of a result, of arguments, of a kv value.
    pub payload: usize,
    /// Bytes of stdout and of stderr that are kept, the newest.
    pub output: usize,
    /// Lines and bytes of log that are kept.
    pub log_bytes: usize,
    /// Tasks an attempt may enqueue.
    pub children: usize,
    /// Bytes of them all together.
    pub children_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: 64 << 20,
            table_elements: 100_000,
            resources: 10_000,
            timeout: Duration::from_secs(60),
            timeout_ceiling: None,
            payload: 1 << 20,
            output: 8 << 10,
            log_bytes: 64 << 10,
            children: 1_000,
            children_bytes: 1 << 20,
        }
    }
}

/// What the operator granted a plugin; by default nothing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Grants {
    pub http: Vec<HttpGrant>,
    pub env: BTreeMap<String, String>,
    pub files: Vec<FileGrant>,
}

/// Outgoing HTTP to one origin. The address it resolves to must be public unless the host is itself written as an address or as `localhost`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpGrant {
    /// `http` or `https`.
    pub scheme: String,
    /// Lower case.
    pub host: String,
    /// The scheme's default when it was left out.
    pub port: u16,
}

/// One preopened directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileGrant {
    pub host: PathBuf,
    /// Absolute, as the guest sees it.
    pub guest: String,
    pub mode: FileMode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileMode {
    ReadOnly,
    ReadWrite,
}
