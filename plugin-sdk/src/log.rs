//! The task's log. The host keeps it with the task, `taskhost task logs` shows it, and the worker's log has it too.
//!
//! ```
//! # use taskhost_sdk::{prelude::*, testing};
//! let attempt = testing::attempt();
//! attempt.run(|| {
//!     log::info("started");
//!     log::field("page", 3).field("records", 100).warn("slow page");
//!     Ok(())
//! }).unwrap();
//! assert_eq!(attempt.logs()[1].fields, [("page".into(), "3".into()), ("records".into(), "100".into())]);
//! ```

use crate::host;

/// The importance of a line.
///
/// ```
/// # use taskhost_sdk::log::Level;
/// assert!(Level::Error > Level::Info);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Each step, for the author of the plugin.
    Trace,
    /// Details that help to find a fault.
    Debug,
    /// Events of a healthy attempt.
    Info,
    /// Something unexpected. The attempt goes on.
    Warn,
    /// The reason why the attempt will fail.
    Error,
}

/// Begins a line with a field for programs; see the [module](self).
///
/// ```
/// # use taskhost_sdk::prelude::*;
/// log::field("id", 7).info("pushed");
/// ```
pub fn field(name: impl Into<String>, value: impl ToString) -> Line {
    Line::default().field(name, value)
}

/// A line with fields, before it is written.
///
/// ```
/// # use taskhost_sdk::{log::Line, prelude::*};
/// let line: Line = log::field("id", 7);
/// line.info("pushed");
/// ```
#[derive(Debug, Clone, Default)]
#[must_use = "nothing is written before `info`, `warn` …"]
pub struct Line {
    fields: Vec<(String, String)>,
}

impl Line {
    /// Adds a field.
    ///
    /// ```
    /// # use taskhost_sdk::prelude::*;
    /// log::field("id", 7).field("page", 1).info("pushed");
    /// ```
    #[expect(clippy::needless_pass_by_value, reason = "`field(\"page\", 3)` reads better than `field(\"page\", &3)`")]
    pub fn field(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        self.fields.push((name.into(), value.to_string()));
        self
    }

    /// Writes the line at any level.
    ///
    /// ```
    /// # use taskhost_sdk::{log::Level, prelude::*};
    /// log::field("id", 7).write(Level::Debug, "pushed");
    /// ```
    pub fn write(self, level: Level, message: impl AsRef<str>) {
        host::log(level, message.as_ref(), &self.fields);
    }
}

macro_rules! levels {
    ($($name:ident $level:ident $doc:literal;)*) => {
        $(
            #[doc = $doc]
            ///
            /// ```
            /// # use taskhost_sdk::prelude::*;
            #[doc = concat!("log::", stringify!($name), "(\"three pages are left\");")]
            /// ```
            pub fn $name(message: impl AsRef<str>) {
                host::log(Level::$level, message.as_ref(), &[]);
            }
        )*
        impl Line {
            $(
                #[doc = $doc]
                ///
                /// ```
                /// # use taskhost_sdk::prelude::*;
                #[doc = concat!("log::field(\"pages\", 3).", stringify!($name), "(\"not done yet\");")]
                /// ```
                pub fn $name(self, message: impl AsRef<str>) {
                    self.write(Level::$level, message);
                }
            )*
        }
    };
}

levels! {
    trace Trace "Writes what only the author wants to see.";
    debug Debug "Writes what helps to find a fault.";
    info Info "Writes what a person wants to know of a healthy attempt.";
    warn Warn "Writes what is odd, though the attempt goes on.";
    error Error "Writes why the attempt is about to fail.";
}
