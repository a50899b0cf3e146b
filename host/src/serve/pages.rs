//! The dashboard: pages for people, made on the server from `ops`, as the API's answers are.
//!
//! a request → who asks, by a token in a cookie (`login`) → a file for each kind of page → `layout` puts the frame around it.
//! A form posts to the page that it stands on; the change is noted, and the browser goes back to a page that shows it (`actions`),
//! with a line that says what was done (`answers`).
//!
//! Invariant: every page works without script. What a producer or a body wrote is escaped, and seen only with the scope `payload`.

mod actions;
mod answers;
mod assets;
mod audit;
mod bodies;
mod chart;
mod enqueue_form;
mod errors;
mod flows;
mod layout;
mod login;
mod operations;
mod overview;
mod parts;
mod plugins;
mod queues;
mod schedules;
mod settings;
mod task;
mod tasks;
mod undo;
mod view;
mod words;
mod workers;

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    http::Method,
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{get, post},
};

pub(super) use undo::Undos;

use super::{
    access::Peer,
    app::App,
    problem::{self, Problem},
};
use crate::config::Scope;

/// The result of a handler of a page.
type Page = Result<Response, layout::Trouble>;

/// The router of all pages.
pub(super) fn router(app: &Arc<App>) -> Router<Arc<App>> {
    let pages = Router::new()
        .route("/", get(overview::show))
        .route("/queues", get(queues::list))
        .route("/queues/{queue}", get(queues::show).post(actions::queue))
        .route("/tasks", get(tasks::list).post(actions::tasks))
        .route("/tasks/{id}", get(task::show).post(actions::task))
        .route("/flows", get(flows::list))
        .route("/flows/{id}", get(flows::show).post(actions::flow))
        .route("/errors", get(errors::show))
        .route("/schedules", get(schedules::list))
        .route("/schedules/{name}", get(schedules::show).post(actions::schedule))
        .route("/workers", get(workers::list))
        .route("/workers/{worker}", post(actions::worker))
        .route("/plugins", get(plugins::list))
        .route("/plugins/{plugin}", post(actions::plugin))
        .route("/bodies", get(bodies::list))
        .route("/bodies/{task}", get(bodies::show).post(actions::enqueue))
        .route("/operations", get(operations::list))
        .route("/operations/{id}", post(actions::operation))
        .route("/audit", get(audit::list))
        .route("/settings", get(settings::show))
        .route("/search", get(tasks::search))
        .layer(from_fn_with_state(Arc::clone(app), enter));
    Router::new()
        .route("/login", get(login::show).post(login::enter))
        .route("/logout", post(login::leave))
        .route("/language", post(login::language))
        .route("/assets/{file}", get(assets::file))
        .merge(pages)
}

/// Finds the caller. A reader without a token goes to the login.
async fn enter(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let Some(Peer(from)) = request.extensions().get::<Peer>().copied() else {
        return Problem::new(&problem::INTERNAL, "the address of the client is not known").into_response();
    };
    let caller = app.access.caller(request.headers(), from).and_then(|caller| caller.needs(Scope::Read).map(|()| caller));
    match caller {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            let changes = request.method() == Method::POST;
            let response = next.run(request).await;
            if changes {
                app.looks.changed();
            }
            response
        }
        Err(problem) if problem.kind().name == problem::UNAUTHORIZED.name => login::redirect(&app, request.uri()),
        Err(problem) => layout::trouble(&app, request.headers(), &problem),
    }
}
