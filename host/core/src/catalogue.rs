//! The known bodies, as data, and the check of arguments against them. Pure.
//!
//! A plugin's `describe` gives a [`Description`] → workers announce it with the file it came from → [`Catalogue`] answers
//! "is there such a body, and does it take these arguments?" before a task is enqueued.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::task::{CodeId, TaskName};

mod arguments;
mod hints;
mod json;
mod schema;
#[cfg(test)]
mod tests;

pub use arguments::{ArgumentsError, Checker, Given, near};
pub use hints::Bound;
pub use schema::signature;

/// A plugin's description of itself.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Description {
    pub version: String,
    pub doc: String,
    pub bodies: Vec<Body>,
}

/// One body: its name, its parameters and its hints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Body {
    pub name: TaskName,
    /// Markdown; the first line is the summary.
    pub doc: String,
    pub parameters: Vec<Parameter>,
    /// A JSON Schema of the result.
    pub returns: serde_json::Value,
    pub hints: Hints,
}

/// One positional parameter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Parameter {
    pub name: String,
    /// A JSON Schema; `{}` takes anything.
    pub schema: serde_json::Value,
    /// May be left out if all after it are.
    pub optional: bool,
}

/// A body's suggestions for its own handling, parsed. Unknown or unreadable hints are left out with a warning.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Hints {
    /// `timeout=2m`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// `retries=5`: attempts beyond the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
    /// `queue=mail`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<crate::task::QueueName>,
    /// `cron=0 9 * * *`: shown by `plugin inspect`; never scheduled by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    /// `http=https://hr.example.com`: an origin that the body will call. Only shown, as all that is wanted of the policy.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub http: Vec<String>,
    /// `env=CENTER_URL=https://hr.example.com/api`: a variable that it reads, with an example.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// `enqueue=mail.send`: a task that it enqueues.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub enqueue: Vec<String>,
}

/// One body and the code that offers it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Offer {
    #[serde(flatten)]
    pub body: Body,
    pub code: CodeId,
}

/// All bodies that the live workers offer, or last offered, by name.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Catalogue {
    pub offers: BTreeMap<TaskName, Offer>,
}

/// One plugin file of one worker, as `plugin list` shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PluginInfo {
    /// File name, such as `math.wasm`.
    pub file: String,
    pub status: PluginStatus,
    /// The code that serves, also if the file itself is bad.
    pub serving: Option<CodeId>,
    /// The fault of the file, and what to do about it.
    pub error: Option<String>,
    /// Faults that did not keep it from being loaded.
    pub warnings: Vec<String>,
    pub description: Option<Description>,
    /// What the policy of the worker grants it, and what it wants beyond that; a phrase each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub granted: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lacking: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PluginStatus {
    /// The bytes of the file serve.
    Serving,
    /// Being compiled; `serving` is its last good version, if any.
    Loading,
    /// Refused; its last good version serves, if any.
    Failed,
    /// A guard or a command went back to the version that serves.
    RolledBack,
}

/// A value for an error message: at most 80 characters of it, control characters escaped.
fn brief(text: &str) -> String {
    let mut short: String =
        text.chars().take(80).flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect();
    if text.chars().nth(80).is_some() {
        short.push('…');
    }
    short
}
