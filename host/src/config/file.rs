//! Reads `taskhost.toml`: its keys as text with their lines, and its `[schedules.*]`, `[tokens.*]` and
//! `[hooks.*]` tables.
//!
//! The `[plugins.*]` tables are policies, which the plugins room reads and watches. They are only checked here, so that a mistake is reported
//! at once.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    arguments,
    given::{ConfigError, Given, did_you_mean},
    hooks::{HOOK_KEYS, RawHook},
    keys::{KEYS, Key, Kind},
    tokens::{RawToken, TOKEN_KEYS, Token},
};
use crate::{plugins::Policies, schedule, worker::Hook};
use taskhost_broker::{CatchUp, Overlap, Schedule, Source};
use taskhost_core::task::{Carried, Millis, Priority, QueueName, TaskName, TaskOptions};
use taskhost_core::units;

/// The content of the file.
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) settings: BTreeMap<&'static str, Given>,
    pub(super) schedules: Vec<Schedule>,
    pub(super) tokens: Vec<Token>,
    pub(super) hooks: Vec<Hook>,
}

/// `variable` reads the environment, where secrets may stand.
pub(super) fn read(path: &Path, variable: &dyn Fn(&str) -> Option<String>) -> Result<File, ConfigError> {
    let text = fs::read_to_string(path).map_err(|error| {
        ConfigError(format!("failed to read the settings file `{}`: {error}; name another by --config", path.display()))
    })?;
    Reader { path: path.to_path_buf(), text: &text, variable }.read()
}

struct Reader<'a> {
    path: PathBuf,
    text: &'a str,
    variable: &'a dyn Fn(&str) -> Option<String>,
}

