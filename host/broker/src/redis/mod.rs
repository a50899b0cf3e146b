//! The broker on Redis 7.0 or later: standalone, by Sentinel, in a cluster. docs/protocol.md says what stands in it.
//!
//! address → connection → script → values. Each verb is one Lua script (`lua/*.lua`), and so one atomic step; the files here
//! are by who asks: producers, workers, those who look, schedules, what is shared.
//!
//! Invariant: no key is named outside keys.rs and the scripts; no error or debug text carries a password.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use redis::{Value, aio::PubSub};
use tokio::sync::mpsc;

use super::{
    Broker, BrokerError, BrokerSettings, CancelReply, Claimed, DeleteReply, Durability, Enqueued, Extended, Finish, FinishReply, Fired,
    Health, Incarnation, KvError, KvRoom, Lease, Leased, QueueView, Result, RetryReply, Schedule, TaskFilter, TaskPage, WorkerInfo,
};
use crate::{
    catalogue::Catalogue,
    task::{Millis, NewTask, Progress, QueueName, TaskId, TaskName, TaskView},
};

mod address;
mod connection;
mod fault;
mod health;
mod keys;
mod listing;
mod load;
mod producers;
mod schedules;
mod scripts;
mod shared;
mod url;
mod values;
mod views;
mod waiting;
mod workers;

use address::Address;
use connection::{Link, Target};
use keys::Keys;
pub use load::ServerLoad;
use scripts::Call;
pub use url::RedisUrl;
use waiting::Waiting;

/// A handle on one Redis; cheap to share, reconnects by itself.
pub struct RedisBroker {
    settings: BrokerSettings,
    keys: Keys,
    /// The address without its password.
    at: Arc<str>,
    target: Arc<Target>,
    commands: Link,
    heartbeats: Link,
    waiting: Waiting,
    replicated: Replicated,
    listeners: Listeners,
    met: Met,
    /// When the catalogue was last written, and with what.
    offered: Mutex<Option<(Instant, u64)>>,
}

impl fmt::Debug for RedisBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBroker").field("at", &self.at).field("kind", &self.target).finish_non_exhaustive()
    }
}

impl RedisBroker {
    /// Connects, and refuses at once what will not do: unreachable, wrong password, no Redis, too old, another schema.
    pub async fn connect(url: &str, settings: BrokerSettings) -> Result<Self> {
        let url = RedisUrl::parse(url).map_err(BrokerError::Misconfigured)?;
        let address = Address::of(&url)?;
        let keys = Keys::new(&settings.prefix)?;
        let at: Arc<str> = url.place().into();
        let target = Arc::new(Target::new(&address)?);
        let link = || Link::new(Arc::clone(&target), Arc::clone(&at));
        let (commands, heartbeats) = (link(), link());
        let broker = Self {
            settings,
            keys,
            at,
            target,
            commands,
            heartbeats,
            waiting: Waiting::default(),
            replicated: Replicated::default(),
            listeners: Listeners::default(),
            met: Met::default(),
            offered: Mutex::default(),
        };
        match broker.meet_server().await {
            Err(error @ (BrokerError::Unavailable(_) | BrokerError::Misconfigured(_))) => {
                Err(broker.target.look_closer(&broker.at).await.unwrap_or(error))
            }
            met => met.map(|_| broker),
        }
    }

    /// Calls a script whose effect is acknowledged to somebody: as safe as `durability` asks for.
    async fn commit(&self, call: &Call) -> Result<Value> {
        match self.settings.durability {
            Durability::Master => self.commands.call(call).await,
            Durability::Replica => {
                // One that is given up midway is not put back: its WAIT may still hold it.
                let link = self.replicated.take().unwrap_or_else(|| Link::new(Arc::clone(&self.target), Arc::clone(&self.at)));
                let answer = link.call_replicated(call).await;
                self.replicated.put(link);
                answer
            }
        }
    }
}

/// Connections that wait for replicas, one a batch under way; those that nobody uses now.
#[derive(Debug, Default)]
struct Replicated(Mutex<Vec<Link>>);

impl Replicated {
    const KEPT: usize = 8;

    fn take(&self) -> Option<Link> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn put(&self, link: Link) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < Self::KEPT {
            kept.push(link);
        }
    }
}

/// Connections that have told somebody of a task's end, each with the channel that it still hears of; a few are kept.
#[derive(Default)]
struct Listeners(Mutex<Vec<(PubSub, String)>>);

impl Listeners {
    const KEPT: usize = 16;

    fn take(&self) -> Option<(PubSub, String)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn put(&self, connection: PubSub, channel: String) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < Self::KEPT {
            kept.push((connection, channel));
        }
    }
}

/// Queues that this process has put in the list of queues, and when.
#[derive(Debug, Default)]
struct Met(Mutex<HashMap<QueueName, Instant>>);

impl Met {
    /// How long it is believed: somebody may purge the queue meanwhile.
    const FRESH: Duration = Duration::from_secs(10);

    fn is_fresh(&self, queue: &QueueName) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(queue).is_some_and(|at| at.elapsed() < Self::FRESH)
    }

    fn note(&self, queue: &QueueName) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(queue.clone(), Instant::now());
    }

    fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn forget(&self, queue: &QueueName) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(queue);
    }
}

#[async_trait]
impl Broker for RedisBroker {
    async fn check(&self) -> Result<Health> {
        self.meet_channels().await?;
        self.meet_server().await
    }

