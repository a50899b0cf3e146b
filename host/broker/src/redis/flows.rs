//! The role of flows on Redis.
//!
//! read: which flows are due, with their steps and events → decide, and read what is missing → write, if no other step was written meanwhile

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::try_join_all;
use parking_lot::Mutex;
use redis::Value;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{
    driver::RedisBroker,
    record::{push_record, record},
    scripts::{Call, FLOW_ASK, FLOW_MORE, FLOW_READ, FLOW_START, FLOW_STEP, FLOW_VIEW, FLOWS},
    values::{Row, corrupt, count, list, millis, number, text, word, words},
};
use crate::{
    error::Result,
    flows::{
        Ask, AskReply, CANCEL, Change, Fixed, FlowLine, FlowView, Flows, NewFlow, Shown, Standing, decide, event, result_field, retry_line,
        retry_refusal, show,
    },
    lease::Lease,
    schedule::Schedules,
    unreadable,
};
use taskhost_core::{
    task::{Millis, QueueName, TaskId},
    workflow::{FlowState, Missing, Node, Plan, Record, View},
};

/// Flows of one reading.
const TOGETHER: usize = 64;
/// Events of a flow in one step.
const EVENTS: usize = 1_000;
/// Tasks and items of one call that writes steps, beyond the first flow.
const AT_ONCE: usize = 1_000;
/// When a flow that can't be read is looked at again.
const UNREADABLE: Duration = Duration::from_secs(60);
/// How often a step is decided anew because somebody else wrote one.
const AGAIN: usize = 20;

/// What never changes of the flows that were stepped lately, by the digest of it.
#[derive(Debug, Default)]
pub(super) struct FixedParts(Mutex<HashMap<String, Arc<Fixed>>>);

impl FixedParts {
    const MOST: usize = 4_096;
    const MOST_BYTES: usize = 32 << 20;

    fn get(&self, sha: &str) -> Option<Arc<Fixed>> {
        self.0.lock().get(sha).cloned()
    }

    fn put(&self, sha: &str, fixed: &Arc<Fixed>) {
        let mut kept = self.0.lock();
        let bytes: usize = if kept.len() % 64 == 63 { kept.values().map(|fixed| fixed.input.len()).sum() } else { 0 };
        if kept.len() >= Self::MOST || bytes > Self::MOST_BYTES {
            kept.clear();
        }
        if fixed.input.len() <= Self::MOST_BYTES / 64 {
            kept.insert(sha.to_owned(), Arc::clone(fixed));
        }
    }
}

/// What could be read, or why it could not.
type Readable<T> = std::result::Result<T, String>;

/// One flow of a reading.
struct Read {
    /// The broker's time.
    now: Millis,
    rev: String,
    taken: usize,
    standing: Standing,
}

impl Read {
    /// Whether the flow wants another step at once.
    fn wants_more(&self, change: &Change) -> bool {
        change.wake == Some(self.now) || self.taken == EVENTS
    }
}

#[async_trait]
impl Flows for RedisBroker {
    async fn start_flow(&self, flow: &NewFlow) -> Result<bool> {
        let plan = Fixed::check(flow, self.settings.payload_limit)?;
        self.meet(&flow.queue).await?;
        let call = FLOW_START.call(&self.keys.queue(&flow.queue)).arg(told(flow, &plan, self.now().await?).to_string());
        let is_new = number(&self.commit(&call).await?) == 1;
        self.step_one(&flow.queue, &flow.id).await?;
        Ok(is_new)
    }

