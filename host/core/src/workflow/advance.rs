//! What follows from events: which nodes start, are skipped, end, are undone; and when the flow ends.
//!
//! events → records of their nodes → steps whose rule holds begin, until nothing changes → all ended: undo, if it failed → the end
//!
//! Invariant: a node begins once in an epoch, after all that it needs has ended. Nothing starts in a flow that has ended.

mod steps;
mod undo;
mod values;

use std::collections::{BTreeMap, BTreeSet};

use super::{
    End, Event, INLINE, Node,
    plan::{Call, MOST_NODES, OnFailure, Plan},
    record::{FlowState, FlowWord, Record, Word},
};
use crate::task::Millis;

/// What stands of a flow, as far as it was read.
#[derive(Debug, Clone, Default)]
pub struct View {
    pub state: FlowState,
    /// JSON
    pub input: String,
    /// A node without a record in the broker has the default one here. A node that was not read is missing.
    pub records: BTreeMap<Node, Record>,
    /// Results that do not stand in the record.
    pub results: BTreeMap<Node, String>,
    /// The values of the signals that came, as JSON.
    pub signals: BTreeMap<String, String>,
}

/// What must be read before it can be decided. The answer is never "nothing".
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Missing {
    pub records: BTreeSet<Node>,
    pub results: BTreeSet<Node>,
}

/// A decision: to be written in one step.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Advanced {
    pub state: FlowState,
    pub writes: BTreeMap<Node, Record>,
    pub effects: Vec<Effect>,
    /// When to look again, also without an event.
    pub wake: Option<Millis>,
}

/// The most tasks that one decision starts, so that each stays short. The next one, without an event, goes on.
const MOST_STARTS: usize = 500;

/// Something that is done with the tasks of a flow.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Enqueue the task of a node. `args` is a JSON array.
    Start { node: Node, epoch: u32, call: Call, args: String },
    /// Begin the flow of a step.
    StartFlow { node: Node, epoch: u32, input: String },
    /// Cancel the task of a node, or its flow.
    Cancel { node: Node, epoch: u32 },
    /// The flow has ended: nothing holds its results any more. `result` is that of its last step, or of its last steps by name; of a flow that
    /// did not succeed there is none.
    End { result: Option<String> },
}

impl View {
    /// A flow before its first step.
    pub fn fresh(plan: &Plan, input: impl Into<String>, now: Millis) -> Self {
        let deadline = plan.deadline.map(|deadline| now.after(deadline));
        let nodes = u32::try_from(plan.steps.len()).unwrap_or(MOST_NODES);
        let state = FlowState { nodes, deadline, ..FlowState::default() };
        let records = (0..plan.steps.len()).map(|step| (Node::step(step), Record::default())).collect();
        Self { state, input: input.into(), records, ..Self::default() }
    }
}

/// Decides. `limit` bounds the arguments of a task in bytes.
pub fn advance(plan: &Plan, view: &View, events: &[Event], now: Millis, limit: usize) -> Result<Advanced, Missing> {
    let (done, missing) = (Advanced { state: view.state.clone(), ..Advanced::default() }, Missing::default());
    let mut run =
        Run { plan, view, now, limit, done, missing, changed: false, failed: Vec::new(), lists: BTreeMap::new(), starts: 0, more: false };
    for event in events {
        run.take(event);
    }
    run.settle();
    if run.missing != Missing::default() {
        return Err(run.missing);
    }
    run.done.wake = if run.more { Some(now) } else { run.wake() };
    Ok(run.done)
}

struct Run<'a> {
    plan: &'a Plan,
    view: &'a View,
    now: Millis,
    limit: usize,
    done: Advanced,
    missing: Missing,
    changed: bool,
    /// Steps that have failed just now.
    failed: Vec<usize>,
    /// The lists of steps with `map`, read once.
    lists: BTreeMap<usize, Vec<serde_json::Value>>,
    starts: usize,
    /// Whether items wait for the next decision.
    more: bool,
}

