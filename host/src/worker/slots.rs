//! The slots: how many attempts run, how many of each plugin, and how much CPU a usual attempt takes.
//!
//! Invariant: `running` counts every attempt from its start until its future is gone. An attempt whose lease was lost counts until it has
//! returned.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use parking_lot::Mutex;

use super::{
    offers::Offer,
    pace::{self, Pace},
};

#[derive(Debug)]
pub(super) struct Slots {
    count: usize,
    cores: usize,
    running: AtomicUsize,
    /// By plugin.
    plugins: Mutex<HashMap<String, usize>>,
    /// CPU of a usual attempt in nanoseconds, a moving average; 0 before the first one ended.
    usual: AtomicU64,
    /// Attempts that have a slot and that the engine has not seen yet. They count as wanting CPU.
    starting: AtomicUsize,
    /// A parked task may have become startable: a plugin came, or one has room again.
    parked: AtomicBool,
}

impl Slots {
    pub(super) fn new(count: usize, cores: usize) -> Self {
        Self {
            count,
            cores,
            running: AtomicUsize::new(0),
            plugins: Mutex::default(),
            usual: AtomicU64::new(0),
            starting: AtomicUsize::new(0),
            parked: AtomicBool::new(false),
        }
    }

    /// Takes a slot; `false` when the plugin is at its `concurrency`. The dispatcher claims no more tasks than there are free slots.
    pub(super) fn enter(&self, offer: &Offer) -> bool {
        let mut plugins = self.plugins.lock();
        let of_plugin = match plugins.get_mut(&offer.code.plugin) {
            Some(of_plugin) => of_plugin,
            None => plugins.entry(offer.code.plugin.clone()).or_default(),
        };
        if offer.concurrency.is_some_and(|most| *of_plugin >= most) {
            return false;
        }
        *of_plugin += 1;
        drop(plugins);
        self.running.fetch_add(1, Ordering::Relaxed);
        self.starting.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// The engine has seen the attempt and counts it from now on.
    pub(super) fn started(&self) {
        self.starting.fetch_sub(1, Ordering::Relaxed);
    }

    /// Gives the slot back.
    pub(super) fn exit(&self, offer: &Offer) {
        let mut plugins = self.plugins.lock();
        if let Some(of_plugin) = plugins.get_mut(&offer.code.plugin) {
            *of_plugin -= 1;
            if *of_plugin == 0 {
                plugins.remove(&offer.code.plugin);
            }
        }
        drop(plugins);
        self.running.fetch_sub(1, Ordering::Relaxed);
    }

    /// Asks the dispatcher to look at the parked tasks.
    pub(super) fn ask_for_parked(&self) {
        self.parked.store(true, Ordering::Release);
    }

    /// Whether somebody asked since the last call.
    pub(super) fn take_parked_asked(&self) -> bool {
        self.parked.swap(false, Ordering::AcqRel)
    }

    /// How many more attempts of this offer's plugin may start; `None` if only the slots limit them.
    pub(super) fn room(&self, offer: &Offer) -> Option<usize> {
        let most = offer.concurrency?;
        Some(most.saturating_sub(self.plugins.lock().get(&offer.code.plugin).copied().unwrap_or(0)))
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    pub(super) fn free(&self) -> usize {
        self.count.saturating_sub(self.running())
    }

    pub(super) fn starting(&self) -> usize {
        self.starting.load(Ordering::Relaxed)
    }

    /// An attempt ended and took this much CPU.
    pub(super) fn used(&self, cpu: Duration) {
        // When two attempts end at once, one of them may be left out of the average.
        self.usual.store(pace::average(self.usual(), cpu), Ordering::Relaxed);
    }

    pub(super) fn pace(&self) -> Pace {
        Pace { slots: self.count, cores: self.cores, usual: self.usual() }
    }

    fn usual(&self) -> Option<u64> {
        match self.usual.load(Ordering::Relaxed) {
            0 => None,
            usual => Some(usual),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use taskhost_core::{catalogue::Hints, task::CodeId};

    #[test]
    fn a_plugin_stays_within_its_concurrency() {
        let offer = Offer {
            code: CodeId { plugin: "math".into(), ..CodeId::default() }.into(),
            hints: Hints::default(),
            timeout: Duration::from_secs(60),
            ceiling: None,
            concurrency: Some(2),
            terms: None,
            tally: None,
        };
        let slots = Slots::new(8, 2);
        assert!(slots.enter(&offer) && slots.enter(&offer));
        assert!(!slots.enter(&offer));
        assert_eq!((slots.running(), slots.free(), slots.room(&offer)), (2, 6, Some(0)));
        slots.exit(&offer);
        assert_eq!(slots.room(&offer), Some(1));
        assert!(slots.enter(&offer));
    }
}
