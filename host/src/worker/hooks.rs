//! Hooks: tasks that follow from the ends of other tasks, to tell somebody of them.
//!
//! verdict → the hooks that want it → one delivery each, which is recorded in the same step as the end
//!
//! Invariant: a delivery is enqueued if and only if the end is recorded, whatever dies when. No hook follows from a delivery.

use std::{fmt, sync::Arc, time::Duration};

use serde_json::{Value, json};
use taskhost_core::{
    catalogue::PluginInfo,
    pattern::Patterns,
    task::{CodeId, Follow, Millis, NewTask, QueueName, Task, TaskError, TaskId, TaskName, Verdict},
    text, trace, units,
};

/// The queue of deliveries to addresses.
pub const HOOK_QUEUE: &str = "taskhost.hooks";
/// The body that delivers to an address. Workers with such hooks offer it.
pub(super) const HOOK_TASK: &str = "taskhost.hook";
/// What the id of every delivery begins with.
const MARK: &str = "hook:";
/// How often a delivery is tried: with the usual backoff, for about a day and a half.
const ATTEMPTS: u32 = 42;

/// Hooks hear of pauses and rollbacks that are younger than this.
const FRESH: Duration = Duration::from_secs(600);

/// The hooks of one worker.
#[derive(Debug, Clone, Default)]
pub struct Hooks {
    hooks: Arc<[Hook]>,
    /// The most bytes of a delivery's arguments.
    payload_limit: usize,
}

/// One `[hooks.NAME]` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    pub name: String,
    pub on: Vec<HookEvent>,
    pub queues: Patterns,
    pub tasks: Patterns,
    pub target: HookTarget,
    /// Whether arguments and results are told.
    pub payload: bool,
}

/// What becomes of a delivery.
#[derive(Clone, PartialEq, Eq)]
pub enum HookTarget {
    /// A task of this name, with the event as its argument.
    Task { task: TaskName, queue: QueueName },
    /// A request to this address, signed with each of these keys.
    Url { url: String, keys: Vec<Vec<u8>> },
}

impl fmt::Debug for HookTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Task { task, queue } => write!(f, "task {task} in {queue}"),
            Self::Url { .. } => f.write_str("an address"),
        }
    }
}

/// What a hook may want to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookEvent {
    /// An attempt begins. Best effort: this one is not recorded with anything.
    Started,
    Succeeded,
    /// An attempt failed, and another one follows.
    Failed,
    Dead,
    Cancelled,
    /// A queue was paused. Best effort: no delivery is recorded in the same step.
    QueuePaused,
    /// A plugin went back to an earlier version.
    PluginRolledBack,
}

impl HookEvent {
    pub const ALL: [Self; 7] =
        [Self::Started, Self::Succeeded, Self::Failed, Self::Dead, Self::Cancelled, Self::QueuePaused, Self::PluginRolledBack];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Started => "task.started",
            Self::Succeeded => "task.succeeded",
            Self::Failed => "task.failed",
            Self::Dead => "task.dead",
            Self::Cancelled => "task.cancelled",
            Self::QueuePaused => "queue.paused",
            Self::PluginRolledBack => "plugin.rolled-back",
        }
    }

    fn of(verdict: &Verdict) -> Option<Self> {
        match verdict {
            Verdict::Succeed { .. } => Some(Self::Succeeded),
            Verdict::Retry { .. } => Some(Self::Failed),
            Verdict::Dead { .. } => Some(Self::Dead),
            Verdict::Cancel { .. } => Some(Self::Cancelled),
            Verdict::HandBack { .. } | Verdict::Park => None,
        }
    }
}

impl std::str::FromStr for HookEvent {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::as_str).join(", ");
        Self::ALL.into_iter().find(|event| event.as_str() == text).ok_or_else(|| format!("a hook is told {}: `{text}`", known()))
    }
}

