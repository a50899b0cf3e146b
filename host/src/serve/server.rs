//! The server: a listener, its connections, and what they need of the broker.
//!
//! bind → connect to the broker, as patiently as a worker → accept → one task a connection
//!
//! Invariant: a client that is slow, silent or one of too many costs a bounded amount of time and memory, and nobody else anything.

use std::{
    io,
    net::{SocketAddr, TcpListener, ToSocketAddrs},
    sync::Arc,
    time::Duration,
};

use axum::Router;
use hyper::{Request, body::Incoming, server::conn::http1, service::Service};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use taskhost_core::units;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{
    access::Peer,
    app::{App, Observed},
    operations,
    patient::Patient,
    routes,
    tls::Tls,
};
use crate::{
    config::Settings,
    ops::{Ops, OpsError, Producer},
};

/// How long the head of a request may take, and how long a connection may be idle.
const HEAD: Duration = Duration::from_secs(30);
/// The longest head of a request.
const HEAD_BYTES: usize = 64 << 10;
const HEADERS: usize = 100;
/// How often the broker is asked whether it answers.
const LOOK: Duration = Duration::from_secs(2);
/// The pause after a failed accept: the reason is mostly that no descriptor is left.
const PAUSE: Duration = Duration::from_millis(200);
/// How long requests may go on after the end was asked for.
const LAST: Duration = Duration::from_secs(5);

/// A server that has its address and is not running yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Arc<Tls>>,
    app: Arc<App>,
}

/// Why a server can't begin.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A setting must change.
    #[error("{0}")]
    Settings(String),
    #[error(transparent)]
    Ops(#[from] OpsError),
}

/// When a server ends.
#[derive(Debug, Clone, Default)]
pub struct ServerStop {
    /// New requests should go elsewhere: `/readyz` says so, and requests that wait are answered.
    pub drain: CancellationToken,
    /// No further connection is accepted. Requests under way have a few seconds.
    pub end: CancellationToken,
}

impl Server {
    /// Takes the address of the settings.
    pub fn bind(settings: &Settings, observed: Observed, stop: &ServerStop) -> Result<Self, ServeError> {
        let refused = ServeError::Settings;
        let Some(at) = &settings.http.address else {
            return Err(refused("say where to answer HTTP: `--http 127.0.0.1:8080`".to_owned()));
        };
        let resolved = at.to_socket_addrs().map_err(|error| refused(format!("failed to resolve `{at}`: {error}; name an address")))?;
        let addresses: Vec<SocketAddr> = resolved.collect();
        if settings.http.tokens.is_empty()
            && let Some(public) = addresses.iter().find(|address| !address.ip().is_loopback())
        {
            return Err(refused(format!(
                "HTTP at `{public}` would let everybody who reaches it do everything: make a token (`taskhost token new NAME --scope read`) \
                 and put its lines into taskhost.toml, or answer at a loopback address such as `127.0.0.1:{}`",
                public.port()
            )));
        }
        let listener = TcpListener::bind(&*addresses).map_err(|error| {
            refused(format!("failed to listen at `{at}`: {error}; is another program there? choose another address by --http"))
        })?;
        let unusable = |error: io::Error| refused(format!("failed to listen at `{at}`: {error}"));
        listener.set_nonblocking(true).map_err(unusable)?;
        let address = listener.local_addr().map_err(unusable)?;
        let tls = settings.http.tls.clone().map(|(certificates, key)| Tls::load(certificates, key)).transpose().map_err(refused)?;
        let app = Arc::new(App::new(settings.clone(), observed, stop.drain.clone()));
        Ok(Self { listener, address, tls: tls.map(Arc::new), app })
    }

