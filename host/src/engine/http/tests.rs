//! Requests against a real server on the loopback interface.

use http_body_util::Empty;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::engine::{
    Limits,
    account::{Account, Pool},
    cpu::{Cpu, Meter},
    network::System,
};
use taskhost_core::trace::TraceContext;

fn grant(url: &str) -> HttpGrant {
    let uri: Uri = url.parse().unwrap();
    let tls = uri.scheme() == Some(&Scheme::HTTPS);
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    HttpGrant::new(uri.scheme_str().unwrap(), uri.host().unwrap(), port)
}

/// One attempt's right to call.
struct Caller(Hooks);

impl Caller {
    fn granted(urls: &[&str]) -> Self {
        Self::below(None, urls)
    }

    /// An attempt that is traced if it has a span.
    fn below(above: Option<TraceContext>, urls: &[&str]) -> Self {
        let cpu = Cpu::start(&wasmtime::Engine::default(), 1).unwrap();
        cpu.stop();
        let account = Account::new(Arc::new(Pool::new(1 << 30, 100)), &Limits::default());
        let shared = Shared::new(Meter::new(&cpu, None), account, &Limits::default(), 1, above.map(Box::new), None);
        let grants = Grants { http: urls.iter().map(|url| grant(url)).collect(), ..Grants::default() };
        let secrets = Secrets::of(&grants);
        Self(Hooks::new("org-transfer".into(), Arc::new(grants), secrets, Arc::new(shared), Outside::new(Arc::new(System))))
    }

    async fn get(&mut self, url: &str, options: RequestOptions) -> Result<(u16, Bytes), Error> {
        self.get_with(url, options, &[]).await
    }

    /// A GET with headers that the guest sets.
    async fn get_with(&mut self, url: &str, options: RequestOptions, headers: &[(&str, &str)]) -> Result<(u16, Bytes), Error> {
        let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        let request = Request::builder().uri(url);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).body(body).unwrap();
        let sent = self.0.send_request(request, Some(options), Box::new(async { Ok(()) }));
        let (answer, io) = Pin::from(sent).await?;
        let io = tokio::spawn(Pin::from(io));
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await?.to_bytes();
        io.abort();
        // Ended or aborted: gone in any case when this returns.
        let _ = io.await;
        Ok((status, body))
    }

    /// Bytes that are counted for it.
    fn held(&self) -> u64 {
        self.0.shared.account.counted()
    }

    fn denied(&self) -> String {
        self.0.shared.denied().unwrap_or_default()
    }
}

/// A server that answers one request with these bytes; gives the head of the request.
async fn server(answer: &'static str) -> (u16, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        // A TLS client begins with a record of its own and waits.
        while !head.ends_with(b"\r\n\r\n") && head.first() != Some(&0x16) {
            let read = stream.read_buf(&mut head).await.unwrap();
            if read == 0 {
                break;
            }
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        if answer.is_empty() {
            std::future::pending::<()>().await;
        }
        String::from_utf8_lossy(&head).into_owned()
    });
    (port, served)
}

