//! Readings of the broker that those who look at the same time share.
//!
//! ask → a kept reading that is new enough, else one caller reads, and those who ask meanwhile wait for that reading
//!
//! Invariant: kept is what was read, never what was shown. Scope and mask of each caller are applied afterwards.

use std::{collections::HashMap, fmt, hash::Hash, sync::Arc, time::Instant};

use parking_lot::Mutex;

use super::problem::Problem;

/// The last reading of one thing.
pub(super) struct Kept<T>(tokio::sync::Mutex<Option<Reading<T>>>);

struct Reading<T> {
    begun: Instant,
    ended: Instant,
    value: Result<Arc<T>, Problem>,
}

impl<T> Kept<T> {
    /// A reading that began at `since` or later.
    pub(super) async fn read(&self, since: Instant, read: impl Future<Output = Result<T, Problem>>) -> Result<Arc<T>, Problem> {
        self.read_unless(since, |_| false, read).await
    }

    /// The same, but an older reading will do if it `is_good`.
    pub(super) async fn read_unless(
        &self,
        since: Instant,
        is_good: impl FnOnce(&T) -> bool,
        read: impl Future<Output = Result<T, Problem>>,
    ) -> Result<Arc<T>, Problem> {
        let asked = Instant::now();
        let mut last = self.0.lock().await;
        match &*last {
            Some(Reading { begun, value: Ok(value), .. }) if *begun >= since || is_good(value) => return Ok(Arc::clone(value)),
            // It failed while this caller waited for it. Otherwise each of many callers would wait for a failure of its own.
            Some(Reading { ended, value: Err(problem), .. }) if *ended >= asked => return Err(problem.clone()),
            _ => {}
        }
        let begun = Instant::now();
        let value = read.await.map(Arc::new);
        *last = Some(Reading { begun, ended: Instant::now(), value: value.clone() });
        value
    }
}

impl<T> Kept<T> {
    /// The last reading, however old, if nobody reads in this moment.
    pub(super) fn last(&self) -> Option<Arc<T>> {
        self.0.try_lock().ok()?.as_ref()?.value.as_ref().ok().map(Arc::clone)
    }
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self(tokio::sync::Mutex::new(None))
    }
}

impl<T> fmt::Debug for Kept<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kept")
    }
}

/// The last readings of many things, by what was asked.
#[derive(Debug)]
pub(super) struct KeptBy<K, T>(Mutex<HashMap<K, Arc<Kept<T>>>>);

/// The most things that are kept at once.
const MOST: usize = 32;

impl<K: Eq + Hash, T> KeptBy<K, T> {
    pub(super) fn of(&self, asked: K) -> Arc<Kept<T>> {
        let mut all = self.0.lock();
        if all.len() >= MOST && !all.contains_key(&asked) {
            // Those under way stay with the callers that have them.
            all.clear();
        }
        Arc::clone(all.entry(asked).or_default())
    }

    pub(super) fn forget(&self, asked: &K) {
        self.0.lock().remove(asked);
    }
}

impl<K, T> Default for KeptBy<K, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, time::Duration};

    use super::*;
    use crate::serve::problem;

    /// A thing that is read: how often it was, and what comes of it.
    struct Thing {
        kept: Kept<u32>,
        reads: Cell<u32>,
        fails: Cell<bool>,
    }

    impl Thing {
        fn new() -> Self {
            Self { kept: Kept::default(), reads: Cell::new(0), fails: Cell::new(false) }
        }

        async fn look(&self, since: Instant) -> Result<u32, Problem> {
            let read = async {
                self.reads.set(self.reads.get() + 1);
                tokio::task::yield_now().await;
                if self.fails.get() { Err(Problem::new(&problem::UNAVAILABLE, "away")) } else { Ok(self.reads.get()) }
            };
            self.kept.read(since, read).await.map(|value| *value)
        }
    }

    #[tokio::test]
    async fn all_who_ask_at_once_share_one_reading_and_later_ones_too_while_it_is_new_enough() {
        let (thing, begun) = (Thing::new(), Instant::now());
        let all = futures_util::future::join_all((0..20).map(|_| thing.look(begun))).await;
        assert!(all.iter().all(|value| matches!(value, Ok(1))) && thing.reads.get() == 1, "{all:?}");
        assert_eq!(thing.look(begun).await.expect("kept"), 1);
        assert_eq!(thing.look(Instant::now()).await.expect("anew"), 2, "what began before something changed is not shown");
    }

    #[tokio::test]
    async fn a_failure_is_shared_by_those_who_waited_for_it_and_kept_for_nobody_else() {
        let (thing, begun) = (Thing::new(), Instant::now());
        thing.fails.set(true);
        let all = futures_util::future::join_all((0..20).map(|_| thing.look(begun))).await;
        assert!(all.iter().all(Result::is_err) && thing.reads.get() == 1, "{}", thing.reads.get());
        thing.fails.set(false);
        assert_eq!(thing.look(begun).await.expect("it is back"), 2);
    }

    #[tokio::test]
    async fn a_caller_that_leaves_midway_hinders_nobody() {
        let (thing, begun) = (Thing::new(), Instant::now());
        let left = tokio::time::timeout(Duration::ZERO, std::future::pending::<()>());
        tokio::select! {
            biased;
            _ = async { tokio::join!(left, thing.look(begun), std::future::pending::<()>()) } => unreachable!("it waits for ever"),
            () = tokio::task::yield_now() => {}
        }
        assert!(thing.look(begun).await.is_ok());
    }

    #[test]
    fn what_is_kept_by_key_is_bounded() {
        let kept = KeptBy::<usize, ()>::default();
        (0..10 * MOST).for_each(|key| drop(kept.of(key)));
        assert!(kept.0.lock().len() <= MOST);
        let (one, again) = (kept.of(1), kept.of(1));
        assert!(Arc::ptr_eq(&one, &again));
        kept.forget(&1);
        assert!(!Arc::ptr_eq(&one, &kept.of(1)));
    }
}
