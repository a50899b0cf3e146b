//! Who asks, and what they may do.
//!
//! token → its SHA-256 → the [`Caller`], or a problem
//!
//! Invariant: only hashes are compared, each with all that are known, so the time of an answer tells nothing about a token. Who guesses is
//! slowed down by address.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::http::{HeaderMap, HeaderValue, header};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use taskhost_core::{
    pattern::Patterns,
    task::{QueueName, TaskName, TaskView},
};

use super::{
    cookie,
    problem::{self, Problem},
};
use crate::config::{Scope, Scopes, Token};

/// The address of the client of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) IpAddr);

/// Who asks.
#[derive(Debug, Clone)]
pub(super) struct Caller(Arc<Known>);

#[derive(Debug)]
struct Known {
    name: String,
    scopes: Scopes,
    queues: Patterns,
    tasks: Patterns,
}

impl Caller {
    pub(super) fn name(&self) -> &str {
        &self.0.name
    }

    /// The names of its scopes.
    pub(super) fn scopes(&self) -> Vec<&'static str> {
        Scope::ALL.into_iter().filter(|scope| self.has(*scope)).map(Scope::as_str).collect()
    }

    pub(super) fn has(&self, scope: Scope) -> bool {
        self.0.scopes.has(scope)
    }

    pub(super) fn needs(&self, scope: Scope) -> Result<(), Problem> {
        if self.has(scope) {
            return Ok(());
        }
        Err(Problem::new(&problem::FORBIDDEN, format!("the token `{}` lacks the scope `{scope}`", self.name()))
            .with("scope", scope.as_str()))
    }

    pub(super) fn sees_queue(&self, queue: &QueueName) -> bool {
        self.0.queues.fits(queue.as_str())
    }

    pub(super) fn sees_task(&self, task: &TaskName) -> bool {
        self.0.tasks.fits(task.as_str())
    }

    pub(super) fn sees(&self, view: &TaskView) -> bool {
        self.sees_queue(&view.queue) && self.sees_task(&view.task)
    }

    pub(super) fn sees_all_tasks(&self) -> bool {
        self.0.tasks.is_any()
    }

    pub(super) fn needs_queue(&self, queue: &QueueName) -> Result<(), Problem> {
        if self.sees_queue(queue) {
            return Ok(());
        }
        Err(Problem::new(&problem::FORBIDDEN, format!("the token `{}` does not extend to the queue `{queue}`", self.name())))
    }

    pub(super) fn needs_task(&self, task: &TaskName) -> Result<(), Problem> {
        if self.sees_task(task) {
            return Ok(());
        }
        Err(Problem::new(&problem::FORBIDDEN, format!("the token `{}` does not extend to the task `{task}`", self.name())))
    }
}

/// The tokens that are known, and how fast each is used.
#[derive(Debug)]
pub(super) struct Access {
    tokens: Vec<Entry>,
    /// Everybody, if there is no token.
    anybody: Option<Caller>,
    guesses: Mutex<HashMap<IpAddr, Bucket>>,
}

#[derive(Debug)]
struct Entry {
    sha256: [u8; 32],
    caller: Caller,
    rate: Option<Mutex<Bucket>>,
}

/// Wrong tokens a second from one address.
const GUESSES: u32 = 10;
/// The addresses that are remembered.
const ADDRESSES: usize = 10_000;

impl Access {
    pub(super) fn new(tokens: &[Token]) -> Self {
        let entry = |token: &Token| Entry {
            sha256: token.sha256,
            caller: Caller(Arc::new(Known {
                name: token.name.clone(),
                scopes: token.scopes,
                queues: token.queues.clone(),
                tasks: token.tasks.clone(),
            })),
            rate: token.rate.map(|rate| Mutex::new(Bucket::full(rate))),
        };
        let everything = Known { name: "local".to_owned(), scopes: Scopes::ALL, queues: Patterns::any(), tasks: Patterns::any() };
        Self {
            tokens: tokens.iter().map(entry).collect(),
            anybody: tokens.is_empty().then(|| Caller(Arc::new(everything))),
            guesses: Mutex::default(),
        }
    }

    /// The caller with this name, as its token has it now.
    pub(super) fn named(&self, name: &str) -> Option<Caller> {
        let known = self.tokens.iter().map(|entry| &entry.caller).chain(&self.anybody);
        known.into_iter().find(|caller| caller.name() == name).cloned()
    }

    /// Whether anybody may do everything.
    pub(super) fn is_open(&self) -> bool {
        self.anybody.is_some()
    }

