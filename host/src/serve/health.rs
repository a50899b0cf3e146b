//! `/livez`, `/readyz`: for load balancers and supervisors.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};
use serde_json::json;

use super::{
    answer::{self, Answer},
    app::App,
};

/// `GET /livez`: this process answers.
pub(super) async fn live() -> Answer {
    answer::json(&json!({ "status": "live" }))
}

/// `GET /readyz`: requests are welcome.
pub(super) async fn ready(State(app): State<Arc<App>>) -> Answer {
    match app.unready() {
        None => answer::json(&json!({ "status": "ready" })),
        Some(why) => answer::with_status(StatusCode::SERVICE_UNAVAILABLE, &json!({ "status": "unready", "why": why })),
    }
}
