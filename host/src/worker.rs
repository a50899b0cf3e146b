//! The loop that runs tasks: claim → attempt → judge → finish, for one process on any number of queues.
//!
//! `dispatcher` claims what there are slots for and starts `attempt`s on the guests' runtime; each leaves one `Finish` with the
//! `finisher`, which records them in batches; `heartbeat` keeps what is held, `announce` says who we are, `proof` shows the
//! others when we are gone, `drain` ends it all.
//!
//! Invariant: what this process holds stands in a `hold::Hold` from the claim until its finish is recorded or its lease is
//! lost; nothing here knows Redis or wasmtime.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, Semaphore, watch},
    task::JoinSet,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{engine::Engine, plugins::Registry};
use taskhost_broker::{Broker, BrokerError, FileSchedule};
use taskhost_core::{
    retry::RetrySettings,
    task::{Clock, Millis, QueueName, SystemClock},
};

mod announce;
mod attempt;
mod crew;
mod dispatcher;
mod drain;
mod finisher;
mod heartbeat;
mod hold;
mod link;
mod progress;
mod proof;
mod roster;
mod services;
mod share;
mod stop;

pub use roster::{Invoke, Offer, Roster, Work};
pub use stop::Stop;

use crew::Crew;
use finisher::Inbox;
use hold::Lane;
use link::Link;
use progress::ProgressDesk;

/// What a worker is told.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// `host:pid:suffix`, as `workers` lists it; see [`worker_id`].
    pub id: Arc<str>,
    /// Each queue and its weight, at least 1.
    pub queues: Vec<(QueueName, u32)>,
    /// Attempts at once, parked ones included.
    pub concurrency: usize,
    /// How many cores the guests have: at most four times as many attempts that want CPU are claimed.
    pub cores: usize,
    /// What is held is lost when no heartbeat came through for so long; one is sent every third of it.
    pub lease: Duration,
    /// How long attempts may run on after the first signal.
    pub drain: Duration,
    /// How long a cancelled attempt may take to return by itself.
    pub grace: Duration,
    pub retry: RetrySettings,
    /// Where lock files prove to other workers of this machine that this one is gone. `None`: they wait for the lease instead.
    pub state: Option<PathBuf>,
    /// Tells one broker from another in that directory: its address and prefix, without a password.
    pub broker_identity: String,
    /// The schedules of its file, which it announces; `schedule::run` fires them.
    pub schedules: Vec<FileSchedule>,
}

impl WorkerSettings {
    /// The default queue with every default.
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            id: id.into(),
            queues: vec![(QueueName::default(), 1)],
            concurrency: 128 * cores,
            cores,
            lease: Duration::from_secs(30),
            drain: Duration::from_secs(25),
            grace: Duration::from_secs(5),
            retry: RetrySettings::default(),
            state: None,
            broker_identity: String::new(),
            schedules: Vec::new(),
        }
    }

    fn validate(&self) -> Result<(), WorkerError> {
        let refuse = |text: String| Err(WorkerError::Settings(text));
        if self.queues.is_empty() {
            return refuse("a worker needs at least one queue: name one with `--queue`".into());
        }
        for (index, (queue, weight)) in self.queues.iter().enumerate() {
            if !(1..=10_000).contains(weight) {
                return refuse(format!("the weight of a queue is a number from 1 to 10000: `{queue}={weight}`"));
            }
            if self.queues[..index].iter().any(|(other, _)| other == queue) {
                return refuse(format!("a queue is named once, with one weight: `{queue}`"));
            }
        }
        if self.concurrency == 0 {
            return refuse("concurrency is at least 1: `0`".into());
        }
        if self.lease < Duration::from_millis(300) {
            return refuse(format!("the lease is at least 300ms, and 30s does for most: `{:?}`", self.lease));
        }
        Ok(())
    }
}

/// `host:pid:suffix`: unique for ever, and readable.
pub fn worker_id() -> String {
    format!("{}:{}:{:06x}", host(), std::process::id(), fastrand::u32(..) >> 8)
}

/// What a worker did, for its last line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    pub succeeded: u64,
    /// Attempts that did not; their tasks may come again.
    pub failed: u64,
    /// Attempts that were running when the drain time was over, and went back uncounted.
    pub handed_back: u64,
    /// What could not be recorded because the broker was gone: it comes back when the lease ends.
    pub left_behind: u64,
}

/// Why a worker could not begin, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// Somebody must change a setting.
    #[error("{0}")]
    Settings(String),
    /// The broker refuses us for good: wrong password, not a Redis, incompatible schema.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// A part of it died: see [`Stop::watch`].
    #[error("{0}")]
    Died(String),
}

