//! The model of a whole broker: its queues, its schedules and the plugins' store.

use std::collections::BTreeMap;

use taskhost_broker::{Fired, KvRoom, Overlap, Schedule};
use taskhost_core::task::{Millis, NewTask, QueueName, TaskId};

use super::queue::Queue;

#[derive(Debug)]
pub(super) struct World {
    pub(super) queues: BTreeMap<QueueName, Queue>,
    pub(super) schedules: BTreeMap<String, Schedule>,
    /// By plugin and key.
    pub(super) values: BTreeMap<(String, String), Vec<u8>>,
    /// Whether children for other queues wait in an outbox. If not, they come to be with the finish.
    has_outbox: bool,
}

/// When the model does not know a time: the broker sets it to its own now.
pub(super) const NOW: Millis = Millis(u64::MAX);

/// Why the store refuses a change.
#[derive(Debug, PartialEq)]
pub(super) enum Refusal {
    Invalid,
    Full,
}

impl World {
    pub(super) fn new(queues: &[QueueName], has_outbox: bool) -> Self {
        let queues = queues.iter().map(|name| (name.clone(), Queue::default())).collect();
        Self { queues, schedules: BTreeMap::new(), values: BTreeMap::new(), has_outbox }
    }

    pub(super) fn queue(&mut self, name: &QueueName) -> &mut Queue {
        self.queues.get_mut(name).expect("a known queue")
    }

    /// Sends children of a task of `from` to their queues.
    pub(super) fn send(&mut self, from: &QueueName, children: Vec<NewTask>) {
        if self.has_outbox {
            self.queue(from).outbox.extend(children);
        } else {
            for child in children {
                self.queue(&child.queue).enqueue(&child, true);
            }
        }
    }

    /// Empties the outbox of a queue. Gives how many entries it had.
    pub(super) fn relay(&mut self, from: &QueueName) -> usize {
        let children = std::mem::take(&mut self.queue(from).outbox);
        for child in &children {
            self.queue(&child.queue).enqueue(child, true);
        }
        children.len()
    }

    /// The `last` of the stored schedule may be [`NOW`].
    pub(super) fn put_schedule(&mut self, new: &Schedule) {
        let mut new = new.clone();
        match self.schedules.get(&new.name) {
            None => {
                new.paused = new.says_paused.unwrap_or(new.paused);
                new.last_task = None;
                if new.last == Millis(0) {
                    new.last = NOW;
                }
            }
            Some(old) => {
                let has_same_times = (&old.rule, &old.timezone) == (&new.rule, &new.timezone);
                (new.created_at, new.last) = if has_same_times { (old.created_at, old.last) } else { (new.created_at, NOW) };
                new.last_task = old.last_task.clone().filter(|_| old.queue == new.queue);
                // A pause stays, unless only the old definition asked for it.
                new.paused = new.says_paused.unwrap_or(old.paused && old.says_paused != Some(true));
                if old.paused && !new.paused {
                    new.last = NOW;
                }
            }
        }
        self.schedules.insert(new.name.clone(), new);
    }

    /// Whether there is such a schedule. From then on a pause is the operator's word.
    pub(super) fn pause_schedule(&mut self, name: &str, paused: bool) -> bool {
        let Some(schedule) = self.schedules.get_mut(name) else { return false };
        if schedule.paused && !paused {
            schedule.last = NOW;
        }
        schedule.paused = paused;
        schedule.says_paused = schedule.says_paused.filter(|says| !*says);
        true
    }

    /// A due time that has come.
    pub(super) fn fire(&mut self, fired: &Schedule, due: Millis, task: &NewTask) -> Fired {
        let Some(stored) = self.schedules.get_mut(&fired.name) else { return Fired::NotNow };
        let definition = |one: &Schedule| (one.rule.clone(), one.timezone.clone(), one.queue.clone(), one.task.clone(), one.args.clone());
        if stored.paused || definition(stored) != definition(fired) || due <= stored.last {
            return Fired::NotNow;
        }
        stored.last = due;
        let queue = self.queues.get_mut(&stored.queue).expect("a known queue");
        if stored.overlap == Overlap::Skip
            && let Some(last) = stored.last_task.as_ref().filter(|last| queue.goes_on(last))
        {
            return Fired::Skipped(last.clone());
        }
        stored.last_task = Some(task.id.clone());
        // A firing that is known already is not started again.
        queue.enqueue(task, true);
        Fired::Enqueued(task.id.clone())
    }

    pub(super) fn set(&mut self, plugin: &str, key: &str, value: &[u8], room: KvRoom) -> Result<(), Refusal> {
        let of_plugin = || self.values.iter().filter(|((of, _), _)| of == plugin);
        let bytes: u64 = of_plugin().map(|((_, key), value)| (key.len() + value.len()) as u64).sum();
        let count = of_plugin().count() as u64;
        let place = (plugin.to_owned(), key.to_owned());
        let old = self.values.get(&place);
        let new = match old {
            Some(old) => bytes - old.len() as u64 + value.len() as u64,
            None => bytes + (key.len() + value.len()) as u64,
        };
        if (old.is_none() && count + 1 > room.keys) || (new > bytes && new > room.bytes) {
            return Err(Refusal::Full);
        }
        self.values.insert(place, value.to_vec());
        Ok(())
    }

    pub(super) fn increment(&mut self, plugin: &str, key: &str, by: i64, room: KvRoom) -> Result<i64, Refusal> {
        let old = match self.values.get(&(plugin.to_owned(), key.to_owned())) {
            None => 0,
            Some(value) => decimal(value).ok_or(Refusal::Invalid)?,
        };
        let sum = old.checked_add(by).ok_or(Refusal::Invalid)?;
        self.set(plugin, key, sum.to_string().as_bytes(), room)?;
        Ok(sum)
    }

    pub(super) fn keys(&self, plugin: &str, prefix: &str, after: Option<&str>, limit: usize) -> Vec<String> {
        let fits = |key: &str| key.starts_with(prefix) && after.is_none_or(|after| key > after);
        let of_plugin = self.values.keys().filter(|(of, key)| of == plugin && fits(key));
        of_plugin.map(|(_, key)| key.clone()).take(limit).collect()
    }

    /// The queue of a task, if exactly one queue has it.
    pub(super) fn only_queue_of(&self, id: &TaskId) -> Result<Option<&QueueName>, ()> {
        let mut having = self.queues.iter().filter(|(_, queue)| queue.tasks.contains_key(id)).map(|(name, _)| name);
        let first = having.next();
        if having.next().is_some() { Err(()) } else { Ok(first) }
    }
}

/// A decimal integer as a counter writes it: no sign `+`, no leading zero.
fn decimal(value: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(value).ok()?;
    text.parse::<i64>().ok().filter(|number| number.to_string() == text)
}
