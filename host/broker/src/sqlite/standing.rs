//! Whether the open files still have their names. A database that was deleted, moved or replaced goes on for the processes that have it
//! open, and no other process sees it.
//!
//! look, once a second at most → gone: save the contents of the open files to another file → refuse every step from then on
//!
//! Invariant: everything acknowledged is in the database of that name, or in the saved copy that the refusal names. While it can't be
//! saved, this process does not end by itself.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rusqlite::Connection;

use crate::error::{BrokerError, Result};

const LOOK: Duration = Duration::from_secs(1);
/// The name may be missing for a moment while another file is moved there. Then the next look decides.
const MISSED: u32 = 2;

/// Device and inode: they identify a file under any name.
type Identity = (u64, u64);

/// The files of one database when it was opened.
#[derive(Debug)]
pub(super) struct Standing {
    path: PathBuf,
    /// The database and its write-ahead log. `None`: there is no such file.
    began: [Option<Identity>; 2],
    refusal: Mutex<Option<BrokerError>>,
}

impl Standing {
    /// Remembers the files of a database that was opened just now.
    pub(super) fn of(path: &Path) -> Self {
        Self { path: path.to_owned(), began: names(path).map(|name| identity(&name).ok().flatten()), refusal: Mutex::default() }
    }

    /// Refuses if the last look found the files gone.
    pub(super) fn check(&self) -> Result<()> {
        self.refusal.lock().clone().map_or(Ok(()), Err)
    }

    /// Refuses if the names lead to other files now. For a caller that opens them by name.
    pub(super) fn check_names(&self) -> Result<()> {
        match self.differs() {
            Some(_) => {
                Err(BrokerError::Unavailable(format!("the database `{}` was deleted or replaced a moment ago", self.path.display())))
            }
            None => Ok(()),
        }
    }

    /// Whether the name leads to another file, or to none (`Some(true)`). A file that can't be looked at counts as the same.
    fn differs(&self) -> Option<bool> {
        names(&self.path).iter().zip(self.began).find_map(|(name, began)| match identity(name) {
            Ok(now) if began.is_some() && now != began => Some(now.is_none()),
            _ => None,
        })
    }

    /// Saves the contents of the open files beside them, or in the temporary directory. If another process has saved them, it writes
    /// nothing.
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
                // Another process that had the same files open has saved them.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(Some(path)),
                Err(error) => why = format!("{error}: `{}`", path.display()),
                Ok(()) => match connection.execute("VACUUM INTO ?", [path.to_string_lossy()]) {
                    Ok(_) => return Ok(Some(path)),
                    Err(error) => {
                        why = format!("{error}: `{}`", path.display());
                        // A partial copy is useless.
                        let _ = fs::remove_file(&path);
                    }
                },
            }
        }
        Err(why)
    }
}

/// The writer thread's looks at the files.
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

    /// Looks if it is time. Gives whether the answer of [`Standing::check`] has changed.
    pub(super) fn look(&mut self, standing: &Standing, connection: &Connection) -> bool {
        if self.gone || self.looked.elapsed() < LOOK {
            return false;
        }
        self.looked = Instant::now();
        match standing.differs() {
            None => {
                self.missed = 0;
                // The file may have come back before its contents could be saved.
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
                            "{what}; its contents are saved in `{saved}`: move that into its place and start again, or run its tasks by \
                             `taskhost worker --broker sqlite:{saved}`"
                        )
                    },
                ))
            }
            Err(why) => BrokerError::Refused(format!(
                "{what}, and its contents could not be saved ({why}): free space; saving is tried again, and they are lost if \
                 this process ends before"
            )),
        };
        tracing::error!("{error}");
        *standing.refusal.lock() = Some(error);
        true
    }
}

/// Creates an empty file that only this user may read, whatever the umask is.
pub(super) fn create_private(path: &Path) -> io::Result<()> {
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map(drop)
}

/// The write-ahead log of a database.
pub(super) fn log_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

fn names(path: &Path) -> [PathBuf; 2] {
    [path.to_owned(), log_of(path)]
}

/// `None`: there is no such file.
fn identity(path: &Path) -> io::Result<Option<Identity>> {
    match fs::metadata(path) {
        Ok(meta) => Ok(Some((meta.dev(), meta.ino()))),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}
