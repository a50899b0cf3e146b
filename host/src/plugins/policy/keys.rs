//! Reads the value of each key of a policy: TOML → grants and limits, or a sentence that says how the value is written.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use toml::{Spanned, de::DeValue};

use super::{Guard, origin::http_grant, unknown_key};
use crate::engine::{EnqueueGrant, FileGrant, FileMode, HttpGrant, KvGrant, MEMORY, Rate, SecretGrant, SecretSource};
use taskhost_core::{
    task::{QueueName, TaskName},
    units,
};

type Value<'a> = Spanned<DeValue<'a>>;

pub(super) fn http(value: &Value<'_>) -> Result<Vec<HttpGrant>, String> {
    const SHAPE: &str = "is a list of origins: write http = [\"https://api.example.com\"]";
    value.get_ref().as_array().ok_or(SHAPE)?.iter().map(one_http).collect()
}

/// `"https://host"`, or `{ origin = "https://host", methods = ["GET"], baggage = true }`.
fn one_http(value: &Value<'_>) -> Result<HttpGrant, String> {
    const SHAPE: &str =
        "every origin is a string such as \"https://api.example.com\", or { origin = \"https://api.example.com\", methods = [\"GET\"] }";
    if let Some(origin) = value.get_ref().as_str() {
        return http_grant(origin);
    }
    let table = value.get_ref().as_table().ok_or(SHAPE)?;
    let (mut grant, mut methods, mut baggage) = (None, None, false);
    for (key, value) in table {
        match &**key.get_ref() {
            "origin" => grant = Some(http_grant(value.get_ref().as_str().ok_or(SHAPE)?)?),
            "methods" => methods = Some(strings(value).filter(|methods| !methods.is_empty()).ok_or(SHAPE)?),
            "baggage" => {
                let why = "`baggage` says whether requests carry the baggage of the trace: write baggage = true";
                baggage = value.get_ref().as_bool().ok_or(why)?;
            }
            unknown => return Err(format!("`{unknown}`: {}", unknown_key(unknown, &["origin", "methods", "baggage"]))),
        }
    }
    let mut grant = grant.ok_or(SHAPE)?;
    grant.baggage = baggage;
    for method in methods.unwrap_or_default() {
        let upper = method.to_ascii_uppercase();
        if http::Method::from_bytes(upper.as_bytes()).is_err() {
            return Err(format!("no HTTP method: `{method}`; {SHAPE}"));
        }
        grant.methods.push(upper);
    }
    Ok(grant)
}

fn strings(value: &Value<'_>) -> Option<Vec<String>> {
    value.get_ref().as_array()?.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect()
}

pub(super) fn env(value: &Value<'_>) -> Result<BTreeMap<String, String>, String> {
    let table = value.get_ref().as_table().ok_or("is a table: write env = { NAME = \"value\" }")?;
    let mut env = BTreeMap::new();
    for (name, value) in table {
        let name = &**name.get_ref();
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(format!("a variable's name is not empty and has no `=`: `{name}`"));
        }
        let text = value.get_ref().as_str().ok_or_else(|| format!("the value of {name} is a string: put it in quotes"))?;
        if text.contains('\0') {
            return Err(format!("the value of {name} contains a NUL character"));
        }
        env.insert(name.to_owned(), text.to_owned());
    }
    Ok(env)
}

pub(super) fn secrets(value: &Value<'_>, base: &Path) -> Result<BTreeMap<String, SecretGrant>, String> {
    const SHAPE: &str = "a secret has a source and names the `hosts` that it is for: write secrets = { TOKEN = { env = \"HR_TOKEN\", hosts = \
                         [\"https://hr.example.com\"] } }, or file = \"/run/secrets/token\" in place of env";
    let table = value.get_ref().as_table().ok_or(SHAPE)?;
    let mut secrets = BTreeMap::new();
    for (name, value) in table {
        let name = &**name.get_ref();
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(format!("a variable's name is not empty and has no `=`: `{name}`"));
        }
        let (mut sources, mut origins) = (Vec::new(), Vec::new());
        for (key, value) in value.get_ref().as_table().ok_or(SHAPE)? {
            let text = || value.get_ref().as_str().filter(|text| !text.is_empty()).ok_or(SHAPE);
            match &**key.get_ref() {
                "env" => sources.push(SecretSource::Variable(text()?.to_owned())),
                "file" => sources.push(SecretSource::File(base.join(text()?))),
                "hosts" => {
                    origins = strings(value).ok_or(SHAPE)?.iter().map(|origin| http_grant(origin)).collect::<Result<_, _>>()?;
                }
                unknown => return Err(format!("`{name}.{unknown}`: {}", unknown_key(unknown, &["env", "file", "hosts"]))),
            }
        }
        if sources.len() > 1 {
            return Err(format!("{name} comes either from `env` or from `file`, not from both"));
        }
        let (Some(source), false) = (sources.pop(), origins.is_empty()) else { return Err(format!("{name}: {SHAPE}")) };
        secrets.insert(name.to_owned(), SecretGrant { source, origins });
    }
    Ok(secrets)
}

