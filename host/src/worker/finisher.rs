//! The finisher: what attempts leave is recorded, in batches of what is at hand, and at once when the cores run dry.
//!
//! attempts → [`Inbox`] → one batch an incarnation → `Broker::finish` → gone from the hold.
//!
//! An end that is not recorded takes a slot ([`Inbox::burden`]): a worker does not claim what it could not record.
//!
//! Invariant: a finish is dropped only when it is recorded, stale, or its lease is lost. While the broker is away, or can't write
//! what stands there, it is kept and repeated; repeating is safe, because a member names one attempt.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{sync::Notify, time::Instant};

use super::{
    BATCHING, Shared, dispatcher,
    hold::{Hold, backoff},
    lock,
};
use taskhost_broker::{BrokerError, Finish, Finished};
use taskhost_core::task::{ErrorKind, Follow, QueueName, TaskError, TaskName, Verdict};

/// A batch is at most so many, and about so many bytes.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 4 << 20;
/// What the broker can't record for what stands in it is tried again so seldom at last.
const ASIDE: Duration = Duration::from_secs(60);

/// A worker that keeps so many bytes of results and logs claims nothing more.
const KEPT_BYTES: usize = 64 << 20;
/// A broker that takes so long to record is not one to claim ahead of.
const SLOW: Duration = Duration::from_secs(1);

/// What waits to be recorded.
#[derive(Debug)]
pub(super) struct Inbox {
    items: Mutex<Fresh>,
    ready: Notify,
    /// What the finisher took and has not recorded.
    taken: AtomicUsize,
    taken_bytes: AtomicUsize,
    /// What of it the broker can't record for what stands in it.
    aside: AtomicUsize,
    /// The last batch was recorded, and soon: until one was, nothing is claimed ahead.
    trusted: AtomicBool,
    /// Queues whose outbox has entries.
    relays: Mutex<BTreeSet<QueueName>>,
    relay: Notify,
    /// Something was recorded.
    pub(super) settled: Notify,
}

/// What the finisher has not taken yet.
#[derive(Debug, Default)]
struct Fresh {
    items: Vec<(Arc<Hold>, Item)>,
    bytes: usize,
}

#[derive(Debug)]
struct Item {
    finish: Finish,
    /// Bytes, roughly.
    weight: usize,
    note: Note,
}

#[derive(Debug)]
struct Note {
    name: TaskName,
    /// How often the broker refused it.
    refusals: u32,
}

impl Default for Inbox {
    fn default() -> Self {
        Self {
            items: Mutex::default(),
            ready: Notify::new(),
            taken: AtomicUsize::new(0),
            taken_bytes: AtomicUsize::new(0),
            aside: AtomicUsize::new(0),
            trusted: AtomicBool::new(false),
            relays: Mutex::default(),
            relay: Notify::new(),
            settled: Notify::new(),
        }
    }
}

impl Inbox {
    /// The first of a batch wakes the finisher, who then waits a moment for others if that is worth it: see [`Shared::pace`].
    pub(super) fn push(&self, hold: &Arc<Hold>, name: TaskName, finish: Finish) {
        let weight = weight(&finish);
        let mut fresh = lock(&self.items);
        fresh.items.push((hold.clone(), Item { finish, weight, note: Note { name, refusals: 0 } }));
        fresh.bytes += weight;
        let is_first = fresh.items.len() == 1;
        drop(fresh);
        if is_first {
            self.ready.notify_one();
        }
    }

    /// How many wait for the next batch.
    pub(super) fn len(&self) -> usize {
        lock(&self.items).items.len()
    }

    /// How many ends are not recorded, and their bytes.
    pub(super) fn kept(&self) -> (usize, usize) {
        let fresh = lock(&self.items);
        let count = fresh.items.len() + self.taken.load(Ordering::Relaxed);
        (count, fresh.bytes + self.taken_bytes.load(Ordering::Relaxed))
    }

