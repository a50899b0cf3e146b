//! The services of an attempt: each question of a guest hops to the control runtime and is answered within a bound.
//!
//! guest (its own runtime) → `control` → broker → guest.
//!
//! Invariant: when the broker is away, the guest gets an error. It never waits without end and never traps.

use std::{future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{runtime::Handle, sync::Semaphore};
use tokio_util::task::TaskTracker;

use super::{
    held::Held,
    news::{LatestNews, LogSoFar},
};
use crate::engine::{KvGrant, ServiceError, Services};
use taskhost_broker::{Broker, KvError, KvRoom, Member};
use taskhost_core::task::{CodeId, LogLine, NewTask, Progress, QueueName};

/// How long the broker may take for one question of a guest.
const ANSWER: Duration = Duration::from_secs(5);
/// How long an ended attempt waits for its last progress to be written.
const LAST_PROGRESS: Duration = Duration::from_secs(1);
/// The most questions of guests that the broker is asked at once.
const TURNS: usize = 256;

/// The parts of the worker that serve the guests of all attempts.
pub(super) struct ServiceDesk {
    broker: Arc<dyn Broker>,
    news: Arc<LatestNews>,
    /// Bounds the questions under way, so that bodies which only use their kv leave room for claims and finishes.
    turns: Semaphore,
    tracker: TaskTracker,
    control: Handle,
}

impl ServiceDesk {
    /// `tracker` waits for the questions, which run on `control`.
    pub(super) fn new(broker: Arc<dyn Broker>, news: Arc<LatestNews>, tracker: TaskTracker, control: Handle) -> Self {
        Self { broker, news, turns: Semaphore::new(TURNS), tracker, control }
    }
}

impl ServiceDesk {
    /// Enqueues tasks beside everything else. A failure is only logged.
    pub(super) fn enqueue_soon(&self, tasks: Vec<NewTask>) {
        if tasks.is_empty() {
            return;
        }
        let broker = self.broker.clone();
        let enqueue = async move {
            match tokio::time::timeout(ANSWER, broker.enqueue(&tasks)).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::debug!(%error, "a hook is not told of what no step records"),
                Err(_slow) => tracing::debug!("a hook is not told of what no step records: the broker is slow"),
            }
        };
        self.tracker.spawn_on(enqueue, &self.control);
    }
}

/// The services of one attempt.
pub(super) struct AttemptServices {
    desk: Arc<ServiceDesk>,
    code: Arc<CodeId>,
    room: KvRoom,
    held: Arc<Held>,
    member: Member,
}

impl AttemptServices {
    /// `kv`: how much the plugin's store may hold; `None` without a policy, in which case the store has no bounds here.
    pub(super) fn new(desk: &Arc<ServiceDesk>, code: &Arc<CodeId>, kv: Option<KvGrant>, held: &Arc<Held>, member: &Member) -> Self {
        let room = kv.map_or(KvRoom::UNBOUNDED, |KvGrant { bytes, keys }| KvRoom { bytes, keys });
        Self { desk: desk.clone(), code: code.clone(), room, held: held.clone(), member: member.clone() }
    }

    fn queue(&self) -> &QueueName {
        &self.held.incarnation.queue
    }

    /// Runs `ask` on the control runtime.
    async fn ask<T, F, A>(&self, ask: A) -> Result<T, ServiceError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, KvError>> + Send,
        A: FnOnce(Arc<dyn Broker>, Arc<CodeId>) -> F + Send + 'static,
    {
        let (desk, code) = (self.desk.clone(), self.code.clone());
        let answer = async move {
            let _turn = desk.turns.acquire().await;
            ask(desk.broker.clone(), code).await
        };
        let asked = self.desk.tracker.spawn_on(tokio::time::timeout(ANSWER, answer), &self.desk.control);
        match asked.await {
            Ok(Ok(Ok(value))) => Ok(value),
            Ok(Ok(Err(KvError::Full(text)))) => Err(ServiceError::Full(text)),
            Ok(Ok(Err(KvError::Invalid(text)))) => Err(ServiceError::Invalid(text)),
            Ok(Ok(Err(KvError::Unavailable(text)))) => Err(ServiceError::Unavailable(text)),
            Ok(Err(_)) => Err(ServiceError::Unavailable(format!("the broker did not answer within {} s", ANSWER.as_secs()))),
            Err(_) => Err(ServiceError::Unavailable("the worker is stopping".into())),
        }
    }

    /// Writes the newest progress, if it is not written yet.
    pub(super) async fn flush(&self) {
        let Some(progress) = self.desk.news.close(self.queue(), &self.member.id) else { return };
        let (broker, queue, task) = (self.desk.broker.clone(), self.queue().clone(), self.member.id.clone());
        let write = async move { broker.progress(&queue, &task, &progress).await };
        let written = self.desk.tracker.spawn_on(tokio::time::timeout(LAST_PROGRESS, write), &self.desk.control).await;
        if !matches!(written, Ok(Ok(Ok(())))) {
            tracing::debug!(id = %self.member.id, "its last progress was not written: the broker is away");
        }
    }
}

#[async_trait]
impl Services for AttemptServices {
    async fn kv_get(&self, key: &str) -> Result<Option<Vec<u8>>, ServiceError> {
        let key = key.to_owned();
        self.ask(async move |broker, code| broker.kv_get(&code.plugin, &key).await).await
    }

    async fn kv_set(&self, key: &str, value: Vec<u8>) -> Result<(), ServiceError> {
        let (key, room) = (key.to_owned(), self.room);
        self.ask(async move |broker, code| broker.kv_set(&code.plugin, &key, &value, room).await).await
    }

    async fn kv_remove(&self, key: &str) -> Result<bool, ServiceError> {
        let key = key.to_owned();
        self.ask(async move |broker, code| broker.kv_remove(&code.plugin, &key).await).await
    }

    async fn kv_increment(&self, key: &str, by: i64) -> Result<i64, ServiceError> {
        let (key, room) = (key.to_owned(), self.room);
        self.ask(async move |broker, code| broker.kv_increment(&code.plugin, &key, by, room).await).await
    }

    async fn kv_keys(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, ServiceError> {
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        self.ask(async move |broker, code| broker.kv_keys(&code.plugin, &prefix, after.as_deref(), limit).await).await
    }

    fn progress(&self, progress: Progress) {
        self.desk.news.say(self.queue(), &self.member.id, |news| news.progress = Some(progress));
    }

    fn log(&self, line: &LogLine) {
        tracing::debug!(
            target: "taskhost::body",
            id = %self.member.id, attempt = line.attempt, plugin = %self.code.plugin, queue = %self.queue(),
            body_level = line.level, fields = ?line.fields, "{}", line.message
        );
    }

    fn log_so_far(&self, lines: String) {
        let log = LogSoFar { who: self.held.incarnation.clone(), member: self.member.clone(), lines };
        self.desk.news.say(self.queue(), &self.member.id, |news| news.log = Some(log));
    }
}
