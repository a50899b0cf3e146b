//! The slots: who runs, how many of each plugin, and how much CPU an attempt takes.
//!
//! Invariant: `running` counts every attempt from its start until its future is gone, a lost one in its grace time included.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::{lock, roster::Offer};

/// What the cores may have waiting for them: enough work that they are not idle while the next claim is under way.
const AHEAD: Duration = Duration::from_millis(5);
/// Attempts whose usual CPU is so much together are started as one: below that, handing each to a thread costs more than it gains.
const TOGETHER: Duration = Duration::from_micros(100);

#[derive(Debug)]
pub(super) struct Crew {
    slots: usize,
    running: AtomicUsize,
    /// Of each plugin.
    plugins: Mutex<HashMap<String, usize>>,
    /// CPU of a usual attempt in nanoseconds, moving average; 0 before the first ended.
    usual: AtomicU64,
    /// Started, but not yet seen by the engine: they count as runnable.
    starting: AtomicUsize,
    /// A parked task may have become startable: a plugin came, or one has room again.
    parked: AtomicBool,
}

impl Crew {
    pub(super) fn new(slots: usize) -> Self {
        Self {
            slots,
            running: AtomicUsize::new(0),
            plugins: Mutex::default(),
            usual: AtomicU64::new(0),
            starting: AtomicUsize::new(0),
            parked: AtomicBool::new(false),
        }
    }

    /// Takes a slot; `false` when the plugin is at its `concurrency`. The dispatcher claims no more than there are slots.
    pub(super) fn enter(&self, offer: &Offer) -> bool {
        let mut plugins = lock(&self.plugins);
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

    /// The engine has it now.
    pub(super) fn started(&self) {
        self.starting.fetch_sub(1, Ordering::Relaxed);
    }

    /// Gives the slot back.
    pub(super) fn exit(&self, offer: &Offer) {
        let mut plugins = lock(&self.plugins);
        if let Some(of_plugin) = plugins.get_mut(&offer.code.plugin) {
            *of_plugin -= 1;
            if *of_plugin == 0 {
                plugins.remove(&offer.code.plugin);
            }
        }
        drop(plugins);
        self.running.fetch_sub(1, Ordering::Relaxed);
    }

    /// A look at what is parked is wanted.
    pub(super) fn ask_for_parked(&self) {
        self.parked.store(true, Ordering::Release);
    }

    /// Whether it was asked for since the last time.
    pub(super) fn parked_asked(&self) -> bool {
        self.parked.swap(false, Ordering::AcqRel)
    }

    /// How many more attempts of this offer's plugin may start; `None`: as many as there are slots.
    pub(super) fn room(&self, offer: &Offer) -> Option<usize> {
        let most = offer.concurrency?;
        Some(most.saturating_sub(lock(&self.plugins).get(&offer.code.plugin).copied().unwrap_or(0)))
    }

    pub(super) fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    pub(super) fn free(&self) -> usize {
        self.slots.saturating_sub(self.running())
    }

    pub(super) fn starting(&self) -> usize {
        self.starting.load(Ordering::Relaxed)
    }

    /// An attempt took so much CPU.
    pub(super) fn used(&self, cpu: Duration) {
        let cpu = u64::try_from(cpu.as_nanos()).unwrap_or(u64::MAX).max(1);
        // That two which end at once may count as one makes no difference.
        let usual = match self.usual() {
            Some(usual) => (usual / 16 * 15).saturating_add(cpu / 16).max(1),
            None => cpu,
        };
        self.usual.store(usual, Ordering::Relaxed);
    }

    /// Nanoseconds of CPU that an attempt takes.
    fn usual(&self) -> Option<u64> {
        match self.usual.load(Ordering::Relaxed) {
            0 => None,
            usual => Some(usual),
        }
    }

    /// How many attempts to start as one, and to claim from one of many queues.
    pub(super) fn together(&self) -> usize {
        let many = self.usual().map_or(1, |usual| TOGETHER.as_nanos() / u128::from(usual.max(1000)));
        usize::try_from(many).unwrap_or(usize::MAX).max(1)
    }

    /// Whether so many tasks are worth a claim now. While the cores have enough at hand, a round trip shall bring a batch and not
    /// the one slot that has just become free; when they are about to run dry, and so on an idle system, anything is.
    pub(super) fn is_worth(&self, budget: usize, wanting: usize, cores: usize) -> bool {
        budget > 0 && (budget >= self.batch(cores) || wanting < 2 * cores)
    }

    /// How many tasks make a round trip worth it while the cores have work.
    fn batch(&self, cores: usize) -> usize {
        self.slots.min(self.ceiling(cores)) / 3
    }

    /// How many attempts may want CPU at once: 16 a core, so that bodies which compute are not hoarded from other workers, and a
    /// short one has its turn within some 16 ms; more when a usual attempt is so short that these would be gone before the next
    /// claim is answered.
    pub(super) fn ceiling(&self, cores: usize) -> usize {
        let floor = 16 * cores;
        let Some(usual) = self.usual() else { return floor };
        let ahead = AHEAD.as_nanos() * cores as u128 / u128::from(usual.max(1000));
        usize::try_from(ahead).unwrap_or(usize::MAX).clamp(floor, 4096)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use taskhost_core::{catalogue::Hints, task::CodeId};

    fn offer(concurrency: Option<usize>) -> Offer {
        Offer {
            code: CodeId { plugin: "math".into(), ..CodeId::default() }.into(),
            hints: Hints::default(),
            timeout: Duration::from_secs(60),
            ceiling: None,
            concurrency,
            terms: None,
            tally: None,
        }
    }

    #[test]
    fn a_plugin_stays_within_its_concurrency() {
        let (crew, offer) = (Crew::new(8), offer(Some(2)));
        assert!(crew.enter(&offer) && crew.enter(&offer));
        assert!(!crew.enter(&offer));
        assert_eq!((crew.running(), crew.free(), crew.room(&offer)), (2, 6, Some(0)));
        crew.exit(&offer);
        assert_eq!(crew.room(&offer), Some(1));
        assert!(crew.enter(&offer));
    }

    #[test]
    fn a_claim_brings_a_batch_while_the_cores_have_work() {
        let crew = Crew::new(128);
        crew.used(Duration::from_micros(10));
        assert!(!crew.is_worth(41, 87, 2) && crew.is_worth(42, 86, 2));
        assert!(crew.is_worth(1, 3, 2), "they are about to run dry");
        assert!(!crew.is_worth(0, 0, 2));
        crew.used(Duration::from_secs(2));
        assert!(crew.is_worth(10, 22, 2) && !crew.is_worth(9, 23, 2), "batches are smaller then");
    }

    #[test]
    fn short_attempts_are_started_together_and_long_ones_are_not() {
        let crew = Crew::new(8);
        assert_eq!(crew.together(), 1, "nobody knows yet");
        crew.used(Duration::from_micros(10));
        assert_eq!(crew.together(), 10);
        crew.used(Duration::from_millis(2));
        assert_eq!(crew.together(), 1);
    }

    #[test]
    fn short_attempts_are_claimed_ahead_and_long_ones_are_not() {
        let crew = Crew::new(8);
        assert_eq!(crew.ceiling(2), 32);
        crew.used(Duration::from_micros(10));
        assert_eq!(crew.ceiling(2), 1000);
        crew.used(Duration::from_secs(2));
        assert_eq!(crew.ceiling(2), 32, "one long body is enough to be careful");
    }
}
