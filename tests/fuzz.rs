//! Thousands of broken files and policies. The host must survive each of them.
//!
//! seed → a case: real bytes that are cut, flipped or spliced, or invented ones → the loader or the policy parser → a sentence, or success
//!
//! Without `FUZZ_SECONDS` (from `cargo xtask fuzz`) each target tries a fixed number of cases of a fixed seed. The number of a case decides its
//! bytes, so `FUZZ_CASE` repeats it. Each number is written to a file before its case is tried, so that it is known after a crash.

use std::{
    env, fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use fastrand::Rng;
use taskhost::{
    engine::{Engine, EngineError, EngineSettings, Limits},
    plugins::Policies,
};
use taskhost_core::task::Outcome;

use super::engine::{
    hostile::{ENQUEUE, EXIT, FIELDS, Guest, INCREMENT, OWN_RESOURCE, offering},
    support::{call, compile, plugin, settings},
};

/// The cases to try, and the time for them.
struct Campaign {
    first: u64,
    cases: u64,
    until: Option<Instant>,
    begun: Instant,
    tried: AtomicU64,
    accepted: AtomicU64,
}

impl Campaign {
    /// This many cases, unless the environment sets another number.
    fn of(cases: u64) -> Self {
        let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().unwrap_or_else(|_| panic!("{name} is a number")));
        let begun = Instant::now();
        let (until, cases) = match (number("FUZZ_SECONDS"), number("FUZZ_CASE")) {
            (_, Some(_)) => (None, 1),
            (Some(seconds), _) => (Some(begun + Duration::from_secs(seconds)), u64::MAX),
            _ => (None, cases),
        };
        let first = number("FUZZ_CASE").or_else(|| number("FUZZ_SEED")).unwrap_or(0);
        Self { first, cases, until, begun, tried: AtomicU64::new(0), accepted: AtomicU64::new(0) }
    }

    /// The number of the next case.
    fn next(&self) -> Option<u64> {
        let n = self.tried.fetch_add(1, Relaxed);
        let over = n >= self.cases || self.until.is_some_and(|until| Instant::now() >= until);
        if over {
            self.tried.fetch_sub(1, Relaxed);
        }
        (!over).then(|| self.first.wrapping_add(n))
    }

    fn accept(&self) {
        self.accepted.fetch_add(1, Relaxed);
    }

    fn tell(&self, target: &str) -> (u64, u64) {
        let (tried, accepted) = (self.tried.load(Relaxed), self.accepted.load(Relaxed));
        let seconds = self.begun.elapsed().as_secs_f64();
        eprintln!("fuzz {target}: {tried} cases from seed {} in {seconds:.1} s, {accepted} of them valid, no crash", self.first);
        (tried, accepted)
    }
}

/// The file that keeps the number of the current case, for a process that dies.
struct Note(PathBuf);

impl Note {
    fn of(target: &str, thread: usize) -> Self {
        Self(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{target}-{thread}")))
    }

    fn write(&self, case: u64) {
        fs::write(&self.0, case.to_string()).expect("a note is written");
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _gone_already = fs::remove_file(&self.0);
        }
    }
}

/// Real components: small ones for many tries, built ones for variety.
struct Corpus {
    small: Vec<Vec<u8>>,
    built: Vec<Vec<u8>>,
}

impl Corpus {
    fn new() -> Self {
        let tables = "(table $t 1 funcref) (func $f (param v128) (result f64) (f64.const 1))";
        let small = vec![
            Guest::default().build(),
            Guest { imports: &[EXIT], ..Guest::default() }.build(),
            Guest { imports: &[INCREMENT, ENQUEUE], ..Guest::default() }.build(),
            Guest { imports: &[FIELDS, OWN_RESOURCE], more: tables, ..Guest::default() }.build(),
            offering(&["one", "two", "three"]),
        ];
        Self { small, built: ["math", "text", "org-transfer"].map(plugin).to_vec() }
    }

    fn case(&self, number: u64) -> Vec<u8> {
        let random = &mut Rng::with_seed(number);
        // A built component takes a hundred times as long to compile.
        let from = if random.u8(..) < 6 { &self.built } else { &self.small };
        let other = &self.small[random.usize(..self.small.len())];
        let mut bytes = from[random.usize(..from.len())].clone();
        match random.u8(..10) {
            0..=2 => bytes.truncate(random.usize(..bytes.len())),
            3 => bytes = noise(random),
            _ => {
                for _ in 0..1 << random.u8(..4) {
                    change(&mut bytes, other, random);
                }
            }
        }
        bytes
    }
}

