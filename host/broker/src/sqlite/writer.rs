//! The one thread that writes. Commands queue up, and those at hand share one transaction.
//!
//! take one → take the others at hand → BEGIN IMMEDIATE → each in a savepoint → COMMIT → answer each, then ring the bells
//!
//! Invariant: an answer is given only after the commit. A failed command undoes itself and no other. If the commit fails, none of them
//! happened, and each caller is told.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::JoinHandle,
    time::Instant,
};

use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::oneshot;

use super::{
    connection::fault,
    events::{Asleep, Events, call_out},
    looks::Looks,
    rows::whole,
    standing::{Standing, Watch, log_of},
    wake::{Bells, News},
};
use crate::{
    error::{BrokerError, Result},
    settings::BrokerSettings,
};
use taskhost_core::task::{Clock, Millis};

/// The most commands in one transaction. This bounds how long the first one waits for the last.
const GROUP: usize = 256;

const COUNT_UP: &str = "INSERT INTO total (queue, enqueued, succeeded, dead, cancelled) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (queue) DO UPDATE SET enqueued = enqueued + excluded.enqueued, succeeded = succeeded + excluded.succeeded,
                                      dead = dead + excluded.dead, cancelled = cancelled + excluded.cancelled";

/// A stamp more than ten years (in microseconds) ahead of the clock is invalid.
const FUTURE: i64 = 315_360_000_000_000;

/// One command in a transaction: the connection, the time, and the news to ring for after the commit.
#[derive(Debug)]
pub(super) struct Step<'a> {
    pub(super) connection: &'a Connection,
    pub(super) settings: &'a BrokerSettings,
    pub(super) now: Millis,
    stamp: &'a mut Stamp,
    pub(super) news: News,
}

impl Step<'_> {
    /// A microsecond later than every one given before: the clock's, or one more than the last.
    pub(super) fn stamp(&mut self) -> i64 {
        self.stamp.last = (micros(self.now)).max(self.stamp.last + 1);
        self.stamp.last
    }

    pub(super) fn now_ms(&self) -> i64 {
        sql(self.now)
    }
}

pub(super) fn sql(time: Millis) -> i64 {
    signed(time.0)
}

/// A number as SQLite has them.
pub(super) fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

pub(super) fn micros(time: Millis) -> i64 {
    sql(time).saturating_mul(1000)
}

#[derive(Debug)]
struct Stamp {
    last: i64,
}

