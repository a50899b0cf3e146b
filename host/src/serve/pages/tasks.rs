//! The list of tasks: the filter bar is the address of the page. Buttons change the selected tasks, or all that match.

use std::time::{Duration, Instant};

use axum::response::Response;
use maud::{Markup, html};
use taskhost_core::{
    task::{State, TaskId, TaskName},
    units,
};

use super::{
    Page,
    layout::{Nav, Trouble},
    login::to,
    parts::empty,
    view::{View, escaped},
};
use crate::{
    config::Scope,
    ops::{Change, Operation, TaskFilter},
    serve::{operations, tasks},
};

/// Tasks of a page: what a large screen shows at once. A slow device needs 5 ms and more for each row.
const PAGE: usize = 30;
/// How long the server goes on looking for a task that matches, before it shows what there is.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many tasks a rehearsal looks at.
const REHEARSED: usize = 100_000;

/// `GET /tasks`
pub(super) async fn list(view: View) -> Page {
    let now = view.now().await?;
    let filter = tasks::filter(&view.query, &view.caller, now).map_err(|problem| view.trouble(problem))?;
    let mut from =
        view.query.text("cursor").map(|cursor| view.app.cursors.open(cursor)).transpose().map_err(|problem| view.trouble(problem))?;
    let is_first = from.is_none();
    let (mut found, mut looked, begun) = (Vec::new(), 0, Instant::now());
    loop {
        let page = view.listed(&filter, from.as_deref(), PAGE - found.len()).await?;
        looked += page.looked;
        found.extend(view.seen(&page.tasks));
        from.clone_from(&page.next);
        if from.is_none() || found.len() >= PAGE || begun.elapsed() >= PATIENCE {
            break;
        }
    }
    let next = from.map(|next| view.app.cursors.seal(&next));
    let pairs = chosen(&view);
    let content = html! {
        h1 { (view.say("Tasks")) }
        (bar(&view, &filter))
        section #tasks data-part[is_first] data-list=(view.say("new")) {
            @if found.is_empty() {
                @if next.is_some() { p.note { (view.say("Nothing among these matches; there are more.")) } }
                @else if pairs.is_empty() { (empty(view.say("There is no task yet. Enqueue one:"), &["taskhost enqueue add 1 1"])) }
                @else { (empty(view.say("No task matches."), &[])) }
            } @else {
                div.scroll { table.tasks { (view.task_heads()) tbody { @for task in &found { (view.task_row(task, now)) } } } }
            }
        }
        p.note {
            (view.say("Looked at")) " " (units::show_count(looked as u64)) ". "
            @if let Some(next) = &next { a.next href=(view.href(with_cursor(&pairs, next))) { (view.say("Go on")) } }
        }
        @if view.may(Scope::Operate) { (actions(&view, &pairs)) }
    };
    let title = view.query.text("state").map_or_else(|| view.say("Tasks").to_owned(), |state| format!("{} {state}", view.say("Tasks")));
    Ok(view.page(Nav::Tasks, &title, is_first.then_some("/v1/events"), &content))
}

/// The filter of the address: names and values, without where the list goes on.
fn chosen(view: &View) -> Vec<(&'static str, String)> {
    tasks::FILTER.iter().filter_map(|name| Some((*name, view.query.text(name)?.to_owned()))).collect()
}

