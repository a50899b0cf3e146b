//! Log in with a token, log out, choose a language.
//!
//! Invariant: the cookie holds the token itself, which no script can read and no other site can send. It is checked as a header's token is: by its
//! hash, at each request. So a token that is revoked ends its sessions.

use std::sync::Arc;

use axum::{
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::Response,
};
use maud::html;

use super::{
    layout,
    view::{escaped, is_behind_tls},
    words::Words,
};
use crate::serve::{
    access::Peer,
    app::App,
    cookie::{PLAIN_COOKIE, SECURE_COOKIE},
    query::Query,
};

/// How long a login lasts, in seconds.
const LASTS: u32 = 12 * 3600;
/// The longest form of this file.
const LONGEST: usize = 4096;

/// Sends the browser to the login, which leads back to this address.
pub(super) fn redirect(app: &App, from: &Uri) -> Response {
    let back = from.path_and_query().map_or("/", |path| path.as_str());
    to(&app.href(&format!("/login?back={}", escaped(back))))
}

/// Sends the browser to another page.
pub(super) fn to(place: &str) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SEE_OTHER;
    let place = HeaderValue::from_str(place).unwrap_or(HeaderValue::from_static("/"));
    response.headers_mut().insert(header::LOCATION, place);
    response
}

/// `GET /login`
pub(super) async fn show(State(app): State<Arc<App>>, query: Query, headers: HeaderMap) -> Response {
    form(&app, &headers, query.text("back").unwrap_or("/"), StatusCode::OK)
}

fn form(app: &App, headers: &HeaderMap, back: &str, status: StatusCode) -> Response {
    let words = Words::of(headers);
    let body = html! {
        main.alone #content {
            h1 { "taskhost" }
            @if status != StatusCode::OK { p.wrong role="alert" { (words.say("This token is not known here; it may have been revoked.")) } }
            form method="post" action=(app.href("/login")) {
                label for="token" { (words.say("Token")) }
                input #token type="password" name="token" required autofocus autocomplete="current-password" placeholder="th_…";
                input type="hidden" name="back" value=(back);
                button { (words.say("Log in")) }
            }
            p.note { (words.say("An operator makes one with")) " " code { "taskhost token new NAME --scope read" } }
        }
    };
    layout::document(app, words, words.say("Log in"), None, status, &body)
}

/// `POST /login`
pub(super) async fn enter(State(app): State<Arc<App>>, request: Request) -> Response {
    let (headers, peer) = (request.headers().clone(), request.extensions().get::<Peer>().copied());
    let fields = fields(request.into_body()).await;
    let token = fields.text("token").unwrap_or_default().trim().to_owned();
    let back = fields.text("back").unwrap_or("/");
    let mut asked = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(&format!("Bearer {token}")) {
        asked.insert(header::AUTHORIZATION, value);
    }
    let known = peer.is_some_and(|Peer(from)| app.access.caller(&asked, from).is_ok());
    let is_text = token.bytes().all(|b| b.is_ascii_graphic() && b != b';' && b != b',');
    if !known || !is_text {
        return form(&app, &headers, back, StatusCode::UNAUTHORIZED);
    }
    let mut response = to(&app.href(own_path(back)));
    set_cookies(&app, &headers, &mut response, &token, LASTS);
    response
}

/// `POST /logout`
pub(super) async fn leave(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    let mut response = to(&app.href("/login"));
    set_cookies(&app, &headers, &mut response, "", 0);
    response
}

fn set_cookies(app: &App, headers: &HeaderMap, response: &mut Response, token: &str, lasts: u32) {
    let (name, secure) = if is_behind_tls(app, headers) { (SECURE_COOKIE, "; Secure") } else { (PLAIN_COOKIE, "") };
    let cookie = format!("{name}={token}; Path=/; HttpOnly; SameSite=Strict; Max-Age={lasts}{secure}");
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
}

/// `POST /language`
pub(super) async fn language(State(app): State<Arc<App>>, request: Request) -> Response {
    let fields = fields(request.into_body()).await;
    let language = if fields.text("language") == Some("zh") { "zh" } else { "en" };
    let mut response = to(&app.href(own_path(fields.text("back").unwrap_or("/"))));
    let cookie = format!("taskhost_language={language}; Path=/; HttpOnly; SameSite=Strict; Max-Age=31536000");
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

/// The path if it is one of this server, else `/`: `//evil.example` would lead elsewhere. Browsers take `\` for `/`, and leave tabs and line
/// breaks out of an address (the URL standard, section 4.4).
pub(super) fn own_path(path: &str) -> &str {
    let is_own = path.starts_with('/') && !path.starts_with("//") && !path.contains(|c: char| c == '\\' || c.is_control());
    if is_own { path } else { "/" }
}

async fn fields(body: Body) -> Query {
    let bytes = to_bytes(body, LONGEST).await.unwrap_or_default();
    Query::of_pairs(form_urlencoded::parse(&bytes).into_owned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_leads_back_to_this_server_only() {
        for (asked, led) in [
            ("/tasks?state=dead", "/tasks?state=dead"),
            ("//evil.example", "/"),
            ("https://evil.example", "/"),
            ("/\\evil.example", "/"),
            ("/a\r\nset-cookie: x", "/"),
            ("/\t/evil.example", "/"),
            ("/\u{7f}", "/"),
            ("", "/"),
        ] {
            assert_eq!(own_path(asked), led, "{asked}");
        }
    }
}
