//! Bodies that count their own attempts by task id. They make lost, repeated and late runs visible.
//!
//! `began/ID` counts the attempts that started, `ended/ID` those that reached their end. A test compares both with the host's record of the
//! task.

use std::{
    thread,
    time::{Duration, Instant},
};

use taskhost_sdk::prelude::*;

/// Counts its start, sleeps for `ms` milliseconds, and counts its end. Returns the number of attempts that began, including this one.
#[task(timeout = "10m")]
fn note(ms: u64) -> TaskResult<i64> {
    let began = begin()?;
    let end = Instant::now() + Duration::from_millis(ms);
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        context::check_cancelled()?;
        thread::sleep(left.min(Duration::from_millis(50)));
    }
    finish()?;
    Ok(began)
}

/// Like `note`. Also enqueues `note` as a child into `queue`; the id of the child is the own id with `.child`.
#[task]
fn note_with_child(ms: u64, queue: String) -> TaskResult<i64> {
    children::task("note").args([ms]).queue(queue).id(format!("{}.child", context::task_id())).enqueue()?;
    note(ms)
}

/// Counts its start, then runs until it is stopped. A test that kills its worker makes it a poison task.
#[task(timeout = "10m")]
fn poison() -> TaskResult<()> {
    begin()?;
    loop {
        context::check_cancelled()?;
        thread::sleep(Duration::from_millis(50));
    }
}

fn begin() -> TaskResult<i64> {
    Ok(kv::increment(&format!("began/{}", context::task_id()), 1)?)
}

fn finish() -> TaskResult<i64> {
    Ok(kv::increment(&format!("ended/{}", context::task_id()), 1)?)
}

export_plugin!(note, note_with_child, poison);
