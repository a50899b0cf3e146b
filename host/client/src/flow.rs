//! A flow as a producer asks for it, and a handle on one that was started.

use std::{fmt, sync::Arc, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use taskhost_broker::{Ask, AskReply, Broker, FlowView, NewFlow, await_flow};
use taskhost_core::{
    task::{QueueName, TaskId},
    workflow::FlowWord,
};

use crate::error::ClientError;

/// A flow: steps that depend on steps. Its id is fixed when it is made.
///
/// ```
/// use taskhost_client::{Flow, Step, input};
///
/// let mut flow = Flow::new("sum");
/// let first = flow.step("first", Step::task("add", (input("/n"), 1)));
/// let all = flow.step("all", Step::group([Step::task("add", (first.result(), 10)), Step::task("add", (first.result(), 20))]));
/// flow.step("alert", Step::task("mail", (all.failure(),)).after(&all).on_failure());
/// # let _ = flow.input(&serde_json::json!({"n": 5}));
/// ```
///
/// A wrong value (a name, a step that is not there) is refused when the flow is started, with its place.
#[derive(Debug, Clone)]
pub struct Flow {
    id: TaskId,
    name: String,
    queue: Result<QueueName, String>,
    steps: Map<String, Value>,
    more: Map<String, Value>,
    input: Result<String, String>,
    headers: Vec<(String, String)>,
}

/// A step of a flow, by which others refer to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepName(String);

impl StepName {
    /// Stands for its result, once it has succeeded. Of a group or a map: the list of their results.
    pub fn result(&self) -> Value {
        json!({ "from": self.0 })
    }

    /// Stands for a part of its result, by a JSON pointer such as `/files/0`.
    pub fn part(&self, at: &str) -> Value {
        json!({ "from": self.0, "at": at })
    }

    /// Stands for why it failed; null if it did not.
    pub fn failure(&self) -> Value {
        json!({ "failure": self.0 })
    }
}

/// Stands for a part of the flow's input, by a JSON pointer; empty for the whole.
pub fn input(at: &str) -> Value {
    json!({ "from": "input", "at": at })
}

/// In the arguments of a [`Step::map`]: stands for a part of the item; empty for the whole.
pub fn item(at: &str) -> Value {
    json!({ "item": at })
}

/// What a step runs.
#[derive(Debug, Clone)]
pub struct Step(Map<String, Value>);

impl Step {
    /// A task. `args` serialises to a JSON array; [`input`] and [`StepName::result`] stand for what is known when it starts.
    pub fn task(name: &str, args: impl Serialize) -> Self {
        Self(Map::new()).put("task", name).put("args", args)
    }

    /// A task for each item of a list, which [`input`] or a result names.
    pub fn map(over: Value, name: &str, args: impl Serialize) -> Self {
        Self::task(name, args).put("map", over)
    }

    /// These tasks at once.
    pub fn group(members: impl IntoIterator<Item = Self>) -> Self {
        let members: Vec<Value> = members.into_iter().map(|Self(fields)| fields.into()).collect();
        Self(Map::new()).put("group", members)
    }

    /// Waits for a signal, whose value is its result.
    pub fn signal(name: &str) -> Self {
        Self(Map::new()).put("wait", json!({ "signal": name }))
    }

    /// Waits for so long.
    pub fn pause(time: Duration) -> Self {
        Self(Map::new()).put("wait", json!({ "for": millis(time) }))
    }

    /// Runs after this step too.
    #[must_use]
    pub fn after(mut self, step: &StepName) -> Self {
        let after = self.0.entry("after").or_insert_with(|| json!([]));
        if let Some(after) = after.as_array_mut() {
            after.push(step.0.clone().into());
        }
        self
    }

    /// Runs if one of the steps before has failed.
    #[must_use]
    pub fn on_failure(self) -> Self {
        self.put("on", "failure")
    }

    /// Runs however the steps before ended.
    #[must_use]
    pub fn on_end(self) -> Self {
        self.put("on", "end")
    }

    /// Runs only if this value, a result or a part of one, is the one that is given.
    #[must_use]
    pub fn when(self, value: Value, is: impl Serialize) -> Self {
        let mut when = value;
        if let Ok(is) = serde_json::to_value(is) {
            when["is"] = is;
        }
        self.put("when", when)
    }

    /// The flow goes on if this step fails.
    #[must_use]
    pub fn may_fail(self) -> Self {
        self.put("on_failure", "continue")
    }

    /// The task that undoes it, if the flow fails or is cancelled later. It gets the result of what it undoes.
    #[must_use]
    pub fn undo(self, task: &str) -> Self {
        self.put("undo", json!({ "task": task }))
    }

    /// So many of its tasks at once.
    #[must_use]
    pub fn parallel(self, most: u32) -> Self {
        self.put("parallel", most)
    }

    #[must_use]
    pub fn queue(self, queue: &str) -> Self {
        self.put("queue", queue)
    }

    /// Attempts beyond the first one.
    #[must_use]
    pub fn retries(self, retries: u32) -> Self {
        self.put("retries", retries)
    }

    /// How long an attempt may take; of a wait for a signal: how long it waits.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        match self.0.get_mut("wait") {
            Some(wait) => wait["timeout"] = millis(timeout).into(),
            None => return self.put("timeout", millis(timeout)),
        }
        self
    }

    fn put(mut self, name: &str, value: impl Serialize) -> Self {
        // What is no JSON becomes null, which the check of the flow refuses with its place.
        self.0.insert(name.to_owned(), serde_json::to_value(value).unwrap_or_default());
        self
    }
}

