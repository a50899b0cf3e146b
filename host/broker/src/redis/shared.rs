//! What belongs to no queue: who works here, the catalogue of bodies, the plugins' kv.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use redis::{Cmd, Value};

use super::{
    RedisBroker,
    scripts::KV,
    values::{count, is_yes, json, list, millis, text, word, words},
};
use crate::{
    broker::{BrokerError, KvError, KvRoom, Result, WorkerInfo, unreadable},
    catalogue::{Catalogue, Offer, PluginInfo},
    task::QueueName,
};

/// A catalogue that has not changed is written again after this time.
const CATALOGUE: Duration = Duration::from_secs(60);

impl RedisBroker {
    /// A worker's own key ends by itself; the set of their ids only says where to look. A set that did not know this worker says that the
    /// broker is anew: then all that a worker puts there is put again.
    pub(super) async fn note_worker(&self, worker: &WorkerInfo, ttl: Duration) -> Result<()> {
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
            *self.offered() = None;
        }
        // The catalogue outlives its workers: it is written when it changes, and now and then, should somebody have deleted it.
        let written = digest_of(&worker.plugins)?;
        let is_fresh = |(at, what): (Instant, u64)| what == written && at.elapsed() < CATALOGUE;
        if !self.offered().is_some_and(is_fresh) {
            if offers > 0 {
                self.commands.send(&bodies).await?;
            }
            if !worker.queues.is_empty() {
                let queues: Vec<_> = worker.queues.iter().map(QueueName::as_str).collect();
                self.commands.send(redis::cmd("SADD").arg(self.keys.shared("queues")).arg(queues)).await?;
            }
            *self.offered() = Some((Instant::now(), written));
        }
        let mut note = redis::cmd("SET");
        note.arg(self.worker(&worker.id)).arg(json(worker)?).arg("PX").arg(ttl);
        self.commands.send(&note).await.map(drop)
    }

    pub(super) async fn forget_worker(&self, worker: &str) -> Result<()> {
        self.commands.send(redis::cmd("DEL").arg(self.worker(worker))).await?;
        self.commands.send(redis::cmd("SREM").arg(self.keys.shared("workers")).arg(worker)).await.map(drop)
    }

    pub(super) async fn all_workers(&self) -> Result<Vec<WorkerInfo>> {
        let mut ids = words(self.commands.send(redis::cmd("SMEMBERS").arg(self.keys.shared("workers"))).await?)?;
        ids.sort_unstable();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut read = redis::cmd("MGET");
        for id in &ids {
            read.arg(self.worker(id));
        }
        let (mut workers, mut gone) = (Vec::new(), Vec::new());
        for (id, info) in ids.iter().zip(list(self.commands.send(&read).await?)?) {
            match text(info) {
                Some(info) => match serde_json::from_str(&info) {
                    Ok(worker) => workers.push(worker),
                    Err(error) => {
                        let key = self.worker(id);
                        unreadable::say(&self.at, &format!("the key `{key}`"), error, "it is left out, and ends within a minute");
                        self.commands.send(redis::cmd("PEXPIRE").arg(key).arg(60_000).arg("NX")).await?;
                    }
                },
                None => gone.push(id),
            }
        }
        // One that announces itself again meanwhile is back in the set with its next word.
        if !gone.is_empty() {
            self.commands.send(redis::cmd("SREM").arg(self.keys.shared("workers")).arg(&gone)).await?;
        }
        Ok(workers)
    }

    pub(super) async fn all_offers(&self) -> Result<Catalogue> {
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

    fn offered(&self) -> MutexGuard<'_, Option<(Instant, u64)>> {
        self.offered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn worker(&self, id: &str) -> String {
        self.keys.shared(&format!("worker:{id}"))
    }

    pub(super) async fn get_value(&self, plugin: &str, key: &str) -> Result<Option<Vec<u8>>, KvError> {
        match self.kv(redis::cmd("HGET").arg(self.values(plugin)).arg(key)).await? {
            Value::BulkString(value) => Ok(Some(value)),
            _ => Ok(None),
        }
    }

    pub(super) async fn set_value(&self, plugin: &str, key: &str, value: &[u8], room: KvRoom) -> Result<(), KvError> {
        let call = KV.call(&self.keys.kv(plugin)).arg("set").arg(key).arg(value).arg(room.bytes.to_string()).arg(room.keys.to_string());
        fits(self.commands.call(&call).await.map_err(|error| unavailable(&error))?, room).map(drop)
    }

    pub(super) async fn remove_value(&self, plugin: &str, key: &str) -> Result<bool, KvError> {
        let removed = self.commands.call(&KV.call(&self.keys.kv(plugin)).arg("remove").arg(key)).await;
        removed.map(|was| is_yes(&was)).map_err(|error| unavailable(&error))
    }

    pub(super) async fn increment_value(&self, plugin: &str, key: &str, by: i64, room: KvRoom) -> Result<i64, KvError> {
        let call = KV.call(&self.keys.kv(plugin)).arg("increment").arg(key).arg(by.to_string());
        let call = call.arg(room.bytes.to_string()).arg(room.keys.to_string());
        let sum = word(fits(self.commands.call(&call).await.map_err(|error| unavailable(&error))?, room)?);
        sum.parse().map_err(|_| KvError::Invalid(format!("the value of `{key}` is no whole number, or the sum is beyond 64 bits")))
    }

    /// A score-0 sorted set gives the keys in byte order: from after `after` to the end of what begins with `prefix`.
    pub(super) async fn list_keys(&self, plugin: &str, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, KvError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let from = match after {
            Some(after) if after >= prefix => [b"(", after.as_bytes()].concat(),
            _ => [b"[", prefix.as_bytes()].concat(),
        };
        // No UTF-8 text has a byte 0xff: it comes after all that begins with the prefix.
        let to = if prefix.is_empty() { b"+".to_vec() } else { [b"(", prefix.as_bytes(), b"\xff"].concat() };
        let keys = format!("{}keys", self.keys.kv(plugin));
        let mut page = redis::cmd("ZRANGE");
        page.arg(keys).arg(from).arg(to).arg("BYLEX").arg("LIMIT").arg(0).arg(limit);
        words(self.kv(&page).await?).map_err(|error| unavailable(&error))
    }

    async fn kv(&self, command: &Cmd) -> Result<Value, KvError> {
        self.commands.send(command).await.map_err(|error| unavailable(&error))
    }

    fn values(&self, plugin: &str) -> String {
        format!("{}values", self.keys.kv(plugin))
    }
}

/// The answer, unless it is what the store has no room for.
fn fits(answer: Value, room: KvRoom) -> Result<Value, KvError> {
    match answer {
        Value::Array(would) => Err(room.full(would.first().is_some_and(is_yes), would.get(1).map_or(0, count))),
        answer => Ok(answer),
    }
}

fn unavailable(error: &BrokerError) -> KvError {
    KvError::Unavailable(error.to_string())
}

/// Tells whether what is offered has changed.
fn digest_of(plugins: &[PluginInfo]) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    json(&plugins)?.hash(&mut hasher);
    Ok(hasher.finish())
}
