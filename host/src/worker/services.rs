//! What a guest asks of the broker: each question hops to the control runtime and is answered within a bound.
//!
//! guest (its own runtime) → `control` → broker → guest.
//!
//! Invariant: a broker that is away is an error the guest sees, never a wait without end and never a trap.

use std::{future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;

use super::Shared;
use crate::engine::{KvGrant, LogLine, ServiceError, Services};
use taskhost_broker::{KvError, KvRoom};
use taskhost_core::task::{Progress, QueueName, Task, TaskId};

/// How long the broker may take for one question of a guest.
const ANSWER: Duration = Duration::from_secs(5);
/// How long an ended attempt waits for its last progress to be shown.
const LAST_WORD: Duration = Duration::from_secs(1);

/// The services of one attempt.
pub(super) struct AttemptServices {
    shared: Arc<Shared>,
    plugin: Arc<str>,
    room: KvRoom,
    queue: QueueName,
    task: TaskId,
}

impl AttemptServices {
    /// `kv`: what the plugin's store may hold; `None` where there is no policy, and so nobody to ask.
    pub(super) fn new(shared: &Arc<Shared>, plugin: &str, kv: Option<KvGrant>, task: &Task) -> Self {
        let room = kv.map_or(KvRoom::UNBOUNDED, |KvGrant { bytes, keys }| KvRoom { bytes, keys });
        Self { shared: shared.clone(), plugin: plugin.into(), room, queue: task.queue.clone(), task: task.id.clone() }
    }

    /// Runs `ask` on the control runtime.
    async fn ask<T, F, A>(&self, ask: A) -> Result<T, ServiceError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, KvError>> + Send,
        A: FnOnce(Arc<Shared>, Arc<str>) -> F + Send + 'static,
    {
        let (shared, plugin) = (self.shared.clone(), self.plugin.clone());
        let answer = async move {
            // Bounded, so that bodies which only talk to their kv leave room for claims and finishes.
            let _turn = shared.kv_turns.acquire().await;
            ask(shared.clone(), plugin).await
        };
        let asked = self.shared.tracker.spawn_on(tokio::time::timeout(ANSWER, answer), &self.shared.control);
        match asked.await {
            Ok(Ok(Ok(value))) => Ok(value),
            Ok(Ok(Err(KvError::Full(text)))) => Err(ServiceError::Full(text)),
            Ok(Ok(Err(KvError::Invalid(text)))) => Err(ServiceError::Invalid(text)),
            Ok(Ok(Err(KvError::Unavailable(text)))) => Err(ServiceError::Unavailable(text)),
            Ok(Err(_)) => Err(ServiceError::Unavailable(format!("the broker did not answer within {} s", ANSWER.as_secs()))),
            Err(_) => Err(ServiceError::Unavailable("the worker is stopping".into())),
        }
    }

    /// Writes what was last said of the progress, if it is not written yet.
    pub(super) async fn flush(&self) {
        let Some(progress) = self.shared.progress.close(&self.queue, &self.task) else { return };
        let (shared, queue, task) = (self.shared.clone(), self.queue.clone(), self.task.clone());
        let write = async move { shared.broker.progress(&queue, &task, &progress).await };
        let written = self.shared.tracker.spawn_on(tokio::time::timeout(LAST_WORD, write), &self.shared.control).await;
        if !matches!(written, Ok(Ok(Ok(())))) {
            tracing::debug!(id = %self.task, "its last progress was not written: the broker is away");
        }
    }
}

#[async_trait]
impl Services for AttemptServices {
    async fn kv_get(&self, key: &str) -> Result<Option<Vec<u8>>, ServiceError> {
        let key = key.to_owned();
        self.ask(async move |shared, plugin| shared.broker.kv_get(&plugin, &key).await).await
    }

    async fn kv_set(&self, key: &str, value: Vec<u8>) -> Result<(), ServiceError> {
        let (key, room) = (key.to_owned(), self.room);
        self.ask(async move |shared, plugin| shared.broker.kv_set(&plugin, &key, &value, room).await).await
    }

    async fn kv_remove(&self, key: &str) -> Result<bool, ServiceError> {
        let key = key.to_owned();
        self.ask(async move |shared, plugin| shared.broker.kv_remove(&plugin, &key).await).await
    }

    async fn kv_increment(&self, key: &str, by: i64) -> Result<i64, ServiceError> {
        let (key, room) = (key.to_owned(), self.room);
        self.ask(async move |shared, plugin| shared.broker.kv_increment(&plugin, &key, by, room).await).await
    }

    async fn kv_keys(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, ServiceError> {
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        self.ask(async move |shared, plugin| shared.broker.kv_keys(&plugin, &prefix, after.as_deref(), limit).await).await
    }

    fn progress(&self, progress: Progress) {
        self.shared.progress.say(&self.queue, &self.task, progress);
    }

    fn log(&self, line: &LogLine) {
        tracing::debug!(
            target: "taskhost::body",
            id = %self.task, attempt = line.attempt, plugin = %self.plugin, queue = %self.queue,
            body_level = line.level, fields = ?line.fields, "{}", line.message
        );
    }
}