/// One attempt, as its deliveries tell of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told<'a> {
    pub(super) task: &'a Task,
    /// When it was claimed, in microseconds: with the id this names the attempt.
    pub(super) claimed_us: u64,
    pub(super) worker: &'a str,
    /// `None`: no code ran.
    pub(super) code: Option<&'a CodeId>,
    pub(super) now: Millis,
}

impl Hooks {
    pub fn new(hooks: Vec<Hook>, payload_limit: usize) -> Self {
        Self { hooks: hooks.into(), payload_limit }
    }

    pub fn is_empty(&self) -> bool {
        self.hooks.is_empty()
    }

    /// Whether deliveries to addresses are to be run.
    pub fn has_urls(&self) -> bool {
        self.hooks.iter().any(|hook| matches!(hook.target, HookTarget::Url { .. }))
    }

    pub(super) fn named(&self, name: &str) -> Option<&Hook> {
        self.hooks.iter().find(|hook| hook.name == name)
    }

    /// The deliveries that follow from a verdict.
    pub(super) fn follow(&self, told: Told<'_>, verdict: &Verdict) -> Vec<Follow> {
        let Some(event) = HookEvent::of(verdict) else { return Vec::new() };
        self.deliveries(told, event, Some(verdict)).into_iter().map(Follow::Enqueue).collect()
    }

    /// The deliveries for the start of an attempt.
    pub(super) fn started(&self, told: Told<'_>) -> Vec<NewTask> {
        self.deliveries(told, HookEvent::Started, None)
    }

    /// The deliveries for a queue that was paused. All workers that see the same pause make the same ids, so it is told once.
    pub(super) fn paused(&self, queue: &QueueName, since: Millis, now: Millis) -> Vec<NewTask> {
        // A worker that starts now also sees old pauses. Hooks have heard of those.
        if now.since(since) > FRESH {
            return Vec::new();
        }
        let data = json!({ "queue": queue, "paused_at": since });
        let key = format!("paused:{queue}:{}", since.0);
        self.others(HookEvent::QueuePaused, |hook| hook.queues.fits(queue.as_str()), &key, &data, now)
    }

    /// The deliveries for a plugin that went back to the version that it serves now. Workers of one directory make the same ids within ten minutes.
    pub(super) fn rolled_back(&self, plugin: &PluginInfo, now: Millis) -> Vec<NewTask> {
        let Some(code) = &plugin.serving else { return Vec::new() };
        let why = plugin.error.as_deref().map(brief);
        let data = json!({ "file": plugin.file, "plugin": code.plugin, "version": code.version, "digest": code.digest, "why": why });
        let period = now.0 / u64::try_from(FRESH.as_millis()).unwrap_or(1);
        let key = format!("rolled-back:{}:{}:{period}", code.plugin, code.digest.get(..12).unwrap_or_default());
        self.others(HookEvent::PluginRolledBack, |_| true, &key, &data, now)
    }

    fn others(&self, event: HookEvent, fits: impl Fn(&Hook) -> bool, key: &str, data: &Value, now: Millis) -> Vec<NewTask> {
        let told = json!({ "type": event.as_str(), "timestamp": units::show_instant(now), "data": data });
        let wants = |hook: &&Hook| hook.on.contains(&event) && fits(hook);
        let deliveries = self.hooks.iter().filter(wants).filter_map(|hook| {
            let id = TaskId::new(format!("{MARK}{}:{key}", hook.name)).ok()?;
            hook.delivery(id, &told)
        });
        deliveries.collect()
    }

    fn deliveries(&self, told: Told<'_>, event: HookEvent, verdict: Option<&Verdict>) -> Vec<NewTask> {
        let task = told.task;
        if task.id.as_str().starts_with(MARK) {
            return Vec::new();
        }
        let wants = |hook: &&Hook| hook.on.contains(&event) && hook.queues.fits(task.queue.as_str()) && hook.tasks.fits(task.name.as_str());
        self.hooks.iter().filter(wants).filter_map(|hook| self.delivery(hook, told, event, verdict)).collect()
    }

