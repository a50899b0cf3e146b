//! `serve`: the HTTP API and the dashboard. They are faces of `ops`, as the command line is.
//!
//! `server` accepts connections → `routes` finds the resource, checks the token (`access`) and the page that asks (`browser`) → a file for
//! each subject asks `ops` → JSON (`answer`, `shown`), or a `problem`
//!
//! Invariant: a request that changes something has passed `access` and `browser`. Who lacks the scope `payload` sees nothing that a
//! producer or a body wrote.

mod access;
mod answer;
mod app;
mod audit;
mod body;
mod browser;
mod bulk;
mod cookie;
mod cursor;
mod events;
mod flows;
mod health;
mod history;
mod kept;
mod looks;
mod metrics;
mod openapi;
mod operations;
mod pages;
mod patient;
mod problem;
mod pulse;
mod query;
mod queues;
mod route;
mod routes;
mod schedules;
mod scrape;
mod segment;
mod server;
mod shown;
mod tasks;
mod tls;
mod workers;

pub use app::Observed;
pub use server::{ServeError, Server, ServerStop};