fn with_cursor(pairs: &[(&'static str, String)], cursor: &str) -> String {
    let pairs = pairs.iter().map(|(name, value)| format!("{name}={}&", escaped(value)));
    format!("/tasks?{}cursor={cursor}", pairs.collect::<String>())
}

fn bar(view: &View, filter: &TaskFilter) -> Markup {
    let text = |name: &str| view.query.text(name).unwrap_or_default().to_owned();
    let field = |name: &'static str, label: &'static str| html! { label { (label) input name=(name) value=(text(name)) autocomplete="off" spellcheck="false"; } };
    html! {
        form.bar action=(view.href("/tasks")) {
            fieldset.states {
                legend.hidden { (view.say("State")) }
                @for state in State::ALL {
                    @let is_chosen = filter.states.len() == 1 && filter.states.contains(&state);
                    button name="state" value=(if is_chosen { "" } else { state.as_str() }) aria-pressed=(is_chosen.to_string()) { (view.pill(state)) }
                }
            }
            // Keep the filters that the bar has no field for.
            @if filter.states.len() > 1 { input type="hidden" name="state" value=(text("state")); }
            (field("task", view.say("Task")))
            (field("queue", view.say("Queue")))
            (field("tag", view.say("Tags")))
            @if view.sees_payload() {
                (field("error", view.say("Error")))
                (field("args", view.say("Arguments")))
            }
            details.more open[["from", "to", "plugin", "worker", "header"].iter().any(|name| view.query.text(name).is_some())] {
                summary { (view.say("More")) }
                (field("from", view.say("From")))
                (field("to", view.say("Until")))
                (field("plugin", view.say("Plugin")))
                (field("worker", view.say("Worker")))
                @if view.sees_payload() { (field("header", view.say("Header"))) }
            }
            button.primary name="state" value=(text("state")) { (view.say("Filter")) }
            a href=(view.href("/tasks")) { (view.say("Clear")) }
        }
    }
}

/// The buttons for the selected tasks, and for all that match.
fn actions(view: &View, pairs: &[(&'static str, String)]) -> Markup {
    let buttons = [("retry", view.say("Retry")), ("cancel", view.say("Cancel")), ("delete", view.say("Delete"))];
    html! {
        form #selected .selection method="post" action=(view.href("/tasks")) {
            span { (view.say("Selected:")) } " "
            @for (act, label) in buttons { button name="do" value=(act) .danger[act == "delete"] { (label) } " " }
        }
        @if !pairs.is_empty() {
            form.all action=(view.href("/tasks")) method="post" {
                input type="hidden" name="all" value="rehearse";
                @for (name, value) in pairs { input type="hidden" name=(name) value=(value); }
                span { (view.say("All that match, on every page:")) } " "
                @for (act, label) in buttons { button.plain name="do" value=(act) { (label) "…" } " " }
            }
        }
    }
}

/// The page that says how many tasks an operation would change, before it is ordered.
pub(super) async fn rehearsed(view: &View, operation: &Operation) -> Result<Response, Trouble> {
    let chooser = operations::chooser(operation, &view.caller, view.now().await?).map_err(|problem| view.trouble(problem))?;
    let (matches, is_complete) = view.ops()?.rehearse(operation, &chooser, REHEARSED).await.map_err(|error| view.trouble(error))?;
    let (word, label) = match operation.verb {
        Change::Cancel => ("cancel", view.say("Cancel")),
        Change::Retry => ("retry", view.say("Retry")),
        Change::Delete => ("delete", view.say("Delete")),
    };
    let content = html! {
        h1 { (label) " " (units::show_count(matches)) @if !is_complete { "+" } " " (view.say("tasks")) "?" }
        p { @for (name, value) in &operation.filter { span.pair { (name) " " b { (value) } } " " } }
        p.note { (view.say("It goes on in the background, also if this server stops. What ends or begins meanwhile is left alone.")) }
        form.acts method="post" action=(view.href("/tasks")) {
            input type="hidden" name="all" value="order";
            input type="hidden" name="do" value=(word);
            @for (name, value) in &operation.filter { input type="hidden" name=(name) value=(value); }
            button.danger { (label) " " (units::show_count(matches)) @if !is_complete { "+" } }
            " " a href=(view.href(format!("/tasks?{}", form_urlencoded::Serializer::new(String::new()).extend_pairs(&operation.filter).finish()))) { (view.say("Back")) }
        }
    };
    Ok(view.page(Nav::Tasks, label, None, &content))
}

/// `GET /search`
pub(super) async fn search(view: View) -> Page {
    let words = view.query.text("q").unwrap_or_default().trim().to_owned();
    let go = |path: String| Ok(to(&view.href(path)));
    if words.is_empty() {
        return go("/tasks".to_owned());
    }
    let ops = view.ops()?;
    if let Ok(id) = TaskId::new(&*words) {
        match ops.task(None, &id).await {
            Ok(found) if view.caller.sees(&found) => return Ok(to(&view.task_link(&found))),
            Err(crate::ops::OpsError::Broker(error)) if error.is_transient() => return Err(view.trouble(error)),
            _ => {}
        }
    }
    let queues = ops.queues().await.map_err(|error| view.trouble(error))?;
    if queues.iter().any(|queue| queue.queue.as_str() == words && view.caller.sees_queue(&queue.queue)) {
        return go(format!("/queues/{}", escaped(&words)));
    }
    let catalogue = ops.catalogue().await.map_err(|error| view.trouble(error))?;
    if TaskName::new(&*words).is_ok_and(|name| catalogue.offers.contains_key(&name) && view.caller.sees_task(&name)) {
        return go(format!("/tasks?task={}", escaped(&words)));
    }
    if view.sees_payload() {
        go(format!("/tasks?state=dead&error={}", escaped(&words)))
    } else {
        go(format!("/tasks?task={}", escaped(&words)))
    }
}
