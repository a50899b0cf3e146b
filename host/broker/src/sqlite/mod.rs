//! The broker in one SQLite file: for one machine, with no server at all.
//!
//! a verb → a closure to the one writer thread, grouped with its neighbours into one transaction → its answer; what only
//! reads goes to a few reading connections. Several processes may share the file.
//!
//! Invariant: one verb is one transaction step, decided by this process's clock inside it. There is one database, so children
//! come to be in the finishing step itself and no outbox exists.

mod connection;
mod end;
mod enqueue;
mod finish;
mod kept;
mod lease;
mod listing;
mod rows;
mod schedules;
mod shared;
mod show;
mod standing;
mod sweep;
mod wait;
mod wake;
mod writer;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use rusqlite::{Connection, params};
use tokio::sync::mpsc;

use self::{
    connection::Readers,
    rows::Odd,
    standing::Standing,
    wake::Bells,
    writer::{Failure, Step, Writer},
};
use super::{
    Broker, BrokerError, BrokerSettings, CancelReply, Claimed, DeleteReply, Enqueued, Extended, Finish, FinishReply, Fired, Health,
    Incarnation, KvError, KvRoom, Lease, Leased, QueueView, Result, RetryReply, Schedule, TaskFilter, TaskPage, WorkerInfo,
};
use crate::{
    catalogue::Catalogue,
    task::{Clock, Millis, NewTask, Progress, QueueName, SystemClock, TaskId, TaskName, TaskView},
};

/// Rows that can't be read may show one another, a page at a time; what is left after so many rounds is left out.
const READ_AGAIN: u32 = 10;

/// A handle on one database file.
#[derive(Debug)]
pub struct SqliteBroker {
    path: Arc<PathBuf>,
    writer: Writer,
    readers: Arc<Readers>,
    bells: Arc<Bells>,
    clock: Arc<dyn Clock>,
}

impl SqliteBroker {
    /// Opens the file, making it where there is none. Blocks for a moment; `Misconfigured` when it can't be used.
    pub fn open(path: impl AsRef<Path>, settings: BrokerSettings) -> Result<Self> {
        Self::open_with_clock(path, settings, Arc::new(SystemClock))
    }

    /// The same by another clock. All processes that share a file should agree about the time.
    pub fn open_with_clock(path: impl AsRef<Path>, settings: BrokerSettings, clock: Arc<dyn Clock>) -> Result<Self> {
        let path = Arc::new(path.as_ref().to_owned());
        let connection = connection::open(&path)?;
        let bells = Arc::new(Bells::new());
        let standing = Arc::new(Standing::of(&path));
        let writer = Writer::start(path.clone(), connection, settings, clock.clone(), bells.clone(), standing.clone())?;
        Ok(Self { readers: Arc::new(Readers::new(&path, standing)), path, writer, bells, clock })
    }

    /// One step on the writer.
    async fn write<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Step<'_>) -> Result<T, Failure> + Send + 'static,
    {
        self.writer.ask(work).await
    }

    /// One read, at one moment, beside the writer.
    async fn read<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection, Millis) -> Result<T, Failure> + Send + 'static,
    {
        let (readers, path, now) = (self.readers.clone(), self.path.clone(), self.clock.now());
        let reading = tokio::task::spawn_blocking(move || readers.read(|db| work(db, now).map_err(|failure| failure.explain(&path))));
        reading.await.unwrap_or_else(|error| Err(BrokerError::Unavailable(format!("a read of the database did not end: {error}"))))
    }

    /// A read of tasks. Rows on its way that are none end first, so that they are shown, and it is done again.
    async fn read_tasks<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: Fn(&Connection, Millis, &mut Vec<Odd>) -> Result<T, Failure> + Send + Sync + 'static,
    {
        let work = Arc::new(work);
        for again in 0.. {
            let once = work.clone();
            let read = self.read(move |db, now| {
                let mut odd = Vec::new();
                Ok((once(db, now, &mut odd)?, odd))
            });
            let (value, odd) = read.await?;
            if odd.is_empty() || again == READ_AGAIN {
                return Ok(value);
            }
            self.write(move |step| end::end_unreadable(step, &odd)).await?;
        }
        unreachable!("the last round returns")
    }

    /// Repeats a bounded step until it says that nothing is left.
    async fn repeat<F>(&self, work: F) -> Result<()>
    where
        F: Fn(&mut Step<'_>) -> Result<bool, Failure> + Send + Sync + 'static,
    {
        let work = Arc::new(work);
        loop {
            let once = work.clone();
            if !self.write(move |step| once(step)).await? {
                return Ok(());
            }
        }
    }
}

