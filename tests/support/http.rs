//! A plain HTTP/1.1 client: one connection a request, byte for byte what the test says.

use std::{
    fmt,
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use serde_json::Value;

use super::program::{Taskhost, Worker, until};

/// The limit of each read.
const LIMIT: Duration = Duration::from_secs(60);

/// Where to ask, and with which headers.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    /// `HOST:PORT`
    pub(crate) at: String,
    headers: Vec<(String, String)>,
}

/// The answer to a request.
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}\n{}", self.status, self.headers, self.body)
    }
}

impl Http {
    pub(crate) fn at(at: &str) -> Self {
        Self { at: at.to_owned(), headers: Vec::new() }
    }

    /// The server whose log this is.
    pub(crate) fn logged(log: &str) -> Option<Self> {
        let at = log.split("at=\"http://").nth(1)?.split('"').next()?;
        Some(Self::at(at))
    }

    /// `taskhost serve` at a free port, ready.
    pub(crate) fn serve(host: &Taskhost, words: &[&str]) -> (Worker, Self) {
        let server = host.starting(&[&["serve", "--http", "127.0.0.1:0"], words].concat());
        server.until("it answers", |server| Self::logged(&server.log()).is_some_and(|http| http.get("/readyz").status == 200));
        let http = Self::logged(&server.log()).expect("it says where it answers");
        (server, http)
    }

    /// `taskhost worker` with these plugins and HTTP at a free port, ready, the bodies known.
    pub(crate) fn worker(host: &Taskhost, plugins: &[&str]) -> (Worker, Self) {
        for plugin in plugins {
            host.drop_in(plugin);
        }
        let worker = host.worker(&["--http", "127.0.0.1:0"]);
        let http = Self::logged(&worker.log()).expect("it says where it answers");
        until("it is ready, and its bodies are known", || {
            let catalogue = http.get("/v1/catalogue");
            let is_offered = |plugin: &&str| catalogue.body.contains(&format!("\"plugin\":\"{plugin}\""));
            // Who has no token is not told.
            http.get("/readyz").status == 200 && (catalogue.status == 401 || plugins.iter().all(is_offered))
        });
        (worker, http)
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn with_token(self, token: &str) -> Self {
        self.with("Authorization", &format!("Bearer {token}"))
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, None)
    }

    pub(crate) fn post(&self, path: &str, body: &str) -> Reply {
        self.ask("POST", path, Some(body))
    }

    pub(crate) fn ask(&self, method: &str, path: &str, body: Option<&str>) -> Reply {
        let mut lines = vec![format!("{method} {path} HTTP/1.1")];
        let mut headers = self.headers.clone();
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            headers.push(("Host".into(), self.at.clone()));
        }
        if let Some(body) = body {
            headers.push(("Content-Length".into(), body.len().to_string()));
            if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
                headers.push(("Content-Type".into(), "application/json".into()));
            }
        }
        headers.push(("Connection".into(), "close".into()));
        lines.extend(headers.into_iter().map(|(name, value)| format!("{name}: {value}")));
        let request = format!("{}\r\n\r\n{}", lines.join("\r\n"), body.unwrap_or_default());
        let mut stream = self.connect();
        // The server may refuse a request before it has read all of it.
        let _broken_pipe = stream.write_all(request.as_bytes());
        // The events of all queues have no end: the first ones will do.
        if path.split('?').next() == Some("/v1/events") { Reply::read_some(stream, 1) } else { Reply::read(stream) }
    }

    /// The first `events` of a stream.
    pub(crate) fn events(&self, path: &str, events: usize) -> Vec<(String, Value)> {
        let headers: Vec<_> = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let mut stream = self.connect();
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{}\r\n", self.at, headers.concat());
        stream.write_all(request.as_bytes()).expect("sent");
        let reply = Reply::read_some(stream, events);
        let of = |event: &str| {
            let line = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
            Some((line("event: ")?, serde_json::from_str(&line("data: ")?).ok()?))
        };
        reply.body.split("\n\n").filter_map(of).collect()
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.at).expect("the server listens");
        stream.set_read_timeout(Some(LIMIT)).expect("a limit");
        stream
    }
}

impl Reply {
    /// Reads to the end of the connection.
    pub(crate) fn read(stream: TcpStream) -> Self {
        Self::read_some(stream, usize::MAX)
    }

    /// Reads to the end of the connection, or until it has so many events.
    fn read_some(mut stream: TcpStream, events: usize) -> Self {
        let mut bytes = Vec::new();
        let mut buffer = [0; 16384];
        let has_events =
            |bytes: &[u8]| bytes.ends_with(b"\n\n\r\n") && bytes.windows(7).filter(|window| window == b"\ndata: ").count() >= events;
        while !has_events(&bytes) && !is_whole(&bytes) {
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => bytes.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                // The server has answered, refused the rest of the request, and closed the connection.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset && !bytes.is_empty() => break,
                Err(error) => panic!("no answer: {error}"),
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("not an answer: {text}"));
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status");
        let headers: Vec<_> =
            lines.filter_map(|line| line.split_once(": ")).map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
        let is_chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
        Self { status, headers, body: if is_chunked { unchunked(body) } else { body.to_owned() } }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| &**value)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("JSON is wanted ({error}): {self:?}"))
    }

    /// The body, if this is the status.
    pub(crate) fn ok(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        if self.body.is_empty() { Value::Null } else { self.json() }
    }

    /// The name of the problem, if it is a proper one of this status.
    pub(crate) fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], status, "{self:?}");
        assert!(problem["title"].is_string() && problem["detail"].is_string(), "{self:?}");
        problem["type"].as_str().and_then(|kind| kind.strip_prefix("/problems/")).expect("a type").to_owned()
    }
}

/// Whether the length of the body was given, and it is there: a server may keep the connection.
fn is_whole(bytes: &[u8]) -> bool {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    length.is_some_and(|length| bytes.len() >= end + 4 + length)
}

fn unchunked(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((size, more)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        let Some(chunk) = more.get(..size).filter(|chunk| !chunk.is_empty()) else { break };
        body.push_str(chunk);
        rest = more.get(size + 2..).unwrap_or_default();
    }
    body
}
