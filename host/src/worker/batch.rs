//! The finishes of one incarnation that wait to be recorded, oldest first.
//!
//! Invariant: a finish leaves its batch only when it is recorded or stale, or when its lease is lost.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    held::Held,
    pace::{self, Singly},
};
use taskhost_broker::{BrokerError, Finish};
use taskhost_core::{
    backoff::Backoff,
    task::{ErrorKind, Follow, TaskError, TaskName, Verdict},
};

/// The delays before a finish that the broker can't record is sent again.
const ASIDE: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));

pub(super) struct Batch {
    pub(super) held: Arc<Held>,
    items: VecDeque<Item>,
    singly: Singly,
    /// Finishes that the broker can't record because of what stands in it, each with the time of its next try.
    aside: Vec<(Instant, Item)>,
}

/// A finish to be recorded.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) finish: Finish,
    /// Bytes, roughly.
    weight: usize,
    note: Note,
}

#[derive(Debug)]
struct Note {
    name: TaskName,
    /// How often the broker refused the finish.
    refusals: u32,
}

/// A batch on its way to the broker. The broker takes a slice of finishes, so their weights and notes stand apart.
pub(super) struct Sent {
    pub(super) finishes: Vec<Finish>,
    rests: Vec<(usize, Note)>,
}

impl Item {
    pub(super) fn new(name: TaskName, finish: Finish) -> Self {
        Self { weight: weight(&finish), finish, note: Note { name, refusals: 0 } }
    }

    pub(super) fn weight(&self) -> usize {
        self.weight
    }
}

impl Sent {
    /// Each finish with its task's name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Finish, &TaskName)> {
        self.finishes.iter().zip(&self.rests).map(|(finish, (_, note))| (finish, &note.name))
    }

    fn into_items(self) -> impl DoubleEndedIterator<Item = Item> + ExactSizeIterator {
        self.finishes.into_iter().zip(self.rests).map(|(finish, (weight, note))| Item { finish, weight, note })
    }
}

impl Batch {
    pub(super) fn new(held: Arc<Held>) -> Self {
        Self { held, items: VecDeque::new(), singly: Singly::default(), aside: Vec::new() }
    }

    pub(super) fn push(&mut self, item: Item) {
        self.items.push_back(item);
    }

    /// Whether there is something to send now.
    pub(super) fn is_filled(&self) -> bool {
        !self.items.is_empty()
    }

    /// Whether nothing is left, not even a finish that waits for its next try.
    pub(super) fn is_over(&self) -> bool {
        self.items.is_empty() && self.aside.is_empty()
    }

    /// Whether no finish is suspected to be the one that the broker refuses.
    pub(super) fn is_whole(&self) -> bool {
        self.singly.is_over()
    }

    pub(super) fn len(&self) -> usize {
        self.items.len() + self.aside.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.items.iter().chain(self.aside.iter().map(|(_, item)| item)).map(Item::weight).sum()
    }

    pub(super) fn aside(&self) -> usize {
        self.aside.len()
    }

    /// Takes the next finishes to send. There must be one: see [`Batch::is_filled`].
    pub(super) fn take(&mut self) -> Sent {
        let fitting = pace::fitting(self.items.iter().map(Item::weight));
        let next = self.items.drain(..self.singly.size(fitting));
        let (finishes, rests) = next.map(|item| (item.finish, (item.weight, item.note))).unzip();
        Sent { finishes, rests }
    }

    /// The broker answered: `sent` is recorded or stale.
    pub(super) fn recorded(&mut self, sent: &Sent) {
        self.singly.recorded(sent.finishes.len());
        self.held.forget(sent.finishes.iter().map(|finish| &finish.member));
    }

    /// The call failed and may succeed later: `sent` is sent again.
    pub(super) fn put_back(&mut self, sent: Sent) {
        for item in sent.into_items().rev() {
            self.items.push_front(item);
        }
    }

    /// The broker refuses one of `sent`, or can't record it because of a key of another type. From now on the finishes are sent one by one.
    /// When the bad one is found, it is replaced by a dead end, or set aside.
    pub(super) fn refused(&mut self, sent: Sent, error: &BrokerError) {
        self.singly.refused(sent.finishes.len());
        if sent.finishes.len() > 1 {
            return self.put_back(sent);
        }
        let Some(item) = sent.into_items().next() else { return };
        if matches!(error, BrokerError::Invalid(_)) && item.note.refusals == 0 {
            self.singly.add();
            self.items.push_front(dead(item, error));
        } else {
            self.set_aside(item, error);
        }
    }

