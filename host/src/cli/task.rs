//! `task`: lists and shows tasks and their logs; cancels, retries and deletes them, by id or by filter.
//!
//! Invariant: tasks that a filter chose are counted, and a person agrees, before anything changes.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{
    consent,
    failure::Failure,
    output::{self, Rows, Sink, cell},
    shared_args::OptionFilterWords,
    wait,
};
use crate::{
    config::Settings,
    ops::{Change, Listing, Ops, OpsError, TaskFilter, gist, header_filter, what_it_waits_for},
};
use taskhost_core::{
    catalogue::Given,
    task::{Carried, LogLine, Millis, QueueName, State, TaskId, TaskName},
    text::clean_json,
    units,
};

#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:\n  taskhost task list --state dead\n  taskhost task retry --state dead --task transferBU --older 1h")]
pub(super) enum TaskCommand {
    /// List tasks: first running, then waiting, then ended ones
    List(ListArgs),
    /// Show everything about a task
    #[command(after_help = "Example:\n  taskhost task show 0199c0de-… --json")]
    Show(OneArgs),
    /// Show the log of a task's body
    #[command(after_help = "Examples:\n  taskhost task logs 0199c0de-…\n  taskhost task logs --follow 0199c0de-…")]
    Logs(LogsArgs),
    /// Cancel waiting tasks, and stop running ones
    #[command(after_help = "Examples:\n  taskhost task cancel 0199c0de-…\n  taskhost task cancel --queue mail --tag newsletter")]
    Cancel(ManyArgs),
    /// Run dead or cancelled tasks again, and delayed ones at once
    #[command(after_help = "Examples:\n  taskhost task retry 0199c0de-…\n  taskhost task retry --state dead --task transferBU --older 1h")]
    Retry(ManyArgs),
    /// Give a task that waits, is dead or was cancelled other arguments
    #[command(after_help = "Example:\n  taskhost task edit 0199c0de-… '[2, 3]' && taskhost task retry 0199c0de-…")]
    Edit(EditArgs),
    /// Delete tasks that do not run
    #[command(after_help = "Examples:\n  taskhost task delete 0199c0de-…\n  taskhost task delete --state dead --error http-404 --yes")]
    Delete(ManyArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  taskhost task list --state dead,cancelled --task add --older 1d")]
pub(super) struct ListArgs {
    #[command(flatten)]
    filter: Filter,
    /// The most tasks to list
    #[arg(long, default_value_t = 50, value_name = "NUMBER")]
    limit: usize,
    /// As JSON, with everything about each task
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct EditArgs {
    /// The task's id
    id: TaskId,
    /// The new arguments, as a JSON array
    args: String,
    /// Look only in this queue
    #[arg(long)]
    queue: Option<QueueName>,
}

#[derive(Debug, Args)]
pub(super) struct OneArgs {
    /// The id that `enqueue` printed
    id: TaskId,
    /// Look only in this queue
    #[arg(long)]
    queue: Option<QueueName>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct LogsArgs {
    #[command(flatten)]
    one: OneArgs,
    /// Go on until the task has ended
    #[arg(long, short)]
    follow: bool,
}

#[derive(Debug, Args)]
pub(super) struct ManyArgs {
    /// Ids that `enqueue` printed, or use the filters below
    ids: Vec<TaskId>,
    #[command(flatten)]
    filter: Filter,
    /// Do not ask before changing the tasks that the filters choose
    #[arg(long, short)]
    yes: bool,
}

#[derive(Debug, Args)]
struct Filter {
    /// Only tasks in these states: scheduled, ready, parked, running, succeeded, dead, cancelled
    #[arg(long, value_delimiter = ',', value_name = "STATE")]
    state: Vec<State>,
    /// Only tasks of this name
    #[arg(long, value_name = "NAME")]
    task: Option<TaskName>,
    /// Only tasks in this queue
    #[arg(long)]
    queue: Option<QueueName>,
    /// Only tasks whose error has this text in its kind, code or message
    #[arg(long, value_name = "TEXT")]
    error: Option<String>,
    /// Only tasks that ended this time ago or earlier, such as 1d; of others the due time counts, else the enqueue time
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    older: Option<Duration>,
    /// Only tasks that changed at this time or later: a time, or how long ago, such as 2h
    #[arg(long, value_name = "TIME", value_parser = units::past)]
    from: Option<units::Past>,
    /// Only tasks that changed before this time
    #[arg(long, value_name = "TIME", value_parser = units::past)]
    to: Option<units::Past>,
    /// Only tasks whose arguments, as compact JSON, have this text
    #[arg(long, value_name = "TEXT")]
    args: Option<String>,
    /// Only tasks with this header
    #[arg(long, value_name = "NAME[=VALUE]")]
    header: Option<String>,
    /// Only tasks that this plugin ran last
    #[arg(long, value_name = "NAME")]
    plugin: Option<String>,
    /// Only tasks that run, or ran last, on a worker whose name has this text
    #[arg(long, value_name = "TEXT")]
    worker: Option<String>,
    #[command(flatten)]
    options: OptionFilterWords,
}

pub(super) async fn call(command: TaskCommand, settings: &Settings) -> Result<(), Failure> {
    let ops = Ops::connect(settings).await?;
    match command {
        TaskCommand::List(args) => list(&ops, args).await,
        TaskCommand::Show(args) => show(&ops, &args).await,
        TaskCommand::Logs(args) => logs(&ops, &args).await,
        TaskCommand::Cancel(args) => change(&ops, args, Change::Cancel).await,
        TaskCommand::Retry(args) => change(&ops, args, Change::Retry).await,
        TaskCommand::Edit(args) => edit(&ops, args).await,
        TaskCommand::Delete(args) => change(&ops, args, Change::Delete).await,
    }
}

async fn edit(ops: &Ops, EditArgs { id, args, queue }: EditArgs) -> Result<(), Failure> {
    let task = ops.task(queue.as_ref(), &id).await?;
    ops.edit(&task, &Given::Json(args)).await?;
    output::told(&format!("{id} {} has other arguments", task.state))
}

async fn list(ops: &Ops, args: ListArgs) -> Result<(), Failure> {
    let Listing { tasks, has_more } = ops.tasks(&args.filter.filter(ops.now().await?), args.limit).await?;
    if has_more {
        output::note(&format!("taskhost: there are more; --limit {} shows more of them", args.limit.saturating_mul(10)));
    }
    if args.json {
        return output::json(&tasks);
    }
    let now = ops.now().await?;
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
            cell(units::age(view.ended_at.unwrap_or(view.enqueued_at), now)),
            cell(output::short(&gist(view, now), 80)),
        ];
        row.extend(shown.iter().filter(|(name, _)| has(name)).map(|(_, value)| cell(value)));
        rows.add(row);
    }
    rows.print("taskhost: no such task")
}

async fn show(ops: &Ops, args: &OneArgs) -> Result<(), Failure> {
    let view = ops.task(args.queue.as_ref(), &args.id).await?;
    if args.json {
        return output::json(&view);
    }
    let at = units::show_instant;
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
        lines.push(format!("waits     {}", what_it_waits_for(&view.task, view.waits_for).trim_start_matches("waiting ")));
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

async fn logs(ops: &Ops, LogsArgs { one, follow }: &LogsArgs) -> Result<(), Failure> {
    if *follow {
        return follow_log(ops, one).await;
    }
    let log = ops.log(one.queue.as_ref(), &one.id).await?;
    if log.trim_end().is_empty() {
        output::note("taskhost: it has logged nothing, or its attempt runs for less than a second");
    }
    print_log(one, &log)
}

/// Prints the lines as they come, until the task has ended. Goes on while the broker is away.
async fn follow_log(ops: &Ops, args: &OneArgs) -> Result<(), Failure> {
    const LOOK: Duration = Duration::from_secs(1);
    let (mut told, mut limit, mut is_away) = (String::new(), Duration::ZERO, false);
    loop {
        let looked = async {
            let view = ops.await_end(args.queue.as_ref(), &args.id, limit).await?;
            // Read after the state: the log of an ended task is whole.
            Ok::<_, OpsError>((view, ops.log_since(args.queue.as_ref(), &args.id, &mut told).await?))
        };
        match looked.await {
            Ok((view, news)) => {
                (limit, is_away) = (LOOK, false);
                print_log(args, &news)?;
                if view.state.is_ended() {
                    return Ok(());
                }
            }
            Err(OpsError::Broker(error)) if error.is_transient() => {
                if !std::mem::replace(&mut is_away, true) {
                    output::note(&format!("taskhost: {}; waiting for it", output::clean(&error.to_string())));
                }
                tokio::time::sleep(LOOK).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn print_log(args: &OneArgs, log: &str) -> Result<(), Failure> {
    let log = log.trim_end();
    if log.is_empty() {
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
    format!("{} #{} {:>6} {}", units::show_instant(line.at), line.attempt, line.level, words.join(" "))
}

/// The command's name for a change.
fn verb(change: Change) -> &'static str {
    match change {
        Change::Cancel => "cancel",
        Change::Retry => "retry",
        Change::Delete => "delete",
    }
}

/// Says that the change does not apply to the chosen tasks, and what to do.
fn unfit(change: Change, states: &[State]) -> String {
    let counts = State::ALL.into_iter().filter_map(|state| {
        let count = states.iter().filter(|of| **of == state).count();
        (count > 0).then(|| format!("{count} {state}"))
    });
    let why = match change {
        Change::Cancel => "what has ended can't be cancelled",
        Change::Retry => "only dead, cancelled and delayed tasks are retried",
        Change::Delete => "what runs is deleted after `taskhost task cancel` has stopped it",
    };
    format!("left as they are: {}; {why}", counts.collect::<Vec<_>>().join(", "))
}

async fn change(ops: &Ops, args: ManyArgs, change: Change) -> Result<(), Failure> {
    let (chosen, refused) = if args.ids.is_empty() { by_filter(ops, &args, change).await? } else { (by_id(ops, &args).await?, 0) };
    let mut sink = Sink::default();
    let went = change_each(ops, &chosen, refused, change, &mut sink).await;
    sink.end(went)
}

async fn by_id(ops: &Ops, args: &ManyArgs) -> Result<Vec<(QueueName, TaskId)>, Failure> {
    if !args.filter.only_queue() {
        return Err(Failure::Usage("give ids or filters, not both".to_owned()));
    }
    let mut chosen = Vec::new();
    for id in &args.ids {
        let queue = match &args.filter.queue {
            Some(queue) => queue.clone(),
            None => ops.task(None, id).await?.queue,
        };
        chosen.push((queue, id.clone()));
    }
    Ok(chosen)
}

/// The tasks that the filter chose and a person agreed to, and how many can't be changed.
async fn by_filter(ops: &Ops, args: &ManyArgs, change: Change) -> Result<(Vec<(QueueName, TaskId)>, usize), Failure> {
    let verb = verb(change);
    if args.filter.is_empty() {
        return Err(Failure::Usage(format!("name the tasks: by id, or by a filter such as `taskhost task {verb} --state dead`")));
    }
    let chosen = ops.choose(&args.filter.filter(ops.now().await?), change).await?;
    if chosen.tasks.is_empty() {
        return Err(Failure::Usage(if chosen.unfit.is_empty() {
            format!("nothing to {verb}: no task is like that; `taskhost task list` shows what there is")
        } else {
            unfit(change, &chosen.unfit)
        }));
    }
    // Tasks in a state that was named explicitly are refused. Otherwise they are just left out.
    let named: Vec<_> = chosen.unfit.into_iter().filter(|state| args.filter.state.contains(state)).collect();
    if !named.is_empty() {
        output::note(&format!("taskhost: {}", unfit(change, &named)));
    }
    let noun = if chosen.tasks.len() == 1 { "task" } else { "tasks" };
    let question = format!("{}{} {} {noun}?", verb[..1].to_uppercase(), &verb[1..], chosen.tasks.len());
    consent::agreed(&question, args.yes)?;
    Ok((chosen.tasks, named.len()))
}

/// `refused`: how many chosen tasks can't be changed.
async fn change_each(
    ops: &Ops,
    chosen: &[(QueueName, TaskId)],
    mut refused: usize,
    change: Change,
    sink: &mut Sink,
) -> Result<(), Failure> {
    let all = chosen.len() + refused;
    for (at, (queue, id)) in chosen.iter().enumerate() {
        match ops.change(change, queue, id).await {
            Ok(changed) => sink.line(&format!("{id} {changed}")),
            Err(OpsError::Unchanged(why)) => {
                refused += 1;
                output::note(&format!("taskhost: `{id}`: {why}"));
            }
            Err(error) => {
                let so_far = format!("{at} of {} tasks came before that; ask again for the rest", chosen.len());
                return Err(Failure::from(error).and(&so_far));
            }
        }
    }
    if refused == 0 { Ok(()) } else { Err(Failure::Usage(format!("{refused} of {all} tasks are as they were"))) }
}

impl Filter {
    /// `now` is the broker's time.
    fn filter(&self, now: Millis) -> TaskFilter {
        TaskFilter {
            queue: self.queue.clone(),
            states: self.state.clone(),
            task: self.task.clone(),
            error: self.error.clone(),
            older: self.older,
            from: self.from.map(|from| from.at(now)),
            to: self.to.map(|to| to.at(now)),
            args: self.args.clone(),
            header: self.header.as_deref().map(header_filter),
            plugin: self.plugin.clone(),
            worker: self.worker.clone(),
            options: self.options.filter(),
        }
    }

    fn only_queue(&self) -> bool {
        let filter = self.filter(Millis(0));
        filter == TaskFilter { queue: filter.queue.clone(), ..TaskFilter::default() }
    }

    fn is_empty(&self) -> bool {
        self.filter(Millis(0)) == TaskFilter::default()
    }
}
