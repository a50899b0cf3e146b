//! Parked tasks: which of them can be started now, and so are claimed again.
//!
//! Invariant: a name that can't be started now is not claimed from where its tasks are parked. Otherwise the worker would claim and park
//! them for ever.

use std::sync::Arc;

use tokio::sync::watch;

use super::{
    offers::Offers,
    queue::{Queue, QueueState, Queues},
    slots::Slots,
};
use taskhost_core::task::{QueueName, TaskName};

#[derive(Debug, Clone)]
pub(super) struct Parked {
    pub(super) offers: watch::Receiver<Arc<Offers>>,
    pub(super) slots: Arc<Slots>,
    pub(super) queues: Arc<Queues>,
}

impl Parked {
    /// A task was parked under `name`. If it can be started by now, it is claimed again.
    pub(super) fn add(&self, queue: &QueueName, name: &TaskName) {
        let Some(queue) = self.queues.find(queue) else { return };
        let first = queue.state.lock().parked.insert(name.clone());
        if first && !self.offers.borrow().bodies.contains_key(name) {
            tracing::info!(task = %name, queue = %queue.name, "tasks wait for a plugin that offers `{name}`");
        }
        self.heat(queue);
        self.queues.wake_dispatcher();
    }

    /// Has every queue claimed from that has parked tasks which can be started now.
    pub(super) fn heat_all(&self) {
        self.queues.iter().for_each(|queue| self.heat(queue));
    }

    fn heat(&self, queue: &Queue) {
        let mut state = queue.state.lock();
        if self.has_startable(&state, &[]) {
            state.hot = true;
        }
    }

    /// Whether a parked task could be started now, by a name that is not among `tried`.
    pub(super) fn has_startable(&self, state: &QueueState, tried: &[TaskName]) -> bool {
        let offers = self.offers.borrow();
        let can = |name: &TaskName| offers.bodies.get(name).is_some_and(|offer| self.slots.room(offer) != Some(0));
        state.parked.iter().any(|name| !tried.contains(name) && can(name))
    }

    /// How many tasks to claim with `free` slots, and the parked names to claim from. Tasks of plugins that limit their concurrency are
    /// claimed every other time, and no more than these plugins have room for. Otherwise all that are parked would be claimed and parked
    /// again.
    pub(super) fn startable(&self, offers: &Offers, state: &mut QueueState, free: usize) -> (usize, Vec<TaskName>) {
        let (mut limited, mut names) = (0, Vec::new());
        for name in &state.parked {
            let Some(offer) = offers.bodies.get(name) else { continue };
            match self.slots.room(offer) {
                None => names.push(name.clone()),
                Some(room) if room > 0 && state.limited_turn => {
                    limited += room;
                    names.push(name.clone());
                }
                Some(_) => {}
            }
        }
        state.limited_turn = !state.limited_turn;
        (if limited > 0 { free.min(limited) } else { free }, names)
    }
}
