//! The functions that the contract offers to a guest: context, log, children, kv.

use std::{sync::Arc, time::Duration};

use wasmtime::component::{HasSelf, Linker};

use super::{
    guest::{Attempt, Guest, Terms},
    held::Held,
    json, sentence,
    services::ServiceError,
};
use taskhost_core::task::{NewTask, Priority, Progress, QueueName, Start, TaskId, TaskName};
use taskhost_core::units;

use super::bindings::{
    Plugin,
    taskhost::plugin::{
        children::{self, EnqueueError},
        context,
        kv::{self, KvError},
        log, spans, types,
    },
};

/// The most bytes of a kv key.
const KEY: usize = 1024;
/// The most keys of one listing.
const KEYS: u32 = 1000;
/// The most headers of one child.
const HEADERS: usize = 64;
/// The memory of a child, beside its arguments and headers.
const CHILD: usize = 512;
/// The most bytes of a progress note.
const NOTE: usize = 1024;

pub(super) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    Plugin::add_to_linker::<_, HasSelf<_>>(linker, |guest| guest)
}

/// The guest called a function that does not work while it describes itself.
#[derive(Debug, thiserror::Error)]
#[error("`describe` called `taskhost:plugin/{0}`: only `log` works there")]
pub(super) struct NotWhileDescribing(&'static str);

impl Guest {
    fn attempt(&mut self, interface: &'static str) -> wasmtime::Result<&mut Attempt> {
        self.attempt.as_mut().ok_or_else(|| NotWhileDescribing(interface).into())
    }
}

impl types::Host for Guest {}

impl context::Host for Guest {
    fn task_id(&mut self) -> wasmtime::Result<String> {
        Ok(self.attempt("context")?.about.task_id.to_string())
    }

    fn queue(&mut self) -> wasmtime::Result<String> {
        Ok(self.attempt("context")?.about.queue.to_string())
    }

    fn attempt(&mut self) -> wasmtime::Result<u32> {
        Ok(self.attempt("context")?.about.attempt)
    }

    fn max_attempts(&mut self) -> wasmtime::Result<u32> {
        Ok(self.attempt("context")?.about.max_attempts)
    }

    fn enqueued_at(&mut self) -> wasmtime::Result<u64> {
        Ok(self.attempt("context")?.about.enqueued_at.0)
    }

    fn deadline(&mut self) -> wasmtime::Result<u64> {
        let waited = self.shared.meter.waited();
        let attempt = self.attempt("context")?;
        Ok(attempt.began.after(attempt.timeout + waited).0)
    }

    fn headers(&mut self) -> wasmtime::Result<Vec<(String, String)>> {
        Ok(self.attempt("context")?.about.headers.clone())
    }

    fn is_cancelled(&mut self) -> wasmtime::Result<bool> {
        let attempt = self.attempt("context")?;
        attempt.saw_cancelled |= attempt.cancelled.is_cancelled();
        Ok(attempt.saw_cancelled)
    }

    fn progress(&mut self, done: u64, total: Option<u64>, note: String) -> wasmtime::Result<()> {
        let most = self.terms.limits.progress;
        let attempt = self.attempt("context")?;
        attempt.progress = attempt.progress.saturating_add(1);
        let said = attempt.progress;
        if said <= most {
            attempt.services.progress(Progress { done, total, note: sentence::cut(note, NOTE) });
        } else if said == most.saturating_add(1) {
            self.shared.log("warn", &format!("said its progress more than {most} times: the rest is not shown"), Vec::new());
        }
        Ok(())
    }
}

impl log::Host for Guest {
    fn log(&mut self, level: log::Level, message: String, fields: Vec<(String, String)>) -> wasmtime::Result<()> {
        let level = match level {
            log::Level::Trace => "trace",
            log::Level::Debug => "debug",
            log::Level::Info => "info",
            log::Level::Warn => "warn",
            log::Level::Error => "error",
        };
        self.shared.log(level, &message, fields);
        Ok(())
    }
}

impl spans::Host for Guest {
    fn start(&mut self, name: String, fields: Vec<(String, String)>) -> wasmtime::Result<u32> {
        self.attempt("spans")?;
        let Some(spans) = &self.shared.spans else { return Ok(0) };
        let number = spans.start(&name, fields);
        self.hold_spans()?;
        Ok(number)
    }

    fn event(&mut self, span: u32, name: String, fields: Vec<(String, String)>) -> wasmtime::Result<()> {
        self.attempt("spans")?;
        let Some(spans) = &self.shared.spans else { return Ok(()) };
        spans.event(span, &name, fields);
        self.hold_spans()
    }

    fn end(&mut self, span: u32, error: Option<String>) -> wasmtime::Result<()> {
        self.attempt("spans")?;
        let Some(spans) = &self.shared.spans else { return Ok(()) };
        spans.end(span, error.as_deref());
        self.hold_spans()
    }
}

impl Guest {
    /// Counts the texts of the spans as memory of the attempt.
    fn hold_spans(&mut self) -> wasmtime::Result<()> {
        let shared = Arc::clone(&self.shared);
        let bytes = shared.spans.as_ref().map_or(0, |spans| spans.bytes());
        match &mut self.attempt("spans")?.spans_held {
            Some(held) => held.reach(bytes)?,
            held @ None => *held = Some(Held::take(&shared, bytes)?),
        }
        Ok(())
    }
}

impl children::Host for Guest {
    fn enqueue(&mut self, task: children::NewTask) -> wasmtime::Result<Result<String, EnqueueError>> {
        let (terms, shared) = (Arc::clone(&self.terms), Arc::clone(&self.shared));
        let attempt = self.attempt("children")?;
        let (answer, bytes) = (attempt.enqueue(&terms, task), attempt.children_bytes + attempt.children.len() * CHILD);
        match &mut attempt.children_held {
            Some(held) => held.reach(bytes)?,
            held @ None => *held = Some(Held::take(&shared, bytes)?),
        }
        if let Err(EnqueueError::Denied(why)) = &answer {
            self.shared.deny(why.clone());
        }
        Ok(answer)
    }
}

impl Attempt {
    /// Fixes the child's id. The child is enqueued when this attempt's success is recorded.
    fn enqueue(&mut self, terms: &Terms, asked: children::NewTask) -> Result<String, EnqueueError> {
        let limits = &terms.limits;
        if self.children.len() >= limits.children {
            return Err(EnqueueError::TooMany(format!("an attempt may enqueue {} tasks; let a child enqueue the rest", limits.children)));
        }
        let bytes = asked.args.len() + asked.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        if self.children_bytes + bytes > limits.children_bytes {
            let limit = units::show_size(limits.children_bytes as u64);
            return Err(EnqueueError::TooMany(format!("the tasks that an attempt enqueues may have {limit} of arguments together")));
        }
        let child = child(asked, limits.payload, &self.about.queue).map_err(EnqueueError::Invalid)?;
        self.may_enqueue(terms, &child)?;
        let id = child.id.to_string();
        self.children_bytes += bytes;
        self.children.push(child);
        Ok(id)
    }
}

impl Attempt {
    fn may_enqueue(&self, terms: &Terms, child: &NewTask) -> Result<(), EnqueueError> {
        let (plugin, name, queue) = (&terms.plugin, child.name.as_str(), child.queue.as_str());
        if child.name.is_reserved() {
            return Err(EnqueueError::Denied(format!("denied: only the host itself enqueues `{name}`, whatever the policy grants")));
        }
        let Some(grant) = &terms.grants.enqueue else {
            return Err(EnqueueError::Denied(format!(
                "denied: enqueueing is not granted; to allow it: `[plugins.{plugin}] enqueue = [\"{name}\"]`"
            )));
        };
        if !grant.allows_task(name) {
            return Err(EnqueueError::Denied(format!(
                "denied: enqueueing `{name}` is not granted; to allow it add \"{name}\" to the tasks in `enqueue` of [plugins.{plugin}]"
            )));
        }
        if !grant.allows_queue(queue, self.about.queue.as_str()) {
            return Err(EnqueueError::Denied(format!(
                "denied: enqueueing into queue `{queue}` is not granted; to allow it: `[plugins.{plugin}] enqueue = {{ tasks = [\"{name}\"], \
                 queues = [\"{queue}\"] }}`"
            )));
        }
        match &grant.rate {
            Some(rate) if !rate.take() => Err(EnqueueError::TooMany(format!(
                "the attempts of this plugin may enqueue {} tasks in {} on one worker: come again later",
                rate.count,
                units::duration_in_words(rate.span)
            ))),
            _ => Ok(()),
        }
    }
}

/// A child without a queue of its own goes to the queue of its parent.
fn child(asked: children::NewTask, payload: usize, queue: &QueueName) -> Result<NewTask, String> {
    let name = TaskName::new(&asked.task).map_err(|error| error.to_string())?;
    if asked.args.len() > payload {
        return Err(format!(
            "arguments of {} are over the limit of {}",
            units::show_size(asked.args.len() as u64),
            units::show_size(payload as u64)
        ));
    }
    let args = json::compact(asked.args).map_err(|error| format!("the arguments of `{name}` are not JSON: {error}"))?;
    if !args.starts_with('[') {
        return Err(format!("the arguments of `{name}` are not a JSON array: `{}`", sentence::line(&args, 64)));
    }
    if asked.headers.len() > HEADERS {
        return Err(format!("a task may have {HEADERS} headers"));
    }
    let mut child = NewTask::new(name, args);
    child.queue = asked.queue.map_or_else(|| Ok(queue.clone()), QueueName::new).map_err(|error| error.to_string())?;
    if let Some(id) = asked.id {
        child.id = TaskId::new(id).map_err(|error| error.to_string())?;
    }
    if let Some(priority) = asked.priority {
        child.options.priority = Priority::new(priority).ok_or_else(|| format!("a priority is a number from 0 to 9: `{priority}`"))?;
    }
    if asked.delay_ms > 0 {
        child.start = Start::In(Duration::from_millis(asked.delay_ms));
    }
    for (name, value) in asked.headers {
        let valid = (1..=128).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if !valid {
            return Err(format!("a header's name has 1 to 128 characters of A-Z a-z 0-9 - _ .: `{}`", sentence::line(&name, 64)));
        }
        child.options.headers.push((name.to_ascii_lowercase(), value));
    }
    Ok(child)
}

impl From<ServiceError> for KvError {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::Invalid(text) => Self::Invalid(text),
            ServiceError::Full(text) => Self::Quota(text),
            ServiceError::Unavailable(text) => Self::Unavailable(text),
        }
    }
}