#[tokio::test]
async fn a_granted_address_is_called() {
    let (port, served) = server("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await;
    let origin = format!("http://127.0.0.1:{port}");
    let mut caller = Caller::granted(&[&origin]);
    let (status, body) = caller.get(&format!("http://user:secret@127.0.0.1:{port}/a?b=1"), RequestOptions::default()).await.unwrap();
    assert_eq!((status, &body[..]), (200, &b"hi"[..]));
    let head = served.await.unwrap();
    assert!(head.starts_with("GET /a?b=1 HTTP/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("host: 127.0.0.1:{port}\r\n")), "{head}");
    assert_eq!(caller.denied(), "");
    assert_eq!(caller.0.shared.connections.load(Relaxed), 0, "the connection is given back");
}

#[tokio::test]
async fn a_traced_guest_cannot_name_another_parent_of_its_request() {
    const FALSE: &str = "00-11111111111111111111111111111111-2222222222222222-01";
    let set = [("TraceParent", FALSE), ("traceparent", FALSE), ("tracestate", "vendor=1"), ("tracestate", "other=2"), ("x-own", "kept")];
    let above = TraceContext::root(true);
    for traced in [Some(above), None] {
        let (port, served) = server("HTTP/1.1 204 No Content\r\n\r\n").await;
        let origin = format!("http://127.0.0.1:{port}");
        let mut caller = Caller::below(traced, &[&origin]);
        caller.get_with(&origin, RequestOptions::default(), &set).await.unwrap();
        let head = served.await.unwrap();
        let sent = |name: &str| head.lines().filter_map(|line| line.strip_prefix(name)).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(sent("x-own: "), ["kept"]);
        if traced.is_none() {
            // The host adds nothing, so what the body sends is its own affair.
            assert_eq!((sent("traceparent: ").len(), sent("tracestate: ").len()), (2, 2), "{head}");
            continue;
        }
        let own = caller.0.shared.take_within().requests[0].span;
        assert_eq!(own.parent, Some(above));
        assert_eq!(sent("traceparent: "), [own.own.to_string()], "{head}");
        assert!(sent("tracestate: ").is_empty(), "{head}");
    }
}

#[tokio::test]
async fn an_answer_counts_until_all_of_it_is_gone() {
    let answer = format!("HTTP/1.1 200 OK\r\nx-long: {}\r\ncontent-length: 2\r\n\r\nhi", "x".repeat(20_000));
    let (port, served) = server(answer.leak()).await;
    let origin = format!("http://127.0.0.1:{port}");
    let mut caller = Caller::granted(&[&origin]);
    let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
    let request = Request::builder().uri(&origin).body(body).unwrap();
    let sent = caller.0.send_request(request, None, Box::new(async { Ok(()) }));
    assert_eq!(caller.held(), CONNECTION as u64, "before anything is sent");
    let (answer, io) = Pin::from(sent).await.unwrap();
    assert!(caller.held() > CONNECTION as u64 + 20_000, "{}", caller.held());
    drop(io);
    assert!((20_000..CONNECTION as u64).contains(&caller.held()), "{}", caller.held());
    drop(answer);
    assert_eq!(caller.held(), 0);
    served.await.unwrap();
}

#[tokio::test]
async fn a_guest_hands_over_no_more_requests_at_once_than_it_may_have() {
    let mut caller = Caller::granted(&["http://127.0.0.1:1"]);
    let mut send = || {
        let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        caller.0.send_request(Request::builder().uri("http://127.0.0.1:1/").body(body).unwrap(), None, Box::new(async { Ok(()) }))
    };
    // None of them has been looked at yet.
    let waiting: Vec<_> = (0..CONNECTIONS).map(|_| send()).collect();
    assert!(matches!(Pin::from(send()).await, Err(Error::ConnectionLimitReached)));
    drop(waiting);
    assert!(matches!(Pin::from(send()).await, Err(Error::Connect(_))));
}

#[tokio::test]
async fn only_a_server_says_refused() {
    let mut caller = Caller::granted(&[]);
    let mut said = |errno| caller.0.p2_error_from_connect(&std::io::Error::from(errno));
    assert!(matches!(said(rustix::io::Errno::CONNREFUSED), ErrorCode::ConnectionRefused));
    assert!(matches!(said(rustix::io::Errno::MFILE), ErrorCode::ConnectionLimitReached));
    assert!(matches!(said(rustix::io::Errno::HOSTUNREACH), ErrorCode::DestinationIpUnroutable));
    assert!(matches!(said(rustix::io::Errno::PERM), ErrorCode::InternalError(Some(why)) if why.contains("can't connect")));
}

#[tokio::test]
async fn localhost_means_what_it_says() {
    let (port, served) = server("HTTP/1.1 204 No Content\r\n\r\n").await;
    let origin = format!("http://localhost:{port}");
    let (status, _) = Caller::granted(&[&origin]).get(&format!("http://LOCALHOST:{port}/"), RequestOptions::default()).await.unwrap();
    assert_eq!(status, 204);
    served.await.unwrap();
}

#[tokio::test]
async fn what_is_not_granted_is_denied_with_the_line_that_would_allow_it() {
    for (granted, url, line) in [
        (&[][..], "https://hr.example.com/x", "`[plugins.org-transfer] http = [\"https://hr.example.com\"]`"),
        (
            &["https://hr.example.com"][..],
            "http://hr.example.com/",
            "`[plugins.org-transfer] http = [\"https://hr.example.com\", \"http://hr.example.com\"]`",
        ),
        (&["https://hr.example.com"][..], "https://hr.example.com:8443/", "\"https://hr.example.com:8443\"]`"),
        (&["https://hr.example.com"][..], "https://hr.example.com.evil.test/", "\"https://hr.example.com.evil.test\"]`"),
        (&["https://hr.example.com"][..], "https://hr.example.com@evil.test/", "\"https://evil.test\"]`"),
        (&["http://localhost"][..], "http://127.0.0.1/", "\"http://127.0.0.1\"]`"),
        (&[][..], "http://[::1]:8080/", "\"http://[::1]:8080\"]`"),
    ] {
        let mut caller = Caller::granted(granted);
        let answer = caller.get(url, RequestOptions::default()).await;
        assert!(matches!(answer, Err(Error::HttpRequestDenied)), "{url}: {answer:?}");
        assert!(caller.denied().ends_with(line), "{url}: {}", caller.denied());
    }
}

#[test]
fn a_wildcard_stands_for_one_label() {
    let wild = grant("https://*.example.com:8443");
    let fits = |url: &str| Origin::of(&url.parse().unwrap()).unwrap().fits(&wild);
    assert!(fits("https://hr.example.com:8443/") && fits("https://HR.Example.com.:8443/x"));
    for url in [
        "https://example.com:8443/",
        "https://a.b.example.com:8443/",
        "https://hr.example.com.evil.test:8443/",
        "https://hrexample.com:8443/",
        "https://.example.com:8443/",
        "https://hr.example.com/",
        "http://hr.example.com:8443/",
    ] {
        assert!(url.parse::<Uri>().is_err() || !fits(url), "{url}");
    }
    let numbers = HttpGrant { host: "*.0.0.1".into(), ..grant("http://x") };
    assert!(!Origin::of(&"http://127.0.0.1/".parse().unwrap()).unwrap().fits(&numbers), "an address has no labels");
}

#[test]
fn a_name_must_not_lead_into_the_operators_network() {
    let origin = Origin::of(&"https://hr.example.com/".parse().unwrap()).unwrap();
    let at = |address: &str| SocketAddr::new(address.parse().unwrap(), 443);
    let by_name = [grant("https://hr.example.com")];
    assert_eq!(origin.closed(&[at("93.184.215.14")], &by_name), None);
    // One such address among others is enough.
    assert_eq!(origin.closed(&[at("93.184.215.14"), at("10.0.0.5")], &by_name), Some("10.0.0.5".parse().unwrap()));
    assert!(origin.closed(&[at("127.0.0.1")], &by_name).is_some());
    assert!(origin.closed(&[at("::ffff:169.254.169.254")], &by_name).is_some());
    // Unless that address is granted as well, on the same scheme and port.
    let with_address = [grant("https://hr.example.com"), grant("https://10.0.0.5")];
    assert_eq!(origin.closed(&[at("10.0.0.5")], &with_address), None);
    let other_port = [grant("https://hr.example.com"), grant("https://10.0.0.5:8443")];
    assert!(origin.closed(&[at("10.0.0.5")], &other_port).is_some());
}

#[tokio::test]
async fn a_server_that_is_silent_or_breaks_off_is_an_error() {
    let (port, served) = server("").await;
    let origin = format!("http://127.0.0.1:{port}");
    let hasty = RequestOptions { first_byte_timeout: Some(Duration::from_millis(50)), ..RequestOptions::default() };
    let answer = Caller::granted(&[&origin]).get(&origin, hasty).await;
    assert!(matches!(answer, Err(Error::ConnectionReadTimeout)), "{answer:?}");
    served.abort();
    let (port, _served) = server("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
    let origin = format!("http://127.0.0.1:{port}");
    assert!(Caller::granted(&[&origin]).get(&origin, RequestOptions::default()).await.is_err());
    let (port, _served) = server("this is no TLS\r\n\r\n").await;
    let origin = format!("https://127.0.0.1:{port}");
    assert!(matches!(Caller::granted(&[&origin]).get(&origin, RequestOptions::default()).await, Err(Error::Tls(_))));
}
