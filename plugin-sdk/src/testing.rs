//! Attempts without a worker. A plain `cargo test` runs a body, and the test supplies the answers of the host.
//!
//! ```
//! use taskhost_sdk::{prelude::*, testing};
//!
//! #[task]
//! fn count() -> TaskResult<i64> {
//!     log::info("counting");
//!     Ok(kv::increment("seen", 1)?)
//! }
//! # export_plugin!(count);
//!
//! let attempt = testing::attempt().number(2).kv("seen", 41);
//! assert_eq!(attempt.run(count), Ok(42));
//! assert_eq!(attempt.logs()[0].message, "counting");
//! ```
//!
//! A body that is called outside `run` gets an empty attempt of its thread.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fmt,
    future::Future,
    rc::Rc,
    time::{Duration, SystemTime},
};

use serde::{Serialize, de::DeserializeOwned};

#[cfg(feature = "http")]
use crate::http;
use crate::{
    children::NewTask,
    error::TaskResult,
    kv,
    log::Level,
    task::{Task, block_on},
};

/// Begins the first of four attempts of a task `task-1` in the queue `default`. Its store is empty, and nothing is granted.
///
/// ```
/// # use taskhost_sdk::{prelude::*, testing};
/// assert_eq!(testing::attempt().run(|| Ok(context::attempt())), Ok(1));
/// ```
pub fn attempt() -> Attempt {
    Attempt { state: Rc::new(RefCell::new(State::fresh())) }
}

/// One attempt, and the host's answers to it.
///
/// ```
/// # use taskhost_sdk::{prelude::*, testing::{self, Attempt}};
/// let attempt: Attempt = testing::attempt().queue("mail");
/// assert_eq!(attempt.run(|| Ok(context::queue())).as_deref(), Ok("mail"));
/// ```
#[derive(Debug)]
pub struct Attempt {
    state: Rc<RefCell<State>>,
}

impl Attempt {
    /// The task's id.
    ///
    /// ```
    /// # use taskhost_sdk::{prelude::*, testing};
    /// assert_eq!(testing::attempt().id("t-7").run(|| Ok(context::task_id())).as_deref(), Ok("t-7"));
    /// ```
    pub fn id(self, id: impl Into<String>) -> Self {
        self.with(|state| state.id = id.into())
    }

    /// The queue that the worker claimed it from.
    ///
    /// ```
    /// # use taskhost_sdk::{prelude::*, testing};
    /// assert_eq!(testing::attempt().queue("mail").run(|| Ok(context::queue())).as_deref(), Ok("mail"));
    /// ```
    pub fn queue(self, queue: impl Into<String>) -> Self {
        self.with(|state| state.queue = queue.into())
    }

    /// The number of the attempt. It begins at 1.
    ///
    /// ```
    /// # use taskhost_sdk::{prelude::*, testing};
    /// assert_eq!(testing::attempt().number(3).run(|| Ok(context::attempt())), Ok(3));
    /// ```
    pub fn number(self, number: u32) -> Self {
        self.with(|state| state.number = number)
    }

    /// The number of the last attempt.
    ///
    /// ```
    /// # use taskhost_sdk::{prelude::*, testing};
    /// assert_eq!(testing::attempt().max_attempts(1).run(|| Ok(context::max_attempts())), Ok(1));
    /// ```
    pub fn max_attempts(self, max_attempts: u32) -> Self {
        self.with(|state| state.max_attempts = max_attempts)
    }