pub(super) fn files(value: &Value<'_>, base: &Path) -> Result<Vec<FileGrant>, String> {
    const SHAPE: &str = "is a list of directories: write files = [{ host = \"/srv/in\", guest = \"/in\", mode = \"ro\" }]";
    let array = value.get_ref().as_array().ok_or(SHAPE)?;
    let mut grants: Vec<FileGrant> = Vec::new();
    for item in array {
        let table = item.get_ref().as_table().ok_or(SHAPE)?;
        let (mut host, mut guest, mut mode) = (None, None, FileMode::ReadOnly);
        for (key, value) in table {
            let text = value.get_ref().as_str().ok_or_else(|| format!("`{}` is a string: put it in quotes", key.get_ref()))?;
            match &**key.get_ref() {
                "host" => host = Some(base.join(PathBuf::from(text))),
                "guest" => guest = Some(text.to_owned()),
                "mode" => {
                    mode = match text {
                        "ro" => FileMode::ReadOnly,
                        "rw" => FileMode::ReadWrite,
                        _ => return Err(format!("`mode` is \"ro\" or \"rw\": `{text}`")),
                    }
                }
                unknown => return Err(format!("`{unknown}`: {}", unknown_key(unknown, &["host", "guest", "mode"]))),
            }
        }
        let (Some(host), Some(guest)) = (host, guest) else { return Err(format!("needs both `host` and `guest`; it {SHAPE}")) };
        if !guest.starts_with('/') || guest.split('/').any(|part| part == "..") {
            return Err(format!("`guest` is an absolute path without `..`, as the plugin sees it: `{guest}`"));
        }
        if grants.iter().any(|g| g.guest == guest) {
            return Err(format!("two directories stand at the same `guest` path: `{guest}`"));
        }
        grants.push(FileGrant { host, guest, mode });
    }
    Ok(grants)
}

/// `true`, or the limits of the store.
pub(super) fn kv(value: &Value<'_>) -> Result<Option<KvGrant>, String> {
    const SHAPE: &str = "is true, or what the plugin's store may hold: write kv = { bytes = \"64MiB\", keys = 100000 }";
    let table = match value.get_ref() {
        DeValue::Boolean(granted) => return Ok(granted.then(KvGrant::default)),
        DeValue::Table(table) => table,
        _ => return Err(SHAPE.to_owned()),
    };
    let mut grant = KvGrant::default();
    for (key, value) in table {
        match &**key.get_ref() {
            "bytes" => grant.bytes = size_of(value)?.min(1 << 50),
            "keys" => grant.keys = u64::from(whole(value)?),
            unknown => return Err(format!("`{unknown}`: {}", unknown_key(unknown, &["bytes", "keys"]))),
        }
    }
    Ok(Some(grant))
}

/// Names of tasks, or a table of names, queues and a rate.
pub(super) fn enqueue(value: &Value<'_>) -> Result<Option<EnqueueGrant>, String> {
    const SHAPE: &str = "name the tasks: write enqueue = [\"mail.send\", \"report.*\"], or { tasks = [\"mail.send\"], queues = [\"mail\"], rate = \
                         \"100/s\" }";
    let mut grant = EnqueueGrant::default();
    match value.get_ref() {
        DeValue::Boolean(false) => return Ok(None),
        DeValue::Array(_) => grant.tasks = strings(value).ok_or(SHAPE)?,
        DeValue::Table(table) => {
            for (key, value) in table {
                match &**key.get_ref() {
                    "tasks" => grant.tasks = strings(value).ok_or(SHAPE)?,
                    "queues" => grant.queues = strings(value).ok_or(SHAPE)?,
                    "rate" => {
                        grant.rate =
                            Some(value.get_ref().as_str().and_then(rate).ok_or("`rate` is written \"100/s\", \"100/m\" or \"100/h\"")?);
                    }
                    unknown => return Err(format!("`{unknown}`: {}", unknown_key(unknown, &["tasks", "queues", "rate"]))),
                }
            }
        }
        _ => return Err(SHAPE.to_owned()),
    }
    if grant.tasks.is_empty() {
        return Err(SHAPE.to_owned());
    }
    for task in grant.tasks.iter().map(|task| task.strip_suffix('*').unwrap_or(task)).filter(|task| !task.is_empty()) {
        TaskName::new(task).map_err(|error| error.to_string())?;
    }
    for queue in &grant.queues {
        QueueName::new(queue).map_err(|error| error.to_string())?;
    }
    Ok(Some(grant))
}

