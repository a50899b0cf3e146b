//! `schedule`: adds, lists and steers schedules; workers enqueue their tasks.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{
    ask,
    failure::Failure,
    new_task,
    output::{self, Rows, cell},
    schedule_file::Files,
    shared_args::{Arguments, Wishes},
};
use crate::config::Settings;
use taskhost_broker::{Broker, CatchUp, Overlap, Schedule, Source};
use taskhost_core::{
    cron::Rule,
    task::{Millis, NewTask, TaskName},
};

/// How many due times `add` shows.
const SHOWN_FIRINGS: usize = 5;

#[derive(Debug, Subcommand)]
#[command(after_help = "Example:\n  taskhost schedule add bu \"57 9 * * ?\" transferBU --tz Asia/Shanghai")]
pub(super) enum ScheduleCommand {
    /// Add a schedule, or replace the one of this name
    Add(Box<AddArgs>),
    /// List the schedules, and when each fires next
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Keep a schedule from firing
    Pause(Named),
    /// Let a paused schedule fire again
    Resume(Named),
    /// Enqueue a schedule's task now, beside its rule; prints the task's id
    Run(Named),
    /// Remove a schedule, or those that stand in no taskhost.toml any more
    Remove(RemoveArgs),
}

#[derive(Debug, Args)]
pub(super) struct RemoveArgs {
    /// The schedule's name
    #[arg(required_unless_present = "orphans", conflicts_with = "orphans")]
    name: Option<String>,
    /// All that came from a taskhost.toml and stand in no live worker's any more
    #[arg(long)]
    orphans: bool,
    /// Do not ask
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
    /// When it fires
    rule: String,
    /// The task to enqueue
    task: TaskName,
    #[command(flatten)]
    arguments: Arguments,
    /// The zone its rule is read in, an IANA name
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    tz: String,
    #[command(flatten)]
    wishes: Wishes,
    /// What to do about firings that nobody was there for: skip, once or all
    #[arg(long, default_value = "once", value_parser = word::<CatchUp>)]
    catch_up: CatchUp,
    /// When the last firing's task has not ended: allow or skip
    #[arg(long, default_value = "allow", value_parser = word::<Overlap>)]
    overlap: Overlap,
    /// Add it whatever it is, also with a task that no plugin offers yet
    #[arg(long)]
    unchecked: bool,
}

/// A word with the same spelling as in `taskhost.toml`.
fn word<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(serde_json::Value::from(text)).map_err(|error| error.to_string())
}

pub(super) async fn call(command: ScheduleCommand, settings: &Settings) -> Result<(), Failure> {
    let broker = ask::broker(settings).await?;
    match command {
        ScheduleCommand::Add(args) => add(&*broker, *args, settings.bounds.payload_limit).await,
        ScheduleCommand::List { json } => list(&*broker, json).await,
        ScheduleCommand::Pause(Named { name }) => {
            found(broker.pause_schedule(&name, true).await?, &name)?;
            output::told(&format!("schedule `{name}` is paused"))?;
            note_of_file(&*broker, &name, true).await
        }
        ScheduleCommand::Resume(Named { name }) => {
            found(broker.pause_schedule(&name, false).await?, &name)?;
            output::told(&format!("schedule `{name}` goes on"))?;
            note_of_file(&*broker, &name, false).await
        }
        ScheduleCommand::Run(Named { name }) => run(&*broker, &name).await,
        ScheduleCommand::Remove(RemoveArgs { name: Some(name), .. }) => remove(&*broker, &name).await,
        ScheduleCommand::Remove(RemoveArgs { name: None, yes, .. }) => remove_orphans(&*broker, yes).await,
    }
}

