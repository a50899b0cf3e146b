//! The handle on one Redis: its settings, keys and connections. The role files implement the roles on it.

use std::{
    collections::HashMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use redis::Value;

use super::{
    address::Address,
    connection::{Link, Target},
    ends::Ends,
    flows::FixedParts,
    keys::Keys,
    scripts::Call,
    url::RedisUrl,
    waiters::Waiting,
};
use crate::{
    error::{BrokerError, Result},
    settings::{BrokerSettings, Durability},
};
use taskhost_core::task::QueueName;

/// A handle on one Redis; cheap to share, reconnects by itself.
pub struct RedisBroker {
    pub(super) settings: BrokerSettings,
    pub(super) keys: Keys,
    /// The address without its password.
    pub(super) at: Arc<str>,
    pub(super) target: Arc<Target>,
    pub(super) commands: Link,
    pub(super) heartbeats: Link,
    pub(super) waiting: Waiting,
    pub(super) replicated: Replicated,
    pub(super) ends: Ends,
    pub(super) fixed: FixedParts,
    pub(super) met: Met,
    /// When the catalogue was last written, and the digest of what was written.
    pub(super) offered: Mutex<Option<(Instant, u64)>>,
}

impl fmt::Debug for RedisBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBroker").field("at", &self.at).field("kind", &self.target).finish_non_exhaustive()
    }
}

impl RedisBroker {
    /// A handle that has not connected yet.
    pub(super) fn new(url: &str, settings: BrokerSettings) -> Result<Self> {
        let url = RedisUrl::parse(url).map_err(BrokerError::Misconfigured)?;
        let address = Address::of(&url)?;
        let keys = Keys::new(&settings.prefix)?;
        let at: Arc<str> = url.place().into();
        let target = Arc::new(Target::new(&address)?);
        let link = || Link::new(Arc::clone(&target), Arc::clone(&at));
        let (commands, heartbeats) = (link(), link());
        let ends = Ends::new(Arc::clone(&target), Arc::clone(&at));
        Ok(Self {
            settings,
            keys,
            at,
            target,
            commands,
            heartbeats,
            waiting: Waiting::default(),
            replicated: Replicated::default(),
            ends,
            fixed: FixedParts::default(),
            met: Met::default(),
            offered: Mutex::default(),
        })
    }

    /// Makes sure that the queue is in the list of queues. It is added again from time to time, because a purge may have removed it.
    pub(super) async fn meet(&self, queue: &QueueName) -> Result<()> {
        if self.met.is_fresh(queue) {
            return Ok(());
        }
        self.commands.send(redis::cmd("SADD").arg(self.keys.shared("queues")).arg(queue.as_str())).await?;
        self.met.note(queue);
        Ok(())
    }

    /// Calls a script whose effect the caller acknowledges, as safely as `durability` asks for.
    pub(super) async fn commit(&self, call: &Call) -> Result<Value> {
        match self.settings.durability {
            Durability::Master => self.commands.call(call).await,
            Durability::Replica => {
                // A link whose caller is dropped midway is not put back: its WAIT may still block it.
                let link = self.replicated.take().unwrap_or_else(|| Link::new(Arc::clone(&self.target), Arc::clone(&self.at)));
                let answer = link.call_replicated(call).await;
                self.replicated.put(link);
                answer
            }
        }
    }
}

/// Idle connections for writes that wait for replicas. Each such write has one to itself.
#[derive(Debug, Default)]
pub(super) struct Replicated(Mutex<Vec<Link>>);

impl Replicated {
    const KEPT: usize = 8;

    pub(super) fn take(&self) -> Option<Link> {
        self.0.lock().pop()
    }

    pub(super) fn put(&self, link: Link) {
        let mut kept = self.0.lock();
        if kept.len() < Self::KEPT {
            kept.push(link);
        }
    }
}

/// When this process last added each queue to the list of queues.
#[derive(Debug, Default)]
pub(super) struct Met(Mutex<HashMap<QueueName, Instant>>);

impl Met {
    /// For this long a queue counts as listed, although a purge may remove it meanwhile.
    const FRESH: Duration = Duration::from_secs(10);

    pub(super) fn is_fresh(&self, queue: &QueueName) -> bool {
        self.0.lock().get(queue).is_some_and(|at| at.elapsed() < Self::FRESH)
    }

    pub(super) fn note(&self, queue: &QueueName) {
        self.0.lock().insert(queue.clone(), Instant::now());
    }

    pub(super) fn clear(&self) {
        self.0.lock().clear();
    }

    pub(super) fn forget(&self, queue: &QueueName) {
        self.0.lock().remove(queue);
    }
}
