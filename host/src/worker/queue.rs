//! The queues of this worker: for each its living incarnation, and the dispatcher's view of it.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::held::Held;
use taskhost_broker::RunningInfo;
use taskhost_core::task::{Millis, QueueName, TaskName};

/// All queues of this worker, and the bell of its dispatcher.
#[derive(Debug)]
pub(super) struct Queues {
    all: Vec<Queue>,
    wake: Notify,
}

/// One queue of this worker.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) name: QueueName,
    pub(super) weight: u32,
    current: Mutex<Option<Arc<Held>>>,
    /// Locked from a claim until its tasks stand in the held set, so that reconciling never sees half of a claim.
    pub(super) claiming: tokio::sync::Mutex<()>,
    pub(super) state: Mutex<QueueState>,
    /// The waiter may begin to wait.
    pub(super) idle: Notify,
    /// A heartbeat is wanted now.
    pub(super) beat: Notify,
    /// A claim whose reply was lost may have taken tasks.
    doubt: AtomicBool,
    /// The first heartbeat was answered, or failed. Until then nobody knows whether this queue wants slots.
    tried: AtomicBool,
    /// How often the connection had gone down at the last heartbeat.
    beaten: AtomicU64,
}

/// The dispatcher's view of a queue.
#[derive(Debug)]
pub(super) struct QueueState {
    /// There may be something to claim. An idle queue holds no slots.
    pub(super) hot: bool,
    /// The latest time of the next look, for what is due then.
    pub(super) look_at: Instant,
    /// Names under which tasks are parked.
    pub(super) parked: BTreeSet<TaskName>,
    /// Whether the next claim takes parked tasks of plugins that limit their concurrency.
    pub(super) limited_turn: bool,
    /// The queue's credit in the round robin.
    pub(super) credit: i64,
    /// The time of the pause.
    pub(super) paused: Option<Millis>,
    /// Failures of `claim` in a row.
    pub(super) failures: u32,
}

impl Queues {
    pub(super) fn new(queues: &[(QueueName, u32)]) -> Self {
        Self { all: queues.iter().map(|(name, weight)| Queue::new(name.clone(), *weight)).collect(), wake: Notify::new() }
    }

    pub(super) fn iter(&self) -> std::slice::Iter<'_, Queue> {
        self.all.iter()
    }

    pub(super) fn get(&self, index: usize) -> &Queue {
        &self.all[index]
    }

    pub(super) fn find(&self, name: &QueueName) -> Option<&Queue> {
        self.iter().find(|queue| &queue.name == name)
    }

    /// The held sets of all living incarnations.
    pub(super) fn held(&self) -> impl Iterator<Item = Arc<Held>> + '_ {
        self.iter().filter_map(Queue::held)
    }

    /// The attempts that run, at most `limit`.
    pub(super) fn running(&self, limit: usize) -> Vec<RunningInfo> {
        self.held().flat_map(|held| held.running(limit)).take(limit).collect()
    }

    /// Something changed that the dispatcher may want to act on.
    pub(super) fn wake_dispatcher(&self) {
        self.wake.notify_one();
    }

    /// Returns when somebody woke the dispatcher. It has one caller at a time.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }
}

impl Queue {
    fn new(name: QueueName, weight: u32) -> Self {
        Self {
            name,
            weight,
            current: Mutex::new(None),
            claiming: tokio::sync::Mutex::new(()),
            state: Mutex::new(QueueState {
                hot: true,
                look_at: Instant::now(),
                parked: BTreeSet::new(),
                limited_turn: false,
                credit: 0,
                paused: None,
                failures: 0,
            }),
            idle: Notify::new(),
            beat: Notify::new(),
            doubt: AtomicBool::new(false),
            tried: AtomicBool::new(false),
            beaten: AtomicU64::new(0),
        }
    }

    /// The held set of the living incarnation, if there is one.
    pub(super) fn held(&self) -> Option<Arc<Held>> {
        self.current.lock().clone()
    }

    pub(super) fn begin(&self, held: Arc<Held>) {
        *self.current.lock() = Some(held);
        self.state.lock().hot = true;
    }

    /// Takes the held set away if it still is `held`: its lease was lost, or it left.
    pub(super) fn end(&self, held: &Arc<Held>) {
        let mut current = self.current.lock();
        if current.as_ref().is_some_and(|now| Arc::ptr_eq(now, held)) {
            *current = None;
        }
    }

    /// The next heartbeat asks the broker what this worker holds.
    pub(super) fn doubt(&self) {
        self.doubt.store(true, Ordering::Release);
    }

    pub(super) fn take_doubt(&self) -> bool {
        self.doubt.swap(false, Ordering::AcqRel)
    }

    /// A heartbeat came through. `downs` was read before it was sent.
    pub(super) fn set_beaten(&self, downs: u64) {
        self.beaten.store(downs, Ordering::Release);
    }

    /// Whether a heartbeat came through since the connection was last down.
    pub(super) fn is_beaten(&self, downs: u64) -> bool {
        self.beaten.load(Ordering::Acquire) == downs
    }

    pub(super) fn set_tried(&self) {
        self.tried.store(true, Ordering::Release);
    }

    pub(super) fn is_tried(&self) -> bool {
        self.tried.load(Ordering::Acquire)
    }

    /// There may be something to claim.
    pub(super) fn heat(&self) {
        self.state.lock().hot = true;
    }
}
