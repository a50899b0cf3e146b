//! TLS with a certificate from files. Renewed files are used without a restart.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// How often the files are looked at, at most.
const LOOK: Duration = Duration::from_secs(10);

/// A certificate and its key.
pub(super) struct Tls {
    certificates: PathBuf,
    key: PathBuf,
    loaded: Mutex<Loaded>,
}

struct Loaded {
    config: Arc<ServerConfig>,
    /// When the files were changed.
    stamps: [Option<SystemTime>; 2],
    looked: Instant,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("certificates", &self.certificates).finish_non_exhaustive()
    }
}

impl Tls {
    pub(super) fn load(certificates: PathBuf, key: PathBuf) -> Result<Self, String> {
        let stamps = [stamp(&certificates), stamp(&key)];
        let config = config(&certificates, &key)?;
        Ok(Self { certificates, key, loaded: Mutex::new(Loaded { config, stamps, looked: Instant::now() }) })
    }

    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        TlsAcceptor::from(self.newest()).accept(stream).await
    }

    /// The configuration of the files as they are now. If they can't be used, that of before.
    fn newest(&self) -> Arc<ServerConfig> {
        let mut loaded = self.loaded.lock();
        if loaded.looked.elapsed() >= LOOK {
            loaded.looked = Instant::now();
            let stamps = [stamp(&self.certificates), stamp(&self.key)];
            if stamps != loaded.stamps {
                match config(&self.certificates, &self.key) {
                    Ok(config) => {
                        tracing::info!(certificates = %self.certificates.display(), "HTTP: the renewed certificate is used");
                        (loaded.config, loaded.stamps) = (config, stamps);
                    }
                    Err(why) => tracing::warn!("HTTP: the certificate of before is used: {why}"),
                }
            }
        }
        Arc::clone(&loaded.config)
    }
}

fn stamp(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|found| found.modified()).ok()
}

fn config(certificates: &Path, key: &Path) -> Result<Arc<ServerConfig>, String> {
    let chain = CertificateDer::pem_file_iter(certificates).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|error| format!("failed to read the certificates in `{}`: {error}; they are PEM", certificates.display()))?;
    if chain.is_empty() {
        return Err(format!("no certificate stands in `{}`: it is a PEM file, the server's own certificate first", certificates.display()));
    }
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| format!("failed to read the private key in `{}`: {error}; it is PEM", key.display()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("failed to set up TLS: {error}"))?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| format!("the key in `{}` does not fit `{}`: {error}", key.display(), certificates.display()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
