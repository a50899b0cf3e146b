//! What stands of a flow, for people.

use serde_json::value::RawValue;

use super::{
    AskReply, FlowLine, FlowView, Items, Runs, StepView,
    decide::{Fixed, id_of, queue_of},
};
use taskhost_core::{
    task::{Millis, QueueName, TaskId},
    workflow::{FlowState, FlowWord, Kind, Node, Plan, Rule, View, Wait, progress},
};

/// What was read of a flow beside its [`View`].
#[derive(Debug)]
pub(crate) struct Shown<'a> {
    pub(crate) queue: &'a QueueName,
    pub(crate) id: &'a TaskId,
    pub(crate) started_at: Millis,
    pub(crate) ended_at: Option<Millis>,
    pub(crate) paused: Option<Millis>,
    pub(crate) result: Option<String>,
}

pub(crate) fn show(shown: &Shown<'_>, fixed: &Fixed, view: &View) -> FlowView {
    let plan = &*fixed.plan;
    FlowView {
        line: line(shown, plan.name.clone(), &view.state, fixed),
        deadline: view.state.deadline,
        progress: progress(plan, &view.records),
        steps: (0..plan.steps.len()).map(|step| step_view(shown, plan, view, step)).collect(),
        input: raw(view.input.clone()),
        result: shown.result.clone().map(raw),
        signals: view.signals.keys().cloned().collect(),
    }
}

fn raw(text: String) -> Box<RawValue> {
    RawValue::from_string(text).unwrap_or_default()
}

fn line(shown: &Shown<'_>, name: String, state: &FlowState, fixed: &Fixed) -> FlowLine {
    FlowLine {
        id: shown.id.clone(),
        queue: shown.queue.clone(),
        name,
        state: state.word,
        why: state.why.clone(),
        nodes: state.nodes,
        ends: state.ends,
        started_at: shown.started_at,
        ended_at: shown.ended_at,
        paused: shown.paused,
        parent: fixed.parent.clone(),
    }
}

fn step_view(shown: &Shown<'_>, plan: &Plan, view: &View, at: usize) -> StepView {
    let (step, node) = (&plan.steps[at], Node::step(at));
    let record = view.records.get(&node).cloned().unwrap_or_default();
    let (kind, what) = match &step.kind {
        Kind::Task(call) => ("task", call.task.to_string()),
        Kind::Map { call, .. } => ("map", call.task.to_string()),
        Kind::Group { calls, .. } => {
            let mut names: Vec<&str> = calls.iter().map(|call| call.task.as_str()).collect();
            names.dedup();
            let more = names.len().saturating_sub(3);
            names.truncate(3);
            let names = names.join(", ");
            ("group", if more == 0 { names } else { format!("{names} and {more} more") })
        }
        Kind::Wait(Wait::Signal { name, .. }) => ("wait", format!("signal {name}")),
        Kind::Wait(Wait::For(time)) => ("wait", format!("{time:?}")),
        Kind::Flow { plan, .. } => ("flow", plan.name.clone()),
    };
    let is_one = matches!(step.kind, Kind::Task(_) | Kind::Flow { .. });
    let runs = (is_one && record.epoch > 0).then(|| Runs {
        queue: queue_of(plan, node, shown.queue).unwrap_or_else(|| shown.queue.clone()),
        id: id_of(shown.id, &step.name, record.epoch),
    });
    let undo = view.records.get(&node.undo()).filter(|undo| undo.epoch > 0).map(|undo| undo.word.as_str());
    StepView {
        name: step.name.clone(),
        kind,
        what,
        needs: step.needs.iter().map(|need| plan.steps[*need].name.clone()).collect(),
        on: match step.rule {
            Rule::Success => "success",
            Rule::Failure => "failure",
            Rule::End => "end",
        },
        state: record.word.as_str(),
        epoch: record.epoch,
        text: record.text,
        items: record.group.map(|group| Items {
            total: group.total,
            running: group.live,
            succeeded: group.succeeded,
            failed: group.failed,
        }),
        until: record.until,
        runs,
        undo,
    }
}

/// Why a retry of a flow, or of one of its steps, would change nothing.
pub(crate) fn retry_refusal(view: &FlowView, step: Option<&str>) -> Option<AskReply> {
    if !matches!(view.line.state, FlowWord::Failed | FlowWord::Cancelled) {
        return Some(AskReply::Refused(view.line.state));
    }
    let is_dead = |step: &str| view.steps.iter().any(|of| of.name == step && of.state == "dead");
    step.is_some_and(|step| !is_dead(step)).then_some(AskReply::NoSuchStep)
}
