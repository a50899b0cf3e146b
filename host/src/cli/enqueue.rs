//! `enqueue`: builds a task from the command line, and checks it against the catalogue.
//!
//! words → the catalogue's parameters → [`NewTask`] → broker → the id, or with `--wait` the result, on stdout.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::Args;
use serde_json::{Value, json};

use super::{
    bulk,
    enqueue_notes::{duplicate, note_unchecked},
    failure::Failure,
    flow, output,
    shared_args::{Arguments, Wishes, pair},
    traced, wait,
};
use crate::{
    config::Settings,
    ops::{Checks, Defaults, Enqueued, FlowOrder, Ops, OpsError, Wanted},
    telemetry::traces::Traces,
};
use taskhost_core::{
    catalogue::Given,
    task::{Millis, NewTask, Priority, Start, TaskId, TaskName, TaskOptions},
    trace, units,
};

/// Options of a single task that a chain of tasks does not take.
const BY_ITSELF: [&str; 8] = ["delay", "at", "expires", "unique", "bulk", "result_ttl", "no_result", "unique_key"];

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  taskhost enqueue add 1 1 --wait
  taskhost enqueue add 1 1 --then echo --else alert
  taskhost enqueue transferBU --in 10m --unique 1h
  taskhost enqueue --bulk tasks.ndjson      # lines like {\"task\": \"add\", \"args\": [1, 1]}")]
pub(super) struct EnqueueArgs {
    /// The task's name, as `taskhost plugin list` shows it
    #[arg(required_unless_present = "bulk")]
    task: Option<TaskName>,
    #[command(flatten)]
    arguments: Arguments,
    /// Start after this delay, such as 5m
    #[arg(long = "in", value_name = "TIME", value_parser = units::duration, conflicts_with = "at")]
    delay: Option<Duration>,
    /// Start at this time or later (RFC 3339, or seconds since 1970)
    #[arg(long, value_name = "TIME", value_parser = units::instant)]
    at: Option<Millis>,
    /// Cancel it if it has not started by this time, or within a duration such as 10m
    #[arg(long, value_name = "TIME", value_parser = units::start)]
    expires: Option<Start>,
    #[command(flatten)]
    wishes: Wishes,
    /// Enqueue nothing while a task of the same name and arguments has not ended; at most for this time after its start time
    #[arg(long, value_name = "TIME", value_parser = units::positive_duration)]
    unique: Option<Duration>,
    /// The key that --unique compares, instead of name and arguments
    #[arg(long, value_name = "KEY", requires = "unique")]
    unique_key: Option<String>,
    /// Your own id; enqueue nothing if a task with this id is still stored
    #[arg(long)]
    id: Option<TaskId>,
    /// A header for the body (may be repeated)
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = pair)]
    headers: Vec<(String, String)>,
    /// Keep the result for this time
    #[arg(long, value_name = "TIME", value_parser = units::positive_duration)]
    result_ttl: Option<Duration>,
    /// Keep no result
    #[arg(long, conflicts_with = "result_ttl")]
    no_result: bool,
    /// Wait for the end, at most for TIME, and print the result instead of the id
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "", value_parser = optional_time)]
    wait: Option<Limit>,
    /// Run this task with the result, once the task before has succeeded (may be repeated); `NAME=[ARGS]` gives it other arguments
    #[arg(long = "then", value_name = "NAME", value_parser = follower, conflicts_with_all = BY_ITSELF)]
    then: Vec<Follower>,
    /// Run this task with the error, if any of them fails
    #[arg(long = "else", value_name = "NAME", value_parser = follower, conflicts_with_all = BY_ITSELF)]
    otherwise: Option<Follower>,
    /// Enqueue without a check, also a task that no plugin offers yet
    #[arg(long)]
    unchecked: bool,
    /// Enqueue each line of FILE (- for stdin), and print the ids
    #[arg(long, value_name = "FILE", conflicts_with_all = ["task", "wait", "id", "unique_key", "args_json", "named"])]
    bulk: Option<String>,
    /// With --bulk: write refused lines with the reason to FILE, to mend and enqueue them later
    #[arg(long, value_name = "FILE")]
    rejected: Option<PathBuf>,
    /// The same words, read with the word behind `--wait` as its limit.
    #[arg(skip)]
    pub(super) joined: Option<Box<EnqueueArgs>>,
}

