//! The network: resolves names, dials addresses, and encrypts connections.
//!
//! Invariant: nothing here decides which addresses may be reached. `http` has checked an address before it is dialled.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use async_trait::async_trait;
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use tokio::{net::TcpStream, sync::Semaphore};
use wasmtime_wasi_http::Error;

/// The most names that all guests look up at once.
const LOOKUPS: usize = 128;

/// Resolves and dials: by the system, except in tests.
#[async_trait]
pub trait Network: fmt::Debug + Send + Sync {
    /// All addresses of a name.
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;
    /// Only ever called with an address that was checked.
    async fn dial(&self, address: SocketAddr) -> io::Result<TcpStream>;
}

/// The system's resolver and sockets.
#[derive(Debug, Clone, Copy, Default)]
pub struct System;

#[async_trait]
impl Network for System {
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(tokio::net::lookup_host((host, port)).await?.collect())
    }

    async fn dial(&self, address: SocketAddr) -> io::Result<TcpStream> {
        TcpStream::connect(address).await
    }
}

/// The network, and one TLS configuration for all guests, made at the first use.
#[derive(Debug)]
pub(super) struct Outside {
    pub(super) network: Arc<dyn Network>,
    pub(super) lookups: Semaphore,
    tls: OnceLock<Result<Arc<ClientConfig>, String>>,
}

impl Outside {
    pub(super) fn new(network: Arc<dyn Network>) -> Arc<Self> {
        Arc::new(Self { network, lookups: Semaphore::new(LOOKUPS), tls: OnceLock::new() })
    }

    pub(super) fn tls(&self) -> Result<Arc<ClientConfig>, Error> {
        let made = self.tls.get_or_init(|| {
            let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.into() };
            let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(|error| error.to_string())?
                .with_root_certificates(roots)
                .with_no_client_auth();
            Ok(Arc::new(config))
        });
        made.clone().map_err(|error| Error::InternalError(Some(error)))
    }
}
