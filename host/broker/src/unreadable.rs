//! What stands in a broker and can't be read is named in the log, once a process; and an id that can't be told from another is refused.
//!
//! The one thing that drivers log by themselves: they leave it out and go on, so nobody above them would ever be told.

use std::{
    collections::HashSet,
    fmt::Display,
    sync::{LazyLock, Mutex, PoisonError},
};

use super::BrokerError;
use crate::task::{QueueName, TaskId};

/// Refuses an id that stands in several queues where one task is meant.
pub(super) fn ambiguous<'a>(id: &TaskId, queues: impl IntoIterator<Item = &'a QueueName>) -> BrokerError {
    let queues: Vec<_> = queues.into_iter().map(|queue| format!("`{queue}`")).collect();
    BrokerError::Invalid(format!("`{id}` stands in the queues {}: say which is meant with --queue", queues.join(", ")))
}

/// Places that are remembered; beyond them nothing more is said.
const MOST: usize = 10_000;

static SAID: LazyLock<Mutex<HashSet<String>>> = LazyLock::new(Mutex::default);

/// Names `place`, says why it can't be read, and what became of it or what to do. `at` is the broker, as it is shown.
pub(super) fn say(at: impl Display, place: &str, why: impl Display, then: impl Display) {
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    if said.len() < MOST && said.insert(format!("{at} {place}")) {
        tracing::warn!("{} of {at} can't be read: {}; {then}", shown(place), shown(&why.to_string()));
    }
}

/// What a stranger wrote, fit for a log: control characters and direction marks escaped, cut where it is long.
pub(super) fn shown(text: &str) -> String {
    const MOST: usize = 200;
    let mut shown: String = text.chars().take(MOST).flat_map(escaped).collect();
    if text.chars().nth(MOST).is_some() {
        shown.push('…');
    }
    shown
}

fn escaped(c: char) -> Vec<char> {
    if matches!(c, '"' | '\'' | '\\') { vec![c] } else { c.escape_debug().collect() }
}
