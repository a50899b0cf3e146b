//! Reads origins, as `http` grants and the `hosts` of a secret name them.

use crate::engine::HttpGrant;

/// `scheme://host[:port]` and nothing else. A grant is for an origin (RFC 6454), never for a path.
pub fn http_grant(origin: &str) -> Result<HttpGrant, String> {
    let wrong = |why: &str| format!("{why}; an origin is written as https://host or http://host:port: `{origin}`");
    let uri: http::Uri = origin.parse().map_err(|_| wrong("not a URL"))?;
    let scheme = uri.scheme_str().unwrap_or_default().to_ascii_lowercase();
    let default_port = match scheme.as_str() {
        "https" => 443,
        "http" => 80,
        _ => return Err(wrong("only http and https can be granted")),
    };
    let authority = uri.authority().ok_or_else(|| wrong("the host is missing"))?;
    if authority.as_str().contains('@') {
        return Err(wrong("a user name or password does not belong here"));
    }
    check_pattern(authority.host()).map_err(wrong)?;
    if uri.query().is_some() || !matches!(uri.path(), "" | "/") || origin.contains('#') {
        return Err(wrong("a path cannot be granted, only the whole origin"));
    }
    let port = match (authority.port_u16(), authority.as_str().ends_with(authority.host())) {
        (Some(0), _) | (None, false) => return Err(wrong("the port is not a number from 1 to 65535")),
        (Some(port), _) => port,
        (None, true) => default_port,
    };
    Ok(HttpGrant::new(&scheme, authority.host().to_ascii_lowercase(), port))
}

/// `*` may replace the whole first label above a domain of at least two labels. `*.com` would grant everybody.
fn check_pattern(host: &str) -> Result<(), &'static str> {
    let rest = host.strip_prefix("*.").unwrap_or(host);
    if rest.contains('*') {
        return Err("a `*` may only be the whole first label of a host");
    }
    if rest.len() < host.len() && (!rest.contains('.') || rest.parse::<std::net::Ipv4Addr>().is_ok()) {
        return Err("a `*` may only stand below a domain such as example.com");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_origins_are_granted() {
        for origin in [
            "hr.example.com",
            "ftp://x",
            "https://*.com",
            "https://*",
            "https://a.*.com",
            "https://*a.example.com",
            "https://*.*.example.com",
            "https://*.10.0.0.1",
            "https://u:p@x",
            "https://x/api",
            "https://x?q",
            "https://x:99999",
            "https://x:0",
            "https://x:",
            "",
        ] {
            assert!(http_grant(origin).is_err(), "{origin}");
        }
        let grant = http_grant("http://[::1]:8080").unwrap();
        assert_eq!((grant.scheme.as_str(), grant.host.as_str(), grant.port), ("http", "[::1]", 8080));
        assert_eq!(http_grant("https://*.Example.com").unwrap().host, "*.example.com");
    }
}
