//! The table of resources: the router and the OpenAPI document are both made from it.
//!
//! Invariant: a resource that is served stands in the document, with the scope that it needs and the queries that it takes.

use std::{sync::Arc, time::Instant};

use axum::{
    Router,
    extract::{FromRequestParts, Request, State},
    http::{Method, request::Parts},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{MethodFilter, on},
};

use super::{
    access::{Caller, Peer},
    app::App,
    audit::{self, About},
    bulk, events, flows, health, history, openapi, operations, pages,
    problem::{self, Problem},
    query::Query,
    queues,
    route::Route,
    schedules, scrape, tasks, workers,
};
use crate::config::Scope;

/// Rows of the table: method, path, scope, queries, schemas, handler, and what it does.
macro_rules! route {
    ($method:ident $path:literal $scope:expr, [$($query:literal),*], $takes:expr => $gives:expr, $handler:expr, $about:literal) => {
        route!(@ $method $path $scope, &[$($query),*], $takes => $gives, $handler, $about)
    };
    (@ $method:ident $path:literal $scope:expr, $query:expr, $takes:expr => $gives:expr, $handler:expr, $about:literal) => {
        Route {
            method: Method::$method,
            path: $path,
            about: $about,
            scope: $scope,
            query: $query,
            takes: $takes,
            gives: $gives,
            handler: on(MethodFilter::$method, $handler),
        }
    };
}

const READ: Option<Scope> = Some(Scope::Read);
const OPERATE: Option<Scope> = Some(Scope::Operate);
const ENQUEUE: Option<Scope> = Some(Scope::Enqueue);
const SCHEDULE: Option<Scope> = Some(Scope::Schedule);
const ADMIN: Option<Scope> = Some(Scope::Admin);

