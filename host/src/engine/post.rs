//! Posts to an address that an operator named: under the same address checks as the requests of guests.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::Full;
use hyper::client::conn::http1;
use rustls::pki_types::ServerName;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use wasmtime_wasi_http::io::TokioIo;

use super::{
    http::{Origin, Stream, dial},
    network::{Network, Outside},
};

/// Sends requests of the host itself.
#[derive(Debug)]
pub struct Poster(Arc<Outside>);

/// The answer to a post.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Posted {
    pub status: u16,
    /// The wait that the receiver asked for, in whole seconds.
    pub retry_after: Option<Duration>,
}

impl Poster {
    pub fn new(network: Arc<dyn Network>) -> Self {
        Self(Outside::new(network))
    }

    /// Whether `url` can be posted to: http or https, with a host.
    pub fn check(url: &str) -> Result<(), String> {
        let uri: Uri = url.parse().map_err(|error| format!("not a URL: {error}"))?;
        let has_scheme = matches!(uri.scheme_str(), Some("http" | "https"));
        if has_scheme && Origin::of(&uri).is_some() {
            Ok(())
        } else {
            Err("a URL here begins with `https://` or `http://` and a host".to_owned())
        }
    }

    /// Posts a body, and gives the status of the answer. The error is a sentence.
    pub async fn post(&self, url: &str, headers: &[(&'static str, String)], body: &[u8], patience: Duration) -> Result<Posted, String> {
        Self::check(url)?;
        let uri: Uri = url.parse().map_err(|error| format!("not a URL: {error}"))?;
        let origin = Origin::of(&uri).ok_or("not a URL with a host")?;
        let posted = timeout(patience, self.exchange(&uri, &origin, headers, body)).await;
        posted.map_err(|_slow| format!("{} did not answer within {} s", origin.url(), patience.as_secs()))?
    }

    async fn exchange(&self, uri: &Uri, origin: &Origin, headers: &[(&'static str, String)], body: &[u8]) -> Result<Posted, String> {
        let unreachable = |why: String| format!("failed to reach {}: {why}", origin.url());
        let addresses = self.addresses(origin).await.map_err(unreachable)?;
        let stream = dial(&*self.0.network, &addresses).await.map_err(|error| unreachable(format!("{error:?}")))?;
        let stream: Box<dyn Stream> = if origin.tls {
            let name = ServerName::try_from(origin.host.clone()).map_err(|error| unreachable(error.to_string()))?;
            let connector = TlsConnector::from(self.0.tls().map_err(|error| unreachable(format!("{error:?}")))?);
            Box::new(connector.connect(name, stream).await.map_err(|error| unreachable(error.to_string()))?)
        } else {
            Box::new(stream)
        };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| unreachable(error.to_string()))?;
        let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let mut request = Request::post(path).header(header::HOST, origin.authority()).header(header::CONNECTION, "close");
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(Bytes::copy_from_slice(body))).map_err(|error| unreachable(error.to_string()))?;
        let answer = sender.send_request(request);
        tokio::pin!(answer, connection);
        let answered = tokio::select! {
            answered = &mut answer => answered,
            // The receiver may answer and close at once.
            closed = &mut connection => match closed {
                Ok(()) => answer.await,
                Err(error) => Err(error),
            },
        };
        let answered = answered.map_err(|error| unreachable(error.to_string()))?;
        let retry_after = answered.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        Ok(Posted { status: answered.status().as_u16(), retry_after: retry_after.map(Duration::from_secs) })
    }

    /// The addresses of the origin. A name must be public, unless it is `localhost`: its owner could point it into this network.
    async fn addresses(&self, origin: &Origin) -> Result<Vec<SocketAddr>, String> {
        if let Ok(address) = origin.host.parse() {
            return Ok(vec![SocketAddr::new(address, origin.port)]);
        }
        let _turn = self.0.lookups.acquire().await;
        let found = self.0.network.resolve(&origin.host, origin.port).await.map_err(|error| error.to_string())?;
        match origin.closed(&found, &[]) {
            Some(closed) => Err(format!("it resolves to {closed}, which is not a public address; name the address itself to allow it")),
            None if found.is_empty() => Err("its name has no address".to_owned()),
            None => Ok(found),
        }
    }
}
