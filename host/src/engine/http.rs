//! Sends HTTP requests under policy: only to granted origins, and only to addresses that the grant covers.
//!
//! check origin and method → put in secrets → resolve → check every address → dial one of them → TLS to the name → HTTP/1.1
//!
//! Invariant: only a checked address is dialled. A name is never resolved a second time.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri, header, uri::Scheme};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::{body::Incoming, client::conn::http1};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Instant, Sleep, sleep, timeout},
};
use tokio_rustls::TlsConnector;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks, io::TokioIo, p2::bindings::http::types::ErrorCode};

use super::{
    account::Refused,
    address::is_public,
    held::{Held, Opened},
    http_bounds::CHUNK,
    limits::{Grants, HttpGrant, Limits},
    memory,
    network::{Network, Outside},
    output::Shared,
    secrets::Secrets,
    sentence,
};
use taskhost_core::{
    observe::Requests,
    task::{Clock, SystemClock},
    trace::{BAGGAGE, GuestRequest, TRACEPARENT, TRACESTATE},
};

/// The limit for resolving, dialling and TLS together, also if the guest would wait longer.
const CONNECT: Duration = Duration::from_secs(30);
/// The default if the guest names no time. The attempt's timeout stops it earlier.
const PATIENCE: Duration = Duration::from_secs(600);
/// The most requests under way and open connections of one attempt.
const CONNECTIONS: usize = 64;
/// The memory of one connection in the host: its request, its buffers, TLS.
const CONNECTION: usize = 128 << 10;
/// The least memory that a piece of a body keeps in the host, because it shares a read buffer.
const PIECE: usize = 16 << 10;
/// The most bytes of a response's head, and the most header lines in it.
const HEAD: usize = 64 << 10;
const HEADERS: usize = 128;

type Io = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Sent = Result<(Response<WasiBody>, Io), Error>;

/// The hooks that wasmtime calls when a guest sends a request.
pub(super) struct Hooks {
    plugin: Arc<str>,
    grants: Arc<Grants>,
    secrets: Secrets,
    shared: Arc<Shared>,
    outside: Arc<Outside>,
    /// The baggage of the attempt, if the policy lets any origin have it.
    baggage: Option<HeaderValue>,
    /// The most bytes of one response's body.
    most: u64,
}

impl Hooks {
    pub(super) fn new(plugin: Arc<str>, grants: Arc<Grants>, secrets: Secrets, shared: Arc<Shared>, outside: Arc<Outside>) -> Self {
        Self { plugin, grants, secrets, shared, outside, baggage: None, most: u64::MAX }
    }

    /// Hooks that send the baggage among these headers to the origins that may have it.
    pub(super) fn with_baggage_of(mut self, headers: &[(String, String)]) -> Self {
        if self.grants.http.iter().any(|grant| grant.baggage) {
            let baggage = headers.iter().find(|(name, _)| name == BAGGAGE);
            self.baggage = baggage.and_then(|(_, value)| HeaderValue::from_str(value).ok());
        }
        self
    }

    /// Hooks that accept responses of at most this many bytes.
    pub(super) fn bounded(self, most: u64) -> Self {
        Self { most, ..self }
    }
}

impl WasiHttpHooks for Hooks {
    /// The authority as it is compared: without user information, and without the scheme's default port.
    fn set_host_header(&mut self) -> bool {
        false
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK
    }

    /// The guest's error code. "Refused" means that a server refused; other causes have codes of their own.
    fn p2_error_from_connect(&mut self, error: &io::Error) -> ErrorCode {
        tracing::debug!("a guest's connection failed: {error}");
        match error.kind() {
            io::ErrorKind::ConnectionRefused => ErrorCode::ConnectionRefused,
            io::ErrorKind::TimedOut => ErrorCode::ConnectionTimeout,
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
                ErrorCode::ConnectionTerminated
            }
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => ErrorCode::DestinationIpUnroutable,
            _ => match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
                Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE) => ErrorCode::ConnectionLimitReached,
                _ => ErrorCode::InternalError(Some(sentence::line(&format!("can't connect: {error}"), 256))),
            },
        }
    }

    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _fut: Io,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        let Some(origin) = Origin::of(request.uri()) else { return Box::new(async { Err(Error::HttpRequestUriInvalid) }) };
        let call = Outgoing {
            origin,
            plugin: Arc::clone(&self.plugin),
            grants: Arc::clone(&self.grants),
            secrets: self.secrets.clone(),
            baggage: self.baggage.clone(),
            most: self.most,
            shared: Arc::clone(&self.shared),
            outside: Arc::clone(&self.outside),
        };
        // Taken at once, because a guest may send thousands before the first one is handled.
        match Slot::take(&self.shared) {
            Ok(slot) => Box::new(call.send(request, options.unwrap_or_default(), slot)),
            Err(error) => Box::new(async { Err(error) }),
        }
    }
}

