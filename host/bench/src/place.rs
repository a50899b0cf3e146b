//! The place of the benchmark's tasks: the user's broker, with a prefix or a file that nobody else uses.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use taskhost_broker::{
    Broker, BrokerAddress, BrokerSettings, Tasks,
    redis::{RedisBroker, ServerLoad},
    sqlite::SqliteBroker,
};
use taskhost_core::task::QueueName;
use tokio::time::Instant;

use crate::error::BenchError;

/// The time for each task in which Redis rearranges the table of its keys: some 10 s for 5,000,000.
const REARRANGED: Duration = Duration::from_micros(4);
/// The time limit for the server to free unlinked keys.
const FREED: Duration = Duration::from_secs(5);

pub enum Place {
    Redis { url: String, bounds: BrokerSettings, broker: Arc<RedisBroker> },
    Sqlite { path: PathBuf, bounds: BrokerSettings, broker: Arc<SqliteBroker> },
}

/// Without the address: it may hold a password.
impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Redis { broker, .. } => write!(f, "Place({broker:?})"),
            Self::Sqlite { path, .. } => write!(f, "Place({})", path.display()),
        }
    }
}

impl Place {
    /// A place beside the tasks that live at `address`.
    pub async fn open(address: &BrokerAddress, bounds: &BrokerSettings) -> Result<Self, BenchError> {
        let name = format!("bench-{}-{:06x}", std::process::id(), fastrand::u32(..) >> 8);
        Ok(match address {
            BrokerAddress::Redis(url) => {
                let prefix: String = format!("{}-{name}", bounds.prefix);
                let bounds = BrokerSettings { prefix: prefix[prefix.len().saturating_sub(32)..].to_owned(), ..bounds.clone() };
                let broker = Arc::new(RedisBroker::connect(url.reveal(), bounds.clone()).await?);
                Self::Redis { url: url.reveal().to_owned(), bounds, broker }
            }
            BrokerAddress::Sqlite(beside) => {
                let mut path = beside.clone().into_os_string();
                path.push(format!(".{name}"));
                let (path, bounds) = (PathBuf::from(path), bounds.clone());
                let broker = Arc::new(SqliteBroker::open(&path, bounds.clone())?);
                Self::Sqlite { path, bounds, broker }
            }
        })
    }

    pub(crate) fn broker(&self) -> Arc<dyn Broker> {
        match self {
            Self::Redis { broker, .. } => broker.clone(),
            Self::Sqlite { broker, .. } => broker.clone(),
        }
    }

    /// Another handle on the same place, like that of another process.
    pub(crate) async fn again(&self) -> Result<Arc<dyn Broker>, BenchError> {
        Ok(match self {
            Self::Redis { url, bounds, .. } => Arc::new(RedisBroker::connect(url, bounds.clone()).await?),
            Self::Sqlite { path, bounds, .. } => Arc::new(SqliteBroker::open(path, bounds.clone())?),
        })
    }

    /// Another handle that keeps results for this long.
    pub(crate) async fn keeping(&self, result_ttl: Duration) -> Result<Arc<dyn Broker>, BenchError> {
        let with = |bounds: &BrokerSettings| BrokerSettings { result_ttl, ..bounds.clone() };
        Ok(match self {
            Self::Redis { url, bounds, .. } => Arc::new(RedisBroker::connect(url, with(bounds)).await?),
            Self::Sqlite { path, bounds, .. } => Arc::new(SqliteBroker::open(path, with(bounds))?),
        })
    }

    pub(crate) async fn about(&self) -> Result<String, BenchError> {
        Ok(self.broker().check().await?.about)
    }

    /// Passes the place to a child process in the environment, because all users can see the arguments of a process.
    pub(crate) fn variables(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Redis { url, bounds, .. } => vec![("TASKHOST_BROKER", url.clone()), ("TASKHOST_PREFIX", bounds.prefix.clone())],
            Self::Sqlite { path, .. } => vec![("TASKHOST_BROKER", format!("sqlite:{}", path.display()))],
        }
    }

    /// The server's usage; `None` without a server.
    pub(crate) async fn load(&self) -> Result<Option<ServerLoad>, BenchError> {
        match self {
            Self::Redis { broker, .. } => Ok(Some(broker.load().await?)),
            Self::Sqlite { .. } => Ok(None),
        }
    }

    /// Waits until the server has rearranged its tables after a queue grew by so many tasks. So a deep queue is measured as one that has long been
    /// deep.
    pub(crate) async fn until_calm(&self, queue: &QueueName, grown: usize) -> Result<(), BenchError> {
        if let Self::Redis { broker, .. } = self {
            tokio::time::sleep(REARRANGED * u32::try_from(grown).unwrap_or(u32::MAX)).await;
            broker.until_rearranged(queue).await?;
        }
        Ok(())
    }

    /// Makes it empty for the next part.
    pub(crate) async fn clear(&self) -> Result<(), BenchError> {
        match self {
            Self::Redis { broker, .. } => {
                broker.erase().await?;
                let deadline = Instant::now() + FREED;
                while broker.load().await?.unlinking > 0 && Instant::now() < deadline {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            // Ended tasks stay. They are behind an index and cost the next part nothing.
            Self::Sqlite { broker, .. } => {
                for queue in broker.queues().await? {
                    broker.purge(&queue.queue).await?;
                }
            }
        }
        Ok(())
    }

    /// Removes everything.
    pub async fn close(&self) -> Result<(), BenchError> {
        match self {
            Self::Redis { broker, .. } => Ok(broker.erase().await?),
            Self::Sqlite { path, .. } => {
                for suffix in ["", "-wal", "-shm"] {
                    let mut file = path.clone().into_os_string();
                    file.push(suffix);
                    remove(Path::new(&file))?;
                }
                Ok(())
            }
        }
    }
}

fn remove(file: &Path) -> Result<(), BenchError> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(BenchError::Failed(format!("can't remove the benchmark's own file: {error}; delete it: `{}`", file.display())))
        }
        _ => Ok(()),
    }
}
