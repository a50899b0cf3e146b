//! The table of settings: the key of each, its default, its kind with its bounds, and what it is.

use std::{ops::RangeInclusive, time::Duration};

use crate::{engine, worker};
use taskhost_core::{
    task::{MOST_RETRIES, QueueName},
    units,
};

/// One setting.
#[derive(Debug)]
pub struct Key {
    /// Its key in `taskhost.toml`. Its environment variable is this in capitals behind `TASKHOST_`.
    pub name: &'static str,
    /// As text; empty if it is computed, or if there is none.
    pub default: &'static str,
    pub kind: Kind,
    pub about: &'static str,
}

/// The values that a setting takes.
#[derive(Debug)]
pub enum Kind {
    Broker,
    Prefix,
    Path,
    Queues,
    LogFilter,
    /// `HOST:PORT`.
    Address,
    Origins,
    /// `/taskhost`; empty is the root.
    BasePath,
    Word(&'static [&'static str]),
    Duration(RangeInclusive<Duration>),
    /// Bytes.
    Size(RangeInclusive<u64>),
    Number(RangeInclusive<u64>),
}

/// A worker takes shorter leases too, for tests. A heartbeat over a real network needs this one.
const LEASES: RangeInclusive<Duration> = Duration::from_secs(1)..=*taskhost_broker::LEASES.end();
const ANY_TIME: RangeInclusive<Duration> = Duration::ZERO..=Duration::MAX;
const SOME_TIME: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::MAX;
const ANY_SIZE: RangeInclusive<u64> = 0..=u64::MAX;

