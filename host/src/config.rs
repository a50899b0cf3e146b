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

use crate::{engine::Limits, plugins::Writable, worker::Hook};
use taskhost_broker::{BrokerSettings, Durability, Schedule};
use taskhost_core::{backoff::Backoff, retry::RetrySettings, task::QueueName, units};

mod arguments;
mod file;
mod given;
mod hooks;
mod keys;
mod tokens;

pub use given::ConfigError;
pub use keys::{ENVIRONMENT_PREFIX, KEYS, Key, Kind};
pub use taskhost_broker::BrokerAddress;
pub use tokens::{Scope, Scopes, Token, is_token_name};

use given::{Given, did_you_mean};
use keys::{address, base_path, origins, prefix, queues};

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
    /// The `[hooks.*]` tables.
    pub hooks: Vec<Hook>,
    pub http: HttpSettings,
    pub log: Option<String>,
    pub log_json: bool,
    /// Warnings about settings that are odd and still work.
    pub warnings: Vec<String>,
}

/// How HTTP is answered.
#[derive(Debug, Clone, Default)]
pub struct HttpSettings {
    /// `HOST:PORT`.
    pub address: Option<String>,
    /// The PEM files of the certificates and of the private key.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// The path under which a proxy shows it; empty, or such as `/taskhost`.
    pub base: String,
    /// The origins whose pages may call the API.
    pub origins: Vec<String>,
    pub connections: usize,
    pub read_only: bool,
    /// The `[tokens.*]` tables. Without any, everybody on this machine may do everything.
    pub tokens: Vec<Token>,
}

/// The tables of the file.
#[derive(Debug, Default)]
struct Tables {
    schedules: Vec<Schedule>,
    tokens: Vec<Token>,
    hooks: Vec<Hook>,
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
        let file = found.as_deref().map(|path| file::read(path, variable)).transpose()?;
        if let Some(file) = &file {
            for (key, given) in &file.settings {
                gathered.0.insert(key, given.clone());
            }
        }
        for key in KEYS {
            let name = key.environment_name();
            // An empty variable counts as not set, because shells and compose files leave variables out like this.
            if let Some(text) = variable(&name).filter(|text| !text.is_empty()) {
                gathered.0.insert(key.name, Given { text, place: name });
            }
        }
        for (name, _) in environment {
            let name = name.to_string_lossy();
            let known = name == ENVIRONMENT_CONFIG || KEYS.iter().any(|key| key.environment_name() == name);
            if name.starts_with(ENVIRONMENT_PREFIX) && !known {
                let known_names: Vec<String> = KEYS.iter().map(Key::environment_name).collect();
                warnings.push(format!(
                    "`{name}` in the environment sets nothing{}",
                    did_you_mean(&name, known_names.iter().map(String::as_str))
                ));
            }
        }
        for (key, text) in flags {
            gathered.0.insert(key, Given { text: text.clone(), place: Key::of(key).map_or_else(|| (*key).to_owned(), Key::flag) });
        }
        let tables = file.map(|file| Tables { schedules: file.schedules, tokens: file.tokens, hooks: file.hooks }).unwrap_or_default();
        gathered.validate(found, tables, warnings, variable)
    }
}

