//! Schedules: when they fire next, and how they stand.

use maud::{Markup, html};
use taskhost_core::{
    cron::Rule,
    task::{Millis, TaskId},
    text::clean,
    units,
};

use super::{
    Page,
    layout::Nav,
    parts::{empty, json},
    view::{View, escaped},
};
use crate::{
    config::Scope,
    ops::{ScheduleSource, SeenSchedule},
    serve::{
        problem::{self, Problem},
        schedules,
        segment::Segment,
    },
};

/// `GET /schedules`
pub(super) async fn list(view: View) -> Page {
    let now = view.now().await?;
    let mut all = view.ops()?.schedules().await.map_err(|error| view.trouble(error))?;
    all.retain(|seen| schedules::is_seen(&view.caller, seen));
    let content = html! {
        h1 { (view.say("Schedules")) }
        @if all.is_empty() {
            (empty(view.say("No schedule is set. Set one:"), &["taskhost schedule add nightly '0 3 * * *' add 1 1"]))
        } @else {
            div.scroll { table {
                thead { tr { th { (view.say("Schedule")) } th { (view.say("Rule")) } th { (view.say("Task")) } th { (view.say("Queue")) } th.number { (view.say("Last")) } th.number { (view.say("Next")) } th { span.hidden { (view.say("What to do")) } } } }
                tbody { @for seen in &all {
                    @let schedule = &seen.schedule;
                    tr data-row {
                        td { a href=(view.href(format!("/schedules/{}", escaped(&schedule.name)))) { (clean(&schedule.name)) } @if schedule.paused { " " span.pill.paused { "‖ " (view.say("paused")) } } }
                        td { code { (clean(&schedule.rule)) } " " span.note { (clean(&schedule.timezone)) } }
                        td { (schedule.task) } td { (schedule.queue) }
                        td.number { @if let Some(last) = seen.last_firing() { (view.ago(last, now)) } }
                        td.number { @if let Some(next) = seen.next.first() { (view.ago(*next, now)) } }
                        td { (warnings(&view, seen)) }
                    }
                } }
            } }
        }
    };
    Ok(view.page(Nav::Schedules, &format!("{} {}", all.len(), view.say("Schedules")), None, &content))
}

fn warnings(view: &View, seen: &SeenSchedule) -> Markup {
    html! {
        @if !seen.is_offered { span.error { (view.say("no plugin offers its task")) } " " }
        @if seen.is_orphan { span.error { (view.say("in no live worker's file")) } " " }
        @if !seen.differs.is_empty() { span.error { (view.say("differs from a worker's file:")) " " (clean(&seen.differs.join(", "))) } }
    }
}

/// `GET /schedules/{name}`
pub(super) async fn show(view: View, Segment(name): Segment) -> Page {
    let (ops, now) = (view.ops()?, view.now().await?);
    let seen = ops.schedules().await.map_err(|error| view.trouble(error))?.into_iter().find(|seen| seen.schedule.name == name);
    let seen = seen.filter(|seen| schedules::is_seen(&view.caller, seen));
    let seen = seen.ok_or_else(|| view.trouble(Problem::new(&problem::UNKNOWN_SCHEDULE, format!("no schedule `{name}`"))))?;
    let schedule = &seen.schedule;
    let path = format!("/schedules/{}", escaped(&schedule.name));
    let is_of_file = schedule.source == ScheduleSource::Toml && !seen.is_orphan;
    let content = html! {
        h1 { (view.say("Schedule")) " " (clean(&schedule.name)) @if schedule.paused { " " span.pill.paused { "‖ " (view.say("paused")) } } }
        p { code { (clean(&schedule.rule)) } " " (clean(&schedule.timezone)) " · " (schedule.task) " · " a href=(view.href(format!("/queues/{}", escaped(schedule.queue.as_str())))) { (schedule.queue) } }
        (warnings(&view, &seen))
        @if view.may(Scope::Schedule) {
            div.acts {
                (view.button(&path, "run", view.say("Run now"), false))
                @if schedule.paused { (view.button(&path, "resume", view.say("Resume"), false)) } @else { (view.button(&path, "pause", view.say("Pause"), false)) }
                @if is_of_file { span.note { (view.say("It stands in a worker's taskhost.toml: change it there.")) } } @else { (view.button(&path, "remove", view.say("Remove"), true)) }
            }
        }
        h2 { (view.say("Next")) }
        ol { @for next in &seen.next { li { (view.ago(*next, now)) " " span.note { (units::show_instant(*next)) } } } }
        h2 { (view.say("Last firings")) }
        (firings(&view, &seen, now).await?)
        h2 { (view.say("Arguments")) }
        @if view.sees_payload() { (json(&schedule.args)) } @else { p.note { (view.say("masked")) } }
        p.note { "catch_up " (format!("{:?}", schedule.catch_up).to_lowercase()) " · overlap " (format!("{:?}", schedule.overlap).to_lowercase()) }
    };
    Ok(view.page(Nav::Schedules, &format!("{} {}", view.say("Schedule"), schedule.name), None, &content))
}

/// The due times before now, and what became of each: its task, if it is kept.
async fn firings(view: &View, seen: &SeenSchedule, now: Millis) -> Result<Markup, super::layout::Trouble> {
    const SHOWN: usize = 20;
    let schedule = &seen.schedule;
    let mut dues = Vec::new();
    if let Ok(rule) = Rule::parse(&schedule.rule, &schedule.timezone) {
        // The firings are found by their ids, which have the due time.
        let mut span = 3_600_000;
        while dues.len() < SHOWN && span <= 400 * 86_400_000 {
            let from = Millis(now.0.saturating_sub(span).max(schedule.created_at.0));
            dues = rule.firings(schedule.created_at, from).take_while(|due| *due <= now).take(5_000).collect();
            if from == schedule.created_at {
                break;
            }
            span *= 8;
        }
    }
    let mut rows = Vec::new();
    for due in dues.into_iter().rev().take(SHOWN) {
        let task = match TaskId::new(format!("cron:{}:{}", schedule.name, due.0)) {
            Ok(id) => view.ops()?.task(Some(&schedule.queue), &id).await.ok(),
            Err(_) => None,
        };
        rows.push((due, task));
    }
    Ok(html! {
        @if rows.is_empty() { p.note { (view.say("It has not been due yet.")) } }
        table { tbody { @for (due, task) in &rows {
            tr data-row {
                td { (view.ago(*due, now)) " " span.note { (units::show_instant(*due)) } }
                td { @if let Some(task) = task { a href=(view.task_link(task)) { (view.pill(task.state)) } } @else { span.note { (view.say("missed, skipped, or no longer kept")) } } }
            }
        } } }
    })
}
