//! The three files that pages load. Their names have a digest, so a browser may keep them for ever.

use std::sync::LazyLock;

use axum::{
    extract::Path,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};

use crate::serve::{
    answer,
    problem::{self, Problem},
};

/// One file.
pub(super) struct Asset {
    text: &'static str,
    kind: &'static str,
    name: LazyLock<String>,
}

impl Asset {
    /// Its name in links.
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

fn named(text: &str, ending: &str) -> String {
    format!("{}.{ending}", hex::encode(&Sha256::digest(text)[..6]))
}

const STYLE_TEXT: &str = include_str!("style.css");
const MODULE_TEXT: &str = include_str!("module.js");
const ICON_TEXT: &str = "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'><rect width='16' height='16' rx='3' fill='#2f6f62'/>\
                         <path d='M4 5h8M4 8h5M4 11h6' stroke='#fff' stroke-width='1.6' stroke-linecap='round'/></svg>";

pub(super) static STYLE: Asset =
    Asset { text: STYLE_TEXT, kind: "text/css; charset=utf-8", name: LazyLock::new(|| named(STYLE_TEXT, "css")) };
pub(super) static MODULE: Asset =
    Asset { text: MODULE_TEXT, kind: "text/javascript; charset=utf-8", name: LazyLock::new(|| named(MODULE_TEXT, "js")) };
pub(super) static ICON: Asset = Asset { text: ICON_TEXT, kind: "image/svg+xml", name: LazyLock::new(|| named(ICON_TEXT, "svg")) };

/// `GET /assets/{file}`
pub(super) async fn file(Path(file): Path<String>) -> Response {
    let Some(asset) = [&STYLE, &MODULE, &ICON].into_iter().find(|asset| asset.name() == file) else {
        return Problem::new(&problem::NOT_FOUND, "no such file: this server may have been replaced by another version").into_response();
    };
    let mut response = answer::of_type(asset.kind, asset.text);
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
