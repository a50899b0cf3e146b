//! Where the broker is: an address that is checked before anything connects, and shown without its password.

use std::{fmt, path::PathBuf};

/// `redis://…` (and its kin), or `sqlite:PATH`.
#[derive(Clone, PartialEq, Eq)]
pub enum BrokerAddress {
    /// As written; the driver reads it.
    Redis(String),
    Sqlite(PathBuf),
}

const REDIS_SCHEMES: [&str; 4] = ["redis", "rediss", "redis+sentinel", "redis+cluster"];

impl BrokerAddress {
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let wanted = "a broker is `redis://HOST:PORT`, `rediss://…`, `redis+sentinel://…`, `redis+cluster://…` or `sqlite:PATH`";
        if let Some(path) = text.strip_prefix("sqlite:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() { Err(format!("{wanted}: `{text}` names no file")) } else { Ok(Self::Sqlite(path.into())) };
        }
        match text.split_once("://") {
            Some((scheme, rest)) if REDIS_SCHEMES.contains(&scheme) && !rest.is_empty() => Ok(Self::Redis(text.to_owned())),
            _ => Err(format!("{wanted}: `{}`", without_password(text))),
        }
    }
}

/// Without the password.
impl fmt::Display for BrokerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Redis(url) => f.write_str(&without_password(url)),
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
        }
    }
}

impl fmt::Debug for BrokerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Cuts what stands between the first `:` after the scheme and the last `@`; also of something that is no URL, since a
/// mistyped address is shown as well.
fn without_password(text: &str) -> String {
    let start = text.find("://").map_or(0, |at| at + 3);
    let Some(end) = text.rfind('@').filter(|end| *end >= start) else { return text.to_owned() };
    let user = text[start..end].split(':').next().unwrap_or_default();
    let hidden = if text[start..end].contains(':') { ":***" } else { "" };

    format!("{}{user}{hidden}{}", &text[..start], &text[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        let address = BrokerAddress::parse("redis://me:p@ss:w@host:6380/2").unwrap();
        assert_eq!(address.to_string(), "redis://me:***@host:6380/2");
        assert_eq!(format!("{address:?}"), "redis://me:***@host:6380/2");
        let wrong = BrokerAddress::parse("redsi://:secret@host").unwrap_err();
        assert!(!wrong.contains("secret"), "{wrong}");
        assert!(wrong.contains("redis://HOST:PORT"), "{wrong}");
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
