//! Where the broker is: an address that is read before anything connects, and shown without its password.

use std::{fmt, path::PathBuf};

use crate::redis::RedisUrl;

/// `redis://…` (and its kin), or `sqlite:PATH`.
#[derive(Clone, PartialEq, Eq)]
pub enum BrokerAddress {
    Redis(RedisUrl),
    Sqlite(PathBuf),
}

impl BrokerAddress {
    /// The refusal shows nothing of a text that can't be read: it may hold a password.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let wanted = "a broker is `redis://HOST:PORT`, `rediss://…`, `redis+unix:///PATH`, `redis+sentinel://…`, `redis+cluster://…` or \
                      `sqlite:PATH`";
        if let Some(path) = text.strip_prefix("sqlite:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            let is_path = !path.is_empty() && !path.contains("://");
            return if is_path { Ok(Self::Sqlite(path.into())) } else { Err(format!("{wanted}: behind `sqlite:` stands no path")) };
        }
        if !text.starts_with("redis") || !text.contains("://") {
            return Err(wanted.to_owned());
        }
        RedisUrl::parse(text).map(Self::Redis)
    }
}

/// Without the password.
impl fmt::Display for BrokerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Redis(url) => url.fmt(f),
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
        }
    }
}

impl fmt::Debug for BrokerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        let address = BrokerAddress::parse("redis://me:p@ss:w@host:6380/2").unwrap();
        assert_eq!(address.to_string(), "redis://me:***@host:6380/2");
        assert_eq!(format!("{address:?}"), "redis://me:***@host:6380/2");
        for wrong in ["redsi://:secret@host", "redis//:secret@host", "redis:://:secret@host", ":secret@host", "sqlite:redis://:secret@host"]
        {
            let refused = BrokerAddress::parse(wrong).unwrap_err();
            assert!(!refused.contains("secret") && refused.contains("redis://"), "{refused}");
        }
    }

    #[test]
    fn sqlite_takes_any_path() {
        assert_eq!(BrokerAddress::parse("sqlite:taskhost.db"), Ok(BrokerAddress::Sqlite("taskhost.db".into())));
        assert_eq!(BrokerAddress::parse("sqlite:///srv/t.db"), Ok(BrokerAddress::Sqlite("/srv/t.db".into())));
        assert!(BrokerAddress::parse("sqlite:").is_err());
        assert!(BrokerAddress::parse("taskhost.db").is_err());
        assert!(BrokerAddress::parse("redis://").is_err());
    }
}