#[rustfmt::skip]
pub(super) fn table() -> Vec<Route> {
    vec![
        route!(POST "/v1/tasks" ENQUEUE, ["wait"], Some("NewTask") => (201, Some("Task")), tasks::enqueue, "Enqueue a task, and perhaps wait for its end"),
        route!(POST "/v1/tasks/bulk" ENQUEUE, [], Some("NewTasks") => (200, Some("BulkAnswers")), bulk::enqueue, "Enqueue a task a line; an answer a line comes back"),
        route!(@ GET "/v1/tasks" READ, tasks::LISTED, None => (200, Some("TaskPage")), tasks::list, "List tasks: running, then waiting, then ended ones"),
        route!(GET "/v1/tasks/{id}" READ, ["queue", "wait"], None => (200, Some("Task")), tasks::show, "A task, perhaps at its end"),
        route!(PATCH "/v1/tasks/{id}" OPERATE, ["queue"], Some("TaskEdit") => (200, Some("Task")), tasks::edit, "Give a task that waits, is dead or was cancelled other arguments"),
        route!(DELETE "/v1/tasks/{id}" OPERATE, ["queue"], None => (204, None), tasks::delete, "Delete a task that does not run"),
        route!(GET "/v1/tasks/{id}/log" READ, ["queue"], None => (200, Some("LogLines")), tasks::log, "The log of a task, a line of JSON each; needs the scope `payload` too"),
        route!(GET "/v1/tasks/{id}/events" READ, ["queue"], None => (200, Some("TaskEvents")), events::of_task, "The changes of a task as server-sent events, until its end"),
        route!(POST "/v1/tasks/{id}/cancel" OPERATE, ["queue"], None => (200, Some("TaskChange")), tasks::cancel, "Cancel a task that waits, or ask one that runs to stop"),
        route!(POST "/v1/tasks/{id}/retry" OPERATE, ["queue"], None => (200, Some("TaskChange")), tasks::retry, "Run a dead or cancelled task again, and a delayed one at once"),
        route!(POST "/v1/tasks/{id}/run-now" OPERATE, ["queue"], None => (200, Some("TaskChange")), tasks::run_now, "Run a delayed task, or one that waits for its next attempt, at once"),
        route!(POST "/v1/operations" OPERATE, [], Some("NewOperation") => (202, Some("Operation")), operations::order, "Cancel, retry or delete every task that a filter chooses, in the background"),
        route!(GET "/v1/operations" READ, [], None => (200, Some("Operations")), operations::list, "The operations, newest first"),
        route!(GET "/v1/operations/{id}" READ, [], None => (200, Some("Operation")), operations::show, "An operation, and how far it is"),
        route!(DELETE "/v1/operations/{id}" OPERATE, [], None => (204, None), operations::cancel, "Stop an operation; what it has changed stays so"),
        route!(POST "/v1/flows" ENQUEUE, ["wait"], Some("NewFlow") => (201, Some("Flow")), flows::start, "Start a flow of tasks that depend on tasks, and perhaps wait for its end"),
        route!(GET "/v1/flows" READ, ["queue", "limit"], None => (200, Some("Flows")), flows::list, "List flows: those that go on first, the newest first"),
        route!(GET "/v1/flows/{id}" READ, ["queue"], None => (200, Some("Flow")), flows::show, "A flow with its steps"),
        route!(POST "/v1/flows/{id}/cancel" OPERATE, ["queue"], None => (200, Some("Flow")), flows::cancel, "Stop a flow, and undo what has succeeded"),
        route!(POST "/v1/flows/{id}/pause" OPERATE, ["queue"], None => (200, Some("Flow")), flows::pause, "Start nothing more of a flow"),
        route!(POST "/v1/flows/{id}/resume" OPERATE, ["queue"], None => (200, Some("Flow")), flows::resume, "Let a paused flow go on"),
        route!(POST "/v1/flows/{id}/retry" OPERATE, ["queue", "only"], None => (200, Some("Flow")), flows::retry, "Run what failed in a flow again, or one step of it, and what that blocked"),
        route!(POST "/v1/signals" OPERATE, [], Some("NewSignal") => (200, Some("Flow")), flows::signal, "Give a flow the signal that one of its steps waits for"),
        route!(GET "/v1/queues" READ, [], None => (200, Some("Queues")), queues::list, "All queues at a glance"),
        route!(GET "/v1/queues/{queue}" READ, [], None => (200, Some("Queue")), queues::show, "A queue at a glance"),
        route!(POST "/v1/queues/{queue}/pause" OPERATE, [], None => (200, Some("QueuePause")), queues::pause, "Let nothing more start from a queue"),
        route!(POST "/v1/queues/{queue}/resume" OPERATE, [], None => (200, Some("QueuePause")), queues::resume, "Let a paused queue go on"),
        route!(POST "/v1/queues/{queue}/purge" OPERATE, [], None => (200, Some("QueuePurge")), queues::purge, "Delete all tasks that wait in a queue"),
        route!(GET "/v1/schedules" READ, [], None => (200, Some("Schedules")), schedules::list, "All schedules, with their next firings"),
        route!(GET "/v1/schedules/{name}" READ, [], None => (200, Some("Schedule")), schedules::show, "A schedule"),
        route!(PUT "/v1/schedules/{name}" SCHEDULE, [], Some("NewSchedule") => (200, Some("Schedule")), schedules::put, "Write a schedule, unless it stands in a worker's file"),
        route!(DELETE "/v1/schedules/{name}" SCHEDULE, [], None => (204, None), schedules::remove, "Remove a schedule, unless it stands in a worker's file"),
        route!(POST "/v1/schedules/{name}/run" SCHEDULE, [], None => (200, Some("TaskPlace")), schedules::run, "Enqueue the task of a schedule now"),
        route!(POST "/v1/schedules/{name}/pause" SCHEDULE, [], None => (200, Some("SchedulePause")), schedules::pause, "Keep a schedule from firing"),
        route!(POST "/v1/schedules/{name}/resume" SCHEDULE, [], None => (200, Some("SchedulePause")), schedules::resume, "Let a schedule fire again"),
        route!(GET "/v1/workers" READ, [], None => (200, Some("Workers")), workers::list, "The live workers, and what they run"),
        route!(POST "/v1/workers/{worker}/drain" OPERATE, [], None => (202, Some("WorkerDrain")), workers::drain, "Let a worker end: it claims nothing more, and what runs may end"),
        route!(GET "/v1/history" READ, ["queue", "task", "step", "from", "to"], None => (200, Some("History")), history::show, "What attempts came to over time"),
        route!(GET "/v1/events" READ, ["queue"], None => (200, Some("Events")), events::of_all, "The queues and what ends in them, as server-sent events"),
        route!(GET "/v1/audit" ADMIN, ["cursor", "limit"], None => (200, Some("Audit")), audit::list, "Who changed what, newest first"),
        route!(GET "/v1/catalogue" READ, [], None => (200, Some("Catalogue")), workers::catalogue, "The bodies that workers offer, with their parameters"),
        route!(GET "/v1/plugins" READ, [], None => (200, Some("Plugins")), workers::plugins, "The plugin files as the live workers see them"),
        route!(POST "/v1/plugins/{plugin}/rollback" ADMIN, [], None => (200, Some("Rollback")), workers::roll_back, "Go back to the version before; of the plugin directory of this machine"),
        route!(GET "/v1/openapi.json" None, [], None => (200, Some("Any")), openapi::document, "This document"),
        route!(GET "/problems/{name}" None, [], None => (200, Some("ProblemType")), openapi::problem_type, "What a type of problem means"),
        route!(GET "/metrics" Some(Scope::Metrics), [], None => (200, Some("Metrics")), scrape::metrics, "Metrics for Prometheus"),
        route!(GET "/livez" None, [], None => (200, Some("Health")), health::live, "Whether this process answers"),
        route!(GET "/readyz" None, [], None => (200, Some("Health")), health::ready, "Whether requests are welcome: 503 while the broker is away or this server stops"),
    ]
}

