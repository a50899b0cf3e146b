//! What this worker holds: one [`Lane`] a queue, one [`Hold`] an incarnation.
//!
//! claimed → `Running` → (its attempt ended, or it is handed back) `Finishing` → recorded: gone from the hold.
//!
//! Invariant: of one member exactly one finish is made: whoever moves it from `Running` to `Finishing` makes it. A hold that
//! was lost makes none any more.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{lock, proof::Proof};
use taskhost_broker::{Incarnation, Member, RunningInfo};
use taskhost_core::task::{Millis, QueueName, TaskId, TaskName};

/// One queue of this worker.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) queue: QueueName,
    pub(super) weight: u32,
    current: Mutex<Option<Arc<Hold>>>,
    /// Held around a claim until what it brought stands in the hold, so that reconciling never sees half of it.
    pub(super) claiming: tokio::sync::Mutex<()>,
    pub(super) state: Mutex<LaneState>,
    /// The waiter may begin to wait.
    pub(super) idle: Notify,
    /// A heartbeat is wanted now.
    pub(super) beat: Notify,
    /// A claim may have taken what we do not know of.
    doubt: AtomicBool,
    /// The first heartbeat was answered, or failed: until then nobody knows whether this queue wants slots.
    tried: AtomicBool,
    /// How often the link had gone down at the last heartbeat.
    beaten: AtomicU64,
}

/// What the dispatcher knows of a queue.
#[derive(Debug)]
pub(super) struct LaneState {
    /// There may be something to claim; an idle queue holds no slots.
    pub(super) hot: bool,
    /// Look again at this time at the latest, for what is due then.
    pub(super) look_at: Instant,
    /// Names under which tasks are parked.
    pub(super) parked: BTreeSet<TaskName>,
    /// Whether the next claim takes those whose plugin has a concurrency of its own.
    pub(super) limited_turn: bool,
    /// Its standing in the round robin.
    pub(super) credit: i64,
    pub(super) paused: bool,
    /// Failures of `claim` in a row.
    pub(super) failures: u32,
}

impl Lane {
    pub(super) fn new(queue: QueueName, weight: u32) -> Self {
        Self {
            queue,
            weight,
            current: Mutex::new(None),
            claiming: tokio::sync::Mutex::new(()),
            state: Mutex::new(LaneState {
                hot: true,
                look_at: Instant::now(),
                parked: BTreeSet::new(),
                limited_turn: false,
                credit: 0,
                paused: false,
                failures: 0,
            }),
            idle: Notify::new(),
            beat: Notify::new(),
            doubt: AtomicBool::new(false),
            tried: AtomicBool::new(false),
            beaten: AtomicU64::new(0),
        }
    }

    /// The living incarnation's hold, if there is one.
    pub(super) fn hold(&self) -> Option<Arc<Hold>> {
        lock(&self.current).clone()
    }

    pub(super) fn begin(&self, hold: Arc<Hold>) {
        *lock(&self.current) = Some(hold);
        lock(&self.state).hot = true;
    }

    /// Takes the hold away if it still is `hold`: its lease was lost, or it left.
    pub(super) fn end(&self, hold: &Arc<Hold>) {
        let mut current = lock(&self.current);
        if current.as_ref().is_some_and(|now| Arc::ptr_eq(now, hold)) {
            *current = None;
        }
    }

    /// What the broker says we hold is to be read with the next heartbeat.
    pub(super) fn doubt(&self) {
        self.doubt.store(true, Ordering::Release);
    }

    pub(super) fn take_doubt(&self) -> bool {
        self.doubt.swap(false, Ordering::AcqRel)
    }

    /// A heartbeat came through; `downs` is of before it was sent.
    pub(super) fn beaten(&self, downs: u64) {
        self.beaten.store(downs, Ordering::Release);
    }

    /// Whether one came through since the link was last down.
    pub(super) fn is_beaten(&self, downs: u64) -> bool {
        self.beaten.load(Ordering::Acquire) == downs
    }

    pub(super) fn set_tried(&self) {
        self.tried.store(true, Ordering::Release);
    }

    pub(super) fn is_tried(&self) -> bool {
        self.tried.load(Ordering::Acquire)
    }

    /// There may be something to claim.
    pub(super) fn heat(&self) {
        lock(&self.state).hot = true;
    }
}

/// What one incarnation holds, as this worker counts it.
#[derive(Debug)]
pub(super) struct Hold {
    pub(super) incarnation: Incarnation,
    /// Shows others of this machine, once it is let go, that this process is gone.
    pub(super) proof: Option<Proof>,
    inner: Mutex<Inner>,
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

/// How an attempt is told to end.
#[derive(Debug, Clone, Default)]
pub(super) struct Tokens {
    /// The body is asked to return; the grace time runs.
    pub(super) cancel: CancellationToken,
    /// Dropped at once; whoever says so makes its finish.
    pub(super) abandon: CancellationToken,
}

impl Hold {
    pub(super) fn new(incarnation: Incarnation, proof: Option<Proof>) -> Self {
        Self { incarnation, proof, inner: Mutex::default() }
    }

    /// Takes a claimed member in; `None` when the lease is lost already, or it stands here.
    pub(super) fn add(&self, member: &Member, name: &TaskName) -> Option<Tokens> {
        let mut inner = lock(&self.inner);
        if inner.lost || inner.members.contains_key(member) {
            return None;
        }
        let stop = Tokens::default();
        inner.members.insert(member.clone(), Entry { phase: Phase::Running, name: name.clone(), stop: stop.clone() });
        Some(stop)
    }

