//! A broker with faults: it can be away, and can fail before or after any step of a worker. It remembers the incarnations.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use taskhost_broker::{
    Ask, AskReply, Broker, BrokerError, CancelReply, Claimed, DeleteReply, Directory, EditReply, Enqueued, Extended, Feed, Finish,
    FinishReply, Finished, Fired, FlowLine, FlowView, Flows, Health, History, HistoryStep, Incarnation, Kv, KvError, KvRoom, Lease,
    LeaseReply, Leased, Member, NewFlow, Note, Noted, Point, Produce, QueueView, Result, RetryReply, Sample, Schedule, ScheduleEntry,
    Schedules, TaskFilter, TaskPage, Tasks, WorkerInfo,
};
use taskhost_core::{
    catalogue::Catalogue,
    task::{Millis, NewTask, Progress, QueueName, TaskId, TaskName, TaskView},
};
use tokio::sync::mpsc;

#[derive(Debug)]
pub(super) struct Flaky {
    inner: Arc<dyn Broker>,
    /// No call gets through.
    pub(super) away: AtomicBool,
    /// Steps that fail, each once, in this order: the verb, and when. A claim that brings nothing is no step.
    pub(super) points: Mutex<VecDeque<(&'static str, Moment)>>,
    /// Heartbeats that came through.
    pub(super) beats: AtomicUsize,
    pub(super) claims: AtomicUsize,
    pub(super) registered: Mutex<Vec<Incarnation>>,
    /// This verb panics.
    pub(super) panics: Mutex<Option<&'static str>>,
    /// How finishes are recorded.
    pub(super) ends: Mutex<Ends>,
    /// Calls of `finish` that recorded nothing.
    pub(super) unrecorded: AtomicUsize,
    /// The number of held tasks without a recorded end, and its highest value.
    holds: AtomicUsize,
    pub(super) most_held: AtomicUsize,
}

/// How the broker records finishes, while claims succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    Recorded,
    /// After this time.
    Slow(Duration),
    /// No replica acknowledges, so the finishes may be recorded or not.
    Unacknowledged,
    /// It is full.
    Refused,
    /// A key of another type is in their place.
    Unwritable,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// It does not happen.
    Before,
    /// It happens, and its reply is lost.
    After,
}

impl Flaky {
    pub(super) fn new(inner: Arc<dyn Broker>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            away: AtomicBool::new(false),
            points: Mutex::default(),
            beats: AtomicUsize::new(0),
            claims: AtomicUsize::new(0),
            registered: Mutex::default(),
            panics: Mutex::default(),
            ends: Mutex::new(Ends::Recorded),
            unrecorded: AtomicUsize::new(0),
            holds: AtomicUsize::new(0),
            most_held: AtomicUsize::new(0),
        })
    }

    fn reach(&self) -> Result<&Arc<dyn Broker>> {
        if self.away.load(Ordering::SeqCst) { Err(BrokerError::Unavailable("away".into())) } else { Ok(&self.inner) }
    }

    /// Panics like a fault of the broker's own code.
    fn may_panic(&self, verb: &str) {
        let panics = *self.panics.lock().expect("not poisoned");
        assert!(panics != Some(verb), "injected into {verb}");
    }

    fn fails(&self, verb: &str, moment: Moment) -> bool {
        let mut points = self.points.lock().expect("not poisoned");
        points.pop_front_if(|next| *next == (verb, moment)).is_some()
    }

    /// One step that may fail before it happens or after.
    async fn step<T>(&self, verb: &str, happens: impl Future<Output = Result<T>>) -> Result<T> {
        self.may_panic(verb);
        if self.fails(verb, Moment::Before) {
            return Err(BrokerError::Unavailable(format!("{verb} was lost")));
        }
        let done = happens.await?;
        if self.fails(verb, Moment::After) { Err(BrokerError::Unavailable(format!("the reply of {verb} was lost"))) } else { Ok(done) }
    }

    /// The worker holds this many more tasks.
    fn holds(&self, more: usize) {
        let holds = self.holds.fetch_add(more, Ordering::SeqCst) + more;
        self.most_held.fetch_max(holds, Ordering::SeqCst);
    }

    fn reach_kv(&self) -> Result<&Arc<dyn Broker>, KvError> {
        self.reach().map_err(|error| KvError::Unavailable(error.to_string()))
    }
}

#[async_trait]
impl Produce for Flaky {
    async fn enqueue(&self, tasks: &[NewTask]) -> Result<Vec<Enqueued>> {
        self.reach()?.enqueue(tasks).await
    }
    async fn await_end(&self, queue: Option<&QueueName>, id: &TaskId, limit: Duration) -> Result<Option<TaskView>> {
        self.reach()?.await_end(queue, id, limit).await
    }
}

