//! Captures a guest's output and log within limits: the ends of stdout and stderr, the newest log lines.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use tokio::io::AsyncWrite;
use wasmtime_wasi::{
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamResult},
};

use super::{account::Account, cpu::Meter, limits::Limits, sentence, services::Services, spans::Spans};
use taskhost_core::{
    observe::Requests,
    task::{Clock, LogLine, SystemClock},
    trace::{TraceContext, Within},
};

/// The most bytes of one line; the rest is cut.
const LINE: usize = 8 << 10;
/// The most fields of one line.
const FIELDS: usize = 32;
/// The most lines of one attempt that are passed on while it runs. Its own log keeps the newest lines after that.
const LIVE_LINES: u32 = 10_000;
/// The most bytes that a guest may write at once.
const WRITE: usize = 64 << 10;

/// The state that one attempt shares with its streams, its timer and its HTTP calls.
pub(super) struct Shared {
    pub(super) meter: Meter,
    pub(super) account: Account,
    pub(super) connections: std::sync::atomic::AtomicUsize,
    /// `None` while the guest describes itself, because nobody listens then.
    services: Option<Arc<dyn Services>>,
    attempt: u32,
    book: Mutex<Book>,
    /// `None`: the attempt is not traced.
    pub(super) spans: Option<Box<Spans>>,
    requests: Mutex<Requests>,
}

impl AsRef<Meter> for Shared {
    fn as_ref(&self) -> &Meter {
        &self.meter
    }
}

struct Book {
    stdout: Printed,
    stderr: Printed,
    lines: VecDeque<String>,
    bytes: usize,
    limit: usize,
    live: u32,
    /// Lines at the last [`Shared::tell_log`].
    told: u32,
    denied: Option<String>,
    panic: Option<Panic>,
}

/// The first two lines of a panic. They are kept apart, because the message may be longer than the kept end of the stream.
struct Panic {
    place: String,
    message: Option<String>,
}

/// One of the two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Out,
    Err,
}

impl Shared {
    /// Counts a request. It counts as failed until its class is known, because the attempt may end before.
    pub(super) fn request_begins(&self) {
        self.requests.lock().0[Requests::FAILED] += 1;
    }

    pub(super) fn request_ended(&self, class: usize) {
        let mut requests = self.requests.lock();
        requests.0[Requests::FAILED] -= 1;
        requests.0[class] += 1;
    }

    pub(super) fn requests(&self) -> Requests {
        *self.requests.lock()
    }

    pub(super) fn take_within(&self) -> Within {
        self.spans.as_ref().map(|spans| spans.take()).unwrap_or_default()
    }

    /// `trace` is the span of the attempt, if it is traced. A guest that describes itself has attempt 0, and neither trace nor services.
    pub(super) fn new(
        meter: Meter,
        account: Account,
        limits: &Limits,
        attempt: u32,
        trace: Option<Box<TraceContext>>,
        services: Option<Arc<dyn Services>>,
    ) -> Self {
        let book = Book {
            stdout: Printed::new(limits.output),
            stderr: Printed::new(limits.output),
            lines: VecDeque::new(),
            bytes: 0,
            limit: limits.log_bytes,
            live: 0,
            told: 0,
            denied: None,
            panic: None,
        };
        let book = Mutex::new(book);
        let spans = trace.map(|above| Box::new(Spans::new(*above)));
        Self { meter, account, connections: 0.into(), services, attempt, book, spans, requests: Mutex::default() }
    }

    /// One line of the log.
    pub(super) fn log(&self, level: &str, message: &str, fields: Vec<(String, String)>) {
        let line = self.line(level, message, fields);
        let pass_on = self.book().keep(&line);
        if let Some(services) = self.services.as_ref().filter(|_| pass_on) {
            services.log(&line);
        }
    }

    /// Remembers what the policy denied, and how to allow it. The first denial counts.
    pub(super) fn deny(&self, what: String) {
        self.log("warn", &what, Vec::new());
        self.book().denied.get_or_insert(what);
    }

    pub(super) fn denied(&self) -> Option<String> {
        self.book().denied.clone()
    }

    /// The kept end of the stream.
    pub(super) fn printed(&self, stream: Stream) -> String {
        let mut book = self.book();
        String::from_utf8_lossy(book.stream(stream).tail()).into_owned()
    }

    /// The place and the beginning of the last panic, as printed.
    pub(super) fn panic(&self) -> Option<String> {
        let book = self.book();
        book.panic.as_ref().map(|panic| format!("{}\n{}", panic.place, panic.message.as_deref().unwrap_or_default()))
    }

