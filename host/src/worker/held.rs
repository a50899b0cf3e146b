//! The tasks that one incarnation holds, as this worker counts them.
//!
//! claimed → `Running` → (its attempt ended, or it is handed back) `Finishing` → recorded: gone from the set.
//!
//! Invariant: each member gets exactly one finish, made by the caller that moves it from `Running` to `Finishing`. After the lease is lost
//! no finish is made.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::lock_file::LockFile;
use taskhost_broker::{Incarnation, Member, RunningInfo};
use taskhost_core::task::{Millis, TaskId, TaskName};

#[derive(Debug)]
pub(super) struct Held {
    pub(super) incarnation: Incarnation,
    /// Shows other workers of this machine that this process is gone, once it is.
    pub(super) lock_file: Option<LockFile>,
    inner: Mutex<Inner>,
    /// Whether tasks of flows were taken in since nothing was held.
    has_steps: AtomicBool,
}

#[derive(Debug, Default)]
struct Inner {
    lost: bool,
    members: HashMap<Member, Entry, foldhash::fast::RandomState>,
}

#[derive(Debug)]
struct Entry {
    phase: Phase,
    name: TaskName,
    stop: Tokens,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    Finishing,
}

/// Two ways to tell an attempt to end.
#[derive(Debug, Clone, Default)]
pub(super) struct Tokens {
    /// The body is asked to return, within the grace time.
    pub(super) cancel: CancellationToken,
    /// The attempt is dropped at once. The caller that sets it makes the finish.
    pub(super) abandon: CancellationToken,
}

impl Held {
    pub(super) fn new(incarnation: Incarnation, lock_file: Option<LockFile>) -> Self {
        Self { incarnation, lock_file, inner: Mutex::default(), has_steps: AtomicBool::new(false) }
    }

    /// Some of what is taken in now runs for a flow.
    pub(super) fn note_steps(&self) {
        self.has_steps.store(true, Ordering::Relaxed);
    }

    /// Whether what was just recorded may be the end of a flow's task. A task that is taken in meanwhile may be overlooked; then the next claim
    /// says that its flow wants a step.
    pub(super) fn may_end_steps(&self) -> bool {
        let may = self.has_steps.load(Ordering::Relaxed);
        if may && self.inner.lock().members.is_empty() {
            self.has_steps.store(false, Ordering::Relaxed);
        }
        may
    }

    /// Takes in a claimed member; `None` when the lease is lost, or the member is held already.
    pub(super) fn add(&self, member: &Member, name: &TaskName) -> Option<Tokens> {
        let mut inner = self.inner.lock();
        if inner.lost || inner.members.contains_key(member) {
            return None;
        }
        let stop = Tokens::default();
        inner.members.insert(member.clone(), Entry { phase: Phase::Running, name: name.clone(), stop: stop.clone() });
        Some(stop)
    }

    /// Whether the caller is the one that makes this member's finish.
    pub(super) fn begin_finish(&self, member: &Member) -> bool {
        let mut inner = self.inner.lock();
        match inner.members.get_mut(member) {
            Some(entry) if entry.phase == Phase::Running => {
                entry.phase = Phase::Finishing;
                true
            }
            _ => false,
        }
    }

