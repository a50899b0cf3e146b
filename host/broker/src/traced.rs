//! Telemetry around a broker: each call is a debug span with its subject; its end is an event with the time it took or the failure.
//!
//! Drivers contain no telemetry. Arguments and results of tasks are never logged.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use tokio::sync::mpsc;
use tracing::{Instrument, Span, debug, debug_span};

use super::{
    directory::{Directory, Health, WorkerInfo},
    error::Result,
    kv::{Kv, KvError, KvRoom},
    lease::{Claimed, Extended, Finish, FinishReply, Incarnation, Lease, LeaseReply, Leased},
    listing::{TaskFilter, TaskPage},
    produce::{Enqueued, Produce},
    schedule::{Fired, Schedule, Schedules},
    tasks::{CancelReply, DeleteReply, QueueView, RetryReply, Tasks},
};
use taskhost_core::{
    catalogue::Catalogue,
    task::{Millis, NewTask, Progress, QueueName, TaskId, TaskName, TaskView},
};

/// A broker whose calls are traced.
pub struct Traced<B: ?Sized>(Arc<B>);

impl<B: ?Sized> Traced<B> {
    pub fn new(broker: Arc<B>) -> Self {
        Self(broker)
    }
}

impl<B: fmt::Debug + ?Sized> fmt::Debug for Traced<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Traced").field(&&*self.0).finish()
    }
}

/// Runs `call` in `span` and logs its end.
async fn told<T, E: fmt::Display>(span: Span, call: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let traced = async {
        let begun = Instant::now();
        let answer = call.await;
        let elapsed_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        match &answer {
            Ok(_) => debug!(elapsed_us, "done"),
            // The caller chooses the level at which it reports the failure.
            Err(error) => debug!(elapsed_us, %error, "failed"),
        }
        answer
    };
    traced.instrument(span).await
}

macro_rules! span {
    ($verb:literal $(, $($field:tt)*)?) => {
        debug_span!(target: "taskhost::broker", $verb $(, $($field)*)?)
    };
}

#[async_trait]
impl<B: Produce + ?Sized> Produce for Traced<B> {
    async fn enqueue(&self, tasks: &[NewTask]) -> Result<Vec<Enqueued>> {
        told(span!("enqueue", tasks = tasks.len()), self.0.enqueue(tasks)).await
    }

    async fn await_end(&self, queue: Option<&QueueName>, id: &TaskId, limit: Duration) -> Result<Option<TaskView>> {
        told(span!("await_end", %id), self.0.await_end(queue, id, limit)).await
    }
}

#[async_trait]
impl<B: Tasks + ?Sized> Tasks for Traced<B> {
    async fn find(&self, queue: Option<&QueueName>, id: &TaskId) -> Result<Option<TaskView>> {
        told(span!("find", %id), self.0.find(queue, id)).await
    }

    async fn log(&self, queue: Option<&QueueName>, id: &TaskId) -> Result<Option<String>> {
        told(span!("log", %id), self.0.log(queue, id)).await
    }

    async fn list(&self, filter: &TaskFilter, from: Option<&str>, limit: usize) -> Result<TaskPage> {
        told(span!("list", limit), self.0.list(filter, from, limit)).await
    }

    async fn cancel(&self, queue: &QueueName, id: &TaskId) -> Result<CancelReply> {
        told(span!("cancel", %queue, %id), self.0.cancel(queue, id)).await
    }

    async fn retry(&self, queue: &QueueName, id: &TaskId) -> Result<RetryReply> {
        told(span!("retry", %queue, %id), self.0.retry(queue, id)).await
    }

    async fn delete(&self, queue: &QueueName, id: &TaskId) -> Result<DeleteReply> {
        told(span!("delete", %queue, %id), self.0.delete(queue, id)).await
    }

    async fn queues(&self) -> Result<Vec<QueueView>> {
        told(span!("queues"), self.0.queues()).await
    }

    async fn pause(&self, queue: &QueueName) -> Result<()> {
        told(span!("pause", %queue), self.0.pause(queue)).await
    }

    async fn resume(&self, queue: &QueueName) -> Result<()> {
        told(span!("resume", %queue), self.0.resume(queue)).await
    }

    async fn purge(&self, queue: &QueueName) -> Result<u64> {
        told(span!("purge", %queue), self.0.purge(queue)).await
    }
}

#[async_trait]
impl<B: Lease + ?Sized> Lease for Traced<B> {
    async fn register(&self, queue: &QueueName, lease: Duration) -> Result<Incarnation> {
        told(span!("register", %queue), self.0.register(queue, lease)).await
    }

    async fn claim(&self, who: &Incarnation, lease: Duration, limit: usize, startable: &[TaskName]) -> Result<LeaseReply<Claimed>> {
        told(span!("claim", queue = %who.queue, limit), self.0.claim(who, lease, limit, startable)).await
    }

