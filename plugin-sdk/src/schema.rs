//! JSON Schemas of parameters and results.
//!
//! A trait of this crate writes the text directly. So a type adds a few hundred bytes to a guest; a schema library would add far more.

use std::{
    any::type_name,
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
};

/// A type that a body can take or return, with the schema of its JSON. Derive it for structs and for enums without data.
///
/// The derive reads serde's `rename`, `rename_all`, `default` and `skip`. It refuses other serde attributes, because the schema would not show
/// their effect.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use taskhost_sdk::{SchemaWriter, prelude::*};
///
/// #[derive(Serialize, Deserialize, Schema)]
/// #[serde(rename_all = "camelCase")]
/// struct Staff {
///     full_name: String,
///     #[serde(default)]
///     tags: Vec<String>,
/// }
/// assert_eq!(
///     SchemaWriter::schema_of::<Staff>(),
///     r#"{"type":"object","properties":{"fullName":{"type":"string"},"tags":{"type":"array","items":{"type":"string"}}},"required":["fullName"]}"#
/// );
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be a parameter or a result of a body: it has no `Schema`",
    label = "no `Schema`",
    note = "bodies take and return i8…i64, u8…u64, f32, f64, bool, String, Vec, Option, maps with String keys, tuples and your own types with `#[derive(Schema)]`; `usize` and `isize` differ between host and guest: use `u64` or `i64`"
)]
pub trait Schema {
    /// Whether `null` is a value, so that a trailing parameter may be left out.
    const OPTIONAL: bool = false;
    /// Whether it may contain a float. Such results are searched for NaN and infinity.
    const HOLDS_FLOATS: bool = true;

    /// Writes the schema.
    fn write_schema(writer: &mut SchemaWriter);

    /// The name of the type in error messages, such as `a 64-bit integer`.
    fn expects() -> String;
}

/// Writes one JSON Schema.
///
/// ```
/// # use taskhost_sdk::{Schema, SchemaWriter};
/// /// A colour such as `#ff8800`.
/// struct Colour;
/// impl Schema for Colour {
///     fn write_schema(writer: &mut SchemaWriter) {
///         writer.raw(r##"{"type":"string","pattern":"^#[0-9a-f]{6}$"}"##);
///     }
///     fn expects() -> String {
///         "a colour such as \"#ff8800\"".into()
///     }
/// }
/// assert_eq!(SchemaWriter::schema_of::<Vec<Colour>>(), r##"{"type":"array","items":{"type":"string","pattern":"^#[0-9a-f]{6}$"}}"##);
/// ```
#[derive(Debug, Default)]
pub struct SchemaWriter {
    text: String,
    /// The structs that are being written. A struct within itself becomes `{}`.
    open: Vec<&'static str>,
}

impl SchemaWriter {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn finish(self) -> String {
        self.text
    }

    /// The schema of one type.
    ///
    /// ```
    /// # use taskhost_sdk::SchemaWriter;
    /// assert_eq!(SchemaWriter::schema_of::<bool>(), r#"{"type":"boolean"}"#);
    /// ```
    pub fn schema_of<T: Schema>() -> String {
        let mut writer = Self::new();
        T::write_schema(&mut writer);
        writer.finish()
    }

