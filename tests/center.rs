//! A centre and an ECF on loopback that misbehave on demand, for tests of `org-transfer`.
//!
//! GET /KIND?page=N → a page of 100 records, three pages in all · PUT /KIND/ID → recorded
//!
//! A fault belongs to the request of one number, which counts from 1, and comes once. All other requests get a good answer. Each connection has
//! one thread and one request. All end with the server.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use serde_json::{Value, json};

pub(crate) const PAGES: u64 = 3;
pub(crate) const RECORDS_A_PAGE: u64 = 100;

/// A bad answer to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// With this status.
    Status(u16),
    /// The head promises the whole length, and half of it is sent.
    Truncated,
    /// There is no answer. The connection stays open until the server ends.
    Silent,
    /// The connection is closed without an answer.
    Closed,
    /// A good answer after this time.
    Slow(Duration),
}

/// The server; ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Center {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    ended: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// Added to every record's name: a new one makes all records changed.
    suffix: String,
    faults: BTreeMap<usize, Fault>,
    /// `GET /department?page=1`, as they came.
    requests: Vec<String>,
    /// Path → the record that was put there last.
    put: BTreeMap<String, Value>,
}

impl Center {
    /// Listens on a free port of loopback.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let shared = Arc::new(Shared::default());
        let acceptor = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, &shared)
        });
        Self { address, shared, acceptor: Some(acceptor) }
    }

    /// `http://127.0.0.1:PORT`, for CENTER_URL, ECF_URL and the policy's `http`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Sets the answer to the request of this number, which counts from 1.
    pub(crate) fn fail(&self, request: usize, fault: Fault) {
        self.state().faults.insert(request, fault);
    }

    /// Changes all records.
    pub(crate) fn change_records(&self, suffix: &str) {
        self.state().suffix = suffix.into();
    }

    /// Method and path of each request, in the order of arrival.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.state().requests.clone()
    }

    /// The stored bodies, by path.
    pub(crate) fn put(&self) -> BTreeMap<String, Value> {
        self.state().put.clone()
    }

    /// Waits until this many requests have come in all. Returns false if the limit is over first.
    pub(crate) fn saw(&self, requests: usize, limit: Duration) -> bool {
        let few = |state: &mut State| state.requests.len() < requests;
        !self.shared.changed.wait_timeout_while(self.state(), limit, few).expect("no thread of ours panicked").1.timed_out()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().expect("no thread of ours panicked")
    }
}

impl Drop for Center {
    fn drop(&mut self) {
        {
            let _state = self.shared.state.lock();
            self.shared.ended.store(true, Ordering::Release);
        }
        self.shared.changed.notify_all();
        // Wakes the acceptor. If that fails, there is no acceptor to wait for.
        if TcpStream::connect(self.address).is_ok()
            && let Some(acceptor) = self.acceptor.take()
        {
            drop(acceptor.join());
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    std::thread::scope(|scope| {
        for stream in listener.incoming() {
            let stream = stream.expect("loopback gives the connections it took");
            if shared.ended.load(Ordering::Acquire) {
                return;
            }
            // A client may go away in the middle.
            scope.spawn(move || drop(serve(stream, shared)));
        }
    });
}

fn serve(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut head = String::new();
    reader.read_line(&mut head)?;
    let mut words = head.split_whitespace();
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(()) };
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim().split_once(':') {
            // Closing with unread bytes would reset the connection, and the answer might be lost.
            Some((name, _)) if name.eq_ignore_ascii_case("transfer-encoding") => panic!("a request in chunks: {head}"),
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.trim().parse().unwrap_or(0),
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;

    let mut state = shared.state.lock().expect("no thread of ours panicked");
    state.requests.push(format!("{method} {path}"));
    let number = state.requests.len();
    let fault = state.faults.remove(&number);
    shared.changed.notify_all();
    if fault == Some(Fault::Silent) || matches!(fault, Some(Fault::Slow(_))) {
        let limit = if let Some(Fault::Slow(delay)) = fault { delay } else { Duration::from_secs(600) };
        let waiting = |_: &mut State| !shared.ended.load(Ordering::Acquire);
        let waited = shared.changed.wait_timeout_while(state, limit, waiting).expect("no thread of ours panicked");
        if fault == Some(Fault::Silent) || !waited.1.timed_out() {
            return Ok(());
        }
        state = waited.0;
    }
    let (status, answer) = match fault {
        Some(Fault::Status(status)) => (status, String::from("it is me, not you")),
        Some(Fault::Closed) => return Ok(()),
        _ => state.answer(method, path, &body),
    };
    drop(state);

    let sent = if fault == Some(Fault::Truncated) { answer.len() / 2 } else { answer.len() };
    write!(
        stream,
        "HTTP/1.1 {status} -\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        answer.len()
    )?;
    stream.write_all(&answer.as_bytes()[..sent])?;
    stream.flush()
}

impl State {
    fn answer(&mut self, method: &str, path: &str, body: &[u8]) -> (u16, String) {
        if method == "PUT" {
            return match serde_json::from_slice(body) {
                Ok(record) => {
                    self.put.insert(path.into(), record);
                    (200, "{}".into())
                }
                Err(error) => (400, error.to_string()),
            };
        }
        let page = path.split_once("?page=").and_then(|(_, page)| page.parse().ok());
        let Some(page @ 1..=PAGES) = page else { return (404, "no such page".into()) };
        let record = |i| json!({"id": (page - 1) * RECORDS_A_PAGE + i, "name": format!("record {i} of page {page}{}", self.suffix)});
        let items: Vec<Value> = (1..=RECORDS_A_PAGE).map(record).collect();
        (200, json!({"items": items, "next": (page < PAGES).then_some(page + 1)}).to_string())
    }
}
