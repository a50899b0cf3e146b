//! The real program in a directory of its own: commands that end, workers that are stopped by their pid.
//!
//! Invariant: nothing of the user's settings, state or environment reaches it, and no worker outlives its guard.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::RedisServer;

/// The limit of each wait. It is long, because the machine may be busy.
const LIMIT: Duration = Duration::from_secs(120);

/// How a command ended.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A directory, with a broker in it or beside it.
#[derive(Debug)]
pub(crate) struct Taskhost {
    dir: TempDir,
    redis: Option<RedisServer>,
    /// The cache of compiled code. By default all tests share one.
    cache: Option<PathBuf>,
    /// Whether it runs under umask 000.
    open: bool,
    /// Further variables of its environment.
    environment: Vec<(String, String)>,
}

impl Taskhost {
    /// On SQLite, with an empty plugin directory.
    pub(crate) fn new() -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        fs::create_dir(dir.path().join("plugins")).expect("a plugin directory");
        share_the_key(&dir.path().join("state"));
        Self { dir, redis: None, cache: None, open: false, environment: Vec::new() }
    }

    /// The same with a cache of its own, cold.
    pub(crate) fn with_own_cache() -> Self {
        let host = Self::new();
        Self { cache: Some(host.dir().join("cache")), ..host }
    }

    /// The same with this in the environment of every command.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.environment.retain(|(own, _)| own != name);
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// The same on a Redis of its own.
    pub(crate) fn on_redis() -> Self {
        Self { redis: Some(RedisServer::start()), ..Self::new() }
    }

    /// Its Redis dies.
    pub(crate) fn kill_redis(&mut self) {
        self.redis.as_mut().expect("it is on a Redis of its own").kill();
    }

    /// Its Redis dies, and an empty one starts on the same port.
    pub(crate) fn empty_redis(&mut self) {
        self.redis.as_mut().expect("it is on a Redis of its own").restart(&[]);
    }

    /// The same with umask 000.
    pub(crate) fn with_open_umask() -> Self {
        Self { open: true, ..Self::new() }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The address of its Redis, if it has one.
    pub(crate) fn redis_url(&self) -> Option<String> {
        self.redis.as_ref().map(RedisServer::url)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.dir().join(name), text).expect("a file is written");
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, words: &[&str]) -> Output {
        self.run_with(words, "")
    }

    /// The same, with this on stdin.
    pub(crate) fn run_with(&self, words: &[&str], stdin: &str) -> Output {
        let mut child = self.command(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let mut pipe = child.stdin.take().expect("a pipe");
        let text = stdin.to_owned();
        // A command may end without reading all of it.
        let fed = thread::spawn(move || pipe.write_all(text.as_bytes()));
        let output = child.wait_with_output().expect("it ends");
        let _broken_pipe = fed.join().expect("no panic");
        Output {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The same with a stdout that nobody reads.
    pub(crate) fn run_into_closed_pipe(&self, words: &[&str]) -> Output {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        self.run_into(words, writer)
    }

    /// The same with this as its stdout.
    pub(crate) fn run_into(&self, words: &[&str], stdout: impl Into<Stdio>) -> Output {
        let output = self.command(words).stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped()).output().expect("it starts");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        Output { code: output.status.code().unwrap_or(-1), stdout: String::new(), stderr }
    }

    /// The stdout of a command that must succeed.
    pub(crate) fn ok(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert_eq!(output.code, 0, "taskhost {}: {output:?}", words.join(" "));
        output.stdout
    }

    /// The same as JSON.
    pub(crate) fn json(&self, words: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.ok(words)).expect("JSON on stdout")
    }

    /// The tasks of a listing.
    pub(crate) fn tasks(&self, filter: &[&str]) -> Vec<serde_json::Value> {
        match self.json(&[&["task", "list", "--json", "--limit", "100000"], filter].concat()) {
            serde_json::Value::Array(tasks) => tasks,
            other => panic!("a list of tasks is an array: {other}"),
        }
    }

    /// Puts a built plugin into the directory in one step.
    pub(crate) fn drop_in(&self, plugin: &str) {
        self.place(plugin, &built(plugin));
    }

    /// The same with any bytes.
    pub(crate) fn place(&self, name: &str, bytes: &[u8]) {
        let hidden = self.dir().join(format!("plugins/.{name}.tmp"));
        fs::write(&hidden, bytes).expect("beside its place");
        fs::rename(hidden, self.plugin(name)).expect("into its place");
    }

    pub(crate) fn plugin(&self, name: &str) -> PathBuf {
        self.dir().join("plugins").join(name).with_extension("wasm")
    }

    /// Whether the live workers show this in `plugin list`.
    pub(crate) fn lists(&self, text: &str) -> bool {
        self.run(&["plugin", "list"]).stdout.contains(text)
    }

    /// A worker on `./plugins` that has begun to serve; `words` are further flags.
    pub(crate) fn worker(&self, words: &[&str]) -> Worker {
        let worker = self.starting_worker(words);
        worker.until("it has started", |worker| worker.log().contains("worker started"));
        worker
    }

    /// The same, not waited for.
    pub(crate) fn starting_worker(&self, words: &[&str]) -> Worker {
        self.starting(&[&["worker"], words].concat())
    }

    /// A worker whose stderr goes elsewhere; not waited for.
    pub(crate) fn worker_logging_to(&self, stderr: Stdio, words: &[&str]) -> Worker {
        let mut command = self.command(&[&["worker"], words].concat());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn().expect("a worker starts");
        Worker { child, log: self.dir().join("nowhere") }
    }

    /// Any command that runs on until it is stopped.
    pub(crate) fn starting(&self, words: &[&str]) -> Worker {
        self.starting_with(words, Stdio::null())
    }

    /// The same, with its stdout in a file of this name.
    pub(crate) fn starting_into(&self, words: &[&str], file: &str) -> Worker {
        self.starting_with(words, fs::File::create(self.dir().join(file)).expect("a file").into())
    }

    fn starting_with(&self, words: &[&str], stdout: Stdio) -> Worker {
        let log = self.dir().join(format!("worker-{:08x}.log", fastrand::u32(..)));
        let file = fs::File::create(&log).expect("a log file");
        let mut command = self.command(words);
        let child = command.stdin(Stdio::null()).stdout(stdout).stderr(file).spawn().expect("a worker starts");
        Worker { child, log }
    }

    /// The number of keys, or of the broker's files, with this text in their names.
    pub(crate) fn count_named(&self, part: &str) -> usize {
        let Some(redis) = &self.redis else {
            let files = fs::read_dir(self.dir()).expect("our own directory");
            return files.filter(|file| file.as_ref().is_ok_and(|file| file.file_name().to_string_lossy().contains(part))).count();
        };
        let script = format!("return #redis.call('KEYS', '*{part}*')");
        let mut client = redis::Client::open(redis.url()).and_then(|client| client.get_connection()).expect("our own server");
        redis::cmd("EVAL").arg(script).arg(0).query(&mut client).expect("a number")
    }

    fn command(&self, words: &[&str]) -> Command {
        let program = env!("CARGO_BIN_EXE_taskhost");
        let mut command = Command::new(if self.open { "sh" } else { program });
        if self.open {
            command.args(["-c", "umask 000; exec \"$@\"", "sh", program]);
        }
        let is_ours = |name: &str| ["TASKHOST_", "OTEL_", "TRACEPARENT", "BAGGAGE"].iter().any(|start| name.starts_with(start));
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_ours(&name.to_string_lossy())) {
            command.env_remove(name);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        // The tests share compiled code, which is found by its content.
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
        command.current_dir(self.dir()).args(words).env_remove("NO_COLOR").env_remove("RUST_BACKTRACE");
        command.env("TASKHOST_STATE", self.dir().join("state")).env("TASKHOST_CACHE", self.cache.as_ref().unwrap_or(&cache));
        if let Some(redis) = &self.redis {
            command.env("TASKHOST_BROKER", redis.url());
        }
        command
    }
}

