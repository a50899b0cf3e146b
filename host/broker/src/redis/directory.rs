//! Live workers and the catalogue of bodies. They belong to no queue.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::{Duration, Instant},
};

use async_trait::async_trait;

use super::{
    driver::RedisBroker,
    values::{is_yes, json, list, millis, text, words},
};
use crate::{
    directory::{DRAIN, Directory, Health, WorkerInfo},
    error::Result,
    unreadable,
};
use taskhost_core::{
    catalogue::{Catalogue, Offer, PluginInfo},
    task::QueueName,
};

/// An unchanged catalogue is written again after this time.
const CATALOGUE: Duration = Duration::from_secs(60);

#[async_trait]
impl Directory for RedisBroker {
    async fn check(&self) -> Result<Health> {
        self.meet_channels().await?;
        self.meet_server().await
    }

    /// A worker's own key expires by itself; the set of worker ids only lists the keys to read. If the set did not have this worker, the
    /// broker was emptied, and the catalogue is written again.
    async fn announce(&self, worker: &WorkerInfo, ttl: Duration) -> Result<bool> {
        let ttl = millis(ttl).max(1);
        let mut bodies = redis::cmd("HSET");
        bodies.arg(self.keys.shared("catalogue"));
        let mut offers = 0;
        for plugin in &worker.plugins {
            let (Some(code), Some(description)) = (&plugin.serving, &plugin.description) else { continue };
            for body in &description.bodies {
                offers += 1;
                bodies.arg(body.name.as_str()).arg(json(&Offer { body: body.clone(), code: code.clone() })?);
            }
        }
        if is_yes(&self.commands.send(redis::cmd("SADD").arg(self.keys.shared("workers")).arg(&worker.id)).await?) {
            *self.offered.lock() = None;
        }
        // The catalogue outlives its workers. It is written when it changes, and from time to time in case it was deleted.
        let written = digest_of(&worker.plugins)?;
        let is_fresh = |(at, what): (Instant, u64)| what == written && at.elapsed() < CATALOGUE;
        if !self.offered.lock().is_some_and(is_fresh) {
            if offers > 0 {
                self.commands.send(&bodies).await?;
            }
            if !worker.queues.is_empty() {
                let queues: Vec<_> = worker.queues.iter().map(QueueName::as_str).collect();
                self.commands.send(redis::cmd("SADD").arg(self.keys.shared("queues")).arg(queues)).await?;
            }
            *self.offered.lock() = Some((Instant::now(), written));
        }
        let mut note = redis::cmd("SET");
        note.arg(worker_key(self, &worker.id)).arg(json(worker)?).arg("PX").arg(ttl);
        self.commands.send(&note).await?;
        Ok(is_yes(&self.commands.send(redis::cmd("EXISTS").arg(drain_key(self, &worker.id))).await?))
    }

    async fn ask_to_drain(&self, worker: &str) -> Result<bool> {
        if !is_yes(&self.commands.send(redis::cmd("EXISTS").arg(worker_key(self, worker))).await?) {
            return Ok(false);
        }
        let mut ask = redis::cmd("SET");
        ask.arg(drain_key(self, worker)).arg(1).arg("PX").arg(millis(DRAIN));
        self.commands.send(&ask).await?;
        Ok(true)
    }

    async fn retire(&self, worker: &str) -> Result<()> {
        self.commands.send(redis::cmd("DEL").arg(worker_key(self, worker))).await?;
        self.commands.send(redis::cmd("SREM").arg(self.keys.shared("workers")).arg(worker)).await.map(drop)
    }

    async fn workers(&self) -> Result<Vec<WorkerInfo>> {
        let mut ids = words(self.commands.send(redis::cmd("SMEMBERS").arg(self.keys.shared("workers"))).await?)?;
        ids.sort_unstable();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut read = redis::cmd("MGET");
        for id in &ids {
            read.arg(worker_key(self, id));
        }
        let (mut workers, mut gone) = (Vec::new(), Vec::new());
        for (id, info) in ids.iter().zip(list(self.commands.send(&read).await?)?) {
            match text(info) {
                Some(info) => match serde_json::from_str(&info) {
                    Ok(worker) => workers.push(worker),
                    Err(error) => {
                        let key = worker_key(self, id);
                        unreadable::say(&self.at, &format!("the key `{key}`"), error, "it is left out, and ends within a minute");
                        self.commands.send(redis::cmd("PEXPIRE").arg(key).arg(60_000).arg("NX")).await?;
                    }
                },
                None => gone.push(id),
            }
        }
        // A worker that announces itself meanwhile joins the set again with its next announcement.
        if !gone.is_empty() {
            self.commands.send(redis::cmd("SREM").arg(self.keys.shared("workers")).arg(&gone)).await?;
        }
        Ok(workers)
    }

    async fn catalogue(&self) -> Result<Catalogue> {
        let stored = words(self.commands.send(redis::cmd("HGETALL").arg(self.keys.shared("catalogue"))).await?)?;
        let mut catalogue = Catalogue::default();
        for pair in stored.chunks_exact(2) {
            match serde_json::from_str::<Offer>(&pair[1]) {
                Ok(offer) => drop(catalogue.offers.insert(offer.body.name.clone(), offer)),
                Err(error) => {
                    let key = self.keys.shared("catalogue");
                    let then = format!("it is left out until a worker announces it; `HDEL {key} NAME` in redis-cli removes it");
                    unreadable::say(&self.at, &format!("body `{}` of the catalogue", pair[0]), error, then);
                }
            }
        }
        Ok(catalogue)
    }
}

/// The key of one worker's description.
fn worker_key(broker: &RedisBroker, id: &str) -> String {
    broker.keys.shared(&format!("worker:{id}"))
}

/// The key that asks a worker to drain.
fn drain_key(broker: &RedisBroker, id: &str) -> String {
    broker.keys.shared(&format!("drain:{id}"))
}

/// A digest that changes with the offered plugins.
fn digest_of(plugins: &[PluginInfo]) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    json(&plugins)?.hash(&mut hasher);
    Ok(hasher.finish())
}
