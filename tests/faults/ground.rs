//! The broker that a scenario runs on: a Redis with its append-only file, or a SQLite file. Also the scenarios' macro.

use std::{path::PathBuf, sync::Arc, time::Instant};

use taskhost_broker::{Broker, BrokerSettings, redis::RedisBroker, sqlite::SqliteBroker};
use tempfile::TempDir;

use super::fleet::END;
use crate::support::RedisServer;

/// The options of a server whose acknowledged writes must outlive its SIGKILL.
pub(crate) const DURABLE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

pub(crate) enum Ground {
    Redis(RedisServer),
    Sqlite(TempDir),
}

impl Ground {
    pub(crate) fn redis() -> Self {
        Self::Redis(RedisServer::start_with(&DURABLE))
    }

    pub(crate) fn sqlite() -> Self {
        Self::Sqlite(TempDir::new().expect("a temporary directory"))
    }

    fn file(dir: &TempDir) -> PathBuf {
        dir.path().join("taskhost.db")
    }

    /// The value for `--broker`.
    pub(crate) fn address(&self) -> String {
        match self {
            Self::Redis(server) => server.url(),
            Self::Sqlite(dir) => format!("sqlite:{}", Self::file(dir).display()),
        }
    }

    /// A handle of the test, which no fault affects.
    pub(crate) async fn open(&self) -> Arc<dyn Broker> {
        self.open_with(BrokerSettings::default()).await
    }

    pub(crate) async fn open_with(&self, settings: BrokerSettings) -> Arc<dyn Broker> {
        match self {
            Self::Redis(server) => connect(&server.url(), settings).await,
            Self::Sqlite(dir) => Arc::new(SqliteBroker::open(Self::file(dir), settings).expect("open")),
        }
    }
}

/// Connects, and waits for a server that still reads its file.
pub(crate) async fn connect(url: &str, settings: BrokerSettings) -> Arc<dyn Broker> {
    let begun = Instant::now();
    loop {
        match RedisBroker::connect(url, settings.clone()).await {
            Ok(broker) => return Arc::new(broker),
            Err(error) => assert!(error.is_transient() && begun.elapsed() < END, "connect: {error:?}"),
        }
    }
}

/// Makes each scenario a test on every broker.
macro_rules! on_each_broker {
    ($($scenario:ident)*) => {
        mod redis {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
            async fn $scenario() {
                let _turn = crate::faults::fleet::turn().await;
                super::$scenario(&crate::faults::ground::Ground::redis()).await;
            })*
        }
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
            async fn $scenario() {
                let _turn = crate::faults::fleet::turn().await;
                super::$scenario(&crate::faults::ground::Ground::sqlite()).await;
            })*
        }
    };
}
pub(crate) use on_each_broker;
