//! The notes of changes, newest first.

use maud::html;
use taskhost_core::text::clean;

use super::{Page, layout::Nav, parts::empty, view::View};
use crate::{config::Scope, serve::audit};

/// `GET /audit`
pub(super) async fn list(view: View) -> Page {
    view.caller.needs(Scope::Admin).map_err(|problem| view.trouble(problem))?;
    let now = view.now().await?;
    let audit::Page { notes, next } = audit::page(&view.app, &view.query, audit::PAGE).await.map_err(|problem| view.trouble(problem))?;
    let content = html! {
        h1 { (view.say("Audit")) }
        @if notes.is_empty() { (empty(view.say("Nothing was changed by HTTP yet. Every change is noted here with the token that made it."), &[])) }
        @else {
            div.scroll { table {
                thead { tr { th { (view.say("When")) } th { (view.say("Who")) } th { (view.say("From")) } th { (view.say("What")) } th { (view.say("About")) } } }
                tbody { @for noted in &notes {
                    tr data-row {
                        td { (view.ago(noted.at, now)) }
                        td { (clean(&noted.note.by)) } td { (clean(&noted.note.from)) } td { code { (clean(&noted.note.what)) } }
                        td { @for (name, value) in &noted.note.about { span.pair { (clean(name)) " " b { (clean(value)) } } " " } }
                    }
                } }
            } }
        }
        @if let Some(next) = next { p { a.next href=(view.href(format!("/audit?cursor={next}"))) { (view.say("Older")) } } }
    };
    Ok(view.page(Nav::Audit, view.say("Audit"), None, &content))
}
