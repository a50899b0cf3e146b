//! Sends batches of spans to the collector: plain blocking HTTP/1.1, because the SDK calls it on a thread of its own.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response, Uri, uri::Scheme};
use opentelemetry_http::{HttpClient, HttpError};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};

/// How long the collector may take for each step.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most bytes of an answer that are read.
const ANSWER: u64 = 64 << 10;

/// The way to the collector.
pub(super) struct Sender {
    tls: Arc<ClientConfig>,
    /// Whether the last batch did not reach it. Said once, until one does.
    is_away: AtomicBool,
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").finish_non_exhaustive()
    }
}

impl Sender {
    /// `certificate`: a PEM file of the authorities to trust, in place of the usual ones.
    pub(super) fn new(certificate: Option<&str>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        match certificate {
            None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
            Some(file) => {
                let refused = |why: String| format!("OTEL_EXPORTER_OTLP_CERTIFICATE: failed to read `{file}`: {why}; it is a PEM file");
                let found = CertificateDer::pem_file_iter(Path::new(file)).map_err(|error| refused(error.to_string()))?;
                for certificate in found {
                    let added = certificate.map_err(|error| refused(error.to_string()))?;
                    roots.add(added).map_err(|error| refused(error.to_string()))?;
                }
            }
        }
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("failed to set up TLS: {error}"))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { tls: Arc::new(tls), is_away: AtomicBool::new(false) })
    }

    fn exchange(&self, request: &Request<Bytes>) -> io::Result<u16> {
        let stream = connect(request.uri())?;
        if request.uri().scheme() == Some(&Scheme::HTTPS) {
            let name = ServerName::try_from(host(request.uri()).to_owned()).map_err(io::Error::other)?;
            let connection = ClientConnection::new(Arc::clone(&self.tls), name).map_err(io::Error::other)?;
            return ask(StreamOwned::new(connection, stream), request);
        }
        ask(stream, request)
    }
}

#[async_trait]
impl HttpClient for Sender {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answered = self.exchange(&request);
        let fault = match &answered {
            Ok(200..300) => None,
            Ok(status) => Some(format!("it answered {status}")),
            Err(error) => Some(error.to_string()),
        };
        if self.is_away.swap(fault.is_some(), Relaxed) != fault.is_some() {
            if let Some(why) = &fault {
                tracing::warn!(collector = %request.uri(), why, "spans do not reach the collector; they are dropped meanwhile");
            } else {
                tracing::info!(collector = %request.uri(), "spans reach the collector again");
            }
        }
        Ok(Response::builder().status(answered?).body(Bytes::new())?)
    }
}

fn host(uri: &Uri) -> &str {
    uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
}

fn connect(uri: &Uri) -> io::Result<TcpStream> {
    let port = uri.port_u16().unwrap_or(if uri.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 });
    let mut last = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
    for address in (host(uri), port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => {
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Sends the request, and reads the status of the answer.
fn ask(mut stream: impl Read + Write, request: &Request<Bytes>) -> io::Result<u16> {
    let path = request.uri().path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let authority = request.uri().authority().map_or("", |authority| authority.as_str());
    let mut head =
        format!("POST {path} HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\ncontent-length: {}\r\n", request.body().len());
    for (name, value) in request.headers() {
        let value = value.to_str().map_err(io::Error::other)?;
        head = format!("{head}{name}: {value}\r\n");
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    stream.write_all(request.body())?;
    stream.flush()?;
    let mut answer = Vec::new();
    let read = stream.take(ANSWER).read_to_end(&mut answer);
    let status = answer.strip_prefix(b"HTTP/1.").and_then(|rest| std::str::from_utf8(rest.get(2..5)?).ok()?.parse().ok());
    match (status, read) {
        (Some(status), _) => Ok(status),
        (None, Err(error)) => Err(error),
        (None, Ok(_)) => Err(io::Error::new(io::ErrorKind::InvalidData, "it does not answer HTTP")),
    }
}
