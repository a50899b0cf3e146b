//! Flows: check a file, start, list, show, steer and await.

use std::time::Duration;

use serde_json::Value;
use taskhost_broker::{Ask, AskReply, FlowLine, FlowView, NewFlow, await_flow};
use taskhost_core::{
    catalogue::{ArgumentsError, Given},
    task::{QueueName, TaskId, TaskName},
    workflow::{Call, FlowWord, Kind, Plan, PlanError, Template},
};

use super::{
    connection::Ops,
    error::OpsError,
    new_task::{Checks, ManyChecks},
};

/// A flow as a person or a program orders it.
#[derive(Debug, Clone)]
pub struct FlowOrder {
    /// See docs/flows.md.
    pub flow: Value,
    /// JSON
    pub input: String,
    pub id: Option<TaskId>,
    pub queue: Option<QueueName>,
    /// Headers of each of its tasks.
    pub headers: Vec<(String, String)>,
}

/// What was started.
#[derive(Debug, Clone)]
pub struct StartedFlow {
    pub id: TaskId,
    pub queue: QueueName,
    /// False: a flow of this id is known, and nothing was started.
    pub is_new: bool,
}

/// Reads a flow from JSON or TOML.
pub fn read_flow(text: &str) -> Result<Value, OpsError> {
    let first = text.trim_start().chars().next();
    let wrong = |why: String| OpsError::Flow(PlanError { at: "/".to_owned(), why });
    if first.is_none() {
        return Err(wrong(
            "it is empty; a flow is like {\"flow\": 1, \"name\": \"f\", \"steps\": {\"a\": {\"task\": \"add\", \"args\": [1, 1]}}}".into(),
        ));
    }
    if matches!(first, Some('{')) {
        return serde_json::from_str(text).map_err(|error| wrong(format!("not JSON: {error}")));
    }
    let value: toml::Value = toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        wrong(format!("neither JSON (which begins with `{{`) nor TOML: {} (line {at})", error.message()))
    })?;
    serde_json::to_value(value).map_err(|error| wrong(format!("a value of this TOML has no place in JSON: {error}")))
}

/// Checks the arguments of each step, as far as they stand in the flow, against what the workers offer.
pub fn check_flow(flow: &Value, checks: &Checks) -> Result<Plan, OpsError> {
    let plan = Plan::read(flow)?;
    check_plan(&plan, "", &mut ManyChecks::new(checks))?;
    Ok(plan)
}

fn check_plan(plan: &Plan, place: &str, checks: &mut ManyChecks) -> Result<(), OpsError> {
    for step in &plan.steps {
        let at = format!("{place}/steps/{}", step.name);
        match &step.kind {
            Kind::Task(call) | Kind::Map { call, .. } => check_call(call, &at, checks)?,
            Kind::Group { calls, .. } => {
                for (n, call) in calls.iter().enumerate() {
                    check_call(call, &format!("{at}/group/{n}"), checks)?;
                }
            }
            Kind::Flow { plan, .. } => check_plan(plan, &format!("{at}/flow"), checks)?,
            Kind::Wait(_) => {}
        }
        if let Some(undo) = &step.undo {
            check_call(undo, &format!("{at}/undo"), checks)?;
        }
    }
    Ok(())
}

/// What is not known before the flow runs is taken to fit.
fn check_call(call: &Call, at: &str, checks: &mut ManyChecks) -> Result<(), OpsError> {
    if call.task.is_reserved() {
        let why = format!("only the host itself enqueues `{}`: names that begin with `taskhost.` are its own", call.task);
        return Err(PlanError { at: format!("{at}/task"), why }.into());
    }
    let (text, open) = known(&call.args);
    let Err(error) = checks.check(&call.task, &Given::Json(text)) else { return Ok(()) };
    let place = match &error {
        ArgumentsError::UnknownTask { .. } => format!("{at}/task"),
        ArgumentsError::Type { at: inner, .. } => {
            let argument = inner.trim_start_matches('/').split('/').next().and_then(|n| n.parse::<usize>().ok());
            if argument.is_some_and(|n| open.contains(&n)) {
                return Ok(());
            }
            format!("{at}/args{inner}")
        }
        _ => format!("{at}/args"),
    };
    Err(OpsError::FlowArguments { at: place, why: error })
}

/// The arguments with null in place of what is not known yet, and which these are.
fn known(args: &Template) -> (String, Vec<usize>) {
    let parts: &[Template] = match args {
        Template::Array(parts) => parts,
        Template::Plain(value) => return (value.to_string(), Vec::new()),
        Template::Object(_) | Template::Reference(_) => return ("[]".to_owned(), Vec::new()),
    };
    let mut open = Vec::new();
    let mut texts = Vec::new();
    for (n, part) in parts.iter().enumerate() {
        let mut has_reference = false;
        part.each(&mut |_| has_reference = true);
        if has_reference {
            open.push(n);
            texts.push("null".to_owned());
        } else {
            let mut text = String::new();
            part.fill(&mut |_| "null".to_owned(), &mut text);
            texts.push(text);
        }
    }
    (format!("[{}]", texts.join(",")), open)
}

/// Writes the queue that a body hints at into each call that names none.
fn fill_queues(flow: &mut Value, checks: &Checks) {
    let Some(steps) = flow.get_mut("steps").and_then(Value::as_object_mut) else { return };
    for step in steps.values_mut() {
        fill_queue(step, checks);
        for part in ["undo", "flow"] {
            match step.get_mut(part) {
                Some(undo) if part == "undo" => fill_queue(undo, checks),
                Some(flow) => fill_queues(flow, checks),
                None => {}
            }
        }
        if let Some(Value::Array(group)) = step.get_mut("group") {
            for call in group {
                fill_queue(call, checks);
            }
        }
    }
}

