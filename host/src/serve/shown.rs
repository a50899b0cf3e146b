//! What a caller sees of tasks and schedules: without the scope `payload`, nothing that a producer or a body wrote.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;
use taskhost_core::task::{TaskError, TaskView};

use super::{
    access::Caller,
    problem::{self, Problem},
};
use crate::{config::Scope, ops::SeenSchedule};

/// A task, perhaps without its payload.
#[derive(Debug, Serialize)]
pub(super) struct ShownTask {
    #[serde(flatten)]
    view: TaskView,
    /// Arguments, headers, result, the words of errors, and the note of the progress are left out.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    masked: bool,
}

pub(super) fn task(view: TaskView, caller: &Caller) -> ShownTask {
    ShownTask { view: masked(view, caller), masked: !caller.has(Scope::Payload) }
}

/// A task without what the caller may not see.
pub(super) fn masked(mut view: TaskView, caller: &Caller) -> TaskView {
    if !caller.has(Scope::Payload) {
        view.args = RawValue::NULL.to_owned();
        view.result = None;
        view.options.headers.clear();
        view.error.iter_mut().chain(view.errors.iter_mut().map(|entry| &mut entry.error)).for_each(mask);
        if let Some(progress) = &mut view.progress {
            progress.note.clear();
        }
    }
    view
}

fn mask(error: &mut TaskError) {
    *error = TaskError::new(error.kind, "masked: the token lacks the scope `payload`");
}

/// A schedule with its arguments as JSON, perhaps without them.
pub(super) fn schedule(mut seen: SeenSchedule, caller: &Caller) -> Result<BTreeMap<String, Box<RawValue>>, Problem> {
    let masked = !caller.has(Scope::Payload);
    if masked {
        seen.schedule.options.headers.clear();
        "null".clone_into(&mut seen.schedule.args);
    }
    let unwritable = |error| Problem::new(&problem::INTERNAL, format!("failed to write a schedule as JSON: {error}"));
    let written = serde_json::to_string(&seen).map_err(unwritable)?;
    let mut members: BTreeMap<String, Box<RawValue>> = serde_json::from_str(&written).map_err(unwritable)?;
    let args = RawValue::from_string(seen.schedule.args).unwrap_or_else(|_| RawValue::NULL.to_owned());
    members.insert("args".to_owned(), args);
    if masked {
        members.insert("masked".to_owned(), RawValue::TRUE.to_owned());
    }
    Ok(members)
}
