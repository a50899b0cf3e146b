//! The HTTP API: single enqueues over one and over many connections, lines in bulk, and requests that wait for an end. The ceiling is a route of
//! the same server that asks nobody.
//!
//! A server process of its own → keep-alive connections that ask without a pause → rates and latencies
//!
//! Invariant: client, server and broker share the cores of this machine, so a rate is the least that this machine can do.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use futures_util::future::try_join_all;
use taskhost_core::task::TaskName;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, ChildStderr},
    time::timeout,
};

use crate::{
    error::BenchError,
    figure::Figure,
    setup::{Bench, QUEUE},
    stats::{per, quantile, rate},
    usage::resident_of,
};

/// Connections at once.
const CONNECTIONS: usize = 64;
/// Requests are slower than tasks, so there are only this many for each task of a drain.
const SHARE: usize = 4;
/// Requests that wait at once. Each takes a few descriptors here, in the server, and perhaps at the broker.
const WAITING: usize = 1_000;
/// How long the server may take to start, and to answer.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

pub(crate) async fn all(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let server = Server::start(bench).await?;
    let count = (bench.options.tasks / SHARE).max(CONNECTIONS);
    let bare = |_: usize| request("GET", "/livez", "");
    let (took, _) = server.ask(CONNECTIONS, count, bare, "200").await?;
    bench.report.add(Figure::HttpCeiling, rate(count, took));

    let body = bench.body.clone();
    let enqueue = |number: usize| request("POST", "/v1/tasks", &task(&body, number));
    let (took, mut latencies) = server.ask(CONNECTIONS, count, enqueue, "201").await?;
    bench.report.add(Figure::HttpEnqueue, rate(count, took));
    bench.report.add(Figure::HttpEnqueue99, quantile(&mut latencies, 0.99));
    bench.place.clear().await?;

    let few = (count / 20).max(100);
    let (_, mut latencies) = server.ask(1, few, enqueue, "201").await?;
    bench.report.add(Figure::HttpEnqueueOne50, quantile(&mut latencies, 0.5));

    let lines: Vec<String> = (0..bench.options.tasks).map(|number| task(&body, number)).collect();
    let took = server.bulk(&lines.join("\n")).await?;
    bench.report.add(Figure::HttpBulk, rate(lines.len(), took));
    bench.place.clear().await?;

    if let Some(bytes) = server.waiting(bench).await? {
        bench.report.add(Figure::HttpWaitingMemory, per(bytes, WAITING) / 1024.0);
    }
    Ok(())
}

/// A request's body: one task of the benchmark.
fn task(body: &TaskName, number: usize) -> String {
    format!("{{\"task\":\"{body}\",\"args\":[{number},1],\"queue\":\"{QUEUE}\"}}")
}

pub(crate) fn request(method: &str, path: &str, body: &str) -> String {
    let length = body.len();
    format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
}

/// A `taskhost serve` process.
pub(crate) struct Server {
    process: Child,
    at: String,
    /// Kept open: the server logs to it.
    _log: BufReader<ChildStderr>,
}