#[async_trait]
impl Tasks for Flaky {
    async fn find(&self, queue: Option<&QueueName>, id: &TaskId) -> Result<Option<TaskView>> {
        self.reach()?.find(queue, id).await
    }
    async fn log(&self, queue: Option<&QueueName>, id: &TaskId) -> Result<Option<String>> {
        self.reach()?.log(queue, id).await
    }
    async fn list(&self, filter: &TaskFilter, from: Option<&str>, limit: usize) -> Result<TaskPage> {
        self.reach()?.list(filter, from, limit).await
    }
    async fn cancel(&self, queue: &QueueName, id: &TaskId) -> Result<CancelReply> {
        self.reach()?.cancel(queue, id).await
    }
    async fn retry(&self, queue: &QueueName, id: &TaskId) -> Result<RetryReply> {
        self.reach()?.retry(queue, id).await
    }
    async fn delete(&self, queue: &QueueName, id: &TaskId) -> Result<DeleteReply> {
        self.reach()?.delete(queue, id).await
    }
    async fn edit(&self, queue: &QueueName, id: &TaskId, args: &str) -> Result<EditReply> {
        self.reach()?.edit(queue, id, args).await
    }
    async fn feed(&self, queue: &QueueName, since: Millis, limit: usize) -> Result<Feed> {
        self.reach()?.feed(queue, since, limit).await
    }
    async fn queues(&self) -> Result<Vec<QueueView>> {
        self.reach()?.queues().await
    }
    async fn pause(&self, queue: &QueueName) -> Result<()> {
        self.reach()?.pause(queue).await
    }
    async fn resume(&self, queue: &QueueName) -> Result<()> {
        self.reach()?.resume(queue).await
    }
    async fn purge(&self, queue: &QueueName) -> Result<u64> {
        self.reach()?.purge(queue).await
    }
}

#[async_trait]
impl Lease for Flaky {
    async fn register(&self, queue: &QueueName, lease: Duration) -> Result<Incarnation> {
        let incarnation = self.step("register", self.reach()?.register(queue, lease)).await?;
        self.registered.lock().expect("not poisoned").push(incarnation.clone());
        Ok(incarnation)
    }
    async fn claim(&self, who: &Incarnation, lease: Duration, limit: usize, startable: &[TaskName]) -> Result<LeaseReply<Claimed>> {
        self.may_panic("claim");
        if self.fails("claim", Moment::Before) {
            return Err(BrokerError::Unavailable("the claim was lost".into()));
        }
        let claimed = self.reach()?.claim(who, lease, limit, startable).await?;
        self.claims.fetch_add(1, Ordering::SeqCst);
        if let LeaseReply::Held(claimed) = &claimed {
            self.holds(claimed.tasks.len() + claimed.adopted.len());
        }
        let brings = matches!(&claimed, LeaseReply::Held(claimed) if !claimed.tasks.is_empty());
        if brings && self.fails("claim", Moment::After) {
            return Err(BrokerError::Unavailable("the reply was lost".into()));
        }
        Ok(claimed)
    }
    async fn extend(&self, who: &Incarnation, lease: Duration) -> Result<LeaseReply<Extended>> {
        let extended = self.step("extend", self.reach()?.extend(who, lease)).await?;
        self.beats.fetch_add(1, Ordering::SeqCst);
        if let LeaseReply::Held(extended) = &extended {
            self.holds(extended.adopted.len());
        }
        Ok(extended)
    }
    async fn held(&self, who: &Incarnation) -> Result<Vec<Leased>> {
        self.step("held", self.reach()?.held(who)).await
    }
    async fn finish(&self, who: &Incarnation, finishes: &[Finish]) -> Result<FinishReply> {
        let ends = *self.ends.lock().expect("not poisoned");
        let refused = match ends {
            Ends::Recorded => None,
            Ends::Slow(time) => {
                tokio::time::sleep(time).await;
                None
            }
            Ends::Unacknowledged => Some(BrokerError::Unavailable("no replica acknowledged it".into())),
            Ends::Refused => Some(BrokerError::Refused("it is full".into())),
            Ends::Unwritable => Some(BrokerError::Corrupt("a key of another type".into())),
        };
        if let Some(refused) = refused {
            self.unrecorded.fetch_add(1, Ordering::SeqCst);
            return Err(refused);
        }
        let reply = self.step("finish", self.reach()?.finish(who, finishes)).await?;
        self.holds.fetch_sub(reply.iter().filter(|reply| **reply != Finished::Stale).count(), Ordering::SeqCst);
        Ok(reply)
    }
    async fn leave(&self, who: &Incarnation) -> Result<()> {
        self.step("leave", self.reach()?.leave(who)).await
    }
    async fn expire(&self, who: &Incarnation) -> Result<()> {
        self.may_panic("expire");
        self.reach()?.expire(who).await
    }
    async fn wait(&self, queue: &QueueName, limit: Duration) -> Result<()> {
        self.step("wait", self.reach()?.wait(queue, limit)).await
    }
    async fn cancellations(&self, sender: mpsc::Sender<(QueueName, TaskId)>) -> Result<()> {
        self.may_panic("cancellations");
        self.reach()?.cancellations(sender).await
    }
    async fn progress(&self, queue: &QueueName, id: &TaskId, progress: &Progress) -> Result<()> {
        self.may_panic("progress");
        self.reach()?.progress(queue, id, progress).await
    }
    async fn log_so_far(&self, who: &Incarnation, member: &Member, log: &str) -> Result<()> {
        self.may_panic("log_so_far");
        self.reach()?.log_so_far(who, member, log).await
    }
    async fn relay(&self, queue: &QueueName) -> Result<usize> {
        self.step("relay", self.reach()?.relay(queue)).await
    }
    async fn sweep(&self, queue: &QueueName, offered: &[TaskName]) -> Result<()> {
        self.step("sweep", self.reach()?.sweep(queue, offered)).await
    }
}

