//! The handle on one database file: its writer, its readers and its bells. The role files implement the roles on it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use rusqlite::Connection;

use super::{
    connection::{self, Readers},
    end,
    looks::Looks,
    rows::Odd,
    standing::Standing,
    wake::Bells,
    writer::{Failure, Step, Writer},
};
use crate::{
    error::{BrokerError, Result},
    settings::BrokerSettings,
};
use taskhost_core::task::{Clock, Millis, SystemClock};

/// How often a read is repeated after it met unreadable rows. Rows that are still unreadable then are left out.
const READ_AGAIN: u32 = 10;

/// A handle on one database file.
#[derive(Debug)]
pub struct SqliteBroker {
    pub(super) path: Arc<PathBuf>,
    pub(super) writer: Writer,
    pub(super) readers: Arc<Readers>,
    pub(super) bells: Arc<Bells>,
    pub(super) clock: Arc<dyn Clock>,
}

impl SqliteBroker {
    /// Opens the file, or creates it. Blocks for a moment. `Misconfigured` if it can't be used.
    pub fn open(path: impl AsRef<Path>, settings: BrokerSettings) -> Result<Self> {
        Self::open_with_clock(path, settings, Arc::new(SystemClock))
    }

    /// The same with another clock. All processes that share a file should agree about the time.
    pub fn open_with_clock(path: impl AsRef<Path>, settings: BrokerSettings, clock: Arc<dyn Clock>) -> Result<Self> {
        Self::open_with_looks(path, settings, clock, Looks::new(Instant::now()))
    }

    pub(super) fn open_with_looks(path: impl AsRef<Path>, settings: BrokerSettings, clock: Arc<dyn Clock>, looks: Looks) -> Result<Self> {
        let path = Arc::new(path.as_ref().to_owned());
        let connection = connection::open(&path)?;
        let bells = Arc::new(Bells::new());
        let standing = Arc::new(Standing::of(&path));
        let writer = Writer::start(path.clone(), connection, settings, clock.clone(), bells.clone(), standing.clone(), looks)?;
        Ok(Self { readers: Arc::new(Readers::new(&path, standing)), path, writer, bells, clock })
    }

    /// One step on the writer.
    pub(super) async fn write<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Step<'_>) -> Result<T, Failure> + Send + 'static,
    {
        self.writer.ask(work).await
    }

    /// One read of a consistent snapshot, beside the writer.
    pub(super) async fn read<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection, Millis) -> Result<T, Failure> + Send + 'static,
    {
        let (readers, path, now) = (self.readers.clone(), self.path.clone(), self.clock.now());
        let reading = tokio::task::spawn_blocking(move || readers.read(|db| work(db, now).map_err(|failure| failure.explain(&path))));
        reading.await.unwrap_or_else(|error| Err(BrokerError::Unavailable(format!("a read of the database did not end: {error}"))))
    }

    /// A read of tasks. If it meets unreadable rows, these tasks end as dead, and the read is repeated to show them.
    pub(super) async fn read_tasks<T, F>(&self, work: F) -> Result<T>
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

    /// Repeats a bounded step until it answers that nothing is left.
    pub(super) async fn repeat<F>(&self, work: F) -> Result<()>
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
