//! Notes that enqueueing and scheduling print beside their answer.

use super::output;
use crate::ops::{Checks, Unchecked};
use taskhost_core::task::TaskId;

/// Says why arguments are not checked, if nobody wanted it so. `what`: such as ``"`add` is enqueued"``.
pub(super) fn note_unchecked(checks: &Checks, what: &str) {
    let why = match checks {
        Checks::No(Unchecked::Loading(file)) => format!("`{file}` is still being loaded by a worker"),
        Checks::No(Unchecked::NothingAnnounced) => "no worker has announced anything yet".to_owned(),
        Checks::No(Unchecked::Wanted) | Checks::Against(_) => return,
    };
    output::note(&format!("taskhost: {why}, so {what} unchecked"));
}

/// Says that nothing was enqueued, because the `holder` is there.
pub(super) fn duplicate(wanted: &TaskId, holder: &TaskId) -> String {
    if wanted == holder {
        format!("taskhost: nothing enqueued: the id `{holder}` is known already")
    } else {
        format!("taskhost: nothing enqueued: `{holder}` is the same task and has not ended")
    }
}