    async fn enqueue(&self, tasks: &[NewTask]) -> Result<Vec<Enqueued>> {
        self.enqueue_all(tasks).await
    }

    async fn await_end(&self, queue: Option<&QueueName>, id: &TaskId, limit: Duration) -> Result<Option<TaskView>> {
        self.wait_for_end(queue, id, limit).await
    }

    async fn find(&self, queue: Option<&QueueName>, id: &TaskId) -> Result<Option<TaskView>> {
        match queue {
            Some(queue) => self.find_in(queue, id).await,
            None => self.find_anywhere(id).await,
        }
    }

    async fn log(&self, queue: Option<&QueueName>, id: &TaskId) -> Result<Option<String>> {
        self.read_log(queue, id).await
    }

    async fn list(&self, filter: &TaskFilter, from: Option<&str>, limit: usize) -> Result<TaskPage> {
        self.list_page(filter, from, limit).await
    }

    async fn cancel(&self, queue: &QueueName, id: &TaskId) -> Result<CancelReply> {
        self.cancel_one(queue, id).await
    }

    async fn retry(&self, queue: &QueueName, id: &TaskId) -> Result<RetryReply> {
        self.retry_one(queue, id).await
    }

    async fn delete(&self, queue: &QueueName, id: &TaskId) -> Result<DeleteReply> {
        self.delete_one(queue, id).await
    }

    async fn queues(&self) -> Result<Vec<QueueView>> {
        self.all_queue_views().await
    }

    async fn pause(&self, queue: &QueueName) -> Result<()> {
        self.pause_queue(queue).await
    }

    async fn resume(&self, queue: &QueueName) -> Result<()> {
        self.resume_queue(queue).await
    }

    async fn purge(&self, queue: &QueueName) -> Result<u64> {
        self.purge_queue(queue).await
    }

    async fn register(&self, queue: &QueueName, lease: Duration) -> Result<Incarnation> {
        self.new_incarnation(queue, lease).await
    }

    async fn claim(&self, who: &Incarnation, lease: Duration, limit: usize, startable: &[TaskName]) -> Result<Lease<Claimed>> {
        self.claim_some(who, lease, limit, startable).await
    }

    async fn extend(&self, who: &Incarnation, lease: Duration) -> Result<Lease<Extended>> {
        self.heartbeat(who, lease).await
    }

    async fn held(&self, who: &Incarnation) -> Result<Vec<Leased>> {
        self.held_by(who).await
    }

    async fn finish(&self, who: &Incarnation, finishes: &[Finish]) -> Result<FinishReply> {
        self.finish_all(who, finishes).await
    }

    async fn leave(&self, who: &Incarnation) -> Result<()> {
        self.leave_for_good(who).await
    }

    async fn expire(&self, who: &Incarnation) -> Result<()> {
        self.expire_now(who).await
    }

    async fn wait(&self, queue: &QueueName, limit: Duration) -> Result<()> {
        self.wait_for_work(queue, limit).await
    }

    async fn cancellations(&self, sender: mpsc::Sender<(QueueName, TaskId)>) -> Result<()> {
        self.tell_cancellations(sender).await
    }

    async fn progress(&self, queue: &QueueName, id: &TaskId, progress: &Progress) -> Result<()> {
        self.note_progress(queue, id, progress).await
    }

    async fn relay(&self, queue: &QueueName) -> Result<usize> {
        self.relay_all(queue).await
    }

    async fn sweep(&self, queue: &QueueName, offered: &[TaskName]) -> Result<()> {
        self.sweep_bounds(queue, offered).await
    }

    async fn announce(&self, worker: &WorkerInfo, ttl: Duration) -> Result<()> {
        self.note_worker(worker, ttl).await
    }

    async fn retire(&self, worker: &str) -> Result<()> {
        self.forget_worker(worker).await
    }

    async fn workers(&self) -> Result<Vec<WorkerInfo>> {
        self.all_workers().await
    }

    async fn catalogue(&self) -> Result<Catalogue> {
        self.all_offers().await
    }

    async fn kv_get(&self, plugin: &str, key: &str) -> Result<Option<Vec<u8>>, KvError> {
        self.get_value(plugin, key).await
    }

    async fn kv_set(&self, plugin: &str, key: &str, value: &[u8], room: KvRoom) -> Result<(), KvError> {
        self.set_value(plugin, key, value, room).await
    }

    async fn kv_remove(&self, plugin: &str, key: &str) -> Result<bool, KvError> {
        self.remove_value(plugin, key).await
    }

    async fn kv_increment(&self, plugin: &str, key: &str, by: i64, room: KvRoom) -> Result<i64, KvError> {
        self.increment_value(plugin, key, by, room).await
    }

    async fn kv_keys(&self, plugin: &str, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, KvError> {
        self.list_keys(plugin, prefix, after, limit).await
    }

    async fn put_schedule(&self, schedule: &Schedule) -> Result<()> {
        self.keep_schedule(schedule).await
    }

    async fn schedules(&self) -> Result<Vec<Schedule>> {
        self.all_schedules().await
    }

    async fn pause_schedule(&self, name: &str, paused: bool) -> Result<bool> {
        self.set_paused(name, paused).await
    }

    async fn remove_schedule(&self, name: &str) -> Result<bool> {
        self.forget_schedule(name).await
    }

    async fn fire(&self, schedule: &Schedule, due: Millis, task: &NewTask) -> Result<Fired> {
        self.fire_once(schedule, due, task).await
    }

    async fn now(&self) -> Result<Millis> {
        self.server_time().await
    }
}
