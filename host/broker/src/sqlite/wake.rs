//! Wakes the callers that wait for work, for an end, or for a cancel.
//!
//! After each commit the writer rings the bells of its own process that the commit concerns. After a commit of another process it rings
//! all. A caller woken by another process looks at the database first, or two idle processes would wake each other for ever.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::tasks::Totals;
use taskhost_core::task::{QueueName, TaskId};

/// The events of a transaction, for the bells after its commit.
#[derive(Debug, Default)]
pub(super) struct News {
    pub(super) claimable: HashSet<QueueName>,
    pub(super) ended: Vec<TaskId>,
    pub(super) cancel_asked: bool,
    pub(super) totals: HashMap<QueueName, Totals>,
}

impl News {
    /// The totals of a queue, to be counted up.
    pub(super) fn totals(&mut self, queue: &QueueName) -> &mut Totals {
        self.totals.entry(queue.clone()).or_default()
    }
}

/// The bell of a task's end, and the queues of this id that callers wait for.
#[derive(Debug, Default)]
pub(super) struct End {
    pub(super) rings: Notify,
    queues: Mutex<Vec<QueueName>>,
}

/// The bells of one process.
#[derive(Debug)]
pub(super) struct Bells {
    waiting: AtomicUsize,
    queues: Mutex<HashMap<QueueName, Arc<Notify>>>,
    ends: Mutex<HashMap<TaskId, Arc<End>>>,
    /// The newest commit of another process after which somebody looked which of the awaited tasks have ended.
    pub(super) looked: tokio::sync::Mutex<u64>,
    /// Counts the commits of other processes.
    foreign: watch::Sender<u64>,
    /// Counts the cancels of running tasks in this process.
    cancels: watch::Sender<u64>,
}

impl Bells {
    pub(super) fn new() -> Self {
        Self {
            waiting: AtomicUsize::new(0),
            queues: Mutex::default(),
            ends: Mutex::default(),
            looked: tokio::sync::Mutex::default(),
            foreign: watch::Sender::new(0),
            cancels: watch::Sender::new(0),
        }
    }

    pub(super) fn is_awaited(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// Rings for a commit of this process.
    pub(super) fn ring(&self, news: &News) {
        for queue in &news.claimable {
            let bell = self.queue(queue);
            bell.notify_waiters();
            // A caller between its claim and its wait finds this permit, so it misses nothing.
            bell.notify_one();
        }
        if !news.ended.is_empty() {
            self.ring_ends(&news.ended);
        }
        if news.cancel_asked {
            self.cancels.send_modify(|count| *count += 1);
        }
    }

    /// Rings for tasks that have ended.
    pub(super) fn ring_ends(&self, ended: &[TaskId]) {
        let ends = self.ends.lock();
        if !ends.is_empty() {
            ended.iter().filter_map(|id| ends.get(id)).for_each(|bell| bell.rings.notify_waiters());
        }
    }

    /// The tasks whose ends are awaited, each with its queues as far as they are known.
    pub(super) fn awaited(&self) -> Vec<(TaskId, Vec<QueueName>)> {
        self.ends.lock().iter().map(|(id, bell)| (id.clone(), bell.queues.lock().clone())).collect()
    }

    /// Rings for a commit of another process.
    pub(super) fn ring_foreign(&self) {
        self.foreign.send_modify(|count| *count += 1);
    }

    pub(super) fn queue(&self, queue: &QueueName) -> Arc<Notify> {
        let mut queues = self.queues.lock();
        if let Some(bell) = queues.get(queue) {
            return bell.clone();
        }
        queues.entry(queue.clone()).or_default().clone()
    }

    /// The bell of one task's end. It exists while a caller holds it.
    pub(super) fn end(self: &Arc<Self>, id: &TaskId) -> EndBell {
        let mut ends = self.ends.lock();
        EndBell { bells: self.clone(), id: id.clone(), bell: ends.entry(id.clone()).or_default().clone() }
    }

    pub(super) fn foreign(&self) -> watch::Receiver<u64> {
        self.foreign.subscribe()
    }

    pub(super) fn cancels(&self) -> watch::Receiver<u64> {
        self.cancels.subscribe()
    }

    /// Counts a caller as waiting. True for the first one.
    pub(super) fn wait(self: &Arc<Self>) -> (Waiting, bool) {
        let first = self.waiting.fetch_add(1, Ordering::AcqRel) == 0;
        (Waiting(self.clone()), first)
    }
}

/// A caller waits while this lives.
#[derive(Debug)]
pub(super) struct Waiting(Arc<Bells>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

#[derive(Debug)]
pub(super) struct EndBell {
    bells: Arc<Bells>,
    id: TaskId,
    pub(super) bell: Arc<End>,
}

impl EndBell {
    /// The caller waits for the task of this queue.
    pub(super) fn is_of(&self, queue: &QueueName) {
        let mut queues = self.bell.queues.lock();
        if !queues.contains(queue) {
            queues.push(queue.clone());
        }
    }
}

impl Drop for EndBell {
    fn drop(&mut self) {
        let mut ends = self.bells.ends.lock();
        // Only this handle and the map have it, so no other caller waits for it.
        if Arc::strong_count(&self.bell) == 2 {
            ends.remove(&self.id);
        }
    }
}
