//! When the writer looks for commits of other processes while a caller waits. Pure.
//!
//! an event → look at once; no event → look once a second, in case one was lost
//!
//! Invariant: events are hints. Where none come, the writer looks every few milliseconds instead.

use std::time::{Duration, Instant};

/// Without events: how often it looks, soon after a commit and after a quiet time.
const POLL: Duration = Duration::from_millis(10);
const DOZE: Duration = Duration::from_millis(25);
const AWAKE: Duration = Duration::from_secs(1);
/// With events: how often it looks all the same.
const NET: Duration = Duration::from_secs(1);
/// After so many commits in a row without an event, events are given up. The file system may have none, or an older process may not send them.
const MISSED: u32 = 3;

#[derive(Debug)]
pub(super) struct Looks {
    has_events: bool,
    net: Duration,
    /// The last commit of any process.
    happened: Instant,
    missed: u32,
}

impl Looks {
    pub(super) fn new(now: Instant) -> Self {
        Self { has_events: false, net: NET, happened: now, missed: 0 }
    }

    /// Looks only after events, so that a test notices a lost one.
    #[cfg(test)]
    pub(super) fn by_events_alone(now: Instant) -> Self {
        Self { has_events: true, net: Duration::from_secs(3600), ..Self::new(now) }
    }

    /// A caller began to wait. `has_events`: events come from now on.
    pub(super) fn watch(&mut self, has_events: bool) {
        self.has_events |= has_events && self.missed < MISSED;
    }

    /// How long to wait for a command or an event before the next look.
    pub(super) fn pause(&self, now: Instant) -> Duration {
        if self.has_events {
            self.net
        } else if now.duration_since(self.happened) < AWAKE {
            POLL
        } else {
            DOZE
        }
    }

    /// This process has committed.
    pub(super) fn committed(&mut self, now: Instant) {
        self.happened = now;
    }

    /// The writer found a commit of another process. `is_timed`: because its pause was over, and not after an event.
    pub(super) fn found(&mut self, now: Instant, is_timed: bool) {
        self.happened = now;
        self.missed = if is_timed { self.missed + 1 } else { 0 };
        if self.missed >= MISSED && std::mem::take(&mut self.has_events) {
            tracing::debug!("no events come for the commits of other processes: looking every few milliseconds");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_events_it_looks_often_and_less_often_after_a_quiet_time() {
        let now = Instant::now();
        let looks = Looks::new(now);
        assert_eq!((looks.pause(now), looks.pause(now + AWAKE)), (POLL, DOZE));
    }

    #[test]
    fn with_events_it_looks_once_a_second_all_the_same() {
        let now = Instant::now();
        let mut looks = Looks::new(now);
        looks.watch(true);
        looks.found(now, false);
        assert_eq!(looks.pause(now), NET);
    }

    #[test]
    fn where_no_events_come_it_looks_often_again_and_for_good() {
        let now = Instant::now();
        let mut looks = Looks::new(now);
        looks.watch(true);
        for is_timed in [true, true, false, true, true] {
            looks.found(now, is_timed);
            assert_eq!(looks.pause(now), NET, "one event proves that there are some");
        }
        looks.found(now, true);
        assert_eq!(looks.pause(now), POLL);
        looks.watch(true);
        assert_eq!(looks.pause(now), POLL);
    }
}