#[async_trait]
impl Directory for Flaky {
    async fn check(&self) -> Result<Health> {
        self.reach()?.check().await
    }
    async fn announce(&self, worker: &WorkerInfo, ttl: Duration) -> Result<bool> {
        self.may_panic("announce");
        self.reach()?.announce(worker, ttl).await
    }
    async fn ask_to_drain(&self, worker: &str) -> Result<bool> {
        self.reach()?.ask_to_drain(worker).await
    }
    async fn retire(&self, worker: &str) -> Result<()> {
        self.reach()?.retire(worker).await
    }
    async fn workers(&self) -> Result<Vec<WorkerInfo>> {
        self.reach()?.workers().await
    }
    async fn catalogue(&self) -> Result<Catalogue> {
        self.reach()?.catalogue().await
    }
}

#[async_trait]
impl History for Flaky {
    async fn record(&self, queue: &QueueName, worker: &str, number: u64, counts: &[(String, Sample)]) -> Result<()> {
        self.reach()?.record(queue, worker, number, counts).await
    }
    async fn history(&self, queue: &QueueName, step: HistoryStep, from: Millis, to: Millis) -> Result<Vec<Point>> {
        self.reach()?.history(queue, step, from, to).await
    }
    async fn note(&self, note: &Note) -> Result<()> {
        self.reach()?.note(note).await
    }
    async fn notes(&self, before: Option<&str>, limit: usize) -> Result<Vec<Noted>> {
        self.reach()?.notes(before, limit).await
    }
}

#[async_trait]
impl Kv for Flaky {
    async fn kv_get(&self, plugin: &str, key: &str) -> Result<Option<Vec<u8>>, KvError> {
        self.reach_kv()?.kv_get(plugin, key).await
    }
    async fn kv_set(&self, plugin: &str, key: &str, value: &[u8], room: KvRoom) -> Result<(), KvError> {
        self.reach_kv()?.kv_set(plugin, key, value, room).await
    }
    async fn kv_remove(&self, plugin: &str, key: &str) -> Result<bool, KvError> {
        self.reach_kv()?.kv_remove(plugin, key).await
    }
    async fn kv_increment(&self, plugin: &str, key: &str, by: i64, room: KvRoom) -> Result<i64, KvError> {
        self.reach_kv()?.kv_increment(plugin, key, by, room).await
    }
    async fn kv_keys(&self, plugin: &str, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, KvError> {
        self.reach_kv()?.kv_keys(plugin, prefix, after, limit).await
    }
}

#[async_trait]
impl Flows for Flaky {
    async fn start_flow(&self, flow: &NewFlow) -> Result<bool> {
        self.reach()?.start_flow(flow).await
    }
    async fn ask_flow(&self, queue: &QueueName, id: &TaskId, ask: &Ask) -> Result<AskReply> {
        self.reach()?.ask_flow(queue, id, ask).await
    }
    async fn step_flows(&self, queue: &QueueName) -> Result<usize> {
        self.step("step_flows", self.reach()?.step_flows(queue)).await
    }
    async fn flow(&self, queue: Option<&QueueName>, id: &TaskId) -> Result<Option<FlowView>> {
        self.reach()?.flow(queue, id).await
    }
    async fn flows(&self, queue: &QueueName, limit: usize) -> Result<Vec<FlowLine>> {
        self.reach()?.flows(queue, limit).await
    }
}

#[async_trait]
impl Schedules for Flaky {
    async fn put_schedule(&self, schedule: &Schedule) -> Result<()> {
        self.reach()?.put_schedule(schedule).await
    }
    async fn schedules(&self) -> Result<Vec<Schedule>> {
        self.reach()?.schedules().await
    }
    async fn pause_schedule(&self, name: &str, paused: bool) -> Result<bool> {
        self.reach()?.pause_schedule(name, paused).await
    }
    async fn remove_schedule(&self, name: &str) -> Result<bool> {
        self.reach()?.remove_schedule(name).await
    }
    async fn fire(&self, schedule: &Schedule, due: Millis, task: &NewTask) -> Result<Fired> {
        self.reach()?.fire(schedule, due, task).await
    }
    async fn schedule_record(&self, name: &str) -> Result<Vec<ScheduleEntry>> {
        self.reach()?.schedule_record(name).await
    }
    async fn now(&self) -> Result<Millis> {
        self.reach()?.now().await
    }
}