fn check_key(key: &str) -> Result<(), KvError> {
    if (1..=KEY).contains(&key.len()) { Ok(()) } else { Err(KvError::Invalid(format!("a key has 1 to {KEY} bytes, not {}", key.len()))) }
}

impl Guest {
    /// The services if kv is granted; else the denial, which is remembered.
    fn kv(&mut self) -> wasmtime::Result<Result<&Attempt, KvError>> {
        self.attempt("kv")?;
        if self.terms.grants.kv.is_none() {
            let why = format!("denied: kv is not granted; to allow it: `[plugins.{}] kv = true`", self.terms.plugin);
            self.shared.deny(why.clone());
            return Ok(Err(KvError::Denied(why)));
        }
        Ok(Ok(self.attempt("kv")?))
    }
}

/// The attempt that may use kv, or the answer for one that may not.
macro_rules! granted {
    ($guest:expr) => {
        match $guest.kv()? {
            Ok(attempt) => attempt,
            Err(denied) => return Ok(Err(denied)),
        }
    };
}

impl kv::Host for Guest {
    async fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<Vec<u8>>, KvError>> {
        let services = &granted!(self).services;
        if let Err(error) = check_key(&key) {
            return Ok(Err(error));
        }
        Ok(services.kv_get(&key).await.map_err(Into::into))
    }

