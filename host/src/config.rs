//! Settings: flags > environment (`TASKHOST_*`) > `taskhost.toml` > defaults, read in two stages.
//!
//! gather (text and its place, by key) → validate once → [`Settings`], of which every room gets its part
//!
//! Invariant: a refused value gets one sentence that names its place, and nothing is half applied.

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{engine::Limits, plugins::Writable};
use taskhost_broker::{BrokerSettings, Durability, Schedule};
use taskhost_core::units;
use taskhost_core::{backoff::Backoff, catalogue, retry::RetrySettings, task::QueueName};

mod arguments;
mod file;

pub use taskhost_broker::BrokerAddress;

/// Every setting: its key in `taskhost.toml` (upper-cased behind `TASKHOST_` its environment name), its default as text, and what it is.
pub const KEYS: &[(&str, &str, &str)] = &[
    ("broker", "sqlite:taskhost.db", "redis://…, rediss://…, redis+unix://…, redis+sentinel://…, redis+cluster://… or sqlite:PATH"),
    ("prefix", "th", "what every Redis key begins with"),
    ("plugins", "./plugins", "the directory whose *.wasm files are the plugins"),
    ("state", "", "where last good plugins are kept; by default $XDG_STATE_HOME/taskhost"),
    ("cache", "", "where compiled code is kept; by default $XDG_CACHE_HOME/taskhost"),
    ("cache_size", "2GiB", "the compiled code is trimmed to this size"),
    ("queues", "default", "what a worker claims from, with weights: `mail=3,default`"),
    ("concurrency", "", "attempts at once in a worker; by default 128 for each core"),
    ("threads", "", "threads that run guests; by default one for each core"),
    ("lease", "30s", "how long a silent worker keeps what it claimed"),
    ("drain", "25s", "how long attempts may go on after the first SIGTERM"),
    ("grace", "5s", "how long a cancelled body may go on"),
    ("result_ttl", "1h", "how long a result is kept after the task's end"),
    ("payload_limit", "1MiB", "arguments with headers, and a result: at most so much each"),
    ("dead_count", "10000", "the dead set of a queue keeps so many tasks"),
    ("dead_age", "30d", "and none older than this"),
    ("unknown_task_ttl", "24h", "a task that no plugin offers is dead after this time"),
    ("durability", "master", "what is acknowledged is on the Redis `master`, or on a `replica` too"),
    ("memory", "64MiB", "what one attempt may use, where the plugin's policy does not say"),
    ("guest_memory", "", "what all attempts of a worker may use together; by default half of the machine's memory"),
    ("timeout", "60s", "how long an attempt may take, where nobody else says"),
    ("retries", "3", "attempts after the first, where nobody else says"),
    ("backoff", "1s", "the delay before the first retry; doubled each time"),
    ("backoff_cap", "1h", "the longest delay before a retry"),
    ("require_signed", "false", "only plugins signed with a key of `trust` serve"),
    ("trust", "", "a file of minisign public keys, for `require_signed`"),
    ("plugin_dir_writable", "warn", "when others may write to plugins, policies or trusted keys: warn, refuse or allow"),
    ("log", "info", "a level, or a filter such as `info,taskhost::worker=debug`"),
    ("log_format", "pretty", "pretty or json"),
];

/// The prefix of environment variables for settings.
pub const ENVIRONMENT_PREFIX: &str = "TASKHOST_";

/// The environment variable that names `taskhost.toml` or another file.
pub const ENVIRONMENT_CONFIG: &str = "TASKHOST_CONFIG";

/// The file in the current directory that is read if no file is named.
pub const FILE_NAME: &str = "taskhost.toml";