impl Run<'_> {
    pub(super) fn record(&mut self, node: Node) -> Record {
        if let Some(record) = self.done.writes.get(&node).or_else(|| self.view.records.get(&node)) {
            return record.clone();
        }
        self.missing.records.insert(node);
        Record::default()
    }

    pub(super) fn step(&mut self, step: usize) -> Record {
        self.record(Node::step(step))
    }

    pub(super) fn write(&mut self, node: Node, record: Record) {
        self.changed = true;
        self.done.writes.insert(node, record);
    }

    /// Writes the end of a node.
    pub(super) fn end(&mut self, node: Node, record: &Record, word: Word, text: Option<String>) {
        self.done.state.ends = self.done.state.ends.saturating_add(1);
        let place = self.done.state.ends;
        if !node.is_undo && node.item.is_none() && matches!(word, Word::Dead | Word::Cancelled) {
            self.failed.push(node.step);
        }
        self.write(node, Record { word, place, text, until: None, ..record.clone() });
    }

    pub(super) fn continues(&self, step: usize) -> bool {
        self.plan.steps[step].on_failure == OnFailure::Continue
    }

    /// Whether nothing more of this step may start.
    pub(super) fn is_halted(&self, step: usize) -> bool {
        match self.done.state.word {
            FlowWord::Running => false,
            FlowWord::Failing => !self.plan.steps[step].is_for_failure,
            _ => true,
        }
    }

    fn take(&mut self, event: &Event) {
        match event {
            Event::Ended { node, epoch, end } => self.ended(*node, *epoch, end),
            Event::Reopened { node, epoch } => self.reopened(*node, *epoch),
            Event::Cancel => self.stop(FlowWord::Stopping, FlowWord::Cancelled, "cancelled".to_owned()),
            Event::Retry(step) => self.retry(*step),
        }
    }

    fn ended(&mut self, node: Node, epoch: u32, end: &End) {
        if node.step >= self.plan.steps.len() {
            return;
        }
        let record = self.record(node);
        if record.word != Word::Running || record.epoch != epoch || record.group.is_some() {
            return;
        }
        let (word, text) = match end {
            End::Succeeded(text) => (Word::Succeeded, text.clone().filter(|text| text.len() <= INLINE)),
            End::Dead(why) => (Word::Dead, Some(why.clone())),
            End::Cancelled => (Word::Cancelled, Some("cancelled".to_owned())),
        };
        self.end(node, &record, word, text);
        let Some(item) = node.item else { return };
        let whole = Node { item: None, ..node };
        let mut record = self.record(whole);
        let Some(group) = &mut record.group else { return };
        group.live = group.live.saturating_sub(1);
        if word == Word::Succeeded {
            group.succeeded += 1;
        } else {
            let is_first = group.failed == 0;
            group.failed += 1;
            let why = self.done.writes[&node].text.clone().unwrap_or_default();
            record.text.get_or_insert_with(|| format!("item {item}: {why}"));
            if is_first && !node.is_undo && !self.continues(node.step) {
                self.write(whole, record);
                return self.cancel(node.step);
            }
        }
        self.write(whole, record);
    }

    /// Somebody runs a task of the flow again that had failed. The flow goes on, if it had ended.
    fn reopened(&mut self, node: Node, epoch: u32) {
        if node.step >= self.plan.steps.len() || node.is_undo {
            return;
        }
        let record = self.record(node);
        if !matches!(record.word, Word::Dead | Word::Cancelled) || record.epoch != epoch || record.group.is_some() {
            return;
        }
        if node.item.is_some() {
            let mut whole = self.step(node.step);
            let Some(group) = &mut whole.group else { return };
            (group.failed, group.live) = (group.failed.saturating_sub(1), group.live + 1);
            (whole.word, whole.text) = (Word::Running, None);
            self.write(Node::step(node.step), whole);
        }
        self.write(node, Record { word: Word::Running, place: 0, text: None, ..record });
        if self.done.state.word.is_ended() {
            self.begin_again();
            self.reset(|record| record.word == Word::Skipped);
        }
    }

    /// Runs what failed again, and what was stopped or skipped because of it.
    fn retry(&mut self, only: Option<usize>) {
        if !matches!(self.done.state.word, FlowWord::Failed | FlowWord::Cancelled) {
            return;
        }
        self.begin_again();
        self.reset(|record| matches!(record.word, Word::Skipped | Word::Cancelled) || only.is_none() && record.word == Word::Dead);
        if let Some(step) = only.filter(|step| *step < self.plan.steps.len()) {
            let record = self.step(step);
            if record.word == Word::Dead {
                self.reset_one(step, &record);
            }
        }
    }

    fn begin_again(&mut self) {
        let deadline = self.plan.deadline.map(|deadline| self.now.after(deadline));
        self.done.state = FlowState { word: FlowWord::Running, becomes: FlowWord::Running, deadline, why: None, ..self.done.state };
        self.changed = true;
    }

    /// Makes steps idle that a condition chooses, those that were undone, and those that are there for a failure.
    fn reset(&mut self, is_chosen: impl Fn(&Record) -> bool) {
        for step in 0..self.plan.steps.len() {
            let record = self.step(step);
            let undo = Node::step(step).undo();
            let was_undone = self.plan.steps[step].undo.is_some() && self.record(undo).word != Word::Idle;
            // What ran because of the failure belongs to the time before.
            let is_past = self.plan.steps[step].is_for_failure || was_undone;
            if is_chosen(&record) || is_past && record.word.is_ended() {
                self.reset_one(step, &record);
            }
            if was_undone {
                let old = self.record(undo);
                self.write(undo, Record { word: Word::Idle, place: 0, group: None, text: None, ..old });
            }
        }
    }

    fn reset_one(&mut self, step: usize, record: &Record) {
        // The items that succeeded, and were not undone, keep their results: see `tend`.
        self.write(Node::step(step), Record { word: Word::Idle, place: 0, text: None, until: None, ..record.clone() });
    }

    fn settle(&mut self) {
        if self.done.state.word.is_ended() {
            return;
        }
        let is_late = self.done.state.deadline.is_some_and(|deadline| deadline <= self.now);
        if is_late && matches!(self.done.state.word, FlowWord::Running | FlowWord::Failing) {
            self.stop(FlowWord::Stopping, FlowWord::Failed, "its deadline is over".to_owned());
        }
        loop {
            self.changed = false;
            for step in 0..self.plan.steps.len() {
                self.settle_step(step);
            }
            let failed = std::mem::take(&mut self.failed).into_iter().find(|step| !self.continues(*step));
            if let Some(step) = failed
                && self.done.state.word == FlowWord::Running
            {
                self.fail(step);
            }
            if !self.changed || self.missing != Missing::default() {
                break;
            }
        }
        if (0..self.plan.steps.len()).all(|step| self.step(step).word.is_ended()) {
            self.close();
        }
    }

    fn fail(&mut self, step: usize) {
        let why = self.step(step).text.unwrap_or_default();
        self.stop(FlowWord::Failing, FlowWord::Failed, format!("step `{}`: {why}", self.plan.steps[step].name));
    }

    /// Starts nothing more, but what is there for a failure while it fails, and cancels what runs.
    fn stop(&mut self, word: FlowWord, becomes: FlowWord, why: String) {
        if self.done.state.word.is_ended() || matches!(self.done.state.word, FlowWord::Stopping | FlowWord::Undoing) {
            return;
        }
        self.done.state.why.get_or_insert(why);
        (self.done.state.word, self.done.state.becomes) = (word, becomes);
        self.changed = true;
        for step in 0..self.plan.steps.len() {
            if self.is_halted(step) {
                self.cancel(step);
            }
        }
    }

    /// Whether one more item may start in this decision.
    pub(super) fn has_room(&mut self) -> bool {
        self.more |= self.starts >= MOST_STARTS;
        !self.more
    }

    /// Cancels what runs of a step.
    fn cancel(&mut self, step: usize) {
        let record = self.step(step);
        if record.word != Word::Running {
            return;
        }
        let Some(group) = record.group else {
            return self.done.effects.push(Effect::Cancel { node: Node::step(step), epoch: record.epoch });
        };
        for item in 0..group.cursor {
            let node = Node::step(step).item(item);
            let item = self.record(node);
            if item.word == Word::Running {
                self.done.effects.push(Effect::Cancel { node, epoch: item.epoch });
            }
        }
    }

    /// All steps have ended.
    fn close(&mut self) {
        if self.done.state.word == FlowWord::Running {
            // A step that failed before a retry of another one.
            let failed = (0..self.plan.steps.len())
                .find(|step| !self.continues(*step) && matches!(self.step(*step).word, Word::Dead | Word::Cancelled));
            match failed {
                Some(step) => self.fail(step),
                None => self.done.state.becomes = FlowWord::Succeeded,
            }
        }
        if self.done.state.becomes != FlowWord::Succeeded {
            self.done.state.word = FlowWord::Undoing;
            if self.undo() || self.missing != Missing::default() {
                return;
            }
        }
        self.done.state.word = self.done.state.becomes;
        let result = (self.done.state.word == FlowWord::Succeeded).then(|| self.result_of_flow());
        self.done.effects.push(Effect::End { result });
    }

    fn wake(&mut self) -> Option<Millis> {
        if self.done.state.word.is_ended() {
            return None;
        }
        let deadline = self.done.state.deadline.filter(|_| matches!(self.done.state.word, FlowWord::Running | FlowWord::Failing));
        let until = (0..self.plan.steps.len()).filter_map(|step| self.step(step).until.filter(|until| *until > self.now));
        until.chain(deadline).min()
    }
}
