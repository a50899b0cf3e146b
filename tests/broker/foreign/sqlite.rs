//! Odd values in the database: every column of every table with values of every type.

use std::path::Path;

use rusqlite::Connection;
use taskhost_broker::{BrokerSettings, DeleteReply, TaskFilter, sqlite::SqliteBroker};
use taskhost_core::task::{ErrorKind, State};

use super::{Table, all};
use crate::support::{LEASE, Place, SqlitePlace, Worker, add, enqueue, ok, task_id};

const ODD: [&str; 12] = [
    "''",
    "'x'",
    "'a b'",
    "-1",
    "1e300",
    "9223372036854775807",
    "-9223372036854775808",
    "x'ff00'",
    "'['",
    "'7'",
    "NULL",
    "CAST(x'ff' AS TEXT)",
];

/// One valid task of each state, and one valid row of each other table.
const ROWS: &str = "
INSERT INTO incarnation (n, queue, deadline, lease_ms, marked) VALUES (900, 'default', 1, 1000, 1);
INSERT INTO queue (name, paused) VALUES ('odd', 0);
INSERT INTO unique_key VALUES ('default', 'k', 'odd-1', 1);
INSERT INTO worker VALUES ('odd', '{}', 9999999999999);
INSERT INTO offer VALUES ('odd', '{}');
INSERT INTO kv VALUES ('p', 'odd', x'31');
INSERT INTO schedule (name, definition, paused, last, last_task) VALUES ('odd', '{}', 0, 1, 'odd');
INSERT INTO task (queue, id, name, args, rank, state, turn, enqueued_at) VALUES ('default', 'odd-1', 'add', '[1,1]', 4, 1, 1, 1);
INSERT INTO task (queue, id, name, args, rank, state, turn, enqueued_at, due_at) VALUES ('default', 'odd-0', 'add', '[1,1]', 4, 0, 1, 1, 1);
INSERT INTO task (queue, id, name, args, rank, state, turn, enqueued_at, parked_at) VALUES ('default', 'odd-2', 'add', '[1,1]', 4, 2, 1, 1, 1);
INSERT INTO task (queue, id, name, args, rank, state, turn, enqueued_at, claimed_us, held_by) VALUES ('default', 'odd-3', 'add', '[1,1]', 4, 3, 1, 1, 1, 900);
INSERT INTO task (queue, id, name, args, rank, state, turn, enqueued_at, ended_at, gone_at, result) VALUES ('default', 'odd-4', 'add', '[1,1]', 4, 4, 1, 1, 1, 9999999999999, '2');
INSERT INTO task (queue, id, name, args, rank, state, turn, enqueued_at, ended_at) VALUES ('default', 'odd-5', 'add', '[1,1]', 4, 5, 1, 1, 1);
INSERT INTO task (queue, id, name, args, rank, state, turn, enqueued_at, ended_at) VALUES ('default', 'odd-6', 'add', '[1,1]', 4, 6, 1, 1, 1);
INSERT INTO log (seq, text) SELECT seq, 'x' FROM task WHERE id = 'odd-1';
";

fn columns(path: &Path) -> Vec<(String, String)> {
    let db = Connection::open(path).expect("open");
    let mut find = db
        .prepare("SELECT m.name, c.name FROM sqlite_schema m JOIN pragma_table_info(m.name) c WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%'")
        .expect("a query");
    find.query_map((), |row| Ok((row.get(0)?, row.get(1)?))).expect("columns").collect::<Result<_, _>>().expect("names")
}

#[tokio::test]
async fn a_garbage_row_stops_no_good_task() {
    let first = SqlitePlace::make().await;
    drop(first.open(BrokerSettings::default()).await);
    let columns = columns(&first.path());
    assert!(columns.len() > 50, "{columns:?}");
    let mut odd = Table::default();
    for (table, column) in columns {
        for value in ODD {
            // SQLite gives no more numbers after the greatest one is used.
            if ["seq", "n"].contains(&&*column) && value == "9223372036854775807" {
                continue;
            }
            let place = SqlitePlace::make().await;
            drop(place.open(BrokerSettings::default()).await);
            let what = format!("{table}.{column} = {value}");
            let stranger = Connection::open(place.path()).expect("open");
            stranger.execute_batch("PRAGMA synchronous = OFF").expect("fast");
            stranger.execute_batch(ROWS).expect("good rows");
            let changed = stranger.execute(&format!("UPDATE OR IGNORE {table} SET {column} = {value}"), ());
            drop(stranger);
            // The constraints of the column refuse this value.
            if changed.is_ok() {
                let broker = SqliteBroker::open(place.path(), BrokerSettings::default()).expect("it opens");
                odd.beside(&broker, &what).await;
            }
        }
    }
    odd.read();
}

#[tokio::test]
async fn a_garbage_row_ends_alone_is_shown_and_can_be_deleted() {
    let place = SqlitePlace::make().await;
    let broker = place.open(BrokerSettings::default()).await;
    enqueue(&*broker, add()).await;
    let stranger = Connection::open(place.path()).expect("open");
    for (id, name, args) in
        [("'a b'", "'add'", "'[]'"), ("'name'", "'e mail'", "'[]'"), ("'args'", "'add'", "x'ff'"), ("x'ff'", "'add'", "'[]'")]
    {
        let row = format!(
            "INSERT INTO task (queue, id, name, args, rank, state, turn, enqueued_at) VALUES ('default', {id}, {name}, {args}, 4, 1, 1, 1)"
        );
        stranger.execute(&row, ()).expect("a row");
    }
    stranger.execute("INSERT INTO stamp SELECT 1 WHERE 0", ()).expect("nothing");
    let worker = Worker::on(&*broker, &"default".parse().expect("a name"), LEASE).await;
    let claimed = worker.claim(100).await;
    assert_eq!(claimed.len(), 1, "the good one");
    worker.finish(&claimed[0].member, ok("2")).await;
    let dead = all(&*broker, &TaskFilter { states: vec![State::Dead], ..TaskFilter::default() }, "dead").await;
    assert_eq!(dead.len(), 4, "{dead:?}");
    assert!(dead.iter().all(|view| view.error.as_ref().is_some_and(|error| error.kind == ErrorKind::Unreadable)), "{dead:?}");
    assert!(dead.iter().any(|view| view.id == task_id("name")), "an id that is one stays: {dead:?}");
    for view in dead {
        assert!(broker.find(None, &view.id).await.expect("find").is_some());
        assert_eq!(broker.delete(&view.queue, &view.id).await.expect("delete"), DeleteReply::Deleted);
    }
}

#[tokio::test]
async fn a_schedule_that_cannot_be_read_is_left_out_and_can_be_removed() {
    let place = SqlitePlace::make().await;
    let broker = place.open(BrokerSettings::default()).await;
    let stranger = Connection::open(place.path()).expect("open");
    stranger.execute_batch("INSERT INTO schedule (name, definition, paused, last, last_task) VALUES ('bad', '{}', 0, 1, NULL), (x'ff1b', 'x', 'x', 'x', 7)").expect("rows");
    assert_eq!(broker.schedules().await.expect("schedules"), []);
    assert!(broker.remove_schedule("bad").await.expect("remove"));
    assert!(broker.remove_schedule("\u{fffd}\\u{1b}").await.expect("remove"), "as the log shows it");
    let left: i64 = stranger.query_row("SELECT count(*) FROM schedule", (), |row| row.get(0)).expect("a count");
    assert_eq!(left, 0);
}