async fn add(broker: &dyn Broker, args: AddArgs, payload_limit: usize) -> Result<(), Failure> {
    let catalogue = if args.unchecked { taskhost_core::catalogue::Catalogue::default() } else { broker.catalogue().await? };
    let given = args.arguments.given(payload_limit)?;
    let checked = if catalogue.offers.is_empty() {
        if !args.unchecked {
            output::note(&format!("taskhost: no worker has announced anything yet, so `{}` is scheduled unchecked", args.task));
        }
        given.unchecked()
    } else {
        catalogue.check(&args.task, &given)
    };
    let hint = catalogue.offers.get(&args.task).and_then(|offer| offer.body.hints.queue.clone());
    let now = broker.now().await?;
    let mut schedule = Schedule {
        name: args.name,
        rule: args.rule,
        timezone: args.tz,
        args: checked.map_err(|error| Failure::Usage(new_task::refusal(&error)))?,
        task: args.task,
        queue: args.wishes.queue.clone().or(hint).unwrap_or_default(),
        catch_up: args.catch_up,
        overlap: args.overlap,
        source: Source::Cli,
        defined_at: now,
        says_paused: None,
        created_at: now,
        paused: false,
        last: now,
        last_task: None,
        options: args.wishes.options()?,
    };
    crate::schedule::validate(&schedule).map_err(|error| Failure::Usage(error.to_string()))?;
    let before = broker.schedules().await?.into_iter().find(|old| old.name == schedule.name);
    if let Some(old) = &before {
        // Later than the stored definition, whatever the clocks say.
        schedule.defined_at = now.max(Millis(old.defined_at.0.saturating_add(1)));
        if old.source == Source::Toml {
            output::note(&format!(
                "taskhost: `{}` also stands in a taskhost.toml: the next worker that starts with it takes it from there",
                schedule.name
            ));
        }
        if old.paused {
            output::note(&format!("taskhost: `{0}` is paused and stays so; `taskhost schedule resume {0}` lets it fire", schedule.name));
        }
    }
    broker.put_schedule(&schedule).await?;
    let mut lines = vec![format!("schedule `{}` enqueues {} {}", schedule.name, schedule.task, output::short(&schedule.args, 200))];
    let rule = rule(&schedule)?;
    lines.extend(rule.firings(now, now).take(SHOWN_FIRINGS).map(|at| format!("  {}  {}", rule.show(at), output::until(at, now))));
    output::told(&lines.join("\n"))
}

fn rule(schedule: &Schedule) -> Result<Rule, Failure> {
    Rule::parse(&schedule.rule, &schedule.timezone)
        .map_err(|error| Failure::Usage(format!("schedule `{}`: {error}; add it again with a rule that can be read", schedule.name)))
}

/// A schedule, and when it fires next.
#[derive(Debug, Serialize)]
struct Listed {
    #[serde(flatten)]
    schedule: Schedule,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    next: Vec<Millis>,
    /// The keys that differ from a live worker's `taskhost.toml`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    differs: Vec<String>,
    /// It came from a `taskhost.toml`, and no live worker's file has it now.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    orphan: bool,
}

async fn list(broker: &dyn Broker, json: bool) -> Result<(), Failure> {
    let now = broker.now().await?;
    let mut schedules = broker.schedules().await?;
    schedules.sort_by(|a, b| a.name.cmp(&b.name));
    let files = Files::read(broker).await?;
    let next = |schedule: &Schedule, most: usize| -> Vec<Millis> {
        let fires = !schedule.paused;
        rule(schedule).ok().filter(|_| fires).map_or_else(Vec::new, |rule| rule.firings(schedule.created_at, now).take(most).collect())
    };
    if json {
        let listed = schedules.into_iter().map(|schedule| Listed {
            next: next(&schedule, SHOWN_FIRINGS),
            differs: files.differences(&schedule),
            orphan: files.is_orphan(&schedule),
            schedule,
        });
        return output::json(&listed.collect::<Vec<_>>());
    }
    let mut rows = Rows::new(&["NAME", "RULE", "ZONE", "TASK", "ARGS", "QUEUE", "NEXT", "LAST", "FROM"]);
    for schedule in &schedules {
        let first = next(schedule, 1).first().map(|at| format!("{} ({})", output::instant(*at), output::until(*at, now)));
        rows.add(vec![
            cell(&schedule.name),
            cell(&schedule.rule),
            cell(&schedule.timezone),
            cell(&schedule.task),
            cell(output::short(&schedule.args, 40)),
            cell(&schedule.queue),
            cell(first.unwrap_or_else(|| if schedule.paused { "paused".to_owned() } else { "never".to_owned() })),
            cell(last(schedule).map_or_else(|| "-".to_owned(), |at| output::ago(at, now))),
            cell(files.origin(schedule)),
        ]);
    }
    if schedules.iter().any(|schedule| files.is_orphan(schedule)) {
        output::note("taskhost: `schedule remove --orphans` removes those that stand in no live worker's taskhost.toml any more");
    }
    let catalogue = broker.catalogue().await?;
    for schedule in schedules.iter().filter(|schedule| !catalogue.offers.contains_key(&schedule.task)) {
        output::note(&format!("taskhost: `{}` enqueues `{}`, which no plugin offers yet", output::clean(&schedule.name), schedule.task));
    }
    rows.print("taskhost: no schedule yet; `taskhost schedule add --help` shows how one is added")
}

