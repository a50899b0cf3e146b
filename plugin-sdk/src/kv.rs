//! A small store of the plugin, shared by all its attempts.
//!
//! A write takes effect at once, also if the attempt fails later. The next attempt may repeat it, so make writes idempotent.
//!
//! ```
//! # use taskhost_sdk::{prelude::*, testing};
//! fn next_page() -> TaskResult<u32> {
//!     let page = kv::get::<u32>("page")?.unwrap_or(1);
//!     kv::set("page", &(page + 1))?;
//!     Ok(page)
//! }
//! let attempt = testing::attempt().kv("page", 7);
//! assert_eq!(attempt.run(next_page), Ok(7));
//! assert_eq!(attempt.kv_value::<u32>("page"), Some(8));
//! ```

use std::fmt;

use serde::{Serialize, de::DeserializeOwned};

use crate::{error::TaskError, host};

/// Returns the value of a key, read from JSON; `None` if there is none.
///
/// ```
/// # use taskhost_sdk::prelude::*;
/// assert_eq!(kv::get::<u32>("page"), Ok(None));
/// ```
pub fn get<T: DeserializeOwned>(key: &str) -> Result<Option<T>, Error> {
    let Some(bytes) = get_bytes(key)? else { return Ok(None) };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| Error::Invalid(format!("the value of `{key}` is not what was asked for: {error}")))
}

/// Writes a value as JSON. It replaces an older one.
///
/// ```
/// # use taskhost_sdk::prelude::*;
/// kv::set("page", &3)?;
/// assert_eq!(kv::get::<u32>("page")?, Some(3));
/// # Ok::<(), kv::Error>(())
/// ```
pub fn set<T: Serialize + ?Sized>(key: &str, value: &T) -> Result<(), Error> {
    let bytes =
        serde_json::to_vec(value).map_err(|error| Error::Invalid(format!("the value for `{key}` can't be written as JSON: {error}")))?;
    set_bytes(key, bytes)
}

/// Returns the bytes of a key's value.
///
/// ```
/// # use taskhost_sdk::prelude::*;
/// kv::set_bytes("raw", [1, 2])?;
/// assert_eq!(kv::get_bytes("raw")?, Some(vec![1, 2]));
/// # Ok::<(), kv::Error>(())
/// ```
pub fn get_bytes(key: &str) -> Result<Option<Vec<u8>>, Error> {
    host::kv_get(key)
}

/// Writes bytes. They replace an older value.
///
/// ```
/// # use taskhost_sdk::prelude::*;
/// kv::set_bytes("raw", "text")?;
/// # Ok::<(), kv::Error>(())
/// ```
pub fn set_bytes(key: &str, value: impl AsRef<[u8]>) -> Result<(), Error> {
    host::kv_set(key, value.as_ref())
}

/// Removes a key. Returns whether it existed.
///
/// ```
/// # use taskhost_sdk::prelude::*;
/// assert_eq!(kv::remove("nothing"), Ok(false));
/// ```
pub fn remove(key: &str) -> Result<bool, Error> {
    host::kv_remove(key)
}

/// Adds to a decimal integer atomically, and returns the sum. A missing key counts as 0. A repeated attempt adds again.
///
/// ```
/// # use taskhost_sdk::prelude::*;
/// assert_eq!(kv::increment("seen", 2)?, 2);
/// assert_eq!(kv::increment("seen", -1)?, 1);
/// # Ok::<(), kv::Error>(())
/// ```
pub fn increment(key: &str, by: i64) -> Result<i64, Error> {
    host::kv_increment(key, by)
}

/// All keys with this prefix, in byte order. The iterator fetches a thousand at a time.
///
/// ```
/// # use taskhost_sdk::prelude::*;
/// for id in ["b", "a"] {
///     kv::set(&format!("staged:{id}"), &true)?;
/// }
/// let keys: Result<Vec<_>, _> = kv::keys("staged:").collect();
/// assert_eq!(keys?, ["staged:a", "staged:b"]);
/// # Ok::<(), kv::Error>(())
/// ```
pub fn keys(prefix: impl Into<String>) -> Keys {
    Keys { prefix: prefix.into(), page: Vec::new().into_iter(), last: None, ended: false }
}

/// The iterator of [`keys`]. It may or may not return keys that are written or removed meanwhile.
///
/// ```
/// # use taskhost_sdk::{kv::Keys, prelude::*};
/// let mut keys: Keys = kv::keys("none:");
/// assert_eq!(keys.next(), None);
/// ```
#[derive(Debug)]
pub struct Keys {
    prefix: String,
    page: std::vec::IntoIter<String>,
    last: Option<String>,
    ended: bool,
}

impl Iterator for Keys {
    type Item = Result<String, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        const PAGE: u32 = 1_000;
        if self.page.len() == 0 && !self.ended {
            match host::kv_keys(&self.prefix, self.last.as_deref(), PAGE) {
                // The host may return fewer keys than were asked for. Only an empty page is the end.
                Ok(page) => {
                    self.ended = page.is_empty();
                    self.page = page.into_iter();
                }
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
            }
        }
        let key = self.page.next()?;
        self.last = Some(key.clone());
        Some(Ok(key))
    }
}

/// Why the store refused or failed. With `?`, `Unavailable` is retryable and the others are permanent.
///
/// ```
/// # use taskhost_sdk::{kv::Error, prelude::*};
/// assert!(TaskError::from(Error::Unavailable("broker gone".into())).is_retryable());
/// assert!(!TaskError::from(Error::Quota("64 MiB".into())).is_retryable());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The policy does not grant it.
    Denied(String),
    /// The store of the plugin is full.
    Quota(String),
    /// The key or value can't be stored or read, or `increment` found no number.
    Invalid(String),
    /// The broker can't be reached.
    Unavailable(String),
}

impl Error {
    pub(crate) fn judge(&self, general: TaskError) -> TaskError {
        match self {
            Self::Denied(_) => general.into_permanent().with_code("kv-denied"),
            Self::Quota(_) => general.into_permanent().with_code("kv-quota"),
            Self::Invalid(_) => general.into_permanent().with_code("kv-invalid"),
            Self::Unavailable(_) => general.with_code("kv-unavailable"),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(text) => write!(f, "kv: denied: {text}"),
            Self::Quota(text) => write!(f, "kv: full: {text}"),
            Self::Invalid(text) => write!(f, "kv: {text}"),
            Self::Unavailable(text) => write!(f, "kv: unavailable: {text}"),
        }
    }
}

impl std::error::Error for Error {}