/// Scheme, host and port, as a grant names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) tls: bool,
    /// Lower case, an IPv6 address without its brackets.
    pub(super) host: String,
    pub(super) port: u16,
}

impl Origin {
    pub(super) fn of(uri: &Uri) -> Option<Self> {
        let tls = uri.scheme() == Some(&Scheme::HTTPS);
        let host = uri.host()?.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_ascii_lowercase();
        (!host.is_empty()).then(|| Self { tls, host, port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }) })
    }

    fn is_granted(&self, grants: &[HttpGrant]) -> bool {
        grants.iter().any(|grant| self.fits(grant))
    }

    fn fits(&self, grant: &HttpGrant) -> bool {
        let host = grant.host.trim_start_matches('[').trim_end_matches(']');
        let fits = match host.strip_prefix("*.") {
            // One label, as in certificates (RFC 6125, 6.4.3), and never a part of an IP address.
            Some(rest) => {
                self.host.parse::<IpAddr>().is_err()
                    && self.host.split_once('.').is_some_and(|(label, domain)| !label.is_empty() && domain == rest)
            }
            None => host == self.host,
        };
        fits && (grant.scheme == "https") == self.tls && grant.port == self.port
    }

    /// The first address of this name that must not be dialled. `localhost` may be local. Any other name must be public, or its address must be
    /// granted too. Otherwise the owner of the name could point it into this network.
    pub(super) fn closed(&self, found: &[SocketAddr], grants: &[HttpGrant]) -> Option<IpAddr> {
        let mut addresses = found.iter().map(SocketAddr::ip).filter(|_| self.host != "localhost");
        addresses.find(|address| !is_public(*address) && !self.with_host(*address).is_granted(grants))
    }

    /// `host:port`, without the scheme's default port.
    pub(super) fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let own = if self.tls { 443 } else { 80 };
        if self.port == own { host } else { format!("{host}:{}", self.port) }
    }

    fn with_host(&self, host: IpAddr) -> Self {
        Self { host: host.to_string(), ..self.clone() }
    }

    pub(super) fn url(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }
}

/// The place of an answer among [`Requests::CLASSES`].
fn class(sent: &Sent) -> usize {
    match sent {
        Ok((answer, _)) => Requests::class(answer.status().as_u16()),
        Err(Error::HttpRequestDenied) => Requests::DENIED,
        Err(_) => Requests::FAILED,
    }
}

/// One request under way.
struct Outgoing {
    origin: Origin,
    plugin: Arc<str>,
    grants: Arc<Grants>,
    secrets: Secrets,
    /// The baggage of the attempt, for origins that may have it.
    baggage: Option<HeaderValue>,
    most: u64,
    shared: Arc<Shared>,
    outside: Arc<Outside>,
}

impl Outgoing {
    /// Sends the request, and tells of it if the attempt is traced. The receiver learns the span of the request.
    async fn send(self, mut request: Request<WasiBody>, options: RequestOptions, slot: Slot) -> Sent {
        let shared = Arc::clone(&self.shared);
        shared.request_begins();
        let may_have_it = |grant: &HttpGrant| grant.baggage && self.origin.fits(grant);
        if let Some(baggage) = self.baggage.clone().filter(|_| self.grants.http.iter().any(may_have_it)) {
            request.headers_mut().entry(BAGGAGE).or_insert(baggage);
        }
        let Some(spans) = &shared.spans else {
            let sent = self.exchange(request, options, slot).await;
            shared.request_ended(class(&sent));
            return sent;
        };
        let span = spans.below();
        if let Ok(value) = HeaderValue::from_str(&span.own.to_string()) {
            request.headers_mut().insert(TRACEPARENT, value);
            // The body's own would speak of another span.
            request.headers_mut().remove(TRACESTATE);
        }
        let (method, origin) = (request.method().to_string(), self.origin.clone());
        let (began, at) = (SystemClock.now(), Instant::now());
        let sent = self.exchange(request, options, slot).await;
        let status = sent.as_ref().ok().map(|(answer, _)| answer.status().as_u16());
        shared.request_ended(class(&sent));
        spans.requested(GuestRequest { span, method, host: origin.host, port: origin.port, status, began, took: at.elapsed() });
        sent
    }

