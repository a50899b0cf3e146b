//! HTTP in a guest: wstd's client on `wasi:http`.
//!
//! request → head and body sent → head → whole body → response; one time limit for all of it
//!
//! Invariant: the kinds of error differ by what the caller does next: denied, timed out, no connection, cut off, malformed.

use wstd::{
    future::FutureExt as _,
    http::{
        Body, Client,
        body::{Bytes, util::Empty},
        error::ErrorCode,
    },
    time::{Duration, Timer},
};

use crate::http::{Error, Request, Response};

pub(crate) async fn send(request: Request) -> Result<Response, Error> {
    let url = request.url.clone();
    let limit = request.timeout;
    let deadline = Timer::after(Duration::from(limit));
    match exchange(request).timeout(deadline.wait()).await {
        Ok(result) => result,
        Err(_) => Err(Error::Timeout(format!("{url}: no whole answer within {limit:?}"))),
    }
}

async fn exchange(request: Request) -> Result<Response, Error> {
    let Request { method, url, headers, body, timeout } = request;
    let invalid = |error: &dyn std::fmt::Display| Error::Invalid(format!("{url}: {error}"));
    let mut builder = wstd::http::Request::builder().method(method.as_bytes()).uri(&url);
    for (name, value) in &headers {
        builder = builder.header(name, value);
    }
    // Set it always, also without a body. Otherwise the host sends chunks, which some servers do not expect with a GET.
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length")) {
        builder = builder.header("content-length", body.len());
    }
    // wstd would write an empty body too, and fail if the host has closed the stream. It only ends a body of this kind.
    let body = if body.is_empty() { Body::from_http_body(Empty::<Bytes>::new()) } else { Body::from(body) };
    let outgoing = builder.body(body).map_err(|error| invalid(&error))?;
    if outgoing.uri().authority().is_none() {
        return Err(Error::Invalid(format!("not a whole URL, such as https://example.com/path: `{url}`")));
    }

    let mut client = Client::new();
    client.set_connect_timeout(timeout);
    client.set_first_byte_timeout(timeout);
    client.set_between_bytes_timeout(timeout);
    let answer = client.send(outgoing).await.map_err(|error| told_apart(&url, &error, Error::Connection))?;

    let status = answer.status().as_u16();
    let headers: Vec<(String, String)> = answer
        .headers()
        .iter()
        .map(|(name, value)| (name.as_str().into(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    let mut body = answer.into_body();
    let bytes = body.contents().await.map_err(|error| told_apart(&url, &error, Error::CutOff))?.to_vec();
    let response = Response::whole(status, headers, bytes);
    // Some hosts end the stream without an error when the connection breaks.
    let expected = response.header("content-length").and_then(|text| text.parse::<usize>().ok());
    if let Some(expected) = expected
        && response.bytes().len() < expected
        && method != "HEAD"
        && status != 304
    {
        return Err(Error::CutOff(format!("{url}: {} of {expected} bytes", response.bytes().len())));
    }
    Ok(response)
}

fn told_apart(url: &str, error: &wstd::http::Error, otherwise: fn(String) -> Error) -> Error {
    use ErrorCode as E;
    let text = format!("{url}: {error:#}");
    match error.downcast_ref::<ErrorCode>() {
        Some(E::HttpRequestDenied) => Error::Denied(format!("{url}: the operator has not granted this plugin requests to this host")),
        Some(E::ConnectionTimeout | E::ConnectionReadTimeout | E::ConnectionWriteTimeout | E::HttpResponseTimeout | E::DnsTimeout) => {
            Error::Timeout(text)
        }
        Some(E::HttpRequestUriInvalid | E::HttpRequestMethodInvalid) => Error::Invalid(text),
        Some(E::HttpResponseIncomplete) => Error::CutOff(text),
        _ => otherwise(text),
    }
}