impl Gathered {
    fn validate(
        &self,
        file: Option<PathBuf>,
        tables: Tables,
        mut warnings: Vec<String>,
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
        let trust = match (self.word("require_signed")? == "true", self.given("trust")) {
            (true, Some(path)) => Some(PathBuf::from(path)),
            (true, None) => return Err(self.refused("require_signed", "it needs `trust`, the file of the keys to trust")),
            (false, Some(_)) => {
                return Err(self.refused("trust", "it does nothing without `require_signed`: set that too, or leave this out"));
            }
            (false, None) => None,
        };
        let broker = self.get("broker", BrokerAddress::parse)?;
        let durability = match self.word("durability")? {
            "replica" => Durability::Replica,
            _ => Durability::Master,
        };
        if durability == Durability::Replica && matches!(broker, BrokerAddress::Sqlite(_)) {
            return Err(self.refused("durability", "SQLite has no replicas: use a Redis that has one, or leave this out"));
        }
        let payload = self.size("payload_limit")?.map_or(usize::MAX, as_usize);
        let (memory, guest_memory) =
            (self.size("memory")?.unwrap_or(u64::MAX), self.size("guest_memory")?.unwrap_or_else(half_of_the_memory));
        if guest_memory < memory {
            let (all, one) = (units::show_size(guest_memory), units::show_size(memory));
            warnings
                .push(format!("`guest_memory` ({all} for all attempts) is less than `memory` ({one} for one): no attempt gets that much"));
        }
        Ok(Settings {
            broker,
            bounds: BrokerSettings {
                prefix: self.get("prefix", prefix)?,
                result_ttl: self.duration("result_ttl")?,
                payload_limit: payload,
                dead_count: self.number("dead_count")?.unwrap_or(u64::MAX),
                dead_age: self.duration("dead_age")?,
                unknown_task_ttl: self.duration("unknown_task_ttl")?,
                durability,
            },
            plugins: self.get("plugins", |text| Ok(PathBuf::from(text)))?,
            state,
            cache,
            cache_bytes: self.size("cache_size")?.unwrap_or(u64::MAX),
            file,
            trust,
            writable: match self.word("plugin_dir_writable")? {
                "refuse" => Writable::Refuse,
                "allow" => Writable::Allow,
                _ => Writable::Warn,
            },
            queues: self.get("queues", queues)?,
            concurrency: self.number("concurrency")?.map_or(128 * cores, as_usize),
            threads: self.number("threads")?.map_or(cores, as_usize),
            lease: self.duration("lease")?,
            drain: self.duration("drain")?,
            grace: self.duration("grace")?,
            guest_memory,
            limits: Limits { memory, timeout: self.duration("timeout")?, payload, ..Limits::default() },
            retry: RetrySettings {
                max_attempts: self
                    .number("retries")?
                    .map_or(u32::MAX, |retries| u32::try_from(retries).unwrap_or(u32::MAX).saturating_add(1)),
                backoff: Backoff::new(self.duration("backoff")?, self.duration("backoff_cap")?),
            },
            schedules: tables.schedules,
            hooks: tables.hooks,
            http: self.http(tables.tokens)?,
            log: self.given("log").map(str::to_owned),
            log_json: self.word("log_format")? == "json",
            warnings,
        })
    }

    fn http(&self, tokens: Vec<Token>) -> Result<HttpSettings, ConfigError> {
        let tls = match (self.given("tls_cert"), self.given("tls_key")) {
            (Some(certificates), Some(key)) => Some((PathBuf::from(certificates), PathBuf::from(key))),
            (None, None) => None,
            (Some(_), None) => return Err(self.refused("tls_cert", "it needs `tls_key`, the file of its private key")),
            (None, Some(_)) => return Err(self.refused("tls_key", "it needs `tls_cert`, the file of its certificates")),
        };
        Ok(HttpSettings {
            address: self.get("http", address)?,
            tls,
            base: self.get("http_base", base_path)?,
            origins: self.get("http_cors", origins)?,
            connections: self.number("http_connections")?.map_or(usize::MAX, as_usize),
            read_only: self.word("http_read_only")? == "true",
            tokens,
        })
    }

    fn given(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(|given| given.text.as_str())
    }

    /// The value given for `key`, else its default.
    fn get<T>(&self, key: &'static str, read: impl Fn(&str) -> Result<T, String>) -> Result<T, ConfigError> {
        let default = Key::of(key).map_or("", |key| key.default);
        read(self.given(key).unwrap_or(default)).map_err(|why| self.refused(key, &why))
    }

    fn duration(&self, key: &'static str) -> Result<Duration, ConfigError> {
        self.get(key, |text| row(key)?.duration(text))
    }

    fn word(&self, key: &'static str) -> Result<&'static str, ConfigError> {
        self.get(key, |text| row(key)?.word(text))
    }

    /// `None`: its default is computed.
    fn size(&self, key: &'static str) -> Result<Option<u64>, ConfigError> {
        self.get(key, |text| if text.is_empty() { Ok(None) } else { row(key)?.size(text).map(Some) })
    }

    /// `None`: its default is computed.
    fn number(&self, key: &'static str) -> Result<Option<u64>, ConfigError> {
        self.get(key, |text| if text.is_empty() { Ok(None) } else { row(key)?.number(text).map(Some) })
    }

    fn refused(&self, key: &str, why: &str) -> ConfigError {
        ConfigError(format!("{}: {why}", self.0.get(key).map_or(key, |given| &given.place)))
    }
}

fn row(key: &str) -> Result<&'static Key, String> {
    Key::of(key).ok_or_else(|| format!("no setting `{key}` is known: please report this, it is a fault of this program"))
}

fn as_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
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

#[cfg(test)]
mod tests;
