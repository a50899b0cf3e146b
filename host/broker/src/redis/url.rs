//! The broker's address as text. One parser reads it once, and it is shown only from the parsed parts.
//!
//! `redis://USER:PASSWORD@HOST:PORT/DB`, `rediss://…` the same over TLS, `redis+unix://USER:PASSWORD@/PATH?db=DB`,
//! `redis+sentinel://…@HOST:26379,HOST:26379/MASTER/DB`, `redis+cluster://…@HOST:6379,HOST:6379`. By RFC 3986, login and hosts end at the
//! first `/`, `?` or `#`; inside them these characters are written `%2F`, `%3F` and `%23`.
//!
//! Invariant: no part of an unreadable text is shown, and the parser accepts nothing that it does not understand.

use std::{fmt, net::Ipv6Addr, path::PathBuf};

use percent_encoding::percent_decode_str;

/// A parsed address. `Display` and `Debug` show no password.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    text: String,
    pub(super) scheme: Scheme,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) hosts: Vec<Host>,
    pub(super) path: Vec<String>,
    query: Vec<(&'static str, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Plain,
    Tls,
    Unix,
    Sentinel,
    Cluster,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    /// Without the brackets of an IPv6 address.
    pub(super) name: String,
    pub(super) port: Option<u16>,
}

impl Scheme {
    const ALL: [Self; 5] = [Self::Plain, Self::Tls, Self::Unix, Self::Sentinel, Self::Cluster];

    fn prefix(self) -> &'static str {
        match self {
            Self::Plain => "redis://",
            Self::Tls => "rediss://",
            Self::Unix => "redis+unix://",
            Self::Sentinel => "redis+sentinel://",
            Self::Cluster => "redis+cluster://",
        }
    }

    /// The keys that may follow the `?`.
    fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Plain => &["protocol"],
            Self::Tls => &["ca", "cert", "key", "protocol"],
            Self::Unix => &["db", "protocol"],
            Self::Sentinel => &["tls", "sentinel_user", "sentinel_password"],
            Self::Cluster => &["tls", "ca", "cert", "key"],
        }
    }

    fn form(self) -> &'static str {
        match self {
            Self::Plain => "redis://USER:PASSWORD@HOST:PORT/DB",
            Self::Tls => "rediss://USER:PASSWORD@HOST:PORT/DB",
            Self::Unix => "redis+unix://USER:PASSWORD@/PATH?db=DB",
            Self::Sentinel => "redis+sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/MASTER/DB",
            Self::Cluster => "redis+cluster://USER:PASSWORD@HOST:PORT,HOST:PORT",
        }
    }
}

