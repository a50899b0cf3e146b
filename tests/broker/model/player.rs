//! The player of the model check: one broker, the model of it, and the dice.

use std::time::Duration;

use taskhost_broker::{Broker, Incarnation, Leased};
use taskhost_core::task::{Millis, NewTask, Priority, QueueName, Start, TaskId, TaskName, Unique};

use super::{queue::LIMIT, world::World};
use crate::support::{LEASE, named, queue, task_name};

pub(super) const HOUR: Duration = Duration::from_secs(3600);
const NAMES: [&str; 3] = ["a", "b", "c"];
/// Ids of each queue.
const IDS: u32 = 120;
/// Incarnations of each queue.
const CREW: usize = 2;

/// One incarnation, and the tasks that it holds.
pub(super) struct Hand {
    pub(super) number: usize,
    pub(super) who: Incarnation,
    pub(super) held: Vec<Leased>,
}

pub(super) struct Player<'a> {
    pub(super) broker: &'a dyn Broker,
    pub(super) random: fastrand::Rng,
    pub(super) world: World,
    pub(super) crew: Vec<Hand>,
    /// The model's only time.
    pub(super) now: Millis,
    pub(super) step: usize,
    queues: Vec<QueueName>,
    hands: usize,
}

impl<'a> Player<'a> {
    pub(super) async fn new(broker: &'a dyn Broker, seed: u64, has_outbox: bool) -> Self {
        let queues: Vec<_> = ["default", "mail", "reports"].map(queue).into();
        let world = World::new(&queues, has_outbox);
        let now = broker.now().await.expect("now");
        Self { broker, random: fastrand::Rng::with_seed(seed), world, crew: Vec::new(), now, step: 0, queues, hands: 0 }
    }

    /// Registers incarnations until each queue has enough.
    pub(super) async fn hire(&mut self) {
        for line in &self.queues {
            while self.crew.iter().filter(|hand| hand.who.queue == *line).count() < CREW {
                self.hands += 1;
                let who = self.broker.register(line, LEASE).await.expect("register");
                self.crew.push(Hand { number: self.hands, who, held: Vec::new() });
            }
        }
    }

    pub(super) fn any_queue(&mut self) -> QueueName {
        self.queues[self.random.usize(0..self.queues.len())].clone()
    }

    pub(super) fn any_hand(&mut self) -> usize {
        self.random.usize(0..self.crew.len())
    }

    /// An id of a task, or of a child: nobody enqueues those.
    pub(super) fn any_id(&mut self) -> TaskId {
        if self.random.u8(0..3) == 0 { self.child_id() } else { self.some_id() }
    }

    fn child_id(&mut self) -> TaskId {
        TaskId::new(format!("c{}", self.random.u32(0..IDS))).expect("an id")
    }

    fn some_id(&mut self) -> TaskId {
        TaskId::new(format!("t{}", self.random.u32(0..IDS))).expect("an id")
    }

    pub(super) fn some_names(&mut self) -> Vec<TaskName> {
        NAMES.into_iter().filter(|_| self.random.bool()).map(task_name).collect()
    }

    pub(super) fn new_task(&mut self) -> NewTask {
        let (id, line, name) = (self.some_id(), self.any_queue(), NAMES[self.random.usize(0..3)]);
        let mut task = NewTask { id, queue: line, ..named(name, "[]") };
        task.options.priority = Priority::new(self.random.u8(4..7)).expect("in range");
        if self.random.u8(0..10) == 0 {
            task.start = Start::In(HOUR);
        }
        if self.random.u8(0..5) == 0 {
            task.unique = Some(self.unique());
        }
        match self.random.u8(0..12) {
            0 => task.expires = Some(Millis(1)),
            1 | 2 => task.expires = Some(self.now.after(HOUR)),
            _ => {}
        }
        task.options.result_ttl = self.result_ttl();
        task
    }

    /// A child for any queue. It may be unique only if its parent is alone in the batch, because Redis releases the keys of plain successes
    /// before it adds children.
    pub(super) fn new_child(&mut self, may_be_unique: bool) -> NewTask {
        let mut child = NewTask { id: self.child_id(), queue: self.any_queue(), ..named(NAMES[0], "[]") };
        child.options.result_ttl = self.result_ttl();
        if may_be_unique && self.random.bool() {
            child.unique = Some(self.unique());
        }
        match self.random.u8(0..20) {
            0 => child.args = too_large(),
            1 => child.expires = Some(Millis(1)),
            2 => child.start = Start::In(HOUR),
            _ => {}
        }
        child
    }

    fn unique(&mut self) -> Unique {
        Unique { key: format!("k{}", self.random.u8(0..6)), ttl: 24 * HOUR }
    }

    fn result_ttl(&mut self) -> Option<Duration> {
        match self.random.u8(0..6) {
            0 | 1 => Some(Duration::ZERO),
            2 => Some(2 * HOUR),
            _ => None,
        }
    }
}

/// JSON over the payload limit.
pub(super) fn too_large() -> String {
    format!("[\"{}\"]", "x".repeat(LIMIT))
}
