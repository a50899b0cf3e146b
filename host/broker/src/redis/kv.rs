//! The plugins' store: one hash of values and one sorted set of keys for each plugin.

use async_trait::async_trait;
use redis::{Cmd, Value};

use super::{
    driver::RedisBroker,
    scripts::KV,
    values::{count, is_yes, word, words},
};
use crate::{
    error::BrokerError,
    kv::{Kv, KvError, KvRoom},
};

#[async_trait]
impl Kv for RedisBroker {
    async fn kv_get(&self, plugin: &str, key: &str) -> Result<Option<Vec<u8>>, KvError> {
        match self.send_kv(redis::cmd("HGET").arg(self.values(plugin)).arg(key)).await? {
            Value::BulkString(value) => Ok(Some(value)),
            _ => Ok(None),
        }
    }

    async fn kv_set(&self, plugin: &str, key: &str, value: &[u8], room: KvRoom) -> Result<(), KvError> {
        let call = KV.call(&self.keys.kv(plugin)).arg("set").arg(key).arg(value).arg(room.bytes.to_string()).arg(room.keys.to_string());
        fits(self.commands.call(&call).await.map_err(|error| unavailable(&error))?, room).map(drop)
    }

    async fn kv_remove(&self, plugin: &str, key: &str) -> Result<bool, KvError> {
        let removed = self.commands.call(&KV.call(&self.keys.kv(plugin)).arg("remove").arg(key)).await;
        removed.map(|was| is_yes(&was)).map_err(|error| unavailable(&error))
    }

    async fn kv_increment(&self, plugin: &str, key: &str, by: i64, room: KvRoom) -> Result<i64, KvError> {
        let call = KV.call(&self.keys.kv(plugin)).arg("increment").arg(key).arg(by.to_string());
        let call = call.arg(room.bytes.to_string()).arg(room.keys.to_string());
        let sum = word(fits(self.commands.call(&call).await.map_err(|error| unavailable(&error))?, room)?);
        sum.parse().map_err(|_| KvError::Invalid(format!("the value of `{key}` is not a whole number, or the sum is beyond 64 bits")))
    }

    /// The sorted set has only scores of 0, so it lists the keys in byte order: after `after`, up to the last key with `prefix`.
    async fn kv_keys(&self, plugin: &str, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, KvError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let from = match after {
            Some(after) if after >= prefix => [b"(", after.as_bytes()].concat(),
            _ => [b"[", prefix.as_bytes()].concat(),
        };
        // No UTF-8 text has a byte 0xff, so this bound is after every key with the prefix.
        let to = if prefix.is_empty() { b"+".to_vec() } else { [b"(", prefix.as_bytes(), b"\xff"].concat() };
        let keys = format!("{}keys", self.keys.kv(plugin));
        let mut page = redis::cmd("ZRANGE");
        page.arg(keys).arg(from).arg(to).arg("BYLEX").arg("LIMIT").arg(0).arg(limit);
        words(self.send_kv(&page).await?).map_err(|error| unavailable(&error))
    }
}

impl RedisBroker {
    async fn send_kv(&self, command: &Cmd) -> Result<Value, KvError> {
        self.commands.send(command).await.map_err(|error| unavailable(&error))
    }

    fn values(&self, plugin: &str) -> String {
        format!("{}values", self.keys.kv(plugin))
    }
}

/// The answer, or the refusal of a value that does not fit the room.
fn fits(answer: Value, room: KvRoom) -> Result<Value, KvError> {
    match answer {
        Value::Array(would) => Err(room.full(would.first().is_some_and(is_yes), would.get(1).map_or(0, count))),
        answer => Ok(answer),
    }
}

fn unavailable(error: &BrokerError) -> KvError {
    KvError::Unavailable(error.to_string())
}
