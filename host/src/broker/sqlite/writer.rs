//! The one thread that writes: commands queue up, what is at hand shares one transaction.
//!
//! take one → take what else is there → BEGIN IMMEDIATE → each in a savepoint → COMMIT → answer each, then wake who waits
//!
//! Invariant: an answer is given after the commit only. A command that fails undoes itself and not its neighbours; when the
//! commit fails, none of them happened and each is told so.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rusqlite::{Connection, OptionalExtension};
use tokio::sync::oneshot;

use super::{
    connection::fault,
    rows::whole,
    standing::{Standing, Watch},
    wake::{Bells, News},
};
use crate::{
    broker::{
        error::{BrokerError, Result},
        settings::BrokerSettings,
    },
    task::{Clock, Millis},
};

/// Commands that share a transaction, at most: bounds how long the first of them waits for the last.
const GROUP: usize = 256;
/// How often other processes' commits are looked for while somebody waits, and when nothing happened for a while.
const POLL: Duration = Duration::from_millis(10);
const DOZE: Duration = Duration::from_millis(25);
const AWAKE: Duration = Duration::from_secs(1);

/// A stamp this far ahead of the clock, in microseconds, is no stamp: ten years.
const FUTURE: i64 = 315_360_000_000_000;

/// One command under way in a transaction: the connection, the time, and what is to be told once it is committed.
#[derive(Debug)]
pub(super) struct Step<'a> {
    pub(super) connection: &'a Connection,
    pub(super) settings: &'a BrokerSettings,
    pub(super) now: Millis,
    stamp: &'a mut Stamp,
    pub(super) news: News,
}

impl Step<'_> {
    /// A microsecond that was never given before and is later than all that were: the clock's, or one more than the last.
    pub(super) fn stamp(&mut self) -> i64 {
        self.stamp.last = (micros(self.now)).max(self.stamp.last + 1);
        self.stamp.last
    }

    pub(super) fn now_ms(&self) -> i64 {
        sql(self.now)
    }
}

pub(super) fn sql(time: Millis) -> i64 {
    i64::try_from(time.0).unwrap_or(i64::MAX)
}

pub(super) fn micros(time: Millis) -> i64 {
    sql(time).saturating_mul(1000)
}

#[derive(Debug)]
struct Stamp {
    last: i64,
}

/// A queued command, its type forgotten.
trait Job: Send {
    /// Runs; on failure what it wrote is to be undone.
    fn run(&mut self, step: &mut Step<'_>) -> bool;
    /// Tells the caller: what `run` gave, or why the transaction failed.
    fn answer(self: Box<Self>, failed: Option<BrokerError>);
}

struct Asked<F, T> {
    work: Option<F>,
    value: Option<Result<T>>,
    path: Arc<PathBuf>,
    reply: oneshot::Sender<Result<T>>,
}

impl<F, T> Job for Asked<F, T>
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
        // Nobody listens when the caller was dropped: the step stands all the same, as with any lost reply.
        let _nobody = self.reply.send(value);
    }
}

/// Why a command failed, before it is put into words.
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
    Run(Box<dyn Job>),
    /// Somebody began to wait: look at other processes' commits from now on.
    Nudge,
}

