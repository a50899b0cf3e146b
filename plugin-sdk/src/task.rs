//! A body as the host sees it: a name, parameters with schemas, `run` from JSON to JSON.
//!
//! arguments (JSON array) → one raw text for each parameter → typed values → the body → result → JSON
//!
//! Invariant: wrong arguments give a `TaskError` that names the parameter. Nothing here panics.

use std::{fmt::Write as _, future::Future};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::{
    error::{TaskError, TaskResult},
    result::BodyResult,
    schema::{Schema, SchemaWriter},
};

/// A body; `#[task]` implements it for a hidden type with the function's name.
///
/// ```
/// use taskhost_sdk::{Task, prelude::*};
///
/// /// Adds two integers.
/// #[task]
/// fn add(a: i64, b: i64) -> TaskResult<i64> {
///     a.checked_add(b).or_permanent("integer overflow")
/// }
/// # export_plugin!(add);
/// assert_eq!(add::NAME, "add");
/// assert_eq!(add::DOC, "Adds two integers.");
/// ```
pub trait Task {
    /// The task name.
    const NAME: &'static str;
    /// Markdown; the first line is the summary.
    const DOC: &'static str;
    /// The parameters, in order.
    const PARAMETERS: &'static [Parameter];
    /// `timeout`, `retries`, `queue`, `cron`, as written.
    const HINTS: &'static [(&'static str, &'static str)];

    /// The result's JSON Schema.
    fn returns() -> String;

    /// Runs one attempt. Takes the arguments as a JSON array, and returns the result as JSON.
    fn run(args: &str) -> TaskResult<String>;
}

/// One positional parameter of a body.
///
/// ```
/// # use taskhost_sdk::{Task, prelude::*};
/// #[task]
/// fn greet(name: String, title: Option<String>) -> TaskResult<String> {
///     Ok(format!("Hello, {}{name}", title.unwrap_or_default()))
/// }
/// # export_plugin!(greet);
/// assert_eq!(greet::PARAMETERS[0].name(), "name");
/// assert!(greet::PARAMETERS[1].is_optional());
/// assert_eq!(greet::PARAMETERS[0].schema(), r#"{"type":"string"}"#);
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Parameter {
    name: &'static str,
    optional: bool,
    schema: fn(&mut SchemaWriter),
    expects: fn() -> String,
}

impl Parameter {
    #[doc(hidden)]
    pub const fn of<T: Schema>(name: &'static str) -> Self {
        Self { name, optional: T::OPTIONAL, schema: T::write_schema, expects: T::expects }
    }

    /// The author's name for it.
    ///
    /// ```
    /// # use taskhost_sdk::{Task, prelude::*};
    /// # #[task] fn double(n: u8) -> TaskResult<u16> { Ok(u16::from(n) * 2) }
    /// # export_plugin!(double);
    /// assert_eq!(double::PARAMETERS[0].name(), "n");
    /// ```
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Whether it takes `null`. The caller may leave it out if this is true for all parameters after it too.
    ///
    /// ```
    /// # use taskhost_sdk::{Task, prelude::*};
    /// # #[task] fn double(n: u8) -> TaskResult<u16> { Ok(u16::from(n) * 2) }
    /// # export_plugin!(double);
    /// assert!(!double::PARAMETERS[0].is_optional());
    /// ```
    pub fn is_optional(&self) -> bool {
        self.optional
    }

    /// Its JSON Schema.
    ///
    /// ```
    /// # use taskhost_sdk::{Task, prelude::*};
    /// # #[task] fn double(n: u8) -> TaskResult<u16> { Ok(u16::from(n) * 2) }
    /// # export_plugin!(double);
    /// assert_eq!(double::PARAMETERS[0].schema(), r#"{"type":"integer","minimum":0,"maximum":255}"#);
    /// ```
    pub fn schema(&self) -> String {
        let mut writer = SchemaWriter::new();
        (self.schema)(&mut writer);
        writer.finish()
    }
}

/// The number of parameters before the optional ones at the end.
pub(crate) fn required(parameters: &[Parameter]) -> usize {
    parameters.len() - parameters.iter().rev().take_while(|p| p.optional).count()
}

/// Arguments that are split, but have no types yet.
#[doc(hidden)]
#[derive(Debug)]
pub struct Arguments<'a> {
    raw: Vec<&'a RawValue>,
    parameters: &'static [Parameter],
}

