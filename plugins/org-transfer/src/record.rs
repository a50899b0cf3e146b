//! The moved records, and how kv stores them.
//!
//! staged:KIND:ID   a [`Staged`] record: the newest version of the centre, and the version that ECF has
//! cursor:KIND      a [`Cursor`]: the place of an unfinished transfer

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use taskhost_sdk::prelude::*;

/// The kind of a record. Its word is part of both servers' paths and of the keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Department,
    BusinessUnit,
    Staff,
}

impl Kind {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Department => "department",
            Self::BusinessUnit => "business_unit",
            Self::Staff => "staff",
        }
    }

    /// The prefix of the keys of all its records.
    pub(crate) fn prefix(self) -> String {
        format!("staged:{}:", self.word())
    }

    pub(crate) fn key(self, id: &str) -> String {
        format!("{}{id}", self.prefix())
    }

    pub(crate) fn cursor(self) -> String {
        format!("cursor:{}", self.word())
    }
}

/// A page of the centre: `{"items": [{"id": …, …}, …], "next": 2}`; `next` is null, or missing, on the last page.
#[derive(Debug, Deserialize)]
pub(crate) struct Page {
    pub(crate) items: Vec<Map<String, Value>>,
    #[serde(default)]
    pub(crate) next: Option<u64>,
}

/// A record as kv stores it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Staged {
    /// Of the record's JSON.
    pub(crate) hash: String,
    /// The hash of the version that ECF got last; `None` before the first push.
    pub(crate) pushed: Option<String>,
    pub(crate) record: Map<String, Value>,
}

impl Staged {
    pub(crate) fn is_changed(&self) -> bool {
        self.pushed.as_ref() != Some(&self.hash)
    }
}

/// The place of a transfer.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cursor {
    /// The task of the transfer. Another task begins at the first page.
    pub(crate) task: String,
    /// The next page.
    pub(crate) page: u64,
    /// The number of records staged on earlier pages.
    pub(crate) staged: u64,
}

/// A record's id as text: a string or an integer in its JSON, not empty.
pub(crate) fn id_of(record: &Map<String, Value>) -> TaskResult<String> {
    match record.get("id") {
        Some(Value::String(id)) if !id.is_empty() => Ok(id.clone()),
        Some(Value::Number(id)) if id.is_i64() || id.is_u64() => Ok(id.to_string()),
        other => Err(TaskError::permanent(format!(
            "the centre sent a record without an id (a string or an integer): {}",
            other.map_or_else(|| "no `id`".into(), Value::to_string)
        ))
        .with_code("bad-record")),
    }
}

/// FNV-1a, 64 bits, of the record's JSON. Its keys are sorted, so their order at the centre does not matter. The hash is not safe against an
/// adversary, but the centre could harm only itself.
pub(crate) fn hash_of(record: &Map<String, Value>) -> TaskResult<String> {
    let text = serde_json::to_vec(record).permanent()?;
    let hash = text.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    Ok(format!("{hash:016x}"))
}
