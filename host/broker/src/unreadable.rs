//! Reports entries of a broker that can't be read, each once in a process; and refuses an id that several queues have.
//!
//! Drivers log nothing else. They skip an unreadable entry and go on, so no caller would ever learn of it.

use std::{collections::HashSet, fmt::Display, sync::LazyLock};

use parking_lot::Mutex;

use super::error::BrokerError;
use taskhost_core::task::{QueueName, TaskId};

/// The refusal of an id that several queues have, when the caller means one task.
pub(super) fn ambiguous<'a>(id: &TaskId, queues: impl IntoIterator<Item = &'a QueueName>) -> BrokerError {
    BrokerError::Ambiguous { id: id.clone(), queues: queues.into_iter().cloned().collect() }
}

/// How many places are remembered. After that many, nothing more is reported.
const MOST: usize = 10_000;

static SAID: LazyLock<Mutex<HashSet<String>>> = LazyLock::new(Mutex::default);

/// Logs that `place` can't be read, why, and what happens to it or what to do. `at` is the broker's address without its password.
pub(super) fn say(at: impl Display, place: &str, why: impl Display, then: impl Display) {
    let mut said = SAID.lock();
    if said.len() < MOST && said.insert(format!("{at} {place}")) {
        tracing::warn!("{} of {at} can't be read: {}; {then}", shown(place), shown(&why.to_string()));
    }
}

/// Foreign text made safe for a log: control characters and direction marks are escaped, and long text is cut.
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