#[async_trait]
impl Broker for SqliteBroker {
    async fn check(&self) -> Result<Health> {
        let path = self.path.clone();
        let mode: String = self
            .read(move |db, _| {
                connection::identify(&path, db)?;
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

    async fn enqueue(&self, tasks: &[NewTask]) -> Result<Vec<Enqueued>> {
        let tasks = tasks.to_vec();
        self.write(move |step| enqueue::enqueue(step, &tasks)).await
    }

    async fn await_end(&self, queue: Option<&QueueName>, id: &TaskId, limit: Duration) -> Result<Option<TaskView>> {
        self.wait_for_end(queue, id, limit).await
    }

    async fn find(&self, queue: Option<&QueueName>, id: &TaskId) -> Result<Option<TaskView>> {
        let (queue, id) = (queue.cloned(), id.clone());
        self.read_tasks(move |db, now, odd| show::find(db, now, queue.as_ref(), &id, odd)).await
    }

    async fn log(&self, queue: Option<&QueueName>, id: &TaskId) -> Result<Option<String>> {
        let (queue, id) = (queue.cloned(), id.clone());
        self.read(move |db, now| show::log(db, now, queue.as_ref(), &id)).await
    }

    async fn list(&self, filter: &TaskFilter, from: Option<&str>, limit: usize) -> Result<TaskPage> {
        let (filter, from) = (filter.clone(), from.map(str::to_owned));
        self.read_tasks(move |db, now, odd| listing::list(db, now, &filter, from.as_deref(), limit, odd)).await
    }

    async fn cancel(&self, queue: &QueueName, id: &TaskId) -> Result<CancelReply> {
        let (queue, id) = (queue.clone(), id.clone());
        self.write(move |step| end::cancel(step, &queue, &id)).await
    }

    async fn retry(&self, queue: &QueueName, id: &TaskId) -> Result<RetryReply> {
        let (queue, id) = (queue.clone(), id.clone());
        self.write(move |step| end::retry(step, &queue, &id)).await
    }

    async fn delete(&self, queue: &QueueName, id: &TaskId) -> Result<DeleteReply> {
        let (queue, id) = (queue.clone(), id.clone());
        self.write(move |step| end::delete(step, &queue, &id)).await
    }

    async fn queues(&self) -> Result<Vec<QueueView>> {
        let (queues, odd) = self.read(show::queues).await?;
        if !odd.is_empty() {
            self.write(move |step| sweep::drop_queues(step, &odd)).await?;
        }
        Ok(queues)
    }

    async fn pause(&self, queue: &QueueName) -> Result<()> {
        let queue = queue.clone();
        self.write(move |step| {
            let mut pause = step
                .connection
                .prepare_cached("INSERT INTO queue (name, paused) VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET paused = 1")?;
            pause.execute([queue.as_str()])?;
            Ok(())
        })
        .await
    }

    async fn resume(&self, queue: &QueueName) -> Result<()> {
        let queue = queue.clone();
        self.write(move |step| {
            step.connection.prepare_cached("UPDATE queue SET paused = 0 WHERE name = ?")?.execute([queue.as_str()])?;
            step.news.claimable.insert(queue);
            Ok(())
        })
        .await
    }

    async fn purge(&self, queue: &QueueName) -> Result<u64> {
        let mut purged = 0;
        loop {
            let queue = queue.clone();
            let (count, more) = self.write(move |step| sweep::purge(step, &queue)).await?;
            purged += count as u64;
            if !more {
                return Ok(purged);
            }
        }
    }

    async fn register(&self, queue: &QueueName, lease: Duration) -> Result<Incarnation> {
        let queue = queue.clone();
        self.write(move |step| lease::register(step, &queue, lease)).await
    }

    async fn claim(&self, who: &Incarnation, lease: Duration, limit: usize, startable: &[TaskName]) -> Result<Lease<Claimed>> {
        let (who, startable) = (who.clone(), startable.to_vec());
        self.write(move |step| lease::claim(step, &who, lease, limit, &startable)).await
    }

    async fn extend(&self, who: &Incarnation, lease: Duration) -> Result<Lease<Extended>> {
        let who = who.clone();
        self.write(move |step| lease::extend(step, &who, lease)).await
    }

    async fn held(&self, who: &Incarnation) -> Result<Vec<Leased>> {
        let who = who.clone();
        // On the writer, so that it sees what a claim queued before it did.
        self.write(move |step| lease::held(step, &who)).await
    }

    async fn finish(&self, who: &Incarnation, finishes: &[Finish]) -> Result<FinishReply> {
        let (who, finishes) = (who.clone(), finishes.to_vec());
        self.write(move |step| finish::finish(step, &who, &finishes)).await
    }

    async fn leave(&self, who: &Incarnation) -> Result<()> {
        let who = who.clone();
        self.write(move |step| lease::leave(step, &who)).await
    }

    async fn expire(&self, who: &Incarnation) -> Result<()> {
        let who = who.clone();
        self.write(move |step| lease::expire(step, &who)).await
    }

    async fn wait(&self, queue: &QueueName, limit: Duration) -> Result<()> {
        self.wait_for_work(queue, limit).await
    }

    async fn cancellations(&self, sender: mpsc::Sender<(QueueName, TaskId)>) -> Result<()> {
        self.tell_cancels(sender).await
    }

    async fn progress(&self, queue: &QueueName, id: &TaskId, progress: &Progress) -> Result<()> {
        let (queue, id, progress) = (queue.clone(), id.clone(), progress.clone());
        self.write(move |step| {
            let mut update = step.connection.prepare_cached("UPDATE task SET progress = ? WHERE id = ? AND queue = ? AND state = 3")?;
            update.execute(params![serde_json::to_string(&progress)?, id.as_str(), queue.as_str()])?;
            Ok(())
        })
        .await
    }

    async fn relay(&self, _queue: &QueueName) -> Result<usize> {
        Ok(0)
    }

    async fn sweep(&self, queue: &QueueName, offered: &[TaskName]) -> Result<()> {
        self.repeat(|step| sweep::forget(step)).await?;
        let of = queue.clone();
        self.repeat(move |step| sweep::trim_dead(step, &of)).await?;
        let of = queue.clone();
        self.repeat(move |step| Ok(lease::expire_waiting(step, &of)? == lease::BATCH)).await?;
        let (of, offered) = (queue.clone(), offered.to_vec());
        self.repeat(move |step| sweep::end_unknown(step, &of, &offered)).await
    }

    async fn announce(&self, worker: &WorkerInfo, ttl: Duration) -> Result<()> {
        let worker = worker.clone();
        self.write(move |step| shared::announce(step, &worker, ttl)).await
    }

    async fn retire(&self, worker: &str) -> Result<()> {
        let worker = worker.to_owned();
        self.write(move |step| shared::retire(step, &worker)).await
    }

    async fn workers(&self) -> Result<Vec<WorkerInfo>> {
        self.read(shared::workers).await
    }

    async fn catalogue(&self) -> Result<Catalogue> {
        self.read(|db, _| shared::catalogue(db)).await
    }

    async fn kv_get(&self, plugin: &str, key: &str) -> Result<Option<Vec<u8>>, KvError> {
        let (plugin, key) = (plugin.to_owned(), key.to_owned());
        self.read(move |db, _| shared::kv_get(db, &plugin, &key)).await.map_err(|error| unavailable(&error))
    }

    async fn kv_set(&self, plugin: &str, key: &str, value: &[u8], room: KvRoom) -> Result<(), KvError> {
        let (plugin, key, value) = (plugin.to_owned(), key.to_owned(), value.to_vec());
        self.write(move |step| shared::kv_set(step, &plugin, &key, &value, room)).await.map_err(|error| unavailable(&error))?
    }

    async fn kv_remove(&self, plugin: &str, key: &str) -> Result<bool, KvError> {
        let (plugin, key) = (plugin.to_owned(), key.to_owned());
        self.write(move |step| shared::kv_remove(step, &plugin, &key)).await.map_err(|error| unavailable(&error))
    }

    async fn kv_increment(&self, plugin: &str, key: &str, by: i64, room: KvRoom) -> Result<i64, KvError> {
        let (plugin, key) = (plugin.to_owned(), key.to_owned());
        self.write(move |step| shared::kv_increment(step, &plugin, &key, by, room)).await.map_err(|error| unavailable(&error))?
    }

    async fn kv_keys(&self, plugin: &str, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, KvError> {
        let (plugin, prefix, after) = (plugin.to_owned(), prefix.to_owned(), after.map(str::to_owned));
        self.read(move |db, _| shared::kv_keys(db, &plugin, &prefix, after.as_deref(), limit)).await.map_err(|error| unavailable(&error))
    }

    async fn put_schedule(&self, schedule: &Schedule) -> Result<()> {
        let schedule = schedule.clone();
        self.write(move |step| schedules::put(step, &schedule)).await
    }

    async fn schedules(&self) -> Result<Vec<Schedule>> {
        self.read(|db, _| schedules::all(db)).await
    }

    async fn pause_schedule(&self, name: &str, paused: bool) -> Result<bool> {
        let name = name.to_owned();
        self.write(move |step| schedules::pause(step, &name, paused)).await
    }

    async fn remove_schedule(&self, name: &str) -> Result<bool> {
        let name = name.to_owned();
        self.write(move |step| schedules::remove(step, &name)).await
    }

    async fn fire(&self, schedule: &Schedule, due: Millis, task: &NewTask) -> Result<Fired> {
        let (schedule, task) = (schedule.clone(), task.clone());
        self.write(move |step| schedules::fire(step, &schedule, due, &task)).await
    }

    async fn now(&self) -> Result<Millis> {
        Ok(self.clock.now())
    }
}

fn unavailable(error: &BrokerError) -> KvError {
    KvError::Unavailable(error.to_string())
}

#[cfg(test)]
mod tests;