    /// The finishes of these members are recorded, or were stale.
    pub(super) fn forget<'a>(&self, members: impl IntoIterator<Item = &'a Member>) {
        let mut inner = self.inner.lock();
        for member in members {
            inner.members.remove(member);
        }
    }

    /// Stops every attempt that runs at once. The caller makes the finishes of the members that it gets.
    pub(super) fn abandon(&self) -> Vec<(Member, TaskName)> {
        let mut inner = self.inner.lock();
        let mut taken = Vec::new();
        for (member, entry) in &mut inner.members {
            if entry.phase == Phase::Running {
                entry.phase = Phase::Finishing;
                entry.stop.abandon.cancel();
                taken.push((member.clone(), entry.name.clone()));
            }
        }
        taken
    }

    /// The lease is lost: asks every attempt to return, forgets all members, and answers how many there were; `None` if it was lost before.
    pub(super) fn lose(&self) -> Option<usize> {
        let mut inner = self.inner.lock();
        if std::mem::replace(&mut inner.lost, true) {
            return None;
        }
        for entry in inner.members.values() {
            entry.stop.cancel.cancel();
        }
        Some(inner.members.drain().count())
    }

    pub(super) fn is_lost(&self) -> bool {
        self.inner.lock().lost
    }

    pub(super) fn len(&self) -> usize {
        self.inner.lock().members.len()
    }

    /// Tells the attempts of a task that somebody cancelled it. Answers whether there was one that did not know.
    pub(super) fn cancel(&self, id: &TaskId) -> bool {
        let inner = self.inner.lock();
        let mut found = false;
        for (member, entry) in &inner.members {
            if &member.id == id && entry.phase == Phase::Running {
                found |= !entry.stop.cancel.is_cancelled();
                entry.stop.cancel.cancel();
            }
        }
        found
    }

    /// Compares with the members that the broker says this incarnation holds. Answers those unknown here, and how many running ones were
    /// dropped because the broker does not have them. Dropped attempts are asked to return and record nothing.
    pub(super) fn reconcile<'a>(&self, there: &'a HashSet<Member>) -> (Vec<&'a Member>, usize) {
        let mut inner = self.inner.lock();
        let unknown = there.iter().filter(|member| !inner.members.contains_key(member)).collect();
        let before = inner.members.len();
        inner.members.retain(|member, entry| {
            let keep = entry.phase == Phase::Finishing || there.contains(member);
            if !keep {
                entry.stop.cancel.cancel();
            }
            keep
        });
        (unknown, before - inner.members.len())
    }

    /// The attempts that run, oldest claim first, at most `limit`.
    pub(super) fn running(&self, limit: usize) -> Vec<RunningInfo> {
        let inner = self.inner.lock();
        let mut members: Vec<_> = inner.members.iter().filter(|(_, entry)| entry.phase == Phase::Running).collect();
        members.sort_unstable_by_key(|(member, _)| member.claimed_us);
        let info = |(member, entry): (&Member, &Entry)| RunningInfo {
            id: member.id.clone(),
            task: entry.name.clone(),
            queue: self.incarnation.queue.clone(),
            since: Millis(member.claimed_us / 1000),
        };
        members.into_iter().take(limit).map(info).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use taskhost_core::task::QueueName;

    fn empty() -> Held {
        Held::new(Incarnation { queue: QueueName::default(), id: "i".into() }, None)
    }

    fn member(id: &str, at: u64) -> Member {
        Member { id: TaskId::new(id).unwrap(), claimed_us: at, place: 0 }
    }

    fn name() -> TaskName {
        TaskName::new("add").unwrap()
    }

    #[test]
    fn of_one_member_one_finish_is_made() {
        let held = empty();
        assert!(held.add(&member("a", 1), &name()).is_some());
        assert!(held.add(&member("a", 1), &name()).is_none(), "it is held already");
        assert!(held.begin_finish(&member("a", 1)));
        assert!(!held.begin_finish(&member("a", 1)));
        assert!(held.abandon().is_empty());
        held.forget([&member("a", 1)]);
        assert_eq!(held.len(), 0);
    }

    #[test]
    fn a_lost_lease_cancels_its_attempts_and_makes_no_finish() {
        let held = empty();
        let stop = held.add(&member("a", 1), &name()).unwrap();
        assert_eq!(held.lose(), Some(1));
        assert!(stop.cancel.is_cancelled() && !stop.abandon.is_cancelled());
        assert!(!held.begin_finish(&member("a", 1)));
        assert!(held.add(&member("b", 1), &name()).is_none());
        assert_eq!(held.lose(), None);
    }

    #[test]
    fn reconciling_names_the_unknown_and_drops_the_missing() {
        let held = empty();
        let kept = held.add(&member("kept", 1), &name()).unwrap();
        let missing = held.add(&member("missing", 1), &name()).unwrap();
        held.add(&member("recorded", 1), &name()).unwrap();
        assert!(held.begin_finish(&member("recorded", 1)));
        let there = HashSet::from([member("kept", 1), member("unknown", 1), member("missing", 2)]);
        let (mut unknown, dropped) = held.reconcile(&there);
        unknown.sort();
        assert_eq!(unknown, [&member("missing", 2), &member("unknown", 1)]);
        assert_eq!(dropped, 1);
        assert!(missing.cancel.is_cancelled() && !kept.cancel.is_cancelled());
        assert_eq!(held.len(), 2, "a finish on its way is left to the finisher");
    }

    #[test]
    fn a_cancel_reaches_every_attempt_of_its_task_once() {
        let held = empty();
        let stop = held.add(&member("a", 1), &name()).unwrap();
        assert!(!held.cancel(&TaskId::new("b").unwrap()));
        assert!(held.cancel(&TaskId::new("a").unwrap()));
        assert!(stop.cancel.is_cancelled());
        assert!(!held.cancel(&TaskId::new("a").unwrap()), "it was told already");
    }
}
