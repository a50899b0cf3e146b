//! Counts over time and notes of changes. The counts of one body in one step of time are one row.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    driver::SqliteBroker,
    end::at,
    rows::{json, time, whole, why, words},
    writer::{Failure, Step, signed},
};
use crate::{
    error::{BrokerError, Result},
    history::{History, HistoryStep, NOTES, Note, Noted, Point, QUEUE, Sample},
    unreadable,
};
use taskhost_core::task::{Millis, QueueName};

/// Workers that recorded nothing for this long are forgotten, in milliseconds.
const FORGOTTEN: i64 = 3_600_000;

#[async_trait]
impl History for SqliteBroker {
    async fn record(&self, queue: &QueueName, worker: &str, number: u64, counts: &[(String, Sample)]) -> Result<()> {
        let (queue, worker, counts) = (queue.clone(), worker.to_owned(), counts.to_vec());
        self.write(move |step| record(step, &queue, &worker, number, &counts)).await
    }

    async fn history(&self, queue: &QueueName, step: HistoryStep, from: Millis, to: Millis) -> Result<Vec<Point>> {
        let (queue, (first, count)) = (queue.clone(), step.range(from, to)?);
        self.read(move |db, _| read(db, &queue, step, first, count)).await
    }

    async fn note(&self, note: &Note) -> Result<()> {
        let note = note.clone();
        self.write(move |step| {
            let mut add = step.connection.prepare_cached("INSERT INTO audit (at, note) VALUES (?, ?)")?;
            add.execute(params![step.now_ms(), serde_json::to_string(&note)?])?;
            let mut trim = step.connection.prepare_cached("DELETE FROM audit WHERE n <= (SELECT max(n) FROM audit) - ?")?;
            trim.execute([signed(NOTES as u64)])?;
            Ok(())
        })
        .await
    }

    async fn notes(&self, before: Option<&str>, limit: usize) -> Result<Vec<Noted>> {
        let before = match before.map(str::parse::<i64>) {
            None => i64::MAX,
            Some(Ok(before)) => before,
            Some(Err(_)) => {
                let shown = unreadable::shown(before.unwrap_or_default());
                return Err(BrokerError::Invalid(format!("not the id of a note: `{shown}`")));
            }
        };
        self.read(move |db, _| notes(db, before, limit)).await
    }
}

fn record(step: &Step<'_>, queue: &QueueName, worker: &str, number: u64, counts: &[(String, Sample)]) -> Result<(), Failure> {
    let (db, now) = (step.connection, step.now_ms());
    let number = signed(number);
    let mut last = db.prepare_cached("SELECT last FROM recorded WHERE queue = ? AND worker = ?")?;
    if last.query_row([queue.as_str(), worker], |row| whole(row, "last")).optional()?.is_some_and(|last| last >= number) {
        return Ok(());
    }
    db.prepare_cached("INSERT OR REPLACE INTO recorded (queue, worker, last, at) VALUES (?, ?, ?, ?)")?.execute(params![
        queue.as_str(),
        worker,
        number,
        now
    ])?;
    db.prepare_cached("DELETE FROM recorded WHERE at < ?")?.execute([now - FORGOTTEN])?;
    let mut find = db.prepare_cached("SELECT counts FROM sample WHERE queue = ? AND step = ? AND start = ? AND task = ?")?;
    let mut write = db.prepare_cached("INSERT OR REPLACE INTO sample (queue, step, start, task, counts) VALUES (?, ?, ?, ?, ?)")?;
    let mut forget = db.prepare_cached("DELETE FROM sample WHERE queue = ? AND step = ? AND start < ?")?;
    let mut count = db.prepare_cached("SELECT count(*) AS n FROM task INDEXED BY task_ready WHERE queue = ? AND state = 1")?;
    let ready = count.query_row([queue.as_str()], |row| whole(row, "n"))?.max(0).unsigned_abs();
    let own = (QUEUE.to_owned(), Sample { ready, ..Sample::default() });
    for of in HistoryStep::ALL {
        let (seconds, start) = (signed(of.seconds()), signed(of.start(step.now)));
        for (task, sample) in counts.iter().chain([&own]).filter(|(_, sample)| !sample.is_empty()) {
            let stored = find.query_row(params![queue.as_str(), seconds, start, task], |row| words(row, "counts")).optional()?.flatten();
            let mut sum = Sample::read(stored.as_deref().unwrap_or_default());
            sum.add(sample);
            write.execute(params![queue.as_str(), seconds, start, task, sum.write()])?;
        }
        forget.execute(params![queue.as_str(), seconds, start - signed(of.kept().as_secs())])?;
    }
    Ok(())
}

fn read(db: &Connection, queue: &QueueName, step: HistoryStep, first: u64, count: u64) -> Result<Vec<Point>, Failure> {
    let mut find = db.prepare_cached(
        "SELECT start, task, counts FROM sample WHERE queue = ? AND step = ? AND start >= ? AND start < ? ORDER BY start, task",
    )?;
    let end = first + count * step.seconds();
    let rows = find.query_map(params![queue.as_str(), signed(step.seconds()), signed(first), signed(end)], |row| {
        Ok(Point {
            start: time(whole(row, "start")?.saturating_mul(1000)),
            task: words(row, "task")?.unwrap_or_default(),
            sample: Sample::read(&words(row, "counts")?.unwrap_or_default()),
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn notes(db: &Connection, before: i64, limit: usize) -> Result<Vec<Noted>, Failure> {
    let mut find = db.prepare_cached("SELECT n, at, note FROM audit WHERE n < ? ORDER BY n DESC LIMIT ?")?;
    let mut rows = find.query(params![before, signed(limit.max(1) as u64)])?;
    let mut notes = Vec::new();
    while let Some(row) = rows.next()? {
        let (id, at_ms) = (whole(row, "n")?.to_string(), whole(row, "at")?);
        match json::<Note>(row, "note") {
            Ok(Some(note)) => notes.push(Noted { id, at: time(at_ms), note }),
            Ok(None) => {}
            Err(error) => unreadable::say(at(db), &format!("the note `{id}`"), why(&error), "it is left out"),
        }
    }
    Ok(notes)
}