    /// Its time limit from now on; a minute by default. Only `context` shows it; nothing stops the attempt.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use taskhost_sdk::{prelude::*, testing};
    /// let left = testing::attempt().timeout(Duration::ZERO).run(|| Ok(context::time_left()));
    /// assert_eq!(left, Ok(Duration::ZERO));
    /// ```
    pub fn timeout(self, timeout: Duration) -> Self {
        self.with(|state| state.deadline = state.enqueued_at.saturating_add(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)))
    }

    /// A header of the task.
    ///
    /// ```
    /// # use taskhost_sdk::{prelude::*, testing};
    /// let tenant = testing::attempt().header("tenant", "7").run(|| Ok(context::header("tenant")));
    /// assert_eq!(tenant, Ok(Some("7".into())));
    /// ```
    pub fn header(self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.with(|state| state.headers.push((name.into().to_ascii_lowercase(), value.into())))
    }

    /// A variable that the operator granted.
    ///
    /// ```
    /// # use taskhost_sdk::{prelude::*, testing};
    /// let home = testing::attempt().env("HOME", "/").run(|| Ok(context::env("HOME")));
    /// assert_eq!(home, Ok(Some("/".into())));
    /// ```
    pub fn env(self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.with(|state| drop(state.env.insert(name.into(), value.into())))
    }

    /// The task was cancelled.
    ///
    /// ```
    /// # use taskhost_sdk::{prelude::*, testing};
    /// assert_eq!(testing::attempt().cancelled().run(|| Ok(context::is_cancelled())), Ok(true));
    /// ```
    pub fn cancelled(self) -> Self {
        self.with(|state| state.cancelled = true)
    }

    /// A value in the plugin's store, as JSON.
    ///
    /// ```
    /// # use taskhost_sdk::{prelude::*, testing};
    /// let page = testing::attempt().kv("page", 7).run(|| Ok(kv::get::<u32>("page")?));
    /// assert_eq!(page, Ok(Some(7)));
    /// ```
    ///
    /// # Panics
    /// If the value can't be written as JSON.
    pub fn kv(self, key: impl Into<String>, value: impl Serialize) -> Self {
        let value = serde_json::to_vec(&value).expect("a value for the store is writable as JSON");
        self.with(|state| drop(state.store.borrow_mut().insert(key.into(), value)))
    }

    /// Each call of `kv` fails with this error.
    ///
    /// ```
    /// # use taskhost_sdk::{prelude::*, testing};
    /// let gone = kv::Error::Unavailable("the broker is gone".into());
    /// let result = testing::attempt().kv_fails(gone).run(|| Ok(kv::remove("x")?));
    /// assert!(result.unwrap_err().is_retryable());
    /// ```
    pub fn kv_fails(self, error: kv::Error) -> Self {
        self.with(|state| state.kv_error = Some(error))
    }

    /// Answers the body's HTTP requests. Without it they are denied.
    ///
    /// ```
    /// # use taskhost_sdk::{http::Response, prelude::*, testing};
    /// let attempt = testing::attempt().http(|request| Ok(Response::new(200).with_body(request.url.clone())));
    /// let text = attempt.run(async || Ok(http::get("http://a/b").await?.text()));
    /// assert_eq!(text.as_deref(), Ok("http://a/b"));
    /// ```
    #[cfg(feature = "http")]
    pub fn http(self, server: impl FnMut(&http::Request) -> Result<http::Response, http::Error> + 'static) -> Self {
        self.with(|state| state.http = Some(Rc::new(RefCell::new(server))))
    }

    /// Runs a body, or other code that calls the host, sync or async.
    ///
    /// ```
    /// # use taskhost_sdk::{prelude::*, testing};
    /// async fn body(n: u8) -> TaskResult<u8> { Ok(n + 1) }
    /// assert_eq!(testing::attempt().run(|| body(1)), Ok(2));
    /// ```
    pub fn run<R: Run<M>, M>(&self, body: impl FnOnce() -> R) -> R::Output {
        let _scope = Scope::enter(self.state.clone());
        body().run()
    }

    /// Runs a body like the host, with the arguments as a JSON array and the result as JSON.
    ///
    /// ```
    /// # use taskhost_sdk::{prelude::*, testing};
    /// #[task]
    /// fn add(a: i64, b: i64) -> TaskResult<i64> { Ok(a + b) }
    /// # export_plugin!(add);
    /// assert_eq!(testing::attempt().run_json::<add>("[1, 2]").as_deref(), Ok("3"));
    /// let error = testing::attempt().run_json::<add>(r#"[1, "x"]"#).unwrap_err();
    /// assert_eq!(error.message(), r#"parameter `b` (argument 2): expected a 64-bit integer, got "x""#);
    /// ```
    pub fn run_json<T: Task>(&self, args: &str) -> TaskResult<String> {
        let _scope = Scope::enter(self.state.clone());
        T::run(args)
    }

    /// The next attempt, with the same store and server.
    ///
    /// ```
    /// # use taskhost_sdk::{prelude::*, testing};
    /// let first = testing::attempt();
    /// first.run(|| Ok(kv::set("page", &3)?)).unwrap();
    /// assert_eq!(first.next().run(|| Ok((context::attempt(), kv::get::<u8>("page")?))), Ok((2, Some(3))));
    /// ```
    pub fn next(&self) -> Self {
        let old = self.state.borrow();
        let state = State {
            id: old.id.clone(),
            queue: old.queue.clone(),
            number: old.number + 1,
            max_attempts: old.max_attempts,
            headers: old.headers.clone(),
            env: old.env.clone(),
            store: old.store.clone(),
            #[cfg(feature = "http")]
            http: old.http.clone(),
            ..State::fresh()
        };
        Self { state: Rc::new(RefCell::new(state)) }
    }

    /// The present value of a key in the store.
    ///
    /// ```
    /// # use taskhost_sdk::testing;
    /// assert_eq!(testing::attempt().kv("page", 7).kv_value::<u8>("page"), Some(7));
    /// ```
    ///
    /// # Panics
    /// If it is not a `T` as JSON.
    pub fn kv_value<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        let state = self.state.borrow();
        let store = state.store.borrow();
        store.get(key).map(|bytes| serde_json::from_slice(bytes).expect("the value has the type that was asked for"))
    }

    /// The keys in the store, in byte order.
    ///
    /// ```
    /// # use taskhost_sdk::testing;
    /// assert_eq!(testing::attempt().kv("page", 7).kv_keys(), ["page"]);
    /// ```
    pub fn kv_keys(&self) -> Vec<String> {
        self.state.borrow().store.borrow().keys().cloned().collect()
    }

    /// The lines that the body logged.
    ///
    /// ```
    /// # use taskhost_sdk::testing;
    /// assert!(testing::attempt().logs().is_empty());
    /// ```
    pub fn logs(&self) -> Vec<LogLine> {
        self.state.borrow().logs.clone()
    }

    /// The tasks that were enqueued.
    ///
    /// ```
    /// # use taskhost_sdk::testing;
    /// assert!(testing::attempt().children().is_empty());
    /// ```
    pub fn children(&self) -> Vec<NewTask> {
        self.state.borrow().children.clone()
    }

    /// All reports of progress: done, total, note.
    ///
    /// ```
    /// # use taskhost_sdk::testing;
    /// assert!(testing::attempt().progress().is_empty());
    /// ```
    pub fn progress(&self) -> Vec<(u64, Option<u64>, String)> {
        self.state.borrow().progress.clone()
    }

    /// The spans that were begun, in this order.
    ///
    /// ```
    /// # use taskhost_sdk::testing;
    /// assert!(testing::attempt().spans().is_empty());
    /// ```
    pub fn spans(&self) -> Vec<Spanned> {
        self.state.borrow().spans.clone()
    }

    /// The HTTP requests that were made.
    ///
    /// ```
    /// # use taskhost_sdk::testing;
    /// assert!(testing::attempt().requests().is_empty());
    /// ```
    #[cfg(feature = "http")]
    pub fn requests(&self) -> Vec<http::Request> {
        self.state.borrow().requests.clone()
    }

    fn with(self, change: impl FnOnce(&mut State)) -> Self {
        change(&mut self.state.borrow_mut());
        self
    }
}

