//! A loopback proxy before a Redis that reads every message. It can cut, half-close or mute a connection at a named step, delay
//! messages, or break a script.
//!
//! client → [commands, each given to the hook] → server → [replies, each given to the hook with its command's verb] → client
//!
//! A proxy needs no failpoints in the program: the test runs the shipped worker, and every point between two broker steps is a point
//! between two messages.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// When a message passes: a command on its way to the server, or its answer on the way back, after the step has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Moment {
    Asked,
    Answered,
}

/// The fate of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Pass,
    /// The proxy closes the connection instead.
    Cut,
    /// This direction of the connection ends here, and its receiver is told (TCP's half-close). When a command is asked, the server gets
    /// no more. When it is answered, the client gets no more, while the server goes on with its commands.
    Half,
    /// Nothing passes on this connection any more, and neither side is told: a half-open connection.
    Mute,
    /// The message passes after this delay, and so do all later messages on this connection.
    Late(Duration),
    /// The script fails at its n-th call of Redis, counted from 1. Only for `Asked`.
    Break(u32),
}

/// Called for every message. The verb is the name of a script (`claim`) or of a command in capitals (`BZPOPMIN`).
pub type Hook = Arc<dyn Fn(&str, Moment) -> Act + Send + Sync>;

/// Runs until it is dropped.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

struct Shared {
    server: u16,
    hook: Mutex<Hook>,
    /// Verbs by the SHA-1 of their script.
    verbs: Mutex<HashMap<Vec<u8>, String>>,
    up: watch::Sender<bool>,
    end: CancellationToken,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy on port {}", self.port)
    }
}

impl Proxy {
    pub async fn before(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free loopback port");
        let port = listener.local_addr().expect("bound").port();
        let shared = Arc::new(Shared {
            server,
            hook: Mutex::new(Arc::new(|_, _| Act::Pass)),
            verbs: Mutex::default(),
            up: watch::Sender::new(true),
            end: CancellationToken::new(),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { port, shared, accepting }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn hook(&self, hook: impl Fn(&str, Moment) -> Act + Send + Sync + 'static) {
        *self.shared.hook.lock().expect("not poisoned") = Arc::new(hook);
    }

    /// Whether it is down: then it cuts connections and closes new ones at once.
    pub fn set_up(&self, up: bool) {
        self.shared.up.send_replace(up);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.end.cancel();
        self.accepting.abort();
    }
}

impl Shared {
    fn ask(&self, verb: &str, moment: Moment) -> Act {
        let hook = Arc::clone(&self.hook.lock().expect("not poisoned"));
        hook(verb, moment)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        if *shared.up.borrow() {
            tokio::spawn(serve(client, Arc::clone(&shared)));
        }
    }
}

async fn serve(client: TcpStream, shared: Arc<Shared>) {
    let Ok(server) = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, shared.server))).await else { return };
    let _small = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let line = Arc::new(Line { shared: Arc::clone(&shared), asked: Mutex::default() });
    let mut up = shared.up.subscribe();
    tokio::select! {
        () = asks(from_client, to_server, Arc::clone(&line)) => {}
        () = answers(from_server, to_client, line) => {}
        _down = up.wait_for(|up| !*up) => {}
        () = shared.end.cancelled() => {}
    }
}

/// The requests of one connection that have no answer yet.
struct Line {
    shared: Arc<Shared>,
    asked: Mutex<Asked>,
}

#[derive(Default)]
struct Asked {
    verbs: VecDeque<String>,
    /// A subscriber gets messages without a request. They pass as they come.
    subscribed: bool,
}

async fn asks(mut client: OwnedReadHalf, mut server: OwnedWriteHalf, line: Arc<Line>) {
    let mut buffer = Vec::new();
    let mut sought: Option<Vec<u8>> = None;
    loop {
        while let Some(length) = frame(&buffer) {
            let message: Vec<u8> = buffer.drain(..length).collect();
            let words = words(&message);
            let (instead, verb) = line.name(&words, &mut sought);
            let act = line.shared.ask(&verb, Moment::Asked);
            let instead = match act {
                Act::Pass => instead,
                Act::Late(by) => {
                    tokio::time::sleep(by).await;
                    instead
                }
                Act::Break(call) => instead.or_else(|| broken(&words, call)),
                Act::Cut => return,
                Act::Half => {
                    let _told = server.shutdown().await;
                    std::future::pending().await
                }
                Act::Mute => std::future::pending().await,
            };
            {
                let mut asked = line.asked.lock().expect("not poisoned");
                asked.subscribed |= verb.ends_with("SUBSCRIBE");
                asked.verbs.push_back(verb);
            }
            if server.write_all(instead.as_deref().unwrap_or(&message)).await.is_err() {
                return;
            }
        }
        if !matches!(client.read_buf(&mut buffer).await, Ok(1..)) {
            return;
        }
    }
}

