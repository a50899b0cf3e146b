//! What an asker may say about a task: the same options in a [`NewTask`](super::NewTask), a [`Task`](super::Task), a
//! [`TaskView`](super::TaskView), a stored schedule and the defaults of a bulk.
//!
//! A new option that no broker decides on is a field of [`Carried`]: brokers store that as one JSON object.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Priority;

/// The options of a task.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct TaskOptions {
    #[serde(default)]
    pub priority: Priority,
    /// How long an attempt may run. `None` leaves it to the body's hint, then to the worker's default.
    #[serde(rename = "timeout_ms", default, skip_serializing_if = "Option::is_none", with = "millis")]
    pub timeout: Option<Duration>,
    /// At least 1. `None` leaves it to the body's hint, then to the worker's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// How long the result is kept after the end; `None`: the broker's `result_ttl`; zero: not at all.
    #[serde(rename = "result_ttl_ms", default, skip_serializing_if = "Option::is_none", with = "millis")]
    pub result_ttl: Option<Duration>,
    /// `traceparent` included; names in lower case.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
    #[serde(flatten)]
    pub carried: Carried,
}

/// The options that brokers carry without looking at them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Carried {}

impl Carried {
    /// The options by name, as files and listings write them.
    pub const NAMES: [&str; 0] = [];

    /// The JSON object that a broker stores. `None` if no option is set.
    pub fn to_json(&self) -> Option<String> {
        if *self == Self::default() { None } else { serde_json::to_string(self).ok() }
    }

    /// Reads a stored object. Anything else counts as no option, because another program may have written it.
    pub fn from_json(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or_default()
    }

    /// One option by its name, with its value as JSON.
    pub fn parse(name: &str, value: &str) -> Result<Self, String> {
        serde_json::from_str(&format!("{{\"{name}\":{value}}}")).map_err(|error| {
            let text = error.to_string();
            text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text).to_owned()
        })
    }

    /// Takes over the options of a parent that this child does not set itself.
    pub fn inherit(&mut self, parent: &Self) {
        let (Self {}, Self {}) = (self, parent);
    }

    /// Each of [`Self::NAMES`] with its value as text; empty if it is not set.
    pub fn shown(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }
}

/// Which tasks a listing shows, by their options. All conditions must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OptionFilter {}

impl OptionFilter {
    /// Whether there is any condition.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub fn fits(&self, options: &TaskOptions) -> bool {
        let (Self {}, Carried {}) = (self, &options.carried);
        true
    }
}

/// An optional duration in whole milliseconds.
mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::ref_option, reason = "serde asks for this shape")]
    pub(super) fn serialize<S: Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(duration) => serializer.serialize_some(&u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(deserializer)?.map(Duration::from_millis))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_as_schedules_of_earlier_versions_stored_them() {
        let read: TaskOptions = serde_json::from_str(r#"{"priority":7,"timeout_ms":null,"max_attempts":null}"#).expect("options");
        assert_eq!(read, TaskOptions { priority: Priority::new(7).expect("valid"), ..TaskOptions::default() });
        let read: TaskOptions = serde_json::from_str(r#"{"timeout_ms":1500,"max_attempts":2}"#).expect("options");
        assert_eq!((read.timeout, read.max_attempts), (Some(Duration::from_millis(1500)), Some(2)));
    }

    #[test]
    fn an_option_that_is_not_set_is_not_written() {
        assert_eq!(serde_json::to_string(&TaskOptions::default()).expect("JSON"), r#"{"priority":5}"#);
        assert_eq!(Carried::default().to_json(), None);
        for odd in ["", "{", "[]", "null", "7"] {
            assert_eq!(Carried::from_json(odd), Carried::default(), "{odd}");
        }
    }
}