impl Server {
    pub(crate) async fn start(bench: &Bench<'_>) -> Result<Self, BenchError> {
        let mut command = bench.subject.server(bench.place.variables())?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().map_err(|error| BenchError::Failed(format!("can't start a server process: {error}")))?;
        let mut log = BufReader::new(process.stderr.take().ok_or_else(|| BenchError::Failed("a server without a log".to_owned()))?);
        let mut told = String::new();
        let place = async {
            loop {
                let before = told.len();
                if log.read_line(&mut told).await.unwrap_or(0) == 0 {
                    return None;
                }
                if let Some(at) = told[before..].split("at=\"http://").nth(1).and_then(|rest| rest.split('"').next()) {
                    return Some(at.to_owned());
                }
            }
        };
        let at = timeout(LIMIT, place).await.ok().flatten();
        let at = at.ok_or_else(|| BenchError::Failed(format!("a server process did not start: {}", told.trim())))?;
        let server = Self { process, at, _log: log };
        let began = Instant::now();
        while server.ask(1, 1, |_| request("GET", "/readyz", ""), "200").await.is_err() {
            if began.elapsed() > LIMIT {
                return Err(BenchError::TimedOut("a server process did not reach the broker".to_owned()));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(server)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id().unwrap_or_default()
    }

    pub(crate) async fn connect(&self) -> Result<Connection, BenchError> {
        Connection::open(&self.at).await
    }

    /// Asks `count` requests over so many connections. Gives the time of all, and of each in milliseconds.
    async fn ask(
        &self,
        connections: usize,
        count: usize,
        make: impl Fn(usize) -> String,
        status: &str,
    ) -> Result<(Duration, Vec<f64>), BenchError> {
        let mut lanes = try_join_all((0..connections).map(|_| Connection::open(&self.at))).await?;
        let began = Instant::now();
        let asking = lanes.iter_mut().enumerate().map(|(lane, connection)| {
            let make = &make;
            async move {
                let mut latencies = Vec::new();
                for number in (lane..count).step_by(connections) {
                    let at = Instant::now();
                    connection.ask(&make(number), status).await?;
                    latencies.push(at.elapsed().as_secs_f64() * 1e3);
                }
                Ok::<_, BenchError>(latencies)
            }
        });
        let latencies = try_join_all(asking).await?.into_iter().flatten().collect();
        Ok((began.elapsed(), latencies))
    }

    /// Sends lines, and reads their answers at the same time.
    async fn bulk(&self, lines: &str) -> Result<Duration, BenchError> {
        let stream = TcpStream::connect(&self.at).await.map_err(|error| broken(&error))?;
        let (mut reading, mut writing) = stream.into_split();
        let head = format!(
            "POST /v1/tasks/bulk HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/x-ndjson\r\ncontent-length: {}\r\n\r\n",
            lines.len()
        );
        let began = Instant::now();
        let write = async {
            writing.write_all(head.as_bytes()).await?;
            writing.write_all(lines.as_bytes()).await
        };
        let read = async {
            let mut answers = Vec::new();
            reading.read_to_end(&mut answers).await.map(|_| answers)
        };
        let ((), answers) = tokio::try_join!(write, read).map_err(|error| broken(&error))?;
        let took = began.elapsed();
        let added = answers.windows(5).filter(|part| *part == b"\"id\":").count();
        let sent = lines.lines().count();
        if added == sent { Ok(took) } else { Err(BenchError::Failed(format!("the server took {added} of {sent} lines"))) }
    }

    /// The memory that requests which wait for an end take in the server, if it is known.
    async fn waiting(&self, bench: &Bench<'_>) -> Result<Option<u64>, BenchError> {
        let pid = self.pid();
        let broker = bench.place.broker();
        let tasks: Vec<_> = (0..WAITING).map(|number| bench.task(number)).collect();
        broker.enqueue(&tasks).await?;
        let Some(before) = resident_of(pid) else { return Ok(None) };
        let mut waiting = Vec::new();
        for task in &tasks {
            let mut connection = Connection::open(&self.at).await?;
            let path = format!("/v1/tasks/{}?queue={QUEUE}&wait=60s", task.id);
            connection.send(&request("GET", &path, "")).await?;
            waiting.push(connection);
        }
        // The last ones are answered only after all others began to wait.
        self.ask(1, 1, |_| request("GET", "/v1/queues", ""), "200").await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(resident_of(pid).map(|after| after.saturating_sub(before)))
    }
}

fn broken(error: &std::io::Error) -> BenchError {
    BenchError::Failed(format!("a connection to the server broke off: {error}; raise the limit of open files"))
}

/// A connection that is used again.
pub(crate) struct Connection {
    pub(crate) stream: BufReader<TcpStream>,
    line: String,
    body: Vec<u8>,
}

impl Connection {
    async fn open(at: &str) -> Result<Self, BenchError> {
        let stream = TcpStream::connect(at).await.map_err(|error| broken(&error))?;
        stream.set_nodelay(true).map_err(|error| broken(&error))?;
        Ok(Self { stream: BufReader::new(stream), line: String::new(), body: Vec::new() })
    }

    pub(crate) async fn send(&mut self, request: &str) -> Result<(), BenchError> {
        self.stream.get_mut().write_all(request.as_bytes()).await.map_err(|error| broken(&error))
    }

    /// One request and its answer, which must have this status.
    pub(crate) async fn ask(&mut self, request: &str, status: &str) -> Result<(), BenchError> {
        self.send(request).await?;
        let answered = timeout(LIMIT, self.read()).await.map_err(|_| BenchError::TimedOut("the server does not answer".to_owned()))?;
        let first = answered.map_err(|error| broken(&error))?;
        if first.get(9..12) == Some(status) {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&self.body);
        Err(BenchError::Failed(format!("the server answered `{}`: {}", first.trim(), said.chars().take(300).collect::<String>())))
    }

    /// Reads one answer. Gives its first line; the body is kept.
    async fn read(&mut self) -> std::io::Result<String> {
        let (mut first, mut length) = (String::new(), 0);
        loop {
            self.line.clear();
            if self.stream.read_line(&mut self.line).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            if first.is_empty() {
                first.clone_from(&self.line);
            } else if let Some(value) = self.line.strip_prefix("content-length: ") {
                length = value.trim().parse().unwrap_or(0);
            } else if self.line == "\r\n" {
                break;
            }
        }
        self.body.resize(length, 0);
        self.stream.read_exact(&mut self.body).await?;
        Ok(first)
    }
}