impl RedisUrl {
    /// Parses an address. The refusal says what is wrong and how to write it, and contains nothing of `text`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some(scheme) = Scheme::ALL.into_iter().find(|scheme| text.starts_with(scheme.prefix())) else {
            let begins: Vec<&str> = Scheme::ALL.into_iter().map(Scheme::prefix).collect();
            return Err(format!("an address of a Redis begins with {}", begins.join(", ")));
        };
        Self::read(scheme, text).map_err(|what| {
            format!(
                "the broker's address can't be read ({what}), and is not shown because it may hold a password; write it as {}, \
                 with `%40` for `@`, `%2F` for `/`, `%3F` for `?` and `%23` for `#` in a password",
                scheme.form()
            )
        })
    }

    fn read(scheme: Scheme, text: &str) -> Result<Self, String> {
        let rest = &text[scheme.prefix().len()..];
        if rest.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err("it holds a space or a control character".to_owned());
        }
        if rest.contains('#') {
            return Err("a `#` means nothing in it; certificates are always checked, and `ca=FILE` names your own authority".to_owned());
        }
        let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
        let (authority, path) = rest.split_once('/').map_or((rest, None), |(authority, path)| (authority, Some(path)));
        let (login, hosts) = authority.rsplit_once('@').map_or(("", authority), |(login, hosts)| (login, hosts));
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let given = |text: &str| if text.is_empty() { Ok(None) } else { decoded(text).map(Some) };
        let url = Self {
            text: text.to_owned(),
            scheme,
            user: given(user)?,
            password: given(password)?,
            hosts: hosts.split(',').filter(|host| !host.is_empty()).map(Host::read).collect::<Result<_, _>>()?,
            path: path.unwrap_or_default().split('/').filter(|part| !part.is_empty()).map(decoded).collect::<Result<_, _>>()?,
            query: query.map_or(Ok(Vec::new()), |query| pairs(scheme, query))?,
        };
        url.check()?;
        Ok(url)
    }

    fn check(&self) -> Result<(), String> {
        let refuse = |what: &str| Err(what.to_owned());
        match (self.scheme, self.hosts.len()) {
            (Scheme::Plain | Scheme::Tls, 1) | (Scheme::Sentinel | Scheme::Cluster, 1..) | (Scheme::Unix, 0) => {}
            (Scheme::Unix, _) => return refuse("a socket is named by its whole path, such as redis+unix:///run/redis/redis.sock"),
            (_, 0) => return refuse("it names no host"),
            _ => return refuse("it names several hosts: that is for redis+sentinel:// and redis+cluster://"),
        }
        match (self.scheme, self.path.len()) {
            (Scheme::Unix, 0) => return refuse("it names no socket"),
            (Scheme::Sentinel, 0) => {
                return refuse("a Sentinel address names its master: redis+sentinel://HOST:26379,HOST:26379/MASTER");
            }
            (Scheme::Unix, _) | (Scheme::Sentinel, 1..=2) | (Scheme::Plain | Scheme::Tls | Scheme::Cluster, 0..=1) => {}
            _ => return refuse("its path has too many parts"),
        }
        if self.db()? != 0 && self.scheme == Scheme::Cluster {
            return refuse("a cluster has the database 0 only");
        }
        if self.get("sentinel_user").is_some() && self.get("sentinel_password").is_none() {
            return refuse("`sentinel_user` needs `sentinel_password`");
        }
        if !matches!(self.get("tls"), None | Some("true" | "false")) {
            return refuse("`tls` is `true` or `false`");
        }
        if self.get("cert").is_some() != self.get("key").is_some() {
            return refuse("a client certificate needs both `cert` and `key`");
        }
        if !self.is_tls() && ["ca", "cert", "key"].iter().any(|name| self.get(name).is_some()) {
            return refuse("`ca`, `cert` and `key` need TLS: rediss://, or `tls=true` in a cluster's");
        }
        if !matches!(self.get("protocol"), None | Some("2" | "3" | "resp2" | "resp3")) {
            return refuse("`protocol` is `resp2` or `resp3`");
        }
        Ok(())
    }

    /// The text itself, with its password.
    pub fn reveal(&self) -> &str {
        &self.text
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.query.iter().find(|(name, _)| *name == key).map(|(_, value)| value.as_str())
    }

    pub fn is_cluster(&self) -> bool {
        self.scheme == Scheme::Cluster
    }

    pub(super) fn is_tls(&self) -> bool {
        self.scheme == Scheme::Tls || self.get("tls") == Some("true")
    }

    /// The number of the database.
    pub(super) fn db(&self) -> Result<i64, String> {
        let given = match self.scheme {
            Scheme::Unix => self.get("db"),
            Scheme::Sentinel => self.path.get(1).map(String::as_str),
            Scheme::Plain | Scheme::Tls | Scheme::Cluster => self.path.first().map(String::as_str),
        };
        given.map_or(Ok(0), |text| text.parse::<u16>().map(i64::from).map_err(|_| "its database is not a number such as 0".to_owned()))
    }

    /// The path of `redis+unix://`.
    pub(super) fn socket(&self) -> PathBuf {
        PathBuf::from(format!("/{}", self.path.join("/")))
    }

    /// The address for errors: each `HOST:PORT`, or the socket.
    pub(super) fn place(&self) -> String {
        if self.scheme == Scheme::Unix {
            return self.socket().display().to_string();
        }
        let default = matches!(self.scheme, Scheme::Plain | Scheme::Tls).then_some(6379);
        let hosts: Vec<String> = self.hosts.iter().map(|host| Host { port: host.port.or(default), ..host.clone() }.to_string()).collect();
        hosts.join(",")
    }
}