fn rate(text: &str) -> Option<Rate> {
    let (count, unit) = text.split_once('/')?;
    let span = Duration::from_secs(match unit.trim() {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    });
    count.trim().parse().ok().filter(|count| *count > 0).map(|count| Rate::new(count, span))
}

/// `true`, or the bounds that a new version must keep.
pub(super) fn guard(value: &Value<'_>) -> Result<Option<Guard>, String> {
    const SHAPE: &str =
        "is true, or when a new version gives way: write guard = { window = \"1m\", max_failure_rate = 0.5, min_attempts = 20 }";
    let table = match value.get_ref() {
        DeValue::Boolean(wanted) => return Ok(wanted.then(Guard::default)),
        DeValue::Table(table) => table,
        _ => return Err(SHAPE.to_owned()),
    };
    let mut guard = Guard::default();
    for (key, value) in table {
        match &**key.get_ref() {
            "window" => guard.window = time(value).map_err(|why| format!("`window` {why}"))?,
            "max_failure_rate" => guard.max_failure_rate = rate_of_failures(value)?,
            "min_attempts" => guard.min_attempts = u64::from(whole(value).map_err(|why| format!("`min_attempts` {why}"))?).max(1),
            unknown => return Err(format!("`{unknown}`: {}", unknown_key(unknown, &["window", "max_failure_rate", "min_attempts"]))),
        }
    }
    Ok(Some(guard))
}

fn rate_of_failures(value: &Value<'_>) -> Result<f64, String> {
    let text = match value.get_ref() {
        DeValue::Float(number) => number.as_str().replace('_', ""),
        DeValue::Integer(number) => number.as_str().to_owned(),
        other => other.type_str().to_owned(),
    };
    // A rate of 1 could never be exceeded.
    let rate = text.parse().ok().filter(|rate| (0.0..1.0).contains(rate));
    rate.ok_or_else(|| format!("`max_failure_rate` is a number from 0 up to, not including, 1, such as 0.5: `{text}`"))
}

pub(super) fn memory(value: &Value<'_>) -> Result<u64, String> {
    const SHAPE: &str = "is a size such as \"128MiB\"";
    let bytes = size_as(SHAPE, value)?;
    if bytes < *MEMORY.start() {
        return Err(format!("is at least \"64KiB\", one page of a guest's memory: {bytes} bytes"));
    }
    if bytes > *MEMORY.end() {
        return Err(format!("is at most \"4GiB\", all that a 32-bit guest can address: {bytes} bytes"));
    }
    Ok(bytes)
}

fn size_as(shape: &str, value: &Value<'_>) -> Result<u64, String> {
    match value.get_ref() {
        DeValue::String(text) => units::size(text).map_err(|_| format!("{shape}: `{text}`")),
        DeValue::Integer(number) => number.as_str().parse().map_err(|_| format!("{shape}, or a number of bytes: `{number}`")),
        _ => Err(shape.to_owned()),
    }
}

/// A size of any kind.
pub(super) fn size_of(value: &Value<'_>) -> Result<u64, String> {
    size_as("is a size such as \"64MiB\"", value)
}

/// A size that is kept of every attempt, in memory and in the broker.
pub(super) fn kept(value: &Value<'_>) -> Result<u64, String> {
    const MOST: u64 = 16 << 20;
    let bytes = size_of(value)?;
    if bytes > MOST { Err(format!("is at most \"16MiB\", since it is kept for every attempt: {bytes} bytes")) } else { Ok(bytes) }
}

/// [`kept`] as the type that the engine counts in.
pub(super) fn small(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

pub(super) fn time(value: &Value<'_>) -> Result<Duration, String> {
    const SHAPE: &str = "is a duration such as \"5m\" or \"30s\"";
    let text = value.get_ref().as_str().ok_or(SHAPE)?;
    let duration = units::any_duration(text).ok_or_else(|| format!("{SHAPE}: `{text}`"))?;
    if duration.is_zero() {
        return Err(format!("is longer than nothing: `{text}`"));
    }
    Ok(duration)
}

pub(super) fn whole(value: &Value<'_>) -> Result<u32, String> {
    const SHAPE: &str = "is a whole number";
    let number = value.get_ref().as_integer().ok_or(SHAPE)?;
    number.as_str().replace('_', "").parse().map_err(|_| format!("{SHAPE}: `{number}`"))
}

pub(super) fn concurrency(value: &Value<'_>) -> Result<usize, String> {
    const SHAPE: &str = "is a whole number of attempts, at least 1";
    let number = value.get_ref().as_integer().ok_or(SHAPE)?;
    number.as_str().parse().ok().filter(|n| *n >= 1).ok_or_else(|| format!("{SHAPE}: `{number}`"))
}
