//! The worker: claim → attempt → judge → finish, for one process on any number of queues. This file builds its parts and starts its loops.
//!
//! `dispatcher` claims tasks for free slots and starts an `attempt` for each. An attempt leaves one `Finish` in the `inbox`, and the
//! `finisher` records them in batches. `heartbeat` keeps the leases, `announce` tells others of this worker, `gone` finds dead neighbours,
//! and `drain` ends it all. How much is done at once is decided by `pace`.
//!
//! Invariant: a task stands in a `held` set from its claim until its finish is recorded or its lease is lost. Nothing here knows Redis or
//! wasmtime. Locks are held for moments, and never across an await.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
    task::JoinSet,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    engine::{Engine, Poster, System},
    plugins::Registry,
};
use taskhost_broker::{Broker, observed::Observed};
use taskhost_core::{
    observe::Event,
    task::{Clock, QueueName, SystemClock},
};

mod announce;
mod attempt;
mod batch;
mod cancellations;
mod connection;
mod delivery;
mod dispatcher;
mod drain;
mod finisher;
mod follow_up;
mod gone;
mod heartbeat;
mod held;
mod hooks;
mod inbox;
mod invoke;
mod leases;
mod listen;
mod load;
mod lock_file;
mod news;
mod offers;
mod pace;
mod parked;
mod queue;
mod record;
mod round_robin;
mod services;
mod settings;
mod slots;
mod stop;
mod summary;
mod sweep;
mod waiter;

pub use delivery::HOOK_PLUGIN;
pub use hooks::{HOOK_QUEUE, Hook, HookEvent, HookTarget, Hooks};
pub use invoke::{Invoke, Work};
pub use offers::{Offer, Offers};
pub use settings::{WEIGHTS, WorkerSettings, worker_id};
pub use stop::Stop;
pub use summary::{Summary, WorkerError};

use announce::Announcement;
use attempt::Attempts;
use connection::Connection;
use delivery::WithDeliveries;
use dispatcher::Dispatcher;
use drain::Drain;
use finisher::Finisher;
use follow_up::FollowUps;
use heartbeat::Heartbeat;
use inbox::Inbox;
use leases::Leases;
use listen::Listen;
use load::Load;
use lock_file::LockFiles;
use news::LatestNews;
use parked::Parked;
use queue::Queues;
use record::Recorder;
use services::ServiceDesk;
use slots::Slots;
use summary::Tally;

/// How long the loops and the attempts may take to end when they were told to.
const LAST: Duration = Duration::from_secs(10);
/// The same after a loop of the worker died.
const LAST_AFTER_FAILURE: Duration = Duration::from_millis(200);

/// Runs until `stop`. Call it on the control runtime; guests run on the engine's own.
///
/// A broker that can't be reached is waited for. `Err` means that a setting can't work, or that a loop of the worker died.
pub async fn run(
    mut settings: WorkerSettings,
    broker: Arc<dyn Broker>,
    engine: Arc<Engine>,
    registry: watch::Receiver<Arc<Registry>>,
    stop: Stop,
) -> Result<Summary, WorkerError> {
    let (retry, hooks) = (settings.retry.clone(), settings.hooks.clone());
    let offered = move |registry: &Registry| {
        let mut offers = Offers::of(registry, &retry);
        delivery::offer(&hooks, &mut offers);
        Arc::new(offers)
    };
    let (sender, offers) = watch::channel(offered(&registry.borrow().clone()));
    let follow = offers::follow(registry, offered, sender);
    let mut invoke: Arc<dyn Invoke> = Arc::new(engine);
    if settings.hooks.has_urls() {
        let queue = QueueName::new(HOOK_QUEUE).map_err(|error| WorkerError::Settings(error.to_string()))?;
        if !settings.queues.iter().any(|(known, _)| *known == queue) {
            settings.queues.push((queue, 1));
        }
        invoke = Arc::new(WithDeliveries {
            engine: invoke,
            hooks: settings.hooks.clone(),
            poster: Poster::new(Arc::new(System)),
            observers: settings.observers.clone(),
        });
    }
    let worker = run_with(settings, broker, invoke, offers, stop);
    tokio::pin!(follow, worker);
    tokio::select! {
        ended = &mut worker => ended,
        // The plugins room ended first: its last offers stay.
        () = &mut follow => worker.await,
    }
}

