//! What the operator grants each plugin: the `[plugins.NAME]` tables of `taskhost.toml`.
//!
//! text → [`Policies`], each error with its line and key. Everything else in the file belongs to `config`.
//!
//! Invariant: an unknown key is refused, so that a misspelt limit never silently means "no limit of its own".

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::engine::{FileGrant, FileMode, Grants, HttpGrant, Limits};

/// All policies of one file, by plugin name.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Policies {
    pub plugins: BTreeMap<String, Policy>,
}

/// What one plugin is granted, and the bounds set for it; `None` leaves a bound at its default.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Policy {
    pub memory: Option<u64>,
    pub timeout: Option<Duration>,
    /// At most so many attempts at once on each worker.
    pub concurrency: Option<usize>,
    pub grants: Grants,
}

impl Policy {
    /// The bounds of an attempt under this policy: a timeout set here is the ceiling too.
    pub fn limits(&self, defaults: &Limits) -> Limits {
        Limits {
            memory: self.memory.unwrap_or(defaults.memory),
            timeout: self.timeout.unwrap_or(defaults.timeout),
            timeout_ceiling: self.timeout.or(defaults.timeout_ceiling),
            ..defaults.clone()
        }
    }
}

impl Policies {
    /// Reads the policies of `path`. Relative host directories are taken from the folder that `path` is in.
    /// The error is a sentence with file, line and key.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| format!("cannot read the policies in `{}` ({e}): mend the file, or leave it out", path.display()))?;
        let base = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Self::parse(&text, base).map_err(|wrong| format!("{}: {wrong}", path.display()))
    }

    /// `base`: what relative host directories are relative to. The error begins with the line.
    pub fn parse(text: &str, base: &Path) -> Result<Self, String> {
        let at = |offset: usize| format!("line {}", 1 + text.as_bytes().iter().take(offset).filter(|b| **b == b'\n').count());
        let document = DeTable::parse(text)
            .map_err(|e| format!("{}: not valid TOML: {}", at(e.span().map_or(0, |span| span.start)), e.message().trim()))?;
        // `plugins = "./plugins"` is the setting of the directory: then there are no policies.
        let Some(DeValue::Table(tables)) = document.get_ref().get("plugins").map(Spanned::get_ref) else { return Ok(Self::default()) };
        let mut plugins = BTreeMap::new();
        for (name, value) in tables {
            let wrong = |w: Wrong| {
                let key = std::iter::once(&**name.get_ref()).chain(w.key.iter().map(String::as_str)).collect::<Vec<_>>().join(".");
                format!("{}, `plugins.{key}`: {}", at(w.offset), w.text)
            };
            let name_offset = name.span().start;
            super::check_name(name.get_ref()).map_err(|text| wrong(Wrong { offset: name_offset, key: None, text }))?;
            let DeValue::Table(table) = value.get_ref() else {
                let text = format!("is a table: write [plugins.{}]", name.get_ref());
                return Err(wrong(Wrong { offset: name_offset, key: None, text }));
            };
            plugins.insert(name.get_ref().to_string(), policy(table, base).map_err(wrong)?);
        }
        Ok(Self { plugins })
    }

    /// Sentences about policies that name none of `plugins`, most likely by a slip of `-` and `_`.
    pub(super) fn unused(&self, plugins: &[&str]) -> Vec<String> {
        let folded = |name: &str| name.replace('_', "-");
        let mut sentences = Vec::new();
        for name in self.plugins.keys().filter(|name| !plugins.contains(&name.as_str())) {
            sentences.push(match plugins.iter().find(|p| folded(p) == folded(name)) {
                Some(near) => format!("the policy [plugins.{name}] names no plugin, but there is {near}.wasm: write [plugins.{near}]"),
                None => format!("the policy [plugins.{name}] names no plugin: there is no {name}.wasm in the plugin directory"),
            });
        }
        sentences
    }
}

/// What is wrong with a key of one policy.
struct Wrong {
    offset: usize,
    key: Option<String>,
    text: String,
}

