//! Keeps pages of other sites from using this server through a person's browser: cross-origin requests, forged requests (CSRF), and names
//! that are made to point here (DNS rebinding).
//!
//! Sources: the Fetch standard (CORS, `Origin`), Fetch Metadata (`Sec-Fetch-Site`).

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderValue, Method, header};

use super::problem::{self, Problem};

const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE");
const HEADERS: HeaderValue = HeaderValue::from_static("authorization, content-type, idempotency-key, last-event-id");
/// How many seconds a browser may remember what was allowed.
const REMEMBERED: HeaderValue = HeaderValue::from_static("600");

/// What pages may do.
#[derive(Debug)]
pub(super) struct Browsers {
    /// The origins whose pages may call this server.
    origins: Vec<String>,
    /// Whether no token is needed. Then only requests to a loopback name are answered.
    is_open: bool,
}

impl Browsers {
    pub(super) fn new(origins: Vec<String>, is_open: bool) -> Self {
        Self { origins, is_open }
    }

    /// Refuses what a page of another site asks.
    pub(super) fn check(&self, method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
        if self.is_open {
            check_host(headers)?;
        }
        let is_allowed = |origin: &str| self.origins.iter().any(|allowed| allowed == origin);
        let origin = headers.get(header::ORIGIN).map(|origin| origin.to_str().unwrap_or("null"));
        if origin.is_some_and(is_allowed) {
            return Ok(());
        }
        let word = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let is_foreign = match (word("sec-fetch-site"), origin) {
            (Some(site), _) => !matches!(site, "same-origin" | "none"),
            (None, Some(origin)) => host(headers).is_none_or(|host| origin.split_once("://").is_none_or(|(_, of)| of != host)),
            // No browser sends this.
            (None, None) => false,
        };
        let changes = !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
        // A link from another site may be followed.
        let is_link = word("sec-fetch-mode") == Some("navigate") && *method == Method::GET;
        if is_foreign && (changes || self.is_open && !is_link) {
            let shown = origin.unwrap_or("another site");
            return Err(Problem::new(
                &problem::CROSS_ORIGIN,
                format!("a page of {shown} may not do this; `http_cors` of the server lists the origins that may"),
            ));
        }
        Ok(())
    }

    /// The answer to a preflight request, if this is one: whether the page's origin may ask.
    pub(super) fn preflight(&self, method: &Method, headers: &HeaderMap) -> Option<HeaderMap> {
        if *method != Method::OPTIONS || !headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) {
            return None;
        }
        let mut answer = HeaderMap::new();
        self.allow(headers, &mut answer);
        if answer.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN) {
            answer.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
            answer.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
            answer.insert(header::ACCESS_CONTROL_MAX_AGE, REMEMBERED);
        }
        Some(answer)
    }

    /// Lets an allowed page read the answer.
    pub(super) fn allow(&self, asked: &HeaderMap, answer: &mut HeaderMap) {
        if self.origins.is_empty() {
            return;
        }
        answer.append(header::VARY, HeaderValue::from_static("origin"));
        let Some(origin) = asked.get(header::ORIGIN) else { return };
        if self.origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()) {
            answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            answer.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("location, retry-after"));
        }
    }
}

fn host(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::HOST).and_then(|host| host.to_str().ok())
}

/// A server without tokens answers to loopback names only: a name that somebody else made to point here is refused.
fn check_host(headers: &HeaderMap) -> Result<(), Problem> {
    let host = host(headers).unwrap_or_default();
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let is_loopback = name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
        || name.eq_ignore_ascii_case("localhost")
        || name.to_ascii_lowercase().ends_with(".localhost");
    if is_loopback {
        return Ok(());
    }
    Err(Problem::new(
        &problem::WRONG_HOST,
        "this server has no tokens, so it answers only to `localhost` and loopback addresses; make a token to serve other names",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| ((*name).parse().expect("a name"), HeaderValue::from_str(value).expect("a value"))).collect()
    }

    #[test]
    fn pages_of_other_sites_change_nothing() {
        let with_tokens = Browsers::new(vec!["https://app.example.com".into()], false);
        let open = Browsers::new(Vec::new(), true);
        let local = ("host", "localhost:8080");
        for (headers_of, changes_with_tokens, changes_open, reads_open) in [
            (vec![local], true, true, true),
            (vec![local, ("origin", "http://localhost:8080")], true, true, true),
            (vec![local, ("sec-fetch-site", "same-origin"), ("origin", "http://localhost:8080")], true, true, true),
            (vec![local, ("sec-fetch-site", "none")], true, true, true),
            (vec![local, ("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")], false, false, false),
            (vec![local, ("sec-fetch-site", "same-site"), ("origin", "http://localhost:9999")], false, false, false),
            (vec![local, ("origin", "null")], false, false, false),
            (vec![local, ("origin", "https://evil.example")], false, false, false),
            (vec![local, ("sec-fetch-site", "cross-site"), ("origin", "https://app.example.com")], true, false, false),
            (vec![local, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")], false, false, true),
            (vec![("host", "evil.example")], true, false, false),
            (vec![("host", "127.0.0.1.evil.example:8080")], true, false, false),
            (vec![("host", "[::1]:8080")], true, true, true),
            (vec![("host", "127.8.8.8")], true, true, true),
            (vec![], true, false, false),
        ] {
            let asked = headers(&headers_of);
            assert_eq!(with_tokens.check(&Method::POST, &asked).is_ok(), changes_with_tokens, "a change, with tokens: {asked:?}");
            assert_eq!(open.check(&Method::DELETE, &asked).is_ok(), changes_open, "a change, without tokens: {asked:?}");
            assert_eq!(open.check(&Method::GET, &asked).is_ok(), reads_open, "a look, without tokens: {asked:?}");
        }
    }

    #[test]
    fn only_listed_origins_may_read_answers() {
        let browsers = Browsers::new(vec!["https://app.example.com".into()], false);
        let preflight = |origin| {
            let asked = headers(&[("origin", origin), ("access-control-request-method", "POST")]);
            browsers.preflight(&Method::OPTIONS, &asked).expect("a preflight").contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN)
        };
        assert!(preflight("https://app.example.com"));
        assert!(!preflight("https://app.example.com.evil.example") && !preflight("http://app.example.com") && !preflight("null"));
        assert!(browsers.preflight(&Method::OPTIONS, &headers(&[("origin", "https://app.example.com")])).is_none(), "not a preflight");
    }
}