/// The handle on the thread; dropping it lets the thread finish what is queued and waits for that.
pub(super) struct Writer {
    commands: Option<Sender<Command>>,
    thread: Option<JoinHandle<()>>,
    path: Arc<PathBuf>,
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
    ) -> Result<Self> {
        let (commands, queue) = channel();
        let pen = Pen { path: path.clone(), connection, settings, clock, bells, standing };
        let thread = std::thread::Builder::new().name("taskhost-sqlite".into()).spawn(move || pen.run(&queue)).map_err(|error| {
            BrokerError::Unavailable(format!("failed to start the database's thread: {error}; raise the limit of threads"))
        })?;
        Ok(Self { commands: Some(commands), thread: Some(thread), path })
    }

    pub(super) async fn ask<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Step<'_>) -> Result<T, Failure> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = Asked { work: Some(work), value: None, path: self.path.clone(), reply };
        self.send(Command::Run(Box::new(job)));
        answer.await.unwrap_or_else(|_| {
            Err(BrokerError::Unavailable(format!("the database `{}` gave no answer: see the log", self.path.display())))
        })
    }

    pub(super) fn nudge(&self) {
        self.send(Command::Nudge);
    }

    fn send(&self, command: Command) {
        if let Some(commands) = &self.commands {
            // Fails only when the thread is gone; then the reply's channel is closed, which is how the caller learns of it.
            let _gone = commands.send(command);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// What the thread owns.
struct Pen {
    path: Arc<PathBuf>,
    connection: Connection,
    settings: BrokerSettings,
    clock: Arc<dyn Clock>,
    bells: Arc<Bells>,
    standing: Arc<Standing>,
}

impl Pen {
    fn run(&self, queue: &Receiver<Command>) {
        let mut seen = None;
        let mut happened = Instant::now();
        let mut watch = Watch::new();
        loop {
            let first = if self.bells.is_awaited() {
                match queue.recv_timeout(if happened.elapsed() < AWAKE { POLL } else { DOZE }) {
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
            let mut jobs = Vec::new();
            for command in first.into_iter().chain(queue.try_iter()) {
                if let Command::Run(job) = command {
                    jobs.push(job);
                }
                if jobs.len() == GROUP {
                    break;
                }
            }
            let has_jobs = !jobs.is_empty();
            if watch.look(&self.standing, &self.connection) {
                // Who only reads is to learn of it as well.
                self.bells.ring_foreign();
            }
            match self.standing.check() {
                // A step that panics costs its callers an answer, which is an error of theirs; the thread goes on for the others.
                Ok(()) if has_jobs => {
                    if catch_unwind(AssertUnwindSafe(|| self.step(jobs))).is_err() {
                        self.roll_back();
                    }
                }
                Ok(()) => {}
                Err(error) => jobs.into_iter().for_each(|job| job.answer(Some(error.clone()))),
            }
            if self.look(&mut seen) || has_jobs {
                happened = Instant::now();
            }
        }
    }

    /// `data_version` of this connection changes by others' commits only: what this process wrote is told without it. The first
    /// look rings too: somebody may have read before it, and another process committed in between. Whether there was news.
    fn look(&self, seen: &mut Option<i64>) -> bool {
        // A failure here is met again by the next command, which has somebody to tell.
        let version = self.connection.prepare_cached("PRAGMA data_version").and_then(|mut pragma| pragma.query_row((), |row| row.get(0)));
        let is_news = version.is_ok_and(|version| seen.replace(version) != Some(version));
        if is_news {
            self.bells.ring_foreign();
        }
        is_news
    }

    fn step(&self, mut jobs: Vec<Box<dyn Job>>) {
        let mut news = News::default();
        let failed = self.transact(&mut jobs, &mut news).err();
        if failed.is_some() {
            self.roll_back();
        }
        if failed.is_none() {
            self.bells.ring(&news);
        }
        for job in jobs {
            job.answer(failed.clone());
        }
    }

    fn roll_back(&self) {
        if !self.connection.is_autocommit() {
            // What can't be rolled back is rolled back by the next BEGIN's failure or the closing of the file.
            let _already = self.connection.execute_batch("ROLLBACK");
        }
    }

    fn transact(&self, jobs: &mut [Box<dyn Job>], news: &mut News) -> Result<()> {
        let explain = |error: rusqlite::Error| fault(&self.path, &error);
        let execute = |sql: &str| self.connection.prepare_cached(sql)?.execute(()).map(|_| ());
        execute("BEGIN IMMEDIATE").map_err(explain)?;
        let last =
            self.connection.prepare_cached("SELECT last FROM stamp").and_then(|mut s| s.query_row((), |row| whole(row, "last")).optional());
        // One that is gone, no number or far in the future was not written by us: the clock is later than what was given, all the same.
        let last = last.map_err(explain)?.filter(|last| *last < micros(self.clock.now()).saturating_add(FUTURE));
        let mut stamp = Stamp { last: last.unwrap_or(0) };
        let begun = stamp.last;
        for job in jobs {
            let mut step = Step {
                connection: &self.connection,
                settings: &self.settings,
                now: self.clock.now(),
                stamp: &mut stamp,
                news: News::default(),
            };
            execute("SAVEPOINT one").map_err(explain)?;
            let done = job.run(&mut step);
            let told = step.news;
            if done {
                news.claimable.extend(told.claimable);
                news.ended.extend(told.ended);
                news.cancel_asked |= told.cancel_asked;
            } else {
                // A full disk, or one that fails, ends the whole transaction by itself.
                if self.connection.is_autocommit() {
                    return Err(BrokerError::Refused(format!(
                        "the database `{}` refused the step: the disk is full or fails; free space: workers then go on, other commands are to be given again",
                        self.path.display()
                    )));
                }
                execute("ROLLBACK TO one").map_err(explain)?;
            }
            execute("RELEASE one").map_err(explain)?;
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
