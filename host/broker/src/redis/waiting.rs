//! Waiting for work: `BZPOPMIN` on what `wake` holds, for many queues on few connections.
//!
//! The first [`APART`] queues that are waited on have a connection each. Others share one, [`TOGETHER`] queues each: one of those who wait
//! asks for all of them and tells the others; when it goes, the next one asks. In a cluster, where one command can't name keys of several
//! queues, each has its own.
//!
//! Invariant: a wake-up that is taken is told to somebody who waits for it, or given back. A wait that is given up midway gives up its
//! connection: what comes to it then would be told to nobody.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until, timeout},
};

use super::{
    RedisBroker,
    connection::{Link, Target},
    values::{list, word},
};
use crate::{broker::Result, task::QueueName};

/// So many queues have a connection of their own: nothing is cheaper while there are descriptors.
const APART: usize = 128;
/// So many of the others share one.
const TOGETHER: usize = 32;
/// The server ends each wait; one that is gone without a word does not.
const LATE: Duration = Duration::from_secs(2);
/// A word to whoever asks for all, if it is never read.
const NUDGE_MS: u64 = 60_000;

/// How each queue is waited on, in the order in which they were first.
#[derive(Debug, Default)]
pub(super) struct Waiting(Mutex<Places>);

#[derive(Debug, Default)]
struct Places {
    of: HashMap<QueueName, Place>,
    last: Option<Arc<Group>>,
}

#[derive(Debug, Clone)]
enum Place {
    /// Its connection, while nobody waits on it.
    Apart(Arc<Mutex<Option<Link>>>),
    Group(Arc<Group>),
}

impl RedisBroker {
    pub(super) async fn wait_for_work(&self, queue: &QueueName, limit: Duration) -> Result<()> {
        if limit.is_zero() {
            return Ok(());
        }
        let key = self.keys.of(queue, "wake");
        match self.place(queue) {
            Place::Apart(kept) => {
                let link = lock(&kept).take().unwrap_or_else(|| self.blocking());
                if let Some(answer) = pop(&link, [key.as_str()].into_iter(), limit).await {
                    answer?;
                    *lock(&kept) = Some(link);
                }
                Ok(())
            }
            Place::Group(group) => self.wait_together(&group, key, limit).await,
        }
    }

    fn place(&self, queue: &QueueName) -> Place {
        let mut places = lock(&self.waiting.0);
        if let Some(place) = places.of.get(queue) {
            return place.clone();
        }
        let nth = places.of.len();
        let place = if nth < APART || matches!(*self.target, Target::Cluster { .. }) {
            Place::Apart(Arc::default())
        } else {
            let begins = (nth - APART).is_multiple_of(TOGETHER);
            let group = match places.last.take().filter(|_| !begins) {
                Some(group) => group,
                None => Arc::new(Group::new(self.keys.shared(&format!("nudge:{}", uuid::Uuid::now_v7())), self.blocking())),
            };
            places.last = Some(group.clone());
            Place::Group(group)
        };
        places.of.insert(queue.clone(), place.clone());
        place
    }

    fn blocking(&self) -> Link {
        Link::blocking(Arc::clone(&self.target), Arc::clone(&self.at))
    }

    async fn wait_together(&self, group: &Group, key: String, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        let mut stands = group.enter(key);
        let mut line = match group.line.try_lock() {
            Ok(line) => line,
            Err(_somebody_asks) => {
                self.nudge(&group.nudge).await;
                tokio::select! {
                    _told = &mut stands.woken => return Ok(()),
                    line = group.line.lock() => line,
                    () = sleep_until(deadline) => return Ok(()),
                }
            }
        };
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if stands.woken.try_recv().is_ok() || left.is_zero() {
                return Ok(());
            }
            if line.is_spoiled {
                line.link = self.blocking();
            }
            let mut keys: Vec<String> = lock(&group.waiters).keys().cloned().collect();
            keys.push(group.nudge.clone());
            line.is_spoiled = true;
            let Some(answer) = pop(&line.link, keys.iter().map(String::as_str), left).await else { return Ok(()) };
            let popped = answer?;
            line.is_spoiled = false;
            if let Some(key) = popped.filter(|key| *key != group.nudge)
                && !group.tell(&key)
            {
                self.commands.send(redis::cmd("ZADD").arg(&key).arg(0).arg("w")).await?;
            }
        }
    }

    /// Whoever asks for all is to ask again, for one more. A word that is lost costs a delay: the wait has a limit.
    async fn nudge(&self, key: &str) {
        let told = self.commands.send(redis::cmd("ZADD").arg(key).arg(0).arg("w")).await;
        let bounded = self.commands.send(redis::cmd("PEXPIRE").arg(key).arg(NUDGE_MS)).await;
        if let Err(error) = told.and(bounded) {
            tracing::debug!(%error, "could not ask for one more queue to be waited on");
        }
    }
}

/// The key at which something was; `None` inside when the time was over. `None`: no answer, the connection is of no use.
async fn pop(link: &Link, keys: impl Iterator<Item = &str>, limit: Duration) -> Option<Result<Option<String>>> {
    let mut command = redis::cmd("BZPOPMIN");
    keys.for_each(|key| _ = command.arg(key));
    command.arg(format!("{:.3}", limit.as_secs_f64().clamp(0.001, 3000.0)));
    let answer = timeout(limit + LATE, link.send(&command)).await.ok()?;
    Some(answer.map(|popped| list(popped).ok().and_then(|popped| popped.into_iter().next()).map(word)))
}

/// Queues that are waited on together.
#[derive(Debug)]
struct Group {
    /// Who waits, by key.
    waiters: Mutex<HashMap<String, Vec<oneshot::Sender<()>>>>,
    line: tokio::sync::Mutex<Line>,
    /// A key that is asked for too, to end a wait before its time.
    nudge: String,
}

#[derive(Debug)]
struct Line {
    link: Link,
    /// A wait on it was given up.
    is_spoiled: bool,
}

/// One that waits; gone from the group with its drop.
struct Stands<'a> {
    group: &'a Group,
    key: String,
    woken: oneshot::Receiver<()>,
}

impl Group {
    fn new(nudge: String, link: Link) -> Self {
        Self { waiters: Mutex::default(), line: tokio::sync::Mutex::new(Line { link, is_spoiled: false }), nudge }
    }

    fn enter(&self, key: String) -> Stands<'_> {
        let (sender, woken) = oneshot::channel();
        lock(&self.waiters).entry(key.clone()).or_default().push(sender);
        Stands { group: self, key, woken }
    }

    /// Whether somebody waited for it.
    fn tell(&self, key: &str) -> bool {
        let told = lock(&self.waiters).remove(key).unwrap_or_default();
        // All of this process: one wake-up is for one of them, and a wait may return for nothing.
        let mut is_heard = false;
        for waiter in told {
            is_heard |= waiter.send(()).is_ok();
        }
        is_heard
    }
}

impl Drop for Stands<'_> {
    fn drop(&mut self) {
        self.woken.close();
        let mut waiters = lock(&self.group.waiters);
        if let Some(here) = waiters.get_mut(&self.key) {
            here.retain(|waiter| !waiter.is_closed());
            if here.is_empty() {
                waiters.remove(&self.key);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
