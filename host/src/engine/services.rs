//! The services that need the broker. The worker gives them to an attempt.

use async_trait::async_trait;
use taskhost_core::task::{LogLine, Progress};

/// A guest's requests that need the broker. Called on the guests' runtime.
#[async_trait]
pub trait Services: Send + Sync {
    async fn kv_get(&self, key: &str) -> Result<Option<Vec<u8>>, ServiceError>;
    async fn kv_set(&self, key: &str, value: Vec<u8>) -> Result<(), ServiceError>;
    async fn kv_remove(&self, key: &str) -> Result<bool, ServiceError>;
    async fn kv_increment(&self, key: &str, by: i64) -> Result<i64, ServiceError>;
    async fn kv_keys(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, ServiceError>;
    /// The newest value wins. Never waits.
    fn progress(&self, progress: Progress);
    /// Passes on one line of the body's log as it is written. Never waits.
    fn log(&self, line: &LogLine);
    /// Shows the whole log of an attempt that goes on: newline-delimited JSON, within the limit of the log. Never waits.
    fn log_so_far(&self, lines: String);
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServiceError {
    #[error("{0}")]
    Invalid(String),
    /// The plugin's store has no room for it.
    #[error("{0}")]
    Full(String),
    #[error("{0}")]
    Unavailable(String),
}
