//! `flow` and `signal`: checks, runs, lists, shows and steers flows.

use std::{
    io::{self, IsTerminal, Read, Write},
    time::Duration,
};

use clap::{Args, Subcommand};
use serde_json::Value;

use super::{
    enqueue::{Limit, optional_time},
    enqueue_notes::note_unchecked,
    failure::Failure,
    flow_text,
    output::{self, Rows, cell},
    shared_args::pair,
    traced,
};
use crate::{
    config::Settings,
    ops::{Ask, Checks, FlowOrder, FlowView, Ops, StartedFlow, Unchecked, check_flow, has_succeeded, read_flow},
};
use taskhost_core::{
    task::{QueueName, TaskId},
    units,
};

/// The width of the progress bar.
const BAR: u32 = 30;

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:\n  taskhost flow run order.json --input '{\"id\": 7}' --wait\n  taskhost flow show 0199c0de-…")]
pub(super) enum FlowCommand {
    /// Check a flow file, and show its steps, without running it
    #[command(after_help = "Example:\n  taskhost flow check order.toml")]
    Check(CheckArgs),
    /// Start a flow
    #[command(after_help = "Example:\n  taskhost flow run order.json --input '{\"id\": 7}' --wait 10m")]
    Run(RunArgs),
    /// List flows: first those that go on, the newest first
    List(ListArgs),
    /// Show a flow with its steps
    #[command(
        after_help = "Examples:\n  taskhost flow show 0199c0de-… --watch\n  taskhost flow show 0199c0de-… --dot | dot -Tsvg > order.svg"
    )]
    Show(ShowArgs),
    /// Stop a flow, and undo what has succeeded
    Cancel(OneArgs),
    /// Start nothing more of a flow; running tasks go on
    Pause(OneArgs),
    /// Let a paused flow go on
    Resume(OneArgs),
    /// Run what failed in a flow again, and what it blocked
    #[command(after_help = "Examples:\n  taskhost flow retry 0199c0de-…\n  taskhost flow retry 0199c0de-… bill")]
    Retry(RetryArgs),
}

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// A file of JSON or TOML; - for stdin
    file: String,
    /// Do not check tasks and arguments against what the workers offer
    #[arg(long)]
    unchecked: bool,
}

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// A file of JSON or TOML; - for stdin
    file: String,
    /// What its steps find under {"from": "input"}, as JSON
    #[arg(long, value_name = "JSON")]
    input: Option<String>,
    /// Your own id; start nothing if a flow with this id is still stored
    #[arg(long)]
    id: Option<TaskId>,
    /// The queue that it stands in, and of its tasks if neither they nor their bodies name one
    #[arg(long)]
    queue: Option<QueueName>,
    /// A header for each of its tasks (may be repeated)
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = pair)]
    headers: Vec<(String, String)>,
    /// Wait for the end, at most for TIME, and print the result instead of the id
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "", value_parser = optional_time)]
    wait: Option<Limit>,
    /// Start it without a check of tasks and arguments
    #[arg(long)]
    unchecked: bool,
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only flows in this queue
    #[arg(long)]
    queue: Option<QueueName>,
    /// The most flows to list
    #[arg(long, default_value_t = 50, value_name = "NUMBER")]
    limit: usize,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct OneArgs {
    /// The id that `flow run` printed
    id: TaskId,
    /// Look only in this queue
    #[arg(long)]
    queue: Option<QueueName>,
}

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    #[command(flatten)]
    one: OneArgs,
    /// Show it again whenever it has changed, until it has ended
    #[arg(long, short)]
    watch: bool,
    /// As JSON
    #[arg(long, conflicts_with = "watch")]
    json: bool,
    /// As a graph for Graphviz
    #[arg(long, conflicts_with_all = ["watch", "json"])]
    dot: bool,
}

