//! Flows: graphs of tasks that depend on tasks. Pure: a driver reads, asks, and writes what is answered.
//!
//! a file → [`Plan::compile`] → [`advance`] with what stands and what happened → what is written, and what starts, is cancelled or ends
//!
//! Invariant: an end counts once, for the epoch of a node that runs. What is decided depends on what stands and on the events alone, so a step
//! that was lost is made again with the same answer.

use std::{fmt, str::FromStr};

mod advance;
mod arguments;
mod plan;
mod progress;
mod read;
mod record;
#[cfg(test)]
mod tests;

pub use advance::{Advanced, Effect, Missing, View, advance};
pub use arguments::{Reference, Source, Template};
pub use plan::{Call, Kind, MOST_NODES, MOST_STEPS, OnFailure, Plan, PlanError, Rule, Step, Wait, When};
pub use progress::{Progress, progress};
pub use record::{FlowState, FlowWord, Group, Record, Word};

/// A node of a flow: a step, one item of a step that has many, or what undoes either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node {
    /// The place of the step in its plan.
    pub step: usize,
    pub item: Option<u32>,
    pub is_undo: bool,
}

impl Node {
    pub const fn step(step: usize) -> Self {
        Self { step, item: None, is_undo: false }
    }

    #[must_use]
    pub const fn item(self, item: u32) -> Self {
        Self { item: Some(item), ..self }
    }

    #[must_use]
    pub const fn undo(self) -> Self {
        Self { is_undo: true, ..self }
    }

    /// As it is stored: `resize`, `resize.17`, `resize.undo`, `resize.17.undo`.
    pub fn name(self, plan: &Plan) -> String {
        let mut text = plan.steps[self.step].name.clone();
        if let Some(item) = self.item {
            text = format!("{text}.{item}");
        }
        if self.is_undo { text + ".undo" } else { text }
    }

    /// Reads a stored name. `None` if the plan has no such node.
    pub fn parse(text: &str, plan: &Plan) -> Option<Self> {
        let (text, is_undo) = text.strip_suffix(".undo").map_or((text, false), |text| (text, true));
        let (name, item) = match text.split_once('.') {
            Some((name, item)) => (name, Some(item.parse().ok()?)),
            None => (text, None),
        };
        Some(Self { step: plan.step(name)?, item, is_undo })
    }
}

/// Something that happened to a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The task of a node, or its flow, has ended.
    Ended { node: Node, epoch: u32, end: End },
    /// Somebody runs the ended task of a node again.
    Reopened { node: Node, epoch: u32 },
    /// Somebody wants the flow to stop.
    Cancel,
    /// Somebody wants a step that failed to run again, or all of them.
    Retry(Option<usize>),
}

/// How the task of a node ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The result, if it is short enough to stand in the flow itself.
    Succeeded(Option<String>),
    Dead(String),
    Cancelled,
}

/// Results that are at most this long stand in the flow itself.
pub const INLINE: usize = 256;

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Succeeded(None) => f.write_str("S"),
            Self::Succeeded(Some(result)) => write!(f, "S {result}"),
            Self::Dead(why) => write!(f, "D {why}"),
            Self::Cancelled => f.write_str("C"),
        }
    }
}

impl FromStr for End {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (word, rest) = text.split_once(' ').map_or((text, None), |(word, rest)| (word, Some(rest.to_owned())));
        match word {
            "S" => Ok(Self::Succeeded(rest)),
            "D" => Ok(Self::Dead(rest.unwrap_or_default())),
            "C" => Ok(Self::Cancelled),
            _ => Err(()),
        }
    }
}
