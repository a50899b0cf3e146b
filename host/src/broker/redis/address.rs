//! Addresses: the URL forms, and how one is shown without its password.
//!
//! `redis://` `rediss://` as the client library reads them; `redis+sentinel://user:pass@s1:26379,s2:26379/MASTER/DB` with
//! `?sentinel_user=…&sentinel_password=…&tls=true`; `redis+cluster://user:pass@n1:6379,n2:6379` with `?tls=true`. Over TLS `ca=FILE&cert=FILE&key=FILE` name own certificates.

use redis::{ClientTlsConfig, ConnectionInfo, IntoConnectionInfo, TlsCertificates, TlsMode, sentinel::SentinelNodeConnectionInfo};

use crate::broker::{BrokerError, Result};

/// Where a URL leads.
#[derive(Clone)]
pub(super) enum Address {
    Single(ConnectionInfo, Option<TlsCertificates>),
    Sentinel { sentinels: Vec<ConnectionInfo>, master: String, node: SentinelNodeConnectionInfo },
    Cluster(Vec<ConnectionInfo>, Option<TlsCertificates>),
}

impl Address {
    pub(super) fn parse(url: &str) -> Result<Self> {
        if let Some(rest) = url.strip_prefix("redis+sentinel://") {
            let parts = Parts::split(rest);
            if certificates(url, &parts)?.is_some() {
                return Err(wrong(url, "`ca`, `cert` and `key` are for rediss:// and redis+cluster:// only"));
            }
            return sentinel(url, &parts);
        }
        if let Some(rest) = url.strip_prefix("redis+cluster://") {
            return cluster(url, &Parts::split(rest));
        }
        let Some(certificates) = url.split_once("://").map_or(Ok(None), |(_, rest)| certificates(url, &Parts::split(rest)))? else {
            return Ok(Self::Single(info(url, url)?, None));
        };
        let (bare, query) = url.split_once('?').unwrap_or((url, ""));
        let others: Vec<_> = query.split('&').filter(|pair| !FILES.iter().any(|name| pair.split('=').next() == Some(name))).collect();
        let text = if others.is_empty() { bare.to_owned() } else { format!("{bare}?{}", others.join("&")) };
        Ok(Self::Single(info(url, &text)?, Some(certificates)))
    }
}

/// What names a PEM file in a URL: who signed the server's certificate, and the client's own.
const FILES: [&str; 3] = ["ca", "cert", "key"];

fn certificates(url: &str, parts: &Parts<'_>) -> Result<Option<TlsCertificates>> {
    if FILES.iter().all(|name| parts.get(name).is_none()) {
        return Ok(None);
    }
    if !url.starts_with("rediss://") && parts.scheme() != "rediss" {
        return Err(wrong(url, "`ca`, `cert` and `key` need TLS: rediss://, or `tls=true` in a cluster's"));
    }
    let file = |name: &str| {
        let read = |path: &str| {
            std::fs::read(path).map_err(|error| {
                BrokerError::Misconfigured(format!(
                    "failed to read the PEM file that `{name}` in the broker's address names: {error}: `{path}`"
                ))
            })
        };
        parts.get(name).map(read).transpose()
    };
    let client_tls = match (file("cert")?, file("key")?) {
        (Some(client_cert), Some(client_key)) => Some(ClientTlsConfig { client_cert, client_key }),
        (None, None) => None,
        _ => return Err(wrong(url, "a client certificate needs both `cert` and `key`")),
    };
    Ok(Some(TlsCertificates { client_tls, root_cert: file("ca")? }))
}

/// A URL after its scheme.
struct Parts<'a> {
    /// `user:pass@`, or nothing.
    user: &'a str,
    hosts: Vec<&'a str>,
    path: Vec<&'a str>,
    query: Vec<(&'a str, &'a str)>,
}

impl<'a> Parts<'a> {
    fn split(rest: &'a str) -> Self {
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (user, rest) = rest.rfind('@').map_or(("", rest), |at| rest.split_at(at + 1));
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        Self {
            user,
            hosts: hosts.split(',').filter(|host| !host.is_empty()).collect(),
            path: path.split('/').filter(|part| !part.is_empty()).collect(),
            query: query.split('&').filter_map(|pair| pair.split_once('=')).collect(),
        }
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.query.iter().find(|(key, _)| *key == name).map(|(_, value)| *value)
    }

    fn scheme(&self) -> &'static str {
        if self.get("tls") == Some("true") { "rediss" } else { "redis" }
    }
}

