//! The live workers, and what they run.

use maud::html;
use taskhost_core::units;

use super::{
    Page,
    layout::Nav,
    parts::empty,
    view::{View, escaped},
};
use crate::config::Scope;

/// Attempts that are shown of one worker.
const RUNNING: usize = 20;

/// `GET /workers`
pub(super) async fn list(view: View) -> Page {
    let now = view.now().await?;
    let workers = view.workers().await?;
    let content = html! {
        h1 { (view.say("Workers")) }
        section #workers data-part {
            @if workers.is_empty() { (empty(view.say("No worker lives. Start one:"), &["taskhost worker --plugins ./plugins"])) }
            @for worker in &*workers {
                @let running: Vec<_> = worker.running.iter().filter(|one| view.caller.sees_queue(&one.queue) && view.caller.sees_task(&one.task)).collect();
                article.worker {
                    h2 { (worker.host) " " span.note { (worker.id) } @if worker.draining { " " span.pill.paused { "◌ " (view.say("draining")) } } }
                    p {
                        (view.say("up for")) " " (units::age(worker.started_at, now)) " · " (worker.running.len()) "/" (worker.concurrency) " " (view.say("slots in use")) " · "
                        @for (n, queue) in worker.queues.iter().filter(|queue| view.caller.sees_queue(queue)).enumerate() {
                            @if n > 0 { ", " } a href=(view.href(format!("/queues/{}", escaped(queue.as_str())))) { (queue) }
                        }
                    }
                    meter min="0" max=(worker.concurrency) value=(worker.running.len()) aria-label=(view.say("slots in use")) {}
                    @if view.may(Scope::Operate) && !worker.draining {
                        div.acts { (view.button(&format!("/workers/{}", escaped(&worker.id)), "drain", view.say("Drain"), true)) }
                    }
                    @if !running.is_empty() {
                        table { tbody {
                            @for one in running.iter().take(RUNNING) {
                                tr data-row {
                                    td { a href=(view.href(format!("/tasks/{}?queue={}", escaped(one.id.as_str()), escaped(one.queue.as_str())))) { (one.task) } }
                                    td.sub { (one.id) }
                                    td { (one.queue) }
                                    td.number { (units::age(one.since, now)) }
                                }
                            }
                        } }
                    }
                }
            }
        }
    };
    Ok(view.page(Nav::Workers, &format!("{} {}", workers.len(), view.say("Workers")), Some("/v1/events"), &content))
}
