//! What workers share: who is there, the catalogue of bodies, the plugins' kv.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params, types::ValueRef};

use super::{
    end::at,
    rows::{json, parsed, whole, why, words},
    writer::{Failure, Step, sql},
};
use crate::{
    broker::{KvError, KvRoom, Result, WorkerInfo, unreadable},
    catalogue::{Catalogue, Offer},
    task::Millis,
};

pub(super) fn announce(step: &Step<'_>, worker: &WorkerInfo, ttl: Duration) -> Result<(), Failure> {
    let mut stand = step.connection.prepare_cached("INSERT OR REPLACE INTO worker (id, info, until) VALUES (?, ?, ?)")?;
    stand.execute(params![worker.id, serde_json::to_string(worker)?, sql(step.now.after(ttl))])?;
    // A worker says the same every few seconds: only what differs is written.
    let mut offer = step.connection.prepare_cached(
        "INSERT INTO offer (name, offer) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET offer = excluded.offer WHERE offer <> excluded.offer",
    )?;
    for plugin in &worker.plugins {
        let (Some(code), Some(description)) = (&plugin.serving, &plugin.description) else { continue };
        for body in &description.bodies {
            let stored = serde_json::to_string(&Offer { body: body.clone(), code: code.clone() })?;
            offer.execute([body.name.as_str(), &stored])?;
        }
    }
    Ok(())
}

pub(super) fn retire(step: &Step<'_>, worker: &str) -> Result<(), Failure> {
    step.connection.prepare_cached("DELETE FROM worker WHERE id = ?")?.execute([worker])?;
    Ok(())
}

pub(super) fn workers(db: &Connection, now: Millis) -> Result<Vec<WorkerInfo>, Failure> {
    let mut find = db.prepare_cached("SELECT info, id FROM worker WHERE until > ? ORDER BY id")?;
    let rows = find.query_map([sql(now)], |row| Ok(left_out(db, "worker", words(row, 1)?, json(row, 0))))?;
    Ok(rows.collect::<rusqlite::Result<Vec<_>>>()?.into_iter().flatten().collect())
}

pub(super) fn catalogue(db: &Connection) -> Result<Catalogue, Failure> {
    let mut find = db.prepare_cached("SELECT name, offer FROM offer")?;
    let read = |row: &rusqlite::Row<'_>| Ok(json(row, 1)?.map(|offer| (parsed(row, 0), offer)));
    let rows = find.query_map((), |row| Ok(left_out(db, "offer", words(row, 0)?, read(row))))?.collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(Catalogue { offers: rows.into_iter().flatten().filter_map(|(name, offer)| Some((name.ok()?, offer))).collect() })
}

/// One row that can't be read takes no other along.
fn left_out<T>(db: &Connection, table: &str, of: Option<String>, read: rusqlite::Result<Option<T>>) -> Option<T> {
    read.unwrap_or_else(|error| {
        let of = of.unwrap_or_default();
        let then = format!("it is left out until a worker announces it; `DELETE FROM {table}` in sqlite3 removes it");
        unreadable::say(at(db), &format!("`{of}` of the table {table}"), why(&error), then);
        None
    })
}

pub(super) fn kv_get(db: &Connection, plugin: &str, key: &str) -> Result<Option<Vec<u8>>, Failure> {
    let mut find = db.prepare_cached("SELECT value FROM kv WHERE plugin = ? AND key = ?")?;
    Ok(find.query_row([plugin, key], bytes).optional()?)
}

/// A value is bytes, whatever somebody else wrote there.
fn bytes(row: &rusqlite::Row<'_>) -> rusqlite::Result<Vec<u8>> {
    Ok(match row.get_ref(0)? {
        ValueRef::Blob(bytes) | ValueRef::Text(bytes) => bytes.to_vec(),
        _ => words(row, 0)?.unwrap_or_default().into_bytes(),
    })
}

/// The inner error: it does not fit the room, and nothing was written.
pub(super) fn kv_set(step: &Step<'_>, plugin: &str, key: &str, value: &[u8], room: KvRoom) -> Result<Result<(), KvError>, Failure> {
    let mut size = step.connection.prepare_cached("SELECT keys, bytes FROM kv_size WHERE plugin = ?")?;
    let (keys, bytes) = size.query_row([plugin], |row| Ok((number(row, 0)?, number(row, 1)?))).optional()?.unwrap_or_default();
    let mut old = step.connection.prepare_cached("SELECT length(value) FROM kv WHERE plugin = ? AND key = ?")?;
    let old: Option<u64> = old.query_row([plugin, key], |row| number(row, 0)).optional()?;
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

/// SQLite's integers have a sign; what is counted here has none.
fn number(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<u64> {
    whole(row, column).map(i64::unsigned_abs)
}

pub(super) fn kv_remove(step: &Step<'_>, plugin: &str, key: &str) -> Result<bool, Failure> {
    Ok(step.connection.prepare_cached("DELETE FROM kv WHERE plugin = ? AND key = ?")?.execute([plugin, key])? == 1)
}

/// The sum, or why there is none: the inner error is the plugin's fault, not the database's.
pub(super) fn kv_increment(step: &Step<'_>, plugin: &str, key: &str, by: i64, room: KvRoom) -> Result<Result<i64, KvError>, Failure> {
    let old = match kv_get(step.connection, plugin, key)? {
        None => 0,
        Some(value) => match std::str::from_utf8(&value).ok().and_then(|text| text.parse::<i64>().ok()) {
            Some(number) => number,
            None => {
                return Ok(Err(KvError::Invalid(format!("the value of `{key}` is no decimal integer of 64 bits; set it to one first"))));
            }
        },
    };
    let Some(sum) = old.checked_add(by) else {
        return Ok(Err(KvError::Invalid(format!("`{key}` + {by} is beyond 64 bits; it stays {old}"))));
    };
    Ok(kv_set(step, plugin, key, sum.to_string().as_bytes(), room)?.map(|()| sum))
}

pub(super) fn kv_keys(db: &Connection, plugin: &str, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, Failure> {
    let mut find = db.prepare_cached("SELECT key FROM kv WHERE plugin = ?1 AND key >= ?2 AND (?3 IS NULL OR key > ?3) ORDER BY key")?;
    let mut rows = find.query(params![plugin, prefix, after])?;
    let mut keys = Vec::new();
    while keys.len() < limit.min(1_000)
        && let Some(row) = rows.next()?
    {
        let Ok(key) = row.get::<_, String>(0) else { continue };
        if !key.starts_with(prefix) {
            break;
        }
        keys.push(key);
    }
    Ok(keys)
}