    fn delivery(&self, hook: &Hook, told: Told<'_>, event: HookEvent, verdict: Option<&Verdict>) -> Option<NewTask> {
        let mut event_json = told.event(event, verdict);
        let fits = |event: &Value| event.to_string().len() + hook.name.len() + 8 <= self.payload_limit;
        if hook.payload {
            let data = &mut event_json["data"];
            data["args"] = serde_json::from_str(&told.task.args).unwrap_or_default();
            if let Some(Verdict::Succeed { result }) = verdict {
                data["result"] = serde_json::from_str(result).unwrap_or_default();
            }
            if !fits(&event_json) {
                let without = event_json["data"].as_object_mut()?;
                without.remove("args");
                without.remove("result");
                without.insert("payload_left_out".to_owned(), true.into());
            }
        }
        if !fits(&event_json) {
            tracing::warn!(hook = hook.name, id = %told.task.id, "not told: the event is over `payload_limit`");
            return None;
        }
        let start = if event == HookEvent::Started { ":started" } else { "" };
        let id = format!("{MARK}{}:{}:{}{start}", hook.name, told.task.id, told.claimed_us);
        // An id that is too long is told apart by its claim.
        let id = TaskId::new(&id).or_else(|_| TaskId::new(format!("{MARK}{}:{}{start}", hook.name, told.claimed_us))).ok()?;
        let mut delivery = hook.delivery(id, &event_json)?;
        trace::inherit(&mut delivery.options.headers, &told.task.options.headers);
        Some(delivery)
    }
}

impl Hook {
    /// The task that tells an event.
    fn delivery(&self, id: TaskId, event: &Value) -> Option<NewTask> {
        let (name, queue, args) = match &self.target {
            HookTarget::Task { task, queue } => (task.clone(), queue.clone(), json!([event])),
            HookTarget::Url { .. } => (TaskName::new(HOOK_TASK).ok()?, QueueName::new(HOOK_QUEUE).ok()?, json!([self.name, event])),
        };
        let mut delivery = NewTask { id, queue, ..NewTask::new(name, args.to_string()) };
        if matches!(self.target, HookTarget::Url { .. }) {
            delivery.options.max_attempts = Some(ATTEMPTS);
        }
        Some(delivery)
    }
}

impl Told<'_> {
    /// The event as receivers get it: type, timestamp and data, as Standard Webhooks has it.
    fn event(&self, event: HookEvent, verdict: Option<&Verdict>) -> Value {
        let task = self.task;
        let mut data = json!({
            "id": task.id,
            "task": task.name,
            "queue": task.queue,
            "attempt": task.tries.saturating_add(1),
            "worker": self.worker,
            "enqueued_at": task.enqueued_at,
            "tags": task.options.carried.tags.iter().map(|tag| tag.as_str().to_owned()).collect::<Vec<_>>(),
        });
        if let Some(code) = self.code {
            data["plugin"] = json!(code.plugin);
            data["version"] = json!(code.version);
        }
        if let Some(error) = verdict.and_then(error_of) {
            data["error"] = json!({ "kind": error.kind, "message": brief(&error.message), "code": error.code });
        }
        if let Some(Verdict::Retry { delay, .. }) = verdict {
            data["again_at"] = json!(self.now.after(*delay));
        }
        json!({ "type": event.as_str(), "timestamp": units::show_instant(self.now), "data": data })
    }
}

fn error_of(verdict: &Verdict) -> Option<&TaskError> {
    match verdict {
        Verdict::Retry { error, .. } | Verdict::Dead { error } | Verdict::Cancel { error } => Some(error),
        _ => None,
    }
}

