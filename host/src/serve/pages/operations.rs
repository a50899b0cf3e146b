//! Operations (one change of many tasks each) and their progress.

use maud::html;
use taskhost_core::{task::State, text::clean};

use super::{
    Page,
    layout::Nav,
    parts::empty,
    view::{View, escaped},
};
use crate::{config::Scope, serve::operations};

/// `GET /operations`
pub(super) async fn list(view: View) -> Page {
    let now = view.now().await?;
    let all = operations::listed(&view.app, &view.caller, view.app.looks.lately()).await.map_err(|problem| view.trouble(problem))?;
    let content = html! {
        h1 { (view.say("Operations")) }
        section #operations data-part {
            @if all.is_empty() {
                (empty(view.say("No operation was ordered yet. Filter the list of tasks, then act on all that match."), &[]))
            } @else {
                div.scroll { table {
                    thead { tr { th { (view.say("State")) } th { (view.say("What")) } th { (view.say("Filter")) } th { (view.say("Who")) } th.number { (view.say("Changed")) } th.number { (view.say("Looked at")) } th.number { (view.say("When")) } th { span.hidden { (view.say("What to do")) } } } }
                    tbody { @for one in &all {
                        tr data-row {
                            td { (view.pill(one.state.parse().unwrap_or(State::Running))) }
                            td { (clean(one.verb.as_str().unwrap_or_default())) }
                            td { @for (name, value) in one.filter.as_object().into_iter().flatten() { span.pair { (clean(name)) " " b { (clean(value.as_str().unwrap_or_default())) } } " " } @if let Some(error) = &one.error { span.error { (clean(error)) } } }
                            td { (clean(one.by.as_str().unwrap_or_default())) }
                            td.number { (one.done["changed"].as_u64().unwrap_or(0)) } td.number { (one.done["looked"].as_u64().unwrap_or(0)) }
                            td.number { (view.ago(one.ordered_at, now)) }
                            td { @if one.ended_at.is_none() && view.may(Scope::Operate) { (view.button(&format!("/operations/{}", escaped(one.id.as_str())), "stop", view.say("Stop"), false)) } }
                        }
                    } }
                } }
            }
        }
    };
    let live = all.iter().any(|one| one.ended_at.is_none()).then_some("poll");
    Ok(view.page(Nav::Operations, view.say("Operations"), live, &content))
}
