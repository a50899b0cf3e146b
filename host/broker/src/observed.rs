//! Observing around a broker: each call's end is told to the observers, with the time that it took or its error.
//!
//! Drivers know nothing of observers. Arguments and results of tasks are never told. A call that is dropped before its end is not told.
//! `wait`, `await_end` and `cancellations` wait for something, so their time says nothing about the broker's speed.

use std::{
    error::Error,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::{
    directory::{Directory, Health, WorkerInfo},
    error::Result,
    flows::{Ask, AskReply, FlowLine, FlowView, Flows, NewFlow},
    history::{History, HistoryStep, Note, Noted, Point, Sample},
    kv::{Kv, KvError, KvRoom},
    lease::{Claimed, Extended, Finish, FinishReply, Incarnation, Lease, LeaseReply, Leased, Member},
    listing::{TaskFilter, TaskPage},
    produce::{Enqueued, Produce},
    schedule::{Fired, Schedule, ScheduleEntry, Schedules},
    tasks::{CancelReply, DeleteReply, EditReply, Feed, QueueView, RetryReply, Tasks},
};
use taskhost_core::{
    catalogue::Catalogue,
    observe::{Event, Observers},
    task::{Millis, NewTask, Progress, QueueName, TaskId, TaskName, TaskView},
};

/// A broker whose calls are observed.
pub struct Observed<B: ?Sized> {
    broker: Arc<B>,
    observers: Observers,
}

impl<B: ?Sized> Observed<B> {
    pub fn new(broker: Arc<B>, observers: Observers) -> Self {
        Self { broker, observers }
    }

    /// Makes a call and tells its end.
    async fn told<T, E: Error + 'static>(
        &self,
        verb: &'static str,
        queue: Option<&QueueName>,
        call: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let begun = Instant::now();
        let answer = call.await;
        let took = begun.elapsed();
        self.observers.tell(|| {
            let error = answer.as_ref().err().map(|error| error as &(dyn Error + 'static));
            Event::CallEnded { verb, queue, took, error }
        });
        answer
    }
}

impl<B: fmt::Debug + ?Sized> fmt::Debug for Observed<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Observed").field(&&*self.broker).finish()
    }
}

#[async_trait]
impl<B: Produce + ?Sized> Produce for Observed<B> {
    async fn enqueue(&self, tasks: &[NewTask]) -> Result<Vec<Enqueued>> {
        self.told("enqueue", None, self.broker.enqueue(tasks)).await
    }

    async fn await_end(&self, queue: Option<&QueueName>, id: &TaskId, limit: Duration) -> Result<Option<TaskView>> {
        self.told("await_end", queue, self.broker.await_end(queue, id, limit)).await
    }
}

#[async_trait]
impl<B: Tasks + ?Sized> Tasks for Observed<B> {
    async fn find(&self, queue: Option<&QueueName>, id: &TaskId) -> Result<Option<TaskView>> {
        self.told("find", queue, self.broker.find(queue, id)).await
    }

    async fn log(&self, queue: Option<&QueueName>, id: &TaskId) -> Result<Option<String>> {
        self.told("log", queue, self.broker.log(queue, id)).await
    }

    async fn list(&self, filter: &TaskFilter, from: Option<&str>, limit: usize) -> Result<TaskPage> {
        self.told("list", None, self.broker.list(filter, from, limit)).await
    }

    async fn cancel(&self, queue: &QueueName, id: &TaskId) -> Result<CancelReply> {
        self.told("cancel", Some(queue), self.broker.cancel(queue, id)).await
    }

    async fn retry(&self, queue: &QueueName, id: &TaskId) -> Result<RetryReply> {
        self.told("retry", Some(queue), self.broker.retry(queue, id)).await
    }

    async fn delete(&self, queue: &QueueName, id: &TaskId) -> Result<DeleteReply> {
        self.told("delete", Some(queue), self.broker.delete(queue, id)).await
    }

    async fn edit(&self, queue: &QueueName, id: &TaskId, args: &str) -> Result<EditReply> {
        self.told("edit", Some(queue), self.broker.edit(queue, id, args)).await
    }

