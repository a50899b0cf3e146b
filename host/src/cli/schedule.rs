//! `schedule`: adds, lists and steers schedules; workers enqueue their tasks.

use clap::{Args, Subcommand};

use super::{
    consent,
    enqueue_notes::note_unchecked,
    failure::Failure,
    output::{self, Rows, Sink, cell},
    shared_args::{Arguments, Wishes},
};
use crate::{
    config::Settings,
    ops::{AddedSchedule, CatchUp, NewSchedule, Ops, OpsError, Overlap, ScheduleSource, SeenSchedule},
};
use taskhost_core::{task::TaskName, units};

#[derive(Debug, Subcommand)]
#[command(after_help = "Example:\n  taskhost schedule add bu \"57 9 * * ?\" transferBU --tz Asia/Shanghai")]
pub(super) enum ScheduleCommand {
    /// Add a schedule, or replace the schedule of this name
    Add(Box<AddArgs>),
    /// List the schedules, each with its next firing
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Keep a schedule from firing
    Pause(Named),
    /// Let a paused schedule fire again
    Resume(Named),
    /// Enqueue the task of a schedule now, in addition to its rule, and print the task's id
    Run(Named),
    /// Remove a schedule, or all schedules that no taskhost.toml has any more
    Remove(RemoveArgs),
}

#[derive(Debug, Args)]
pub(super) struct RemoveArgs {
    /// The schedule's name
    #[arg(required_unless_present = "orphans", conflicts_with = "orphans")]
    name: Option<String>,
    /// All schedules that came from a taskhost.toml and that no live worker's file has any more
    #[arg(long)]
    orphans: bool,
    /// Do not ask for consent
    #[arg(long, short, requires = "orphans")]
    yes: bool,
}

#[derive(Debug, Args)]
pub(super) struct Named {
    /// The schedule's name
    name: String,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  taskhost schedule add bu \"57 9 * * ?\" transferBU --tz Asia/Shanghai
  taskhost schedule add poll \"@every 90s\" add 1 1 --overlap skip

A rule is: minute hour day-of-month month day-of-week, with seconds before them if there are six fields;
or @hourly, @daily, @weekly, @monthly, @yearly, @every 90s.")]
pub(super) struct AddArgs {
    /// Its name
    name: String,
    /// Its rule; see below
    rule: String,
    /// The task to enqueue
    task: TaskName,
    #[command(flatten)]
    arguments: Arguments,
    /// The time zone of the rule, an IANA name
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    tz: String,
    #[command(flatten)]
    wishes: Wishes,
    /// What to do with firings that were missed because no worker ran: skip, once or all
    #[arg(long, default_value = "once", value_parser = word::<CatchUp>)]
    catch_up: CatchUp,
    /// What to do if the task of the last firing has not ended: allow or skip
    #[arg(long, default_value = "allow", value_parser = word::<Overlap>)]
    overlap: Overlap,
    /// Add it without a check, also with a task that no plugin offers yet
    #[arg(long)]
    unchecked: bool,
}

/// A word with the same spelling as in `taskhost.toml`.
fn word<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(serde_json::Value::from(text)).map_err(|error| error.to_string())
}

pub(super) async fn call(command: ScheduleCommand, settings: &Settings) -> Result<(), Failure> {
    let ops = Ops::connect(settings).await?;
    match command {
        ScheduleCommand::Add(args) => add(&ops, *args, settings.bounds.payload_limit).await,
        ScheduleCommand::List { json } => list(&ops, json).await,
        ScheduleCommand::Pause(Named { name }) => pause(&ops, &name, true).await,
        ScheduleCommand::Resume(Named { name }) => pause(&ops, &name, false).await,
        ScheduleCommand::Run(Named { name }) => output::told(ops.run_schedule(&name).await?.as_str()),
        ScheduleCommand::Remove(RemoveArgs { name: Some(name), .. }) => remove(&ops, &name).await,
        ScheduleCommand::Remove(RemoveArgs { name: None, yes, .. }) => remove_orphans(&ops, yes).await,
    }
}