/// A message of a body: at most 1,000 characters, on one line.
fn brief(message: &str) -> String {
    text::clean(&message.chars().take(1_000).collect::<String>())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use taskhost_core::task::{ErrorKind, TaskOptions};

    use super::*;

    fn hook(name: &str, on: &[HookEvent], payload: bool) -> Hook {
        let target = HookTarget::Task { task: TaskName::new("notify").expect("a name"), queue: QueueName::default() };
        Hook { name: name.into(), on: on.to_vec(), queues: Patterns::any(), tasks: Patterns::any(), target, payload }
    }

    fn task(id: &str) -> Task {
        Task {
            id: TaskId::new(id).expect("an id"),
            name: TaskName::new("add").expect("a name"),
            args: "[1,2]".into(),
            queue: QueueName::default(),
            enqueued_at: Millis(1),
            tries: 2,
            losses: 0,
            options: TaskOptions::default(),
        }
    }

    fn follow(hooks: &Hooks, task: &Task, verdict: &Verdict) -> Vec<(String, Value)> {
        let told = Told { task, claimed_us: 7, worker: "w", code: None, now: Millis(1_000) };
        let pair =
            |Follow::Enqueue(task): Follow| (task.id.to_string(), serde_json::from_str::<Value>(&task.args).expect("JSON")[0].clone());
        hooks.follow(told, verdict).into_iter().map(pair).collect()
    }

    #[test]
    fn each_end_is_told_to_those_who_want_it() {
        let hooks =
            Hooks::new(vec![hook("a", &[HookEvent::Dead, HookEvent::Failed], false), hook("b", &[HookEvent::Succeeded], true)], 1 << 20);
        let error = TaskError::new(ErrorKind::Trap, "un\u{1b}reachable");
        let dead = follow(&hooks, &task("t"), &Verdict::Dead { error: error.clone() });
        assert_eq!((dead.len(), dead[0].0.as_str(), &dead[0].1["type"]), (1, "hook:a:t:7", &json!("task.dead")));
        assert_eq!(dead[0].1["data"]["error"]["message"], "un\\u{1b}reachable");
        assert_eq!((&dead[0].1["data"]["attempt"], &dead[0].1["data"]["args"]), (&json!(3), &Value::Null), "no payload unless asked for");
        let failed = follow(&hooks, &task("t"), &Verdict::Retry { error, delay: Duration::from_secs(1) });
        assert_eq!((&failed[0].1["type"], &failed[0].1["data"]["again_at"]), (&json!("task.failed"), &json!(2_000)));
        let done = follow(&hooks, &task("t"), &Verdict::Succeed { result: "3".into() });
        assert_eq!((done.len(), &done[0].1["data"]["result"], &done[0].1["data"]["args"]), (1, &json!(3), &json!([1, 2])));
        assert!(follow(&hooks, &task("t"), &Verdict::Park).is_empty());
        assert!(
            follow(&hooks, &task("hook:a:t:7"), &Verdict::Succeed { result: "3".into() }).is_empty(),
            "no hook follows from a delivery"
        );
    }

    #[test]
    fn an_event_that_is_too_large_is_told_without_its_payload_or_not_at_all() {
        let hooks = |limit| Hooks::new(vec![hook("a", &[HookEvent::Succeeded], true)], limit);
        let result = Verdict::Succeed { result: format!("\"{}\"", "x".repeat(1_000)) };
        let told = follow(&hooks(600), &task("t"), &result);
        assert_eq!((&told[0].1["data"]["payload_left_out"], &told[0].1["data"]["result"]), (&json!(true), &Value::Null));
        assert!(follow(&hooks(64), &task("t"), &result).is_empty(), "an end is never refused for its hook");
    }

    #[test]
    fn a_long_id_still_has_its_delivery() {
        let hooks = Hooks::new(vec![hook("a", &[HookEvent::Dead], false)], 1 << 20);
        let dead = Verdict::Dead { error: TaskError::new(ErrorKind::Trap, "x") };
        assert_eq!(follow(&hooks, &task(&"t".repeat(128)), &dead)[0].0, "hook:a:7");
    }
}
