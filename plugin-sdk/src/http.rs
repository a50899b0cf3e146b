//! Outgoing HTTP (feature `http`), as far as the operator granted it: `http = ["https://hr.example.com"]` in the plugin's policy.
//!
//! Awaiting a request sends it and reads the whole response. One time limit holds for all of it: 30 s by default.
//!
//! ```
//! # use taskhost_sdk::{http::Response, prelude::*, testing};
//! #[task]
//! async fn title(id: u32) -> TaskResult<String> {
//!     let page = http::get(format!("https://example.com/page/{id}")).await?.error_for_status()?;
//!     Ok(page.text())
//! }
//! # export_plugin!(title);
//!
//! let attempt = testing::attempt().http(|_| Ok(Response::new(503)));
//! let error = attempt.run(|| title(1)).unwrap_err();
//! assert!(error.is_retryable());
//! assert_eq!(error.code(), Some("http-503"));
//! ```

use std::{
    borrow::Cow,
    fmt,
    future::{Future, IntoFuture},
    pin::Pin,
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};

use crate::{error::TaskError, host};

macro_rules! methods {
    ($($name:ident $method:literal $what:literal;)*) => {
        $(
            #[doc = $what]
            ///
            /// ```
            /// # use taskhost_sdk::prelude::*;
            #[doc = concat!("let request = http::", stringify!($name), "(\"https://example.com/\");")]
            #[doc = concat!("assert_eq!(request.method, \"", $method, "\");")]
            /// ```
            pub fn $name(url: impl Into<String>) -> Request {
                Request::new($method, url)
            }
        )*
    };
}

methods! {
    get "GET" "Begins a GET request.";
    post "POST" "Begins a POST request.";
    put "PUT" "Begins a PUT request.";
    delete "DELETE" "Begins a DELETE request.";
}

/// A request. Awaiting it sends it.
///
/// ```
/// # use std::time::Duration;
/// # use taskhost_sdk::{http::Response, prelude::*, testing};
/// let attempt = testing::attempt().http(|request| {
///     assert_eq!(request.body, br#"{"id":7}"#);
///     Ok(Response::new(201))
/// });
/// let status = attempt.run(async || {
///     let body = serde_json::json!({"id": 7});
///     Ok(http::put("https://example.com/x").header("x-key", "1").json(&body)?.timeout(Duration::from_secs(5)).await?.status())
/// });
/// assert_eq!(status, Ok(201));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "nothing is sent before it is awaited"]
pub struct Request {
    /// Such as `GET`.
    pub method: String,
    /// The whole URL: `https://host:port/path?query`.
    pub url: String,
    /// Names and values, as they were given.
    pub headers: Vec<(String, String)>,
    /// Empty if there is none.
    pub body: Vec<u8>,
    /// The time limit, from the connection to the last byte of the response.
    pub timeout: Duration,
}

impl Request {
    /// A request with any method.
    ///
    /// ```
    /// # use taskhost_sdk::http::Request;
    /// assert_eq!(Request::new("PATCH", "https://example.com/").method, "PATCH");
    /// ```
    pub fn new(method: impl Into<String>, url: impl Into<String>) -> Self {
        Self { method: method.into(), url: url.into(), headers: Vec::new(), body: Vec::new(), timeout: Duration::from_secs(30) }
    }

    /// Adds a header.
    ///
    /// ```
    /// # use taskhost_sdk::prelude::*;
    /// assert_eq!(http::get("https://example.com/").header("accept", "*/*").headers.len(), 1);
    /// ```
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sets the body.
    ///
    /// ```
    /// # use taskhost_sdk::prelude::*;
    /// assert_eq!(http::post("https://example.com/").body("hello").body, b"hello");
    /// ```
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sets the body to a value as JSON, and the header `content-type`.
    ///
    /// ```
    /// # use taskhost_sdk::prelude::*;
    /// assert_eq!(http::post("https://example.com/").json(&[1, 2])?.body, b"[1,2]");
    /// # Ok::<(), http::Error>(())
    /// ```
    pub fn json<T: Serialize + ?Sized>(self, value: &T) -> Result<Self, Error> {
        let body = serde_json::to_vec(value)
            .map_err(|error| Error::Invalid(format!("{}: the body can't be written as JSON: {error}", self.url)))?;
        Ok(self.header("content-type", "application/json").body(body))
    }

