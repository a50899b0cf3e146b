//! The schema of a database file and the steps from each schema to the next.
//!
//! found schema → the steps after it, in order → the newest schema. A fresh file gets `schema.sql`, which is the newest schema.
//!
//! Invariant: all steps of an upgrade are one transaction of the caller. A file has the old schema or the newest one, never one between.

use rusqlite::Connection;

/// `th` and a version, in the file's header, to recognise databases of other applications.
pub(super) const APPLICATION_ID: i32 = 0x7468_6f31;
/// The newest schema, in `user_version`.
pub(super) const SCHEMA: i32 = newest(&STEPS);

/// The first step leads from schema 1 to schema 2, and so on. A change of shape changes `schema.sql` and adds a step here.
const STEPS: [&str; 5] = [
    include_str!("schema_2.sql"),
    include_str!("schema_3.sql"),
    include_str!("schema_4.sql"),
    include_str!("schema_5.sql"),
    include_str!("schema_6.sql"),
];

/// Brings a database of the schema `found` to the newest one; 0 is an empty file. Does nothing if it has the newest one.
pub(super) fn bring_up(db: &Connection, found: i32) -> rusqlite::Result<()> {
    if found == 0 {
        db.execute_batch(include_str!("schema.sql"))?;
        db.pragma_update(None, "application_id", APPLICATION_ID)?;
        return db.pragma_update(None, "user_version", SCHEMA);
    }
    run(db, found, &STEPS)
}

/// Runs the steps after schema `found`. Each notes its schema.
fn run(db: &Connection, found: i32, steps: &[&str]) -> rusqlite::Result<()> {
    for (schema, step) in (2..).zip(steps).filter(|(schema, _)| *schema > found) {
        db.execute_batch(step)?;
        db.pragma_update(None, "user_version", schema)?;
    }
    Ok(())
}

#[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "there are few steps")]
const fn newest(steps: &[&str]) -> i32 {
    1 + steps.len() as i32
}

#[cfg(test)]
mod tests {
    use rusqlite::TransactionBehavior;

    use super::*;

    /// Invented steps to schema 2, 3 and 4. Each needs the one before.
    const INVENTED: [&str; 3] = [
        "ALTER TABLE t ADD COLUMN b; UPDATE t SET b = a * 2;",
        "CREATE TABLE u AS SELECT b AS c FROM t;",
        "INSERT INTO u SELECT c + 1 FROM u;",
    ];

    fn schema(db: &Connection) -> i32 {
        db.pragma_query_value(None, "user_version", |row| row.get(0)).expect("a number")
    }

    /// A database of schema 1 with one row.
    fn first() -> Connection {
        let db = Connection::open_in_memory().expect("open");
        db.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (7); PRAGMA user_version = 1;").expect("create");
        db
    }

    fn sum(db: &Connection) -> i64 {
        db.query_row("SELECT sum(c) FROM u", (), |row| row.get(0)).expect("a sum")
    }

    #[test]
    fn the_steps_after_the_found_schema_run_once_and_in_order() {
        assert_eq!(newest(&INVENTED), 4);
        let db = first();
        run(&db, 1, &INVENTED[..1]).expect("the first step");
        assert_eq!(schema(&db), 2);
        run(&db, 2, &INVENTED).expect("the others");
        assert_eq!((schema(&db), sum(&db)), (4, 14 + 15));
        run(&db, 4, &INVENTED).expect("nothing to do");
        assert_eq!((schema(&db), sum(&db)), (4, 14 + 15));

        let at_once = first();
        run(&at_once, 1, &INVENTED).expect("all");
        assert_eq!((schema(&at_once), sum(&at_once)), (4, 14 + 15));
    }

    #[test]
    fn a_step_that_fails_leaves_the_old_schema_and_its_data() {
        let mut db = first();
        let step = db.transaction_with_behavior(TransactionBehavior::Immediate).expect("begin");
        run(&step, 1, &[INVENTED[0], INVENTED[1], "INSERT INTO missing VALUES (1);"]).expect_err("there is no such table");
        assert_eq!(schema(&step), 3, "two steps are done");
        drop(step);
        assert_eq!(schema(&db), 1);
        let tables: i64 = db.query_row("SELECT count(*) FROM sqlite_schema", (), |row| row.get(0)).expect("a count");
        let columns: i64 = db.query_row("SELECT count(*) FROM pragma_table_info('t')", (), |row| row.get(0)).expect("a count");
        assert_eq!((tables, columns), (1, 1));
        run(&db, 1, &INVENTED).expect("a later upgrade");
        assert_eq!(schema(&db), 4);
    }

    #[test]
    fn a_fresh_file_has_the_newest_schema() {
        let db = Connection::open_in_memory().expect("open");
        bring_up(&db, 0).expect("fresh");
        assert_eq!(schema(&db), SCHEMA);
        bring_up(&db, SCHEMA).expect("nothing to do");
    }
}