    /// Who asks with these headers from this address.
    pub(super) fn caller(&self, headers: &HeaderMap, from: IpAddr) -> Result<Caller, Problem> {
        if let Some(anybody) = &self.anybody {
            return Ok(anybody.clone());
        }
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.as_bytes().split_at_checked(7));
        let token = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer ")).map(|(_, token)| token.trim_ascii());
        let Some(token) = token.or_else(|| cookie::token(headers).map(str::as_bytes)) else {
            return Err(unauthorized("send a token: `Authorization: Bearer th_…`; `taskhost token new NAME` makes one"));
        };
        self.may_guess(from)?;
        let sha256: [u8; 32] = Sha256::digest(token).into();
        let mut found = None;
        for entry in &self.tokens {
            let differs = entry.sha256.iter().zip(&sha256).fold(0, |differs, (a, b)| differs | (a ^ b));
            if differs == 0 {
                found = Some(entry);
            }
        }
        let Some(entry) = found else {
            self.guesses.lock().entry(from).or_insert_with(|| Bucket::full(GUESSES)).take();
            return Err(unauthorized("this token is not known here; it may have been revoked"));
        };
        if let Some(rate) = &entry.rate {
            rate.lock().take_or_refuse(entry.caller.name())?;
        }
        Ok(entry.caller.clone())
    }

    /// Refuses an address that has sent too many wrong tokens.
    fn may_guess(&self, from: IpAddr) -> Result<(), Problem> {
        let mut guesses = self.guesses.lock();
        if guesses.len() >= ADDRESSES {
            guesses.retain(|_, bucket| !bucket.is_full());
            if guesses.len() >= ADDRESSES {
                guesses.clear();
            }
        }
        if guesses.get_mut(&from).is_some_and(Bucket::is_empty) {
            return Err(Problem::new(&problem::TOO_MANY, "too many wrong tokens came from this address").retry_after(1));
        }
        Ok(())
    }
}

fn unauthorized(detail: &str) -> Problem {
    Problem::new(&problem::UNAUTHORIZED, detail).header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
}

/// A token bucket: it holds the events of one second, and fills as time passes.
#[derive(Debug)]
struct Bucket {
    left: f64,
    rate: f64,
    at: Instant,
}

impl Bucket {
    fn full(rate: u32) -> Self {
        Self { left: f64::from(rate), rate: f64::from(rate), at: Instant::now() }
    }

    fn fill(&mut self) {
        let now = Instant::now();
        self.left = (self.left + now.duration_since(self.at).as_secs_f64() * self.rate).min(self.rate);
        self.at = now;
    }

    fn is_empty(&mut self) -> bool {
        self.fill();
        self.left < 1.0
    }

    fn is_full(&mut self) -> bool {
        self.fill();
        self.left >= self.rate
    }

    fn take(&mut self) -> bool {
        let has_some = !self.is_empty();
        if has_some {
            self.left -= 1.0;
        }
        has_some
    }

    fn take_or_refuse(&mut self, name: &str) -> Result<(), Problem> {
        if self.take() {
            return Ok(());
        }
        let wait = Duration::from_secs_f64((1.0 - self.left) / self.rate);
        let detail = format!("the token `{name}` may ask {} times a second", self.rate);
        Err(Problem::new(&problem::TOO_MANY, detail).retry_after(wait.as_secs().max(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(name: &str, secret: &str, rate: Option<u32>) -> Token {
        let sha256 = Sha256::digest(secret).into();
        Token { name: name.into(), sha256, scopes: Scopes::of([Scope::Read]), queues: Patterns::any(), tasks: Patterns::any(), rate }
    }

    fn bearer(text: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_str(text).expect("a header"))])
    }

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn a_token_is_known_by_its_hash_and_whatever_the_case_of_the_scheme() {
        let access = Access::new(&[token("ci", "th_1_a", None), token("web", "th_2_b", None)]);
        assert_eq!(access.caller(&bearer("Bearer th_2_b"), HERE).expect("known").name(), "web");
        assert_eq!(access.caller(&bearer("bearer  th_1_a"), HERE).expect("known").name(), "ci");
        for odd in ["Bearer", "Bearer ", "Bearer th_1_", "Basic th_1_a", "th_1_a", "Bearer th_1_a th_1_a"] {
            assert_eq!(access.caller(&bearer(odd), HERE).expect_err(odd).kind().name, "unauthorized", "{odd}");
        }
        assert_eq!(access.caller(&HeaderMap::new(), HERE).expect_err("none").kind().name, "unauthorized");
    }

    #[test]
    fn guessing_is_slow() {
        let access = Access::new(&[token("ci", "th_1_a", None)]);
        let tries: Vec<_> = (0..50).map(|n| access.caller(&bearer(&format!("Bearer {n}")), HERE).expect_err("wrong").kind().name).collect();
        assert_eq!(tries.iter().filter(|kind| **kind == "unauthorized").count(), 10);
        assert_eq!(tries.last(), Some(&"too-many-requests"));
        let elsewhere = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
        assert!(access.caller(&bearer("Bearer th_1_a"), elsewhere).is_ok(), "others are not slowed down");
    }

    #[test]
    fn a_rate_is_kept() {
        let access = Access::new(&[token("ci", "th_1_a", Some(3))]);
        let answers: Vec<_> =
            (0..4).map(|_| access.caller(&bearer("Bearer th_1_a"), HERE).map_err(|problem| problem.kind().name)).collect();
        assert!(answers[..3].iter().all(Result::is_ok));
        assert_eq!(answers[3].as_ref().expect_err("one too many"), &"too-many-requests");
    }
}
