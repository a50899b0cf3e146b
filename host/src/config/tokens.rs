//! `[tokens.NAME]`: who may call the HTTP API, and what for.
//!
//! Invariant: the file holds the SHA-256 of a token, never the token. Who reads the file can't call the API with what stands there.

use std::{fmt, str::FromStr};

use serde::Deserialize;
use taskhost_core::pattern::Patterns;

/// Who may do something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Named in the log and the audit.
    pub name: String,
    pub sha256: [u8; 32],
    pub scopes: Scopes,
    pub queues: Patterns,
    pub tasks: Patterns,
    /// The most requests a second; `None`: any number.
    pub rate: Option<u32>,
}

/// A part of what can be done by HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Enqueue tasks.
    Enqueue,
    /// Look at tasks, queues, schedules, workers and plugins, without arguments, results and logs.
    Read,
    /// See arguments, results, error messages and logs too.
    Payload,
    /// Cancel, retry, edit and delete tasks; pause, resume and purge queues.
    Operate,
    /// Write and steer schedules.
    Schedule,
    /// Drain workers, roll plugins back, read the audit. Includes all other scopes.
    Admin,
    /// Read the metrics.
    Metrics,
}

impl Scope {
    pub const ALL: [Self; 7] = [Self::Enqueue, Self::Read, Self::Payload, Self::Operate, Self::Schedule, Self::Admin, Self::Metrics];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enqueue => "enqueue",
            Self::Read => "read",
            Self::Payload => "payload",
            Self::Operate => "operate",
            Self::Schedule => "schedule",
            Self::Admin => "admin",
            Self::Metrics => "metrics",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::as_str).join(", ");
        Self::ALL.into_iter().find(|scope| scope.as_str() == text).ok_or_else(|| format!("a scope is one of {}: `{text}`", known()))
    }
}

/// A set of scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    pub const ALL: Self = Self(u8::MAX);

    /// `admin` includes all others.
    pub fn of(scopes: impl IntoIterator<Item = Scope>) -> Self {
        let bits = scopes.into_iter().fold(0, |bits, scope| bits | 1 << scope as u8);
        if bits & 1 << Scope::Admin as u8 == 0 { Self(bits) } else { Self::ALL }
    }

    pub fn has(self, scope: Scope) -> bool {
        self.0 & 1 << scope as u8 != 0
    }
}

pub(super) const TOKEN_KEYS: &[&str] = &["sha256", "scopes", "queues", "tasks", "rate"];

/// A table as it is written.
#[derive(Debug, Deserialize)]
pub(super) struct RawToken {
    sha256: String,
    scopes: Vec<String>,
    queues: Option<Vec<String>>,
    tasks: Option<Vec<String>>,
    rate: Option<u32>,
}

impl RawToken {
    pub(super) fn checked(self, name: String) -> Result<Token, String> {
        let mut sha256 = [0; 32];
        hex::decode_to_slice(&self.sha256, &mut sha256)
            .map_err(|_| "`sha256` is 64 hexadecimal digits, as `taskhost token new` prints them".to_owned())?;
        if !is_token_name(&name) {
            return Err(format!("a token's name has 1 to 64 characters of A-Z a-z 0-9 . _ -: `{}`", name.escape_debug()));
        }
        if self.scopes.is_empty() {
            return Err(format!("the token may do nothing: name `scopes`, of {}", Scope::ALL.map(Scope::as_str).join(", ")));
        }
        if self.rate == Some(0) {
            return Err("`rate` is a number of requests a second, at least 1".to_owned());
        }
        let scopes = self.scopes.iter().map(|scope| scope.parse()).collect::<Result<Vec<Scope>, _>>()?;
        Ok(Token {
            name,
            sha256,
            scopes: Scopes::of(scopes),
            queues: Patterns::given(self.queues)?,
            tasks: Patterns::given(self.tasks)?,
            rate: self.rate,
        })
    }
}

/// Whether `name` can stand in `[tokens.NAME]`, in the log and in a header.
pub fn is_token_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admin_includes_all_other_scopes() {
        let admin = Scopes::of([Scope::Admin]);
        assert!(Scope::ALL.into_iter().all(|scope| admin.has(scope)));
        let reader = Scopes::of([Scope::Read, Scope::Metrics]);
        let may: Vec<_> = Scope::ALL.into_iter().filter(|scope| reader.has(*scope)).collect();
        assert_eq!(may, [Scope::Read, Scope::Metrics]);
    }
}
