//! The role of the plugins' small store: its verbs, its bounds, and why a call failed.

use async_trait::async_trait;

/// Small values of one plugin. The caller has checked policy and lengths.
#[async_trait]
pub trait Kv: Send + Sync {
    async fn kv_get(&self, plugin: &str, key: &str) -> Result<Option<Vec<u8>>, KvError>;
    async fn kv_set(&self, plugin: &str, key: &str, value: &[u8], room: KvRoom) -> Result<(), KvError>;
    /// Whether there was a value.
    async fn kv_remove(&self, plugin: &str, key: &str) -> Result<bool, KvError>;
    /// The sum. A missing value counts as 0.
    async fn kv_increment(&self, plugin: &str, key: &str, by: i64, room: KvRoom) -> Result<i64, KvError>;
    /// The keys that begin with `prefix` and come after `after`, in byte order, at most `limit`.
    async fn kv_keys(&self, plugin: &str, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, KvError>;
}

/// Why a call on the store failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    /// `increment` of a value that is not a decimal integer, or a sum beyond 64 bits.
    #[error("{0}")]
    Invalid(String),
    /// The value does not fit the room.
    #[error("{0}")]
    Full(String),
    #[error("{0}")]
    Unavailable(String),
}

/// How much a plugin's store may hold. A store that is already over its bounds accepts changes that do not make it larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvRoom {
    /// The most bytes of all keys and values together.
    pub bytes: u64,
    pub keys: u64,
}

impl KvRoom {
    pub const UNBOUNDED: Self = Self { bytes: u64::MAX >> 12, keys: u64::MAX >> 12 };

    /// The refusal of a value: it would be one key too many, or make the store this many `bytes`.
    pub(crate) fn full(self, too_many_keys: bool, bytes: u64) -> KvError {
        let Self { bytes: most_bytes, keys: most_keys } = self;
        KvError::Full(if too_many_keys {
            format!("the store of this plugin may have {most_keys} keys; remove some, or raise `keys` of its `kv` policy")
        } else {
            format!(
                "the store of this plugin would have {bytes} bytes, {most_bytes} are the most; remove something, or raise `bytes` of its `kv` \
                 policy"
            )
        })
    }
}