fn millis(time: Duration) -> String {
    format!("{}ms", time.as_millis())
}

impl Flow {
    /// A flow without steps. The name is for people.
    pub fn new(name: &str) -> Self {
        Self {
            id: TaskId::fresh(),
            name: name.to_owned(),
            queue: Ok(QueueName::default()),
            steps: Map::new(),
            more: Map::new(),
            input: Ok("null".to_owned()),
            headers: Vec::new(),
        }
    }

    /// Adds a step.
    pub fn step(&mut self, name: &str, step: Step) -> StepName {
        self.steps.insert(name.to_owned(), step.0.into());
        StepName(name.to_owned())
    }

    /// What [`input`] stands for.
    #[must_use]
    pub fn input(mut self, input: &impl Serialize) -> Self {
        self.input = serde_json::to_string(input).map_err(|error| format!("the input is no JSON: {error}"));
        self
    }

    /// Its own id, unique within its queue. By default a fresh UUIDv7.
    #[must_use]
    pub fn id(mut self, id: TaskId) -> Self {
        self.id = id;
        self
    }

    /// The queue that it stands in, and that its steps run in if they name none.
    #[must_use]
    pub fn queue(mut self, queue: &str) -> Self {
        self.queue = queue.parse().map_err(|error: taskhost_core::task::InvalidName| error.to_string());
        self
    }

    /// It is stopped, and undone, if it has not ended by then.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.more.insert("deadline".to_owned(), millis(deadline).into());
        self
    }

    /// A header for each of its tasks, such as `traceparent`.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_ascii_lowercase(), value.to_owned()));
        self
    }

    pub(crate) fn build(&self) -> Result<NewFlow, ClientError> {
        let mut plan = self.more.clone();
        plan.insert("flow".to_owned(), 1.into());
        plan.insert("name".to_owned(), self.name.clone().into());
        plan.insert("steps".to_owned(), self.steps.clone().into());
        Ok(NewFlow {
            id: self.id.clone(),
            queue: self.queue.clone().map_err(ClientError::Invalid)?,
            plan: Value::from(plan).to_string(),
            input: self.input.clone().map_err(ClientError::Invalid)?,
            headers: self.headers.clone(),
            parent: None,
        })
    }
}

/// A flow in its queue; cheap to clone.
#[derive(Clone)]
pub struct FlowHandle {
    broker: Arc<dyn Broker>,
    queue: QueueName,
    id: TaskId,
    is_new: bool,
}

impl FlowHandle {
    pub(crate) fn new(broker: Arc<dyn Broker>, queue: QueueName, id: TaskId, is_new: bool) -> Self {
        Self { broker, queue, id, is_new }
    }

    pub fn id(&self) -> &TaskId {
        &self.id
    }

    pub fn queue(&self) -> &QueueName {
        &self.queue
    }

    /// Whether this call started it. `false`: its id was known.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Waits for the end, at most `limit`, and reads the result as `T`: that of its last step, or an object of those of its last steps.
    ///
    /// Errors: [`ClientError::FlowTimedOut`] (it goes on), [`ClientError::FlowFailed`] when it failed or was cancelled,
    /// [`ClientError::NoSuchTask`], [`ClientError::Shape`], [`ClientError::Broker`].
    pub async fn wait<T: DeserializeOwned>(&self, limit: Duration) -> Result<T, ClientError> {
        let view = await_flow(&*self.broker, &self.queue, &self.id, Some(limit), |_| {}).await?;
        let view = view.ok_or_else(|| ClientError::NoSuchTask(self.id.clone()))?;
        match view.line.state {
            FlowWord::Succeeded => {
                let result = view.result.as_deref().map_or("null", |result| result.get());
                serde_json::from_str(result).map_err(|error| ClientError::Shape { id: self.id.clone(), error })
            }
            state if state.is_ended() => {
                let why = view.line.why.unwrap_or_else(|| "nothing more is known".to_owned());
                Err(ClientError::FlowFailed { id: self.id.clone(), state, why })
            }
            _ => Err(ClientError::FlowTimedOut { id: self.id.clone(), limit }),
        }
    }

    /// Everything that is known of it; `None` when nothing is kept of it.
    pub async fn view(&self) -> Result<Option<FlowView>, ClientError> {
        Ok(self.broker.flow(Some(&self.queue), &self.id).await?)
    }

    /// Gives it a signal. The first value of a name counts: [`AskReply::Already`] says that there was one.
    pub async fn signal(&self, name: &str, value: &impl Serialize) -> Result<AskReply, ClientError> {
        let value = serde_json::to_string(value).map_err(|error| ClientError::Invalid(format!("the value is no JSON: {error}")))?;
        self.ask(&Ask::Signal { name: name.to_owned(), value }).await
    }

    /// Stops it, and undoes what has succeeded.
    pub async fn cancel(&self) -> Result<AskReply, ClientError> {
        self.ask(&Ask::Cancel).await
    }

    /// Pauses it, lets it go on, or runs what failed again.
    pub async fn ask(&self, what: &Ask) -> Result<AskReply, ClientError> {
        Ok(self.broker.ask_flow(&self.queue, &self.id, what).await?)
    }
}

impl fmt::Debug for FlowHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlowHandle").field("queue", &self.queue).field("id", &self.id).field("is_new", &self.is_new).finish_non_exhaustive()
    }
}
