//! Waits for the end of a task, and says on stderr what the task waits for meanwhile.

use serde_json::value::RawValue;

use super::{failure::Failure, output};
use crate::ops::{Ops, Waiting, Wanted, what_it_waits_for};
use taskhost_core::{
    task::{State, TaskView},
    units,
};

/// Waits for the end of a task that was enqueued a moment ago. Then prints the result to stdout, or fails with what is known. If the broker fails,
/// the failure names the task, which is enqueued all the same.
pub(super) async fn for_result(ops: &Ops, wanted: Wanted<'_>) -> Result<(), Failure> {
    let id = wanted.id;
    match for_end(ops, wanted).await {
        Ok(view) => print_result(&view),
        Err(failure @ Failure::Broker(_)) => Err(failure.and(&format!("task `{id}` is enqueued; `taskhost result {id} --wait` waits on"))),
        Err(failure) => Err(failure),
    }
}

/// Waits for the end.
pub(super) async fn for_end(ops: &Ops, wanted: Wanted<'_>) -> Result<TaskView, Failure> {
    Ok(ops.wait(wanted, |reason| output::note(&format!("taskhost: {}", words(reason)))).await?)
}

fn words(reason: &Waiting) -> String {
    match reason {
        Waiting::NoWorker => {
            "waiting: there is no live worker; start one with `taskhost worker --plugins ./plugins` (a first start compiles the plugins for some seconds)"
                .to_owned()
        }
        Waiting::NoWorkerOf(queue) => {
            format!("waiting: no live worker claims from queue `{queue}`; start one with `taskhost worker --queue {queue}`")
        }
        Waiting::Parked { task, waits_for } => what_it_waits_for(task, *waits_for),
        Waiting::Scheduled { due, failed } => {
            let due = due.map_or_else(String::new, |due| format!(" at {}", units::show_instant(due)));
            let failed = failed.as_ref().map_or_else(String::new, |(attempt, error)| {
                format!(": attempt {attempt} failed ({})", output::clean(&error.to_string()))
            });
            format!("waiting to start{due}{failed}")
        }
        Waiting::Paused(queue) => format!("waiting: queue `{queue}` is paused; `taskhost queue resume {queue}` lets it go on"),
        Waiting::InQueue(queue) => format!("waiting in queue `{queue}`"),
    }
}

/// Prints the result alone to stdout, or fails with all that is known of the ended task.
pub(super) fn print_result(view: &TaskView) -> Result<(), Failure> {
    match (view.state, &view.result) {
        // Without a result: it was not kept, but the end was seen.
        (State::Succeeded, result) => output::json_text(result.as_deref().map_or("null", RawValue::get)).map_err(|failure| {
            failure.and(&format!("task `{0}` has succeeded; `taskhost result {0}` prints its result again, as long as it is kept", view.id))
        }),
        _ => Err(Failure::Task(report(view))),
    }
}

/// The report of a task without a result: its error, the detail, and its attempts.
pub(super) fn report(view: &TaskView) -> String {
    let mut lines = vec![match &view.error {
        Some(error) => format!("{} `{}` ended {}: {}", view.task, view.id, view.state, output::clean(&error.to_string())),
        None => format!("{} `{}` ended {}", view.task, view.id, view.state),
    }];
    let final_error = view.error.as_ref();
    if let Some(code) = final_error.and_then(|error| error.code.as_deref()) {
        lines.push(format!("  code: {}", output::clean(code)));
    }
    if let Some(detail) = final_error.and_then(|error| error.detail.as_deref()).filter(|detail| !detail.trim().is_empty()) {
        lines.extend(output::clean_lines(detail.trim()).lines().map(|line| format!("  | {line}")));
    }
    for entry in &view.errors {
        let code = if entry.code.plugin.is_empty() {
            String::new()
        } else {
            output::clean(&format!(", {} {}", entry.code.plugin, entry.code.version))
        };
        let message = output::short(&entry.error.to_string(), 200);
        lines.push(format!("  attempt {} at {}{code}: {message}", entry.attempt, units::show_instant(entry.at)));
    }
    if view.state == State::Dead {
        lines.push(format!("  `taskhost task retry {}` runs it again", view.id));
    }
    lines.join("\n")
}