impl Reader<'_> {
    fn read(&self) -> Result<File, ConfigError> {
        let document = DeTable::parse(self.text).map_err(|error| self.refused_toml(&error))?;
        let mut file = File::default();
        for (name, value) in document.get_ref() {
            let key = name.get_ref().as_ref();
            match key {
                "plugins" if value.get_ref().is_table() => self.check_policies()?,
                // The directory has this key in a file with `[plugins.*]` tables, because TOML can't have `plugins` twice.
                "plugin_dir" => {
                    let (_, given) = self.setting("plugins", name.span().start, value)?;
                    file.settings.insert("plugins", given);
                }
                "schedules" => file.schedules = self.schedules(value)?,
                "tokens" => file.tokens = self.tokens(value)?,
                "hooks" => file.hooks = self.hooks(value)?,
                _ => {
                    let (key, given) = self.setting(key, name.span().start, value)?;
                    file.settings.insert(key, given);
                }
            }
        }
        Ok(file)
    }

    fn setting(&self, key: &str, at: usize, value: &Spanned<DeValue<'_>>) -> Result<(&'static str, Given), ConfigError> {
        let Some(known) = Key::of(key) else {
            let names = KEYS.iter().map(|key| key.name).chain(["plugin_dir", "schedules", "tokens", "hooks"]);
            return Err(self.refused(at, &format!("unknown key `{key}`{}", did_you_mean(key, names))));
        };
        let text = scalar(value.get_ref())
            .or_else(|| if matches!(known.kind, Kind::Queues | Kind::Origins) { queues(value.get_ref()) } else { None });
        let Some(text) = text else {
            return Err(self.refused(at, &format!("`{key}` takes a text or a number, not {}", value.get_ref().type_str())));
        };
        Ok((known.name, Given { text, place: format!("{}:{}: `{key}`", self.path.display(), self.line(at)) }))
    }

    fn check_policies(&self) -> Result<(), ConfigError> {
        let base = self.path.parent().unwrap_or(Path::new("."));
        Policies::parse(self.text, base).map(drop).map_err(|why| ConfigError(format!("{}: {why}", self.path.display())))
    }

    fn schedules(&self, value: &Spanned<DeValue<'_>>) -> Result<Vec<Schedule>, ConfigError> {
        let Some(tables) = value.get_ref().as_table() else {
            return Err(self.refused(value.span().start, "schedules are tables such as `[schedules.nightly]`"));
        };
        let mut args = BTreeMap::new();
        for (name, table) in tables {
            let Some(keys) = table.get_ref().as_table() else {
                return Err(self.refused(name.span().start, "a schedule is a table such as `[schedules.nightly]`"));
            };
            for key in keys.keys() {
                if !schedule_keys().any(|known| known == key.get_ref()) {
                    let hint = did_you_mean(key.get_ref(), schedule_keys());
                    return Err(
                        self.refused(key.span().start, &format!("unknown key `{}` of a schedule{hint}", key.get_ref().escape_debug()))
                    );
                }
            }
            for (key, value) in keys {
                self.check_value(key.get_ref(), value)?;
            }
            if let (Some(_), Some((second, _))) = (keys.get("tz"), keys.get_key_value("timezone")) {
                return Err(self.refused(second.span().start, "a schedule has `tz` or `timezone`, which are the same, not both"));
            }
            if let Some(value) = keys.get("args") {
                let text = arguments::json(value).map_err(|refused| self.refused(refused.at, &refused.why))?;
                args.insert(name.get_ref().to_string(), text);
            }
        }
        let raw: Tables = toml::from_str(self.text).map_err(|error| self.refused_toml(&error))?;
        raw.schedules
            .into_iter()
            .map(|(name, raw)| {
                let at = name.span().start;
                let args = args.remove(name.get_ref()).unwrap_or_else(|| "[]".to_owned());
                checked(name.into_inner(), raw, args).map_err(|why| self.refused(at, &why))
            })
            .collect()
    }

    /// Refuses what is not a table of tables with these keys.
    fn check_tables(&self, value: &Spanned<DeValue<'_>>, kind: &str, example: &str, known: &[&str]) -> Result<(), ConfigError> {
        let Some(tables) = value.get_ref().as_table() else {
            return Err(self.refused(value.span().start, &format!("{kind}s are tables such as `{example}`")));
        };
        for (name, table) in tables {
            let Some(keys) = table.get_ref().as_table() else {
                return Err(self.refused(name.span().start, &format!("a {kind} is a table such as `{example}`")));
            };
            if let Some((key, _)) = keys.iter().find(|(key, _)| !known.contains(&key.get_ref().as_ref())) {
                let hint = did_you_mean(key.get_ref(), known.iter().copied());
                return Err(self.refused(key.span().start, &format!("unknown key `{}` of a {kind}{hint}", key.get_ref().escape_debug())));
            }
        }
        Ok(())
    }

    fn hooks(&self, value: &Spanned<DeValue<'_>>) -> Result<Vec<Hook>, ConfigError> {
        self.check_tables(value, "hook", "[hooks.alerts]", HOOK_KEYS)?;
        let raw: HookTables = toml::from_str(self.text).map_err(|error| self.refused_toml(&error))?;
        let checked = |(name, raw): (Spanned<String>, RawHook)| {
            let at = name.span().start;
            raw.checked(name.into_inner(), self.variable).map_err(|why| self.refused(at, &why))
        };
        raw.hooks.into_iter().map(checked).collect()
    }

    fn tokens(&self, value: &Spanned<DeValue<'_>>) -> Result<Vec<Token>, ConfigError> {
        self.check_tables(value, "token", "[tokens.ci]", TOKEN_KEYS)?;
        let raw: TokenTables = toml::from_str(self.text).map_err(|error| self.refused_toml(&error))?;
        let mut tokens: Vec<Token> = Vec::new();
        for (name, raw) in raw.tokens {
            let at = name.span().start;
            let token = raw.checked(name.into_inner()).map_err(|why| self.refused(at, &why))?;
            if let Some(same) = tokens.iter().find(|other| other.sha256 == token.sha256) {
                return Err(
                    self.refused(at, &format!("the tokens `{}` and `{}` are the same: make one of them anew", same.name, token.name))
                );
            }
            tokens.push(token);
        }
        Ok(tokens)
    }

    /// Refuses values that the TOML library would refuse in its own words.
    fn check_value(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<(), ConfigError> {
        let (got, at) = (value.get_ref(), value.span().start);
        let below = |most: u32| {
            let number = got.as_integer().and_then(|number| u32::from_str_radix(number.as_str(), number.radix()).ok());
            number.is_some_and(|number| number <= most)
        };
        let (fits, wanted) = match key {
            "args" => return Ok(()),
            key if Carried::NAMES.contains(&key) => {
                let json = arguments::value(value, key).map_err(|refused| self.refused(refused.at, &refused.why))?;
                return Carried::parse(key, &json).map(drop).map_err(|why| self.refused(at, &format!("`{key}` of a schedule: {why}")));
            }
            "paused" => (got.is_bool(), "`true` or `false`"),
            "priority" => (below(9), "a number from 0 to 9"),
            "retries" => (below(u32::MAX), "a whole number from 0 to 4294967295"),
            "timeout" => (got.is_str(), "a text such as \"5m\""),
            _ => (got.is_str(), "a text"),
        };
        let shown = scalar(got).filter(|_| got.is_integer()).map_or_else(|| got.type_str().to_owned(), |number| format!("`{number}`"));
        if fits { Ok(()) } else { Err(self.refused(at, &format!("`{key}` of a schedule takes {wanted}, not {shown}"))) }
    }

    fn refused_toml(&self, error: &toml::de::Error) -> ConfigError {
        let at = error.span().map_or(0, |span| span.start);
        self.refused(at, error.message().trim().lines().next().unwrap_or("not TOML"))
    }

    fn refused(&self, at: usize, why: &str) -> ConfigError {
        ConfigError(format!("{}:{}: {why}", self.path.display(), self.line(at)))
    }

    fn line(&self, at: usize) -> usize {
        1 + self.text.char_indices().take_while(|(offset, _)| *offset < at).filter(|(_, c)| *c == '\n').count()
    }
}

