//! The plugins as the live workers see them.

use maud::html;
use taskhost_core::{catalogue::PluginStatus, text::clean};

use super::{
    Page,
    layout::Nav,
    parts::empty,
    view::{View, escaped},
};
use crate::config::Scope;

/// `GET /plugins`
pub(super) async fn list(view: View) -> Page {
    let plugins = view.ops()?.plugins().await.map_err(|error| view.trouble(error))?;
    let content = html! {
        h1 { (view.say("Plugins")) }
        section #plugins data-part {
            @if plugins.is_empty() { (empty(view.say("No live worker sees a plugin. Drop one into its directory:"), &["cp math.wasm plugins/", "taskhost plugin new my-tasks"])) }
            @for seen in &plugins {
                @let info = &seen.info;
                @let name = info.file.trim_end_matches(".wasm");
                article.plugin {
                    h2 {
                        (clean(&info.file)) " "
                        @match info.status {
                            PluginStatus::Serving => span.pill.succeeded { "✓ " (view.say("serves")) },
                            PluginStatus::Loading => span.pill.running { "◌ " (view.say("loading")) },
                            PluginStatus::Failed => span.pill.dead { "✕ " (view.say("refused")) },
                            PluginStatus::RolledBack => span.pill.parked { "↶ " (view.say("rolled back")) },
                        }
                    }
                    @if let Some(code) = &info.serving { p { (view.say("serves")) " " b { (clean(&code.version)) } " " code { (clean(code.digest.get(..12).unwrap_or(&code.digest))) } " · " (seen.workers.len()) " " (view.say("Workers")) } }
                    @if let Some(error) = &info.error { p.warning { (clean(error)) } }
                    @for warning in &info.warnings { p.note { (clean(warning)) } }
                    @if let Some(description) = &info.description {
                        p { (clean(description.doc.lines().next().unwrap_or_default())) }
                        p { @for body in description.bodies.iter().filter(|body| view.caller.sees_task(&body.name)) { a href=(view.href(format!("/bodies/{}", escaped(body.name.as_str())))) { (body.name) } " " } }
                    }
                    div.acts {
                        a href=(view.href(format!("/tasks?plugin={}", escaped(name)))) { (view.say("Tasks")) }
                        @if view.may(Scope::Admin) { (view.button(&format!("/plugins/{}", escaped(name)), "rollback", view.say("Roll back"), true)) }
                    }
                }
            }
        }
    };
    Ok(view.page(Nav::Plugins, &format!("{} {}", plugins.len(), view.say("Plugins")), Some("poll"), &content))
}
