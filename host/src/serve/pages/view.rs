//! The reader of a page, and this server.

use std::{
    fmt::Display,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, header, request::Parts},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use taskhost_core::task::{Millis, TaskView};

use super::{layout::Trouble, words::Words};
use crate::{
    config::Scope,
    ops::{Ops, QueueView, TaskFilter, TaskPage, WorkerInfo},
    serve::{
        access::{Caller, Peer},
        app::App,
        query::Query,
    },
};

/// The characters that a segment of a path, or a value of a query, must escape.
const IN_LINK: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b':');

/// The reader of a page, and what it asked for.
pub(super) struct View {
    pub(super) app: Arc<App>,
    pub(super) caller: Caller,
    pub(super) words: Words,
    pub(super) query: Query,
    /// The reader's address.
    pub(super) from: IpAddr,
    /// The path of this page, below the base.
    pub(super) path: String,
    /// Where the reader reaches this server: `http://HOST:PORT`.
    pub(super) site: String,
}

impl View {
    pub(super) fn ops(&self) -> Result<&Ops, Trouble> {
        self.app.ops().map_err(|problem| self.trouble(problem))
    }

    pub(super) async fn now(&self) -> Result<Millis, Trouble> {
        self.app.now().await.map_err(|problem| self.trouble(problem))
    }

    /// All queues, of a moment ago.
    pub(super) async fn queues(&self) -> Result<Arc<Vec<QueueView>>, Trouble> {
        self.app.queues_lately().await.map_err(|problem| self.trouble(problem))
    }

    /// The live workers, of a moment ago.
    pub(super) async fn workers(&self) -> Result<Arc<Vec<WorkerInfo>>, Trouble> {
        self.app.workers(self.app.looks.lately()).await.map_err(|problem| self.trouble(problem))
    }

    /// A page of the list of tasks, of a moment ago.
    pub(super) async fn listed(&self, filter: &TaskFilter, from: Option<&str>, limit: usize) -> Result<Arc<TaskPage>, Trouble> {
        self.app.page(filter, from, limit, self.app.looks.lately()).await.map_err(|problem| self.trouble(problem))
    }

    /// Those of the tasks that this reader may see, as it may see them.
    pub(super) fn seen<'a>(&self, tasks: &'a [TaskView]) -> impl Iterator<Item = TaskView> + use<'a, '_> {
        tasks.iter().filter(|task| self.caller.sees(task)).map(|task| self.masked(task.clone()))
    }

    pub(super) fn say(&self, english: &'static str) -> &'static str {
        self.words.say(english)
    }

    /// A link within the dashboard: the base, and a path that is escaped already.
    pub(super) fn href(&self, path: impl Display) -> String {
        self.app.href(&path.to_string())
    }

    /// Whether this reader may change what the scope opens.
    pub(super) fn may(&self, scope: Scope) -> bool {
        !self.app.settings.http.read_only && self.caller.has(scope)
    }

    pub(super) fn sees_payload(&self) -> bool {
        self.caller.has(Scope::Payload)
    }
}

/// The address of this server as the reader's browser has it.
fn site(app: &App, headers: &HeaderMap) -> String {
    let scheme = if is_behind_tls(app, headers) { "https" } else { "http" };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    format!("{scheme}://{host}")
}

/// Whether the reader reaches this server, or the proxy before it, by TLS.
pub(super) fn is_behind_tls(app: &App, headers: &HeaderMap) -> bool {
    app.settings.http.tls.is_some() || headers.get("x-forwarded-proto").is_some_and(|scheme| scheme == "https")
}

/// A name as a part of a link.
pub(super) fn escaped(name: impl AsRef<str>) -> String {
    utf8_percent_encode(name.as_ref(), IN_LINK).to_string()
}

impl FromRequestParts<Arc<App>> for View {
    type Rejection = Trouble;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Trouble> {
        let caller = Caller::from_request_parts(parts, app).await.map_err(|problem| Trouble::of(app, &parts.headers, problem))?;
        Ok(Self {
            app: Arc::clone(app),
            caller,
            words: Words::of(&parts.headers),
            query: Query::of(&parts.uri),
            from: parts.extensions.get::<Peer>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |Peer(from)| *from),
            path: parts.uri.path().to_owned(),
            site: site(app, &parts.headers),
        })
    }
}
