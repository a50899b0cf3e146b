//! JSON text → a value to judge. Stricter than JSON itself: no object has a name twice, for its readers would not agree on which counts.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

use super::{ArgumentsError, brief};

/// Parses to judge. The parser's limit of 128 levels keeps deep input from overflowing a stack, here and in the guest.
pub(super) fn parse(text: &str) -> Result<Value, ArgumentsError> {
    serde_json::from_str::<Strict>(text).map(|strict| strict.0).map_err(|error| refused(&error))
}

/// What the parser found, as a sentence; [`ArgumentsError::Name`] for JSON that names something twice.
pub(super) fn refused(error: &serde_json::Error) -> ArgumentsError {
    let text = error.to_string();
    if text.starts_with(TWICE) {
        ArgumentsError::Name(text)
    } else if text.starts_with("recursion limit") {
        ArgumentsError::Json("nested deeper than 127 levels: flatten it".into())
    } else {
        ArgumentsError::Json(format!("not JSON: {text}"))
    }
}

const TWICE: &str = "an object names twice, leave one out: ";

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Read).map(Self)
    }
}

struct Read;

impl<'de> Visitor<'de> for Read {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Value, E> {
        Ok(Value::Bool(truth))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Number::from_f64(number).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some((name, Strict(value))) = members.next_entry::<String, Strict>()? {
            if object.contains_key(&name) {
                return Err(A::Error::custom(format!("{TWICE}`{}`", brief(&name))));
            }
            object.insert(name, value);
        }
        Ok(Value::Object(object))
    }
}
