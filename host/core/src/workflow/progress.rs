//! How far a flow is: its nodes by state.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    Node,
    plan::Plan,
    record::{Record, Word},
};

/// The nodes of a flow by state, items included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Progress {
    pub total: u32,
    pub succeeded: u32,
    pub running: u32,
    pub waiting: u32,
    pub failed: u32,
    pub skipped: u32,
}

/// Adds up the steps. Of a step with items its items count, as far as they are known.
pub fn progress(plan: &Plan, steps: &BTreeMap<Node, Record>) -> Progress {
    let mut sum = Progress::default();
    for at in 0..plan.steps.len() {
        let record = steps.get(&Node::step(at)).cloned().unwrap_or_default();
        let group = record.group.filter(|group| group.total > 0);
        sum.total += group.map_or(1, |group| group.total);
        let Some(group) = group else {
            let part = match record.word {
                Word::Succeeded => &mut sum.succeeded,
                Word::Running => &mut sum.running,
                Word::Idle | Word::Waiting => &mut sum.waiting,
                Word::Dead | Word::Cancelled => &mut sum.failed,
                Word::Skipped => &mut sum.skipped,
            };
            *part += 1;
            continue;
        };
        let rest = group.total.saturating_sub(group.succeeded + group.live + group.failed);
        sum.succeeded += group.succeeded;
        sum.running += group.live;
        sum.failed += group.failed;
        *(if record.word.is_ended() { &mut sum.skipped } else { &mut sum.waiting }) += rest;
    }
    sum
}