    async fn extend(&self, who: &Incarnation, lease: Duration) -> Result<LeaseReply<Extended>> {
        told(span!("extend", queue = %who.queue), self.0.extend(who, lease)).await
    }

    async fn held(&self, who: &Incarnation) -> Result<Vec<Leased>> {
        told(span!("held", queue = %who.queue), self.0.held(who)).await
    }

    async fn finish(&self, who: &Incarnation, finishes: &[Finish]) -> Result<FinishReply> {
        told(span!("finish", queue = %who.queue, tasks = finishes.len()), self.0.finish(who, finishes)).await
    }

    async fn leave(&self, who: &Incarnation) -> Result<()> {
        told(span!("leave", queue = %who.queue), self.0.leave(who)).await
    }

    async fn expire(&self, who: &Incarnation) -> Result<()> {
        told(span!("expire", queue = %who.queue), self.0.expire(who)).await
    }

    async fn wait(&self, queue: &QueueName, limit: Duration) -> Result<()> {
        told(span!("wait", %queue), self.0.wait(queue, limit)).await
    }

    async fn cancellations(&self, sender: mpsc::Sender<(QueueName, TaskId)>) -> Result<()> {
        told(span!("cancellations"), self.0.cancellations(sender)).await
    }

    async fn progress(&self, queue: &QueueName, id: &TaskId, progress: &Progress) -> Result<()> {
        told(span!("progress", %queue, %id), self.0.progress(queue, id, progress)).await
    }

    async fn relay(&self, queue: &QueueName) -> Result<usize> {
        told(span!("relay", %queue), self.0.relay(queue)).await
    }

    async fn sweep(&self, queue: &QueueName, offered: &[TaskName]) -> Result<()> {
        told(span!("sweep", %queue), self.0.sweep(queue, offered)).await
    }
}

#[async_trait]
impl<B: Directory + ?Sized> Directory for Traced<B> {
    async fn check(&self) -> Result<Health> {
        told(span!("check"), self.0.check()).await
    }

    async fn announce(&self, worker: &WorkerInfo, ttl: Duration) -> Result<()> {
        told(span!("announce", worker = %worker.id), self.0.announce(worker, ttl)).await
    }

    async fn retire(&self, worker: &str) -> Result<()> {
        told(span!("retire", worker), self.0.retire(worker)).await
    }

    async fn workers(&self) -> Result<Vec<WorkerInfo>> {
        told(span!("workers"), self.0.workers()).await
    }

    async fn catalogue(&self) -> Result<Catalogue> {
        told(span!("catalogue"), self.0.catalogue()).await
    }
}

#[async_trait]
impl<B: Kv + ?Sized> Kv for Traced<B> {
    async fn kv_get(&self, plugin: &str, key: &str) -> Result<Option<Vec<u8>>, KvError> {
        told(span!("kv_get", plugin), self.0.kv_get(plugin, key)).await
    }

    async fn kv_set(&self, plugin: &str, key: &str, value: &[u8], room: KvRoom) -> Result<(), KvError> {
        told(span!("kv_set", plugin), self.0.kv_set(plugin, key, value, room)).await
    }

    async fn kv_remove(&self, plugin: &str, key: &str) -> Result<bool, KvError> {
        told(span!("kv_remove", plugin), self.0.kv_remove(plugin, key)).await
    }

    async fn kv_increment(&self, plugin: &str, key: &str, by: i64, room: KvRoom) -> Result<i64, KvError> {
        told(span!("kv_increment", plugin), self.0.kv_increment(plugin, key, by, room)).await
    }

    async fn kv_keys(&self, plugin: &str, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, KvError> {
        told(span!("kv_keys", plugin), self.0.kv_keys(plugin, prefix, after, limit)).await
    }
}

#[async_trait]
impl<B: Schedules + ?Sized> Schedules for Traced<B> {
    async fn put_schedule(&self, schedule: &Schedule) -> Result<()> {
        told(span!("put_schedule", schedule = %schedule.name), self.0.put_schedule(schedule)).await
    }

    async fn schedules(&self) -> Result<Vec<Schedule>> {
        told(span!("schedules"), self.0.schedules()).await
    }

    async fn pause_schedule(&self, name: &str, paused: bool) -> Result<bool> {
        told(span!("pause_schedule", schedule = name, paused), self.0.pause_schedule(name, paused)).await
    }

    async fn remove_schedule(&self, name: &str) -> Result<bool> {
        told(span!("remove_schedule", schedule = name), self.0.remove_schedule(name)).await
    }

    async fn fire(&self, schedule: &Schedule, due: Millis, task: &NewTask) -> Result<Fired> {
        told(span!("fire", schedule = %schedule.name), self.0.fire(schedule, due, task)).await
    }

    async fn now(&self) -> Result<Millis> {
        told(span!("now"), self.0.now()).await
    }
}