/// Runs until `stop`. To be called on the control runtime; guests run on the engine's own.
///
/// An unreachable broker is waited for. `Err` only for settings that can't work, and when a part of the worker dies.
pub async fn run(
    settings: WorkerSettings,
    broker: Arc<dyn Broker>,
    engine: Arc<Engine>,
    registry: watch::Receiver<Arc<Registry>>,
    stop: Stop,
) -> Result<Summary, WorkerError> {
    let (sender, roster) = watch::channel(Arc::new(Roster::of(&registry.borrow().clone(), &settings.retry)));
    let forward = roster::follow(registry, settings.retry.clone(), sender);
    let worker = run_with(settings, broker, Arc::new(engine), roster, stop);
    tokio::pin!(forward, worker);
    tokio::select! {
        ended = &mut worker => ended,
        // The plugins room ended first: what was last offered goes on.
        () = &mut forward => worker.await,
    }
}

/// As [`run`], with anything that can run an attempt in the engine's place.
pub async fn run_with(
    settings: WorkerSettings,
    broker: Arc<dyn Broker>,
    invoke: Arc<dyn Invoke>,
    roster: watch::Receiver<Arc<Roster>>,
    stop: Stop,
) -> Result<Summary, WorkerError> {
    settings.validate()?;
    let shared = Shared::new(settings, broker, invoke, roster, stop.clone());
    let names: Vec<_> = shared.lanes.iter().map(|lane| lane.queue.as_str()).collect();
    tracing::info!(worker = %shared.settings.id, queues = names.join(","), concurrency = shared.settings.concurrency, "worker started");

    let mut loops = JoinSet::new();
    let end = || shared.end.clone();
    loops.spawn(stop.clone().watch("cancellations", end(), heartbeat::cancellations(shared.clone())));
    loops.spawn(stop.clone().watch("finisher", end(), finisher::run(shared.clone())));
    loops.spawn(stop.clone().watch("relay", end(), finisher::relay(shared.clone())));
    loops.spawn(stop.clone().watch("progress", end(), progress::run(shared.clone())));
    loops.spawn(stop.clone().watch("announcement", end(), announce::run(shared.clone())));
    loops.spawn(stop.clone().watch("sweep", end(), announce::sweep(shared.clone())));
    loops.spawn(stop.clone().watch("proof", end(), proof::watch(shared.clone())));
    loops.spawn(stop.clone().watch("signals", end(), stop::listen(shared.clone())));
    for index in 0..shared.lanes.len() {
        loops.spawn(stop.clone().watch("heartbeat", end(), heartbeat::run(shared.clone(), index)));
        loops.spawn(stop.clone().watch("wait", shared.draining.clone(), dispatcher::wait(shared.clone(), index)));
    }

    let ended = tokio::select! {
        () = stop.clone().watch("dispatcher", stop.drain.clone(), dispatcher::run(&shared, &stop.drain)) => Ok(()),
        () = stop.now.cancelled() => Ok(()),
        refused = shared.fatal() => Err(WorkerError::Broker(refused)),
    };
    if ended.is_err() {
        // What still runs could not be recorded.
        stop.now.cancel();
    }
    stop.clone().watch("drain", shared.draining.clone(), drain::run(&shared, &stop)).await;
    shared.end.cancel();
    // A broker that neither answers nor refuses must not hold up the end.
    let last = if stop.failed().is_some() { LAST_AFTER_FAILURE } else { LAST };
    if tokio::time::timeout(last, finished(&shared, &mut loops)).await.is_err() {
        tracing::debug!(worker = %shared.settings.id, "a call to the broker did not return: given up");
        loops.shutdown().await;
    }
    let summary = shared.tally.summary();
    tracing::info!(
        worker = %shared.settings.id,
        succeeded = summary.succeeded,
        failed = summary.failed,
        handed_back = summary.handed_back,
        "worker stopped"
    );
    match stop.failed() {
        Some(why) => Err(WorkerError::Died(why.to_owned())),
        None => ended.map(|()| summary),
    }
}

/// Waits for every loop, attempt and question of a guest.
async fn finished(shared: &Shared, loops: &mut JoinSet<()>) {
    while loops.join_next().await.is_some() {}
    shared.tracker.close();
    shared.tracker.wait().await;
}

/// How long the loops and the attempts that were told to stop may take to do so.
const LAST: Duration = Duration::from_secs(10);
/// The same after a part of the worker died.
const LAST_AFTER_FAILURE: Duration = Duration::from_millis(200);
/// What has ended waits so long to be recorded with others, and free slots to be filled with others, while the cores have work: then
/// nothing is held back, however long those run that have the other slots.
const BATCHING: Duration = Duration::from_millis(2);
/// How many questions of guests the broker is asked at once.
const KV_TURNS: usize = 256;