/// The words with `--wait 30s` written as `--wait=30s`; `None` if there is no such pair.
pub(super) fn with_wait_joined(words: &[OsString]) -> Option<Vec<OsString>> {
    let end = words.iter().position(|word| word == "--").unwrap_or(words.len());
    let is_limit = |word: &OsString| word.to_str().is_some_and(|text| text != "0" && units::duration(text).is_ok());
    let at = words[..end].windows(2).position(|pair| pair[0] == "--wait" && is_limit(&pair[1]))?;
    let mut joined = words.to_vec();
    let limit = joined.remove(at + 1);
    joined[at].push("=");
    joined[at].push(limit);
    Some(joined)
}

/// How long to wait: `--wait` waits without a limit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit(pub(super) Option<Duration>);

pub(super) fn optional_time(text: &str) -> Result<Limit, String> {
    if text.is_empty() { Ok(Limit(None)) } else { units::duration(text).map(|limit| Limit(Some(limit))) }
}

pub(super) async fn call(args: EnqueueArgs, settings: &Settings) -> Result<(), Failure> {
    let traces = Traces::from_environment().map_err(Failure::Usage)?;
    let done = enqueue(args, settings, traces.as_deref()).await;
    // After the answer is printed: a collector that is slow delays the end of this command only.
    if let Some(traces) = traces {
        traces.finish();
    }
    done
}

async fn enqueue(args: EnqueueArgs, settings: &Settings, traces: Option<&Traces>) -> Result<(), Failure> {
    // clap forgets a required option if that option conflicts with another word.
    if args.rejected.is_some() && args.bulk.is_none() {
        return Err(Failure::Usage("--rejected is for the lines of --bulk FILE: name that too, or leave this out".to_owned()));
    }
    let ops = Ops::connect(settings).await?;
    // By the broker's clock, which decides. Ours may be wrong.
    let now = if matches!(args.expires, Some(Start::In(_))) { ops.now().await? } else { Millis(0) };
    let defaults = args.defaults(now)?;
    if !args.then.is_empty() || args.otherwise.is_some() {
        return chain(&ops, args, settings).await;
    }
    if let Some(file) = &args.bulk {
        return bulk::call(&ops, file, args.rejected.as_deref(), &defaults, args.unchecked).await;
    }
    let checks = ops.checks(args.task.as_ref(), args.unchecked).await?;
    let args = args.with_limit_decided(&checks, settings.bounds.payload_limit)?;
    let Some(name) = &args.task else {
        return Err(Failure::Usage("name the task to enqueue, such as `taskhost enqueue add 1 1`".to_owned()));
    };
    let given = args.arguments.given(settings.bounds.payload_limit)?;
    note_unchecked(&checks, &format!("`{name}` is enqueued"));
    let mut task = NewTask { awaited: args.wait.is_some(), ..args.task(&defaults, name, &given, &checks)? };
    let id = match traced::enqueue(&ops, &mut task, traces).await? {
        Enqueued::Duplicate { holder } => {
            output::note(&duplicate(&task.id, &holder));
            holder
        }
        Enqueued::Added => task.id,
    };
    match args.wait {
        Some(Limit(limit)) => wait::for_result(&ops, Wanted { queue: Some(&task.queue), id: &id, limit, is_known: true }).await,
        None => output::told(id.as_str()),
    }
}

/// A task that follows another one, and its arguments if they are not the default ones.
#[derive(Debug, Clone)]
struct Follower {
    name: TaskName,
    args: Option<Value>,
}

fn follower(text: &str) -> Result<Follower, String> {
    let (name, args) = text.split_once('=').map_or((text, None), |(name, args)| (name, Some(args)));
    let args = args.map(serde_json::from_str::<Value>).transpose().map_err(|error| format!("the arguments are a JSON array: {error}"))?;
    if args.as_ref().is_some_and(|args| !args.is_array()) {
        return Err("the arguments are a JSON array, such as NAME=[1,2]".to_owned());
    }
    Ok(Follower { name: TaskName::new(name).map_err(|error| error.to_string())?, args })
}

