//! The vocabulary of the tests: brokers, tasks to enqueue, workers that claim, and waits with a limit.
//!
//! Invariant: dropping a value stops everything that it started. Servers end by their own process handle. Directories are deleted with
//! their files.

pub mod announced;
pub mod proxy;

use std::{
    fmt,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use taskhost_broker::{Broker, BrokerSettings, Claimed, Extended, Finish, Finished, Incarnation, LeaseReply, Leased, Member};
use taskhost_core::task::{CodeId, ErrorKind, Follow, NewTask, QueueName, State, TaskError, TaskId, TaskName, TaskView, Verdict};
use tempfile::TempDir;

/// The limit of every wait for an event that should come. It is long, because the machine may be busy.
pub const SOON: Duration = Duration::from_secs(20);
/// A lease long enough for a slow machine.
pub const LEASE: Duration = Duration::from_secs(60);
/// A short lease, for tests in which a worker loses it.
pub const SHORT_LEASE: Duration = Duration::from_millis(600);

/// A place that holds one broker. Each handle that `open` gives is a connection of its own, as another process has it.
#[async_trait]
pub trait Place: Send + Sync {
    /// A fresh, empty place.
    async fn make() -> Self
    where
        Self: Sized;
    async fn open(&self, settings: BrokerSettings) -> Arc<dyn Broker>;
}

/// A database file in a directory of its own.
#[derive(Debug)]
pub struct SqlitePlace {
    pub dir: TempDir,
}

impl SqlitePlace {
    pub fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("taskhost.db")
    }
}

#[async_trait]
impl Place for SqlitePlace {
    async fn make() -> Self {
        Self { dir: TempDir::new().expect("a temporary directory") }
    }

    async fn open(&self, settings: BrokerSettings) -> Arc<dyn Broker> {
        Arc::new(taskhost_broker::sqlite::SqliteBroker::open(self.path(), settings).expect("a fresh database opens"))
    }
}

/// A Redis of the test's own on a free loopback port, without persistence. Dropping it kills the server and deletes its directory.
pub struct RedisServer {
    child: Child,
    port: u16,
    dir: TempDir,
}

