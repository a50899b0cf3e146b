//! The bodies that workers offer: their documentation, and a form to enqueue one.

use maud::{Markup, html};
use taskhost_core::{
    catalogue::{Offer, signature},
    task::TaskName,
    text::{clean, clean_lines},
};

use super::{
    Page, enqueue_form,
    layout::{Nav, Trouble},
    parts::empty,
    view::{View, escaped},
};
use crate::{
    config::Scope,
    serve::{
        problem::{self, Problem},
        query::Query,
        segment::Segment,
    },
};

/// `GET /bodies`
pub(super) async fn list(view: View) -> Page {
    let catalogue = view.ops()?.catalogue().await.map_err(|error| view.trouble(error))?;
    let offers: Vec<_> = catalogue.offers.values().filter(|offer| view.caller.sees_task(&offer.body.name)).collect();
    let content = html! {
        h1 { (view.say("Bodies")) }
        @if offers.is_empty() { (empty(view.say("No worker has offered a body yet. Drop a plugin into its directory:"), &["taskhost worker --plugins ./plugins", "cp math.wasm plugins/"])) }
        @else {
            div.scroll { table {
                thead { tr { th { (view.say("Body")) } th { (view.say("About")) } th { (view.say("Plugin")) } } }
                tbody { @for offer in &offers {
                    tr data-row {
                        td { a href=(view.href(format!("/bodies/{}", escaped(offer.body.name.as_str())))) { code { (clean(&signature(&offer.body))) } } }
                        td { (clean(offer.body.doc.lines().next().unwrap_or_default())) }
                        td { (clean(&offer.code.plugin)) " " span.note { (clean(&offer.code.version)) } }
                    }
                } }
            } }
        }
    };
    Ok(view.page(Nav::Bodies, &format!("{} {}", offers.len(), view.say("Bodies")), None, &content))
}

/// The offer of a body, if this reader may see it.
pub(super) async fn offered(view: &View, name: &str) -> Result<Offer, Trouble> {
    let unknown = || view.trouble(Problem::new(&problem::NOT_FOUND, format!("no worker offers a body `{name}`")));
    let name = TaskName::new(name).map_err(|_| unknown())?;
    view.caller.needs_task(&name).map_err(|problem| view.trouble(problem))?;
    let mut catalogue = view.ops()?.catalogue().await.map_err(|error| view.trouble(error))?;
    catalogue.offers.remove(&name).ok_or_else(unknown)
}

/// `GET /bodies/{task}`
pub(super) async fn show(view: View, Segment(name): Segment) -> Page {
    let offer = offered(&view, &name).await?;
    Ok(page(&view, &offer, &Query::of_pairs(Vec::new()), None))
}

/// The page of a body, with its form as it was filled in, and the reason why the form was refused.
pub(super) fn page(view: &View, offer: &Offer, fields: &Query, wrong: Option<&str>) -> axum::response::Response {
    let body = &offer.body;
    let content: Markup = html! {
        h1 { code { (clean(&signature(body))) } }
        p.note { (clean(&offer.code.plugin)) " " (clean(&offer.code.version)) " · " a href=(view.href(format!("/tasks?task={}", escaped(body.name.as_str())))) { (view.say("Tasks")) } }
        pre.doc { (clean_lines(&body.doc)) }
        @if view.may(Scope::Enqueue) {
            h2 { (view.say("Enqueue")) }
            @if let Some(why) = wrong { p.wrong role="alert" { (clean(why)) } }
            form.enqueue method="post" action=(view.href(format!("/bodies/{}", escaped(body.name.as_str())))) {
                (enqueue_form::fields(view, body, fields))
                details {
                    summary { (view.say("More")) }
                    @for (name, label, hint) in [("queue", view.say("Queue"), "default"), ("delay", view.say("Delay"), "10m"), ("retries", view.say("Retries"), "3"), ("timeout", view.say("Timeout"), "60s"), ("id", view.say("Id"), "")] {
                        label { (label) input name=(name) value=(fields.text(name).unwrap_or_default()) placeholder=(hint) autocomplete="off"; }
                    }
                }
                div.acts { button.primary { (view.say("Enqueue")) } }
            }
        }
    };
    view.page(Nav::Bodies, body.name.as_str(), None, &content)
}
