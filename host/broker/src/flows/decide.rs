//! One step of a flow, between what a driver has read and what it writes.
//!
//! [`Standing`] → [`decide`] → [`Change`], or what must be read first
//!
//! Invariant: the ids of a flow's tasks follow from the flow, the node and the epoch. So a step that is written twice starts nothing twice.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::NewFlow;
use crate::error::{BrokerError, Result};
use taskhost_core::{
    task::{FlowPlace, Millis, NewTask, QueueName, Start, State, TaskError, TaskId, TaskOptions},
    workflow::{self, Effect, End, Event, INLINE, Kind, Missing, Node, Plan, View},
};

/// What never changes of a flow.
#[derive(Debug)]
pub(crate) struct Fixed {
    pub(crate) plan: Arc<Plan>,
    pub(crate) input: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) parent: Option<FlowPlace>,
}

impl Fixed {
    /// Reads what stands in the broker. Another program may have written it.
    pub(crate) fn read(plan: &str, input: &str, headers: &str, parent: &str) -> std::result::Result<Self, String> {
        let plan = Plan::compile(plan).map_err(|error| format!("its plan can't be run: {error}"))?;
        Ok(Self {
            plan: Arc::new(plan),
            input: input.to_owned(),
            headers: serde_json::from_str(headers).unwrap_or_default(),
            parent: parent.parse().ok(),
        })
    }

    /// The plan of a new flow, if it can be run.
    pub(crate) fn check(flow: &NewFlow, limit: usize) -> Result<Plan> {
        let plan = Plan::compile(&flow.plan).map_err(|error| BrokerError::Invalid(format!("the flow can't be run: {error}")))?;
        if flow.input.len() > limit {
            let bytes = flow.input.len();
            let why = format!("the input has {bytes} bytes, more than the payload limit of {limit}: store the data and pass its name");
            return Err(BrokerError::Invalid(why));
        }
        match serde_json::from_str::<serde::de::IgnoredAny>(&flow.input) {
            Ok(_) => Ok(plan),
            Err(error) => Err(BrokerError::Invalid(format!("the input of a flow is JSON: {error}"))),
        }
    }
}

/// What stands of a flow, with the events that have come since its last step.
#[derive(Debug)]
pub(crate) struct Standing {
    pub(crate) queue: QueueName,
    pub(crate) id: TaskId,
    pub(crate) fixed: Arc<Fixed>,
    pub(crate) view: View,
    pub(crate) events: Vec<Event>,
}

/// What a step changes. It is written as a whole.
#[derive(Debug, Default)]
pub(crate) struct Change {
    pub(crate) state: String,
    /// Names of nodes and their records: of steps, and of what undoes them.
    pub(crate) steps: Vec<(String, String)>,
    /// The same of items.
    pub(crate) items: Vec<(String, String)>,
    pub(crate) tasks: Vec<NewTask>,
    pub(crate) cancels: Vec<(QueueName, TaskId)>,
    pub(crate) flows: Vec<NewFlow>,
    /// Flows of steps that are to stop.
    pub(crate) stops: Vec<TaskId>,
    pub(crate) wake: Option<Millis>,
    pub(crate) is_ended: bool,
    /// Of a flow that has just ended: its result, and what is told to the flow that it runs for.
    pub(crate) result: Option<String>,
    pub(crate) tells: Option<(FlowPlace, Told)>,
}

/// What the end of a task, or of a flow, tells the flow that it runs for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    /// See [`event_line`].
    pub(crate) line: String,
    /// The field and the value of a result that is too long for the line.
    pub(crate) result: Option<(String, String)>,
}

impl Told {
    /// The end of a node.
    pub(crate) fn of(place: &FlowPlace, state: State, result: Option<&str>, error: Option<&TaskError>) -> Self {
        let end = match state {
            State::Succeeded => End::Succeeded(result.filter(|result| result.len() <= INLINE).map(str::to_owned)),
            State::Dead => End::Dead(error.map(|error| format!("{}: {}", error.kind, error.message)).unwrap_or_default()),
            _ => End::Cancelled,
        };
        let long = result.filter(|result| state == State::Succeeded && result.len() > INLINE);
        Self {
            line: event_line(&place.node, place.epoch, &end.to_string()),
            result: long.map(|result| (result_field(&place.node, place.epoch), result.to_owned())),
        }
    }
}

impl Told {
    /// The task of a node runs again.
    pub(crate) fn again(place: &FlowPlace) -> Self {
        Self { line: event_line(&place.node, place.epoch, "R"), result: None }
    }
}

/// How the broker stores the result of a node.
pub(crate) fn result_field(node: &str, epoch: u32) -> String {
    format!("{node}:{epoch}")
}

/// How the broker stores an event of a node: `NODE EPOCH S|D|C …` for an end, and `R` when its task runs again.
fn event_line(node: &str, epoch: u32, what: &str) -> String {
    format!("{node} {epoch} {what}")
}

/// The line that asks a flow to stop.
pub(crate) const CANCEL: &str = "! cancel";

/// The line that asks a flow to run what failed again.
pub(crate) fn retry_line(step: Option<&str>) -> String {
    format!("! retry {}", step.unwrap_or_default())
}