/// Random bytes, with or without a valid header.
fn noise(random: &mut Rng) -> Vec<u8> {
    let header: &[u8] = match random.u8(..4) {
        0 => b"",
        1 => b"\0asm\x01\0\0\0",
        _ => b"\0asm\x0d\0\x01\0",
    };
    let mut bytes = header.to_vec();
    let length = random.usize(..600);
    bytes.extend((0..length).map(|_| if random.bool() { random.u8(..16) } else { random.u8(..) }));
    bytes
}

/// Breaks a file in one of several ways.
fn change(bytes: &mut Vec<u8>, other: &[u8], random: &mut Rng) {
    if bytes.len() < 16 {
        bytes.extend_from_slice(&other[..16]);
    }
    let at = random.usize(8..bytes.len());
    let length = random.usize(1..=16).min(bytes.len() - at);
    match random.u8(..8) {
        0 | 1 => bytes[at] ^= 1 << random.u8(..8),
        2 => bytes[at] = random.u8(..),
        // The end of a number of variable length, or a number that is too long.
        3 => bytes[at] = *random.choice([0x00, 0x01, 0x7f, 0x80, 0xff].iter()).unwrap_or(&0),
        4 => drop(bytes.drain(at..at + length)),
        5 => {
            let piece = bytes[at..at + length].to_vec();
            bytes.splice(at..at, piece);
        }
        6 => {
            let from = random.usize(..other.len() - 16);
            let piece = other[from..from + random.usize(1..16)].to_vec();
            bytes.splice(at..at, piece);
        }
        _ => bytes.splice(at..at + length, [0xff, 0xff, 0xff, 0xff, 0x0f].into_iter().take(length.max(1))).for_each(drop),
    }
}

/// All steps of a plugin's file: inspect, compile, link, describe, call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loader() {
    // Two compilations at once, each on a thread of its own.
    let engine = Engine::start(EngineSettings { threads: 4, ..settings() }).expect("the engine starts");
    let (corpus, campaign) = (Arc::new(Corpus::new()), Arc::new(Campaign::of(10_000)));
    let mut threads = tokio::task::JoinSet::new();
    for thread in 0..3 {
        let (engine, corpus, campaign) = (Arc::clone(&engine), Arc::clone(&corpus), Arc::clone(&campaign));
        threads.spawn(async move {
            let note = Note::of("loader", thread);
            while let Some(case) = campaign.next() {
                note.write(case);
                if load(&engine, &corpus.case(case)).await.unwrap_or_else(|why| panic!("FUZZ_CASE={case}: {why}")) {
                    campaign.accept();
                }
            }
        });
    }
    while let Some(ended) = threads.join_next().await {
        ended.expect("no case harms the host");
    }
    let (tried, accepted) = campaign.tell("loader");
    if tried >= 1_000 {
        assert!(accepted > 0 && accepted < tried, "the way is tried to its end and to its refusals: {accepted} of {tried}");
    }
}

/// Whether the host loaded it. An error is a fault of the host.
async fn load(engine: &Arc<Engine>, bytes: &[u8]) -> Result<bool, String> {
    let code = match compile(engine, bytes).await {
        Ok(code) => code,
        Err(EngineError::BadComponent(why)) if why.contains(char::is_control) || why.is_empty() || why.len() > 1200 => {
            return Err(format!("no sentence: {why:?}"));
        }
        Err(EngineError::BadComponent(_)) => return Ok(false),
        Err(other) => return Err(other.to_string()),
    };
    let body = match engine.describe(&code).await {
        Ok((description, _)) => description.bodies[0].name.to_string(),
        Err(EngineError::BadDescription(why)) if !why.contains("panic") => "go".into(),
        // The machine was busy for more than five seconds.
        Err(EngineError::Busy(_)) => "go".into(),
        Err(other) => return Err(other.to_string()),
    };
    let mut go = call(&code, &body, "[1,1]");
    go.timeout = Duration::from_millis(50);
    match engine.invoke(go).await.outcome {
        Outcome::Failed { error, .. } if error.message.contains("the host panicked") => Err(error.message),
        _ => Ok(true),
    }
}