    /// Whether the caller is the one who makes this member's finish.
    pub(super) fn begin_finish(&self, member: &Member) -> bool {
        let mut inner = lock(&self.inner);
        match inner.members.get_mut(member) {
            Some(entry) if entry.phase == Phase::Running => {
                entry.phase = Phase::Finishing;
                true
            }
            _ => false,
        }
    }

    /// Their finishes are recorded, or were stale.
    pub(super) fn forget<'a>(&self, members: impl IntoIterator<Item = &'a Member>) {
        let mut inner = lock(&self.inner);
        for member in members {
            inner.members.remove(member);
        }
    }

    /// Takes every running member for a finish of the caller's and stops its attempt at once.
    pub(super) fn abandon(&self) -> Vec<(Member, TaskName)> {
        let mut inner = lock(&self.inner);
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

    /// The lease is lost: asks every attempt to return and forgets it. How many there were; `None` when it was known already.
    pub(super) fn lose(&self) -> Option<usize> {
        let mut inner = lock(&self.inner);
        if std::mem::replace(&mut inner.lost, true) {
            return None;
        }
        for entry in inner.members.values() {
            entry.stop.cancel.cancel();
        }
        Some(inner.members.drain().count())
    }

    pub(super) fn is_lost(&self) -> bool {
        lock(&self.inner).lost
    }

    pub(super) fn len(&self) -> usize {
        lock(&self.inner).members.len()
    }

    /// Tells the attempts of a task that somebody cancelled it; whether there was one.
    pub(super) fn cancel(&self, id: &TaskId) -> bool {
        let inner = lock(&self.inner);
        let mut found = false;
        for (member, entry) in &inner.members {
            if &member.id == id && entry.phase == Phase::Running {
                found |= !entry.stop.cancel.is_cancelled();
                entry.stop.cancel.cancel();
            }
        }
        found
    }

    /// Compares with what the broker says this incarnation holds: gives those unknown here, drops running ones that it does
    /// not hold (their attempts are asked to return and record nothing). How many were dropped.
    pub(super) fn reconcile<'a>(&self, there: &'a HashSet<Member>) -> (Vec<&'a Member>, usize) {
        let mut inner = lock(&self.inner);
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

    /// What runs, oldest claim first, at most `limit`.
    pub(super) fn running(&self, limit: usize) -> Vec<RunningInfo> {
        let inner = lock(&self.inner);
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

/// A delay before the next try of something that failed `failures` times in a row: doubled up to 5 s, half of it drawn.
pub(super) fn backoff(failures: u32) -> Duration {
    let whole = Duration::from_millis(100).saturating_mul(1 << failures.min(6)).min(Duration::from_secs(5));
    whole.mul_f64(0.5 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold() -> Hold {
        Hold::new(Incarnation { queue: QueueName::default(), id: "i".into() }, None)
    }

    fn member(id: &str, at: u64) -> Member {
        Member { id: TaskId::new(id).unwrap(), claimed_us: at }
    }

    fn name() -> TaskName {
        TaskName::new("add").unwrap()
    }

    #[test]
    fn of_one_member_one_finish_is_made() {
        let hold = hold();
        assert!(hold.add(&member("a", 1), &name()).is_some());
        assert!(hold.add(&member("a", 1), &name()).is_none(), "it stands there already");
        assert!(hold.begin_finish(&member("a", 1)));
        assert!(!hold.begin_finish(&member("a", 1)));
        assert!(hold.abandon().is_empty());
        hold.forget([&member("a", 1)]);
        assert_eq!(hold.len(), 0);
    }

    #[test]
    fn a_lost_hold_cancels_its_attempts_and_makes_no_finish() {
        let hold = hold();
        let stop = hold.add(&member("a", 1), &name()).unwrap();
        assert_eq!(hold.lose(), Some(1));
        assert!(stop.cancel.is_cancelled() && !stop.abandon.is_cancelled());
        assert!(!hold.begin_finish(&member("a", 1)));
        assert!(hold.add(&member("b", 1), &name()).is_none());
        assert_eq!(hold.lose(), None);
    }

    #[test]
    fn reconciling_names_the_unknown_and_drops_the_missing() {
        let hold = hold();
        let kept = hold.add(&member("kept", 1), &name()).unwrap();
        let missing = hold.add(&member("missing", 1), &name()).unwrap();
        hold.add(&member("recorded", 1), &name()).unwrap();
        assert!(hold.begin_finish(&member("recorded", 1)));
        let there = HashSet::from([member("kept", 1), member("unknown", 1), member("missing", 2)]);
        let (mut unknown, dropped) = hold.reconcile(&there);
        unknown.sort();
        assert_eq!(unknown, [&member("missing", 2), &member("unknown", 1)]);
        assert_eq!(dropped, 1);
        assert!(missing.cancel.is_cancelled() && !kept.cancel.is_cancelled());
        assert_eq!(hold.len(), 2, "a finish on its way is left to the finisher");
    }

    #[test]
    fn a_cancel_reaches_every_attempt_of_its_task_once() {
        let hold = hold();
        let stop = hold.add(&member("a", 1), &name()).unwrap();
        assert!(!hold.cancel(&TaskId::new("b").unwrap()));
        assert!(hold.cancel(&TaskId::new("a").unwrap()));
        assert!(stop.cancel.is_cancelled());
        assert!(!hold.cancel(&TaskId::new("a").unwrap()), "it was told already");
    }
}