    async fn feed(&self, queue: &QueueName, since: Millis, limit: usize) -> Result<Feed> {
        self.told("feed", Some(queue), self.broker.feed(queue, since, limit)).await
    }

    async fn queues(&self) -> Result<Vec<QueueView>> {
        self.told("queues", None, self.broker.queues()).await
    }

    async fn pause(&self, queue: &QueueName) -> Result<()> {
        self.told("pause", Some(queue), self.broker.pause(queue)).await
    }

    async fn resume(&self, queue: &QueueName) -> Result<()> {
        self.told("resume", Some(queue), self.broker.resume(queue)).await
    }

    async fn purge(&self, queue: &QueueName) -> Result<u64> {
        self.told("purge", Some(queue), self.broker.purge(queue)).await
    }
}

#[async_trait]
impl<B: Lease + ?Sized> Lease for Observed<B> {
    async fn register(&self, queue: &QueueName, lease: Duration) -> Result<Incarnation> {
        self.told("register", Some(queue), self.broker.register(queue, lease)).await
    }

    async fn claim(&self, who: &Incarnation, lease: Duration, limit: usize, startable: &[TaskName]) -> Result<LeaseReply<Claimed>> {
        self.told("claim", Some(&who.queue), self.broker.claim(who, lease, limit, startable)).await
    }

    async fn extend(&self, who: &Incarnation, lease: Duration) -> Result<LeaseReply<Extended>> {
        self.told("extend", Some(&who.queue), self.broker.extend(who, lease)).await
    }

    async fn held(&self, who: &Incarnation) -> Result<Vec<Leased>> {
        self.told("held", Some(&who.queue), self.broker.held(who)).await
    }

    async fn finish(&self, who: &Incarnation, finishes: &[Finish]) -> Result<FinishReply> {
        self.told("finish", Some(&who.queue), self.broker.finish(who, finishes)).await
    }

    async fn leave(&self, who: &Incarnation) -> Result<()> {
        self.told("leave", Some(&who.queue), self.broker.leave(who)).await
    }

    async fn expire(&self, who: &Incarnation) -> Result<()> {
        self.told("expire", Some(&who.queue), self.broker.expire(who)).await
    }

    async fn wait(&self, queue: &QueueName, limit: Duration) -> Result<()> {
        self.told("wait", Some(queue), self.broker.wait(queue, limit)).await
    }

    async fn cancellations(&self, sender: mpsc::Sender<(QueueName, TaskId)>) -> Result<()> {
        self.told("cancellations", None, self.broker.cancellations(sender)).await
    }

    async fn progress(&self, queue: &QueueName, id: &TaskId, progress: &Progress) -> Result<()> {
        self.told("progress", Some(queue), self.broker.progress(queue, id, progress)).await
    }

    async fn log_so_far(&self, who: &Incarnation, member: &Member, log: &str) -> Result<()> {
        self.told("log_so_far", Some(&who.queue), self.broker.log_so_far(who, member, log)).await
    }

    async fn relay(&self, queue: &QueueName) -> Result<usize> {
        self.told("relay", Some(queue), self.broker.relay(queue)).await
    }

    async fn sweep(&self, queue: &QueueName, offered: &[TaskName]) -> Result<()> {
        self.told("sweep", Some(queue), self.broker.sweep(queue, offered)).await
    }
}

#[async_trait]
impl<B: Directory + ?Sized> Directory for Observed<B> {
    async fn check(&self) -> Result<Health> {
        self.told("check", None, self.broker.check()).await
    }

    async fn announce(&self, worker: &WorkerInfo, ttl: Duration) -> Result<bool> {
        self.told("announce", None, self.broker.announce(worker, ttl)).await
    }

    async fn ask_to_drain(&self, worker: &str) -> Result<bool> {
        self.told("ask_to_drain", None, self.broker.ask_to_drain(worker)).await
    }

    async fn retire(&self, worker: &str) -> Result<()> {
        self.told("retire", None, self.broker.retire(worker)).await
    }

    async fn workers(&self) -> Result<Vec<WorkerInfo>> {
        self.told("workers", None, self.broker.workers()).await
    }

    async fn catalogue(&self) -> Result<Catalogue> {
        self.told("catalogue", None, self.broker.catalogue()).await
    }
}