    /// Such as `http://127.0.0.1:8080`.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls.is_some() { "https" } else { "http" }, self.address)
    }

    /// Serves until `stop.end`. The broker is waited for meanwhile. A broker that can never be used ends it.
    pub async fn run(self, stop: ServerStop) -> Result<(), OpsError> {
        let Self { listener, address: _, tls, app } = self;
        let unusable = |error: io::Error| OpsError::Machine(format!("failed to use the listener of HTTP: {error}"));
        let listener = tokio::net::TcpListener::from_std(listener).map_err(unusable)?;
        if app.access.is_open() {
            tracing::info!("no token is set: HTTP answers this machine only, and lets it do everything");
        }
        let router = routes::router(&app);
        let mut beside = JoinSet::new();
        let accepting = accept(listener, tls, router, Arc::clone(&app), stop.end.clone());
        let broker = follow_broker(Arc::clone(&app));
        beside.spawn(accepting);
        let ended = tokio::select! {
            ended = broker => ended,
            _ = beside.join_next() => Ok(()),
        };
        stop.end.cancel();
        while beside.join_next().await.is_some() {}
        app.tasks.close();
        _ = tokio::time::timeout(LAST, app.tasks.wait()).await;
        ended
    }
}

/// Connects, then notes whether the broker answers, without end.
async fn follow_broker(app: Arc<App>) -> Result<(), OpsError> {
    let ops = Ops::connect_patiently(&app.settings, |error, delay| {
        tracing::warn!(%error, retry_in = units::show_duration(delay), "HTTP: the broker is not reachable, this server keeps trying");
    })
    .await?;
    let (producer, enqueuing) = Producer::new(ops.clone());
    app.connect(ops.clone(), producer);
    let looking = async {
        loop {
            if let Ok(Ok(_)) = tokio::time::timeout(LOOK, ops.now()).await {
                app.broker_answered();
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    let operations = operations::run(Arc::clone(&app), ops.clone(), app.drain.clone());
    tokio::join!(enqueuing, looking, operations);
    Ok(())
}

async fn accept(listener: tokio::net::TcpListener, tls: Option<Arc<Tls>>, router: Router, app: Arc<App>, end: CancellationToken) {
    let room = Arc::new(Semaphore::new(app.settings.http.connections.min(Semaphore::MAX_PERMITS)));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            let place = Arc::clone(&room).acquire_owned().await;
            (listener.accept().await, place)
        };
        let ((stream, peer), place) = tokio::select! {
            (accepted, place) = accepted => match (accepted, place) {
                (Ok(accepted), Ok(place)) => (accepted, place),
                (Err(error), _) => {
                    tracing::warn!(%error, "HTTP: failed to accept a connection; raise the limit of open files");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                (_, Err(_closed)) => break,
            },
            Some(_ended) = connections.join_next() => continue,
            () = end.cancelled() => break,
        };
        let (router, tls, watcher) = (router.clone(), tls.clone(), graceful.watcher());
        connections.spawn(async move {
            _ = stream.set_nodelay(true);
            match tls {
                None => serve(stream, peer, router, watcher).await,
                Some(tls) => match tokio::time::timeout(HEAD, tls.accept(stream)).await {
                    Ok(Ok(stream)) => serve(stream, peer, router, watcher).await,
                    Ok(Err(error)) => tracing::debug!(%peer, %error, "HTTP: no TLS came about"),
                    Err(_slow) => tracing::debug!(%peer, "HTTP: TLS took too long"),
                },
            }
            drop(place);
        });
    }
    // Connections that are idle end at once, the others with their requests.
    let requests = async {
        graceful.shutdown().await;
        while connections.join_next().await.is_some() {}
    };
    if tokio::time::timeout(LAST, requests).await.is_err() {
        tracing::info!("HTTP: requests were cut off, they took too long");
    }
}

/// The router, told who asks. It is shared by all connections: a layer of its own for each would be a copy of all routes.
struct Told {
    peer: Peer,
    router: TowerToHyperService<Router>,
}

impl Service<Request<Incoming>> for Told {
    type Response = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Response;
    type Error = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Error;
    type Future = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.peer);
        self.router.call(request)
    }
}

async fn serve<S>(stream: S, peer: SocketAddr, router: Router, watcher: hyper_util::server::graceful::Watcher)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = Told { peer: Peer(peer.ip().to_canonical()), router: TowerToHyperService::new(router) };
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEAD_BYTES).max_headers(HEADERS);
    let connection = builder.serve_connection(TokioIo::new(Patient::new(stream)), service);
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%peer, %error, "HTTP: a connection broke off");
    }
}