/// The same as [`run`], with anything in the engine's place that can run an attempt.
pub async fn run_with(
    settings: WorkerSettings,
    broker: Arc<dyn Broker>,
    invoke: Arc<dyn Invoke>,
    offers: watch::Receiver<Arc<Offers>>,
    stop: Stop,
) -> Result<Summary, WorkerError> {
    settings.validate()?;
    let parts = Parts::new(settings, broker, invoke, offers, stop.clone());
    let settings = parts.settings.clone();
    settings.observers.tell(|| Event::WorkerJoined { worker: &settings.id, queues: &settings.queues, concurrency: settings.concurrency });

    let mut loops = JoinSet::new();
    parts.start(&mut loops);
    let ended = tokio::select! {
        () = stop.clone().watch("dispatcher", stop.drain.clone(), parts.dispatcher().run(stop.drain.clone())) => Ok(()),
        () = stop.now.cancelled() => Ok(()),
        refused = parts.connection.refused() => Err(WorkerError::Broker(refused)),
    };
    if ended.is_err() {
        // Attempts that still run could not be recorded.
        stop.now.cancel();
    }
    stop.clone().watch("drain", parts.draining.clone(), parts.drain().run()).await;
    parts.end.cancel();
    // A broker that neither answers nor refuses must not hold up the end.
    let last = if stop.failed().is_some() { LAST_AFTER_FAILURE } else { LAST };
    if tokio::time::timeout(last, finished(&mut loops, &parts.tracker)).await.is_err() {
        tracing::debug!(worker = %settings.id, "a call to the broker did not return: given up");
        loops.shutdown().await;
    }
    let summary = parts.tally.summary();
    settings.observers.tell(|| {
        let Summary { succeeded, failed, handed_back, left_behind } = summary;
        Event::WorkerDrained { worker: &settings.id, succeeded, failed, handed_back, left_behind }
    });
    match stop.failed() {
        Some(why) => Err(WorkerError::Died(why.to_owned())),
        None => ended.map(|()| summary),
    }
}

/// Waits for every loop, attempt and question of a guest.
async fn finished(loops: &mut JoinSet<()>, tracker: &TaskTracker) {
    while loops.join_next().await.is_some() {}
    tracker.close();
    tracker.wait().await;
}

/// The parts of one worker. Only this file sees all of them; each loop gets those that it needs.
struct Parts {
    settings: Arc<WorkerSettings>,
    connection: Arc<Connection>,
    queues: Arc<Queues>,
    offers: watch::Receiver<Arc<Offers>>,
    slots: Arc<Slots>,
    inbox: Arc<Inbox>,
    follow_ups: Arc<FollowUps>,
    news: Arc<LatestNews>,
    load: Arc<Load>,
    files: Arc<LockFiles>,
    leases: Arc<Leases>,
    attempts: Arc<Attempts>,
    tally: Arc<Tally>,
    /// Has the worker announced at once.
    announce: Arc<Notify>,
    /// Attempts, questions of guests, and file operations: all that is awaited at the end beside the loops.
    tracker: TaskTracker,
    stop: Stop,
    /// Set when draining began.
    draining: CancellationToken,
    /// Ends every loop.
    end: CancellationToken,
}

impl Parts {
    fn new(
        settings: WorkerSettings,
        broker: Arc<dyn Broker>,
        invoke: Arc<dyn Invoke>,
        offers: watch::Receiver<Arc<Offers>>,
        stop: Stop,
    ) -> Self {
        let settings = Arc::new(settings);
        let of_calls = settings.observers.of_calls();
        let broker = if of_calls.is_empty() { broker } else { Arc::new(Observed::new(broker, of_calls)) };
        let (control, tracker, draining) = (Handle::current(), TaskTracker::new(), CancellationToken::new());
        let queues = Arc::new(Queues::new(&settings.queues));
        let slots = Arc::new(Slots::new(settings.concurrency, settings.cores));
        let inbox = Arc::new(Inbox::new(settings.id.clone()));
        let news = Arc::new(LatestNews::default());
        let files = LockFiles::new(settings.state.as_deref(), &settings.broker_identity, tracker.clone(), control.clone());
        let files = Arc::new(files);
        let load = Arc::new(Load {
            invoke: invoke.clone(),
            slots: slots.clone(),
            inbox: inbox.clone(),
            queues: queues.clone(),
            claiming: AtomicBool::new(false),
            draining: draining.clone(),
        });
        let leases = Arc::new(Leases {
            worker: settings.id.clone(),
            retry: settings.retry.clone(),
            inbox: inbox.clone(),
            files: files.clone(),
            offers: offers.clone(),
            observers: settings.observers.clone(),
            hooks: settings.hooks.clone(),
        });
        let attempts = Arc::new(Attempts {
            worker: settings.id.clone(),
            grace: settings.grace,
            retry: settings.retry.clone(),
            invoke,
            slots: slots.clone(),
            inbox: inbox.clone(),
            load: load.clone(),
            desk: Arc::new(ServiceDesk::new(broker.clone(), news.clone(), tracker.clone(), control.clone())),
            tracker: tracker.clone(),
            control,
            observers: settings.observers.clone(),
            sampling: settings.sampling,
            hooks: settings.hooks.clone(),
        });
        Self {
            settings,
            connection: Arc::new(Connection::new(broker)),
            queues,
            offers,
            slots,
            inbox,
            follow_ups: Arc::default(),
            news,
            load,
            files,
            leases,
            attempts,
            tally: Arc::default(),
            announce: Arc::default(),
            tracker,
            stop,
            draining,
            end: CancellationToken::new(),
        }
    }