    /// How many of `slots` the ends take that are not recorded. While batches are recorded at once, as many as there are slots may be on
    /// their way for nothing: claims need not wait for them. When a batch failed or was slow, and for what can't be recorded, each takes one.
    pub(super) fn burden(&self, slots: usize) -> usize {
        let (count, bytes) = self.kept();
        if bytes > KEPT_BYTES {
            return slots;
        }
        if !self.trusted.load(Ordering::Relaxed) {
            return count;
        }
        let aside = self.aside.load(Ordering::Relaxed);
        aside + count.saturating_sub(aside + slots)
    }

    /// Enough is at hand, or nothing more will come soon.
    pub(super) fn record_now(&self) {
        self.ready.notify_one();
    }

    /// What the finisher has in its hands. Whoever looks at both sees each end once: the lock is held meanwhile.
    fn count(&self, batches: &[Batch], _whole: MutexGuard<'_, Fresh>) {
        let aside = || batches.iter().flat_map(|batch| &batch.aside).map(|(_, item)| item);
        let items = || batches.iter().flat_map(|batch| &batch.items);
        self.aside.store(aside().count(), Ordering::Relaxed);
        self.taken.store(batches.iter().map(|batch| batch.items.len() + batch.aside.len()).sum(), Ordering::Relaxed);
        self.taken_bytes.store(items().chain(aside()).map(|item| item.weight).sum(), Ordering::Relaxed);
    }

    /// The outbox of this queue has entries.
    pub(super) fn ask_relay(&self, queue: &QueueName) {
        if lock(&self.relays).insert(queue.clone()) {
            self.relay.notify_one();
        }
    }
}

pub(super) async fn run(shared: Arc<Shared>) {
    let mut batches: Vec<Batch> = Vec::new();
    let mut failures = 0;
    loop {
        if batches.iter().all(|batch| batch.items.is_empty()) {
            let due = batches.iter().filter_map(Batch::due).min();
            let due = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = gathered(&shared) => {}
                () = due => {}
                () = shared.end.cancelled() => return,
            }
            // A claim that is sent now shares the round trip.
            shared.wake.notify_one();
        }
        take(&shared.inbox, &mut batches);
        batches.iter_mut().for_each(Batch::take_due);
        let burden = shared.inbox.burden(shared.settings.concurrency);
        let began = Instant::now();
        let filled = batches.iter_mut().filter(|batch| !batch.items.is_empty());
        let failed = join_all(filled.map(|batch| batch.record(&shared))).await.contains(&false);
        batches.retain(|batch| !batch.items.is_empty() || !batch.aside.is_empty());
        let is_whole = !failed && batches.iter().all(|batch| batch.singly == 0);
        shared.inbox.trusted.store(is_whole && began.elapsed() < SLOW, Ordering::Relaxed);
        shared.inbox.count(&batches, lock(&shared.inbox.items));
        shared.inbox.settled.notify_one();
        if burden > 0 {
            // Claims may have waited for it.
            shared.wake.notify_one();
        }
        if !failed {
            failures = 0;
            continue;
        }
        failures += 1;
        let again = async {
            tokio::time::sleep(backoff(failures)).await;
            shared.link.up().await;
        };
        tokio::select! {
            () = again => {}
            () = shared.end.cancelled() => return,
        }
    }
}

/// Takes what came in, and drops what belongs to a lost lease.
fn take(inbox: &Inbox, batches: &mut Vec<Batch>) {
    let mut fresh = lock(&inbox.items);
    for (hold, item) in fresh.items.drain(..) {
        match batches.iter_mut().find(|batch| Arc::ptr_eq(&batch.hold, &hold)) {
            Some(batch) => batch.items.push_back(item),
            None => batches.push(Batch { hold, items: VecDeque::from([item]), singly: 0, aside: Vec::new() }),
        }
    }
    fresh.bytes = 0;
    batches.retain(|batch| !batch.hold.is_lost());
    inbox.count(batches, fresh);
}

/// Returns when something is to be recorded and waiting for more is not worth it.
async fn gathered(shared: &Shared) {
    while shared.inbox.len() == 0 {
        shared.inbox.ready.notified().await;
    }
    let latest = Instant::now() + BATCHING;
    while !shared.is_worth_recording() {
        tokio::select! {
            () = shared.inbox.ready.notified() => {}
            () = tokio::time::sleep_until(latest) => return,
        }
    }
}