    async fn exchange(self, mut request: Request<WasiBody>, options: RequestOptions, slot: Slot) -> Sent {
        if !self.origin.is_granted(&self.grants.http) {
            let problem = format!("denied: {} is not granted", self.origin.url());
            return Err(self.deny(&problem, &self.origin));
        }
        self.check_method(request.method())?;
        let filled = self.secrets.fill(request.headers_mut(), |secret| self.origin.is_granted(&secret.origins)).await;
        filled.map_err(|why| self.refuse(&why))?;
        let patience = options.connect_timeout.unwrap_or(CONNECT).min(CONNECT);
        let opened = Opened::wait(&self.shared, patience).await.map_err(|refused| told(&self.shared, refused))?;
        let (mut sender, connection) = timeout(patience, self.connect()).await.map_err(|_| Error::ConnectionTimeout)??;
        let request = addressed(request, &self.origin)?;
        let mut connection = Box::pin(connection);
        let first_byte = options.first_byte_timeout.unwrap_or(PATIENCE);
        let answered = timeout(first_byte, async {
            let mut answer = Box::pin(sender.send_request(request));
            tokio::select! {
                biased;
                answer = &mut answer => answer,
                // The peer may answer and close at once. Then the answer is there too.
                closed = &mut connection => match closed {
                    Ok(()) => answer.await,
                    Err(error) => Err(error),
                },
            }
        });
        let answer = answered.await.map_err(|_| Error::ConnectionReadTimeout)?.map_err(|error| {
            let most = u32::try_from(HEAD).ok();
            if error.is_parse_too_large() { Error::HttpResponseHeaderSectionSize(most) } else { error.into() }
        })?;
        let between = options.between_bytes_timeout.unwrap_or(PATIENCE);
        let (mut head, body) = answer.into_parts();
        let held = own(&mut head.headers, &self.shared).map_err(|refused| told(&self.shared, refused))?;
        let answer = Response::from_parts(head, Timed::new(body, between, self.most, held).boxed_unsync());
        let io = async move {
            let (_slot, _opened) = (slot, opened);
            // A connection that ended above reports its end again.
            connection.await.map_err(Error::from)
        };
        Ok((answer, Box::new(io)))
    }

    async fn connect(&self) -> Result<(http1::SendRequest<WasiBody>, Connection), Error> {
        let stream = dial(&*self.outside.network, &self.addresses().await?).await?;
        // A request is small and waits for its answer, so Nagle's algorithm would only delay it.
        stream.set_nodelay(true).map_err(Error::Connect)?;
        let stream: Box<dyn Stream> = if self.origin.tls {
            let name = ServerName::try_from(self.origin.host.clone()).map_err(Error::InvalidDnsNameError)?;
            let connector = TlsConnector::from(self.outside.tls()?);
            Box::new(connector.connect(name, stream).await.map_err(Error::Tls)?)
        } else {
            Box::new(stream)
        };
        let mut client = http1::Builder::new();
        client.max_buf_size(HEAD).max_headers(HEADERS);
        let (sender, connection) = client.handshake(TokioIo::new(stream)).await.map_err(Error::from)?;
        Ok((sender, Connection(Some(connection))))
    }

    /// The addresses that may be dialled: the one that the grant names, or those of a granted name.
    async fn addresses(&self) -> Result<Vec<SocketAddr>, Error> {
        let (host, port) = (&self.origin.host, self.origin.port);
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        // Each lookup holds a thread of the blocking pool until the name server answers, and files need such threads too.
        let _turn = self.outside.lookups.acquire().await;
        let found = self.outside.network.resolve(host, port).await.map_err(|error| {
            tracing::debug!("can't resolve `{host}`: {error}");
            Error::DnsError { rcode: Some(error.to_string()), info_code: None }
        })?;
        if let Some(closed) = self.origin.closed(&found, &self.grants.http) {
            let problem = format!("denied: {host} resolves to {closed}, which is not a public address");
            return Err(self.deny(&problem, &self.origin.with_host(closed)));
        }
        if found.is_empty() { Err(Error::DestinationNotFound) } else { Ok(found) }
    }

    fn check_method(&self, method: &http::Method) -> Result<(), Error> {
        let mut fitting = self.grants.http.iter().filter(|grant| self.origin.fits(grant));
        if fitting.clone().any(|grant| grant.methods.is_empty() || grant.methods.iter().any(|granted| granted == method.as_str())) {
            return Ok(());
        }
        let granted = fitting.next().map_or_else(String::new, |grant| grant.methods.join(", "));
        Err(self.refuse(&format!(
            "denied: {method} to {} is not granted, only {granted}; to allow it add \"{method}\" to the `methods` of that origin in \
             [plugins.{}]",
            self.origin.url(),
            self.plugin
        )))
    }

    fn refuse(&self, why: &str) -> Error {
        self.shared.deny(sentence::line(why, 1024));
        Error::HttpRequestDenied
    }

