//! Whether the files that are open still stand under their names: a database that was deleted, moved or replaced goes on for who has it
//! open, unseen by everybody else.
//!
//! look, once a second at most → gone: write all that the open files hold to a file of its own → every step is refused from then on
//!
//! Invariant: what was acknowledged is in the database of that name, or in the saved copy that the refusal names. As long as it can't be
//! saved, this process does not end by itself.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rusqlite::Connection;

use crate::broker::error::{BrokerError, Result};

const LOOK: Duration = Duration::from_secs(1);
/// A name may be missing for a moment while somebody puts another file there: then the next look decides.
const MISSED: u32 = 2;

/// Device and inode: which file it is, whatever it is called.
type Identity = (u64, u64);

/// The files of one database, as they were when it was opened.
#[derive(Debug)]
pub(super) struct Standing {
    path: PathBuf,
    /// The database and its write-ahead log; `None` where there is no such file.
    began: [Option<Identity>; 2],
    refusal: Mutex<Option<BrokerError>>,
}

impl Standing {
    /// Of a database that was opened just now.
    pub(super) fn of(path: &Path) -> Self {
        Self { path: path.to_owned(), began: names(path).map(|name| identity(&name).ok().flatten()), refusal: Mutex::default() }
    }

    /// Refuses when the files are gone, as far as is known.
    pub(super) fn check(&self) -> Result<()> {
        self.refusal.lock().clone().map_or(Ok(()), Err)
    }

    /// Refuses when other files stand there now. For who opens them by name.
    pub(super) fn check_names(&self) -> Result<()> {
        match self.differs() {
            Some(_) => {
                Err(BrokerError::Unavailable(format!("the database `{}` was deleted or replaced a moment ago", self.path.display())))
            }
            None => Ok(()),
        }
    }

    /// Whether the name leads to another file, or to none (`Some(true)`). What can't be looked at is taken to be the same.
    fn differs(&self) -> Option<bool> {
        names(&self.path).iter().zip(self.began).find_map(|(name, began)| match identity(name) {
            Ok(now) if began.is_some() && now != began => Some(now.is_none()),
            _ => None,
        })
    }

    /// Writes all that the open files hold beside their names, or where there is room, unless another process has done so.
    fn save(&self, connection: &Connection) -> Result<Option<PathBuf>, String> {
        let tasks = connection.query_row("SELECT EXISTS (SELECT 1 FROM task)", (), |row| row.get::<_, bool>(0));
        if !tasks.map_err(|error| error.to_string())? {
            return Ok(None);
        }
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".saved-{}", self.began[0].map_or(0, |(_, inode)| inode)));
        let mut why = String::new();
        for dir in [self.path.parent().unwrap_or(Path::new("")), &std::env::temp_dir()] {
            let path = dir.join(&name);
            match create_private(&path) {
                // By another process that had the same files open.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(Some(path)),
                Err(error) => why = format!("{error}: `{}`", path.display()),
                Ok(()) => match connection.execute("VACUUM INTO ?", [path.to_string_lossy()]) {
                    Ok(_) => return Ok(Some(path)),
                    Err(error) => {
                        why = format!("{error}: `{}`", path.display());
                        // Half a copy is none.
                        let _ = fs::remove_file(&path);
                    }
                },
            }
        }
        Err(why)
    }
}

/// The looks of the thread that writes.
#[derive(Debug)]
pub(super) struct Watch {
    looked: Instant,
    missed: u32,
    gone: bool,
}

impl Watch {
    pub(super) fn new() -> Self {
        Self { looked: Instant::now(), missed: 0, gone: false }
    }

    /// Looks if it is time. Whether the answer of [`Standing::check`] has changed.
    pub(super) fn look(&mut self, standing: &Standing, connection: &Connection) -> bool {
        if self.gone || self.looked.elapsed() < LOOK {
            return false;
        }
        self.looked = Instant::now();
        match standing.differs() {
            None => {
                self.missed = 0;
                // It may have been put back before it could be saved.
                return standing.refusal.lock().take().is_some();
            }
            Some(true) => self.missed += 1,
            Some(false) => self.missed = MISSED,
        }
        if self.missed < MISSED {
            return false;
        }
        let path = standing.path.display();
        let what = format!("the database `{path}` was deleted or replaced while this process had it open");
        let error = match standing.save(connection) {
            Ok(saved) => {
                self.gone = true;
                BrokerError::Gone(saved.map_or_else(
                    || format!("{what}; it held no task: start again to go on with the file of that name"),
                    |saved| {
                        let saved = saved.display();
                        format!(
                            "{what}; what it held is saved in `{saved}`: move that into its place and start again, or run its tasks by \
                             `taskhost worker --broker sqlite:{saved}`"
                        )
                    },
                ))
            }
            Err(why) => BrokerError::Refused(format!(
                "{what}, and what it held could not be saved ({why}): nothing is done until there is room; it is tried again, and lost if \
                 this process ends before"
            )),
        };
        tracing::error!("{error}");
        *standing.refusal.lock() = Some(error);
        true
    }
}

/// Makes an empty file that only this user may read, whatever the umask is.
pub(super) fn create_private(path: &Path) -> io::Result<()> {
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map(drop)
}

fn names(path: &Path) -> [PathBuf; 2] {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    [path.to_owned(), log.into()]
}

/// `None`: there is no such file.
fn identity(path: &Path) -> io::Result<Option<Identity>> {
    match fs::metadata(path) {
        Ok(meta) => Ok(Some((meta.dev(), meta.ino()))),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}
