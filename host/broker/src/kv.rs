//! The plugins' own small store: what it may hold, and why it did not do what it was asked.

/// The plugins' own small store; the caller has checked policy and lengths.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    /// `increment` of something that is no decimal integer, or beyond 64 bits.
    #[error("{0}")]
    Invalid(String),
    /// It would not fit the room.
    #[error("{0}")]
    Full(String),
    #[error("{0}")]
    Unavailable(String),
}

/// What a plugin's store may hold. A store that is over it already may shrink, and change what does not make it larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvRoom {
    /// Of all keys and values together.
    pub bytes: u64,
    pub keys: u64,
}

impl KvRoom {
    pub const UNBOUNDED: Self = Self { bytes: u64::MAX >> 12, keys: u64::MAX >> 12 };

    /// Why nothing more goes in: it would be one key too many, or make so many bytes.
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