/// One line that a body logged.
///
/// ```
/// # use taskhost_sdk::{log::Level, prelude::*, testing};
/// let attempt = testing::attempt();
/// attempt.run(|| Ok(log::warn("slow"))).unwrap();
/// assert_eq!(attempt.logs()[0].level, Level::Warn);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Its importance.
    pub level: Level,
    /// For people.
    pub message: String,
    /// For programs.
    pub fields: Vec<(String, String)>,
}

/// One span that a body began.
///
/// ```
/// # use taskhost_sdk::{prelude::*, testing};
/// let attempt = testing::attempt();
/// attempt.run(|| Ok(drop(span!("page", number = 3)))).unwrap();
/// assert!(attempt.spans()[0].is_ended);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Spanned {
    /// Of the step.
    pub name: String,
    /// For programs.
    pub fields: Vec<(String, String)>,
    /// The names of its events.
    pub events: Vec<String>,
    /// The place of the span that was open around it.
    pub parent: Option<usize>,
    /// Why it failed.
    pub error: Option<String>,
    /// Whether the body ended it.
    pub is_ended: bool,
}

/// The return type of a body for [`Attempt::run`]: a `TaskResult`, or a future of one. `M` only distinguishes the two.
///
/// ```
/// # use taskhost_sdk::{prelude::*, testing};
/// assert_eq!(testing::attempt().run(|| Ok(1)), Ok(1));
/// assert_eq!(testing::attempt().run(async || Ok(1)), Ok(1));
/// ```
pub trait Run<M> {
    /// The value of the result.
    type Output;
    /// Runs it to its end.
    ///
    /// ```
    /// # use taskhost_sdk::{prelude::*, testing::Run};
    /// assert_eq!(TaskResult::Ok(1).run(), Ok(1));
    /// ```
    fn run(self) -> Self::Output;
}