/// A queued command of any type.
trait Queued: Send {
    /// Runs. Gives whether it succeeded; if not, its writes are undone.
    fn run(&mut self, step: &mut Step<'_>) -> bool;
    /// Answers the caller: the value of `run`, or why the transaction failed.
    fn answer(self: Box<Self>, failed: Option<BrokerError>);
}

struct Asked<F, T> {
    work: Option<F>,
    value: Option<Result<T>>,
    path: Arc<PathBuf>,
    reply: oneshot::Sender<Result<T>>,
}

impl<F, T> Queued for Asked<F, T>
where
    F: FnOnce(&mut Step<'_>) -> Result<T, Failure> + Send,
    T: Send,
{
    fn run(&mut self, step: &mut Step<'_>) -> bool {
        let Some(work) = self.work.take() else { return false };
        let value = work(step).map_err(|failure| failure.explain(&self.path));
        let done = value.is_ok();
        self.value = Some(value);
        done
    }

    fn answer(self: Box<Self>, failed: Option<BrokerError>) {
        let gone = || Err(BrokerError::Unavailable(format!("the database `{}` gave no answer: see the log", self.path.display())));
        let value = match (self.value, failed) {
            (Some(Err(own)), _) => Err(own),
            (_, Some(error)) => Err(error),
            (Some(value), None) => value,
            (None, None) => gone(),
        };
        // The caller may have been dropped. The step is committed all the same, as with any lost reply.
        let _nobody = self.reply.send(value);
    }
}

/// Why a command failed, before it is put into an operator's words.
#[derive(Debug)]
pub(super) enum Failure {
    Sqlite(rusqlite::Error),
    Broker(BrokerError),
}

impl Failure {
    pub(super) fn explain(self, path: &std::path::Path) -> BrokerError {
        match self {
            Self::Sqlite(error) => fault(path, &error),
            Self::Broker(error) => error,
        }
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<BrokerError> for Failure {
    fn from(error: BrokerError) -> Self {
        Self::Broker(error)
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::Broker(BrokerError::Corrupt(format!("the database holds something this taskhost can't read: {error}")))
    }
}

enum Command {
    Run(Box<dyn Queued>),
    /// A caller began to wait: look for commits of other processes from now on. True if events come.
    Watch(bool),
    /// A process has committed.
    Event,
}

/// The handle on the thread. Dropping it waits until the thread has finished the queued commands.
pub(super) struct Writer {
    commands: Option<Sender<Command>>,
    thread: Option<JoinHandle<()>>,
    path: Arc<PathBuf>,
    asleep: Arc<Asleep>,
    /// Made when the first caller waits; `None` inside: there are none.
    events: OnceLock<Option<Events>>,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Writer({})", self.path.display())
    }
}

impl Writer {
    pub(super) fn start(
        path: Arc<PathBuf>,
        connection: Connection,
        settings: BrokerSettings,
        clock: Arc<dyn Clock>,
        bells: Arc<Bells>,
        standing: Arc<Standing>,
        looks: Looks,
    ) -> Result<Self> {
        let (commands, queue) = channel();
        let asleep = Arc::new(Asleep::default());
        let log = log_of(&path);
        let writer = WriterThread { path: path.clone(), connection, settings, clock, bells, standing, asleep: asleep.clone(), log };
        let thread =
            std::thread::Builder::new().name("taskhost-sqlite".into()).spawn(move || writer.run(&queue, looks)).map_err(|error| {
                BrokerError::Unavailable(format!("failed to start the database's thread: {error}; raise the limit of threads"))
            })?;
        Ok(Self { commands: Some(commands), thread: Some(thread), path, asleep, events: OnceLock::new() })
    }

    pub(super) async fn ask<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Step<'_>) -> Result<T, Failure> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let queued = Asked { work: Some(work), value: None, path: self.path.clone(), reply };
        self.send(Command::Run(Box::new(queued)));
        answer.await.unwrap_or_else(|_| {
            Err(BrokerError::Unavailable(format!("the database `{}` gave no answer: see the log", self.path.display())))
        })
    }

    /// Looks for commits of other processes from now on.
    pub(super) fn watch(&self) {
        let events = self.events.get_or_init(|| {
            let commands = self.commands.clone()?;
            let tell = move || {
                let _gone = commands.send(Command::Event);
            };
            let events = Events::of(&log_of(&self.path), self.asleep.clone(), tell);
            events.inspect_err(|error| tracing::debug!(%error, "no events of other processes: looking every few milliseconds")).ok()
        });
        self.send(Command::Watch(events.is_some()));
    }

    fn send(&self, command: Command) {
        if let Some(commands) = &self.commands {
            // This fails only if the thread has ended. Then the reply's channel is closed, and the caller learns of it there.
            let _gone = commands.send(command);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // The events hold a sender of commands. The writer ends when all senders are gone.
        self.events.take();
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// The state of the thread.
struct WriterThread {
    path: Arc<PathBuf>,
    connection: Connection,
    settings: BrokerSettings,
    clock: Arc<dyn Clock>,
    bells: Arc<Bells>,
    standing: Arc<Standing>,
    asleep: Arc<Asleep>,
    /// The write-ahead log. Others watch it.
    log: PathBuf,
}

impl WriterThread {
    fn run(&self, queue: &Receiver<Command>, mut looks: Looks) {
        let mut seen = None;
        let mut watch = Watch::new();
        loop {
            let first = if self.bells.is_awaited() {
                match queue.recv_timeout(looks.pause(Instant::now())) {
                    Ok(command) => Some(command),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            } else {
                match queue.recv() {
                    Ok(command) => Some(command),
                    Err(_) => return,
                }
            };
            self.asleep.end();
            let is_timed = first.is_none();
            let mut batch = Vec::new();
            for command in first.into_iter().chain(queue.try_iter()) {
                match command {
                    Command::Run(queued) => batch.push(queued),
                    Command::Watch(has_events) => looks.watch(has_events),
                    // It has woken the writer, which looks below.
                    Command::Event => {}
                }
                if batch.len() == GROUP {
                    break;
                }
            }
            let has_commands = !batch.is_empty();
            if watch.look(&self.standing, &self.connection) {
                // Waiting callers must learn of it too.
                self.bells.ring_foreign();
            }
            match self.standing.check() {
                // A panic costs the callers of this step their answers, which they see as an error. The thread goes on for the others.
                Ok(()) if has_commands => {
                    if catch_unwind(AssertUnwindSafe(|| self.step(batch))).is_err() {
                        self.roll_back();
                    }
                }
                Ok(()) => {}
                Err(error) => batch.into_iter().for_each(|queued| queued.answer(Some(error.clone()))),
            }
            if has_commands {
                looks.committed(Instant::now());
            }
            if self.bells.is_awaited() {
                self.asleep.begin();
            }
            if self.look(&mut seen) {
                looks.found(Instant::now(), is_timed);
            }
        }
    }

    /// Rings if another process has committed. Gives whether there was news.
    ///
    /// `data_version` of this connection changes only by commits of others. The first look rings too, because another process may have
    /// committed after a caller's read.
    fn look(&self, seen: &mut Option<i64>) -> bool {
        // The next command meets the same failure, and has a caller to report it to.
        let version = self.connection.prepare_cached("PRAGMA data_version").and_then(|mut pragma| pragma.query_row((), |row| row.get(0)));
        let is_news = version.is_ok_and(|version| seen.replace(version) != Some(version));
        if is_news {
            self.bells.ring_foreign();
        }
        is_news
    }

    fn step(&self, mut batch: Vec<Box<dyn Queued>>) {
        let mut news = News::default();
        let failed = self.transact(&mut batch, &mut news).err();
        if failed.is_some() {
            self.roll_back();
        }
        if failed.is_none() {
            self.bells.ring(&news);
            call_out(&self.log);
        }
        for queued in batch {
            queued.answer(failed.clone());
        }
    }

    fn roll_back(&self) {
        if !self.connection.is_autocommit() {
            // If this fails, the next BEGIN fails, or closing the file rolls it back.
            let _already = self.connection.execute_batch("ROLLBACK");
        }
    }

    fn transact(&self, batch: &mut [Box<dyn Queued>], news: &mut News) -> Result<()> {
        let explain = |error: rusqlite::Error| fault(&self.path, &error);
        let execute = |sql: &str| self.connection.prepare_cached(sql)?.execute(()).map(|_| ());
        execute("BEGIN IMMEDIATE").map_err(explain)?;
        let last =
            self.connection.prepare_cached("SELECT last FROM stamp").and_then(|mut s| s.query_row((), |row| whole(row, "last")).optional());
        // A missing or invalid stamp, or one far in the future, is foreign. The clock is later than all given stamps anyway.
        let last = last.map_err(explain)?.filter(|last| *last < micros(self.clock.now()).saturating_add(FUTURE));
        let mut stamp = Stamp { last: last.unwrap_or(0) };
        let begun = stamp.last;
        for queued in batch {
            let mut step = Step {
                connection: &self.connection,
                settings: &self.settings,
                now: self.clock.now(),
                stamp: &mut stamp,
                news: News::default(),
            };
            execute("SAVEPOINT one").map_err(explain)?;
            let done = queued.run(&mut step);
            let told = step.news;
            if done {
                news.claimable.extend(told.claimable);
                news.ended.extend(told.ended);
                news.cancel_asked |= told.cancel_asked;
                told.totals.iter().for_each(|(queue, more)| news.totals(queue).add(more));
            } else {
                // SQLite ends the whole transaction itself if the disk is full or fails.
                if self.connection.is_autocommit() {
                    return Err(BrokerError::Refused(format!(
                        "the database `{}` refused the step: the disk is full or fails; free space: workers then go on by themselves, repeat other commands",
                        self.path.display()
                    )));
                }
                execute("ROLLBACK TO one").map_err(explain)?;
            }
            execute("RELEASE one").map_err(explain)?;
        }
        for (queue, more) in &news.totals {
            let mut add = self.connection.prepare_cached(COUNT_UP).map_err(explain)?;
            let [enqueued, succeeded, dead, cancelled] = [more.enqueued, more.succeeded, more.dead, more.cancelled].map(signed);
            add.execute(params![queue.as_str(), enqueued, succeeded, dead, cancelled]).map_err(explain)?;
        }
        if stamp.last != begun {
            let mut write = self.connection.prepare_cached("UPDATE stamp SET last = ?").map_err(explain)?;
            if write.execute([stamp.last]).map_err(explain)? == 0 {
                let mut insert = self.connection.prepare_cached("INSERT INTO stamp VALUES (?)").map_err(explain)?;
                insert.execute([stamp.last]).map_err(explain)?;
            }
        }
        execute("COMMIT").map_err(explain)
    }
}