#[derive(Debug, Args)]
pub(super) struct RetryArgs {
    #[command(flatten)]
    one: OneArgs,
    /// Only this step, and what it blocked
    step: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  taskhost signal 0199c0de-… approved '{\"yes\": true}'")]
pub(super) struct SignalArgs {
    /// The flow's id
    id: TaskId,
    /// The name of the signal
    name: String,
    /// Its value, as JSON
    #[arg(default_value = "null")]
    value: String,
    /// Look only in this queue
    #[arg(long)]
    queue: Option<QueueName>,
}

pub(super) async fn call(command: FlowCommand, settings: &Settings) -> Result<(), Failure> {
    match command {
        FlowCommand::Check(args) => check(&args, settings).await,
        FlowCommand::Run(args) => run(args, settings).await,
        FlowCommand::List(args) => list(&Ops::connect(settings).await?, &args).await,
        FlowCommand::Show(args) => show(&Ops::connect(settings).await?, &args).await,
        FlowCommand::Cancel(args) => ask(settings, &args, &Ask::Cancel, "is asked to stop").await,
        FlowCommand::Pause(args) => ask(settings, &args, &Ask::Pause, "is paused").await,
        FlowCommand::Resume(args) => ask(settings, &args, &Ask::Resume, "goes on").await,
        FlowCommand::Retry(RetryArgs { one, step }) => ask(settings, &one, &Ask::Retry(step), "runs again").await,
    }
}

pub(super) async fn signal(args: SignalArgs, settings: &Settings) -> Result<(), Failure> {
    let SignalArgs { id, name, value, queue } = args;
    check_signal(&name, &value)?;
    let limit = settings.bounds.payload_limit;
    if value.len() > limit {
        return Err(Failure::Usage(format!("the value has {} bytes, more than the payload limit of {limit}", value.len())));
    }
    let ops = Ops::connect(settings).await?;
    ops.ask_flow(queue.as_ref(), &id, &Ask::Signal { name: name.clone(), value }).await?;
    output::told(&format!("flow {id} has the signal `{name}`"))
}

fn check_signal(name: &str, value: &str) -> Result<(), Failure> {
    let fits = (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    if !fits {
        return Err(Failure::Usage(format!("the name of a signal has 1 to 64 characters of A-Z a-z 0-9 _ -: `{name}`")));
    }
    serde_json::from_str::<serde::de::IgnoredAny>(value)
        .map(drop)
        .map_err(|error| Failure::Usage(format!("the value of a signal is JSON, such as '{{\"yes\": true}}' or '\"text\"': {error}")))
}

async fn check(args: &CheckArgs, settings: &Settings) -> Result<(), Failure> {
    let flow = read(&args.file)?;
    let ops = Ops::connect(settings).await?;
    let checks = ops.checks(None, args.unchecked).await?;
    let plan = check_flow(&flow, &checks)?;
    note_unchecked(&checks, "the flow is checked");
    output::line(&format!("flow `{}` can run: {} steps", plan.name, plan.steps.len()))
}

/// The flow in a file, or on stdin. A wrong one is told without a broker.
fn read(file: &str) -> Result<Value, Failure> {
    let mut bytes = Vec::new();
    let done =
        if file == "-" { io::stdin().lock().read_to_end(&mut bytes).map(drop) } else { std::fs::read(file).map(|read| bytes = read) };
    done.map_err(|error| Failure::Usage(format!("can't read `{file}`: {error}")))?;
    let text = String::from_utf8(bytes).map_err(|_| Failure::Usage(format!("`{file}` is not UTF-8 text: a flow is JSON or TOML")))?;
    let checked = read_flow(&text).and_then(|flow| check_flow(&flow, &Checks::No(Unchecked::Wanted)).map(|_| flow));
    checked.map_err(|error| Failure::from(error).and(&format!("in `{}`", output::clean(file))))
}

async fn run(args: RunArgs, settings: &Settings) -> Result<(), Failure> {
    let flow = read(&args.file)?;
    let input = args.input.unwrap_or_else(|| "null".to_owned());
    serde_json::from_str::<serde::de::IgnoredAny>(&input)
        .map_err(|error| Failure::Usage(format!("--input is JSON, such as '{{\"id\": 7}}' or '\"text\"': {error}")))?;
    let ops = Ops::connect(settings).await?;
    let mut headers = args.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect();
    taskhost_core::trace::inherit(&mut headers, &traced::of_environment());
    let order = FlowOrder { flow, input, id: args.id, queue: args.queue, headers };
    start(&ops, order, args.wait, args.unchecked).await
}

/// Starts a flow. Prints its id, or waits and prints its result.
pub(super) async fn start(ops: &Ops, mut order: FlowOrder, wait: Option<Limit>, is_unchecked: bool) -> Result<(), Failure> {
    let checks = ops.checks(None, is_unchecked).await?;
    order.prepare(&checks)?;
    let StartedFlow { id, queue, is_new } = ops.start_flow(order).await?;
    note_unchecked(&checks, &format!("flow `{id}` is started"));
    if !is_new {
        output::note(&format!("taskhost: flow `{id}` is known, so nothing was started"));
    }
    let Some(Limit(limit)) = wait else { return output::told(id.as_str()) };
    let ended = watch_bar(ops, &queue, &id, limit).await.map_err(|failure| match failure {
        Failure::Broker(_) => failure.and(&format!("flow `{id}` is started; `taskhost flow show {id} --watch` goes on watching")),
        other => other,
    })?;
    result(&ended)
}

fn result(view: &FlowView) -> Result<(), Failure> {
    let id = &view.line.id;
    if view.line.ended_at.is_none() {
        let text = format!("flow `{id}` has not ended: {}; `taskhost flow show {id} --watch` goes on watching", flow_text::progress(view));
        return Err(Failure::TimedOut(text));
    }
    if has_succeeded(view) {
        return output::json_text(view.result.as_deref().map_or("null", serde_json::value::RawValue::get));
    }
    let why = view.line.why.as_deref().unwrap_or("it was stopped");
    let text = format!("flow `{id}` is {}: {why}\n  `taskhost flow show {id}` shows its steps", view.line.state.as_str());
    Err(Failure::Task(text))
}

/// Waits for the end with a bar on a terminal.
async fn watch_bar(ops: &Ops, queue: &QueueName, id: &TaskId, limit: Option<Duration>) -> Result<FlowView, Failure> {
    let is_shown = io::stderr().is_terminal();
    let ended = ops
        .await_flow(queue, id, limit, |view| {
            if is_shown {
                let sum = &view.progress;
                let done = (sum.succeeded + sum.failed + sum.skipped).min(sum.total);
                let filled = (BAR * done / sum.total.max(1)) as usize;
                let bar = format!("{}{}", "█".repeat(filled), "░".repeat(BAR as usize - filled));
                let _nobody_sees_it = write!(io::stderr(), "\r\u{1b}[K{bar} {}", flow_text::progress(view));
            }
        })
        .await;
    if is_shown {
        let _nobody_sees_it = write!(io::stderr(), "\r\u{1b}[K");
    }
    Ok(ended?)
}

async fn list(ops: &Ops, args: &ListArgs) -> Result<(), Failure> {
    let flows = ops.flows(args.queue.as_ref(), args.limit).await?;
    if args.json {
        return output::json(&flows);
    }
    let now = ops.now().await?;
    let mut rows = Rows::new(&["ID", "NAME", "QUEUE", "STATE", "NODES", "AGE", "WHY"]);
    for line in &flows {
        let state = if line.paused.is_some() { format!("{} (paused)", line.state.as_str()) } else { line.state.as_str().to_owned() };
        rows.add(vec![
            cell(&line.id),
            cell(&line.name),
            cell(&line.queue),
            cell(state),
            cell(line.nodes),
            cell(units::age(line.ended_at.unwrap_or(line.started_at), now)),
            cell(output::short(line.why.as_deref().unwrap_or_default(), 80)),
        ]);
    }
    rows.print("taskhost: no flow; `taskhost flow run FILE` starts one")
}

async fn show(ops: &Ops, args: &ShowArgs) -> Result<(), Failure> {
    let OneArgs { id, queue } = &args.one;
    let view = ops.flow(queue.as_ref(), id).await?;
    if args.json {
        return output::json(&view);
    }
    if args.dot {
        return output::line(&flow_text::dot(&view));
    }
    let now = ops.now().await?;
    if !args.watch {
        return output::line(&flow_text::drawn(&view, now));
    }
    let queue = view.line.queue.clone();
    let (is_terminal, mut drawn, mut failed) = (io::stdout().is_terminal(), 0, None);
    ops.await_flow(&queue, id, None, |view| {
        if failed.is_some() {
            return;
        }
        let text = flow_text::drawn(view, now);
        if is_terminal && drawn > 0 {
            // Over the last drawing.
            let _nobody_sees_it = write!(io::stdout(), "\u{1b}[{drawn}A\u{1b}[J");
        }
        drawn = text.lines().count();
        failed = output::line(&text).err();
    })
    .await?;
    failed.map_or(Ok(()), Err)
}

async fn ask(settings: &Settings, one: &OneArgs, ask: &Ask, done: &str) -> Result<(), Failure> {
    let ops = Ops::connect(settings).await?;
    let view = ops.ask_flow(one.queue.as_ref(), &one.id, ask).await?;
    output::told(&format!("flow {} {done}; it is {}", one.id, view.line.state.as_str()))
}
