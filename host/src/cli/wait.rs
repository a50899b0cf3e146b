//! Waits for the end of a task, and says on stderr what the task waits for meanwhile.
//!
//! The broker pushes the end. Until then, looks at the task tell whether any worker can run it.

use std::time::Duration;

use serde_json::value::RawValue;
use tokio::time::Instant;

use super::{ask, failure::Failure, output};
use taskhost_broker::Broker;
use taskhost_core::task::{QueueName, State, TaskId, TaskView};
use taskhost_core::units;

/// The delay before the first look: long enough for a worker to answer, short enough for a person.
const FIRST_LOOK: Duration = Duration::from_secs(2);
/// The time between further looks, to say when the reason of waiting changes.
const LATER_LOOKS: Duration = Duration::from_secs(10);

/// Waits for the end, for `limit` at most. Then prints the result to stdout, or fails with what is known. `is_known`: it was just enqueued.
pub(super) async fn for_result(
    broker: &dyn Broker,
    queue: Option<&QueueName>,
    id: &TaskId,
    limit: Option<Duration>,
    is_known: bool,
) -> Result<(), Failure> {
    let view = for_end(broker, queue, id, limit, is_known).await?;
    print_result(&view)
}

/// Waits for the end, for `limit` at most.
pub(super) async fn for_end(
    broker: &dyn Broker,
    queue: Option<&QueueName>,
    id: &TaskId,
    limit: Option<Duration>,
    mut is_known: bool,
) -> Result<TaskView, Failure> {
    // A limit beyond the clock's range is no limit.
    let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
    let mut look = FIRST_LOOK;
    let mut said = String::new();
    loop {
        let left = deadline.map_or(look, |deadline| look.min(deadline.saturating_duration_since(Instant::now())));
        let Some(mut view) = broker.await_end(queue, id, left).await? else {
            return Err(if is_known { gone(id) } else { ask::no_such_task(queue, id) });
        };
        is_known = true;
        if view.state.is_ended() {
            return Ok(view);
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            let limit = units::show_duration(limit.unwrap_or_default());
            return Err(Failure::TimedOut(format!(
                "task `{id}` has not ended after {limit}: it is {}; `taskhost result {id} --wait` waits on",
                view.state
            )));
        }
        ask::what_they_wait_for(broker, std::slice::from_mut(&mut view)).await?;
        let reason = what_for(broker, &view).await?;
        if !reason.is_empty() && reason != said {
            output::note(&format!("taskhost: {reason}"));
            said = reason;
        }
        look = LATER_LOOKS;
    }
}

/// The task existed, and its end is no longer known.
fn gone(id: &TaskId) -> Failure {
    Failure::Failed(format!(
        "task `{id}` has ended or was deleted, and nothing of it is kept, so how it ended is not known; keep results for longer (`result_ttl`)"
    ))
}

/// Why the task does not run now, if a person should know.
async fn what_for(broker: &dyn Broker, view: &TaskView) -> Result<String, Failure> {
    let workers = broker.workers().await?;
    let serves = workers.iter().filter(|worker| worker.queues.contains(&view.queue) && !worker.draining).count();
    Ok(match view.state {
        State::Running => String::new(),
        _ if serves == 0 && workers.is_empty() => {
            "waiting: there is no live worker; start one with `taskhost worker --plugins ./plugins` (a first start compiles the plugins for some seconds)"
                .to_owned()
        }
        _ if serves == 0 => {
            format!("waiting: no live worker claims from queue `{0}`; start one with `taskhost worker --queue {0}`", view.queue)
        }
        State::Parked => output::gist(view, view.enqueued_at),
        State::Scheduled => {
            let last = view
                .errors
                .last()
                .map_or_else(String::new, |last| format!(": attempt {} failed ({})", last.attempt, output::clean(&last.error.to_string())));
            let due = view.due_at.map_or_else(String::new, |due| format!(" at {}", output::instant(due)));
            format!("waiting to start{due}{last}")
        }
        State::Ready => {
            let paused = broker.queues().await?.iter().any(|queue| queue.queue == view.queue && queue.paused);
            if paused {
                format!("waiting: queue `{0}` is paused; `taskhost queue resume {0}` lets it go on", view.queue)
            } else {
                format!("waiting in queue `{}`", view.queue)
            }
        }
        State::Succeeded | State::Dead | State::Cancelled => String::new(),
    })
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
        lines.push(format!("  attempt {} at {}{code}: {message}", entry.attempt, output::instant(entry.at)));
    }
    if view.state == State::Dead {
        lines.push(format!("  `taskhost task retry {}` runs it again", view.id));
    }
    lines.join("\n")
}
