//! The plugins' store. Triggers of schema.sql keep its sizes in `kv_size`.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params, types::ValueRef};

use super::{
    driver::SqliteBroker,
    rows::{whole, words},
    writer::{Failure, Step},
};
use crate::{
    error::{BrokerError, Result},
    kv::{Kv, KvError, KvRoom},
};

#[async_trait]
impl Kv for SqliteBroker {
    async fn kv_get(&self, plugin: &str, key: &str) -> Result<Option<Vec<u8>>, KvError> {
        let (plugin, key) = (plugin.to_owned(), key.to_owned());
        self.read(move |db, _| get(db, &plugin, &key)).await.map_err(|error| unavailable(&error))
    }

    async fn kv_set(&self, plugin: &str, key: &str, value: &[u8], room: KvRoom) -> Result<(), KvError> {
        let (plugin, key, value) = (plugin.to_owned(), key.to_owned(), value.to_vec());
        self.write(move |step| set(step, &plugin, &key, &value, room)).await.map_err(|error| unavailable(&error))?
    }

    async fn kv_remove(&self, plugin: &str, key: &str) -> Result<bool, KvError> {
        let (plugin, key) = (plugin.to_owned(), key.to_owned());
        self.write(move |step| remove(step, &plugin, &key)).await.map_err(|error| unavailable(&error))
    }

    async fn kv_increment(&self, plugin: &str, key: &str, by: i64, room: KvRoom) -> Result<i64, KvError> {
        let (plugin, key) = (plugin.to_owned(), key.to_owned());
        self.write(move |step| increment(step, &plugin, &key, by, room)).await.map_err(|error| unavailable(&error))?
    }

    async fn kv_keys(&self, plugin: &str, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, KvError> {
        let (plugin, prefix, after) = (plugin.to_owned(), prefix.to_owned(), after.map(str::to_owned));
        self.read(move |db, _| keys(db, &plugin, &prefix, after.as_deref(), limit)).await.map_err(|error| unavailable(&error))
    }
}

fn unavailable(error: &BrokerError) -> KvError {
    KvError::Unavailable(error.to_string())
}

fn get(db: &Connection, plugin: &str, key: &str) -> Result<Option<Vec<u8>>, Failure> {
    let mut find = db.prepare_cached("SELECT value FROM kv WHERE plugin = ? AND key = ?")?;
    Ok(find.query_row([plugin, key], bytes).optional()?)
}

/// The value as bytes, of whatever type a foreign value is.
fn bytes(row: &rusqlite::Row<'_>) -> rusqlite::Result<Vec<u8>> {
    Ok(match row.get_ref("value")? {
        ValueRef::Blob(bytes) | ValueRef::Text(bytes) => bytes.to_vec(),
        _ => words(row, "value")?.unwrap_or_default().into_bytes(),
    })
}

/// Sets a value. The inner error: it does not fit the room, and nothing was written.
pub(super) fn set(step: &Step<'_>, plugin: &str, key: &str, value: &[u8], room: KvRoom) -> Result<Result<(), KvError>, Failure> {
    let mut size = step.connection.prepare_cached("SELECT keys, bytes FROM kv_size WHERE plugin = ?")?;
    let (keys, bytes) = size.query_row([plugin], |row| Ok((number(row, "keys")?, number(row, "bytes")?))).optional()?.unwrap_or_default();
    let mut old = step.connection.prepare_cached("SELECT length(value) AS bytes FROM kv WHERE plugin = ? AND key = ?")?;
    let old: Option<u64> = old.query_row([plugin, key], |row| number(row, "bytes")).optional()?;
    let new = value.len() as u64;
    let (keys, then) = match old {
        Some(old) => (keys, (bytes + new).saturating_sub(old)),
        None => (keys + 1, bytes + key.len() as u64 + new),
    };
    let too_many = old.is_none() && keys > room.keys;
    if too_many || (then > bytes && then > room.bytes) {
        return Ok(Err(room.full(too_many, then)));
    }
    let mut set = step.connection.prepare_cached(
        "INSERT INTO kv (plugin, key, value) VALUES (?, ?, ?) ON CONFLICT (plugin, key) DO UPDATE SET value = excluded.value",
    )?;
    set.execute(params![plugin, key, value])?;
    Ok(Ok(()))
}

/// A count. SQLite's integers are signed.
fn number(row: &rusqlite::Row<'_>, column: &str) -> rusqlite::Result<u64> {
    whole(row, column).map(i64::unsigned_abs)
}

fn remove(step: &Step<'_>, plugin: &str, key: &str) -> Result<bool, Failure> {
    Ok(step.connection.prepare_cached("DELETE FROM kv WHERE plugin = ? AND key = ?")?.execute([plugin, key])? == 1)
}

/// Adds to a value. The inner error is the plugin's fault, not the database's.
fn increment(step: &Step<'_>, plugin: &str, key: &str, by: i64, room: KvRoom) -> Result<Result<i64, KvError>, Failure> {
    let old = match get(step.connection, plugin, key)? {
        None => 0,
        Some(value) => match decimal(&value) {
            Some(number) => number,
            None => {
                return Ok(Err(KvError::Invalid(format!("the value of `{key}` is not a decimal integer of 64 bits; set it to one first"))));
            }
        },
    };
    let Some(sum) = old.checked_add(by) else {
        return Ok(Err(KvError::Invalid(format!("`{key}` + {by} is beyond 64 bits; it stays {old}"))));
    };
    Ok(set(step, plugin, key, sum.to_string().as_bytes(), room)?.map(|()| sum))
}

/// A number as a counter writes it. Redis reads no other, such as `+5` or `007`.
fn decimal(value: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(value).ok()?;
    text.parse::<i64>().ok().filter(|number| number.to_string() == text)
}

fn keys(db: &Connection, plugin: &str, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, Failure> {
    let mut find = db.prepare_cached("SELECT key FROM kv WHERE plugin = ?1 AND key >= ?2 AND (?3 IS NULL OR key > ?3) ORDER BY key")?;
    let mut rows = find.query(params![plugin, prefix, after])?;
    let mut keys = Vec::new();
    while keys.len() < limit.min(1_000)
        && let Some(row) = rows.next()?
    {
        let Ok(key) = row.get::<_, String>("key") else { continue };
        if !key.starts_with(prefix) {
            break;
        }
        keys.push(key);
    }
    Ok(keys)
}
