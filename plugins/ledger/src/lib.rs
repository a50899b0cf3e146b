//! Bodies that count their own attempts by task id, so that lost, doubled and late runs are counted and not guessed.
//!
//! `began/ID` counts attempts that started, `ended/ID` those that came to their end. Who reads both, and the host's own record
//! of the task, knows what happened.

use std::{
    thread,
    time::{Duration, Instant},
};

use taskhost_sdk::prelude::*;

/// Notes its start, sleeps so many milliseconds, notes its end. The result is how many attempts began so far, this one included.
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

/// As `note`, and enqueues `note` as a child whose id is its own with `.child`, into the queue given.
#[task]
fn note_with_child(ms: u64, queue: String) -> TaskResult<i64> {
    children::task("note").args([ms]).queue(queue).id(format!("{}.child", context::task_id())).enqueue()?;
    note(ms)
}

/// Notes its start, then stays until it is stopped: what kills its worker while it runs has a poison task.
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