/// What waits to be recorded for one incarnation, oldest first.
struct Batch {
    hold: Arc<Hold>,
    items: VecDeque<Item>,
    /// So many are to be sent one by one, to find the one that the broker refuses.
    singly: usize,
    /// What it can't record for what stands in it, each with the time of its next try.
    aside: Vec<(Instant, Item)>,
}

impl Batch {
    /// Sends the next batch; `false`: wait before the next try.
    async fn record(&mut self, shared: &Arc<Shared>) -> bool {
        let count = if self.singly > 0 { 1 } else { self.fitting() };
        let (finishes, rests): (Vec<Finish>, Vec<(usize, Note)>) =
            self.items.drain(..count).map(|item| (item.finish, (item.weight, item.note))).unzip();
        let recorded = shared.broker.finish(&self.hold.incarnation, &finishes).await;
        let mut sent: Vec<Item> = finishes.into_iter().zip(rests).map(|(finish, (weight, note))| Item { finish, weight, note }).collect();
        match recorded {
            Ok(replies) => {
                self.singly = self.singly.saturating_sub(sent.len());
                self.hold.forget(sent.iter().map(|item| &item.finish.member));
                for (item, reply) in sent.iter().zip(replies) {
                    settle(shared, &self.hold, item, reply);
                }
                true
            }
            Err(error) if matches!(error, BrokerError::Invalid(_) | BrokerError::Corrupt(_)) => {
                if sent.len() > 1 {
                    self.singly = sent.len();
                    self.put_back(sent);
                } else if let Some(item) = sent.pop() {
                    self.singly = self.singly.saturating_sub(1);
                    match error {
                        BrokerError::Invalid(_) if item.note.refusals == 0 => {
                            self.singly += 1;
                            self.items.push_front(refused(item, &error));
                        }
                        _ => self.set_aside(item, &error),
                    }
                }
                true
            }
            Err(error) => {
                shared.link.failed(&error);
                tracing::debug!(%error, count = sent.len(), "could not record; kept");
                self.put_back(sent);
                false
            }
        }
    }

    /// A key of another type, a damaged page: no fault of the attempt. Its end is kept until somebody has mended what stands there; the
    /// lease keeps the task meanwhile.
    fn set_aside(&mut self, mut item: Item, error: &BrokerError) {
        let again = Duration::from_secs(1 << item.note.refusals.min(6)).min(ASIDE);
        item.note.refusals += 1;
        tracing::error!(
            id = %item.finish.member.id,
            task = %item.note.name,
            %error,
            "can't record its end; it is kept and tried again in {} s: see the broker",
            again.as_secs()
        );
        self.aside.push((Instant::now() + again, item));
    }

    /// When the next of those set aside is tried again.
    fn due(&self) -> Option<Instant> {
        self.aside.iter().map(|(due, _)| *due).min()
    }

    fn take_due(&mut self) {
        let now = Instant::now();
        for (_, item) in self.aside.extract_if(.., |(due, _)| *due <= now) {
            self.items.push_front(item);
            self.singly += 1;
        }
    }

    fn put_back(&mut self, sent: Vec<Item>) {
        for item in sent.into_iter().rev() {
            self.items.push_front(item);
        }
    }

    /// How many of the next make one batch, at least 1.
    fn fitting(&self) -> usize {
        let mut bytes = 0;
        let within = self.items.iter().take(BATCH).take_while(|item| {
            bytes += item.weight;
            bytes <= BATCH_BYTES
        });
        within.count().max(1).min(self.items.len())
    }
}

fn weight(finish: &Finish) -> usize {
    let verdict = match &finish.verdict {
        Verdict::Succeed { result } => result.len(),
        Verdict::Retry { error, .. } | Verdict::Dead { error } | Verdict::Cancel { error } => {
            error.message.len() + error.detail.as_ref().map_or(0, String::len)
        }
        Verdict::HandBack { .. } | Verdict::Park => 0,
    };
    let follows: usize = finish.follows.iter().map(|Follow::Enqueue(child)| child.args.len() + 256).sum();
    verdict + follows + finish.log.len() + 256
}