/// All settings, valid.
#[derive(Debug, Clone)]
pub struct Settings {
    pub broker: BrokerAddress,
    pub bounds: BrokerSettings,
    pub plugins: PathBuf,
    pub state: PathBuf,
    pub cache: PathBuf,
    pub cache_bytes: u64,
    /// The `taskhost.toml` that was read, if any.
    pub file: Option<PathBuf>,
    /// The file of the trusted keys, if only signed plugins may serve.
    pub trust: Option<PathBuf>,
    /// What to do if others may write to the plugin directory.
    pub writable: Writable,
    /// Each with its weight, at least 1.
    pub queues: Vec<(QueueName, u32)>,
    pub concurrency: usize,
    pub threads: usize,
    pub lease: Duration,
    pub drain: Duration,
    pub grace: Duration,
    pub guest_memory: u64,
    pub limits: Limits,
    pub retry: RetrySettings,
    /// The `[schedules.*]` tables.
    pub schedules: Vec<Schedule>,
    pub log: Option<String>,
    pub log_json: bool,
    /// Warnings about settings that are odd and still work.
    pub warnings: Vec<String>,
}

/// Why settings were refused: a sentence that names the place and the allowed values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// One value as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Given {
    text: String,
    /// Its place, such as `--lease`, `TASKHOST_LEASE` or `taskhost.toml:3: lease`.
    place: String,
}

