//! Connections: how the file is opened, and the meaning of SQLite's errors for the caller.
//!
//! Invariant: a database of another application, or newer than this host, is refused before anything is written to it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior, config::DbConfig, ffi};

use super::{
    schema::{APPLICATION_ID, SCHEMA, bring_up},
    standing::{Standing, create_private},
};
use crate::error::{BrokerError, Result};

/// How long a step waits while another process writes.
const BUSY: Duration = Duration::from_secs(5);
/// How many idle reading connections are kept.
const IDLE_READERS: usize = 4;

/// Opens for writing, and creates or upgrades the schema.
pub(super) fn open(path: &Path) -> Result<Connection> {
    let fault = |error| fault(path, &error);
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent
        && !parent.is_dir()
    {
        return Err(BrokerError::Misconfigured(format!(
            "failed to open the database `{}`: its directory does not exist; create it, or name another path in --broker sqlite:PATH",
            path.display()
        )));
    }
    let mut connection = open_private(path).map_err(fault)?;
    prepare(&mut connection).map_err(fault)?;
    identify(path, &connection)?;
    // The change to WAL needs the file alone for a moment, and SQLite does not wait for that by itself.
    let begun = Instant::now();
    loop {
        match connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get::<_, String>(0)) {
            Ok(_) => break,
            Err(error) if is_busy(&error) && begun.elapsed() < BUSY => std::thread::sleep(Duration::from_millis(5)),
            Err(error) => return Err(fault(error)),
        }
    }
    let step = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(fault)?;
    let found = identify(path, &step)?;
    bring_up(&step, found).map_err(fault)?;
    step.commit().map_err(fault)?;
    Ok(connection)
}

/// Creates the file if there is none, for this user alone. SQLite gives its log and its index the same mode.
fn open_private(path: &Path) -> rusqlite::Result<Connection> {
    /// Closing any handle of a file drops this process's locks on it. The file is new and no other thread here has it open, so there are
    /// none.
    static OPENING: Mutex<()> = Mutex::new(());
    let _alone = OPENING.lock();
    let is_file = path != ":memory:" && !path.as_os_str().as_encoded_bytes().starts_with(b"file:");
    if is_file {
        // The file exists or can't be created; SQLite reports the second.
        let _ = create_private(path);
    }
    Connection::open(path)
}

/// The schema's number, or 0 for an empty file. Refuses another application's database and a newer schema.
pub(super) fn identify(path: &Path, connection: &Connection) -> Result<i32> {
    // One statement sees one moment: another process may create the schema just now.
    const HEAD: &str =
        "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_schema) FROM pragma_application_id, pragma_user_version";
    let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i32>(0)?, row.get::<_, i32>(1)?, row.get::<_, i64>(2)?));
    let (application, schema, tables) = connection.query_row(HEAD, (), read).map_err(|error| fault(path, &error))?;
    if tables == 0 {
        return Ok(0);
    }
    if application != APPLICATION_ID {
        return Err(BrokerError::Misconfigured(format!(
            "`{}` is a database of another application; name another path in --broker sqlite:PATH",
            path.display()
        )));
    }
    if schema > SCHEMA {
        return Err(BrokerError::Misconfigured(format!(
            "`{}` was written by a newer taskhost (schema {schema}, this one knows {SCHEMA}); upgrade this taskhost, or name another path",
            path.display()
        )));
    }
    Ok(schema)
}

/// Waits while another process writes, for [`BUSY`] at most. `tries` counts from 0. A step takes some 0.2 ms, so the first pauses are short.
fn wait_for_others(tries: i32) -> bool {
    const FIRST: Duration = Duration::from_micros(50);
    const LONGEST: Duration = Duration::from_millis(5);
    let tries = tries.unsigned_abs();
    std::thread::sleep(FIRST.saturating_mul(1 << (tries / 4).min(7)).min(LONGEST));
    LONGEST.saturating_mul(tries) < BUSY
}

fn prepare(connection: &mut Connection) -> rusqlite::Result<()> {
    connection.busy_handler(Some(wait_for_others))?;
    connection.set_prepared_statement_cache_capacity(128);
    // Otherwise SQLite plans some statements anew whenever a bound value changes, in case a partial index fits then.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "cache_size", -16_000)?;
    connection.pragma_update(None, "temp_store", "MEMORY")
}