fn settle(shared: &Arc<Shared>, hold: &Arc<Hold>, item: &Item, reply: Finished) {
    if reply == Finished::Stale {
        tracing::debug!(id = %item.finish.member.id, task = %item.note.name, "its end was recorded before, or its lease is lost");
        return;
    }
    let queue = &hold.incarnation.queue;
    if item.finish.follows.iter().any(|Follow::Enqueue(child)| &child.queue != queue) {
        shared.inbox.ask_relay(queue);
    }
    match &item.finish.verdict {
        Verdict::Succeed { .. } => {
            shared.tally.succeeded.fetch_add(1, Ordering::Relaxed);
        }
        Verdict::Retry { .. } | Verdict::Dead { .. } | Verdict::Cancel { .. } => {
            shared.tally.failed.fetch_add(1, Ordering::Relaxed);
        }
        Verdict::HandBack { .. } => {}
        Verdict::Park => dispatcher::parked(shared, queue, &item.note.name),
    }
}

/// The broker will never take this one as it is (a child that can't be written, say): the task ends dead and says why.
fn refused(mut item: Item, error: &BrokerError) -> Item {
    item.note.refusals = 1;
    tracing::warn!(id = %item.finish.member.id, task = %item.note.name, %error, "its end was refused");
    let text = format!("what became of the attempt could not be recorded: {error}");
    item.finish.log = String::new();
    item.finish.follows = Vec::new();
    item.finish.verdict = Verdict::Dead { error: TaskError::new(ErrorKind::BadResult, text) };
    item
}

/// Moves what children went to other queues, right after the finish that made them.
pub(super) async fn relay(shared: Arc<Shared>) {
    let mut failures = 0;
    loop {
        let next = lock(&shared.inbox.relays).pop_first();
        let Some(queue) = next else {
            tokio::select! {
                () = shared.inbox.relay.notified() => continue,
                () = shared.end.cancelled() => return,
            }
        };
        match shared.broker.relay(&queue).await {
            Ok(moved) => {
                failures = 0;
                tracing::debug!(%queue, moved, "relayed");
            }
            Err(error) => {
                shared.link.failed(&error);
                tracing::debug!(%queue, %error, "could not relay; kept");
                failures += 1;
                lock(&shared.inbox.relays).insert(queue);
                tokio::select! {
                    () = tokio::time::sleep(backoff(failures)) => {}
                    () = shared.end.cancelled() => return,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use taskhost_broker::{Incarnation, Member};

    fn end(n: u64, bytes: usize) -> Finish {
        Finish {
            member: Member { id: taskhost_core::task::TaskId::new(format!("t{n}")).unwrap(), claimed_us: n },
            verdict: Verdict::Succeed { result: "x".repeat(bytes) },
            follows: Vec::new(),
            code: None,
            worker: "w".into(),
            ran_ms: 1,
            log: String::new(),
        }
    }

    #[test]
    fn ends_that_are_not_recorded_take_slots_and_bytes() {
        let hold = Arc::new(Hold::new(Incarnation { queue: QueueName::default(), id: "i".into() }, None));
        let inbox = Inbox::default();
        let push = |n, bytes| inbox.push(&hold, TaskName::new("add").unwrap(), end(n, bytes));
        (0..6).for_each(|n| push(n, 1));
        assert_eq!(inbox.burden(4), 6, "nothing was recorded yet");
        inbox.trusted.store(true, Ordering::Relaxed);
        assert_eq!(inbox.burden(4), 2, "as many as there are slots are on their way");
        let mut batches = Vec::new();
        take(&inbox, &mut batches);
        assert_eq!((inbox.len(), inbox.kept().0, inbox.burden(4)), (0, 6, 2), "in the finisher's hands");
        let item = batches[0].items.pop_front().unwrap();
        batches[0].aside.push((Instant::now(), item));
        inbox.count(&batches, lock(&inbox.items));
        assert_eq!(inbox.burden(8), 1, "what can't be recorded takes its slot");
        batches.clear();
        inbox.count(&batches, lock(&inbox.items));
        assert_eq!((inbox.kept(), inbox.burden(4)), ((0, 0), 0));
        push(9, KEPT_BYTES + 1);
        assert_eq!(inbox.burden(4), 4, "its bytes take all of them");
    }
}