/// Reads an event. `None`: the plan has no such node, or another program wrote it.
pub(crate) fn event(line: &str, plan: &Plan) -> Option<Event> {
    let mut parts = line.splitn(3, ' ');
    let (node, epoch, what) = (parts.next()?, parts.next()?, parts.next().unwrap_or_default());
    match (node, epoch) {
        ("!", "cancel") => Some(Event::Cancel),
        ("!", "retry") if what.is_empty() => Some(Event::Retry(None)),
        ("!", "retry") => plan.step(what).map(|step| Event::Retry(Some(step))),
        _ => {
            let (node, epoch) = (Node::parse(node, plan)?, epoch.parse().ok()?);
            if what == "R" {
                return Some(Event::Reopened { node, epoch });
            }
            let end = what.parse().ok()?;
            // Redis tells the whole error of a dead task.
            let end = match end {
                End::Dead(why) => End::Dead(shortened(&why)),
                other => other,
            };
            Some(Event::Ended { node, epoch, end })
        }
    }
}

/// Why a node is dead, in at most 256 bytes. The whole error stands with its task.
fn shortened(why: &str) -> String {
    let why = match serde_json::from_str::<TaskError>(why) {
        Ok(error) => format!("{}: {}", error.kind, error.message),
        Err(_) => why.to_owned(),
    };
    let line = why.lines().next().unwrap_or_default();
    let mut short = line[..line.floor_char_boundary(INLINE)].to_owned();
    if short.len() < line.len() {
        short.push('…');
    }
    short
}

/// The id of the task or flow of a node.
pub(crate) fn id_of(flow: &TaskId, node: &str, epoch: u32) -> TaskId {
    let plain = format!("{flow}.{node}.{epoch}");
    TaskId::new(&plain).unwrap_or_else(|_| {
        // It would be too long: flows stand deep in each other, or the id is a long one of the user's.
        let digest = hex::encode(&Sha256::digest(plain.as_bytes())[..16]);
        let head: String = flow.as_str().chars().take(64).collect();
        TaskId::new(format!("{head}.{digest}.{epoch}")).unwrap_or_else(|_| TaskId::fresh())
    })
}

/// Decides what follows. `limit` bounds the arguments of a task in bytes.
pub(crate) fn decide(standing: &Standing, now: Millis, limit: usize) -> std::result::Result<Change, Missing> {
    let Standing { queue, id, fixed, view, events } = standing;
    let plan = &*fixed.plan;
    let advanced = workflow::advance(plan, view, events, now, limit)?;
    let mut change = Change { state: advanced.state.to_string(), wake: advanced.wake, ..Change::default() };
    change.is_ended = advanced.state.word.is_ended();
    for (node, record) in advanced.writes {
        let list = if node.item.is_some() { &mut change.items } else { &mut change.steps };
        list.push((node.name(plan), record.to_string()));
    }
    for effect in advanced.effects {
        match effect {
            Effect::Start { node, epoch, call, args } => {
                let name = node.name(plan);
                let place = FlowPlace { queue: queue.clone(), flow: id.clone(), node: name.clone(), epoch };
                let mut options = TaskOptions {
                    priority: call.priority.unwrap_or_default(),
                    timeout: call.timeout,
                    max_attempts: call.retries.map(|retries| retries.saturating_add(1)),
                    headers: fixed.headers.clone(),
                    flow: Some(place),
                    ..TaskOptions::default()
                };
                options.carried.tags = call.tags;
                change.tasks.push(NewTask {
                    id: id_of(id, &name, epoch),
                    name: call.task,
                    args,
                    queue: call.queue.unwrap_or_else(|| queue.clone()),
                    start: Start::Now,
                    expires: None,
                    unique: None,
                    awaited: false,
                    options,
                });
            }
            Effect::StartFlow { node, epoch, input } => {
                let Kind::Flow { text, .. } = &plan.steps[node.step].kind else { continue };
                let name = node.name(plan);
                change.flows.push(NewFlow {
                    id: id_of(id, &name, epoch),
                    queue: queue.clone(),
                    plan: text.to_string(),
                    input,
                    headers: fixed.headers.clone(),
                    parent: Some(FlowPlace { queue: queue.clone(), flow: id.clone(), node: name, epoch }),
                });
            }
            Effect::Cancel { node, epoch } => {
                let of = id_of(id, &node.name(plan), epoch);
                match queue_of(plan, node, queue) {
                    Some(queue) => change.cancels.push((queue, of)),
                    None => change.stops.push(of),
                }
            }
            Effect::End { result } => {
                if let Some(parent) = &fixed.parent {
                    let (state, error) = match advanced.state.word {
                        workflow::FlowWord::Succeeded => (State::Succeeded, None),
                        workflow::FlowWord::Cancelled => (State::Cancelled, None),
                        _ => (State::Dead, advanced.state.why.clone()),
                    };
                    let mut told = Told::of(parent, state, result.as_deref(), None);
                    if let Some(why) = error {
                        told.line = event_line(&parent.node, parent.epoch, &End::Dead(why).to_string());
                    }
                    change.tells = Some((parent.clone(), told));
                }
                change.result = result;
            }
        }
    }
    Ok(change)
}

/// The queue of the task of a node; none if the node is a flow.
pub(crate) fn queue_of(plan: &Plan, node: Node, home: &QueueName) -> Option<QueueName> {
    let step = &plan.steps[node.step];
    let call = if node.is_undo { step.undo.as_ref() } else { plan.call(node.step, node.item) };
    if matches!(step.kind, Kind::Flow { .. }) && !node.is_undo {
        return None;
    }
    Some(call.and_then(|call| call.queue.clone()).unwrap_or_else(|| home.clone()))
}