#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    Key { name: "broker", default: "sqlite:taskhost.db", kind: Kind::Broker, about: "redis://…, rediss://…, redis+unix://…, redis+sentinel://…, redis+cluster://… or sqlite:PATH" },
    Key { name: "prefix", default: "th", kind: Kind::Prefix, about: "what every Redis key begins with" },
    Key { name: "plugins", default: "./plugins", kind: Kind::Path, about: "the directory whose *.wasm files are the plugins" },
    Key { name: "state", default: "", kind: Kind::Path, about: "where last good plugins are kept; by default $XDG_STATE_HOME/taskhost" },
    Key { name: "cache", default: "", kind: Kind::Path, about: "where compiled code is kept; by default $XDG_CACHE_HOME/taskhost" },
    Key { name: "cache_size", default: "2GiB", kind: Kind::Size(ANY_SIZE), about: "the compiled code is trimmed to this size" },
    Key { name: "queues", default: "default", kind: Kind::Queues, about: "what a worker claims from, with weights: `mail=3,default`" },
    Key { name: "concurrency", default: "", kind: Kind::Number(1..=1_000_000), about: "attempts at once in a worker; by default 128 for each core" },
    Key { name: "threads", default: "", kind: Kind::Number(1..=4096), about: "threads that run guests; by default one for each core" },
    Key { name: "lease", default: "30s", kind: Kind::Duration(LEASES), about: "how long a silent worker keeps what it claimed" },
    Key { name: "drain", default: "25s", kind: Kind::Duration(ANY_TIME), about: "how long attempts may go on after the first SIGTERM" },
    Key { name: "grace", default: "5s", kind: Kind::Duration(ANY_TIME), about: "how long a cancelled body may go on" },
    Key { name: "result_ttl", default: "1h", kind: Kind::Duration(ANY_TIME), about: "how long a result is kept after the task's end" },
    Key { name: "payload_limit", default: "1MiB", kind: Kind::Size(64..=256 << 20), about: "arguments with headers, and a result: at most so much each" },
    Key { name: "dead_count", default: "10000", kind: Kind::Number(0..=u64::MAX), about: "the dead set of a queue keeps so many tasks" },
    Key { name: "dead_age", default: "30d", kind: Kind::Duration(SOME_TIME), about: "and none older than this" },
    Key { name: "unknown_task_ttl", default: "24h", kind: Kind::Duration(SOME_TIME), about: "a task that no plugin offers is dead after this time" },
    Key { name: "durability", default: "master", kind: Kind::Word(&["master", "replica"]), about: "what is acknowledged is on the Redis `master`, or on a `replica` too" },
    Key { name: "memory", default: "64MiB", kind: Kind::Size(engine::MEMORY), about: "what one attempt may use, where the plugin's policy does not say" },
    Key { name: "guest_memory", default: "", kind: Kind::Size(*engine::MEMORY.start()..=u64::MAX), about: "what all attempts of a worker may use together; by default half of the machine's memory" },
    Key { name: "timeout", default: "60s", kind: Kind::Duration(SOME_TIME), about: "how long an attempt may take, where nobody else says" },
    Key { name: "retries", default: "3", kind: Kind::Number(0..=MOST_RETRIES as u64), about: "attempts after the first, where nobody else says" },
    Key { name: "backoff", default: "1s", kind: Kind::Duration(ANY_TIME), about: "the delay before the first retry; doubled each time" },
    Key { name: "backoff_cap", default: "1h", kind: Kind::Duration(ANY_TIME), about: "the longest delay before a retry" },
    Key { name: "require_signed", default: "false", kind: Kind::Word(&["true", "false"]), about: "only plugins signed with a key of `trust` serve" },
    Key { name: "trust", default: "", kind: Kind::Path, about: "a file of minisign public keys, for `require_signed`" },
    Key { name: "plugin_dir_writable", default: "warn", kind: Kind::Word(&["warn", "refuse", "allow"]), about: "when others may write to plugins, policies or trusted keys" },
    Key { name: "http", default: "", kind: Kind::Address, about: "`HOST:PORT` where `serve`, or a worker, answers HTTP; a worker without it answers none" },
    Key { name: "tls_cert", default: "", kind: Kind::Path, about: "a PEM file of certificates: HTTP is answered over TLS" },
    Key { name: "tls_key", default: "", kind: Kind::Path, about: "the PEM file of its private key" },
    Key { name: "http_base", default: "", kind: Kind::BasePath, about: "the path under which a proxy shows the dashboard and the API, such as `/taskhost`" },
    Key { name: "http_cors", default: "", kind: Kind::Origins, about: "the origins whose pages may call the API, such as `https://app.example.com`" },
    Key { name: "http_connections", default: "10000", kind: Kind::Number(1..=1_000_000), about: "HTTP connections at once; further ones wait" },
    Key { name: "http_read_only", default: "false", kind: Kind::Word(&["true", "false"]), about: "HTTP changes nothing" },
    Key { name: "log", default: "info", kind: Kind::LogFilter, about: "a level, or a filter such as `info,taskhost::worker=debug`; of a worker" },
    Key { name: "log_format", default: "pretty", kind: Kind::Word(&["pretty", "json"]), about: "the form of log lines" },
];

/// The prefix of environment variables for settings.
pub const ENVIRONMENT_PREFIX: &str = "TASKHOST_";

impl Key {
    pub fn of(name: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// `TASKHOST_RESULT_TTL` for `result_ttl`.
    pub fn environment_name(&self) -> String {
        format!("{ENVIRONMENT_PREFIX}{}", self.name.to_ascii_uppercase())
    }

    /// `--result-ttl` for `result_ttl`.
    pub(super) fn flag(&self) -> String {
        match self.kind {
            // The flag names one of them, and may be repeated.
            Kind::Queues => "--queue".to_owned(),
            _ => format!("--{}", self.name.replace('_', "-")),
        }
    }

    pub(super) fn duration(&self, text: &str) -> Result<Duration, String> {
        let Kind::Duration(bounds) = &self.kind else { return Err(self.is_of_another_kind()) };
        within(bounds, units::duration(text)?, text, |bound| units::show_duration(*bound))
    }

    pub(super) fn size(&self, text: &str) -> Result<u64, String> {
        let Kind::Size(bounds) = &self.kind else { return Err(self.is_of_another_kind()) };
        within(bounds, units::size(text)?, text, |bound| units::show_size(*bound).replace(' ', ""))
    }

    pub(super) fn number(&self, text: &str) -> Result<u64, String> {
        let Kind::Number(bounds) = &self.kind else { return Err(self.is_of_another_kind()) };
        let number = text.trim().replace('_', "").parse().map_err(|_| format!("a whole number is wanted here: `{text}`"))?;
        within(bounds, number, text, u64::to_string)
    }

    /// One of its words.
    pub(super) fn word(&self, text: &str) -> Result<&'static str, String> {
        let Kind::Word(words) = &self.kind else { return Err(self.is_of_another_kind()) };
        words.iter().find(|word| **word == text).copied().ok_or_else(|| {
            let (last, others) = words.split_last().expect("a word has alternatives");
            let others: Vec<_> = others.iter().map(|word| format!("`{word}`")).collect();
            format!("{} or `{last}` is wanted here: `{text}`", others.join(", "))
        })
    }