/// Tasks that follow each other are a flow.
async fn chain(ops: &Ops, args: EnqueueArgs, settings: &Settings) -> Result<(), Failure> {
    let checks = ops.checks(args.task.as_ref(), args.unchecked).await?;
    let args = args.with_limit_decided(&checks, settings.bounds.payload_limit)?;
    let Some(name) = &args.task else {
        return Err(Failure::Usage("name the task to enqueue, such as `taskhost enqueue add 1 1 --then echo`".to_owned()));
    };
    let first = checks.check(name, &args.arguments.given(settings.bounds.payload_limit)?).map_err(OpsError::from)?;
    let options = args.wishes.options()?;
    let call = |task: &TaskName, args: Value| {
        let mut call = json!({ "task": task, "args": args });
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                call[name] = value;
            }
        };
        put("priority", Some(options.priority).filter(|priority| *priority != Priority::default()).map(|priority| json!(priority)));
        put("timeout", options.timeout.map(|time| units::show_duration(time).into()));
        put("retries", options.max_attempts.map(|most| most.saturating_sub(1).into()));
        put("tags", Some(&options.carried.tags).filter(|tags| !tags.is_empty()).map(|tags| json!(tags)));
        call
    };
    let first = serde_json::from_str(&first).map_err(|error| Failure::Failed(format!("arguments that are no JSON: {error}")))?;
    let mut steps = serde_json::Map::new();
    let mut last = "step1".to_owned();
    steps.insert(last.clone(), call(name, first));
    for Follower { name, args } in &args.then {
        let own = args.clone().unwrap_or_else(|| if checks.is_without_arguments(name) { json!([]) } else { json!([{ "from": last }]) });
        let mut step = call(name, own);
        step["after"] = json!([last]);
        last = format!("step{}", steps.len() + 1);
        steps.insert(last.clone(), step);
    }
    if let Some(Follower { name, args }) = &args.otherwise {
        let failed: Vec<&String> = steps.keys().collect();
        // The first of them that failed, or nothing.
        let why: Vec<Value> = failed.iter().map(|step| json!({ "failure": step })).collect();
        let own = args.clone().unwrap_or_else(|| if checks.is_without_arguments(name) { json!([]) } else { json!([why]) });
        let mut step = call(name, own);
        step["after"] = json!(failed);
        step["on"] = json!("failure");
        steps.insert("otherwise".to_owned(), step);
    }
    let mut headers = args.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect();
    trace::inherit(&mut headers, &traced::of_environment());
    let flow = json!({ "flow": 1, "name": "chain", "steps": steps });
    let order = FlowOrder { flow, input: "null".to_owned(), id: args.id, queue: args.wishes.queue, headers };
    flow::start(ops, order, args.wait, args.unchecked).await
}

impl EnqueueArgs {
    /// Decides whether the word behind `--wait` is its limit or an argument, by the arguments that the body takes.
    fn with_limit_decided(mut self, checks: &Checks, payload_limit: usize) -> Result<Self, Failure> {
        let Some(joined) = self.joined.take() else { return Ok(self) };
        let takes = |args: &Self| -> Result<bool, Failure> {
            let given = args.arguments.given(payload_limit)?;
            Ok(args.task.as_ref().is_some_and(|name| checks.takes(name, &given)))
        };
        let limit = joined.wait.and_then(|Limit(limit)| limit).map_or_else(String::new, units::show_duration);
        match (takes(&self)?, takes(&joined)?) {
            (true, false) => {
                output::note(&format!(
                    "taskhost: `{limit}` is taken as an argument, for the body wants it; a limit is written `--wait={limit}`"
                ));
                Ok(self)
            }
            // Wrong in both readings: the error speaks of the more likely one.
            (false, _) if matches!(checks, Checks::Against(_)) => Ok(*joined),
            _ => Err(Failure::Usage(format!(
                "`--wait {limit}` may be a limit or an argument here: write `--wait={limit}` for the limit, or put the argument before `--wait`"
            ))),
        }
    }

    fn defaults(&self, now: Millis) -> Result<Defaults, Failure> {
        let mut headers = self.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect();
        trace::inherit(&mut headers, &traced::of_environment());
        Ok(Defaults {
            queue: self.wishes.queue.clone(),
            start: match (self.delay, self.at) {
                (Some(delay), _) => Start::In(delay),
                (None, Some(at)) => Start::At(at),
                (None, None) => Start::Now,
            },
            expires: self.expires.and_then(|start| match start {
                Start::Now => None,
                Start::In(time) => Some(now.after(time)),
                Start::At(at) => Some(at),
            }),
            unique: self.unique,
            options: TaskOptions {
                result_ttl: if self.no_result { Some(Duration::ZERO) } else { self.result_ttl },
                headers,
                ..self.wishes.options()?
            },
        })
    }

    fn task(&self, defaults: &Defaults, name: &TaskName, given: &Given, checks: &Checks) -> Result<NewTask, Failure> {
        let args = checks.check(name, given).map_err(OpsError::from)?;
        let mut task = defaults.task(name, args, checks);
        if let Some(id) = &self.id {
            task.id = id.clone();
        }
        if let (Some(unique), Some(key)) = (&mut task.unique, &self.unique_key) {
            unique.key.clone_from(key);
        }
        Ok(task)
    }
}
