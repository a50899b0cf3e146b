//! A value as it was written, and why one is refused.

use taskhost_core::catalogue;

/// Why settings were refused: a sentence that names the place and the allowed values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// One value as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) text: String,
    /// Its place, such as `--lease`, `TASKHOST_LEASE` or `taskhost.toml:3: lease`.
    pub(super) place: String,
}

/// `; did you mean …?`, or an empty text.
pub(super) fn did_you_mean<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    catalogue::near(word, names).first().map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}