/// The words of policies, and similar words.
const WORDS: &[&str] = &[
    "[plugins.math]\n",
    "[plugins.org-transfer]\n",
    "[plugins.\"\"]\n",
    "[plugins]\n",
    "plugins = 3\n",
    "http = ",
    "env = ",
    "secrets = ",
    "files = ",
    "kv = ",
    "enqueue = ",
    "memory = ",
    "timeout = ",
    "cpu = ",
    "concurrency = ",
    "output = ",
    "log = ",
    "progress = ",
    "http_response = ",
    "origin = ",
    "methods = ",
    "hosts = ",
    "file = ",
    "host = ",
    "guest = ",
    "mode = ",
    "bytes = ",
    "keys = ",
    "tasks = ",
    "queues = ",
    "rate = ",
    "TOKEN = ",
    "true",
    "false",
    "0",
    "-1",
    "1_000",
    "0x10",
    "1e9",
    "nan",
    "18446744073709551616",
    "\"128MiB\"",
    "\"99999999999GiB\"",
    "\"5m\"",
    "\"-5m\"",
    "\"9999999999999999y\"",
    "\"100/s\"",
    "\"4294967296/h\"",
    "\"0/s\"",
    "\"https://hr.example.com\"",
    "\"http://[::1]:8080\"",
    "\"https://*.example.com:99999\"",
    "\"https://*.*\"",
    "\"\\u0000\"",
    "\"=\"",
    "\"/../x\"",
    "\"rw\"",
    "\"GET\"",
    "\"mail.*\"",
    "\"*\"",
    "\"\"",
    "'''\n'''",
    "1979-05-27T07:32:00Z",
    "{ ",
    " }",
    "[",
    "]",
    ", ",
    "\n",
    "# ",
    "\t",
    "\u{7f}",
    "é",
    "\"",
];

/// A whole policy, as the documentation writes it.
const POLICY: &str = r#"broker = "redis://127.0.0.1"
[plugins.org-transfer]
http = ["https://hr.example.com", { origin = "https://*.example.com:8443", methods = ["GET", "put"] }]
env = { CENTER_URL = "https://hr.example.com/api" }
secrets = { TOKEN = { env = "HR_TOKEN", hosts = ["https://hr.example.com"] } }
files = [{ host = "/srv/in", guest = "/in", mode = "ro" }]
kv = { bytes = "1MiB", keys = 10 }
enqueue = { tasks = ["mail.*"], queues = ["mail"], rate = "100/s" }
memory = "128MiB"
timeout = "5m"
cpu = "10s"
concurrency = 4
output = "1KiB"
log = "4KiB"
progress = 7
http_response = "1MiB"
[plugins.math]
kv = true
enqueue = ["echo"]
"#;

fn policy_case(number: u64) -> String {
    let random = &mut Rng::with_seed(number);
    let word = |random: &mut Rng| WORDS[random.usize(..WORDS.len())];
    if random.u8(..8) == 0 {
        return (0..random.usize(..30)).map(|_| word(random)).collect();
    }
    let mut text: Vec<char> = POLICY.chars().collect();
    for _ in 0..1 << random.u8(..3) {
        let at = random.usize(..text.len());
        // A value is replaced as a whole more often than a character.
        let end = match random.u8(..4) {
            0 => at,
            1 => (at + random.usize(1..4)).min(text.len()),
            2 => text[at..].iter().position(|c| matches!(c, ',' | '}' | ']' | '\n')).map_or(text.len(), |length| at + length),
            _ => text[at..].iter().position(|c| *c == '\n').map_or(text.len(), |length| at + length + 1),
        };
        let new: Vec<char> = if random.u8(..4) == 0 { Vec::new() } else { word(random).chars().collect() };
        text.splice(at..end, new);
        if text.is_empty() {
            break;
        }
    }
    text.into_iter().collect()
}

/// Any text is a policy or a sentence that begins with the line.
#[test]
fn policy() {
    let (campaign, note) = (Campaign::of(10_000), Note::of("policy", 0));
    while let Some(case) = campaign.next() {
        note.write(case);
        let text = policy_case(case);
        match Policies::parse(&text, std::path::Path::new("/etc/taskhost")) {
            Ok(policies) => {
                campaign.accept();
                for (name, policy) in &policies.plugins {
                    let limits = policy.limits(&Limits::default());
                    let sound = limits.memory >= 64 << 10 && limits.memory <= 4 << 30 && !limits.timeout.is_zero();
                    assert!(sound, "FUZZ_CASE={case}: [plugins.{name}] has {limits:?} of:\n{text}");
                }
            }
            Err(why) => {
                let line = why.strip_prefix("line ").and_then(|rest| rest.split([',', ':']).next()).and_then(|n| n.parse::<usize>().ok());
                let lines = text.lines().count() + 1;
                assert!(line.is_some_and(|line| (1..=lines).contains(&line)), "FUZZ_CASE={case}: no line of {lines}: {why}\n{text}");
            }
        }
    }
    let (tried, accepted) = campaign.tell("policy");
    if tried >= 1_000 {
        assert!(accepted > tried / 100 && accepted < tried, "both valid and broken ones: {accepted} of {tried}");
    }
}