fn policy(table: &DeTable<'_>, base: &Path) -> Result<Policy, Wrong> {
    let mut policy = Policy::default();
    for (key, value) in table {
        let wrong = |text: String| Wrong { offset: value.span().start, key: Some(key.get_ref().to_string()), text };
        match &**key.get_ref() {
            "http" => policy.grants.http = http(value).map_err(wrong)?,
            "env" => policy.grants.env = env(value).map_err(wrong)?,
            "files" => policy.grants.files = files(value, base).map_err(wrong)?,
            "memory" => policy.memory = Some(memory(value).map_err(wrong)?),
            "timeout" => policy.timeout = Some(timeout(value).map_err(wrong)?),
            "concurrency" => policy.concurrency = Some(concurrency(value).map_err(wrong)?),
            unknown => {
                let text = unknown_key(unknown, &["http", "env", "files", "memory", "timeout", "concurrency"]);
                return Err(Wrong { offset: key.span().start, key: Some(unknown.to_owned()), text });
            }
        }
    }
    Ok(policy)
}

fn unknown_key(unknown: &str, known: &[&str]) -> String {
    let near = known.iter().find(|k| strsim::damerau_levenshtein(k, unknown) <= 2);
    let hint = near.map_or_else(|| format!("known are {}", known.join(", ")), |near| format!("did you mean `{near}`?"));
    format!("no such key; {hint}")
}

fn http(value: &Spanned<DeValue<'_>>) -> Result<Vec<HttpGrant>, String> {
    let array = value.get_ref().as_array().ok_or("is a list of origins: write http = [\"https://api.example.com\"]")?;
    array
        .iter()
        .map(|item| {
            let origin = item.get_ref().as_str().ok_or("every origin is a string such as \"https://api.example.com\"")?;
            http_grant(origin)
        })
        .collect()
}

/// `scheme://host[:port]`, nothing else: a grant is to an origin (RFC 6454), never to a path of it.
pub fn http_grant(origin: &str) -> Result<HttpGrant, String> {
    let wrong = |why: &str| format!("{why}; an origin is written as https://host or http://host:port: `{origin}`");
    let uri: http::Uri = origin.parse().map_err(|_| wrong("not a URL"))?;
    let scheme = uri.scheme_str().unwrap_or_default().to_ascii_lowercase();
    let default_port = match scheme.as_str() {
        "https" => 443,
        "http" => 80,
        _ => return Err(wrong("only http and https can be granted")),
    };
    let authority = uri.authority().ok_or_else(|| wrong("the host is missing"))?;
    if authority.as_str().contains('@') {
        return Err(wrong("a user name or password does not belong here"));
    }
    if authority.host().contains('*') {
        return Err(wrong("a pattern cannot be granted, write each host"));
    }
    if uri.query().is_some() || !matches!(uri.path(), "" | "/") || origin.contains('#') {
        return Err(wrong("a path cannot be granted, only the whole origin"));
    }
    let port = match (authority.port_u16(), authority.as_str().ends_with(authority.host())) {
        (Some(0), _) | (None, false) => return Err(wrong("the port is not a number from 1 to 65535")),
        (Some(port), _) => port,
        (None, true) => default_port,
    };
    Ok(HttpGrant { scheme, host: authority.host().to_ascii_lowercase(), port })
}

