//! One row of the table of resources.

use std::sync::Arc;

use axum::{http::Method, routing::MethodRouter};

use super::app::App;
use crate::config::Scope;

/// One method of one resource.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) method: Method,
    /// As OpenAPI and axum write it.
    pub(super) path: &'static str,
    pub(super) about: &'static str,
    /// What a token must have; `None`: no token is needed.
    pub(super) scope: Option<Scope>,
    pub(super) query: &'static [&'static str],
    /// The schema of the body that it takes, by name.
    pub(super) takes: Option<&'static str>,
    /// The status of success, and the schema of its body.
    pub(super) gives: (u16, Option<&'static str>),
    pub(super) handler: MethodRouter<Arc<App>>,
}