    /// Sets the time limit, from the connection to the last byte of the response.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use taskhost_sdk::prelude::*;
    /// let request = http::get("https://example.com/").timeout(Duration::from_secs(2));
    /// assert_eq!(request.timeout.as_secs(), 2);
    /// ```
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

impl IntoFuture for Request {
    type Output = Result<Response, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output>>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(host::send(self))
    }
}

/// A whole response.
///
/// ```
/// # use taskhost_sdk::http::Response;
/// let response = Response::new(200).with_header("Content-Type", "text/plain").with_body("hello");
/// assert_eq!(response.header("content-type"), Some("text/plain"));
/// assert_eq!(response.text(), "hello");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Response {
    /// An empty response, for tests.
    ///
    /// ```
    /// # use taskhost_sdk::http::Response;
    /// assert_eq!(Response::new(404).status(), 404);
    /// ```
    pub fn new(status: u16) -> Self {
        Self::whole(status, Vec::new(), Vec::new())
    }

    pub(crate) fn whole(status: u16, headers: Vec<(String, String)>, body: Vec<u8>) -> Self {
        Self { status, headers, body }
    }

    /// Adds a header, for tests.
    ///
    /// ```
    /// # use taskhost_sdk::http::Response;
    /// assert_eq!(Response::new(503).with_header("retry-after", "9").header("retry-after"), Some("9"));
    /// ```
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sets the body, for tests.
    ///
    /// ```
    /// # use taskhost_sdk::http::Response;
    /// assert_eq!(Response::new(200).with_body("[1]").json::<Vec<u8>>(), Ok(vec![1]));
    /// ```
    pub fn with_body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Its status code.
    ///
    /// ```
    /// # use taskhost_sdk::http::Response;
    /// assert_eq!(Response::new(200).status(), 200);
    /// ```
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The first header of this name. Upper and lower case are the same.
    ///
    /// ```
    /// # use taskhost_sdk::http::Response;
    /// assert_eq!(Response::new(200).header("etag"), None);
    /// ```
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Its body.
    ///
    /// ```
    /// # use taskhost_sdk::http::Response;
    /// assert_eq!(Response::new(200).with_body([1, 2]).bytes(), [1, 2]);
    /// ```
    pub fn bytes(&self) -> &[u8] {
        &self.body
    }

    /// Its body as text. Bytes that are not UTF-8 become `�`.
    ///
    /// ```
    /// # use taskhost_sdk::http::Response;
    /// assert_eq!(Response::new(200).with_body("hello").text(), "hello");
    /// ```
    pub fn text(&self) -> String {
        match String::from_utf8_lossy(&self.body) {
            Cow::Borrowed(text) => text.into(),
            Cow::Owned(text) => text,
        }
    }

    /// Its body, read as JSON. Other content may be an error page or a cut response, so with `?` the task is tried again.
    ///
    /// ```
    /// # use taskhost_sdk::{http::Response, prelude::*};
    /// let error = Response::new(200).with_body("[1,").json::<Vec<u8>>().unwrap_err();
    /// assert!(TaskError::from(error).is_retryable());
    /// ```
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.body)
            .map_err(|error| Error::Malformed(format!("the answer is not the JSON that was expected: {error}")))
    }

    /// Returns the response if its status is below 400. With `?`, 408, 425, 429 and 5xx are tried again after the time in `retry-after`. The other
    /// 4xx are permanent.
    ///
    /// ```
    /// # use taskhost_sdk::{http::Response, prelude::*};
    /// let gone: TaskError = Response::new(404).error_for_status().unwrap_err().into();
    /// assert!(!gone.is_retryable());
    /// assert_eq!(gone.code(), Some("http-404"));
    /// assert!(Response::new(204).error_for_status().is_ok());
    /// ```
    pub fn error_for_status(self) -> Result<Self, Error> {
        if self.status < 400 {
            return Ok(self);
        }
        // A date in `retry-after` is rare, and would need equal clocks. The usual backoff is used instead.
        let retry_after = self.header("retry-after").and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
        let text = self.text();
        let start = text.char_indices().nth(1_000).map_or(text.as_str(), |(end, _)| &text[..end]);
        Err(Error::Status { status: self.status, retry_after, body: start.into() })
    }
}

