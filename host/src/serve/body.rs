//! Reads the body of a request, within bounds of size, time and type.

use std::{error::Error, time::Duration};

use axum::{
    body::{Body, Bytes, to_bytes},
    http::{HeaderMap, header},
};
use http_body_util::LengthLimitError;
use serde::de::DeserializeOwned;

use super::problem::{self, Problem};
use crate::serve::app::App;

/// What a body may have beside the payload of a task.
const ROOM: usize = 64 << 10;
/// How long a body may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The whole body, which should be JSON.
pub(super) async fn json(app: &App, headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
    is_of_type(headers, &["application/json"])?;
    let limit = app.settings.bounds.payload_limit.saturating_add(ROOM);
    let too_large =
        || Problem::new(&problem::TOO_LARGE, format!("a body has {limit} bytes at most: `payload_limit` of this server, and a little"));
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    match tokio::time::timeout(PATIENCE, to_bytes(body, limit)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) if error.source().is_some_and(<dyn Error>::is::<LengthLimitError>) => Err(too_large()),
        Ok(Err(error)) => Err(Problem::new(&problem::BAD_REQUEST, format!("the body broke off: {error}"))),
        Err(_over) => Err(Problem::new(&problem::TOO_SLOW, format!("the body took more than {} s", PATIENCE.as_secs()))),
    }
}

/// The body as a value. An empty body is `{}`.
pub(super) async fn read<T: DeserializeOwned>(app: &App, headers: &HeaderMap, body: Body) -> Result<T, Problem> {
    let bytes = json(app, headers, body).await?;
    let bytes = if bytes.is_empty() { Bytes::from_static(b"{}") } else { bytes };
    serde_json::from_slice(&bytes).map_err(|error| {
        let kind = if error.is_data() { &problem::INVALID } else { &problem::BAD_REQUEST };
        Problem::new(kind, format!("failed to read the body as JSON: {error}"))
    })
}

/// Refuses a body of another type. curl sends `application/x-www-form-urlencoded` unless it is told otherwise, so programs may send that. Pages
/// may not: a browser adds `Origin` or `Sec-Fetch-Site` to each request that changes something.
pub(super) fn is_of_type(headers: &HeaderMap, types: &[&str]) -> Result<(), Problem> {
    let Some(given) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let given = given.to_str().unwrap_or_default();
    let kind = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_browser = headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site");
    if types.contains(&&*kind)
        || kind == "application/x-www-form-urlencoded" && !is_browser
        || kind.starts_with("application/") && kind.ends_with("+json") && types.contains(&"application/json")
    {
        return Ok(());
    }
    Err(Problem::new(&problem::WRONG_TYPE, format!("this resource takes {}, not `{kind}`", types.join(" or "))))
}