    async fn ask_flow(&self, queue: &QueueName, id: &TaskId, ask: &Ask) -> Result<AskReply> {
        let call = FLOW_ASK.call(&self.keys.queue(queue)).arg(id.as_str());
        let call = match ask {
            Ask::Cancel => call.arg("event").arg(CANCEL),
            Ask::Retry(step) => {
                if let Some(refused) = self.refuses_retry(queue, id, step.as_deref()).await? {
                    return Ok(refused);
                }
                call.arg("event").arg(retry_line(step.as_deref()))
            }
            Ask::Pause => call.arg("pause"),
            Ask::Resume => call.arg("resume"),
            Ask::Signal { name, value } => call.arg("signal").arg(name).arg(value),
        };
        let mut row = Row::new(self.commit(&call).await?)?;
        let (said, state) = (word(row.next()), word(row.next()));
        let reply = match &*said {
            "unknown" => return Ok(AskReply::NotFound),
            "ended" => AskReply::Refused(state.parse::<FlowState>().unwrap_or_default().word),
            "already" => AskReply::Already,
            _ => AskReply::Done,
        };
        if reply == AskReply::Done && *ask != Ask::Pause {
            self.step_one(queue, id).await?;
        }
        Ok(reply)
    }

    async fn step_flows(&self, queue: &QueueName) -> Result<usize> {
        let mut stepped = 0;
        loop {
            let read = self.read_flows(queue, None).await?;
            let count = read.len();
            stepped += count;
            self.step_all(read).await?;
            if count < TOGETHER {
                return Ok(stepped);
            }
        }
    }

    async fn flow(&self, queue: Option<&QueueName>, id: &TaskId) -> Result<Option<FlowView>> {
        let queues = match queue {
            Some(queue) => vec![queue.clone()],
            None => self.all_queues().await?,
        };
        for queue in queues {
            if let Some(view) = self.flow_in(&queue, id).await? {
                return Ok(Some(view));
            }
        }
        Ok(None)
    }

    async fn flows(&self, queue: &QueueName, limit: usize) -> Result<Vec<FlowLine>> {
        let rows = list(self.commands.call(&FLOWS.call(&self.keys.queue(queue)).arg(limit)).await?)?;
        let line = |row: Value| {
            let mut row = Row::new(row)?;
            let mut next = || word(row.next());
            let (id, state, name, at, end, paused, parent) = (next(), next(), next(), next(), next(), next(), next());
            let state: FlowState = state.parse().unwrap_or_default();
            let Ok(id) = TaskId::new(&id) else { return Ok(None) };
            let time = |text: &str| text.parse().ok().map(Millis);
            Ok(Some(FlowLine {
                id,
                queue: queue.clone(),
                name: name.chars().filter(|c| !c.is_control()).take(64).collect(),
                state: state.word,
                why: state.why,
                nodes: state.nodes,
                ends: state.ends,
                started_at: time(&at).unwrap_or_default(),
                ended_at: time(&end),
                paused: time(&paused),
                parent: parent.parse().ok(),
            }))
        };
        rows.into_iter().filter_map(|row| line(row).transpose()).collect()
    }
}