/// Why there is no response, or no good one. With `?` it becomes a [`TaskError`], retryable where another attempt may succeed.
///
/// ```
/// # use taskhost_sdk::{http::Error, prelude::*};
/// assert!(TaskError::from(Error::Timeout("https://example.com/".into())).is_retryable());
/// assert!(!TaskError::from(Error::Invalid("not a URL".into())).is_retryable());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The operator has not granted it. It is retryable, because a grant takes effect without a restart.
    Denied(String),
    /// The time limit was exceeded.
    Timeout(String),
    /// No connection could be made, or it broke before the response.
    Connection(String),
    /// The connection broke within the response.
    CutOff(String),
    /// The response has not the expected form.
    Malformed(String),
    /// A status of 400 or more, from [`Response::error_for_status`].
    Status {
        /// The status.
        status: u16,
        /// The wait that the server asks for.
        retry_after: Option<Duration>,
        /// The first 1,000 characters of the body.
        body: String,
    },
    /// The request can't be sent. This is permanent.
    Invalid(String),
}

impl Error {
    pub(crate) fn judge(&self, general: TaskError) -> TaskError {
        match self {
            Self::Denied(_) => general.with_code("http-denied"),
            Self::Timeout(_) => general.with_code("http-timeout"),
            Self::Connection(_) => general.with_code("http-connection"),
            Self::CutOff(_) => general.with_code("http-cut-off"),
            Self::Malformed(_) => general.with_code("http-malformed"),
            Self::Invalid(_) => general.into_permanent().with_code("http-invalid"),
            Self::Status { status, retry_after, body } => {
                let error = general.with_code(format!("http-{status}"));
                let error = if body.is_empty() { error } else { error.with_detail(body) };
                match (status, retry_after) {
                    (408 | 425 | 429 | 500.., Some(delay)) => error.after(*delay),
                    (408 | 425 | 429 | 500.., None) => error,
                    _ => error.into_permanent(),
                }
            }
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(text) => write!(f, "http: denied: {text}"),
            Self::Timeout(text) => write!(f, "http: timed out: {text}"),
            Self::Connection(text) => write!(f, "http: no connection: {text}"),
            Self::CutOff(text) => write!(f, "http: the answer was cut off: {text}"),
            Self::Malformed(text) | Self::Invalid(text) => write!(f, "http: {text}"),
            Self::Status { status, .. } => write!(f, "http: status {status}"),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{error::Failure, testing};

    #[test]
    fn a_status_says_whether_to_try_again_and_when() {
        let judged = |response: Response| TaskError::from(response.error_for_status().unwrap_err());
        for status in [408, 425, 429, 500, 502, 503, 504, 599] {
            assert!(judged(Response::new(status)).is_retryable(), "{status}");
        }
        for status in [400, 401, 403, 404, 409, 410, 422] {
            assert!(!judged(Response::new(status)).is_retryable(), "{status}");
        }
        let busy = judged(Response::new(503).with_header("Retry-After", "30").with_body("busy"));
        assert_eq!(busy.failure(), &Failure::Retry { after: Some(Duration::from_secs(30)) });
        assert_eq!(busy.detail(), Some("busy"));
    }

    #[test]
    fn without_a_grant_every_request_is_denied() {
        let error = testing::attempt().run(async || Ok(get("https://example.com/").await?.status())).unwrap_err();
        assert_eq!(error.code(), Some("http-denied"));
    }
}