    /// A key of another type, or a damaged page, is not the attempt's fault. Its end is kept until somebody has mended the broker. The lease
    /// keeps the task meanwhile.
    fn set_aside(&mut self, mut item: Item, error: &BrokerError) {
        let again = ASIDE.whole(item.note.refusals);
        item.note.refusals = item.note.refusals.saturating_add(1);
        tracing::error!(
            id = %item.finish.member.id,
            task = %item.note.name,
            %error,
            "can't record its end; it is kept and tried again in {} s: see the broker",
            again.as_secs()
        );
        self.aside.push((Instant::now() + again, item));
    }

    /// When the next finish that was set aside is tried again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.aside.iter().map(|(due, _)| *due).min()
    }

    /// Sends the finishes again that were set aside and are due.
    pub(super) fn take_due(&mut self) {
        let now = Instant::now();
        for (_, item) in self.aside.extract_if(.., |(due, _)| *due <= now) {
            self.items.push_front(item);
            self.singly.add();
        }
    }
}

/// The broker will never take this finish as it is (a child that can't be written, for example): the task ends dead and says why.
fn dead(mut item: Item, error: &BrokerError) -> Item {
    item.note.refusals = 1;
    tracing::warn!(id = %item.finish.member.id, task = %item.note.name, %error, "the broker refused its end");
    let text = format!("the end of the attempt could not be recorded: {error}");
    item.finish.log = String::new();
    item.finish.follows = Vec::new();
    item.finish.verdict = Verdict::Dead { error: TaskError::new(ErrorKind::BadResult, text) };
    item
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

#[cfg(test)]
mod tests {
    use super::*;
    use taskhost_broker::{Incarnation, Member};
    use taskhost_core::task::{QueueName, TaskId};

    fn batch(count: u64) -> Batch {
        let mut batch = Batch::new(Arc::new(Held::new(Incarnation { queue: QueueName::default(), id: "i".into() }, None)));
        for n in 0..count {
            let member = Member { id: TaskId::new(format!("t{n}")).unwrap(), claimed_us: n, place: 0 };
            let verdict = Verdict::Succeed { result: "1".into() };
            let finish = Finish::new(member, verdict, "w");
            batch.push(Item::new(TaskName::new("add").unwrap(), finish));
        }
        batch
    }

    fn ids(sent: &Sent) -> Vec<&str> {
        sent.finishes.iter().map(|finish| finish.member.id.as_str()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_that_the_broker_refuses_becomes_dead_and_its_neighbours_are_recorded() {
        let refused = BrokerError::Invalid("a child that can't be written".into());
        let mut batch = batch(3);
        let all = batch.take();
        assert_eq!(ids(&all), ["t0", "t1", "t2"]);
        batch.refused(all, &refused);
        assert!(!batch.is_whole());
        let first = batch.take();
        assert_eq!(ids(&first), ["t0"], "one by one");
        batch.recorded(&first);
        let second = batch.take();
        batch.refused(second, &refused);
        let again = batch.take();
        assert_eq!((ids(&again), matches!(again.finishes[0].verdict, Verdict::Dead { .. })), (vec!["t1"], true));
        batch.recorded(&again);
        let last = batch.take();
        batch.recorded(&last);
        assert!(batch.is_over() && batch.is_whole());
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_that_can_not_be_written_is_tried_again_less_and_less_often() {
        let corrupt = BrokerError::Corrupt("a key of another type".into());
        let mut batch = batch(1);
        for delay in [1, 2, 4, 8, 16, 32, 60, 60] {
            let sent = batch.take();
            batch.refused(sent, &corrupt);
            assert!(!batch.is_filled() && batch.is_whole() && batch.aside() == 1 && batch.len() == 1);
            let due = batch.due().unwrap();
            assert_eq!(due - Instant::now(), Duration::from_secs(delay));
            tokio::time::sleep_until(due).await;
            batch.take_due();
        }
        assert_eq!((batch.len(), batch.aside()), (1, 0));
    }
}
