//! Names and ids, checked when they are made.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize};

/// The fault of a name, as a sentence that says what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidName(String);

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidName> {
                let text = text.as_ref();
                let valid: fn(&str) -> bool = $valid;
                if valid(text) { Ok(Self(text.into())) } else { Err(InvalidName(format!(concat!($what, " {}: `{}`"), $rule, shortened(text)))) }
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                Self::new(String::deserialize(d)?).map_err(serde::de::Error::custom)
            }
        }
    };
}

name!(
    /// A task's id: a UUIDv7, or the caller's own; unique within its queue.
    TaskId,
    "a task id",
    "has 1 to 128 characters of A-Z a-z 0-9 . _ : / + = -",
    |text| (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:/+=-".contains(&b))
);

name!(
    /// The name that a task is enqueued under and that a body offers.
    TaskName,
    "a task name",
    "starts with a letter and has at most 128 characters of A-Z a-z 0-9 _ . : / -",
    |text| text.len() <= 128
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.:/-".contains(&b))
);

name!(
    /// A queue's name.
    QueueName,
    "a queue name",
    "starts with a letter or digit and has at most 64 characters of A-Z a-z 0-9 _ . -",
    |text| text.len() <= 64
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
);

impl TaskId {
    /// A new UUIDv7: ids made later sort later.
    pub fn fresh() -> Self {
        let mut buffer = [0; uuid::fmt::Hyphenated::LENGTH];
        Self((&*uuid::Uuid::now_v7().hyphenated().encode_lower(&mut buffer)).into())
    }
}

impl TaskId {
    /// The id under which a task with an invalid id is shown.
    pub fn unreadable(mark: impl fmt::Display) -> Self {
        Self(format!("unreadable:{mark}").into())
    }
}

impl TaskName {
    /// Whether only the host itself enqueues tasks of this name: the deliveries of hooks.
    pub fn is_reserved(&self) -> bool {
        self.0.starts_with("taskhost.")
    }

    /// The name that is shown in place of an invalid one.
    pub fn unreadable() -> Self {
        Self("unreadable".into())
    }
}

impl Default for QueueName {
    fn default() -> Self {
        Self("default".into())
    }
}

/// A value for an error message: at most 64 characters of it, control characters escaped.
fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(64).flat_map(char::escape_debug).collect();
    if text.chars().nth(64).is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_is_allowed() {
        assert!(TaskName::new("transferDepartment").is_ok());
        assert!(TaskName::new("email:send").is_ok() && TaskName::new("reports/daily").is_ok());
        assert!(TaskName::new(":send").is_err());
        assert_eq!(
            TaskName::new("two words").unwrap_err().to_string(),
            "a task name starts with a letter and has at most 128 characters of A-Z a-z 0-9 _ . : / -: `two words`"
        );
        assert!(TaskName::new("").is_err());
        assert!(TaskName::new("a".repeat(129)).is_err());
        assert!(QueueName::new("{x}").is_err());
        assert!(TaskId::new("cron:bu:1700000000000").is_ok());
        assert!(TaskId::new("a@b").is_err(), "`@` parts a held member's id from its claim time");
    }

    #[test]
    fn fresh_ids_sort_by_age() {
        let ids: Vec<_> = (0..100).map(|_| TaskId::fresh()).collect();
        assert!(ids.is_sorted());
    }
}