fn fill_queue(call: &mut Value, checks: &Checks) {
    // A task may be written as its name alone.
    let Some(fields) = call.as_object_mut() else { return };
    let Some(task) = fields.get("task").and_then(Value::as_str).and_then(|task| TaskName::new(task).ok()) else { return };
    if let Some(queue) = checks.queue_hint(&task).filter(|_| !fields.contains_key("queue")) {
        fields.insert("queue".to_owned(), queue.as_str().into());
    }
}

impl FlowOrder {
    /// Checks the order, and writes the queues at which bodies hint into it. Without a queue it stands in that of its first task, so that the
    /// worker of that queue takes its steps. Answers the tasks that it may enqueue, each with its queue if it names one.
    pub fn prepare(&mut self, checks: &Checks) -> Result<Vec<(TaskName, Option<QueueName>)>, OpsError> {
        check_flow(&self.flow, checks)?;
        fill_queues(&mut self.flow, checks);
        let mut calls = Vec::new();
        calls_of(&Plan::read(&self.flow)?, &mut calls);
        if self.queue.is_none() {
            self.queue = calls.first().and_then(|(_, queue)| queue.clone());
        }
        Ok(calls)
    }
}

fn calls_of(plan: &Plan, calls: &mut Vec<(TaskName, Option<QueueName>)>) {
    let one = |call: &Call| (call.task.clone(), call.queue.clone());
    for step in &plan.steps {
        match &step.kind {
            Kind::Task(call) | Kind::Map { call, .. } => calls.push(one(call)),
            Kind::Group { calls: members, .. } => calls.extend(members.iter().map(one)),
            Kind::Flow { plan, .. } => calls_of(plan, calls),
            Kind::Wait(_) => {}
        }
        calls.extend(step.undo.as_ref().map(one));
    }
}

impl Ops {
    /// Starts a flow that was [prepared](FlowOrder::prepare).
    pub async fn start_flow(&self, order: FlowOrder) -> Result<StartedFlow, OpsError> {
        let flow = NewFlow {
            id: order.id.unwrap_or_else(TaskId::fresh),
            queue: order.queue.unwrap_or_default(),
            plan: order.flow.to_string(),
            input: order.input,
            headers: order.headers,
            parent: None,
        };
        let is_new = self.broker.start_flow(&flow).await?;
        Ok(StartedFlow { id: flow.id, queue: flow.queue, is_new })
    }

    /// The flow, in `queue` or in any.
    pub async fn flow(&self, queue: Option<&QueueName>, id: &TaskId) -> Result<FlowView, OpsError> {
        self.broker.flow(queue, id).await?.ok_or_else(|| OpsError::NoSuchFlow { id: id.clone(), queue: queue.cloned() })
    }

    /// The newest flows of a queue, or of all: those that go on first. At most `limit`.
    pub async fn flows(&self, queue: Option<&QueueName>, limit: usize) -> Result<Vec<FlowLine>, OpsError> {
        let queues = match queue {
            Some(queue) => vec![queue.clone()],
            None => self.broker.queues().await?.into_iter().map(|view| view.queue).collect(),
        };
        let mut lines = Vec::new();
        for queue in queues {
            lines.extend(self.broker.flows(&queue, limit).await?);
        }
        lines.sort_by_key(|line| (line.ended_at.is_some(), std::cmp::Reverse(line.ended_at.unwrap_or(line.started_at))));
        lines.truncate(limit);
        Ok(lines)
    }

    /// Tells a flow something. Answers the flow as it stands then.
    pub async fn ask_flow(&self, queue: Option<&QueueName>, id: &TaskId, ask: &Ask) -> Result<FlowView, OpsError> {
        let before = self.flow(queue, id).await?;
        let unchanged = |why: String| Err(OpsError::FlowUnchanged { id: id.clone(), why });
        match self.broker.ask_flow(&before.line.queue, id, ask).await? {
            AskReply::Done => self.flow(Some(&before.line.queue), id).await,
            AskReply::NotFound => Err(OpsError::NoSuchFlow { id: id.clone(), queue: queue.cloned() }),
            AskReply::Refused(word) => unchanged(match ask {
                Ask::Retry(_) => format!("only flows that have failed or were cancelled are retried: it is {}", word.as_str()),
                _ => format!("it has ended: it is {}", word.as_str()),
            }),
            AskReply::Already => match ask {
                Ask::Signal { name, .. } => unchanged(format!("a signal `{name}` came before, and the first one counts")),
                Ask::Pause => unchanged("it is paused already".to_owned()),
                _ => unchanged("it is not paused".to_owned()),
            },
            AskReply::NoSuchStep => {
                let dead: Vec<_> = before.steps.iter().filter(|step| step.state == "dead").map(|step| format!("`{}`", step.name)).collect();
                let have = if dead.is_empty() { "none is".to_owned() } else { format!("dead are {}", dead.join(", ")) };
                let step = if let Ask::Retry(Some(step)) = ask { step.as_str() } else { "" };
                unchanged(format!("it has no step `{step}` that is dead; {have}"))
            }
        }
    }

    /// The flow when it has ended, or as it is after `limit`. `seen` is told each time that something has changed.
    pub async fn await_flow(
        &self,
        queue: &QueueName,
        id: &TaskId,
        limit: Option<Duration>,
        seen: impl FnMut(&FlowView) + Send,
    ) -> Result<FlowView, OpsError> {
        let view = await_flow(&*self.broker, queue, id, limit, seen).await?;
        view.ok_or_else(|| OpsError::NoSuchFlow { id: id.clone(), queue: Some(queue.clone()) })
    }
}

/// Whether a flow ended well.
pub fn has_succeeded(view: &FlowView) -> bool {
    view.line.state == FlowWord::Succeeded
}