fn env(value: &Spanned<DeValue<'_>>) -> Result<BTreeMap<String, String>, String> {
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

fn files(value: &Spanned<DeValue<'_>>, base: &Path) -> Result<Vec<FileGrant>, String> {
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

/// The address space of a wasm32 guest ends here.
const MEMORY_MAX: u64 = 4 << 30;

fn memory(value: &Spanned<DeValue<'_>>) -> Result<u64, String> {
    const SHAPE: &str = "is a size such as \"128MiB\"";
    let bytes = match value.get_ref() {
        DeValue::String(text) => size(text).ok_or_else(|| format!("{SHAPE}: `{text}`"))?,
        DeValue::Integer(number) => number.as_str().parse().map_err(|_| format!("{SHAPE}, or a number of bytes: `{number}`"))?,
        _ => return Err(SHAPE.to_owned()),
    };
    if bytes < 64 << 10 {
        return Err(format!("is at least \"64KiB\", one page of a guest's memory: {bytes} bytes"));
    }
    if bytes > MEMORY_MAX {
        return Err(format!("is at most \"4GiB\", all that a 32-bit guest can address: {bytes} bytes"));
    }
    Ok(bytes)
}

/// `128MiB`, `64KB`, `4096`: binary and decimal units, as written by IEC 80000-13.
fn size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "KB" | "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

fn timeout(value: &Spanned<DeValue<'_>>) -> Result<Duration, String> {
    const SHAPE: &str = "is a duration such as \"5m\" or \"30s\"";
    let text = value.get_ref().as_str().ok_or(SHAPE)?;
    let duration = humantime::parse_duration(text).map_err(|_| format!("{SHAPE}: `{text}`"))?;
    if duration.is_zero() {
        return Err(format!("is longer than nothing: `{text}`"));
    }
    Ok(duration)
}

fn concurrency(value: &Spanned<DeValue<'_>>) -> Result<usize, String> {
    const SHAPE: &str = "is a whole number of attempts, at least 1";
    let number = value.get_ref().as_integer().ok_or(SHAPE)?;
    number.as_str().parse().ok().filter(|n| *n >= 1).ok_or_else(|| format!("{SHAPE}: `{number}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Policies, String> {
        Policies::parse(text, Path::new("/etc/taskhost"))
    }

    #[test]
    fn a_whole_policy_is_read() {
        let policies = parse(
            r#"
            broker = "redis://127.0.0.1"
            [plugins.org-transfer]
            http = ["https://HR.example.com", "http://localhost:8080/"]
            env  = { CENTER_URL = "https://hr.example.com/api" }
            memory = "128MiB"
            timeout = "5m"
            concurrency = 4
            files = [{ host = "/srv/in", guest = "/in", mode = "rw" }, { host = "data", guest = "/data" }]
            [plugins.math]
            "#,
        )
        .unwrap();
        let policy = &policies.plugins["org-transfer"];
        let grant = |scheme: &str, host: &str, port| HttpGrant { scheme: scheme.into(), host: host.into(), port };
        assert_eq!(policy.grants.http, [grant("https", "hr.example.com", 443), grant("http", "localhost", 8080)]);
        assert_eq!(policy.grants.env["CENTER_URL"], "https://hr.example.com/api");
        let file = |host: &str, guest: &str, mode| FileGrant { host: host.into(), guest: guest.into(), mode };
        let expected = [file("/srv/in", "/in", FileMode::ReadWrite), file("/etc/taskhost/data", "/data", FileMode::ReadOnly)];
        assert_eq!(policy.grants.files, expected, "a relative host directory is taken from the file's folder; read-only by default");
        assert_eq!(policy.concurrency, Some(4));
        let limits = policy.limits(&Limits::default());
        assert_eq!((limits.memory, limits.timeout), (128 << 20, Duration::from_secs(300)));
        assert_eq!(limits.timeout_ceiling, Some(Duration::from_secs(300)), "what the operator set is the ceiling");
        assert_eq!(policies.plugins["math"], Policy::default());
        assert_eq!(policies.plugins["math"].limits(&Limits::default()), Limits::default());
    }

    #[test]
    fn what_is_not_a_policy_is_left_to_others() {
        assert_eq!(parse("plugins = \"./plugins\"\nbroker = 3").unwrap(), Policies::default());
        assert_eq!(parse("").unwrap(), Policies::default());
    }

    #[test]
    fn an_error_names_line_and_key_and_says_what_to_write() {
        let cases = [
            ("[plugins.math]\n\nmemroy = 3", "line 3, `plugins.math.memroy`: no such key; did you mean `memory`?"),
            (
                "[plugins.math]\nnetwork = true",
                "line 2, `plugins.math.network`: no such key; known are http, env, files, memory, timeout, concurrency",
            ),
            ("[plugins.math]\nmemory = \"12 apples\"", "line 2, `plugins.math.memory`: is a size such as \"128MiB\": `12 apples`"),
            (
                "[plugins.math]\nmemory = 100",
                "line 2, `plugins.math.memory`: is at least \"64KiB\", one page of a guest's memory: 100 bytes",
            ),
            (
                "[plugins.math]\nmemory = \"5GiB\"",
                "line 2, `plugins.math.memory`: is at most \"4GiB\", all that a 32-bit guest can address: 5368709120 bytes",
            ),
            (
                "[plugins.math]\nmemory = \"99999999999999999999GiB\"",
                "line 2, `plugins.math.memory`: is a size such as \"128MiB\": `99999999999999999999GiB`",
            ),
            ("[plugins.math]\ntimeout = 5", "line 2, `plugins.math.timeout`: is a duration such as \"5m\" or \"30s\""),
            ("[plugins.math]\ntimeout = \"0s\"", "line 2, `plugins.math.timeout`: is longer than nothing: `0s`"),
            ("[plugins.math]\nconcurrency = 0", "line 2, `plugins.math.concurrency`: is a whole number of attempts, at least 1: `0`"),
            (
                "[plugins.math]\nhttp = \"https://x\"",
                "line 2, `plugins.math.http`: is a list of origins: write http = [\"https://api.example.com\"]",
            ),
            ("[plugins.math]\nenv = { A = 1 }", "line 2, `plugins.math.env`: the value of A is a string: put it in quotes"),
            (
                "[plugins.math]\nfiles = [{ host = \"/a\" }]",
                "line 2, `plugins.math.files`: needs both `host` and `guest`; it is a list of directories: write files = [{ host = \"/srv/in\", guest = \"/in\", mode = \"ro\" }]",
            ),
            (
                "[plugins.math]\nfiles = [{ host = \"/a\", guest = \"/../a\" }]",
                "line 2, `plugins.math.files`: `guest` is an absolute path without `..`, as the plugin sees it: `/../a`",
            ),
            ("plugins.math = 3", "line 1, `plugins.math`: is a table: write [plugins.math]"),
            (
                "[plugins.\"Math!\"]",
                "line 1, `plugins.Math!`: a plugin's name starts with a-z or 0-9 and has at most 64 characters of a-z 0-9 _ -: `Math!`",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text).unwrap_err(), expected, "of {text}");
        }
        assert!(
            parse("a = 1\n[plugins.math\n").unwrap_err().starts_with("line 2: not valid TOML: "),
            "{}",
            parse("a = 1\n[plugins.math\n").unwrap_err()
        );
    }

    #[test]
    fn only_whole_origins_are_granted() {
        for origin in [
            "hr.example.com",
            "ftp://x",
            "https://*.example.com",
            "https://u:p@x",
            "https://x/api",
            "https://x?q",
            "https://x:99999",
            "https://x:0",
            "https://x:",
            "",
        ] {
            assert!(http_grant(origin).is_err(), "{origin}");
        }
        assert_eq!(http_grant("http://[::1]:8080").unwrap(), HttpGrant { scheme: "http".into(), host: "[::1]".into(), port: 8080 });
    }

    #[test]
    fn a_policy_without_a_plugin_is_named() {
        let policies = parse("[plugins.org_transfer]\n[plugins.math]\n[plugins.gone]").unwrap();
        assert_eq!(
            policies.unused(&["org-transfer", "math"]),
            [
                "the policy [plugins.gone] names no plugin: there is no gone.wasm in the plugin directory",
                "the policy [plugins.org_transfer] names no plugin, but there is org-transfer.wasm: write [plugins.org-transfer]",
            ]
        );
    }
}
