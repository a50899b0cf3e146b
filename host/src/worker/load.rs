//! The load of this worker, measured for its pace: who wants CPU, and whether a round trip pays off now.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio_util::sync::CancellationToken;

use super::{inbox::Inbox, invoke::Invoke, queue::Queues, slots::Slots};

pub(super) struct Load {
    pub(super) invoke: Arc<dyn Invoke>,
    pub(super) slots: Arc<Slots>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) queues: Arc<Queues>,
    /// A claim is under way.
    pub(super) claiming: AtomicBool,
    pub(super) draining: CancellationToken,
}

impl Load {
    /// How many attempts want CPU now.
    pub(super) fn wanting(&self) -> usize {
        self.invoke.runnable() + self.slots.starting()
    }

    /// How many slots a claim may fill: those without an attempt, less those that unrecorded finishes take.
    pub(super) fn free(&self) -> usize {
        self.slots.free().saturating_sub(self.inbox.unrecorded().burden(self.slots.count()))
    }

    pub(super) fn set_claiming(&self, claiming: bool) {
        self.claiming.store(claiming, Ordering::Relaxed);
    }

    /// Whether to record the finishes at hand now. As for claims, a round trip carries a batch while the cores have work, or are about to
    /// get some.
    pub(super) fn is_worth_recording(&self) -> bool {
        let wanting = if self.claiming.load(Ordering::Relaxed) { usize::MAX } else { self.wanting() };
        self.draining.is_cancelled() || self.slots.pace().is_worth(self.inbox.len(), wanting)
    }

    /// An attempt ended. Wakes the dispatcher and the finisher only when a round trip pays off; otherwise the finisher's timer wakes both.
    pub(super) fn attempt_ended(&self) {
        // An empty inbox: the finisher took the finish already, and woke the dispatcher before this slot was free.
        if self.inbox.len() == 0 || self.is_worth_recording() {
            self.inbox.record_now();
            self.queues.wake_dispatcher();
        }
    }
}
