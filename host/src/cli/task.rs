//! `task`: lists and shows tasks and their logs; cancels, retries and deletes them, by id or by filter.
//!
//! Invariant: tasks that a filter chose are counted, and a person agrees, before anything changes.

use std::{collections::HashSet, time::Duration};

use clap::{Args, Subcommand};

use super::{
    ask,
    failure::Failure,
    output::{self, Rows, Sink, cell},
    shared_args::OptionFilterWords,
    wait,
};
use crate::{config::Settings, engine::LogLine};
use taskhost_broker::{Broker, CancelReply, DeleteReply, RetryReply, TaskFilter, Tasks};
use taskhost_core::units;
use taskhost_core::{
    task::{Carried, QueueName, State, TaskId, TaskName, TaskView},
    text::clean_json,
};

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:\n  taskhost task list --state dead\n  taskhost task retry --state dead --task transferBU --older 1h")]
pub(super) enum TaskCommand {
    /// List tasks: running first, then waiting, then ended
    List(ListArgs),
    /// Show all that is known of a task
    Show(OneArgs),
    /// Show what a task's body logged
    Logs(OneArgs),
    /// Keep waiting tasks from running, and stop running ones
    Cancel(ManyArgs),
    /// Run dead or cancelled tasks again, and delayed ones at once
    Retry(ManyArgs),
    /// Delete tasks that do not run
    Delete(ManyArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  taskhost task list --state dead,cancelled --task add --older 1d")]
pub(super) struct ListArgs {
    #[command(flatten)]
    filter: Filter,
    /// At most so many
    #[arg(long, default_value_t = 50, value_name = "NUMBER")]
    limit: usize,
    /// As JSON, with everything that is known of each
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  taskhost task show 0199c0de-… --json")]
pub(super) struct OneArgs {
    /// The id that `enqueue` printed
    id: TaskId,
    /// Look in this queue only
    #[arg(long)]
    queue: Option<QueueName>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  taskhost task cancel 0199c0de-…\n  taskhost task delete --state dead --error http-404 --yes")]
pub(super) struct ManyArgs {
    /// Ids that `enqueue` printed; or choose by the filters below
    ids: Vec<TaskId>,
    #[command(flatten)]
    filter: Filter,
    /// Do not ask before changing what the filters chose
    #[arg(long, short)]
    yes: bool,
}

#[derive(Debug, Args)]
struct Filter {
    /// Only in these states: scheduled, ready, parked, running, succeeded, dead, cancelled
    #[arg(long, value_delimiter = ',', value_name = "STATE")]
    state: Vec<State>,
    /// Only of this name
    #[arg(long, value_name = "NAME")]
    task: Option<TaskName>,
    /// Only in this queue
    #[arg(long)]
    queue: Option<QueueName>,
    /// Only whose error's kind, code or message contains this
    #[arg(long, value_name = "TEXT")]
    error: Option<String>,
    /// Only those that ended so long ago, such as 1d; if they have not ended: were due, else enqueued
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    older: Option<Duration>,
    #[command(flatten)]
    options: OptionFilterWords,
}

/// How many tasks a page of a listing has.
const PAGE: usize = 500;

pub(super) async fn call(command: TaskCommand, settings: &Settings) -> Result<(), Failure> {
    let broker = ask::broker(settings).await?;
    match command {
        TaskCommand::List(args) => list(&*broker, args).await,
        TaskCommand::Show(args) => show(&*broker, &args).await,
        TaskCommand::Logs(args) => logs(&*broker, &args).await,
        TaskCommand::Cancel(args) => change(&*broker, args, Change::Cancel).await,
        TaskCommand::Retry(args) => change(&*broker, args, Change::Retry).await,
        TaskCommand::Delete(args) => change(&*broker, args, Change::Delete).await,
    }
}

async fn list(broker: &dyn Broker, args: ListArgs) -> Result<(), Failure> {
    let filter = args.filter.filter();
    let (mut tasks, more) = pages(broker, &filter, args.limit).await?;
    if more {
        output::note(&format!("taskhost: there are more; --limit {} shows more of them", args.limit.saturating_mul(10)));
    }
    ask::what_they_wait_for(broker, &mut tasks).await?;
    if args.json {
        return output::json(&tasks);
    }
    let now = broker.now().await?;
    // An option has a column if a listed task has it.
    let shown: Vec<_> = tasks.iter().map(|view| view.options.carried.shown()).collect();
    let has = |name: &str| shown.iter().flatten().any(|(other, value)| *other == name && !value.is_empty());
    let columns: Vec<_> = Carried::NAMES.into_iter().filter(|name| has(name)).map(str::to_uppercase).collect();
    let mut heads = vec!["ID", "TASK", "QUEUE", "STATE", "TRIES", "AGE", "WHAT"];
    heads.extend(columns.iter().map(String::as_str));
    let mut rows = Rows::new(&heads);
    for (view, shown) in tasks.iter().zip(&shown) {
        let mut row = vec![
            cell(&view.id),
            cell(&view.task),
            cell(&view.queue),
            output::state(view.state),
            cell(view.tries),
            cell(output::age(view.ended_at.unwrap_or(view.enqueued_at), now)),
            cell(output::short(&output::gist(view, now), 80)),
        ];
        row.extend(shown.iter().filter(|(name, _)| has(name)).map(|(_, value)| cell(value)));
        rows.add(row);
    }
    rows.print("taskhost: no such task")
}

/// At most `limit` tasks, and whether there are more.
async fn pages(broker: &dyn Tasks, filter: &TaskFilter, limit: usize) -> Result<(Vec<TaskView>, bool), Failure> {
    let mut tasks = Vec::new();
    let mut from = None;
    while tasks.len() < limit {
        let page = broker.list(filter, from.as_deref(), PAGE.min(limit - tasks.len())).await?;
        tasks.extend(page.tasks);
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    Ok((tasks, from.is_some()))
}

async fn show(broker: &dyn Broker, args: &OneArgs) -> Result<(), Failure> {
    let mut view = ask::find(broker, args.queue.as_ref(), &args.id).await?;
    ask::what_they_wait_for(broker, std::slice::from_mut(&mut view)).await?;
    if args.json {
        return output::json(&view);
    }
    let at = output::instant;
    let mut lines = vec![
        format!("id        {}", view.id),
        format!("task      {}", view.task),
        format!("queue     {}", view.queue),
        format!("state     {}{}", view.state, if view.cancel_asked { " (cancel asked)" } else { "" }),
        format!("args      {}", output::short(view.args.get(), 2_000)),
        format!("priority  {}", view.options.priority.get()),
        format!("tries     {}{}", view.tries, view.options.max_attempts.map_or_else(String::new, |most| format!(" of {most}"))),
        format!("enqueued  {}", at(view.enqueued_at)),
    ];
    let times = [("due", view.due_at), ("expires", view.expires_at), ("started", view.started_at), ("ended", view.ended_at)];
    lines.extend(times.into_iter().filter_map(|(name, time)| Some(format!("{name:<9} {}", at(time?)))));
    let code = view.plugin.as_ref().map(|plugin| {
        let digest = view.digest.as_deref().map_or("", |digest| digest.get(..12).unwrap_or(digest));
        format!("{plugin} {} ({digest})", view.version.as_deref().unwrap_or_default())
    });
    let texts = [("worker", view.worker.clone()), ("plugin", code)];
    lines.extend(texts.into_iter().filter_map(|(name, text)| Some(format!("{name:<9} {}", output::clean(&text?)))));
    if view.state == State::Parked {
        lines.push(format!("waits     {}", output::gist(&view, view.enqueued_at).trim_start_matches("waiting ")));
    }
    if let Some(progress) = &view.progress {
        let of = progress.total.map_or_else(String::new, |total| format!(" of {total}"));
        lines.push(format!("progress  {}{of} {}", progress.done, output::clean(&progress.note)));
    }
    let carried = view.options.carried.shown().into_iter().filter(|(_, value)| !value.is_empty());
    lines.extend(carried.map(|(name, value)| format!("{name:<9} {}", output::clean(&value))));
    lines.extend(view.options.headers.iter().map(|(name, value)| format!("header    {}: {}", output::clean(name), output::clean(value))));
    if let Some(result) = &view.result {
        lines.push(format!("result    {}", clean_json(&one_line(result.get()))));
    }
    if view.error.is_some() || !view.errors.is_empty() {
        lines.push(wait::report(&view));
    }
    output::line(&lines.join("\n"))
}

async fn logs(broker: &dyn Tasks, args: &OneArgs) -> Result<(), Failure> {
    let log = broker.log(args.queue.as_ref(), &args.id).await?;
    let log = log.ok_or_else(|| ask::no_such_task(args.queue.as_ref(), &args.id))?;
    let log = log.trim_end();
    if log.is_empty() {
        output::note("taskhost: it logged nothing, or its attempt has not ended");
        return Ok(());
    }
    if args.json {
        return output::json_text(log);
    }
    for text in log.lines() {
        match serde_json::from_str::<LogLine>(text) {
            Ok(line) => output::line(&log_line(&line))?,
            // The first line of a log that was cut to its limit.
            Err(_) => output::line(&output::clean(text))?,
        }
    }
    Ok(())
}

/// JSON on one line. Between tokens, spaces replace line ends.
fn one_line(json: &str) -> String {
    json.replace(['\n', '\t'], " ")
}

/// One line of a body's log, for people. Further lines of its message are indented, so that none passes for another log line.
pub(super) fn log_line(line: &LogLine) -> String {
    let mut words = vec![line.message.trim_end().replace('\n', "\n    ")];
    words.extend(line.fields.iter().map(|(name, value)| format!("{}={}", output::clean(name), output::clean(value))));
    format!("{} #{} {:>6} {}", output::instant(line.at), line.attempt, line.level, words.join(" "))
}

#[derive(Debug, Clone, Copy)]
enum Change {
    Cancel,
    Retry,
    Delete,
}

impl Change {
    fn verb(self) -> &'static str {
        match self {
            Self::Cancel => "Cancel",
            Self::Retry => "Retry",
            Self::Delete => "Delete",
        }
    }

    /// Whether the change applies to this state.
    fn fits(self, state: State) -> bool {
        match self {
            Self::Cancel => !state.is_ended(),
            Self::Retry => matches!(state, State::Dead | State::Cancelled | State::Scheduled),
            Self::Delete => state != State::Running,
        }
    }

    /// Says that the change does not apply to the chosen tasks, and what to do.
    fn unfit(self, states: &[State]) -> String {
        let counts = State::ALL.into_iter().filter_map(|state| {
            let count = states.iter().filter(|of| **of == state).count();
            (count > 0).then(|| format!("{count} {state}"))
        });
        let why = match self {
            Self::Cancel => "what has ended can't be cancelled",
            Self::Retry => "only dead, cancelled and delayed tasks are retried",
            Self::Delete => "what runs is deleted after `taskhost task cancel` has stopped it",
        };
        format!("left as they are: {}; {why}", counts.collect::<Vec<_>>().join(", "))
    }

    /// Changes one task. Returns the outcome, or `Err` with the reason why it stayed the same.
    async fn apply(self, broker: &dyn Tasks, queue: &QueueName, id: &TaskId) -> Result<Result<&'static str, String>, Failure> {
        Ok(match self {
            Self::Cancel => match broker.cancel(queue, id).await? {
                CancelReply::Cancelled => Ok("cancelled"),
                CancelReply::Asked => Ok("asked to stop"),
                CancelReply::AlreadyEnded(state) => Err(format!("already ended: it is {state}")),
                CancelReply::NotFound => Err("no such task".to_owned()),
            },
            Self::Retry => match broker.retry(queue, id).await? {
                RetryReply::Ready => Ok("ready"),
                RetryReply::NotEnded(state) => Err(format!("only dead, cancelled and delayed tasks are retried: it is {state}")),
                RetryReply::Duplicate { holder } => Err(format!("`{holder}` is the same task and has not ended: wait for it or cancel it")),
                RetryReply::NotFound => Err("no such task".to_owned()),
            },
            Self::Delete => match broker.delete(queue, id).await? {
                DeleteReply::Deleted => Ok("deleted"),
                DeleteReply::Running => Err("it runs: `taskhost task cancel` stops it first".to_owned()),
                DeleteReply::NotFound => Err("no such task".to_owned()),
            },
        })
    }
}

async fn change(broker: &dyn Tasks, args: ManyArgs, change: Change) -> Result<(), Failure> {
    let mut chosen: Vec<(QueueName, TaskId)> = Vec::new();
    let mut refused = 0;
    if args.ids.is_empty() {
        if args.filter.is_empty() {
            return Err(Failure::Usage(format!(
                "name the tasks: by id, or by a filter such as `taskhost task {} --state dead`",
                change.verb().to_lowercase()
            )));
        }
        let filter = args.filter.filter();
        let mut seen = HashSet::new();
        let mut unfit = Vec::new();
        let mut from = None;
        // A task that changes its state meanwhile may be listed twice. Only ids are kept, not views with their results.
        loop {
            let page = broker.list(&filter, from.as_deref(), PAGE).await?;
            for view in page.tasks {
                let key = (view.queue, view.id);
                if seen.insert(key.clone()) {
                    if change.fits(view.state) { chosen.push(key) } else { unfit.push(view.state) }
                }
            }
            from = page.next;
            if from.is_none() {
                break;
            }
        }
        if chosen.is_empty() {
            let verb = change.verb().to_lowercase();
            return Err(Failure::Usage(if unfit.is_empty() {
                format!("nothing to {verb}: no task is like that; `taskhost task list` shows what there is")
            } else {
                change.unfit(&unfit)
            }));
        }
        // Tasks in a state that was named explicitly are refused. Otherwise they are just left out.
        let named: Vec<_> = unfit.into_iter().filter(|state| args.filter.state.contains(state)).collect();
        refused = named.len();
        if refused > 0 {
            output::note(&format!("taskhost: {}", change.unfit(&named)));
        }
        let noun = if chosen.len() == 1 { "task" } else { "tasks" };
        ask::agreed(&format!("{} {} {noun}?", change.verb(), chosen.len()), args.yes)?;
    } else {
        if !args.filter.only_queue() {
            return Err(Failure::Usage("give ids or filters, not both".to_owned()));
        }
        for id in &args.ids {
            let queue = match &args.filter.queue {
                Some(queue) => queue.clone(),
                None => ask::find(broker, None, id).await?.queue,
            };
            chosen.push((queue, id.clone()));
        }
    }
    let mut sink = Sink::default();
    let went = change_each(broker, &chosen, refused, change, &mut sink).await;
    sink.end(went)
}

/// `refused`: how many chosen tasks can't be changed.
async fn change_each(
    broker: &dyn Tasks,
    chosen: &[(QueueName, TaskId)],
    mut refused: usize,
    change: Change,
    sink: &mut Sink,
) -> Result<(), Failure> {
    let all = chosen.len() + refused;
    for (at, (queue, id)) in chosen.iter().enumerate() {
        let changed = change.apply(broker, queue, id).await;
        let so_far = |failure: Failure| failure.and(&format!("{at} of {} tasks came before that; ask again for the rest", chosen.len()));
        match changed.map_err(so_far)? {
            Ok(done) => sink.line(&format!("{id} {done}")),
            Err(why) => {
                refused += 1;
                output::note(&format!("taskhost: `{id}`: {why}"));
            }
        }
    }
    if refused == 0 { Ok(()) } else { Err(Failure::Usage(format!("{refused} of {all} tasks are as they were"))) }
}

impl Filter {
    fn filter(&self) -> TaskFilter {
        TaskFilter {
            queue: self.queue.clone(),
            states: self.state.clone(),
            task: self.task.clone(),
            error: self.error.clone(),
            older: self.older,
            options: self.options.filter(),
        }
    }

    fn only_queue(&self) -> bool {
        self.state.is_empty() && self.task.is_none() && self.error.is_none() && self.older.is_none() && self.options.filter().is_empty()
    }

    fn is_empty(&self) -> bool {
        self.only_queue() && self.queue.is_none()
    }
}
