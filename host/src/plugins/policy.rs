//! The operator's grants for each plugin: the `[plugins.NAME]` tables of `taskhost.toml`.
//!
//! text → [`Policies`], each error with its line and key. Everything else in the file belongs to `config`.
//!
//! Invariant: an unknown key is refused, so that a misspelt limit never silently means "no limit".

use std::{collections::BTreeMap, path::Path, time::Duration};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{guard::Guard, name::check_name};
use crate::engine::{Grants, Limits};

mod keys;
mod origin;

pub use origin::http_grant;

/// All policies of one file, by plugin name.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Policies {
    pub plugins: BTreeMap<String, Policy>,
}

/// The grants and limits of one plugin. `None` leaves a limit at its default.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Policy {
    pub memory: Option<u64>,
    pub timeout: Option<Duration>,
    /// Attempts after the first, if the producer names no number.
    pub retries: Option<u32>,
    /// CPU time of one attempt.
    pub cpu: Option<Duration>,
    /// The most attempts at once on each worker.
    pub concurrency: Option<usize>,
    /// How many bytes of stdout and of stderr are kept.
    pub output: Option<u64>,
    /// How many bytes of log are kept.
    pub log: Option<u64>,
    /// How often an attempt may report progress.
    pub progress: Option<u32>,
    /// The most bytes of one HTTP response.
    pub http_response: Option<u64>,
    /// When a worker goes back from a new version to the one before. `None`: never by itself.
    pub guard: Option<Guard>,
    pub grants: Grants,
}

impl Policy {
    /// The limits of an attempt under this policy. A timeout that is set here is also the ceiling.
    pub fn limits(&self, defaults: &Limits) -> Limits {
        Limits {
            memory: self.memory.unwrap_or(defaults.memory),
            timeout: self.timeout.unwrap_or(defaults.timeout),
            timeout_ceiling: self.timeout.or(defaults.timeout_ceiling),
            retries: self.retries.or(defaults.retries),
            cpu: self.cpu.or(defaults.cpu),
            output: self.output.map_or(defaults.output, keys::small),
            log_bytes: self.log.map_or(defaults.log_bytes, keys::small),
            progress: self.progress.unwrap_or(defaults.progress),
            http_response: self.http_response.unwrap_or(defaults.http_response),
            ..defaults.clone()
        }
    }
}

impl Policies {
    /// Reads the policies of `path`. Relative host directories are relative to the folder of `path`. The error is a sentence with file, line
    /// and key.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| format!("cannot read the policies in `{}` ({e}): mend the file, or leave it out", path.display()))?;
        let base = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Self::parse(&text, base).map_err(|wrong| format!("{}: {wrong}", path.display()))
    }

    /// Relative host directories are relative to `base`. The error begins with the line.
    pub fn parse(text: &str, base: &Path) -> Result<Self, String> {
        let at = |offset: usize| format!("line {}", 1 + text.as_bytes().iter().take(offset).filter(|b| **b == b'\n').count());
        let document = DeTable::parse(text)
            .map_err(|e| format!("{}: not valid TOML: {}", at(e.span().map_or(0, |span| span.start)), e.message().trim()))?;
        // `plugins = "./plugins"` is the setting of the directory. Then there are no policies.
        let Some(DeValue::Table(tables)) = document.get_ref().get("plugins").map(Spanned::get_ref) else { return Ok(Self::default()) };
        let mut plugins = BTreeMap::new();
        for (name, value) in tables {
            let wrong = |w: Wrong| {
                let key = std::iter::once(&**name.get_ref()).chain(w.key.iter().map(String::as_str)).collect::<Vec<_>>().join(".");
                format!("{}, `plugins.{key}`: {}", at(w.offset), w.text)
            };
            let name_offset = name.span().start;
            check_name(name.get_ref()).map_err(|text| wrong(Wrong { offset: name_offset, key: None, text }))?;
            let DeValue::Table(table) = value.get_ref() else {
                let text = format!("is a table: write [plugins.{}]", name.get_ref());
                return Err(wrong(Wrong { offset: name_offset, key: None, text }));
            };
            plugins.insert(name.get_ref().to_string(), policy(table, base).map_err(wrong)?);
        }
        Ok(Self { plugins })
    }

    /// Sentences about policies that name none of `plugins`, for example by a confusion of `-` and `_`.
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

