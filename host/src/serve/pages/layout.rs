//! The frame of every page: navigation, search, the result of the last form, and the headers that keep foreign content out.

use std::sync::Arc;

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use maud::{DOCTYPE, Markup, html};

use super::{
    assets,
    view::{View, escaped},
    words::Words,
};
use crate::{
    config::Scope,
    serve::{app::App, problem::Problem},
};

/// Only this server's own files are loaded, and no page of another site may frame it.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; \
     frame-ancestors 'none'",
);

/// A place in the navigation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nav {
    Overview,
    Queues,
    Tasks,
    Flows,
    Errors,
    Schedules,
    Workers,
    Plugins,
    Bodies,
    Operations,
    Audit,
    Settings,
}

impl Nav {
    /// The navigation: what runs, what runs it, what was changed. Limits will stand after the queues.
    fn groups(words: Words) -> [(&'static str, &'static [Self]); 3] {
        [
            (words.say("Work"), &[Self::Overview, Self::Queues, Self::Tasks, Self::Flows, Self::Errors, Self::Schedules]),
            (words.say("Runtime"), &[Self::Workers, Self::Plugins, Self::Bodies]),
            (words.say("Control"), &[Self::Operations, Self::Audit, Self::Settings]),
        ]
    }

    /// Its name, by its path.
    pub(super) fn name_of(path: &str, words: Words) -> Option<&'static str> {
        let all = Self::groups(words).into_iter().flat_map(|(_, places)| places);
        all.map(|place| place.about(words)).find(|(own, ..)| *own == path).map(|(_, name, _)| name)
    }

    /// Its path, its name, and the key that leads there after `g`.
    fn about(self, words: Words) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Overview => ("/", words.say("Overview"), "o"),
            Self::Queues => ("/queues", words.say("Queues"), "q"),
            Self::Tasks => ("/tasks", words.say("Tasks"), "t"),
            Self::Flows => ("/flows", words.say("Flows"), "f"),
            Self::Errors => ("/errors", words.say("Errors"), "e"),
            Self::Schedules => ("/schedules", words.say("Schedules"), "s"),
            Self::Workers => ("/workers", words.say("Workers"), "w"),
            Self::Plugins => ("/plugins", words.say("Plugins"), "p"),
            Self::Bodies => ("/bodies", words.say("Bodies"), "b"),
            Self::Operations => ("/operations", words.say("Operations"), "r"),
            Self::Audit => ("/audit", words.say("Audit"), "a"),
            Self::Settings => ("/settings", words.say("Settings"), "c"),
        }
    }
}

impl View {
    /// Leads to one of the queues.
    fn switcher(&self) -> Markup {
        let known = self.app.looks.known_queues();
        let queues: Vec<_> =
            known.iter().flat_map(|all| all.iter()).map(|view| &view.queue).filter(|queue| self.caller.sees_queue(queue)).collect();
        html! {
            @if queues.len() > 1 {
                form.switch action=(self.href("/queues")) {
                    select name="to" aria-label=(self.say("Queue")) {
                        @for queue in queues { option selected[self.path == format!("/queues/{}", escaped(queue.as_str()))] { (queue) } }
                    }
                    button { (self.say("Go")) }
                }
            }
        }
    }

