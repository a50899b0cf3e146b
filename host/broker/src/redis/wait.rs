//! Waiting for work with `BZPOPMIN` on each queue's `wake` key: many queues on few connections.
//!
//! The first [`APART`] queues have a connection each. The others share one for every [`TOGETHER`] queues. In such a group one caller asks
//! for all queues and tells the other callers; when it leaves, the next caller asks. In a cluster each queue has its own connection,
//! because one command can't name keys of several queues.
//!
//! Invariant: a wake-up that is taken reaches a caller that waits for it, or is put back. A caller that is dropped midway gives up its
//! connection, because a wake-up that arrives there later would be lost.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until, timeout};

use super::{
    connection::{Link, Target},
    driver::RedisBroker,
    values::{list, word},
    waiters::{Group, Place},
};
use crate::error::Result;
use taskhost_core::task::QueueName;

/// This many queues have a connection of their own. It is the cheapest way while file descriptors suffice.
const APART: usize = 128;
/// This many of the other queues share a connection.
const TOGETHER: usize = 32;
/// How much later than the wait's limit the answer may come. A server that disappeared never answers.
const LATE: Duration = Duration::from_secs(2);
/// The lifetime of a nudge that no caller reads.
const NUDGE_MS: u64 = 60_000;

pub(super) async fn wait(broker: &RedisBroker, queue: &QueueName, limit: Duration) -> Result<()> {
    if limit.is_zero() {
        return Ok(());
    }
    let key = broker.keys.of(queue, "wake");
    match place(broker, queue) {
        Place::Apart(kept) => {
            let link = kept.lock().take().unwrap_or_else(|| blocking(broker));
            if let Some(answer) = pop(&link, [key.as_str()].into_iter(), limit).await {
                answer?;
                *kept.lock() = Some(link);
            }
            Ok(())
        }
        Place::Group(group) => wait_together(broker, &group, key, limit).await,
    }
}

fn place(broker: &RedisBroker, queue: &QueueName) -> Place {
    let mut places = broker.waiting.0.lock();
    if let Some(place) = places.of.get(queue) {
        return place.clone();
    }
    let nth = places.of.len();
    let place = if nth < APART || matches!(*broker.target, Target::Cluster { .. }) {
        Place::Apart(Arc::default())
    } else {
        let begins = (nth - APART).is_multiple_of(TOGETHER);
        let group = match places.last.take().filter(|_| !begins) {
            Some(group) => group,
            None => Arc::new(Group::new(broker.keys.shared(&format!("nudge:{}", uuid::Uuid::now_v7())), blocking(broker))),
        };
        places.last = Some(group.clone());
        Place::Group(group)
    };
    places.of.insert(queue.clone(), place.clone());
    place
}

fn blocking(broker: &RedisBroker) -> Link {
    Link::blocking(Arc::clone(&broker.target), Arc::clone(&broker.at))
}

async fn wait_together(broker: &RedisBroker, group: &Group, key: String, limit: Duration) -> Result<()> {
    let deadline = Instant::now() + limit;
    let mut stands = group.enter(key);
    let mut line = match group.line.try_lock() {
        Ok(line) => line,
        Err(_somebody_asks) => {
            nudge(broker, &group.nudge).await;
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
            line.link = blocking(broker);
        }
        let mut keys: Vec<String> = group.waiters.lock().keys().cloned().collect();
        keys.push(group.nudge.clone());
        line.is_spoiled = true;
        let Some(answer) = pop(&line.link, keys.iter().map(String::as_str), left).await else { return Ok(()) };
        let popped = answer?;
        line.is_spoiled = false;
        if let Some(key) = popped.filter(|key| *key != group.nudge)
            && !group.tell(&key)
        {
            broker.commands.send(redis::cmd("ZADD").arg(&key).arg(0).arg("w")).await?;
        }
    }
}

/// Makes the caller that asks for all queues ask again, with one more queue. A lost nudge costs only a delay, because each wait has a
/// limit.
async fn nudge(broker: &RedisBroker, key: &str) {
    let told = broker.commands.send(redis::cmd("ZADD").arg(key).arg(0).arg("w")).await;
    let bounded = broker.commands.send(redis::cmd("PEXPIRE").arg(key).arg(NUDGE_MS)).await;
    if let Err(error) = told.and(bounded) {
        tracing::debug!(%error, "failed to add a queue to a shared wait");
    }
}

/// The key that had an entry; the inner `None` if the time was over. The outer `None`: no answer came, so the connection is unusable.
async fn pop(link: &Link, keys: impl Iterator<Item = &str>, limit: Duration) -> Option<Result<Option<String>>> {
    let mut command = redis::cmd("BZPOPMIN");
    keys.for_each(|key| _ = command.arg(key));
    command.arg(format!("{:.3}", limit.as_secs_f64().clamp(0.001, 3000.0)));
    let answer = timeout(limit + LATE, link.send(&command)).await.ok()?;
    Some(answer.map(|popped| list(popped).ok().and_then(|popped| popped.into_iter().next()).map(word)))
}