    async fn set(&mut self, key: String, value: Vec<u8>) -> wasmtime::Result<Result<(), KvError>> {
        let limit = self.terms.limits.payload;
        let attempt = granted!(self);
        if let Err(error) = check_key(&key) {
            return Ok(Err(error));
        }
        if value.len() > limit {
            let (size, limit) = (units::show_size(value.len() as u64), units::show_size(limit as u64));
            return Ok(Err(KvError::Quota(format!("a value may have {limit}, not {size}"))));
        }
        let services = Arc::clone(&attempt.services);
        let _held = Held::take(&self.shared, value.len())?;
        Ok(services.kv_set(&key, value).await.map_err(Into::into))
    }

    async fn remove(&mut self, key: String) -> wasmtime::Result<Result<bool, KvError>> {
        let services = &granted!(self).services;
        if let Err(error) = check_key(&key) {
            return Ok(Err(error));
        }
        Ok(services.kv_remove(&key).await.map_err(Into::into))
    }

    async fn increment(&mut self, key: String, by: i64) -> wasmtime::Result<Result<i64, KvError>> {
        let services = &granted!(self).services;
        if let Err(error) = check_key(&key) {
            return Ok(Err(error));
        }
        Ok(services.kv_increment(&key, by).await.map_err(Into::into))
    }

    async fn keys(&mut self, prefix: String, after: Option<String>, limit: u32) -> wasmtime::Result<Result<Vec<String>, KvError>> {
        let services = &granted!(self).services;
        if prefix.len() > KEY || after.as_ref().is_some_and(|after| after.len() > KEY) {
            return Ok(Err(KvError::Invalid(format!("a prefix, like a key, has at most {KEY} bytes"))));
        }
        let limit = limit.min(KEYS) as usize;
        Ok(services.kv_keys(&prefix, after.as_deref(), limit).await.map_err(Into::into))
    }
}
