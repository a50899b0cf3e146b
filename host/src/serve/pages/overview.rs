//! The overview: throughput, errors, waiting tasks, and warnings about the set-up.

use std::collections::BTreeMap;

use maud::{Markup, html};
use taskhost_core::{
    task::{Millis, State, TaskView},
    units,
};

use super::{
    Page,
    chart::{Kind, Series},
    errors,
    layout::{Nav, Trouble},
    parts::{empty, first_line, took},
    view::{View, escaped},
};
use crate::{
    ops::{HistoryPoint, HistoryStep, QueueView, Sample},
    serve::{history, looks::past_lately},
};

/// `GET /`
pub(super) async fn show(view: View) -> Page {
    let (now, all) = (view.now().await?, view.queues().await?);
    let points = history::read(&view.app, &view.caller, &view.query, HistoryStep::Minute, past_lately()).await;
    let points = points.map_err(|problem| view.trouble(problem))?;
    let hour = super::queues::hour(&view, now).await?;
    let (workers, health) = (view.workers().await?, view.app.health().await.map_err(|problem| view.trouble(problem))?);
    // Hide the host's own queues while they are empty.
    let is_shown = |queue: &QueueView| !queue.queue.as_str().starts_with("taskhost.") || queue.counts.values().any(|count| *count > 0);
    let queues: Vec<_> = all.iter().filter(|queue| view.caller.sees_queue(&queue.queue) && is_shown(queue)).collect();
    let errors = latest_errors(&view).await?;
    let content = html! {
        h1 { (view.say("Overview")) }
        @if workers.is_empty() {
            (empty(view.say("No worker lives. Start one, and drop a plugin into its directory:"), &["taskhost worker --plugins ./plugins", "taskhost enqueue add 1 1 --wait"]))
        }
        @for warning in &health.warnings { p.warning { (warning) } }
        section #numbers data-part { (numbers(&view, &queues, workers.iter().map(|worker| (worker.running.len(), worker.concurrency)))) }
        section #charts data-part { (charts(&view, &points)) }
        section #queues data-part {
            h2 { a href=(view.href("/queues")) { (view.say("Queues")) } }
            (super::queues::table(&view, &queues, &hour, now))
        }
        section #errors data-part {
            h2 { a href=(view.href("/errors")) { (view.say("Errors")) } }
            @if errors.is_empty() { p.note { (view.say("Nothing is dead.")) } }
            table { tbody {
                @for ((task, kind, message), (count, last)) in errors.iter().take(8) {
                    tr data-row {
                        td.number { (units::show_count(*count)) }
                        td { a href=(view.href(format!("/tasks?state=dead&task={}", escaped(task)))) { (task) } }
                        td.why { span.error { (kind) } " " (message) }
                        td.number { (view.ago(*last, now)) }
                    }
                }
            } }
        }
        p.note { (health.about) }
    };
    let (ready, dead) = (sum(&queues, State::Ready), sum(&queues, State::Dead));
    let title = format!("{} {} · {} {}", units::show_count(ready), view.say("ready"), units::show_count(dead), view.say("dead"));
    Ok(view.page(Nav::Overview, &title, Some("/v1/events"), &content))
}

fn sum(queues: &[&QueueView], state: State) -> u64 {
    queues.iter().filter_map(|queue| queue.counts.get(&state)).sum()
}