/// A worker process; killed on drop if it was not stopped before.
#[derive(Debug)]
pub(crate) struct Worker {
    child: Child,
    log: PathBuf,
}

impl Worker {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory, in KiB.
    pub(crate) fn rss(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("every process has memory");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// CPU time used so far, in clock ticks.
    pub(crate) fn ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("it runs");
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        fields[11..13].iter().map(|field| field.parse::<u64>().expect("a number")).sum()
    }

    /// How many pieces of compiled code are mapped.
    pub(crate) fn mapped_code(&self) -> usize {
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.child.id())).expect("it runs");
        let files: std::collections::BTreeSet<&str> = maps
            .lines()
            .filter_map(|line| line.split_whitespace().nth(5))
            .filter(|path| Path::new(path).extension().is_some_and(|end| end == "cwasm"))
            .collect();
        files.len()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).expect("our own child");
    }

    /// SIGTERM, then its end.
    pub(crate) fn stop(self) -> ExitStatus {
        self.stop_by(rustix::process::Signal::TERM)
    }

    /// A signal, then its end.
    pub(crate) fn stop_by(mut self, signal: rustix::process::Signal) -> ExitStatus {
        self.signal(signal);
        self.ended()
    }

    /// Its end.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("our own child") {
                return status;
            }
            assert!(begun.elapsed() < LIMIT, "the worker does not stop:\n{}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until `so` answers yes. Fails when the limit is over.
    pub(crate) fn until(&self, what: &str, so: impl Fn(&Self) -> bool) {
        until(&format!("{what}; the worker's log: {}", self.log.display()), || so(self));
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("-- the worker said:\n{}", self.log());
        }
        let _gone_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Waits until `so` answers yes, and fails with `what` when the limit is over.
pub(crate) fn until(what: &str, mut so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < LIMIT, "waited {LIMIT:?} in vain until {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A key in the state directory seals compiled code. With the same key the tests share it.
pub(crate) fn share_the_key(state: &Path) {
    use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
    fs::DirBuilder::new().recursive(true).mode(0o700).create(state).expect("a state directory");
    match fs::File::options().write(true).create_new(true).mode(0o600).open(state.join("compiled.key")) {
        Ok(mut file) => file.write_all(&[7; 32]).expect("a key"),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists),
    }
}

/// The bytes of a plugin that `cargo xtask plugins` has built.
pub(crate) fn built(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins").join(name).with_extension("wasm");
    fs::read(&path).unwrap_or_else(|error| panic!("{error}: {}: run `cargo xtask plugins` first", path.display()))
}

/// The same plugin with other bytes: a custom section of this name at its end. Engines ignore it.
pub(crate) fn variant(bytes: &[u8], name: &str) -> Vec<u8> {
    let length = u8::try_from(name.len()).ok().filter(|length| *length < 120).expect("a short name");
    [bytes, &[0, length + 1, length], name.as_bytes()].concat()
}
