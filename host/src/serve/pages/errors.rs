//! Dead tasks in groups: the same body, kind, message and version.

use std::collections::BTreeMap;

use maud::html;
use taskhost_core::{
    task::{Millis, State},
    units,
};

use super::{
    Page,
    layout::Nav,
    parts::{empty, first_line},
    view::{View, escaped},
};
use crate::{config::Scope, ops::TaskFilter};

/// How many dead tasks are looked at, and how many at once.
const LOOKED: usize = 2_000;
const AT_ONCE: usize = 500;
/// Groups that are shown.
const SHOWN: usize = 100;

#[derive(Default)]
struct Group {
    count: u64,
    last: Millis,
    /// A part of the message that the filter of the list finds in all of the group.
    words: String,
}

/// `GET /errors`
pub(super) async fn show(view: View) -> Page {
    let now = view.now().await?;
    let queue = view.query.queue().map_err(|problem| view.trouble(problem))?;
    if let Some(queue) = &queue {
        view.caller.needs_queue(queue).map_err(|problem| view.trouble(problem))?;
    }
    let filter = TaskFilter { states: vec![State::Dead], queue, ..TaskFilter::default() };
    let (mut groups, mut looked, mut from) = (BTreeMap::<(String, String, String, String), Group>::new(), 0, None);
    loop {
        let page = view.ops()?.page(&filter, from.as_deref(), AT_ONCE).await.map_err(|error| view.trouble(error))?;
        looked += page.looked;
        for task in page.tasks.into_iter().filter(|task| view.caller.sees(task)).map(|task| view.masked(task)) {
            let (kind, message) =
                task.error.as_ref().map_or_else(Default::default, |error| (error.kind.as_str().to_owned(), error.message.clone()));
            let line = message.lines().next().unwrap_or_default();
            let key = (task.task.to_string(), kind, first_line(&without_numbers(line)), task.version.clone().unwrap_or_default());
            let group = groups.entry(key).or_default();
            group.count += 1;
            if task.ended_at.unwrap_or_default() >= group.last {
                group.last = task.ended_at.unwrap_or_default();
                line.split(|c: char| c.is_ascii_digit())
                    .max_by_key(|part| part.len())
                    .unwrap_or_default()
                    .trim()
                    .clone_into(&mut group.words);
            }
        }
        from = page.next;
        if from.is_none() || looked >= LOOKED {
            break;
        }
    }
    let mut shown: Vec<_> = groups.into_iter().collect();
    shown.sort_by_key(|(_, group)| std::cmp::Reverse((group.count, group.last)));
    let content = html! {
        h1 { (view.say("Errors")) }
        @if shown.is_empty() { (empty(view.say("Nothing is dead. A task is, when its last attempt has failed; it then waits here for you."), &[])) }
        @else {
            div.scroll { table {
                thead { tr { th.number { (view.say("How many")) } th { (view.say("Task")) } th { (view.say("Error")) } th { (view.say("Version")) } th.number { (view.say("Last")) } th { span.hidden { (view.say("What to do")) } } } }
                tbody {
                    @for ((task, kind, message, version), group) in shown.iter().take(SHOWN) {
                        @let words = if view.sees_payload() { group.words.clone() } else { String::new() };
                        @let link = format!("/tasks?state=dead&task={}{}", escaped(task), if words.is_empty() { String::new() } else { format!("&error={}", escaped(&words)) });
                        tr data-row {
                            td.number { (units::show_count(group.count)) }
                            td { a href=(view.href(&link)) { (task) } }
                            td.why { span.error { (kind) } " " (message) }
                            td { (version) }
                            td.number { (view.ago(group.last, now)) }
                            td { @if view.may(Scope::Operate) {
                                form.act method="post" action=(view.href("/tasks")) {
                                    input type="hidden" name="all" value="rehearse"; input type="hidden" name="state" value="dead"; input type="hidden" name="task" value=(task);
                                    @if !words.is_empty() { input type="hidden" name="error" value=(words); }
                                    button name="do" value="retry" { (view.say("Retry")) "…" }
                                }
                            } }
                        }
                    }
                }
            } }
            p.note { (view.say("Looked at")) " " (units::show_count(looked as u64)) @if from.is_some() { " · " (view.say("there are more")) } }
        }
    };
    Ok(view.page(Nav::Errors, &format!("{} {}", shown.len(), view.say("Errors")), None, &content))
}

/// Numbers differ between errors that are the same.
pub(super) fn without_numbers(line: &str) -> String {
    let mut text = String::new();
    for c in line.chars() {
        if !c.is_ascii_digit() {
            text.push(c);
        } else if !text.ends_with('#') {
            text.push('#');
        }
    }
    text
}
