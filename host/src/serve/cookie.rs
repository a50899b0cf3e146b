//! Cookies: the token of a person who has logged in.

use axum::http::{HeaderMap, header};

/// The cookie over TLS; the browser takes it only with `Secure`, for the whole host, and from this host.
pub(super) const SECURE_COOKIE: &str = "__Host-taskhost";
/// The cookie over plain HTTP, on this machine.
pub(super) const PLAIN_COOKIE: &str = "taskhost_token";

/// The value of a cookie.
pub(super) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(';'));
    all.filter_map(|pair| pair.trim().split_once('=')).find(|(own, _)| *own == name).map(|(_, value)| value)
}

/// The token of a login.
pub(super) fn token(headers: &HeaderMap) -> Option<&str> {
    cookie(headers, SECURE_COOKIE).or_else(|| cookie(headers, PLAIN_COOKIE)).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_found_among_others() {
        let pairs = [(header::COOKIE, "a=1; taskhost_token=th_x_y; b"), (header::COOKIE, "c=2")];
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, value.parse().expect("a value"));
        }
        assert_eq!((cookie(&headers, "c"), token(&headers)), (Some("2"), Some("th_x_y")));
        assert_eq!(cookie(&headers, "b"), None);
    }
}
