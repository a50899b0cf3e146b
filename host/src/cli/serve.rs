//! `serve`: settings → a listener → the HTTP API, until a signal stops it.

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::failure::Failure;
use crate::{
    config::Settings,
    serve::{Observed, ServeError, Server, ServerStop},
    telemetry::traces::Traces,
};

/// Where HTTP is answered.
#[derive(Debug, Args)]
pub(super) struct HttpArgs {
    /// Answer HTTP here: HOST:PORT, such as 127.0.0.1:8080
    #[arg(long, value_name = "ADDRESS")]
    http: Option<String>,
    /// Answer HTTP over TLS with the certificates in this PEM file
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<String>,
    /// The PEM file of the private key for --tls-cert
    #[arg(long, value_name = "FILE")]
    tls_key: Option<String>,
}

impl HttpArgs {
    /// The options as text, which is parsed together with the file and the environment.
    pub(super) fn flags(&self) -> impl Iterator<Item = (&'static str, String)> {
        let given = [("http", &self.http), ("tls_cert", &self.tls_cert), ("tls_key", &self.tls_key)];
        given.into_iter().filter_map(|(key, value)| Some((key, value.clone()?)))
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  taskhost serve --http 127.0.0.1:8080
  curl -d '{\"task\":\"add\",\"args\":[1,1]}' 'localhost:8080/v1/tasks?wait=5s'

It runs no tasks. `taskhost worker --http ADDRESS` answers HTTP beside its work. docs/http.md describes the API.")]
pub(super) struct ServeArgs {
    #[command(flatten)]
    pub(super) http: HttpArgs,
}

pub(super) async fn call(settings: &Settings) -> Result<(), Failure> {
    let stop = ServerStop::default();
    let traces = Traces::from_environment().map_err(Failure::Usage)?;
    let observed = Observed { metrics: None, traces: traces.clone() };
    let server = Server::bind(settings, observed, &stop)?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), broker = %settings.broker, at = server.url(), "taskhost answers HTTP");
    let running = server.run(stop.clone());
    let done = tokio::select! {
        ended = running => ended.map_err(Failure::from),
        signals = stopped_by_signals(&stop) => signals,
    };
    if let Some(traces) = traces {
        traces.finish();
    }
    done
}

/// The first signal ends the server gently. It returns at the second one only.
async fn stopped_by_signals(stop: &ServerStop) -> Result<(), Failure> {
    let listen = |kind| {
        signal(kind).map_err(|error| Failure::Failed(format!("failed to listen for signals: {error}; raise the limit of open files")))
    };
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    for _ in 0..2 {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping: requests under way may end");
        stop.drain.cancel();
        stop.end.cancel();
    }
    Ok(())
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Self {
        match error {
            ServeError::Settings(text) => Self::Usage(text),
            ServeError::Ops(error) => error.into(),
        }
    }
}