fn numbers(view: &View, queues: &[&QueueView], slots: impl Iterator<Item = (usize, usize)>) -> Markup {
    let oldest = queues.iter().filter_map(|queue| queue.oldest_ready_ms).max();
    let (running, all) = slots.fold((0, 0), |(running, all), (more, slots)| (running + more, all + slots));
    let link = |state: State| view.href(format!("/tasks?state={}", state.as_str()));
    html! {
        div.numbers {
            a href=(link(State::Ready)) { b { (units::show_count(sum(queues, State::Ready))) } " " (view.say("ready")) }
            a href=(link(State::Running)) { b { (units::show_count(sum(queues, State::Running))) } " " (view.say("running")) }
            a href=(link(State::Scheduled)) { b { (units::show_count(sum(queues, State::Scheduled))) } " " (view.say("scheduled")) }
            a href=(link(State::Parked)) { b { (units::show_count(sum(queues, State::Parked))) } " " (view.say("parked")) }
            a.bad[sum(queues, State::Dead) > 0] href=(link(State::Dead)) { b { (units::show_count(sum(queues, State::Dead))) } " " (view.say("dead")) }
            a href=(view.href("/workers")) { b { (running) "/" (all) } " " (view.say("slots in use")) }
            @if let Some(oldest) = oldest.filter(|oldest| *oldest >= 1000) {
                a href=(link(State::Ready)) { b { (units::age(Millis(0), Millis(oldest))) } " " (view.say("the oldest waits")) }
            }
        }
    }
}

/// The charts of a history.
pub(super) fn charts(view: &View, points: &[HistoryPoint]) -> Markup {
    let sums: Vec<Sample> = points.iter().map(HistoryPoint::sum).collect();
    let starts: Vec<Millis> = points.iter().map(|point| point.start).collect();
    let count = |of: fn(&Sample) -> u64| sums.iter().map(|sample| to_float(of(sample))).collect();
    let ms =
        |of: fn(&Sample) -> Option<std::time::Duration>| sums.iter().map(|sample| of(sample).unwrap_or_default().as_secs_f64()).collect();
    let ended = [
        Series { name: view.say("succeeded"), class: "good", values: count(|sample| sample.succeeded) },
        Series { name: view.say("tried again"), class: "fair", values: count(|sample| sample.retried) },
        Series { name: view.say("dead"), class: "bad", values: count(|sample| sample.dead) },
    ];
    let ready = [Series {
        name: view.say("ready"),
        class: "good",
        values: points.iter().map(|point| to_float(point.ready.values().sum())).collect(),
    }];
    let times = [
        Series { name: view.say("waited"), class: "good", values: ms(|sample| sample.waited.quantile(95)) },
        Series { name: view.say("ran"), class: "fair", values: ms(|sample| sample.ran.quantile(95)) },
    ];
    html! {
        div.charts {
            (view.chart(view.say("Attempts a minute"), &starts, &ended, &Kind::Stack, |value| units::show_count(to_count(value))))
            (view.chart(view.say("Ready tasks"), &starts, &ready, &Kind::Lines, |value| units::show_count(to_count(value))))
            (view.chart(view.say("95 % took at most"), &starts, &times, &Kind::Lines, |value| took(std::time::Duration::from_secs_f64(value))))
        }
    }
}

fn to_float(n: u64) -> f64 {
    u32::try_from(n).map_or(f64::from(u32::MAX), f64::from)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it was a count")]
fn to_count(value: f64) -> u64 {
    value as u64
}

type Group = (String, String, String);

/// The errors of the newest dead tasks, the most frequent first: how often, and when last.
async fn latest_errors(view: &View) -> Result<Vec<(Group, (u64, Millis))>, Trouble> {
    let dead = view.app.latest_dead().await.map_err(|problem| view.trouble(problem))?;
    let mut groups: BTreeMap<Group, (u64, Millis)> = BTreeMap::new();
    for task in view.seen(&dead.tasks) {
        let (count, last) = groups.entry(group(&task)).or_default();
        *count += 1;
        *last = (*last).max(task.ended_at.unwrap_or_default());
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, (count, last))| std::cmp::Reverse((*count, *last)));
    Ok(groups)
}

fn group(task: &TaskView) -> Group {
    let error = task.error.as_ref();
    let kind = error.map_or("", |error| error.kind.as_str()).to_owned();
    (task.task.to_string(), kind, error.map(|error| first_line(&errors::without_numbers(&error.message))).unwrap_or_default())
}