/// A few connections for reading.
#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    standing: Arc<Standing>,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(super) fn new(path: &Path, standing: Arc<Standing>) -> Self {
        Self { path: path.to_owned(), standing, idle: Mutex::default() }
    }

    /// Runs `read` in one transaction, so that it sees one moment. Blocks.
    pub(super) fn read<T>(&self, read: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        self.standing.check()?;
        let kept = self.idle.lock().pop();
        let mut connection = if let Some(connection) = kept { connection } else { self.connect()? };
        let value = {
            let step = connection.transaction().map_err(|error| fault(&self.path, &error))?;
            read(&step)?
        };
        let mut idle = self.idle.lock();
        if idle.len() < IDLE_READERS {
            idle.push(connection);
        }
        Ok(value)
    }

    fn connect(&self) -> Result<Connection> {
        // Not SQLITE_OPEN_READ_ONLY, because a reader of a WAL file must be able to create its shared memory.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = Connection::open_with_flags(&self.path, flags);
        // If another file has the name by now, read nothing of it. Its first reader would take our write-ahead log for its own, and the
        // tasks in that log would be lost.
        self.standing.check_names()?;
        let prepared = opened.and_then(|mut connection| {
            prepare(&mut connection)?;
            connection.pragma_update(None, "query_only", true)?;
            Ok(connection)
        });
        prepared.map_err(|error| fault(&self.path, &error))
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// An error in an operator's words, as the variant that says what the caller does next.
pub(super) fn fault(path: &Path, error: &rusqlite::Error) -> BrokerError {
    let at = path.display();
    match error {
        rusqlite::Error::SqliteFailure(code, _) => match code.code {
            ErrorCode::DiskFull => BrokerError::Refused(format!(
                "disk full: failed to write the database `{at}`; free space: workers then go on by themselves, repeat other commands"
            )),
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => BrokerError::Refused(format!(
                "the database `{at}` is busy: another process has kept it locked for {} s; end what holds it (a backup, an open shell)",
                BUSY.as_secs()
            )),
            ErrorCode::NotADatabase => {
                BrokerError::Misconfigured(format!("`{at}` is not a SQLite database; name another path in --broker sqlite:PATH"))
            }
            ErrorCode::CannotOpen => BrokerError::Misconfigured(format!(
                "failed to open the database `{at}`: let this user read and write the file and its directory, or name another path"
            )),
            ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::AuthorizationForStatementDenied => {
                BrokerError::Misconfigured(format!(
                    "failed to write the database `{at}`: it is read-only; let this user write the file and its directory, or name another path"
                ))
            }
            ErrorCode::DatabaseCorrupt => {
                BrokerError::Corrupt(format!("the database `{at}` is damaged ({error}); restore it from a backup, or name another path"))
            }
            ErrorCode::SystemIoFailure if code.extended_code == ffi::SQLITE_IOERR_SHMSIZE => BrokerError::Refused(format!(
                "disk full: failed to map `{at}-shm`; free space: workers then go on by themselves, repeat other commands"
            )),
            ErrorCode::SystemIoFailure => {
                BrokerError::Unavailable(format!("failed to read or write the database `{at}`: {error}; look at the disk it is on"))
            }
            _ => BrokerError::Unavailable(format!("the database `{at}` failed: {error}")),
        },
        _ => BrokerError::Corrupt(format!("the database `{at}` holds something this taskhost can't read: {error}")),
    }
}

/// Gives a database the shape that `schema` had.
#[cfg(test)]
pub(super) fn go_back(database: &Connection, schema: i32) {
    const BACK: [&str; 5] = [
        "DROP TABLE ended; DROP TABLE unoffered; DROP TABLE stub; DROP TABLE awaited; ALTER TABLE task DROP COLUMN child",
        "ALTER TABLE task DROP COLUMN options",
        "DROP TABLE total; DROP TABLE sample; DROP TABLE recorded; DROP TABLE audit; DROP TABLE drain",
        "ALTER TABLE log DROP COLUMN live_claim; ALTER TABLE log DROP COLUMN live_from",
        "DROP TABLE flow; DROP TABLE flow_node; DROP TABLE flow_result; DROP TABLE flow_event; DROP TABLE flow_signal; ALTER TABLE task DROP COLUMN flow; ALTER TABLE schedule DROP COLUMN record",
    ];
    for step in BACK.iter().skip(usize::try_from(schema - 1).expect("1 or more")).rev() {
        database.execute_batch(step).expect("an earlier shape");
    }
    database.pragma_update(None, "user_version", schema).expect("a version");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(path: &Path) -> String {
        match open(path).expect_err("refused") {
            BrokerError::Misconfigured(text) => text,
            other => panic!("not a matter of settings: {other:?}"),
        }
    }

    #[test]
    fn what_is_not_ours_is_refused_with_its_path_and_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("x.db");

        assert!(refusal(&dir.path().join("no/x.db")).contains("does not exist"));
        assert!(refusal(dir.path()).contains(&*dir.path().to_string_lossy()));

        std::fs::write(&path, "x".repeat(5000)).expect("write");
        assert!(refusal(&path).contains("is not a SQLite database"));
        assert_eq!(std::fs::read(&path).expect("read").len(), 5000);
        std::fs::remove_file(&path).expect("remove");

        let other = Connection::open(&path).expect("open");
        other.execute_batch("CREATE TABLE t (a); PRAGMA user_version = 1").expect("create");
        assert!(refusal(&path).contains("is a database of another application; name another path"));
        let tables: i64 = other.query_row("SELECT count(*) FROM sqlite_schema", (), |row| row.get(0)).expect("a count");
        assert_eq!(tables, 1, "its schema number does not make it ours");
    }

    #[test]
    fn a_newer_schema_is_refused_and_the_own_one_opens_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("x.db");
        drop(open(&path).expect("fresh"));
        let again = open(&path).expect("again");
        again.pragma_update(None, "user_version", SCHEMA + 1).expect("raise");
        drop(again);
        let text = refusal(&path);
        let expected = format!("was written by a newer taskhost (schema {}, this one knows {SCHEMA}); upgrade this taskhost", SCHEMA + 1);
        assert!(text.starts_with(&format!("`{}`", path.display())) && text.contains(&expected), "{text}");
        let untouched = Connection::open(&path).expect("open");
        assert_eq!(untouched.pragma_query_value(None, "user_version", |row| row.get::<_, i32>(0)), Ok(SCHEMA + 1));
    }

    #[test]
    fn a_file_that_another_process_creates_meanwhile_is_empty_or_ours() {
        let dir = tempfile::tempdir().expect("a directory");
        for round in 0..30 {
            let path = dir.path().join(format!("{round}.db"));
            let mut looks = open_private(&path).expect("open");
            prepare(&mut looks).expect("prepare");
            std::thread::scope(|threads| {
                threads.spawn(|| open(&path).expect("created"));
                while identify(&path, &looks).expect("no database of another application") == 0 {}
            });
        }
    }

    #[test]
    fn a_database_of_each_earlier_schema_is_brought_up_with_its_tasks() {
        let shape = |db: &Connection| {
            let mut find = db.prepare("SELECT name, type, \"notnull\" FROM pragma_table_info('task')").expect("columns");
            let task: Vec<(String, String, bool)> = find
                .query_map((), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
                .expect("columns")
                .map(|row| row.expect("one"))
                .collect();
            let mut find = db.prepare("SELECT type, name FROM sqlite_schema ORDER BY 1, 2").expect("all");
            let all: Vec<(String, String)> =
                find.query_map((), |row| Ok((row.get(0)?, row.get(1)?))).expect("all").map(|row| row.expect("one")).collect();
            (task, all)
        };
        for schema in 1..SCHEMA {
            let dir = tempfile::tempdir().expect("a directory");
            let path = dir.path().join("x.db");
            let old = open(&path).expect("fresh");
            let expected = shape(&old);
            go_back(&old, schema);
            old.execute(
                "INSERT INTO task (queue, id, name, args, rank, state, turn, enqueued_at) VALUES ('default', 't', 'add', '[]', 4, 1, 1, 1)",
                (),
            )
            .expect("a task");
            drop(old);
            let new = open(&path).expect("brought up");
            assert_eq!(shape(&new), expected, "from schema {schema}");
            let version: i32 = new.pragma_query_value(None, "user_version", |row| row.get(0)).expect("a version");
            assert_eq!(version, SCHEMA);
            let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, Option<String>>(1)?));
            assert_eq!(new.query_row("SELECT child, options FROM task WHERE id = 't'", (), read), Ok((0, None)));
        }
    }
}