    /// A page with its frame. `live`: the stream of events after which the script reads the page again, such as `/v1/events`.
    pub(super) fn page(&self, nav: Nav, title: &str, live: Option<&str>, content: &Markup) -> Response {
        let is_open = |place: Nav| place != Nav::Audit || self.caller.has(Scope::Admin);
        let body = html! {
            a.skip href="#content" { (self.say("Skip to the content")) }
            header.side {
                a.brand href=(self.href("/")) { "taskhost" }
                nav aria-label=(self.say("Pages")) {
                    @for (n, (group, places)) in Nav::groups(self.words).into_iter().enumerate() {
                        div role="group" aria-labelledby=(format!("group-{n}")) {
                            span.group #(format!("group-{n}")) { (group) }
                            @for place in places.iter().copied().filter(|place| is_open(*place)) {
                                @let (path, name, key) = place.about(self.words);
                                a href=(self.href(path)) data-go=(key) aria-current=[(place == nav).then_some("page")] { (name) }
                            }
                        }
                    }
                }
                div.foot {
                    @if self.app.settings.http.read_only { p.note { (self.say("read-only")) } }
                    form method="post" action=(self.href("/language")) {
                        input type="hidden" name="back" value=(self.path);
                        @let other = if self.words == Words::English { ("zh", "中文") } else { ("en", "English") };
                        button.plain name="language" value=(other.0) lang=(other.0) { (other.1) }
                    }
                    @if !self.app.access.is_open() {
                        form method="post" action=(self.href("/logout")) {
                            button.plain { (self.say("Log out")) " " (self.caller.name()) }
                        }
                    }
                }
            }
            main #content tabindex="-1" {
                div.top {
                    form.search role="search" action=(self.href("/search")) {
                        input type="search" name="q" placeholder=(self.say("Id, task, queue or words of an error")) aria-label=(self.say("Search")) autocomplete="off" spellcheck="false";
                    }
                    (self.switcher())
                }
                p #banner .banner role="status" hidden { (self.say("The broker does not answer. Shown is what was last known.")) }
                @if let Some(answer) = self.answer() { (answer) }
                (content)
            }
            dialog #keys aria-label=(self.say("Keys")) {
                h2 { (self.say("Keys")) }
                dl.keys {
                    dt { kbd { "/" } } dd { (self.say("search")) }
                    dt { kbd { "g" } " " kbd { "o q t f e s w p b" } } dd { (self.say("go to a page")) }
                    dt { kbd { "j" } " " kbd { "k" } } dd { (self.say("next and previous row")) }
                    dt { kbd { "Enter" } } dd { (self.say("open the row")) }
                    dt { kbd { "x" } } dd { (self.say("select the row")) }
                    dt { kbd { "?" } } dd { (self.say("this list")) }
                }
                form method="dialog" { button { (self.say("Close")) } }
            }
        };
        let live = live.map(|path| self.href(path));
        document(&self.app, self.words, title, live.as_deref(), StatusCode::OK, &body)
    }

    pub(super) fn trouble(&self, problem: impl Into<Problem>) -> Trouble {
        Trouble(Box::new((Arc::clone(&self.app), self.words, problem.into())))
    }
}

/// A problem, shown as a page.
pub(super) struct Trouble(Box<(Arc<App>, Words, Problem)>);

impl Trouble {
    pub(super) fn of(app: &Arc<App>, headers: &HeaderMap, problem: Problem) -> Self {
        Self(Box::new((Arc::clone(app), Words::of(headers), problem)))
    }
}

impl IntoResponse for Trouble {
    fn into_response(self) -> Response {
        let (app, words, problem) = *self.0;
        page_of(&app, words, &problem)
    }
}

/// A problem that is found before the caller is known.
pub(super) fn trouble(app: &App, headers: &HeaderMap, problem: &Problem) -> Response {
    page_of(app, Words::of(headers), problem)
}

fn page_of(app: &App, words: Words, problem: &Problem) -> Response {
    let said = problem.to_json();
    let text = |name: &str| said[name].as_str().unwrap_or_default().to_owned();
    let status = problem.kind().status;
    let body = html! {
        main.alone #content {
            h1 { (text("title")) }
            p { (text("detail")) }
            @if status == StatusCode::SERVICE_UNAVAILABLE { p { (words.say("This page tries again by itself.")) } }
            p { a href=(app.href("/")) { (words.say("Overview")) } }
        }
    };
    let mut response = document(app, words, &text("title"), None, status, &body);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert("refresh", HeaderValue::from_static("3"));
    }
    response
}

/// A whole document.
pub(super) fn document(app: &App, words: Words, title: &str, live: Option<&str>, status: StatusCode, body: &Markup) -> Response {
    let page = html! {
        (DOCTYPE)
        html lang=(words.code()) {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · taskhost" }
                link rel="stylesheet" href=(app.href(&format!("/assets/{}", assets::STYLE.name())));
                link rel="icon" href=(app.href(&format!("/assets/{}", assets::ICON.name()))) type="image/svg+xml";
                script type="module" src=(app.href(&format!("/assets/{}", assets::MODULE.name()))) {}
            }
            body data-live=[live] { (body) }
        }
    };
    let mut response = Response::new(Body::from(page.into_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}