/// Grants first, then limits.
const KEYS: [&str; 16] = [
    "http",
    "env",
    "secrets",
    "files",
    "kv",
    "enqueue",
    "memory",
    "timeout",
    "retries",
    "cpu",
    "concurrency",
    "output",
    "log",
    "progress",
    "http_response",
    "guard",
];

/// The mistake in a key of a policy.
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
            "http" => policy.grants.http = keys::http(value).map_err(wrong)?,
            "env" => policy.grants.env = keys::env(value).map_err(wrong)?,
            "secrets" => policy.grants.secrets = keys::secrets(value, base).map_err(wrong)?,
            "files" => policy.grants.files = keys::files(value, base).map_err(wrong)?,
            "kv" => policy.grants.kv = keys::kv(value).map_err(wrong)?,
            "enqueue" => policy.grants.enqueue = keys::enqueue(value).map_err(wrong)?,
            "memory" => policy.memory = Some(keys::memory(value).map_err(wrong)?),
            "timeout" => policy.timeout = Some(keys::time(value).map_err(wrong)?),
            "retries" => policy.retries = Some(keys::whole(value).map_err(wrong)?),
            "cpu" => policy.cpu = Some(keys::time(value).map_err(wrong)?),
            "concurrency" => policy.concurrency = Some(keys::concurrency(value).map_err(wrong)?),
            "output" => policy.output = Some(keys::kept(value).map_err(wrong)?),
            "log" => policy.log = Some(keys::kept(value).map_err(wrong)?),
            "progress" => policy.progress = Some(keys::whole(value).map_err(wrong)?),
            "http_response" => policy.http_response = Some(keys::size_of(value).map_err(wrong)?),
            "guard" => policy.guard = keys::guard(value).map_err(wrong)?,
            unknown => {
                let text = unknown_key(unknown, &KEYS);
                return Err(Wrong { offset: key.span().start, key: Some(unknown.to_owned()), text });
            }
        }
    }
    if let Some(name) = policy.grants.secrets.keys().find(|name| policy.grants.env.contains_key(*name)) {
        let offset = table.iter().find(|(key, _)| &**key.get_ref() == "secrets").map_or(0, |(key, _)| key.span().start);
        let text = format!("{name} stands in `env` too: leave it out in one of them");
        return Err(Wrong { offset, key: Some("secrets".to_owned()), text });
    }
    Ok(policy)
}

