//! The role of flows: start one, tell it something, look at it, and take its next steps.
//!
//! start → the flow stands in one queue → the end of each of its tasks is an event there, noted in the step of that end → a step reads the
//! flow and its events, asks `taskhost_core::workflow` what follows, and writes it in one step with the tasks that begin
//!
//! Invariant: a step is written only if nobody else has written one since it was read. So each event counts once, however often it is read.

use async_trait::async_trait;
use serde::Serialize;

use super::error::Result;
use taskhost_core::{
    task::{FlowPlace, Millis, QueueName, TaskId},
    workflow::{FlowWord, Progress},
};

mod decide;
mod show;
mod watch;

pub(crate) use decide::{CANCEL, Change, Fixed, Standing, Told, decide, event, result_field, retry_line};
pub(crate) use show::{Shown, retry_refusal, show};
pub use watch::await_flow;

/// Starts flows and steers them.
#[async_trait]
pub trait Flows: Send + Sync {
    /// Starts a flow and takes its first step. False: its id is known, and nothing was changed. `Invalid` if its plan can't be run or its input is
    /// over the payload limit.
    async fn start_flow(&self, flow: &NewFlow) -> Result<bool>;
    /// Tells a flow something, and takes the step that follows.
    async fn ask_flow(&self, queue: &QueueName, id: &TaskId, ask: &Ask) -> Result<AskReply>;
    /// Takes the next steps of flows of this queue that have events or whose time has come. Answers how many flows it stepped.
    async fn step_flows(&self, queue: &QueueName) -> Result<usize>;
    /// What stands of a flow. Without `queue`, all queues are searched.
    async fn flow(&self, queue: Option<&QueueName>, id: &TaskId) -> Result<Option<FlowView>>;
    /// The newest flows of a queue: first those that have not ended. At most `limit`.
    async fn flows(&self, queue: &QueueName, limit: usize) -> Result<Vec<FlowLine>>;
}

/// A flow as a producer requests it. Its id is fixed beforehand, so that starting it again is safe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewFlow {
    pub id: TaskId,
    /// The queue that it stands in, and that its steps run in if they name none.
    pub queue: QueueName,
    /// The flow as it was written: JSON that [`Plan::compile`](taskhost_core::workflow::Plan::compile) takes.
    pub plan: String,
    /// JSON
    pub input: String,
    /// Headers that each of its tasks gets.
    pub headers: Vec<(String, String)>,
    /// The node of another flow that it runs for.
    pub parent: Option<FlowPlace>,
}

/// Something that a person or a program wants of a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Stop, and undo what has succeeded.
    Cancel,
    /// Run what failed again: this step, or all of them.
    Retry(Option<String>),
    /// Start nothing more until `Resume`. What runs goes on.
    Pause,
    Resume,
    /// The first value of a name counts.
    Signal {
        name: String,
        value: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AskReply {
    Done,
    NotFound,
    /// It has ended, or (for `Retry`) it has not ended as failed or cancelled.
    Refused(FlowWord),
    /// A signal of this name came before; or it was paused, or not paused, already.
    Already,
    /// It has no step of this name that is dead.
    NoSuchStep,
}

/// A flow in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FlowLine {
    pub id: TaskId,
    pub queue: QueueName,
    pub name: String,
    pub state: FlowWord,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    pub nodes: u32,
    /// How many nodes have ended; a node that ran again counts again.
    pub ends: u32,
    pub started_at: Millis,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Millis>,
    /// Since when it is paused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<Millis>,
    /// The node of another flow that it runs for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<FlowPlace>,
}

/// A flow with its steps.
#[derive(Debug, Clone, Serialize)]
pub struct FlowView {
    #[serde(flatten)]
    pub line: FlowLine,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Millis>,
    pub progress: Progress,
    /// In an order in which each comes after all that it needs.
    pub steps: Vec<StepView>,
    pub input: Box<serde_json::value::RawValue>,
    /// Of a flow that has succeeded: the result of its last step, or an object of those of its last steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<Box<serde_json::value::RawValue>>,
    pub signals: Vec<String>,
}

/// A step of a flow.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepView {
    pub name: String,
    /// `task`, `map`, `group`, `wait` or `flow`
    pub kind: &'static str,
    /// The task's name, the signal, the time or the flow's name.
    pub what: String,
    /// The steps that must have ended before.
    pub needs: Vec<String>,
    /// `success`, `failure` or `end`
    pub on: &'static str,
    pub state: &'static str,
    /// How often it was begun.
    pub epoch: u32,
    /// A short result, or why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub items: Option<Items>,
    /// When it waits no longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Millis>,
    /// The queue and id of its task, or the id of its flow; a step with many items has one for each, see [`Items`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runs: Option<Runs>,
    /// The state of what undoes it, once it is undone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub undo: Option<&'static str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Runs {
    pub queue: QueueName,
    pub id: TaskId,
}

/// The items of a step that has many: item N of epoch E is the task `FLOW.STEP.N.E`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Items {
    pub total: u32,
    pub running: u32,
    pub succeeded: u32,
    pub failed: u32,
}
