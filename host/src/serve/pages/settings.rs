//! The settings of this server that a reader may know, and its hooks.

use maud::html;
use taskhost_core::units;

use super::{Page, layout::Nav, parts::empty, view::View};
use crate::config::Scope;

/// `GET /settings`
pub(super) async fn show(view: View) -> Page {
    let health = view.app.health().await.map_err(|problem| view.trouble(problem))?;
    let settings = &view.app.settings;
    let hooks = view.ops()?.hooks(&settings.hooks).await.map_err(|error| view.trouble(error))?;
    let bounds = &settings.bounds;
    let rows = [
        ("broker", health.about.clone()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("result_ttl", units::show_duration(bounds.result_ttl)),
        ("payload_limit", units::show_size(bounds.payload_limit as u64)),
        ("dead_count", bounds.dead_count.to_string()),
        ("dead_age", units::show_duration(bounds.dead_age)),
        ("http_read_only", settings.http.read_only.to_string()),
        ("http_connections", settings.http.connections.to_string()),
    ];
    let content = html! {
        h1 { (view.say("Settings")) }
        @for warning in &health.warnings { p.warning { (warning) } }
        table { tbody { @for (name, value) in &rows { tr { th scope="row" { code { (name) } } td { (value) } } } } }
        h2 { (view.say("Hooks")) }
        @if hooks.is_empty() { (empty(view.say("No hook is set. One tells a body or a web address of the ends of tasks:"), &["[hooks.pager]\non = [\"task.dead\"]\nurl = \"https://example.com/hook\""])) }
        @else {
            table {
                thead { tr { th { (view.say("Hook")) } th { (view.say("Events")) } th { (view.say("Target")) } th { span.hidden { (view.say("What to do")) } } } }
                tbody { @for hook in &hooks { tr {
                    td { (hook.name) } td { (hook.on.join(", ")) }
                    td { @if view.caller.has(Scope::Admin) { (hook.target) } @else { span.note { (view.say("masked")) } } }
                    td { @if hook.disabled { span.pill.dead { "✕ " (view.say("disabled")) } } }
                } } }
            }
        }
        h2 { (view.say("You")) }
        p { b { (view.caller.name()) } ": " (view.caller.scopes().join(", ")) }
    };
    Ok(view.page(Nav::Settings, view.say("Settings"), None, &content))
}