    /// The line that would allow it: the plugin's present grants and this one.
    fn deny(&self, problem: &str, missing: &Origin) -> Error {
        let present =
            self.grants.http.iter().map(|grant| Origin { tls: grant.scheme == "https", host: grant.host.clone(), port: grant.port });
        let urls: Vec<String> = present.chain([missing.clone()]).map(|origin| format!("\"{}\"", origin.url())).collect();
        let plugin = &self.plugin;
        self.refuse(&format!("{problem}; to allow it: `[plugins.{plugin}] http = [{}]`", urls.join(", ")))
    }
}

pub(super) async fn dial(network: &dyn Network, addresses: &[SocketAddr]) -> Result<TcpStream, Error> {
    let mut failed = Error::DestinationNotFound;
    for address in addresses {
        match network.dial(*address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = Error::Connect(error),
        }
    }
    Err(failed)
}

/// The request as it is sent: only the path in the first line, the origin in `Host`.
fn addressed(mut request: Request<WasiBody>, origin: &Origin) -> Result<Request<WasiBody>, Error> {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let uri = path.parse::<Uri>().map_err(|_| Error::HttpRequestUriInvalid)?;
    let host = HeaderValue::from_str(&origin.authority()).map_err(|_| Error::HttpRequestUriInvalid)?;
    *request.uri_mut() = uri;
    request.headers_mut().insert(header::HOST, host);
    Ok(request)
}

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Drives the connection; `None` after its end, so that it may be polled again.
struct Connection(Option<http1::Connection<TokioIo<Box<dyn Stream>>, WasiBody>>);

impl Future for Connection {
    type Output = Result<(), hyper::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(connection) = &mut self.0 else { return Poll::Ready(Ok(())) };
        let ended = ready!(Pin::new(connection).poll(cx));
        self.0 = None;
        Poll::Ready(ended)
    }
}

/// One of the attempt's requests under way, and its memory in the host.
struct Slot {
    shared: Arc<Shared>,
    _held: Held,
}

impl Slot {
    fn take(shared: &Arc<Shared>) -> Result<Self, Error> {
        let held = Held::take(shared, CONNECTION).map_err(|refused| told(shared, refused))?;
        let slot = Self { shared: Arc::clone(shared), _held: held };
        if shared.connections.fetch_add(1, Relaxed) < CONNECTIONS {
            return Ok(slot);
        }
        shared.log("warn", &format!("has {CONNECTIONS} requests under way, as many as an attempt may"), Vec::new());
        Err(Error::ConnectionLimitReached)
    }
}

/// Logs the error. The guest gets the error code of the contract that fits best.
fn told(shared: &Shared, refused: Refused) -> Error {
    let why = shared.account.sentence(refused, &Limits::default());
    shared.log("warn", &why, Vec::new());
    match refused {
        Refused::Descriptors | Refused::DescriptorsOfProcess => Error::ConnectionLimitReached,
        Refused::Memory | Refused::MemoryOfProcess | Refused::Tables => Error::InternalError(Some(why)),
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.shared.connections.fetch_sub(1, Relaxed);
    }
}

/// Copies the headers of an answer, because they arrived as slices of a larger read buffer.
fn own(headers: &mut HeaderMap, shared: &Arc<Shared>) -> Result<Held, Refused> {
    let held = Held::take(shared, memory::headers(headers))?;
    let copied = headers.iter().filter_map(|(name, value)| {
        let name = HeaderName::from_bytes(name.as_str().as_bytes()).ok()?;
        Some((name, HeaderValue::from_bytes(value.as_bytes()).ok()?))
    });
    *headers = copied.collect();
    Ok(held)
}

/// A response's body that fails if it is silent for too long, or too large.
struct Timed {
    body: Incoming,
    patience: Duration,
    clock: Pin<Box<Sleep>>,
    /// How many bytes may still come.
    left: u64,
    /// The kept parts of the answer: its head until it is taken, and the last piece of the body, which a stream may hold.
    held: Held,
}

impl Timed {
    fn new(body: Incoming, patience: Duration, left: u64, held: Held) -> Self {
        Self { body, patience, clock: Box::pin(sleep(patience)), left, held }
    }
}

impl Body for Timed {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            this.clock.as_mut().reset(Instant::now() + this.patience);
            if let Some(Ok(data)) = frame.as_ref().map(|frame| frame.as_ref().map(|frame| frame.data_ref().map_or(0, Bytes::len) as u64)) {
                match this.left.checked_sub(data) {
                    Some(left) => this.left = left,
                    None => return Poll::Ready(Some(Err(Error::HttpResponseBodySize(None)))),
                }
                let piece = usize::try_from(data).unwrap_or(usize::MAX).max(PIECE);
                if let Err(refused) = this.held.reach(piece) {
                    return Poll::Ready(Some(Err(Error::InternalError(Some(refused.to_string())))));
                }
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Error::from)));
        }
        ready!(this.clock.as_mut().poll(cx));
        Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests;