#[async_trait]
impl<B: History + ?Sized> History for Observed<B> {
    async fn record(&self, queue: &QueueName, worker: &str, number: u64, counts: &[(String, Sample)]) -> Result<()> {
        self.told("record", Some(queue), self.broker.record(queue, worker, number, counts)).await
    }

    async fn history(&self, queue: &QueueName, step: HistoryStep, from: Millis, to: Millis) -> Result<Vec<Point>> {
        self.told("history", Some(queue), self.broker.history(queue, step, from, to)).await
    }

    async fn note(&self, note: &Note) -> Result<()> {
        self.told("note", None, self.broker.note(note)).await
    }

    async fn notes(&self, before: Option<&str>, limit: usize) -> Result<Vec<Noted>> {
        self.told("notes", None, self.broker.notes(before, limit)).await
    }
}

#[async_trait]
impl<B: Flows + ?Sized> Flows for Observed<B> {
    async fn start_flow(&self, flow: &NewFlow) -> Result<bool> {
        self.told("start_flow", Some(&flow.queue), self.broker.start_flow(flow)).await
    }

    async fn ask_flow(&self, queue: &QueueName, id: &TaskId, ask: &Ask) -> Result<AskReply> {
        self.told("ask_flow", Some(queue), self.broker.ask_flow(queue, id, ask)).await
    }

    async fn step_flows(&self, queue: &QueueName) -> Result<usize> {
        self.told("step_flows", Some(queue), self.broker.step_flows(queue)).await
    }

    async fn flow(&self, queue: Option<&QueueName>, id: &TaskId) -> Result<Option<FlowView>> {
        self.told("flow", queue, self.broker.flow(queue, id)).await
    }

    async fn flows(&self, queue: &QueueName, limit: usize) -> Result<Vec<FlowLine>> {
        self.told("flows", Some(queue), self.broker.flows(queue, limit)).await
    }
}

#[async_trait]
impl<B: Kv + ?Sized> Kv for Observed<B> {
    async fn kv_get(&self, plugin: &str, key: &str) -> Result<Option<Vec<u8>>, KvError> {
        self.told("kv_get", None, self.broker.kv_get(plugin, key)).await
    }

    async fn kv_set(&self, plugin: &str, key: &str, value: &[u8], room: KvRoom) -> Result<(), KvError> {
        self.told("kv_set", None, self.broker.kv_set(plugin, key, value, room)).await
    }

    async fn kv_remove(&self, plugin: &str, key: &str) -> Result<bool, KvError> {
        self.told("kv_remove", None, self.broker.kv_remove(plugin, key)).await
    }

    async fn kv_increment(&self, plugin: &str, key: &str, by: i64, room: KvRoom) -> Result<i64, KvError> {
        self.told("kv_increment", None, self.broker.kv_increment(plugin, key, by, room)).await
    }

    async fn kv_keys(&self, plugin: &str, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, KvError> {
        self.told("kv_keys", None, self.broker.kv_keys(plugin, prefix, after, limit)).await
    }
}

#[async_trait]
impl<B: Schedules + ?Sized> Schedules for Observed<B> {
    async fn put_schedule(&self, schedule: &Schedule) -> Result<()> {
        self.told("put_schedule", None, self.broker.put_schedule(schedule)).await
    }

    async fn schedules(&self) -> Result<Vec<Schedule>> {
        self.told("schedules", None, self.broker.schedules()).await
    }

    async fn pause_schedule(&self, name: &str, paused: bool) -> Result<bool> {
        self.told("pause_schedule", None, self.broker.pause_schedule(name, paused)).await
    }

    async fn remove_schedule(&self, name: &str) -> Result<bool> {
        self.told("remove_schedule", None, self.broker.remove_schedule(name)).await
    }

    async fn fire(&self, schedule: &Schedule, due: Millis, task: &NewTask) -> Result<Fired> {
        self.told("fire", None, self.broker.fire(schedule, due, task)).await
    }

    async fn schedule_record(&self, name: &str) -> Result<Vec<ScheduleEntry>> {
        self.told("schedule_record", None, self.broker.schedule_record(name)).await
    }

    async fn now(&self) -> Result<Millis> {
        self.told("now", None, self.broker.now()).await
    }
}