/// The due time of its last firing: `last` also moves when it is resumed or its rule changes.
fn last(schedule: &Schedule) -> Option<Millis> {
    let due = schedule.last_task.as_ref()?.as_str().rsplit_once(':')?.1;
    due.parse().ok().map(Millis)
}

/// Warns if a live worker's file says the opposite of the change.
async fn note_of_file(broker: &dyn Broker, name: &str, paused: bool) -> Result<(), Failure> {
    if let Some((worker, _)) = Files::read(broker).await?.named(name).filter(|(_, file)| file.paused == Some(!paused)) {
        output::note(&format!(
            "taskhost: the taskhost.toml of worker `{}` says `paused = {}`: the next worker that starts with it does as it says",
            output::clean(&worker.id),
            !paused
        ));
    }
    Ok(())
}

async fn remove(broker: &dyn Broker, name: &str) -> Result<(), Failure> {
    let stored = broker.schedules().await?.into_iter().find(|schedule| schedule.name == name);
    if stored.is_some()
        && let Some((worker, _)) = Files::read(broker).await?.named(name)
    {
        return Err(Failure::Usage(format!(
            "schedule `{name}` stands in the taskhost.toml of worker `{}`, which would put it back: take it out there and start the worker \
             anew, or keep it from firing with `taskhost schedule pause {name}`",
            output::clean(&worker.id)
        )));
    }
    found(broker.remove_schedule(name).await?, name)?;
    if stored.is_some_and(|schedule| schedule.source == Source::Toml) {
        output::note("taskhost: it came from a taskhost.toml: a worker that starts with it there puts it back");
    }
    output::told(&format!("schedule `{name}` is removed"))
}

async fn remove_orphans(broker: &dyn Broker, yes: bool) -> Result<(), Failure> {
    let files = Files::read(broker).await?;
    files.are_known().map_err(Failure::Usage)?;
    let mut orphans = broker.schedules().await?;
    orphans.retain(|schedule| files.is_orphan(schedule));
    if orphans.is_empty() {
        output::note("taskhost: each schedule that came from a taskhost.toml stands in a live worker's");
        return Ok(());
    }
    let names: Vec<_> = orphans.iter().map(|schedule| format!("`{}`", output::clean(&schedule.name))).collect();
    ask::agreed(&format!("Remove {}?", names.join(", ")), yes)?;
    let mut sink = output::Sink::default();
    let removed = async {
        for Schedule { name, .. } in &orphans {
            broker.remove_schedule(name).await?;
            sink.line(&format!("schedule `{}` is removed", output::clean(name)));
        }
        Ok(())
    };
    let went = removed.await;
    sink.end(went)
}

/// Enqueues the task of a firing, under an id of its own.
async fn run(broker: &dyn Broker, name: &str) -> Result<(), Failure> {
    let schedules = broker.schedules().await?;
    let Some(schedule) = schedules.into_iter().find(|schedule| schedule.name == name) else { return found(false, name) };
    let task = NewTask { queue: schedule.queue, options: schedule.options, ..NewTask::new(schedule.task, schedule.args) };
    // Its id is fresh, so it can't be a duplicate.
    broker.enqueue(std::slice::from_ref(&task)).await?;
    output::told(task.id.as_str())
}

fn found(there: bool, name: &str) -> Result<(), Failure> {
    if there { Ok(()) } else { Err(Failure::Usage(format!("no schedule `{name}`; `taskhost schedule list` shows what there is"))) }
}
