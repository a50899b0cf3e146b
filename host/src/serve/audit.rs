//! Notes of changes: each change by HTTP is noted at the broker, and is a line in the log.
//!
//! a request that changes something was answered → its row of the table, its path and its query → the note → the answer leaves

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use axum::{
    extract::State,
    http::{StatusCode, Uri},
};
use percent_encoding::percent_decode_str;
use serde::Serialize;

use super::{
    access::Caller,
    answer::{self, Answer},
    app::App,
    problem::Problem,
    query::Query,
};
use crate::ops::{Note, Noted};

/// The notes of a page.
pub(super) const PAGE: usize = 100;
const MOST: usize = 500;
/// The longest part of a path or query that is noted.
const LONGEST: usize = 200;

/// More about a change than its path says. A handler adds it to its answer.
#[derive(Debug, Clone, Default)]
pub(super) struct About(pub(super) BTreeMap<String, String>);

#[derive(Serialize)]
pub(super) struct Page {
    pub(super) notes: Vec<Noted>,
    /// The cursor of the next page; `None` at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next: Option<String>,
}

/// `GET /v1/audit`
pub(super) async fn list(State(app): State<Arc<App>>, query: Query) -> Answer {
    answer::json(&page(&app, &query, query.limit(PAGE, MOST)?).await?)
}

/// The notes from the cursor of a query on, newest first.
pub(super) async fn page(app: &App, query: &Query, limit: usize) -> Result<Page, Problem> {
    let before = query.text("cursor").map(|cursor| app.cursors.open(cursor)).transpose()?;
    let notes = app.ops()?.notes(before.as_deref(), limit).await?;
    let next = notes.last().filter(|_| notes.len() == limit).map(|last| app.cursors.seal(&last.id));
    Ok(Page { notes, next })
}

impl About {
    /// Adds what the address says: the values of the names in `path`, the row of the table, and the query.
    pub(super) fn add(&mut self, path: &str, uri: &Uri) {
        let Self(all) = self;
        let of_path = path.split('/').zip(uri.path().split('/'));
        let named = of_path.filter_map(|(name, value)| Some((name.strip_prefix('{')?.strip_suffix('}')?, value)));
        all.extend(named.map(|(name, value)| (name.to_owned(), percent_decode_str(value).decode_utf8_lossy().into_owned())));
        all.extend(form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned());
    }
}

/// Notes a change that was made. `what`: such as `POST /v1/queues/{queue}/pause`.
pub(super) async fn note(app: &App, caller: &Caller, from: IpAddr, what: String, About(mut about): About, status: StatusCode) {
    for value in about.values_mut() {
        let end = value.char_indices().nth(LONGEST).map_or(value.len(), |(at, _)| at);
        value.truncate(end);
    }
    let note = Note { by: caller.name().to_owned(), from: from.to_string(), what, about, status: status.as_u16() };
    tracing::info!(by = note.by, from = note.from, about = ?note.about, "HTTP: {}", note.what);
    let Ok(ops) = app.ops() else { return };
    if let Err(error) = ops.note(&note).await {
        tracing::warn!(%error, "this change is not noted at the broker, only in this log");
    }
}