/// The router of all resources.
pub(super) fn router(app: &Arc<App>) -> Router {
    let document = openapi::Document::of(&table());
    let mut router = Router::new();
    for Route { method, path, scope, query, handler, .. } in table() {
        let door = Door { app: Arc::clone(app), path, scope, query, changes: !matches!(method, Method::GET) };
        router = router.route(path, handler.layer(from_fn_with_state(Arc::new(door), enter)));
    }
    let router = router
        .merge(pages::router(app))
        .fallback(async || Problem::new(&problem::NOT_FOUND, "no such resource: /v1/openapi.json lists what there is"))
        .method_not_allowed_fallback(async || Problem::new(&problem::METHOD_NOT_ALLOWED, "/v1/openapi.json says which methods there are"))
        .layer(axum::Extension(document))
        .layer(from_fn_with_state(Arc::clone(app), browsers))
        .with_state(Arc::clone(app));
    let base = &*app.settings.http.base;
    if base.is_empty() {
        return router;
    }
    let home = axum::response::Redirect::permanent(base);
    Router::new().nest(base, router).route(&format!("{base}/"), axum::routing::get(async || home))
}

/// What stands before a handler.
#[derive(Debug)]
struct Door {
    app: Arc<App>,
    path: &'static str,
    scope: Option<Scope>,
    query: &'static [&'static str],
    changes: bool,
}

/// Checks the token, its scope and the names in the query. Counts the request.
async fn enter(State(door): State<Arc<Door>>, mut request: Request, next: Next) -> Response {
    let (begun, method) = (Instant::now(), word(request.method()));
    let mut response = match door.check(&mut request) {
        Ok(()) => door.answer(method, request, next).await,
        Err(problem) => problem.into_response(),
    };
    response.extensions_mut().clear();
    let took = begun.elapsed();
    door.app.metrics.http.answered(door.path, method, response.status().as_u16(), took);
    tracing::debug!(method, path = door.path, status = response.status().as_u16(), ?took, "answered");
    response
}