    fn is_of_another_kind(&self) -> String {
        format!("the setting `{}` is of another kind: please report this, it is a fault of this program", self.name)
    }
}

fn within<T: PartialOrd>(bounds: &RangeInclusive<T>, value: T, text: &str, show: impl Fn(&T) -> String) -> Result<T, String> {
    if value < *bounds.start() {
        Err(format!("it is at least `{}`: `{text}`", show(bounds.start())))
    } else if value > *bounds.end() {
        Err(format!("it is at most `{}`: `{text}`", show(bounds.end())))
    } else {
        Ok(value)
    }
}

/// A Redis key prefix: no braces, which would move the hash tag.
pub(super) fn prefix(text: &str) -> Result<String, String> {
    let fits = (1..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b));
    if fits { Ok(text.to_owned()) } else { Err(format!("a prefix has 1 to 32 characters of A-Z a-z 0-9 . _ : -: `{text}`")) }
}

/// `HOST:PORT`, as it is; empty if there is none.
pub(super) fn address(text: &str) -> Result<Option<String>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    let is_host = !host.is_empty() && (host.starts_with('[') == host.contains(':')) && !host.contains(['/', '@', ' ']);
    if is_host && port.parse::<u16>().is_ok() {
        Ok(Some(text.to_owned()))
    } else {
        Err(format!("an address to serve at is HOST:PORT, such as `127.0.0.1:8080` or `[::1]:8080`: `{text}`"))
    }
}

/// `/taskhost`; empty is the root.
pub(super) fn base_path(text: &str) -> Result<String, String> {
    let is_segment = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    let fits = text.is_empty() || text.strip_prefix('/').is_some_and(|rest| rest.split('/').all(is_segment));
    if fits { Ok(text.to_owned()) } else { Err(format!("a base path is segments of A-Z a-z 0-9 - _, such as `/taskhost`: `{text}`")) }
}

/// `https://a.example,https://b.example:8443`.
pub(super) fn origins(text: &str) -> Result<Vec<String>, String> {
    let mut origins = Vec::new();
    for origin in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let host = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://")).unwrap_or_default();
        let is_origin = !host.is_empty() && host.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.:[]".contains(&b));
        if !is_origin {
            return Err(format!("an origin is scheme and host in lower case, such as `https://app.example.com`: `{origin}`"));
        }
        origins.push(origin.to_owned());
    }
    Ok(origins)
}

/// `mail=3,default`.
pub(super) fn queues(text: &str) -> Result<Vec<(QueueName, u32)>, String> {
    let mut queues: Vec<(QueueName, u32)> = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (name, weight) = part.split_once('=').unwrap_or((part, "1"));
        let name = QueueName::new(name.trim()).map_err(|error| error.to_string())?;
        let weight = weight.trim().parse().ok().filter(|weight| worker::WEIGHTS.contains(weight));
        let weight = weight.ok_or_else(|| {
            format!(
                "a queue's weight is a number from {} to {}, such as `mail=3`: `{part}`",
                worker::WEIGHTS.start(),
                worker::WEIGHTS.end()
            )
        })?;
        if queues.iter().any(|(known, _)| *known == name) {
            return Err(format!("a queue is named once: `{name}`"));
        }
        queues.push((name, weight));
    }
    if queues.is_empty() { Err("name at least one queue, such as `default`".to_owned()) } else { Ok(queues) }
}