fn unknown_key(unknown: &str, known: &[&str]) -> String {
    let near = known.iter().find(|k| strsim::damerau_levenshtein(k, unknown) <= 2);
    let hint = near.map_or_else(|| format!("known are {}", known.join(", ")), |near| format!("did you mean `{near}`?"));
    format!("no such key; {hint}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{EnqueueGrant, FileGrant, FileMode, HttpGrant, KvGrant, Rate, SecretSource};

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
        let grant = |scheme: &str, host: &str, port| HttpGrant::new(scheme, host, port);
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
                "line 2, `plugins.math.network`: no such key; known are http, env, secrets, files, kv, enqueue, memory, timeout, retries, cpu, concurrency, \
                 output, log, progress, http_response, guard",
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
            (
                "[plugins.math]\nguard = 3",
                "line 2, `plugins.math.guard`: is true, or when a new version gives way: write guard = { window = \"1m\", max_failure_rate = 0.5, min_attempts = 20 }",
            ),
            (
                "[plugins.math]\nguard = { max_failure_rate = 1.5 }",
                "line 2, `plugins.math.guard`: `max_failure_rate` is a number from 0 up to, not including, 1, such as 0.5: `1.5`",
            ),
            ("[plugins.math]\nguard = { windw = \"1m\" }", "line 2, `plugins.math.guard`: `windw`: no such key; did you mean `window`?"),
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
    fn capabilities_are_read_in_short_and_in_long() {
        let policies = parse(
            r#"
            [plugins.a]
            http = ["https://*.example.com", { origin = "https://x.example.com", methods = ["get", "PUT"], baggage = true }]
            secrets = { TOKEN = { env = "HR_TOKEN", hosts = ["https://x.example.com"] }, KEY = { file = "key", hosts = ["https://y.example.com"] } }
            kv = { bytes = "1MiB", keys = 10 }
            enqueue = { tasks = ["mail.*"], queues = ["mail"], rate = "100/s" }
            cpu = "10s"
            output = "1KiB"
            log = "4KiB"
            progress = 7
            retries = 9
            http_response = "1MiB"
            [plugins.b]
            kv = true
            enqueue = ["echo"]
            [plugins.c]
            kv = false
            enqueue = false
            "#,
        )
        .unwrap();
        let a = &policies.plugins["a"];
        assert_eq!((a.grants.http[0].host.as_str(), a.grants.http[0].methods.len()), ("*.example.com", 0));
        assert_eq!(a.grants.http[1].methods, ["GET", "PUT"]);
        assert_eq!((a.grants.http[0].baggage, a.grants.http[1].baggage), (false, true));
        let token = &a.grants.secrets["TOKEN"];
        assert_eq!((&token.source, token.origins[0].host.as_str()), (&SecretSource::Variable("HR_TOKEN".into()), "x.example.com"));
        assert_eq!(a.grants.secrets["KEY"].source, SecretSource::File("/etc/taskhost/key".into()));
        assert_eq!(a.grants.kv, Some(KvGrant { bytes: 1 << 20, keys: 10 }));
        let rate = Some(Rate::new(100, Duration::from_secs(1)));
        assert_eq!(a.grants.enqueue, Some(EnqueueGrant { tasks: vec!["mail.*".into()], queues: vec!["mail".into()], rate }));
        let limits = a.limits(&Limits::default());
        assert_eq!((limits.cpu, limits.output, limits.log_bytes), (Some(Duration::from_secs(10)), 1 << 10, 4 << 10));
        assert_eq!((limits.progress, limits.http_response, limits.retries), (7, 1 << 20, Some(9)));
        let b = &policies.plugins["b"].grants;
        assert_eq!((b.kv, b.enqueue.as_ref().unwrap().tasks.len()), (Some(KvGrant::default()), 1));
        assert_eq!(policies.plugins["c"].grants, Grants::default());
    }

    #[test]
    fn a_wrong_capability_says_how_it_is_written() {
        let cases = [
            ("kv = 3", "`plugins.a.kv`: is true, or"),
            ("kv = { keys = -1 }", "whole number"),
            ("enqueue = true", "name the tasks"),
            ("enqueue = []", "name the tasks"),
            ("enqueue = [\"two words\"]", "`two words`"),
            ("enqueue = { tasks = [\"a\"], rate = \"many\" }", "\"100/s\""),
            ("enqueue = { tasks = [\"a\"], queue = [\"b\"] }", "did you mean `queues`?"),
            ("http = [{ origin = \"https://x\", baggage = \"yes\" }]", "baggage = true"),
            ("http = [{ origin = \"https://x\", bagage = true }]", "baggage"),
            ("http = [{ origin = \"https://x\", methods = [] }]", "methods = [\"GET\"]"),
            ("http = [{ origin = \"https://x\", methods = [\"G T\"] }]", "`G T`"),
            ("http = [\"https://a.*.example.com\"]", "first label"),
            ("secrets = { A = { env = \"B\" } }", "names the `hosts`"),
            ("secrets = { A = { env = \"B\", file = \"b\", hosts = [\"https://x\"] } }", "either"),
            (
                "env = { A = \"1\" }\nsecrets = { A = { env = \"B\", hosts = [\"https://x\"] } }",
                "line 3, `plugins.a.secrets`: A stands in `env` too",
            ),
            ("cpu = 3", "is a duration"),
            ("log = \"1GiB\"", "is at most \"16MiB\""),
            ("progress = 1.5", "whole number"),
        ];
        for (line, expected) in cases {
            let error = parse(&format!("[plugins.a]\n{line}")).unwrap_err();
            assert!(error.contains(expected) && error.starts_with("line "), "of {line}: {error}");
        }
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