    /// Starts every loop but the dispatcher, which the worker itself runs.
    fn start(&self, loops: &mut JoinSet<()>) {
        let (connection, queues) = (|| self.connection.clone(), || self.queues.clone());
        let (end, draining) = (|| self.end.clone(), || self.draining.clone());
        loops.spawn(self.watched("cancellations", cancellations::run(connection(), queues(), end())));
        loops.spawn(self.watched("finisher", self.finisher().run(end())));
        loops.spawn(self.watched("follow-up", follow_up::run(connection(), self.follow_ups.clone(), end())));
        loops.spawn(self.watched("news", news::run(connection(), self.news.clone(), end())));
        loops.spawn(self.watched("announcement", self.announcement().run(end())));
        loops.spawn(self.watched("sweep", sweep::run(connection(), queues(), self.offers.clone(), end())));
        loops.spawn(self.watched("proof", gone::run(connection(), queues(), self.files.clone(), end())));
        loops.spawn(self.watched("signals", self.listen().run(end())));
        if let Some(metrics) = self.settings.metrics.clone() {
            let queues = self.settings.queues.iter().map(|(queue, _)| queue.clone()).collect();
            let recorder = Recorder { worker: self.settings.id.clone(), queues, metrics, connection: connection() };
            loops.spawn(self.watched("record", recorder.run(end())));
        }
        let heartbeat = self.heartbeat();
        for index in 0..self.settings.queues.len() {
            loops.spawn(self.watched("heartbeat", heartbeat.clone().run(index)));
            let wait = waiter::run(connection(), queues(), index, draining(), end());
            loops.spawn(self.stop.clone().watch("wait", draining(), wait));
        }
    }

    /// A loop that runs until the end.
    fn watched<F: Future<Output = ()>>(&self, name: &'static str, work: F) -> impl Future<Output = ()> + use<F> {
        self.stop.clone().watch(name, self.end.clone(), work)
    }

    fn parked(&self) -> Parked {
        Parked { offers: self.offers.clone(), slots: self.slots.clone(), queues: self.queues.clone() }
    }

    fn dispatcher(&self) -> Dispatcher {
        Dispatcher {
            lease: self.settings.lease,
            connection: self.connection.clone(),
            queues: self.queues.clone(),
            slots: self.slots.clone(),
            inbox: self.inbox.clone(),
            load: self.load.clone(),
            offers: self.offers.clone(),
            parked: self.parked(),
            follow_ups: self.follow_ups.clone(),
            leases: self.leases.clone(),
            attempts: self.attempts.clone(),
            observers: self.settings.observers.clone(),
            stop: self.stop.clone(),
        }
    }

    fn finisher(&self) -> Finisher {
        Finisher {
            connection: self.connection.clone(),
            queues: self.queues.clone(),
            slots: self.slots.clone(),
            inbox: self.inbox.clone(),
            load: self.load.clone(),
            parked: self.parked(),
            follow_ups: self.follow_ups.clone(),
            tally: self.tally.clone(),
            observers: self.settings.observers.clone(),
        }
    }

    fn heartbeat(&self) -> Heartbeat {
        Heartbeat {
            lease: self.settings.lease,
            connection: self.connection.clone(),
            queues: self.queues.clone(),
            leases: self.leases.clone(),
            inbox: self.inbox.clone(),
            follow_ups: self.follow_ups.clone(),
            files: self.files.clone(),
            announce: self.announce.clone(),
            draining: self.draining.clone(),
            end: self.end.clone(),
        }
    }

    fn announcement(&self) -> Announcement {
        Announcement {
            settings: self.settings.clone(),
            started_at: SystemClock.now(),
            connection: self.connection.clone(),
            queues: self.queues.clone(),
            offers: self.offers.clone(),
            now: self.announce.clone(),
            draining: self.draining.clone(),
            stop: self.stop.clone(),
            desk: self.attempts.desk.clone(),
        }
    }

    fn listen(&self) -> Listen {
        Listen {
            worker: self.settings.id.clone(),
            connection: self.connection.clone(),
            queues: self.queues.clone(),
            slots: self.slots.clone(),
            inbox: self.inbox.clone(),
            stop: self.stop.clone(),
        }
    }

    fn drain(&self) -> Drain {
        Drain {
            settings: self.settings.clone(),
            connection: self.connection.clone(),
            queues: self.queues.clone(),
            slots: self.slots.clone(),
            inbox: self.inbox.clone(),
            files: self.files.clone(),
            tally: self.tally.clone(),
            announce: self.announce.clone(),
            draining: self.draining.clone(),
            stop: self.stop.clone(),
        }
    }
}