/// What the loops of one worker share. Its locks are held for moments and never across an await.
struct Shared {
    settings: WorkerSettings,
    broker: Arc<dyn Broker>,
    invoke: Arc<dyn Invoke>,
    roster: watch::Receiver<Arc<Roster>>,
    lanes: Vec<Lane>,
    crew: Crew,
    link: Link,
    inbox: Inbox,
    progress: ProgressDesk,
    tally: Tally,
    started_at: Millis,
    /// Something changed that the dispatcher may want to act on.
    wake: Notify,
    /// A claim is under way.
    claiming: AtomicBool,
    /// Say at once who we are.
    announce: Notify,
    /// Questions of guests under way at once.
    kv_turns: Semaphore,
    /// The attempts, and what they ask of the broker.
    tracker: TaskTracker,
    stop: Stop,
    anchor: proof::Anchor,
    /// The control runtime, where everything that talks to the broker runs.
    control: tokio::runtime::Handle,
    /// Set when draining began.
    draining: CancellationToken,
    /// Ends every loop.
    end: CancellationToken,
    /// A registration came through: from then on a refusal is waited out.
    registered: AtomicBool,
    refused: std::sync::Mutex<Option<BrokerError>>,
    refusal: Notify,
}

impl Shared {
    fn new(
        settings: WorkerSettings,
        broker: Arc<dyn Broker>,
        invoke: Arc<dyn Invoke>,
        roster: watch::Receiver<Arc<Roster>>,
        stop: Stop,
    ) -> Arc<Self> {
        Arc::new(Self {
            lanes: settings.queues.iter().map(|(queue, weight)| Lane::new(queue.clone(), *weight)).collect(),
            crew: Crew::new(settings.concurrency),
            link: Link::new(),
            inbox: Inbox::default(),
            progress: ProgressDesk::default(),
            tally: Tally::default(),
            started_at: SystemClock.now(),
            wake: Notify::new(),
            claiming: AtomicBool::new(false),
            announce: Notify::new(),
            kv_turns: Semaphore::new(KV_TURNS),
            tracker: TaskTracker::new(),
            control: tokio::runtime::Handle::current(),
            draining: CancellationToken::new(),
            end: CancellationToken::new(),
            registered: AtomicBool::new(false),
            refused: std::sync::Mutex::default(),
            refusal: Notify::new(),
            anchor: proof::Anchor::default(),
            settings,
            broker,
            invoke,
            roster,
            stop,
        })
    }

    /// Attempts that want CPU now.
    fn wanting(&self) -> usize {
        self.invoke.runnable() + self.crew.starting()
    }

    /// Whether what has ended is to be recorded now: as for claims, a round trip shall bring a batch while the cores have work, or are
    /// about to get some.
    fn is_worth_recording(&self) -> bool {
        let wanting = if self.claiming.load(Ordering::Relaxed) { usize::MAX } else { self.wanting() };
        self.draining.is_cancelled() || self.crew.is_worth(self.inbox.len(), wanting, self.settings.cores)
    }

    /// An attempt ended. Those who claim and record are woken when a round trip is worth it, not by each of ten thousands a second;
    /// else the finisher, which the first of a batch wakes, wakes both when [`BATCHING`] is over.
    fn pace(&self) {
        // Nothing waits: the finisher took it already, and woke the dispatcher before this slot was free.
        if self.inbox.len() == 0 || self.is_worth_recording() {
            self.inbox.record_now();
            self.wake.notify_one();
        }
    }

    /// Ends the worker: the broker will not have us whatever we do.
    fn refuse(&self, error: BrokerError) {
        *lock(&self.refused) = Some(error);
        self.refusal.notify_one();
    }

    fn was_registered(&self) -> bool {
        self.registered.load(Ordering::Relaxed)
    }

    fn set_registered(&self) {
        self.registered.store(true, Ordering::Relaxed);
    }

    async fn fatal(&self) -> BrokerError {
        loop {
            if let Some(error) = lock(&self.refused).take() {
                return error;
            }
            self.refusal.notified().await;
        }
    }
}

/// Counts for the summary.
#[derive(Debug, Default)]
struct Tally {
    succeeded: AtomicU64,
    failed: AtomicU64,
    handed_back: AtomicU64,
    left_behind: AtomicU64,
}

impl Tally {
    fn summary(&self) -> Summary {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Summary {
            succeeded: read(&self.succeeded),
            failed: read(&self.failed),
            handed_back: read(&self.handed_back),
            left_behind: read(&self.left_behind),
        }
    }
}

/// A lock that a panic elsewhere does not take away: what it guards is whole after every statement.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn host() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let name: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || "._-".contains(*c)).take(64).collect();
    if name.is_empty() { "localhost".into() } else { name }
}
