//! A task in a few words.

use taskhost_core::{
    task::{Millis, State, TaskName, TaskView, WaitsFor},
    units,
};

/// Its result, its error, or its place. The text is as raw as the result and the error are.
pub fn gist(view: &TaskView, now: Millis) -> String {
    match (view.state, &view.result, &view.error, view.errors.last()) {
        (State::Succeeded, Some(result), ..) => result.get().to_owned(),
        (State::Parked, ..) => what_it_waits_for(&view.task, view.waits_for),
        (State::Scheduled, _, _, last) => {
            let when = view.due_at.map_or_else(String::new, |due| units::until(due, now));
            last.map_or(when.clone(), |last| format!("{when}, after {}", last.error))
        }
        (State::Running, ..) => view.progress.as_ref().map_or_else(String::new, |progress| {
            let of = progress.total.map_or_else(String::new, |total| format!("/{total}"));
            format!("{}{of} {}", progress.done, progress.note)
        }),
        (_, _, Some(error), _) => error.to_string(),
        _ => String::new(),
    }
}

/// The reason why a task of this name is parked.
pub fn what_it_waits_for(task: &TaskName, waits_for: Option<WaitsFor>) -> String {
    match waits_for {
        Some(WaitsFor::Slot) => format!("waiting for a free slot of the plugin that offers `{task}`"),
        Some(WaitsFor::Plugin) | None => format!("waiting for a plugin that offers `{task}`"),
    }
}