/// Without passwords. A user without a password is hidden too, because it may be a password in the wrong place.
impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.scheme.prefix())?;
        let plain = |user: &&String| user.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        match (&self.user, &self.password) {
            (None, None) => {}
            (Some(_), None) => f.write_str("***@")?,
            (user, Some(_)) => write!(f, "{}:***@", user.as_ref().map_or("", |user| if plain(&user) { user } else { "***" }))?,
        }
        let hosts: Vec<String> = self.hosts.iter().map(Host::to_string).collect();
        f.write_str(&hosts.join(","))?;
        for part in &self.path {
            write!(f, "/{part}")?;
        }
        for (index, (name, value)) in self.query.iter().enumerate() {
            let value = if *name == "sentinel_password" { "***" } else { value };
            write!(f, "{}{name}={value}", if index == 0 { '?' } else { '&' })?;
        }
        Ok(())
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Host {
    fn read(text: &str) -> Result<Self, String> {
        let (name, port) = match text.strip_prefix('[').and_then(|text| text.split_once(']')) {
            Some((name, rest)) => {
                name.parse::<Ipv6Addr>().map_err(|_| "what stands in brackets is no IPv6 address")?;
                match rest.strip_prefix(':') {
                    Some(port) => (name, Some(port)),
                    None if rest.is_empty() => (name, None),
                    None => return Err("behind the brackets of a host stands its port".to_owned()),
                }
            }
            None => text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port))),
        };
        let is_name = text.starts_with('[') || name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if name.is_empty() || !is_name {
            return Err("its host is no name and no IP address".to_owned());
        }
        if ["0.0.0.0", "::"].contains(&name) {
            return Err("0.0.0.0 and :: are addresses to listen at, not to connect to".to_owned());
        }
        let port = port.map(|port| port.parse::<u16>().ok().filter(|port| *port > 0).ok_or("its port is not a number")).transpose()?;
        Ok(Self { name: name.to_owned(), port })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.contains(':') { write!(f, "[{}]", self.name) } else { f.write_str(&self.name) }?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

fn decoded(text: &str) -> Result<String, String> {
    let text = percent_decode_str(text).decode_utf8().map_err(|_| "what is written with `%` is not UTF-8")?;
    if text.contains('\0') { Err("it holds a zero byte".to_owned()) } else { Ok(text.into_owned()) }
}

/// `key=value&…`. Each key belongs to the scheme and is given once.
fn pairs(scheme: Scheme, query: &str) -> Result<Vec<(&'static str, String)>, String> {
    let mut found: Vec<(&'static str, String)> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let Some(key) = scheme.keys().iter().find(|key| **key == name) else { return Err(misplaced(scheme, name)) };
        if found.iter().any(|(known, _)| known == key) {
            return Err(format!("`{key}` stands in it twice"));
        }
        found.push((*key, decoded(value)?));
    }
    Ok(found)
}