impl<T> Run<()> for TaskResult<T> {
    type Output = Self;
    fn run(self) -> Self {
        self
    }
}

impl<T, F: Future<Output = TaskResult<T>>> Run<((),)> for F {
    type Output = TaskResult<T>;
    fn run(self) -> TaskResult<T> {
        block_on(self)
    }
}

type Store = BTreeMap<String, Vec<u8>>;
#[cfg(feature = "http")]
type Server = Rc<RefCell<dyn FnMut(&http::Request) -> Result<http::Response, http::Error>>>;

pub(crate) struct State {
    pub(crate) id: String,
    pub(crate) queue: String,
    pub(crate) number: u32,
    pub(crate) max_attempts: u32,
    pub(crate) enqueued_at: u64,
    pub(crate) deadline: u64,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) cancelled: bool,
    pub(crate) progress: Vec<(u64, Option<u64>, String)>,
    pub(crate) logs: Vec<LogLine>,
    pub(crate) children: Vec<NewTask>,
    pub(crate) spans: Vec<Spanned>,
    store: Rc<RefCell<Store>>,
    kv_error: Option<kv::Error>,
    #[cfg(feature = "http")]
    pub(crate) http: Option<Server>,
    #[cfg(feature = "http")]
    pub(crate) requests: Vec<http::Request>,
}

impl State {
    #[expect(clippy::disallowed_methods, reason = "an attempt's deadline is a time of the real clock, as in a guest")]
    fn fresh() -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        Self {
            id: "task-1".into(),
            queue: "default".into(),
            number: 1,
            max_attempts: 4,
            enqueued_at: now,
            deadline: now + 60_000,
            headers: Vec::new(),
            env: BTreeMap::new(),
            cancelled: false,
            progress: Vec::new(),
            logs: Vec::new(),
            children: Vec::new(),
            spans: Vec::new(),
            store: Rc::default(),
            kv_error: None,
            #[cfg(feature = "http")]
            http: None,
            #[cfg(feature = "http")]
            requests: Vec::new(),
        }
    }

    /// The span of this number, if it is open.
    pub(crate) fn span(&mut self, number: u32) -> Option<&mut Spanned> {
        let place = usize::try_from(number).ok()?.checked_sub(1)?;
        self.spans.get_mut(place).filter(|span| !span.is_ended)
    }

    pub(crate) fn kv(&mut self) -> Result<std::cell::RefMut<'_, Store>, kv::Error> {
        match &self.kv_error {
            Some(error) => Err(error.clone()),
            None => Ok(self.store.borrow_mut()),
        }
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("id", &self.id).field("number", &self.number).finish_non_exhaustive()
    }
}

thread_local! {
    /// The attempts that run on this thread, the innermost last. The first is for bodies that are called outside `run`.
    static CURRENT: RefCell<Vec<Rc<RefCell<State>>>> = RefCell::new(vec![Rc::new(RefCell::new(State::fresh()))]);
}

/// Calls the attempt that runs on this thread.
pub(crate) fn current<T>(ask: impl FnOnce(&mut State) -> T) -> T {
    let state = CURRENT.with_borrow(|attempts| attempts[attempts.len() - 1].clone());
    ask(&mut state.borrow_mut())
}

/// Makes an attempt the current one until this is dropped, also if the body panics.
struct Scope;

impl Scope {
    fn enter(state: Rc<RefCell<State>>) -> Self {
        CURRENT.with_borrow_mut(|attempts| attempts.push(state));
        Self
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        CURRENT.with_borrow_mut(|attempts| drop(attempts.pop()));
    }
}
