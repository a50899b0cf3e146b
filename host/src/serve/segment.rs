//! The variable segment of a path.

use axum::{
    extract::{FromRequestParts, Path},
    http::request::Parts,
};

use super::problem::{self, Problem};

/// A name in the path, percent-decoded.
#[derive(Debug)]
pub(super) struct Segment(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let Path(name) = path.map_err(|_| Problem::new(&problem::BAD_REQUEST, "the path is not UTF-8 when its escapes are read"))?;
        Ok(Self(name))
    }
}