impl<'a> Arguments<'a> {
    /// Splits a JSON array, and checks the number of its items.
    pub fn parse(args: &'a str, parameters: &'static [Parameter]) -> TaskResult<Self> {
        let raw: Vec<&RawValue> = <Vec<&RawValue>>::deserialize(&mut serde_json::Deserializer::from_str(args))
            .map_err(|_| TaskError::invalid_arguments(format!("the arguments are not a JSON array: {}", shortened(args))))?;
        if raw.len() > parameters.len() {
            let names: Vec<_> = parameters.iter().map(|p| format!("`{}`", p.name)).collect();
            let takes =
                if names.is_empty() { "takes no arguments".into() } else { format!("takes {} ({})", names.len(), names.join(", ")) };
            return Err(TaskError::invalid_arguments(format!("too many arguments: the body {takes}, got {}", raw.len())));
        }
        if raw.len() < required(parameters) {
            let missing = &parameters[raw.len()];
            return Err(TaskError::invalid_arguments(format!(
                "parameter `{}` (argument {}) is missing: expected {}",
                missing.name,
                raw.len() + 1,
                (missing.expects)()
            )));
        }
        Ok(Self { raw, parameters })
    }

    /// Reads the value of one parameter. A parameter that was left out is `null`.
    pub fn get<T: DeserializeOwned>(&self, index: usize) -> TaskResult<T> {
        let text = self.raw.get(index).map_or("null", |raw| raw.get());
        serde_json::from_str(text).map_err(|error| self.mismatch(index, text, &error))
    }

    // It is not generic, so that the component contains it once.
    #[cold]
    fn mismatch(&self, index: usize, text: &str, error: &serde_json::Error) -> TaskError {
        let Parameter { name, expects, .. } = self.parameters[index];
        let mut message = format!("parameter `{name}` (argument {}): expected {}, got {}", index + 1, expects(), shortened(text));
        // In a list or an object, the message names the part.
        if text.starts_with(['[', '{']) {
            let _ = write!(message, " ({error})");
        }
        TaskError::invalid_arguments(message)
    }
}

/// At most 80 characters of a value, for an error message.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(80) {
        None => text.into(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// The return value of a body as JSON.
#[doc(hidden)]
pub fn finish<R: BodyResult>(result: R) -> TaskResult<String> {
    result.into_json()
}

/// One body of a component.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    pub name: &'static str,
    pub doc: &'static str,
    pub parameters: &'static [Parameter],
    pub hints: &'static [(&'static str, &'static str)],
    pub returns: fn() -> String,
    pub run: fn(&str) -> TaskResult<String>,
}

impl Entry {
    pub const fn of<T: Task>() -> Self {
        Self { name: T::NAME, doc: T::DOC, parameters: T::PARAMETERS, hints: T::HINTS, returns: T::returns, run: T::run }
    }
}

/// Whether two names are the same, at compile time.
#[doc(hidden)]
pub const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}

/// Runs an async body to its end. A guest with `http` runs it on the reactor of WASI's pollables. All others poll it on this thread.
#[doc(hidden)]
pub fn block_on<F: Future>(body: F) -> F::Output {
    #[cfg(all(target_family = "wasm", feature = "http"))]
    return wstd::runtime::block_on(body);
    #[cfg(not(all(target_family = "wasm", feature = "http")))]
    return poll_on_this_thread(body);
}

#[cfg(not(all(target_family = "wasm", feature = "http")))]
fn poll_on_this_thread<F: Future>(body: F) -> F::Output {
    use std::{
        pin::pin,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
        task::{Context, Poll, Wake},
        thread::Thread,
    };

    struct Alarm {
        rung: AtomicBool,
        #[cfg_attr(target_family = "wasm", expect(dead_code, reason = "a guest has one thread: nobody else could wake it"))]
        thread: Thread,
    }
    impl Wake for Alarm {
        fn wake(self: Arc<Self>) {
            self.rung.store(true, Ordering::Release);
            #[cfg(not(target_family = "wasm"))]
            self.thread.unpark();
        }
    }

    let alarm = Arc::new(Alarm { rung: AtomicBool::new(false), thread: std::thread::current() });
    let waker = alarm.clone().into();
    let mut context = Context::from_waker(&waker);
    let mut body = pin!(body);
    loop {
        if let Poll::Ready(output) = body.as_mut().poll(&mut context) {
            return output;
        }
        while !alarm.rung.swap(false, Ordering::Acquire) {
            #[cfg(target_family = "wasm")]
            panic!("the body awaits something that nothing will ever wake: await only what this SDK offers (feature `http`)");
            #[cfg(not(target_family = "wasm"))]
            std::thread::park();
        }
    }
}
