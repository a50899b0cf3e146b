//! The inbox of the finisher: attempts leave their finishes here.
//!
//! Invariant: a caller that asks how many finishes are not recorded counts each once, in the inbox or in the finisher's hands.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::{
    batch::{Batch, Item},
    held::Held,
    pace::Unrecorded,
};
use taskhost_broker::{Finish, Member};
use taskhost_core::task::{TaskName, Verdict};

#[derive(Debug)]
pub(super) struct Inbox {
    worker: Arc<str>,
    fresh: Mutex<Fresh>,
    ready: Notify,
    /// How many the finisher took and has not recorded, their bytes, and how many of them the broker can't record.
    taken: AtomicUsize,
    taken_bytes: AtomicUsize,
    aside: AtomicUsize,
    /// The last batch was recorded whole and soon. Until one was, nothing is claimed ahead.
    prompt: AtomicBool,
    recorded: Notify,
}

/// Finishes that the finisher has not taken yet.
#[derive(Debug, Default)]
struct Fresh {
    items: Vec<(Arc<Held>, Item)>,
    bytes: usize,
}

impl Inbox {
    /// `worker`: the id under which finishes are recorded.
    pub(super) fn new(worker: Arc<str>) -> Self {
        Self {
            worker,
            fresh: Mutex::default(),
            ready: Notify::new(),
            taken: AtomicUsize::new(0),
            taken_bytes: AtomicUsize::new(0),
            aside: AtomicUsize::new(0),
            prompt: AtomicBool::new(false),
            recorded: Notify::new(),
        }
    }

    /// Leaves a finish. The first of a batch wakes the finisher, which then waits a moment for others: see [`Load`](super::load::Load).
    pub(super) fn push(&self, held: &Arc<Held>, name: TaskName, finish: Finish) {
        let item = Item::new(name, finish);
        let mut fresh = self.fresh.lock();
        fresh.bytes += item.weight();
        fresh.items.push((held.clone(), item));
        let is_first = fresh.items.len() == 1;
        drop(fresh);
        if is_first {
            self.ready.notify_one();
        }
    }

    /// Leaves the finish of a task that did not run here.
    pub(super) fn push_unrun(&self, held: &Arc<Held>, name: TaskName, member: Member, verdict: Verdict) {
        self.push(held, name, Finish::new(member, verdict, self.worker.clone()));
    }

    /// How many wait for the next batch.
    pub(super) fn len(&self) -> usize {
        self.fresh.lock().items.len()
    }

    /// All finishes that are not recorded.
    pub(super) fn unrecorded(&self) -> Unrecorded {
        let fresh = self.fresh.lock();
        Unrecorded {
            count: fresh.items.len() + self.taken.load(Ordering::Relaxed),
            bytes: fresh.bytes + self.taken_bytes.load(Ordering::Relaxed),
            aside: self.aside.load(Ordering::Relaxed),
            is_prompt: self.prompt.load(Ordering::Relaxed),
        }
    }

    /// Records now: enough finishes are at hand, or no more will come soon.
    pub(super) fn record_now(&self) {
        self.ready.notify_one();
    }

    /// Returns when a finish came in, or when somebody asked to record now. Only the finisher calls it.
    pub(super) async fn ready(&self) {
        self.ready.notified().await;
    }

    /// Moves the finishes into their batches, and drops batches whose lease is lost.
    pub(super) fn take(&self, batches: &mut Vec<Batch>) {
        let mut fresh = self.fresh.lock();
        for (held, item) in fresh.items.drain(..) {
            if let Some(batch) = batches.iter_mut().find(|batch| Arc::ptr_eq(&batch.held, &held)) {
                batch.push(item);
            } else {
                let mut batch = Batch::new(held);
                batch.push(item);
                batches.push(batch);
            }
        }
        fresh.bytes = 0;
        batches.retain(|batch| !batch.held.is_lost());
        self.count(batches, fresh);
    }

    /// The finisher sent a batch each; `batches` are left. `is_prompt`: all of it was recorded, and soon.
    pub(super) fn set_left(&self, batches: &[Batch], is_prompt: bool) {
        self.prompt.store(is_prompt, Ordering::Relaxed);
        self.count(batches, self.fresh.lock());
        self.recorded.notify_one();
    }

    /// Returns when the finisher has sent something. Only the drain calls it.
    pub(super) async fn recorded(&self) {
        self.recorded.notified().await;
    }

    /// The lock is held meanwhile, so that no finish is counted twice or not at all.
    fn count(&self, batches: &[Batch], _whole: MutexGuard<'_, Fresh>) {
        self.aside.store(batches.iter().map(Batch::aside).sum(), Ordering::Relaxed);
        self.taken.store(batches.iter().map(Batch::len).sum(), Ordering::Relaxed);
        self.taken_bytes.store(batches.iter().map(Batch::bytes).sum(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use taskhost_broker::{BrokerError, Incarnation};
    use taskhost_core::task::{QueueName, TaskId};

    #[tokio::test]
    async fn a_finish_is_counted_wherever_it_is_until_it_is_recorded() {
        let held = Arc::new(Held::new(Incarnation { queue: QueueName::default(), id: "i".into() }, None));
        let inbox = Inbox::new("w".into());
        let counts = || (inbox.unrecorded().count, inbox.unrecorded().aside, inbox.unrecorded().is_prompt);
        for n in 0..6 {
            let member = Member { id: TaskId::new(format!("t{n}")).unwrap(), claimed_us: n, place: 0 };
            inbox.push_unrun(&held, TaskName::new("add").unwrap(), member, Verdict::Park);
        }
        let bytes = inbox.unrecorded().bytes;
        assert_eq!((inbox.len(), counts()), (6, (6, 0, false)), "nothing was recorded yet");
        let mut batches = Vec::new();
        inbox.take(&mut batches);
        assert_eq!((inbox.len(), counts(), inbox.unrecorded().bytes), (0, (6, 0, false), bytes), "in the finisher's hands");

        let all = batches[0].take();
        batches[0].refused(all, &BrokerError::Corrupt("a key of another type".into()));
        let first = batches[0].take();
        batches[0].refused(first, &BrokerError::Corrupt("a key of another type".into()));
        inbox.set_left(&batches, false);
        assert_eq!(counts(), (6, 1, false));
        inbox.recorded().await;

        while batches[0].is_filled() {
            let sent = batches[0].take();
            batches[0].recorded(&sent);
        }
        inbox.set_left(&batches, true);
        assert_eq!(counts(), (1, 1, true));
        held.lose();
        inbox.take(&mut batches);
        assert_eq!((counts(), inbox.unrecorded().bytes, batches.len()), ((0, 0, true), 0, 0), "nothing is recorded under a lost lease");
    }
}
