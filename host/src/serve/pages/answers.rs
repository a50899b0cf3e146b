//! What the last form did, as a line above the page: a word, a link to what became of it, and a button that takes it back where there is one.

use maud::{Markup, html};
use percent_encoding::percent_decode_str;
use taskhost_core::text::clean;

use super::{
    layout::Nav,
    login::own_path,
    view::{View, escaped},
};
use crate::config::Scope;

impl View {
    /// The line of the form that led to this page, if one did.
    pub(super) fn answer(&self) -> Option<Markup> {
        let word = self.query.text("done")?;
        let said = self.done(word)?;
        let of = own_path(self.query.text("of").unwrap_or(&self.path));
        // A task is found at once if its address names its queue.
        let queue = self.query.text("queue").filter(|_| of == self.path).map(|queue| format!("?queue={}", escaped(queue)));
        Some(html! {
            div.done role="status" {
                (said) " " a href=(self.href(format!("{of}{}", queue.unwrap_or_default()))) { (self.name(of)) }
                @if let Some(undo) = self.undo(word) { " " (undo) }
            }
        })
    }

    /// What stands at a path: the name in it, else the name of the page.
    fn name(&self, path: &str) -> String {
        let path = path.split('?').next().unwrap_or_default();
        match path[1..].split_once('/') {
            Some((_, name)) => clean(&percent_decode_str(name).decode_utf8_lossy()),
            None => Nav::name_of(path, self.words).unwrap_or(path).to_owned(),
        }
    }

    /// The button that takes the change back.
    fn undo(&self, word: &str) -> Option<Markup> {
        let (scope, act, key) = match (self.path.split('/').nth(1)?, word) {
            ("queues" | "flows", "paused") => (Scope::Operate, "resume", None),
            ("queues" | "flows", "resumed") => (Scope::Operate, "pause", None),
            ("schedules", "paused") => (Scope::Schedule, "resume", None),
            ("schedules", "resumed") => (Scope::Schedule, "pause", None),
            ("tasks", "edited") => (Scope::Operate, "undo", Some(self.query.text("undo")?)),
            _ => return None,
        };
        let queue = self.query.text("queue").map(|queue| format!("?queue={}", escaped(queue))).unwrap_or_default();
        self.may(scope).then(|| {
            html! {
                form.act method="post" action=(self.href(format!("{}{queue}", self.path))) {
                    input type="hidden" name="do" value=(act);
                    @if let Some(key) = key { input type="hidden" name="key" value=(key); }
                    button { (self.say("Undo")) }
                }
            }
        })
    }

    fn done(&self, word: &str) -> Option<&'static str> {
        Some(match word {
            "paused" => self.say("Paused. Nothing more starts; what runs goes on."),
            "resumed" => self.say("Resumed."),
            "purged" => self.say("All waiting tasks are deleted."),
            "cancelled" => self.say("Cancelled."),
            "asked" => self.say("Asked to stop. It has a few seconds to end by itself."),
            "ready" => self.say("Ready: it runs as soon as a worker has room."),
            "deleted" => self.say("Deleted."),
            "edited" => self.say("The arguments are changed."),
            "fired" => self.say("Enqueued its task."),
            "removed" => self.say("Removed."),
            "draining" => self.say("Asked to drain. It hears of it within some seconds."),
            "rolled-back" => self.say("Went back to the version before."),
            "ordered" => self.say("Ordered. It goes on in the background."),
            "stopped" => self.say("Stopped; what was changed stays so."),
            "enqueued" => self.say("Enqueued."),
            "stopping" => self.say("Asked to stop. What has succeeded is undone."),
            "goes-on" => self.say("Goes on: what failed runs again."),
            "signalled" => self.say("The flow has the signal."),
            "unchanged" => self.say("Nothing was changed: its state does not allow it."),
            _ => return None,
        })
    }
}