async fn add(ops: &Ops, args: AddArgs, payload_limit: usize) -> Result<(), Failure> {
    let checks = ops.checks(Some(&args.task), args.unchecked).await?;
    note_unchecked(&checks, &format!("`{}` is scheduled", args.task));
    let given = args.arguments.given(payload_limit)?;
    let new = NewSchedule {
        name: args.name,
        rule: args.rule,
        timezone: args.tz,
        args: checks.check(&args.task, &given).map_err(OpsError::from)?,
        task: args.task,
        options: args.wishes.options()?,
        queue: args.wishes.queue,
        catch_up: args.catch_up,
        overlap: args.overlap,
    };
    let AddedSchedule { schedule, old, next, now } = ops.add_schedule(new, &checks).await?;
    if let Some(old) = &old {
        if old.source == ScheduleSource::Toml {
            output::note(&format!(
                "taskhost: `{}` also stands in a taskhost.toml: the next worker that starts with it takes it from there",
                schedule.name
            ));
        }
        if old.paused {
            output::note(&format!("taskhost: `{0}` is paused and stays so; `taskhost schedule resume {0}` lets it fire", schedule.name));
        }
    }
    let mut lines = vec![format!("schedule `{}` enqueues {} {}", schedule.name, schedule.task, output::short(&schedule.args, 200))];
    lines.extend(next.iter().map(|(at, text)| format!("  {text}  {}", units::until(*at, now))));
    output::told(&lines.join("\n"))
}

async fn list(ops: &Ops, json: bool) -> Result<(), Failure> {
    let schedules = ops.schedules().await?;
    if json {
        return output::json(&schedules);
    }
    let now = ops.now().await?;
    let mut rows = Rows::new(&["NAME", "RULE", "ZONE", "TASK", "ARGS", "QUEUE", "NEXT", "LAST", "FROM"]);
    for seen in &schedules {
        let schedule = &seen.schedule;
        let first = seen.next.first().map(|at| format!("{} ({})", units::show_instant(*at), units::until(*at, now)));
        rows.add(vec![
            cell(&schedule.name),
            cell(&schedule.rule),
            cell(&schedule.timezone),
            cell(&schedule.task),
            cell(output::short(&schedule.args, 40)),
            cell(&schedule.queue),
            cell(first.unwrap_or_else(|| if schedule.paused { "paused".to_owned() } else { "never".to_owned() })),
            cell(seen.last_firing().map_or_else(|| "-".to_owned(), |at| units::ago(at, now))),
            cell(origin(seen)),
        ]);
    }
    if schedules.iter().any(|seen| seen.is_orphan) {
        output::note("taskhost: `schedule remove --orphans` removes those that stand in no live worker's taskhost.toml any more");
    }
    for SeenSchedule { schedule, .. } in schedules.iter().filter(|seen| !seen.is_offered) {
        output::note(&format!("taskhost: `{}` enqueues `{}`, which no plugin offers yet", output::clean(&schedule.name), schedule.task));
    }
    rows.print("taskhost: no schedule yet; `taskhost schedule add --help` shows how one is added")
}

/// Its origin, and its differences from there.
fn origin(seen: &SeenSchedule) -> String {
    let differences = seen.differs.join(", ");
    match seen.schedule.source {
        ScheduleSource::Cli if differences.is_empty() => "cli".to_owned(),
        ScheduleSource::Cli => format!("cli (taskhost.toml differs: {differences})"),
        ScheduleSource::Toml if seen.is_orphan => "taskhost.toml (no longer in it)".to_owned(),
        ScheduleSource::Toml if differences.is_empty() => "taskhost.toml".to_owned(),
        ScheduleSource::Toml => format!("taskhost.toml (differs: {differences})"),
    }
}

async fn pause(ops: &Ops, name: &str, paused: bool) -> Result<(), Failure> {
    let contradicting = ops.pause_schedule(name, paused).await?;
    output::told(&format!("schedule `{name}` {}", if paused { "is paused" } else { "goes on" }))?;
    if let Some(worker) = contradicting {
        output::note(&format!(
            "taskhost: the taskhost.toml of worker `{}` says `paused = {}`: the next worker that starts with it does as it says",
            output::clean(&worker),
            !paused
        ));
    }
    Ok(())
}

async fn remove(ops: &Ops, name: &str) -> Result<(), Failure> {
    if ops.remove_schedule(name).await? {
        output::note("taskhost: it came from a taskhost.toml: a worker that starts with it there puts it back");
    }
    output::told(&format!("schedule `{name}` is removed"))
}

async fn remove_orphans(ops: &Ops, yes: bool) -> Result<(), Failure> {
    let orphans = ops.orphans().await?;
    if orphans.is_empty() {
        output::note("taskhost: each schedule that came from a taskhost.toml stands in a live worker's");
        return Ok(());
    }
    let names: Vec<_> = orphans.iter().map(|name| format!("`{}`", output::clean(name))).collect();
    consent::agreed(&format!("Remove {}?", names.join(", ")), yes)?;
    let mut sink = Sink::default();
    let removed = async {
        for name in &orphans {
            ops.remove_orphan(name).await?;
            sink.line(&format!("schedule `{}` is removed", output::clean(name)));
        }
        Ok(())
    };
    let went = removed.await;
    sink.end(went)
}