    /// Adds the text of a schema, or of a part of one.
    ///
    /// ```
    /// # use taskhost_sdk::SchemaWriter;
    /// let mut writer = SchemaWriter::default();
    /// writer.raw("{}");
    /// ```
    pub fn raw(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// Writes an object with named fields. Each has its name, whether it is required, and its schema.
    #[doc(hidden)]
    pub fn object<T>(&mut self, fields: &[Field<'_>]) {
        let name = type_name::<T>();
        if self.open.contains(&name) {
            return self.raw("{}");
        }
        self.open.push(name);
        self.raw(r#"{"type":"object","properties":{"#);
        for (i, (field, _, schema)) in fields.iter().enumerate() {
            self.raw(if i == 0 { "\"" } else { ",\"" });
            self.raw(field);
            self.raw("\":");
            schema(self);
        }
        self.raw("}");
        let mut first = true;
        for (field, _, _) in fields.iter().filter(|(_, required, _)| *required) {
            self.raw(if first { ",\"required\":[\"" } else { ",\"" });
            self.raw(field);
            self.raw("\"");
            first = false;
        }
        self.raw(if first { "}" } else { "]}" });
        self.open.pop();
    }

    /// Writes a list of fixed length.
    #[doc(hidden)]
    pub fn tuple(&mut self, items: &[fn(&mut Self)]) {
        self.raw(r#"{"type":"array","prefixItems":["#);
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                self.raw(",");
            }
            item(self);
        }
        let _ = write!(self.text, r#"],"minItems":{n},"maxItems":{n}}}"#, n = items.len());
    }
}

/// Its name, whether it is required, and its schema.
type Field<'a> = (&'a str, bool, fn(&mut SchemaWriter));

macro_rules! simple {
    ($($type:ty: $schema:expr, $expects:expr, $floats:expr;)*) => {
        $(impl Schema for $type {
            const HOLDS_FLOATS: bool = $floats;
            fn write_schema(writer: &mut SchemaWriter) {
                writer.raw($schema);
            }
            fn expects() -> String {
                $expects.into()
            }
        })*
    };
}

simple! {
    i8: r#"{"type":"integer","minimum":-128,"maximum":127}"#, "an integer from -128 to 127", false;
    i16: r#"{"type":"integer","minimum":-32768,"maximum":32767}"#, "an integer from -32768 to 32767", false;
    i32: r#"{"type":"integer","format":"int32","minimum":-2147483648,"maximum":2147483647}"#, "a 32-bit integer", false;
    i64: r#"{"type":"integer","format":"int64","minimum":-9223372036854775808,"maximum":9223372036854775807}"#, "a 64-bit integer", false;
    u8: r#"{"type":"integer","minimum":0,"maximum":255}"#, "an integer from 0 to 255", false;
    u16: r#"{"type":"integer","minimum":0,"maximum":65535}"#, "an integer from 0 to 65535", false;
    u32: r#"{"type":"integer","format":"uint32","minimum":0,"maximum":4294967295}"#, "a 32-bit integer that is not negative", false;
    u64: r#"{"type":"integer","format":"uint64","minimum":0,"maximum":18446744073709551615}"#, "a 64-bit integer that is not negative", false;
    f32: r#"{"type":"number","format":"float"}"#, "a number", true;
    f64: r#"{"type":"number","format":"double"}"#, "a number", true;
    bool: r#"{"type":"boolean"}"#, "true or false", false;
    String: r#"{"type":"string"}"#, "a string", false;
    char: r#"{"type":"string","minLength":1,"maxLength":1}"#, "a string of one character", false;
    (): r#"{"type":"null"}"#, "null", false;
    // A `Value` can't hold a float that is not finite.
    serde_json::Value: "{}", "any JSON", false;
}

impl<T: Schema> Schema for Option<T> {
    const OPTIONAL: bool = true;
    const HOLDS_FLOATS: bool = T::HOLDS_FLOATS;
    fn write_schema(writer: &mut SchemaWriter) {
        writer.raw(r#"{"anyOf":["#);
        T::write_schema(writer);
        writer.raw(r#",{"type":"null"}]}"#);
    }
    fn expects() -> String {
        format!("{} or null", T::expects())
    }
}

impl<T: Schema> Schema for Box<T> {
    const OPTIONAL: bool = T::OPTIONAL;
    const HOLDS_FLOATS: bool = T::HOLDS_FLOATS;
    fn write_schema(writer: &mut SchemaWriter) {
        T::write_schema(writer);
    }
    fn expects() -> String {
        T::expects()
    }
}

impl<T: Schema> Schema for Vec<T> {
    const HOLDS_FLOATS: bool = T::HOLDS_FLOATS;
    fn write_schema(writer: &mut SchemaWriter) {
        writer.raw(r#"{"type":"array","items":"#);
        T::write_schema(writer);
        writer.raw("}");
    }
    fn expects() -> String {
        format!("a list (each item {})", T::expects())
    }
}

macro_rules! maps {
    ($($map:ty),*) => {
        $(impl<T: Schema> Schema for $map {
            const HOLDS_FLOATS: bool = T::HOLDS_FLOATS;
            fn write_schema(writer: &mut SchemaWriter) {
                writer.raw(r#"{"type":"object","additionalProperties":"#);
                T::write_schema(writer);
                writer.raw("}");
            }
            fn expects() -> String {
                format!("an object (each value {})", T::expects())
            }
        })*
    };
}
maps!(BTreeMap<String, T>, HashMap<String, T>);

macro_rules! tuples {
    ($(($($item:ident)+))*) => {
        $(impl<$($item: Schema),+> Schema for ($($item,)+) {
            const HOLDS_FLOATS: bool = $($item::HOLDS_FLOATS)||+;
            fn write_schema(writer: &mut SchemaWriter) {
                writer.tuple(&[$($item::write_schema),+]);
            }
            fn expects() -> String {
                format!("a list of exactly: {}", [$($item::expects()),+].join(", "))
            }
        })*
    };
}
tuples! { (A) (A B) (A B C) (A B C D) (A B C D E) (A B C D E F) (A B C D E F G) (A B C D E F G H) }

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;
    // The derive of the same name. The line above imports only the trait.
    use crate::Schema;

    fn schema<T: Schema>() -> serde_json::Value {
        serde_json::from_str(&SchemaWriter::schema_of::<T>()).expect("a schema is JSON")
    }

    #[test]
    fn nested_types_are_valid_json_and_say_their_bounds() {
        assert_eq!(
            schema::<BTreeMap<String, Vec<Option<(i8, bool)>>>>(),
            serde_json::json!({"type": "object", "additionalProperties": {"type": "array", "items": {"anyOf": [
                {"type": "array", "prefixItems": [{"type": "integer", "minimum": -128, "maximum": 127}, {"type": "boolean"}], "minItems": 2, "maxItems": 2},
                {"type": "null"}
            ]}}})
        );
        assert_eq!(schema::<u64>()["maximum"], u64::MAX);
        assert_eq!(schema::<i64>()["minimum"], i64::MIN);
    }

    #[derive(Serialize, Deserialize, Schema)]
    #[serde(rename_all = "kebab-case")]
    struct Everything {
        given_name: String,
        #[serde(rename = "Änderung \"x\"")]
        odd: u8,
        nick_name: Option<String>,
        #[serde(default = "seven")]
        weight: f32,
        #[serde(skip)]
        _cache: usize,
        kind: Kind,
    }
    fn seven() -> f32 {
        7.0
    }
    #[derive(Serialize, Deserialize, Schema)]
    #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
    enum Kind {
        FullTime,
        #[serde(rename = "half")]
        HalfTime,
    }
    #[derive(Serialize, Deserialize, Schema)]
    struct Id(i64);
    #[derive(Serialize, Deserialize, Schema)]
    #[serde(default)]
    #[derive(Default)]
    struct Tree {
        id: Option<Box<Tree>>,
        leaves: Vec<Tree>,
    }

    #[test]
    fn the_derive_says_what_serde_does() {
        let schema = schema::<Everything>();
        let names: Vec<_> = schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(names, ["given-name", "kind", "nick-name", "weight", "Änderung \"x\""]);
        assert_eq!(schema["required"], serde_json::json!(["given-name", "Änderung \"x\"", "kind"]));
        assert_eq!(schema["properties"]["kind"], serde_json::json!({"type": "string", "enum": ["FULL_TIME", "half"]}));

        let value = Everything { given_name: "a".into(), odd: 1, nick_name: None, weight: 1.0, _cache: 3, kind: Kind::HalfTime };
        let written = serde_json::to_value(&value).unwrap();
        for name in written.as_object().unwrap().keys() {
            assert!(names.contains(&name.as_str()), "{name} is written, but not in the schema");
        }
        assert_eq!(serde_json::to_value(Kind::FullTime).unwrap(), "FULL_TIME");
        assert_eq!(SchemaWriter::schema_of::<Id>(), SchemaWriter::schema_of::<i64>());
        assert!(serde_json::to_value(Id(1)).unwrap().is_i64());
        assert_eq!(Kind::expects(), "one of \"FULL_TIME\", \"half\"");
    }

    #[test]
    fn a_type_that_holds_itself_ends() {
        let schema = schema::<Tree>();
        assert_eq!(schema["properties"]["leaves"]["items"], serde_json::json!({}));
        assert!(schema.get("required").is_none());
        assert!(serde_json::to_value(Tree::default()).unwrap().is_object());
    }
}