/// Shows `key` only if it is a known word, because it may be a part of a password.
fn misplaced(scheme: Scheme, key: &str) -> String {
    let known = scheme.keys().iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
    let known = format!("behind the `?` of this kind of address stand {known}");
    match key {
        "db" | "database" if scheme != Scheme::Cluster => format!("`{key}` is no key here: the database stands in the path; {known}"),
        "password" | "pass" | "user" | "username" => format!("`{key}` is no key here: user and password stand before the host; {known}"),
        "tls" | "ssl" => format!("`{key}` is no key here: TLS is `rediss://`; {known}"),
        "ca" | "cert" | "key" => format!("`{key}` is no key here: it is for rediss:// and redis+cluster:// only; {known}"),
        _ => format!("it holds an unknown key; {known}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let url = RedisUrl::parse(text).unwrap_or_else(|why| panic!("{text}: {why}"));
        assert_eq!(format!("{url:?}"), url.to_string());
        assert_eq!(url.reveal(), text);
        url.to_string()
    }

    #[test]
    fn a_shown_url_has_no_password() {
        for (text, wanted) in [
            ("redis://me:se:cr@et@h:1/2", "redis://me:***@h:1/2"),
            ("redis://:secret@h", "redis://:***@h"),
            ("redis://secret@h", "redis://***@h"),
            ("redis://m%20e:secret@h", "redis://***:***@h"),
            ("redis://me:se%3Fcr%2Fet%40%23@h", "redis://me:***@h"),
            ("redis://h:1", "redis://h:1"),
            ("rediss://:s@[::1]:7/0?ca=/f.pem", "rediss://:***@[::1]:7/0?ca=/f.pem"),
            ("redis+sentinel://a:b@h,i/m?sentinel_password=x&tls=true", "redis+sentinel://a:***@h,i/m?sentinel_password=***&tls=true"),
            ("redis+cluster://a:b@h:1,i:2?tls=true", "redis+cluster://a:***@h:1,i:2?tls=true"),
            ("redis+unix://a:b@/run/r.sock?db=2", "redis+unix://a:***@/run/r.sock?db=2"),
        ] {
            assert_eq!(shown(text), wanted);
        }
    }

    #[test]
    fn nothing_of_an_address_that_cannot_be_read_is_shown() {
        for scheme in ["redis", "rediss", "redis+unix", "redis+sentinel", "redis+cluster"] {
            for rest in [
                ":hunter2?x@h:1",
                ":hunter2/x@h:1",
                ":hunter2#x@h:1",
                "me:hunter2 @h:1",
                "me:hunter2@h:port",
                "me:%ffhunter2@h",
                "me:1?hunter2@h",
                "me:1/m?hunter2=x@h",
                "me:1#hunter2@h",
                "hunter2@",
                ":hunter2@h:1/m/hunter2/x/y",
                "h:1/m?password=hunter2",
                "h:1/m?user=a&pass=hunter2",
                ":hunter2@0.0.0.0",
                ":hunter2@[hunter2]:1",
                ":hunter2\u{1b}@h",
            ] {
                let text = format!("{scheme}://{rest}");
                let why = RedisUrl::parse(&text).expect_err(&text);
                assert!(!why.contains("hunter2") && !why.contains("x@h"), "{why}");
                assert!(why.contains(&format!("write it as {scheme}://")) && why.contains("%3F"), "{why}");
            }
        }
    }

    #[test]
    fn a_key_that_would_be_passed_over_is_refused_with_the_right_place() {
        for (text, wanted) in [
            ("redis://h/0?db=2", "`db` is no key here: the database stands in the path"),
            ("redis://h?password=x", "user and password stand before the host"),
            ("redis://h?tls=true", "TLS is `rediss://`"),
            ("redis://h?ca=f", "for rediss:// and redis+cluster:// only"),
            ("rediss://h?tiemout=1", "stand `ca`, `cert`, `key`, `protocol`"),
            ("rediss://h?ca=a&ca=b", "`ca` stands in it twice"),
            ("rediss://h?cert=a", "both `cert` and `key`"),
            ("redis+cluster://h/2", "the database 0 only"),
            ("redis+cluster://h?ca=f", "`tls=true`"),
            ("redis+cluster://h?tls=yes", "`tls` is `true` or `false`"),
            ("redis+sentinel://h/m/0?sentinel_user=x", "needs `sentinel_password`"),
            ("redis+sentinel://h", "names its master"),
            ("redis+unix://r.sock", "its whole path"),
            ("redis+unix://", "names no socket"),
            ("redis://h/0/1", "too many parts"),
            ("redis://h/zero", "its database is not a number"),
            ("redis://h,i", "several hosts"),
            ("redis://", "names no host"),
        ] {
            let why = RedisUrl::parse(text).expect_err(text);
            assert!(why.contains(wanted), "{text}: {why}");
        }
    }

    #[test]
    fn a_place_is_host_and_port() {
        for (text, place) in [
            ("redis://me:secret@h/2", "h:6379"),
            ("rediss://[::1]:7/0", "[::1]:7"),
            ("redis://[::1]", "[::1]:6379"),
            ("redis+cluster://a:b@h:1,i:2", "h:1,i:2"),
            ("redis+unix:///run/a%20b.sock?db=1", "/run/a b.sock"),
        ] {
            assert_eq!(RedisUrl::parse(text).map(|url| url.place()), Ok(place.to_owned()));
        }
    }
}
