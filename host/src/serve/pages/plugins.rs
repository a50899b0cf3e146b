//! The plugins as the live workers see them.

use std::collections::BTreeMap;

use maud::{Markup, html};
use taskhost_core::{catalogue::PluginStatus, task::State, text::clean, units};

use super::{
    Page,
    layout::{Nav, Trouble},
    parts::empty,
    view::{View, escaped},
};
use crate::{
    config::Scope,
    ops::{TaskFilter, seen_plugins},
};

/// How many ended tasks of a plugin are looked at for its failure rates.
const LATEST: usize = 500;

/// `GET /plugins`
pub(super) async fn list(view: View) -> Page {
    let plugins = seen_plugins(&view.workers().await?);
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
                    (policy(&view, &info.granted, &info.lacking))
                    (rates(&view, name).await?)
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

/// What the policy grants a plugin, and what it wants beyond that.
fn policy(view: &View, granted: &[String], lacking: &[String]) -> Markup {
    html! {
        @if !granted.is_empty() { p { span.note { (view.say("Granted:")) } " " span.pair { (clean(&granted.join(" · "))) } } }
        @if !lacking.is_empty() { p { span.error { (view.say("Not granted, but wanted:")) } " " span.pair { (clean(&lacking.join(" · "))) } } }
    }
}

/// The share of dead tasks by version, among the newest ended ones.
async fn rates(view: &View, plugin: &str) -> Result<Markup, Trouble> {
    let states = vec![State::Succeeded, State::Dead];
    let filter = TaskFilter { states, plugin: Some(plugin.to_owned()), ..TaskFilter::default() };
    let page = view.ops()?.page(&filter, None, LATEST).await.map_err(|error| view.trouble(error))?;
    let mut versions: BTreeMap<(String, String), (u64, u64)> = BTreeMap::new();
    for task in page.tasks.into_iter().filter(|task| view.caller.sees(task)) {
        let digest = task.digest.unwrap_or_default();
        let key = (task.version.unwrap_or_default(), digest.get(..12).unwrap_or(&digest).to_owned());
        let (all, dead) = versions.entry(key).or_default();
        *all += 1;
        *dead += u64::from(task.state == State::Dead);
    }
    Ok(html! {
        @if !versions.is_empty() {
            table.narrow {
                thead { tr { th { (view.say("Version")) } th { (view.say("Code")) } th.number { (view.say("Ended")) } th.number { (view.say("dead")) } } }
                tbody { @for ((version, digest), (all, dead)) in &versions {
                    tr { td { (clean(version)) } td { code { (clean(digest)) } } td.number { (units::show_count(*all)) } td.number { (dead * 100 / all) " %" } }
                } }
            }
        }
    })
}
