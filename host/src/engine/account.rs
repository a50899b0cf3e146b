//! The account of an attempt: its share of the memory and the open descriptors of the process, counted as they come and go.
//!
//! [`Pool`] (of all guests) → [`Account`] (of one attempt). The guards in `held.rs` give back when they are dropped.
//!
//! Invariant: a refused request gets a [`Refused`] with a sentence, and counts nothing.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::Semaphore;

use super::limits::Limits;
use taskhost_core::units;

/// More descriptors than this are useless. A kernel may say "unlimited".
const MOST_DESCRIPTORS: u64 = 1 << 20;

/// What all guests of this process may hold together.
#[derive(Debug)]
pub(super) struct Pool {
    memory: AtomicU64,
    memory_limit: u64,
    descriptors: Arc<Semaphore>,
    descriptors_limit: usize,
}

impl Pool {
    pub(super) fn new(memory: u64, descriptors: usize) -> Self {
        let descriptors = descriptors.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            memory: AtomicU64::new(0),
            memory_limit: memory,
            descriptors: Arc::new(Semaphore::new(descriptors)),
            descriptors_limit: descriptors,
        }
    }
}

/// Raises this process's soft limit of open files to the hard one, and returns the guests' share: three quarters. The host keeps the last
/// quarter for its broker, its plugins and its files.
pub(super) fn descriptors_for_guests() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let most = maximum.unwrap_or(MOST_DESCRIPTORS).min(MOST_DESCRIPTORS);
    let mut limit = current.unwrap_or(MOST_DESCRIPTORS);
    if limit < most && setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum }).is_ok() {
        limit = most;
    }
    usize::try_from(limit / 4 * 3).unwrap_or(usize::MAX)
}

/// The limit that a guest reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("memory limit reached")]
    Memory,
    /// `guest_memory` of the process. This is not the attempt's fault.
    #[error("memory limit of all guests reached")]
    MemoryOfProcess,
    #[error("limit of table elements reached")]
    Tables,
    #[error("limit of open files and connections reached")]
    Descriptors,
    /// The descriptors of all guests of this process. This is not the attempt's fault either.
    #[error("limit of open files and connections of all guests reached")]
    DescriptorsOfProcess,
}

/// The memory and descriptors that one attempt holds.
#[derive(Debug)]
pub(super) struct Account {
    pool: Arc<Pool>,
    memory: AtomicU64,
    memory_limit: u64,
    /// The sum of all bytes that the host ever kept for it. If it is large, the allocator is asked to give memory back.
    pub(super) kept: AtomicU64,
    descriptors: AtomicUsize,
    descriptors_limit: usize,
}

impl Account {
    pub(super) fn new(pool: Arc<Pool>, limits: &Limits) -> Self {
        Self {
            pool,
            memory: AtomicU64::new(0),
            memory_limit: limits.memory,
            kept: AtomicU64::new(0),
            descriptors: AtomicUsize::new(0),
            descriptors_limit: limits.descriptors,
        }
    }

    pub(super) fn take(&self, bytes: u64) -> Result<(), Refused> {
        let (own, all) = (self.memory.fetch_add(bytes, Relaxed), self.pool.memory.fetch_add(bytes, Relaxed));
        let refused = if own.saturating_add(bytes) > self.memory_limit {
            Refused::Memory
        } else if all.saturating_add(bytes) > self.pool.memory_limit {
            Refused::MemoryOfProcess
        } else {
            return Ok(());
        };
        self.give_back(bytes);
        Err(refused)
    }

    /// Counts memory that exists already, beyond every limit if need be. The next request is refused then.
    pub(super) fn found(&self, bytes: u64) {
        self.memory.fetch_add(bytes, Relaxed);
        self.pool.memory.fetch_add(bytes, Relaxed);
    }

    pub(super) fn give_back(&self, bytes: u64) {
        self.memory.fetch_sub(bytes, Relaxed);
        self.pool.memory.fetch_sub(bytes, Relaxed);
    }

    /// Counts one more open descriptor of this attempt, before the process's permit is asked for. [`Self::closed`] takes it back.
    pub(super) fn opened(&self) -> Result<(), Refused> {
        if self.descriptors.fetch_add(1, Relaxed) < self.descriptors_limit { Ok(()) } else { Err(Refused::Descriptors) }
    }

    pub(super) fn closed(&self) {
        self.descriptors.fetch_sub(1, Relaxed);
    }

    /// The permits for the descriptors of all guests.
    pub(super) fn descriptors_of_all(&self) -> Arc<Semaphore> {
        Arc::clone(&self.pool.descriptors)
    }

    #[cfg(test)]
    pub(super) fn counted(&self) -> u64 {
        self.memory.load(Relaxed)
    }

    /// The sentence for people. It speaks of the guest if the guest caused it, else of the worker's limits.
    pub(super) fn sentence(&self, refused: Refused, limits: &Limits) -> String {
        match refused {
            Refused::Memory => format!("memory limit of {} reached", units::show_size(self.memory_limit)),
            Refused::MemoryOfProcess => {
                format!("the guests of this worker have reached `guest_memory` of {} together", units::show_size(self.pool.memory_limit))
            }
            Refused::Tables => format!("limit of {} table elements reached", limits.table_elements),
            Refused::Descriptors => format!("holds more than {} files and connections at once", self.descriptors_limit),
            Refused::DescriptorsOfProcess => format!(
                "the guests of this worker have {} files and connections open, as many as they may: raise its limit of open files \
                 (`ulimit -n`) or lower its concurrency",
                self.pool.descriptors_limit
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_of_open_files_is_raised_and_a_quarter_is_the_hosts_own() {
        let guests = descriptors_for_guests();
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let limit = current.unwrap_or(MOST_DESCRIPTORS);
        assert!(limit >= maximum.unwrap_or(MOST_DESCRIPTORS).min(MOST_DESCRIPTORS), "{limit} of {maximum:?}");
        assert_eq!(guests as u64, limit / 4 * 3);
        assert_eq!(descriptors_for_guests(), guests, "once is enough");
    }

    #[test]
    fn what_is_refused_is_not_counted() {
        let pool = Arc::new(Pool::new(100, 1));
        let account = |memory| Account::new(Arc::clone(&pool), &Limits { memory, ..Limits::default() });
        let (small, large) = (account(60), account(1000));
        assert_eq!(small.take(60), Ok(()));
        assert_eq!(small.take(1), Err(Refused::Memory));
        assert_eq!(large.take(41), Err(Refused::MemoryOfProcess));
        assert_eq!(large.take(40), Ok(()));
        small.give_back(60);
        assert_eq!(large.take(60), Ok(()));
        let said = large.sentence(Refused::MemoryOfProcess, &Limits::default());
        assert!(said.contains("`guest_memory` of 100 bytes"), "{said}");
    }
}