/// The written values by key. A later call of `set` wins.
#[derive(Debug, Default)]
struct Gathered(BTreeMap<&'static str, Given>);

impl Settings {
    /// Reads all sources. `config` is the file that a flag named. `flags` has key and value of each given flag.
    pub fn load(config: Option<&Path>, flags: &[(&'static str, String)]) -> Result<Self, ConfigError> {
        Self::load_from(config, flags, &|name| env::var_os(name).map(|value| value.to_string_lossy().into_owned()), env::vars_os)
    }

    fn load_from<I: Iterator<Item = (std::ffi::OsString, std::ffi::OsString)>>(
        config: Option<&Path>,
        flags: &[(&'static str, String)],
        variable: &dyn Fn(&str) -> Option<String>,
        environment: impl FnOnce() -> I,
    ) -> Result<Self, ConfigError> {
        let mut gathered = Gathered::default();
        let mut warnings = Vec::new();
        let environment: Vec<_> = environment().collect();
        for (name, _) in environment.iter().filter(|(_, value)| value.to_str().is_none()) {
            let name = name.to_string_lossy();
            if name.starts_with(ENVIRONMENT_PREFIX) {
                return Err(ConfigError(format!("{name}: its value is not UTF-8, so it would become another one; write it in UTF-8")));
            }
        }
        let named =
            config.map(Path::to_path_buf).or_else(|| variable(ENVIRONMENT_CONFIG).filter(|text| !text.is_empty()).map(PathBuf::from));
        let found = named.or_else(|| Some(PathBuf::from(FILE_NAME)).filter(|path| path.exists()));
        let file = found.as_deref().map(file::read).transpose()?;
        if let Some(file) = &file {
            for (key, given) in &file.settings {
                gathered.0.insert(key, given.clone());
            }
        }
        for (key, _, _) in KEYS {
            let name = environment_name(key);
            // An empty variable counts as not set, because shells and compose files leave variables out like this.
            if let Some(text) = variable(&name).filter(|text| !text.is_empty()) {
                gathered.0.insert(key, Given { text, place: name });
            }
        }
        for (name, _) in environment {
            let name = name.to_string_lossy();
            let known = name == ENVIRONMENT_CONFIG || KEYS.iter().any(|(key, _, _)| environment_name(key) == name);
            if name.starts_with(ENVIRONMENT_PREFIX) && !known {
                let known_names: Vec<String> = KEYS.iter().map(|(key, _, _)| environment_name(key)).collect();
                warnings.push(format!(
                    "`{name}` in the environment sets nothing{}",
                    did_you_mean(&name, known_names.iter().map(String::as_str))
                ));
            }
        }
        for (key, text) in flags {
            gathered.0.insert(key, Given { text: text.clone(), place: format!("--{}", key.replace('_', "-")) });
        }
        let schedules = file.map(|file| file.schedules).unwrap_or_default();
        gathered.validate(found, schedules, warnings, variable)
    }
}

impl Gathered {
    fn validate(
        &self,
        file: Option<PathBuf>,
        schedules: Vec<Schedule>,
        warnings: Vec<String>,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Settings, ConfigError> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let given_state = self.given("state");
        let state = given_state.map_or_else(|| user_directory(variable, "XDG_STATE_HOME", ".local/state"), PathBuf::from);
        let cache = match (self.given("cache"), given_state) {
            (Some(path), _) => PathBuf::from(path),
            (None, Some(state)) => Path::new(state).join("cache"),
            (None, None) => user_directory(variable, "XDG_CACHE_HOME", ".cache"),
        };
        let lease = self.get("lease", units::positive_duration)?;
        if lease < Duration::from_secs(1) {
            return Err(self.refused("lease", "a lease is at least `1s`"));
        }
        let trust = match (self.get("require_signed", truth)?, self.given("trust")) {
            (true, Some(path)) => Some(PathBuf::from(path)),
            (true, None) => return Err(self.refused("require_signed", "it needs `trust`, the file of the keys to trust")),
            (false, Some(_)) => {
                return Err(self.refused("trust", "it does nothing without `require_signed`: set that too, or leave this out"));
            }
            (false, None) => None,
        };
        let broker = self.get("broker", BrokerAddress::parse)?;
        let durability = self.get("durability", durability)?;
        if durability == Durability::Replica && matches!(broker, BrokerAddress::Sqlite(_)) {
            return Err(self.refused("durability", "SQLite has no replicas: use a Redis that has one, or leave this out"));
        }
        let payload = usize::try_from(self.get("payload_limit", units::size)?).unwrap_or(usize::MAX);
        Ok(Settings {
            broker,
            bounds: BrokerSettings {
                prefix: self.get("prefix", prefix)?,
                result_ttl: self.get("result_ttl", units::duration)?,
                payload_limit: payload,
                dead_count: self.get("dead_count", number)?,
                dead_age: self.get("dead_age", units::positive_duration)?,
                unknown_task_ttl: self.get("unknown_task_ttl", units::positive_duration)?,
                durability,
            },
            plugins: self.get("plugins", |text| Ok(PathBuf::from(text)))?,
            state,
            cache,
            cache_bytes: self.get("cache_size", units::size)?,
            file,
            trust,
            writable: self.get("plugin_dir_writable", writable)?,
            queues: self.get("queues", queues)?,
            concurrency: self.get_or("concurrency", positive, 128 * cores)?,
            threads: self.get_or("threads", positive, cores)?,
            lease,
            drain: self.get("drain", units::duration)?,
            grace: self.get("grace", units::duration)?,
            guest_memory: self.get_or("guest_memory", units::size, half_of_the_memory())?,
            limits: Limits {
                memory: self.get("memory", units::size)?,
                timeout: self.get("timeout", units::positive_duration)?,
                payload,
                ..Limits::default()
            },
            retry: RetrySettings {
                max_attempts: self.get("retries", |text| Ok(u32::try_from(number(text)?).unwrap_or(u32::MAX).saturating_add(1)))?,
                backoff: Backoff::new(self.get("backoff", units::duration)?, self.get("backoff_cap", units::duration)?),
            },
            schedules,
            log: self.given("log").map(str::to_owned),
            log_json: self.get("log_format", log_format)?,
            warnings,
        })
    }

    fn given(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(|given| given.text.as_str())
    }

    /// The value given for `key`, else its default.
    fn get<T>(&self, key: &'static str, read: impl Fn(&str) -> Result<T, String>) -> Result<T, ConfigError> {
        let default = KEYS.iter().find(|(name, _, _)| *name == key).map_or("", |(_, default, _)| default);
        read(self.given(key).unwrap_or(default)).map_err(|why| self.refused(key, &why))
    }

    fn get_or<T>(&self, key: &'static str, read: impl Fn(&str) -> Result<T, String>, default: T) -> Result<T, ConfigError> {
        self.given(key).map_or(Ok(default), |text| read(text).map_err(|why| self.refused(key, &why)))
    }

    fn refused(&self, key: &str, why: &str) -> ConfigError {
        ConfigError(format!("{}: {why}", self.0.get(key).map_or(key, |given| &given.place)))
    }
}

/// `TASKHOST_RESULT_TTL` for `result_ttl`.
pub fn environment_name(key: &str) -> String {
    format!("{ENVIRONMENT_PREFIX}{}", key.to_ascii_uppercase())
}

/// `; did you mean …?`, or an empty text.
fn did_you_mean<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    catalogue::near(word, names).first().map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}

/// `$XDG_…/taskhost`, else `~/…/taskhost`, else `.taskhost` here (the XDG base directory specification wants absolute paths).
fn user_directory(variable: &dyn Fn(&str) -> Option<String>, xdg: &str, below_home: &str) -> PathBuf {
    let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute(xdg)
        .or_else(|| absolute("HOME").map(|home| home.join(below_home)))
        .map_or_else(|| PathBuf::from(".taskhost"), |base| base.join("taskhost"))
}

#[cfg(target_os = "linux")]
fn half_of_the_memory() -> u64 {
    let info = rustix::system::sysinfo();
    #[expect(clippy::useless_conversion, reason = "the type of `totalram` differs between targets")]
    let total = u64::try_from(info.totalram).unwrap_or(u64::MAX).saturating_mul(u64::from(info.mem_unit.max(1)));
    (total / 2).max(64 << 20)
}

#[cfg(not(target_os = "linux"))]
fn half_of_the_memory() -> u64 {
    4 << 30
}

fn writable(text: &str) -> Result<Writable, String> {
    match text {
        "warn" => Ok(Writable::Warn),
        "refuse" => Ok(Writable::Refuse),
        "allow" => Ok(Writable::Allow),
        _ => Err(format!("`warn`, `refuse` or `allow` is wanted here: `{text}`")),
    }
}

fn truth(text: &str) -> Result<bool, String> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(format!("`true` or `false` is wanted here: `{text}`")),
    }
}

fn number(text: &str) -> Result<u64, String> {
    text.trim().replace('_', "").parse().map_err(|_| format!("a whole number is wanted here: `{text}`"))
}

fn positive(text: &str) -> Result<usize, String> {
    match number(text)? {
        0 => Err(format!("a number of at least 1 is wanted here: `{text}`")),
        value => usize::try_from(value).map_err(|_| format!("this number is too large: `{text}`")),
    }
}

/// A Redis key prefix: no braces, which would move the hash tag.
fn prefix(text: &str) -> Result<String, String> {
    let fits = (1..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b));
    if fits { Ok(text.to_owned()) } else { Err(format!("a prefix has 1 to 32 characters of A-Z a-z 0-9 . _ : -: `{text}`")) }
}

fn durability(text: &str) -> Result<Durability, String> {
    match text {
        "master" => Ok(Durability::Master),
        "replica" => Ok(Durability::Replica),
        _ => Err(format!("durability is `master` or `replica`: `{text}`")),
    }
}

fn log_format(text: &str) -> Result<bool, String> {
    match text {
        "json" => Ok(true),
        "pretty" => Ok(false),
        _ => Err(format!("a log format is `pretty` or `json`: `{text}`")),
    }
}

/// `mail=3,default`.
fn queues(text: &str) -> Result<Vec<(QueueName, u32)>, String> {
    let mut queues: Vec<(QueueName, u32)> = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (name, weight) = part.split_once('=').unwrap_or((part, "1"));
        let name = QueueName::new(name.trim()).map_err(|error| error.to_string())?;
        let weight = weight.trim().parse().ok().filter(|weight| (1..=1000).contains(weight));
        let weight = weight.ok_or_else(|| format!("a queue's weight is a number from 1 to 1000, such as `mail=3`: `{part}`"))?;
        if queues.iter().any(|(known, _)| *known == name) {
            return Err(format!("a queue is named once: `{name}`"));
        }
        queues.push((name, weight));
    }
    if queues.is_empty() { Err("name at least one queue, such as `default`".to_owned()) } else { Ok(queues) }
}

#[cfg(test)]
mod tests;