const SCHEDULE_KEYS: &[&str] =
    &["rule", "task", "args", "timezone", "tz", "queue", "priority", "timeout", "retries", "catch_up", "overlap", "paused"];

fn schedule_keys() -> impl Iterator<Item = &'static str> {
    SCHEDULE_KEYS.iter().copied().chain(Carried::NAMES)
}

#[derive(Debug, Deserialize)]
struct Tables {
    schedules: BTreeMap<Spanned<String>, RawSchedule>,
}

#[derive(Debug, Deserialize)]
struct HookTables {
    hooks: BTreeMap<Spanned<String>, RawHook>,
}

#[derive(Debug, Deserialize)]
struct TokenTables {
    tokens: BTreeMap<Spanned<String>, RawToken>,
}

/// All keys except `args`, which `arguments` reads.
#[derive(Debug, Deserialize)]
struct RawSchedule {
    rule: String,
    task: TaskName,
    #[serde(alias = "tz", default)]
    timezone: Option<String>,
    #[serde(default)]
    queue: QueueName,
    #[serde(default)]
    priority: Priority,
    timeout: Option<String>,
    retries: Option<u32>,
    #[serde(default)]
    catch_up: CatchUp,
    #[serde(default)]
    overlap: Overlap,
    paused: Option<bool>,
    #[serde(flatten)]
    carried: Carried,
}

fn checked(name: String, raw: RawSchedule, args: String) -> Result<Schedule, String> {
    let timeout = raw.timeout.as_deref().map(units::positive_duration).transpose()?;
    let schedule = Schedule {
        name,
        rule: raw.rule,
        timezone: raw.timezone.unwrap_or_else(|| "UTC".to_owned()),
        task: raw.task,
        args,
        queue: raw.queue,
        catch_up: raw.catch_up,
        overlap: raw.overlap,
        source: Source::Toml,
        defined_at: Millis(0),
        says_paused: raw.paused,
        created_at: Millis(0),
        paused: raw.paused.unwrap_or(false),
        last: Millis(0),
        last_task: None,
        options: TaskOptions {
            priority: raw.priority,
            timeout,
            max_attempts: raw.retries.map(|retries| retries.saturating_add(1)),
            carried: raw.carried,
            ..TaskOptions::default()
        },
    };
    schedule::validate(&schedule).map_err(|error| error.to_string())?;
    Ok(schedule)
}

fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.to_string()),
        DeValue::Float(number) => Some(number.to_string()),
        DeValue::Boolean(truth) => Some(truth.to_string()),
        _ => None,
    }
}

/// `["mail=3", "default"]`, `["https://a.example"]` or `{ mail = 3, default = 1 }`, as the text of a flag.
fn queues(value: &DeValue<'_>) -> Option<String> {
    let parts: Option<Vec<String>> = match value {
        DeValue::Array(items) => items.iter().map(|item| scalar(item.get_ref())).collect(),
        DeValue::Table(table) => {
            table.iter().map(|(name, weight)| Some(format!("{}={}", name.get_ref(), scalar(weight.get_ref())?))).collect()
        }
        _ => None,
    };
    Some(parts?.join(","))
}
