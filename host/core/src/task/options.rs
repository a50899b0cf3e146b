//! What an asker may say about a task: the same options in a [`NewTask`](super::NewTask), a [`Task`](super::Task), a
//! [`TaskView`](super::TaskView), a stored schedule and the defaults of a bulk.
//!
//! A new option that no broker decides on is a field of [`Carried`]: brokers store that as one JSON object.

use std::{str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use super::{FlowPlace, Priority};

/// The most retries that a hint or a setting may give. More is most likely a typing error.
pub const MOST_RETRIES: u32 = 1_000_000;

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
    /// The node of a flow that the task runs for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow: Option<FlowPlace>,
}

/// The options that brokers carry without looking at them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Carried {
    #[serde(default, skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
}

impl Carried {
    /// The options by name, as files and listings write them.
    pub const NAMES: [&str; 1] = ["tags"];

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
        if self.tags.is_empty() {
            self.tags.clone_from(&parent.tags);
        }
    }

    /// Each of [`Self::NAMES`] with its value as text; empty if it is not set.
    pub fn shown(&self) -> Vec<(&'static str, String)> {
        vec![("tags", self.tags.iter().map(Tag::as_str).collect::<Vec<_>>().join(" "))]
    }
}

/// Which tasks a listing shows, by their options. All conditions must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OptionFilter {
    /// The task has each of these.
    pub tags: Vec<Tag>,
}

impl OptionFilter {
    /// Whether there is any condition.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub fn fits(&self, options: &TaskOptions) -> bool {
        self.tags.iter().all(|tag| options.carried.tags.iter().any(|own| own == tag))
    }
}

/// A word by which people find tasks: 1 to 32 characters of `A-Z a-z 0-9 . _ : -`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Tag(String);

impl Tag {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let is_valid = (1..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b));
        if is_valid {
            return Ok(Self(text.to_owned()));
        }
        let shown: String = text.chars().take(40).flat_map(char::escape_debug).collect();
        Err(format!("a tag is 1 to 32 characters of A-Z a-z 0-9 . _ : -: `{shown}`"))
    }
}

impl TryFrom<String> for Tag {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// The tags of a task: at most 8, each once, in the order given.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "OneOrMany")]
pub struct Tags(Vec<Tag>);

/// How people write tags: one word, or a list.
#[derive(Deserialize)]
#[serde(untagged, expecting = "tags are a text or a list of texts, such as \"vip\" or [\"vip\", \"eu\"]")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl Tags {
    pub const MOST: usize = 8;

    /// Adds a tag. One that is there already is not added again.
    pub fn add(&mut self, tag: Tag) -> Result<(), String> {
        if self.0.contains(&tag) {
            return Ok(());
        }
        if self.0.len() == Self::MOST {
            return Err(format!("a task has at most {} tags: `{}` is one too many", Self::MOST, tag.0));
        }
        self.0.push(tag);
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Tag> {
        self.0.iter()
    }

    /// Adds each tag of `others`.
    pub fn extend(&mut self, others: impl IntoIterator<Item = Tag>) -> Result<(), String> {
        others.into_iter().try_for_each(|tag| self.add(tag))
    }
}

impl IntoIterator for Tags {
    type Item = Tag;
    type IntoIter = std::vec::IntoIter<Tag>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl TryFrom<OneOrMany> for Tags {
    type Error = String;
    fn try_from(written: OneOrMany) -> Result<Self, String> {
        let words = match written {
            OneOrMany::One(word) => vec![word],
            OneOrMany::Many(words) => words,
        };
        let mut tags = Self::default();
        for word in words {
            tags.add(word.parse()?)?;
        }
        Ok(tags)
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
    fn tags_are_few_short_words() {
        let read = |json: &str| Carried::parse("tags", json).map(|carried| carried.shown()[0].1.clone());
        assert_eq!(read(r#"["vip","eu.west","vip","a:b-c_1"]"#).as_deref(), Ok("vip eu.west a:b-c_1"));
        assert_eq!(read(r#""vip""#).as_deref(), Ok("vip"));
        assert_eq!(read("[]").as_deref(), Ok(""));
        let long = format!("\"{}\"", "x".repeat(33));
        for odd in [&*long, r#""""#, r#""a b""#, r#""ä""#, r#""\u001b[1m""#, r#"[""]"#] {
            assert!(read(odd).unwrap_err().contains("a tag is 1 to 32 characters"), "{odd}: {:?}", read(odd));
        }
        let nine = serde_json::to_string(&(0..9).map(|n| n.to_string()).collect::<Vec<_>>()).expect("JSON");
        assert_eq!(read(&nine).unwrap_err(), "a task has at most 8 tags: `8` is one too many");
        for odd in ["7", "null", "{}", "[1]"] {
            assert!(read(odd).unwrap_err().contains("tags are a text or a list of texts"), "{odd}: {:?}", read(odd));
        }
    }

    #[test]
    fn a_child_has_its_own_tags_or_those_of_its_parent() {
        let tags = |json: &str| Carried::parse("tags", json).expect("valid");
        let (mut own, mut none) = (tags("\"own\""), Carried::default());
        own.inherit(&tags("\"vip\""));
        none.inherit(&tags("\"vip\""));
        assert_eq!((own, none), (tags("\"own\""), tags("\"vip\"")));
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