async fn answers(mut server: OwnedReadHalf, mut client: OwnedWriteHalf, line: Arc<Line>) {
    let mut buffer = Vec::new();
    loop {
        while let Some(length) = frame(&buffer) {
            let message: Vec<u8> = buffer.drain(..length).collect();
            let verb = {
                let mut asked = line.asked.lock().expect("not poisoned");
                if asked.subscribed { None } else { asked.verbs.pop_front() }
            };
            match verb.map_or(Act::Pass, |verb| line.shared.ask(&verb, Moment::Answered)) {
                Act::Pass | Act::Break(_) => {}
                Act::Late(by) => tokio::time::sleep(by).await,
                Act::Cut => return,
                Act::Half => {
                    let _told = client.shutdown().await;
                    // The server goes on answering, and the client gets nothing.
                    let _all = tokio::io::copy(&mut server, &mut tokio::io::sink()).await;
                    return;
                }
                Act::Mute => std::future::pending().await,
            }
            if client.write_all(&message).await.is_err() {
                return;
            }
        }
        if !matches!(server.read_buf(&mut buffer).await, Ok(1..)) {
            return;
        }
    }
}

impl Line {
    /// The message to send instead, if any, and the verb. An unknown digest is replaced by one that the server does not have, so that the
    /// client sends the script's text.
    fn name(&self, words: &[&[u8]], sought: &mut Option<Vec<u8>>) -> (Option<Vec<u8>>, String) {
        let command = words.first().map(|word| String::from_utf8_lossy(word).to_ascii_uppercase()).unwrap_or_default();
        let mut verbs = self.shared.verbs.lock().expect("not poisoned");
        match (command.as_str(), words.get(1)) {
            ("EVALSHA", Some(digest)) => {
                // To break a script, the proxy needs its text each time.
                if let Some(verb) = verbs.get(*digest)
                    && !matches!(self.shared.ask(verb, Moment::Asked), Act::Break(_))
                {
                    return (None, verb.clone());
                }
                *sought = Some(digest.to_vec());
                (Some(b"*3\r\n$7\r\nEVALSHA\r\n$40\r\nffffffffffffffffffffffffffffffffffffffff\r\n$1\r\n0\r\n".to_vec()), "unknown".into())
            }
            ("EVAL", Some(text)) => {
                let verb = verb_of(&String::from_utf8_lossy(text));
                if let Some(digest) = sought.take() {
                    verbs.insert(digest, verb.clone());
                }
                (None, verb)
            }
            _ => (None, command),
        }
    }
}

/// The verb that a script's header names; what the scripts share stands before it.
fn verb_of(text: &str) -> String {
    let header = |line: &str| {
        let (verb, _) = line.strip_prefix("-- ")?.split_once(": ")?;
        verb.bytes().all(|b| b.is_ascii_lowercase() || b == b'_').then(|| verb.to_owned())
    };
    let lines: Vec<&str> = text.lines().collect();
    let named = lines.windows(2).find(|pair| pair[1].starts_with("-- KEYS ") || pair[1].starts_with("-- ARGV "));
    named.and_then(|pair| header(pair[0])).or_else(|| lines.iter().find_map(|line| header(line))).unwrap_or_else(|| "EVAL".into())
}

/// The same EVAL with a script that fails at its n-th call.
fn broken(words: &[&[u8]], call: u32) -> Option<Vec<u8>> {
    if !words.first().is_some_and(|word| word.eq_ignore_ascii_case(b"EVAL")) {
        return None;
    }
    let text = String::from_utf8_lossy(words[1]);
    let (head, body) = text.split_once('\n').expect("a script's first line says its flags");
    let text = format!(
        "{head}\nlocal redis = (function(real) local left = {call}; return setmetatable({{ call = function(...) left = left - 1; \
         if left == 0 then error('broken on purpose') end; return real.call(...) end }}, {{ __index = real }}) end)(redis)\n{body}"
    );
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for (index, word) in words.iter().enumerate() {
        let word = if index == 1 { text.as_bytes() } else { word };
        out.extend(format!("${}\r\n", word.len()).into_bytes());
        out.extend(word);
        out.extend(b"\r\n");
    }
    Some(out)
}

/// The words of a command: an array of bulk strings.
fn words(message: &[u8]) -> Vec<&[u8]> {
    let mut words = Vec::new();
    let Some(mut at) = line_end(message, 0) else { return words };
    while let Some(end) = line_end(message, at) {
        let length: usize = number(&message[at + 1..end - 2]).unwrap_or(0);
        words.push(&message[end..end + length]);
        at = end + length + 2;
    }
    words
}

/// How long the first whole RESP value is (redis.io/docs/reference/protocol-spec, RESP2).
fn frame(buffer: &[u8]) -> Option<usize> {
    let mut at = 0;
    let mut wanted = 1_usize;
    while wanted > 0 {
        wanted -= 1;
        let end = line_end(buffer, at)?;
        let count = || number::<i64>(&buffer[at + 1..end - 2]).and_then(|count| usize::try_from(count).ok());
        match buffer[at] {
            b'*' | b'>' | b'~' => wanted += count().unwrap_or(0),
            b'%' => wanted += 2 * count().unwrap_or(0),
            b'$' | b'=' => {
                if let Some(length) = count() {
                    at = end + length + 2;
                    if at > buffer.len() {
                        return None;
                    }
                    continue;
                }
            }
            _ => {}
        }
        at = end;
    }
    Some(at)
}

/// Where the line that begins at `from` ends, its CRLF included.
fn line_end(buffer: &[u8], from: usize) -> Option<usize> {
    let at = buffer.get(from..)?.windows(2).position(|pair| pair == b"\r\n")?;
    Some(from + at + 2)
}

fn number<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}
