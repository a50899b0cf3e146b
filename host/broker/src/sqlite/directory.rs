//! Live workers and the catalogue of bodies. They belong to no queue.

use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, params};

use super::{
    connection::identify,
    driver::SqliteBroker,
    end::at,
    rows::{json, parsed, why, words},
    writer::{Failure, Step, sql},
};
use crate::{
    directory::{DRAIN, Directory, Health, WorkerInfo},
    error::Result,
    unreadable,
};
use taskhost_core::{
    catalogue::{Catalogue, Offer},
    task::Millis,
};

#[async_trait]
impl Directory for SqliteBroker {
    async fn check(&self) -> Result<Health> {
        let path = self.path.clone();
        let mode: String = self
            .read(move |db, _| {
                identify(&path, db)?;
                Ok(db.pragma_query_value(None, "journal_mode", |row| row.get(0))?)
            })
            .await?;
        let mut warnings = Vec::new();
        if mode != "wal" {
            warnings.push(format!(
                "`{}` is not in WAL mode ({mode}), so every step is slow: put it on a local disk, not on a network share",
                self.path.display()
            ));
        }
        Ok(Health { about: format!("SQLite {}, {}", rusqlite::version(), self.path.display()), warnings })
    }

    async fn announce(&self, worker: &WorkerInfo, ttl: Duration) -> Result<bool> {
        let worker = worker.clone();
        self.write(move |step| announce(step, &worker, ttl)).await
    }

    async fn ask_to_drain(&self, worker: &str) -> Result<bool> {
        let worker = worker.to_owned();
        self.write(move |step| ask_to_drain(step, &worker)).await
    }

    async fn retire(&self, worker: &str) -> Result<()> {
        let worker = worker.to_owned();
        self.write(move |step| retire(step, &worker)).await
    }

    async fn workers(&self) -> Result<Vec<WorkerInfo>> {
        self.read(workers).await
    }

    async fn catalogue(&self) -> Result<Catalogue> {
        self.read(|db, _| catalogue(db)).await
    }
}

fn announce(step: &Step<'_>, worker: &WorkerInfo, ttl: Duration) -> Result<bool, Failure> {
    let mut stand = step.connection.prepare_cached("INSERT OR REPLACE INTO worker (id, info, until) VALUES (?, ?, ?)")?;
    stand.execute(params![worker.id, serde_json::to_string(worker)?, sql(step.now.after(ttl))])?;
    // A worker announces the same every few seconds, so only changes are written.
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
    Ok(step.connection.prepare_cached("SELECT 1 FROM drain WHERE worker = ? AND until > ?")?.exists(params![worker.id, step.now_ms()])?)
}

fn ask_to_drain(step: &Step<'_>, worker: &str) -> Result<bool, Failure> {
    let mut find = step.connection.prepare_cached("SELECT 1 FROM worker WHERE id = ? AND until > ?")?;
    if !find.exists(params![worker, step.now_ms()])? {
        return Ok(false);
    }
    step.connection.prepare_cached("DELETE FROM drain WHERE until <= ?")?.execute([step.now_ms()])?;
    let mut ask = step.connection.prepare_cached("INSERT OR REPLACE INTO drain (worker, until) VALUES (?, ?)")?;
    ask.execute(params![worker, sql(step.now.after(DRAIN))])?;
    Ok(true)
}

fn retire(step: &Step<'_>, worker: &str) -> Result<(), Failure> {
    step.connection.prepare_cached("DELETE FROM worker WHERE id = ?")?.execute([worker])?;
    Ok(())
}

fn workers(db: &Connection, now: Millis) -> Result<Vec<WorkerInfo>, Failure> {
    let mut find = db.prepare_cached("SELECT info, id FROM worker WHERE until > ? ORDER BY id")?;
    let rows = find.query_map([sql(now)], |row| Ok(left_out(db, "worker", words(row, "id")?, json(row, "info"))))?;
    Ok(rows.collect::<rusqlite::Result<Vec<_>>>()?.into_iter().flatten().collect())
}

fn catalogue(db: &Connection) -> Result<Catalogue, Failure> {
    let mut find = db.prepare_cached("SELECT name, offer FROM offer")?;
    let read = |row: &rusqlite::Row<'_>| Ok(json(row, "offer")?.map(|offer| (parsed(row, "name"), offer)));
    let rows =
        find.query_map((), |row| Ok(left_out(db, "offer", words(row, "name")?, read(row))))?.collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(Catalogue { offers: rows.into_iter().flatten().filter_map(|(name, offer)| Some((name.ok()?, offer))).collect() })
}

/// Reports and skips an unreadable row; the other rows are read.
fn left_out<T>(db: &Connection, table: &str, of: Option<String>, read: rusqlite::Result<Option<T>>) -> Option<T> {
    read.unwrap_or_else(|error| {
        let of = of.unwrap_or_default();
        let then = format!("it is left out until a worker announces it; `DELETE FROM {table}` in sqlite3 removes it");
        unreadable::say(at(db), &format!("`{of}` of the table {table}"), why(&error), then);
        None
    })
}