fn sentinel(url: &str, parts: &Parts<'_>) -> Result<Address> {
    let scheme = parts.scheme();
    let Some((master, db)) = parts.path.split_first() else {
        return Err(wrong(url, "a Sentinel address names its master: redis+sentinel://HOST:26379,HOST:26379/MASTER"));
    };
    let login = match (parts.get("sentinel_user"), parts.get("sentinel_password")) {
        (user, Some(password)) => format!("{}:{password}@", user.unwrap_or_default()),
        _ => String::new(),
    };
    let sentinels = parts
        .hosts
        .iter()
        .map(|host| {
            let host = if host.contains(':') { (*host).to_owned() } else { format!("{host}:26379") };
            info(url, &format!("{scheme}://{login}{host}"))
        })
        .collect::<Result<Vec<_>>>()?;
    if sentinels.is_empty() {
        return Err(wrong(url, "name at least one sentinel"));
    }
    let node = info(url, &format!("{scheme}://{}master/{}", parts.user, db.first().copied().unwrap_or_default()))?;
    let mut settings = SentinelNodeConnectionInfo::default().set_redis_connection_info(node.redis_settings().clone());
    if scheme == "rediss" {
        settings = settings.set_tls_mode(TlsMode::Secure);
    }
    Ok(Address::Sentinel { sentinels, master: (*master).to_owned(), node: settings })
}

fn cluster(url: &str, parts: &Parts<'_>) -> Result<Address> {
    let scheme = parts.scheme();
    let nodes = parts.hosts.iter().map(|host| info(url, &format!("{scheme}://{}{host}", parts.user))).collect::<Result<Vec<_>>>()?;
    if nodes.is_empty() {
        return Err(wrong(url, "name at least one node"));
    }
    Ok(Address::Cluster(nodes, certificates(url, parts)?))
}

fn info(url: &str, text: &str) -> Result<ConnectionInfo> {
    text.into_connection_info().map_err(|error| wrong(url, error.to_string().split(" - ").next().unwrap_or_default()))
}

fn wrong(url: &str, what: &str) -> BrokerError {
    BrokerError::Misconfigured(format!(
        "the broker's address can't be read ({what}): `{}`; write it as redis://USER:PASSWORD@HOST:PORT/DB, with `%40` for `@` in a password",
        display_url(url)
    ))
}

/// The URL with `***` for its passwords: what may be shown and logged.
pub fn display_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
    let rest = match rest.rfind('@') {
        Some(at) => {
            let (login, host) = rest.split_at(at);
            match login.split_once(':') {
                Some((user, _)) => format!("{user}:***{host}"),
                None => rest.to_owned(),
            }
        }
        None => rest.to_owned(),
    };
    let query: Option<String> = query.map(|query| {
        let hidden = |pair: &str| match pair.split_once('=') {
            Some((key, _)) if key.contains("pass") => format!("{key}=***"),
            _ => pair.to_owned(),
        };
        query.split('&').map(hidden).collect::<Vec<_>>().join("&")
    });
    format!("{scheme}://{rest}{}", query.map(|query| format!("?{query}")).unwrap_or_default())
}

/// `HOST:PORT`, or as much of it as the URL has: what errors name.
pub(super) fn place(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split('?').next().unwrap_or_default();
    let rest = rest.rfind('@').map_or(rest, |at| &rest[at + 1..]);
    let hosts = rest.split(['/', '#']).next().unwrap_or_default();
    if url.starts_with("redis+") || hosts.rsplit(']').next().is_some_and(|end| end.contains(':')) {
        hosts.to_owned()
    } else {
        format!("{hosts}:6379")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_url_has_no_password() {
        assert_eq!(display_url("redis://me:se:cr@et@h:1/2"), "redis://me:***@h:1/2");
        assert_eq!(display_url("redis://:secret@h"), "redis://:***@h");
        assert_eq!(display_url("redis://h:1"), "redis://h:1");
        assert_eq!(
            display_url("redis+sentinel://a:b@h,i/m?sentinel_password=x&tls=true"),
            "redis+sentinel://a:***@h,i/m?sentinel_password=***&tls=true"
        );
    }

    #[test]
    fn a_place_is_host_and_port() {
        assert_eq!(place("redis://me:secret@h/2"), "h:6379");
        assert_eq!(place("rediss://[::1]:7/0#insecure"), "[::1]:7");
        assert_eq!(place("redis://[::1]"), "[::1]:6379");
        assert_eq!(place("redis+cluster://a:b@h:1,i:2"), "h:1,i:2");
    }

    #[test]
    fn every_form_is_read_and_a_wrong_one_says_how_to_write_it() {
        assert!(matches!(Address::parse("redis://u:p@h:1/3"), Ok(Address::Single(..))));
        assert!(matches!(Address::parse("rediss://h"), Ok(Address::Single(..))));
        assert!(matches!(Address::parse("redis+cluster://h:1,i:2"), Ok(Address::Cluster(nodes, None)) if nodes.len() == 2));
        let Ok(Address::Sentinel { sentinels, master, .. }) = Address::parse("redis+sentinel://u:p@h,i:9/mymaster/2") else {
            panic!("a Sentinel address")
        };
        assert_eq!((sentinels.len(), &*master), (2, "mymaster"));
        let Err(error) = Address::parse("redis://u:hush@h:port/x") else { panic!("no port") };
        assert!(!error.to_string().contains("hush") && error.to_string().contains("redis://USER:PASSWORD@HOST:PORT/DB"), "{error}");
        assert!(Address::parse("redis+sentinel://h").is_err());
    }
}