impl RedisServer {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// `options` as on the command line, such as `["--requirepass", "secret"]`.
    pub fn start_with(options: &[&str]) -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        // Another test may take the port before the server binds it. Then the server ends, and the loop tries another port.
        for _ in 0..20 {
            let port = free_port();
            let mut child = spawn_redis(port, dir.path(), options);
            let begun = Instant::now();
            while child.try_wait().expect("our own child").is_none() {
                if answers(port) {
                    return Self { child, port, dir };
                }
                assert!(begun.elapsed() < SOON, "redis-server does not answer on port {port}");
                std::thread::yield_now();
            }
        }
        panic!("redis-server did not start on any of 20 ports");
    }

    /// A server with a configuration file, as a Sentinel needs one. `text` gives the file's text for a port.
    pub fn start_configured(text: impl Fn(u16) -> String) -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        for _ in 0..20 {
            let port = free_port();
            let file = dir.path().join("sentinel.conf");
            std::fs::write(&file, format!("dir {}\n{}", dir.path().display(), text(port))).expect("a file is written");
            let mut command = Command::new(server_program());
            command.arg(file).arg("--sentinel").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut child = command.spawn().expect("`redis-server` is on PATH: `cargo xtask test` installs it");
            let begun = Instant::now();
            while child.try_wait().expect("our own child").is_none() {
                if answers(port) {
                    return Self { child, port, dir };
                }
                assert!(begun.elapsed() < SOON, "redis-server does not answer on port {port}");
                std::thread::yield_now();
            }
        }
        panic!("redis-server did not start on any of 20 ports");
    }

    /// Kills it as a crash would. It stays down.
    pub fn kill(&mut self) {
        let _gone_already = self.child.kill();
        let _reaped = self.child.wait();
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// `redis://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Kills it as a crash would, and starts an empty one on the same port.
    pub fn restart(&mut self, options: &[&str]) {
        let _gone_already = self.child.kill();
        let _reaped = self.child.wait();
        let begun = Instant::now();
        loop {
            self.child = spawn_redis(self.port, self.dir.path(), options);
            while self.child.try_wait().expect("our own child").is_none() {
                if answers(self.port) {
                    return;
                }
                std::thread::yield_now();
            }
            assert!(begun.elapsed() < SOON, "redis-server does not come back on port {}", self.port);
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

/// `redis-server`, or the program in `TEST_REDIS_SERVER`: `cargo xtask test` runs some of the tests on Valkey too.
fn server_program() -> std::ffi::OsString {
    std::env::var_os("TEST_REDIS_SERVER").unwrap_or_else(|| "redis-server".into())
}

fn spawn_redis(port: u16, dir: &std::path::Path, options: &[&str]) -> Child {
    Command::new(server_program())
        .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port", &port.to_string(), "--dir"])
        .arg(dir)
        .args(options)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("`redis-server` is on PATH: `cargo xtask test` installs it")
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl fmt::Debug for RedisServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisServer({}, pid {})", self.url(), self.pid())
    }
}

#[async_trait]
impl Place for RedisServer {
    async fn make() -> Self {
        Self::start()
    }

    async fn open(&self, settings: BrokerSettings) -> Arc<dyn Broker> {
        Arc::new(taskhost_broker::redis::RedisBroker::connect(&self.url(), settings).await.expect("a fresh Redis is good enough"))
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr()).expect("a free loopback port").port()
}

/// Whether a Redis answers PING on this port. A refusal without a password is an answer too.
fn answers(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { return false };
    let mut reply = [0; 1];
    stream.set_read_timeout(Some(Duration::from_secs(1))).is_ok()
        && stream.write_all(b"PING\r\n").is_ok()
        && stream.read_exact(&mut reply).is_ok()
        && matches!(&reply, b"+" | b"-")
}

/// Waits until `so` answers yes, and fails with `what` after `limit`.
pub async fn wait_until<F: Future<Output = bool>>(limit: Duration, what: &str, mut so: impl FnMut() -> F) {
    let begun = Instant::now();
    while !so().await {
        assert!(begun.elapsed() < limit, "waited {limit:?} in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Checks that the future does not complete yet. Afterwards the future is waiting and can go on.
pub async fn still_waits<F: Future + ?Sized>(waiting: std::pin::Pin<&mut F>) {
    let early = tokio::time::timeout(Duration::from_millis(80), waiting).await;
    assert!(early.is_err(), "nothing has happened that it waits for");
}

/// `add 1 1`, ready at once.
pub fn add() -> NewTask {
    named("add", "[1,1]")
}

pub fn named(name: &str, args: &str) -> NewTask {
    NewTask::new(task_name(name), args)
}

pub fn task_name(name: &str) -> TaskName {
    TaskName::new(name).expect("a valid name")
}

pub fn task_id(id: &str) -> TaskId {
    TaskId::new(id).expect("a valid id")
}

pub fn queue(name: &str) -> QueueName {
    QueueName::new(name).expect("a valid queue name")
}

pub fn ok(result: &str) -> Verdict {
    Verdict::Succeed { result: result.into() }
}

/// A report of a success from which these children follow.
pub fn finish_with(member: &Member, result: &str, children: Vec<NewTask>) -> Finish {
    finish(member, End::with(ok(result), children))
}

pub fn retry_after(delay: Duration) -> Verdict {
    Verdict::Retry { error: TaskError::new(ErrorKind::Retry, "try again"), delay }
}

pub fn dead(message: &str) -> Verdict {
    Verdict::Dead { error: TaskError::new(ErrorKind::Permanent, message) }
}

/// One incarnation and what a worker does with it.
#[derive(Debug)]
pub struct Worker<'a> {
    pub broker: &'a dyn Broker,
    pub who: Incarnation,
    pub lease: Duration,
}

impl<'a> Worker<'a> {
    /// A worker on the default queue, with a lease too long to lose.
    pub async fn new(broker: &'a dyn Broker) -> Self {
        Self::on(broker, &QueueName::default(), LEASE).await
    }

    pub async fn on(broker: &'a dyn Broker, queue: &QueueName, lease: Duration) -> Self {
        Self { broker, who: broker.register(queue, lease).await.expect("register"), lease }
    }

    /// Claims once. The lease must not be lost.
    pub async fn look(&self, limit: usize, startable: &[&str]) -> Claimed {
        let startable: Vec<_> = startable.iter().map(|name| task_name(name)).collect();
        match self.broker.claim(&self.who, self.lease, limit, &startable).await.expect("claim") {
            LeaseReply::Held(claimed) => claimed,
            LeaseReply::Lost => panic!("the lease is lost"),
        }
    }

    /// The tasks of one claim.
    pub async fn claim(&self, limit: usize) -> Vec<Leased> {
        self.look(limit, &[]).await.tasks
    }

    /// Claims exactly one task, which must be ready at once.
    pub async fn claim_one(&self) -> Leased {
        let mut tasks = self.claim(1).await;
        assert_eq!(tasks.len(), 1, "a task can be claimed");
        tasks.remove(0)
    }

    /// Claims and waits as a worker does until a task comes.
    pub async fn claim_soon(&self) -> Leased {
        let begun = Instant::now();
        loop {
            let mut claimed = self.look(1, &[]).await;
            if let Some(leased) = claimed.tasks.pop() {
                return leased;
            }
            assert!(begun.elapsed() < SOON, "no task came");
            let limit = claimed.next_due.unwrap_or(SOON).min(SOON);
            self.broker.wait(&self.who.queue, limit).await.expect("wait");
        }
    }

    /// Claims nothing, again and again, until tasks are adopted.
    pub async fn adopt(&self) -> Vec<Leased> {
        let begun = Instant::now();
        loop {
            let claimed = self.look(0, &[]).await;
            if !claimed.adopted.is_empty() {
                return claimed.adopted;
            }
            assert!(begun.elapsed() < SOON, "nothing was adopted");
            tokio::time::sleep(claimed.next_due.unwrap_or_default().clamp(Duration::from_millis(2), Duration::from_millis(50))).await;
        }
    }

    pub async fn extend(&self) -> Extended {
        match self.broker.extend(&self.who, self.lease).await.expect("extend") {
            LeaseReply::Held(extended) => extended,
            LeaseReply::Lost => panic!("the lease is lost"),
        }
    }

    pub async fn is_lost(&self) -> bool {
        matches!(self.broker.extend(&self.who, self.lease).await.expect("extend"), LeaseReply::Lost)
    }

    pub async fn finish(&self, member: &Member, end: impl Into<End>) -> Finished {
        let reply = self.broker.finish(&self.who, &[finish(member, end)]).await.expect("finish");
        assert_eq!(reply.len(), 1, "one answer a finish");
        reply[0]
    }

    /// Claims one task at once and ends its attempt with this outcome.
    pub async fn run_one(&self, end: impl Into<End>) -> Leased {
        let leased = self.claim_one().await;
        assert_eq!(self.finish(&leased.member, end).await, Finished::Recorded);
        leased
    }
}

/// The end of a test's attempt.
#[derive(Debug, Clone)]
pub struct End {
    pub verdict: Verdict,
    pub follows: Vec<Follow>,
}

impl From<Verdict> for End {
    fn from(verdict: Verdict) -> Self {
        Self { verdict, follows: Vec::new() }
    }
}

impl End {
    /// `verdict` with these children.
    pub fn with(verdict: Verdict, children: impl IntoIterator<Item = NewTask>) -> Self {
        Self { verdict, follows: children.into_iter().map(Follow::Enqueue).collect() }
    }
}

/// A worker's report of an attempt.
pub fn finish(member: &Member, end: impl Into<End>) -> Finish {
    let End { verdict, follows } = end.into();
    Finish {
        member: member.clone(),
        verdict,
        follows,
        code: Some(CodeId { plugin: "math".into(), version: "1.0.0".into(), digest: "ab".repeat(32) }.into()),
        worker: "box:1:test".into(),
        ran_ms: 1,
        log: String::new(),
    }
}

/// Enqueues a task that must be new, and returns its id.
pub async fn enqueue(broker: &dyn Broker, task: NewTask) -> TaskId {
    let id = task.id.clone();
    let reply = broker.enqueue(&[task]).await.expect("enqueue");
    assert_eq!(reply, [taskhost_broker::Enqueued::Added]);
    id
}

/// The task's view in the default queue. The task must be known.
pub async fn view(broker: &dyn Broker, id: &TaskId) -> TaskView {
    broker.find(Some(&QueueName::default()), id).await.expect("find").unwrap_or_else(|| panic!("no such task: {id}"))
}

pub async fn state(broker: &dyn Broker, id: &TaskId) -> State {
    view(broker, id).await.state
}