    /// All kept lines as newline-delimited JSON. To be called when the guest is gone.
    pub(super) fn take_log(&self) -> String {
        for (stream, level) in [(Stream::Out, "stdout"), (Stream::Err, "stderr")] {
            let rest = self.book().stream(stream).take_partial();
            if let Some(rest) = rest {
                self.log(level, &rest, Vec::new());
            }
        }
        self.book().text()
    }

    /// Shows the lines so far, if there are new ones since the last call.
    pub(super) fn tell_log(&self) {
        let Some(services) = &self.services else { return };
        let mut book = self.book();
        if book.live != book.told {
            book.told = book.live;
            let lines = book.text();
            drop(book);
            services.log_so_far(lines);
        }
    }

    fn print(&self, stream: Stream, bytes: &[u8]) {
        let lines = self.book().stream(stream).write(bytes);
        let level = if stream == Stream::Out { "stdout" } else { "stderr" };
        for line in lines {
            if stream == Stream::Err {
                self.book().note_panic(&line);
            }
            self.log(level, &line, Vec::new());
        }
    }

    fn line(&self, level: &str, message: &str, mut fields: Vec<(String, String)>) -> LogLine {
        fields.truncate(FIELDS);
        for (name, value) in &mut fields {
            *name = sentence::cut(std::mem::take(name), 128);
            *value = sentence::cut(std::mem::take(value), 1024);
        }
        let message = sentence::cut(message[..message.floor_char_boundary(LINE + 1)].to_owned(), LINE);
        LogLine { at: SystemClock.now(), attempt: self.attempt, level: level.into(), message, fields }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock()
    }
}

impl Book {
    /// The kept lines as newline-delimited JSON.
    fn text(&self) -> String {
        let mut log = String::with_capacity(self.bytes);
        for line in &self.lines {
            log.push_str(line);
            log.push('\n');
        }
        log
    }

    /// Keeps a line and forgets the oldest. Returns whether the line should also be passed on.
    fn keep(&mut self, line: &LogLine) -> bool {
        if let Ok(text) = serde_json::to_string(line) {
            self.bytes += text.len() + 1;
            self.lines.push_back(text);
        }
        while self.bytes > self.limit {
            let Some(oldest) = self.lines.pop_front() else { break };
            self.bytes -= oldest.len() + 1;
        }
        self.live = self.live.saturating_add(1);
        self.live <= LIVE_LINES
    }

    fn note_panic(&mut self, line: &str) {
        if line.contains("panicked at ") {
            self.panic = Some(Panic { place: sentence::cut(line.to_owned(), 1024), message: None });
        } else if let Some(panic) = self.panic.as_mut().filter(|panic| panic.message.is_none()) {
            panic.message = Some(line.to_owned());
        }
    }

    fn stream(&mut self, stream: Stream) -> &mut Printed {
        match stream {
            Stream::Out => &mut self.stdout,
            Stream::Err => &mut self.stderr,
        }
    }
}

/// The end of a stream, and the line that is being written.
struct Printed {
    /// Up to twice `keep` bytes, so that forgetting moves each byte once.
    bytes: Vec<u8>,
    keep: usize,
    partial: Vec<u8>,
}

impl Printed {
    fn new(keep: usize) -> Self {
        Self { bytes: Vec::new(), keep, partial: Vec::new() }
    }

    /// Takes written bytes, and returns the lines that became complete.
    fn write(&mut self, bytes: &[u8]) -> Vec<String> {
        self.bytes.extend_from_slice(&bytes[bytes.len().saturating_sub(self.keep)..]);
        if self.bytes.len() > 2 * self.keep {
            self.bytes.drain(..self.bytes.len() - self.keep);
        }
        let mut lines = Vec::new();
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            self.partial.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.partial.len() > LINE {
                lines.extend(self.take_partial());
            }
        }
        lines
    }

    fn tail(&self) -> &[u8] {
        &self.bytes[self.bytes.len().saturating_sub(self.keep)..]
    }

    fn take_partial(&mut self) -> Option<String> {
        let bytes = std::mem::take(&mut self.partial);
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_end();
        (!text.is_empty()).then(|| text.to_owned())
    }
}

/// A guest's stdout or stderr.
#[derive(Clone)]
pub(super) struct Pipe {
    pub(super) stream: Stream,
    pub(super) shared: Arc<Shared>,
}

impl IsTerminal for Pipe {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Pipe {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    /// WASI 0.2 calls `p2_stream`; the trait demands this method too.
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }
}

#[async_trait::async_trait]
impl Pollable for Pipe {
    async fn ready(&mut self) {}
}

impl OutputStream for Pipe {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.shared.print(self.stream, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE)
    }
}