/// A flow as lua/lib/put_flow.lua reads it.
fn told(flow: &NewFlow, plan: &Plan, now: Millis) -> serde_json::Value {
    let headers = json!(flow.headers).to_string();
    let parent = flow.parent.as_ref().map(ToString::to_string).unwrap_or_default();
    let mut digest = Sha256::new();
    for part in [&*flow.plan, &flow.input, &headers, &parent] {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    let state = View::fresh(plan, "", now).state;
    json!({
        "id": flow.id, "plan": flow.plan, "input": flow.input, "sha": hex::encode(&digest.finalize()[..16]), "name": plan.name,
        "state": state.to_string(), "headers": headers, "parent": parent,
    })
}

impl RedisBroker {
    /// Why a retry would change nothing.
    async fn refuses_retry(&self, queue: &QueueName, id: &TaskId, step: Option<&str>) -> Result<Option<AskReply>> {
        let Some(view) = self.flow_in(queue, id).await? else { return Ok(Some(AskReply::NotFound)) };
        Ok(retry_refusal(&view, step))
    }

    async fn flow_in(&self, queue: &QueueName, id: &TaskId) -> Result<Option<FlowView>> {
        let mut row = Row::new(self.commands.call(&FLOW_VIEW.call(&self.keys.queue(queue)).arg(id.as_str())).await?)?;
        if row.is_empty() {
            return Ok(None);
        }
        let fields = paired(row.next())?;
        let (plan, input, result, signals) = (word(row.next()), word(row.next()), word(row.next()), paired(row.next())?);
        let field = |name: &str| fields.iter().find(|(field, _)| field == name).map_or("", |(_, value)| value.as_str());
        let fixed = Fixed::read(&plan, &input, field("headers"), field("parent")).map_err(|why| corrupt("a flow", why))?;
        let steps = fields.iter().filter_map(|(name, value)| Some((name.strip_prefix("n:")?, value.as_str())));
        let view = View {
            state: field("st").parse().unwrap_or_default(),
            input,
            records: records(&fixed.plan, steps),
            signals: signals.into_iter().collect(),
            ..View::default()
        };
        let time = |name: &str| field(name).parse().ok().map(Millis);
        let shown = Shown {
            queue,
            id,
            started_at: time("at").unwrap_or_default(),
            ended_at: time("end"),
            paused: time("paused"),
            result: Some(result).filter(|result| !result.is_empty()),
        };
        Ok(Some(show(&shown, &fixed, &view)))
    }

    /// Takes the next steps of flows of one queue.
    async fn step_all(&self, reads: Vec<Read>) -> Result<()> {
        let mut decided = try_join_all(reads.into_iter().map(|read| self.decide(read))).await?;
        while !decided.is_empty() {
            // So many that the call stays short.
            let mut tasks = 0;
            let fit = decided.iter().take_while(|(_, change)| {
                tasks += change.tasks.len() + change.items.len() + 1;
                tasks <= AT_ONCE
            });
            let rest = decided.split_off(fit.count().max(1));
            let written = self.write_steps(&decided).await?;
            for ((read, change), is_written) in decided.iter().zip(written) {
                if !is_written || read.wants_more(change) {
                    self.step_one(&read.standing.queue, &read.standing.id).await?;
                }
            }
            decided = rest;
        }
        Ok(())
    }

    /// Takes the next steps of one flow, until it wants nothing more at once. What others step meanwhile is left to them.
    async fn step_one(&self, queue: &QueueName, id: &TaskId) -> Result<()> {
        for _ in 0..AGAIN {
            let Some(read) = self.read_flows(queue, Some(id)).await?.pop() else { return Ok(()) };
            let decided = [self.decide(read).await?];
            let is_written = self.write_steps(&decided).await? == [true];
            let [(read, change)] = &decided;
            if is_written && !read.wants_more(change) {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn read_flows(&self, queue: &QueueName, only: Option<&TaskId>) -> Result<Vec<Read>> {
        let call = FLOW_READ.call(&self.keys.queue(queue)).arg(TOGETHER).arg(EVENTS).arg(only.map_or("", TaskId::as_str));
        let mut answer = Row::new(self.commands.call(&call).await?)?;
        let (now, rows) = (Millis(count(&answer.next())), list(answer.next())?);
        let mut read = Vec::with_capacity(rows.len());
        for row in rows {
            let mut row = Row::new(row)?;
            let id = word(row.next());
            match self.read_flow(queue, &id, now, row).await? {
                Ok(flow) => read.push(flow),
                // One flow that can't be read holds no other up.
                Err(why) => {
                    let keys = self.keys.of(queue, &format!("flow:{id}"));
                    let then = format!("it stands still until its keys `{keys}*` are mended or deleted");
                    unreadable::say(&self.at, &format!("the flow `{}` of queue `{queue}`", unreadable::shown(&id)), why, then);
                    let again = now.after(UNREADABLE).0;
                    self.commands.send(redis::cmd("ZADD").arg(self.keys.of(queue, "flows")).arg(again).arg(id)).await?;
                }
            }
        }
        Ok(read)
    }

    /// One flow of a reading, or why it can't be read.
    async fn read_flow(&self, queue: &QueueName, id: &str, now: Millis, mut row: Row) -> Result<Readable<Read>> {
        let id = match TaskId::new(id) {
            Ok(id) => id,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let (sha, rev, state) = (word(row.next()), word(row.next()), word(row.next()));
        let (steps, lines, items, signals) = (paired(row.next())?, words(row.next())?, paired(row.next())?, paired(row.next())?);
        let fixed = match self.fixed.get(&sha) {
            Some(fixed) => fixed,
            None => match self.read_fixed(queue, &id, &sha).await? {
                Ok(fixed) => fixed,
                Err(why) => return Ok(Err(why)),
            },
        };
        let plan = &fixed.plan;
        let mut records = records(plan, steps.iter().map(|(name, record)| (name.as_str(), record.as_str())));
        for (name, record) in &items {
            if let Some(node) = Node::parse(name, plan) {
                records.insert(node, record.parse().unwrap_or_default());
            }
        }
        let state = match state.parse() {
            Ok(state) => state,
            Err(why) => return Ok(Err(why)),
        };
        let view = View { state, input: fixed.input.clone(), records, signals: signals.into_iter().collect(), ..View::default() };
        let events = lines.iter().filter_map(|line| event(line, plan)).collect();
        Ok(Ok(Read { now, rev, taken: lines.len(), standing: Standing { queue: queue.clone(), id, fixed, view, events } }))
    }

    async fn read_fixed(&self, queue: &QueueName, id: &TaskId, sha: &str) -> Result<Readable<Arc<Fixed>>> {
        let mut row = Row::new(self.commands.call(&FLOW_VIEW.call(&self.keys.queue(queue)).arg(id.as_str())).await?)?;
        let fields = paired(row.next())?;
        let field = |name: &str| fields.iter().find(|(field, _)| field == name).map_or("", |(_, value)| value.as_str());
        Ok(Fixed::read(&word(row.next()), &word(row.next()), field("headers"), field("parent")).map(|fixed| {
            let fixed = Arc::new(fixed);
            self.fixed.put(sha, &fixed);
            fixed
        }))
    }

    /// Decides, and reads what that needs.
    async fn decide(&self, mut read: Read) -> Result<(Read, Change)> {
        loop {
            match decide(&read.standing, read.now, self.settings.payload_limit) {
                Ok(change) => return Ok((read, change)),
                Err(missing) => self.read_more(&mut read.standing, &missing).await?,
            }
        }
    }

    async fn read_more(&self, standing: &mut Standing, missing: &Missing) -> Result<()> {
        let plan = Arc::clone(&standing.fixed.plan);
        let epoch = |node: &Node, view: &View| view.records.get(node).map_or(0, |record| record.epoch);
        // The records of steps were all read: one that is missing was never written.
        let (items, steps): (Vec<Node>, Vec<Node>) = missing.records.iter().partition(|node| node.item.is_some());
        for node in steps {
            standing.view.records.insert(node, Record::default());
        }
        let results: Vec<Node> = missing.results.iter().copied().collect();
        if items.is_empty() && results.is_empty() {
            return Ok(());
        }
        let mut call = FLOW_MORE.call(&self.keys.queue(&standing.queue)).arg(standing.id.as_str()).arg(items.len());
        for node in &items {
            call.push(node.name(&plan));
        }
        for node in &results {
            call.push(result_field(&node.name(&plan), epoch(node, &standing.view)));
        }
        let mut row = Row::new(self.commands.call(&call).await?)?;
        let (records, values) = (list(row.next())?, list(row.next())?);
        for (node, record) in items.into_iter().zip(records) {
            standing.view.records.insert(node, text(record).and_then(|record| record.parse().ok()).unwrap_or_default());
        }
        for (node, value) in results.into_iter().zip(values) {
            standing.view.results.insert(node, text(value).unwrap_or_else(|| "null".to_owned()));
        }
        Ok(())
    }

    /// Writes steps of flows of one queue. Whether each was written: false if somebody else has written one.
    async fn write_steps(&self, steps: &[(Read, Change)]) -> Result<Vec<bool>> {
        let Some((Read { standing: Standing { queue, .. }, .. }, _)) = steps.first() else { return Ok(Vec::new()) };
        let mut call = FLOW_STEP.call(&self.keys.queue(queue)).arg(steps.len());
        let mut goes_far = false;
        for (read, change) in steps {
            goes_far |= self.push_step(&mut call, queue, read, change).await?;
        }
        let digits = word(self.commit(&call).await?);
        if goes_far {
            // A worker relays what is left if this breaks off.
            self.relay(queue).await?;
        }
        Ok(digits.bytes().map(|digit| digit == b'1').collect())
    }

    /// Appends a step as lua/flow_step.lua reads it. Whether a part of it belongs to other queues.
    async fn push_step(&self, call: &mut Call, queue: &QueueName, read: &Read, change: &Change) -> Result<bool> {
        let mut flows = Vec::with_capacity(change.flows.len());
        for flow in &change.flows {
            let plan = Fixed::check(flow, usize::MAX)?;
            flows.push(told(flow, &plan, read.now));
        }
        let mut head = json!({
            "id": read.standing.id, "rev": read.rev, "state": change.state, "taken": read.taken, "is_ended": change.is_ended,
            "wake": change.wake.map_or(-1, |wake| i64::try_from(wake.0).unwrap_or(i64::MAX)), "ttl": millis(self.settings.result_ttl),
            "queue": queue, "channel": self.keys.control(), "stops": change.stops, "flows": flows,
        });
        if let Some(result) = &change.result {
            head["result"] = json!(result);
        }
        if let Some((place, told)) = &change.tells {
            let what = told.line.splitn(3, ' ').nth(2).unwrap_or_default();
            head["tells"] = json!({ "place": place.to_string(), "what": what });
            // A result that is too long for the event.
            if let Some((_, result)) = &told.result {
                head["tells"]["result"] = json!(result);
            }
        }
        call.push(head.to_string());
        for list in [&change.steps, &change.items] {
            call.push(list.len());
            for (name, record) in list {
                call.push(name);
                call.push(record);
            }
        }
        let (here, out): (Vec<_>, Vec<_>) = change.tasks.iter().partition(|task| task.queue == *queue);
        call.push(here.len());
        for task in here {
            push_record(call, task)?;
        }
        call.push(out.len());
        for task in &out {
            self.meet(&task.queue).await?;
            call.push(task.queue.as_str());
            call.push(json!(record(task)?).to_string());
        }
        call.push(change.cancels.len());
        for (queue, id) in &change.cancels {
            call.push(queue.as_str());
            call.push(id.as_str());
        }
        Ok(!out.is_empty() || change.cancels.iter().any(|(to, _)| to != queue))
    }
}

/// Names and values, one after the other.
fn paired(value: Value) -> Result<Vec<(String, String)>> {
    let mut flat = list(value)?.into_iter();
    let mut pairs = Vec::new();
    while let (Some(name), Some(value)) = (flat.next(), flat.next()) {
        pairs.push((word(name), word(value)));
    }
    Ok(pairs)
}

/// The records of all steps, and of what undoes them as far as it was written. One that can't be read counts as not begun.
fn records<'a>(plan: &Plan, written: impl Iterator<Item = (&'a str, &'a str)>) -> BTreeMap<Node, Record> {
    let mut records: BTreeMap<Node, Record> = (0..plan.steps.len()).map(|step| (Node::step(step), Record::default())).collect();
    records.extend(written.filter_map(|(name, record)| Some((Node::parse(name, plan)?, record.parse().unwrap_or_default()))));
    records
}