/// The method as a label. Only these reach a resource.
fn word(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

impl Door {
    /// Answers. A change is noted before its answer leaves; a producer's tasks are no changes.
    async fn answer(&self, method: &'static str, request: Request, next: Next) -> Response {
        if !self.changes || self.scope == ENQUEUE {
            return next.run(request).await;
        }
        let (caller, peer) = (request.extensions().get::<Caller>().cloned(), request.extensions().get::<Peer>().copied());
        let uri = request.uri().clone();
        let mut response = next.run(request).await;
        self.app.looks.changed();
        let about = response.extensions_mut().remove::<About>();
        // A rehearsal has nothing more to say, and changes nothing.
        let is_rehearsal = self.path == "/v1/operations" && about.is_none();
        if let (Some(caller), Some(Peer(from))) = (caller, peer)
            && response.status().is_success()
            && !is_rehearsal
        {
            let mut about = about.unwrap_or_default();
            about.add(self.path, &uri);
            audit::note(&self.app, &caller, from, format!("{method} {}", self.path), about, response.status()).await;
        }
        response
    }

    fn check(&self, request: &mut Request) -> Result<(), Problem> {
        if let Some(scope) = self.scope {
            let Some(Peer(from)) = request.extensions().get::<Peer>().copied() else {
                return Err(Problem::new(&problem::INTERNAL, "the address of the client is not known"));
            };
            let caller = self.app.access.caller(request.headers(), from)?;
            caller.needs(scope)?;
            request.extensions_mut().insert(caller);
        }
        if self.changes && self.app.settings.http.read_only {
            return Err(Problem::new(&problem::READ_ONLY, "`http_read_only` of this server is true"));
        }
        if request.uri().query().is_some() {
            Query::of(request.uri()).check(self.query)?;
        }
        Ok(())
    }
}

/// Keeps foreign pages out, and lets allowed ones read the answer.
async fn browsers(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    if let Some(allowed) = app.browsers.preflight(request.method(), request.headers()) {
        let mut response = axum::http::StatusCode::NO_CONTENT.into_response();
        response.headers_mut().extend(allowed);
        return response;
    }
    if let Err(problem) = app.browsers.check(request.method(), request.headers()) {
        return problem.into_response();
    }
    if app.settings.http.origins.is_empty() {
        return next.run(request).await;
    }
    let asked = request.headers().clone();
    let mut response = next.run(request).await;
    app.browsers.allow(&asked, response.headers_mut());
    response
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let missing = || Problem::new(&problem::INTERNAL, "a resource without a scope asked who calls");
        parts.extensions.get::<Self>().cloned().ok_or_else(missing)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn look(value: &Value, references: &mut Vec<String>) {
        match value {
            Value::Object(members) => {
                references.extend(members.get("$ref").and_then(Value::as_str).map(str::to_owned));
                members.values().for_each(|value| look(value, references));
            }
            Value::Array(items) => items.iter().for_each(|value| look(value, references)),
            _ => {}
        }
    }

    #[test]
    fn everything_that_the_table_names_is_described() {
        let document = openapi::document_of(&table());
        let mut references = Vec::new();
        look(&document, &mut references);
        for reference in references {
            let pointer = reference.strip_prefix('#').expect("a reference within the document");
            assert!(document.pointer(pointer).is_some(), "{reference} is not described");
        }
        let parameters =
            document["paths"].as_object().expect("paths").values().flat_map(|path| path.as_object().expect("methods").values());
        for parameter in parameters.flat_map(|operation| operation["parameters"].as_array().into_iter().flatten()) {
            assert!(parameter["schema"].is_object() && parameter["description"].is_string(), "{parameter} is not described");
        }
    }
}
