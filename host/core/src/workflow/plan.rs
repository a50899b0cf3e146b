//! A plan: a flow as it was written, checked, with its steps in an order in which each comes after all that it needs.
//!
//! Invariant: what a step needs has a smaller place than the step. A plan is made by [`Plan::compile`] alone, and the same text gives the same plan.

use std::{sync::Arc, time::Duration};

use super::arguments::{Reference, Template};
use crate::task::{Priority, QueueName, Tags, TaskName};

/// The most steps of a plan, those of its flows within included. A step may have many items.
pub const MOST_STEPS: usize = 1_000;
/// The most nodes of a flow: steps and their items.
pub const MOST_NODES: u32 = 100_000;
/// How deep flows may stand within flows.
pub(super) const MOST_LEVELS: usize = 8;

/// A flow that can be run.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub name: String,
    /// How long a flow may take from its start.
    pub deadline: Option<Duration>,
    pub steps: Vec<Step>,
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    pub name: String,
    pub kind: Kind,
    /// The steps that must have ended before.
    pub needs: Vec<usize>,
    pub rule: Rule,
    pub when: Option<When>,
    pub on_failure: OnFailure,
    /// What undoes it: once, or once for each of its items that succeeded.
    pub undo: Option<Call>,
    /// Whether it runs because something failed: it has such a rule, or needs a step that does.
    pub is_for_failure: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    Task(Call),
    /// A task for each item of a list, so many at once.
    Map {
        over: Reference,
        call: Call,
        parallel: u32,
    },
    /// These tasks, so many at once.
    Group {
        calls: Vec<Call>,
        parallel: u32,
    },
    Wait(Wait),
    Flow {
        plan: Box<Plan>,
        /// The flow as it was written.
        text: Arc<str>,
        input: Template,
    },
}

/// A task of a step.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    pub task: TaskName,
    /// An array.
    pub args: Template,
    pub queue: Option<QueueName>,
    pub priority: Option<Priority>,
    pub timeout: Option<Duration>,
    pub retries: Option<u32>,
    pub tags: Tags,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wait {
    Signal { name: String, timeout: Option<Duration> },
    For(Duration),
}

/// When a step starts, once all that it needs has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rule {
    /// All of it has succeeded.
    #[default]
    Success,
    /// Some of it is dead or cancelled.
    Failure,
    /// However it ended.
    End,
}

/// What the death of a step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFailure {
    /// The flow fails: other steps are stopped, and what has succeeded is undone.
    #[default]
    Fail,
    /// The flow goes on without it.
    Continue,
}

/// A condition on a value.
#[derive(Debug, Clone, PartialEq)]
pub struct When {
    pub value: Reference,
    pub is: serde_json::Value,
}

/// Why a flow can't be run, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {why}")]
pub struct PlanError {
    /// A JSON pointer into the flow as it was written; `/` for the whole.
    pub at: String,
    pub why: String,
}

impl Plan {
    /// The place of a step.
    pub fn step(&self, name: &str) -> Option<usize> {
        self.steps.iter().position(|step| step.name == name)
    }

    /// The steps that need this one.
    pub fn dependents(&self, step: usize) -> impl Iterator<Item = usize> {
        self.steps.iter().enumerate().filter(move |(_, other)| other.needs.contains(&step)).map(|(at, _)| at)
    }

    /// The steps that nothing needs, apart from those that are there for a failure.
    pub fn last_steps(&self) -> impl Iterator<Item = usize> {
        (0..self.steps.len())
            .filter(|at| !self.steps[*at].is_for_failure && self.dependents(*at).all(|other| self.steps[other].is_for_failure))
    }

    /// The call of a step, or of one of its items.
    pub fn call(&self, step: usize, item: Option<u32>) -> Option<&Call> {
        match &self.steps[step].kind {
            Kind::Task(call) | Kind::Map { call, .. } => Some(call),
            Kind::Group { calls, .. } => calls.get(item? as usize),
            Kind::Wait(_) | Kind::Flow { .. } => None,
        }
    }
}
