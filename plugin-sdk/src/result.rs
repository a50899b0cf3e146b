//! Turns the return value of a body into JSON.
//!
//! Invariant: NaN and the infinities are errors. JSON has no values for them, and `null` would be a wrong result that nobody notices.

use serde::{
    Serialize,
    ser::{
        self, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple, SerializeTupleStruct,
        SerializeTupleVariant,
    },
};

use crate::{
    error::{TaskError, TaskResult},
    schema::{Schema, SchemaWriter},
};

/// The types that a body may return: `TaskResult<T>`.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "a body returns `TaskResult<T>`, this one returns `{Self}`",
    label = "not a `TaskResult<T>` with a `T` that has a `Schema` and can be serialized",
    note = "wrap the result: `-> TaskResult<…>` and `Ok(…)`; a type of your own derives `Serialize` and `Schema`"
)]
pub trait BodyResult {
    fn schema() -> String;
    fn into_json(self) -> TaskResult<String>;
}

impl<T: Schema + Serialize> BodyResult for TaskResult<T> {
    fn schema() -> String {
        let mut writer = SchemaWriter::new();
        T::write_schema(&mut writer);
        writer.finish()
    }

    fn into_json(self) -> TaskResult<String> {
        let value = self?;
        if T::HOLDS_FLOATS && value.serialize(FindNonFinite).is_err() {
            return Err(TaskError::permanent("the result holds a number that JSON can't (NaN or infinity)").with_code("non-finite"));
        }
        serde_json::to_string(&value).map_err(|error| TaskError::permanent(format!("the result can't be written as JSON: {error}")))
    }
}

/// A serializer that writes nothing and fails at the first float that is not finite.
#[derive(Clone, Copy)]
struct FindNonFinite;

#[derive(Debug)]
struct NonFinite;

impl std::fmt::Display for NonFinite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("not finite")
    }
}
impl std::error::Error for NonFinite {}
impl ser::Error for NonFinite {
    fn custom<T: std::fmt::Display>(_: T) -> Self {
        // The type refuses to be serialized. The JSON serializer reports that in a better way.
        NonFinite
    }
}

macro_rules! nothing_to_find {
    ($($method:ident: $type:ty),* $(,)?) => {
        $(fn $method(self, _: $type) -> Result<(), NonFinite> { Ok(()) })*
    };
}

macro_rules! walk {
    ($($trait:ident: $method:ident $(, $key:ident)?);* $(;)?) => {
        $(impl $trait for FindNonFinite {
            type Ok = ();
            type Error = NonFinite;
            fn $method<T: Serialize + ?Sized>(&mut self, $($key: &'static str,)? value: &T) -> Result<(), NonFinite> {
                $(let _ = $key;)?
                value.serialize(Self)
            }
            fn end(self) -> Result<(), NonFinite> { Ok(()) }
        })*
    };
}

walk! {
    SerializeSeq: serialize_element;
    SerializeTuple: serialize_element;
    SerializeTupleStruct: serialize_field;
    SerializeTupleVariant: serialize_field;
    SerializeStruct: serialize_field, key;
    SerializeStructVariant: serialize_field, key;
}

impl SerializeMap for FindNonFinite {
    type Ok = ();
    type Error = NonFinite;
    fn serialize_key<T: Serialize + ?Sized>(&mut self, _: &T) -> Result<(), NonFinite> {
        Ok(())
    }
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), NonFinite> {
        value.serialize(Self)
    }
    fn end(self) -> Result<(), NonFinite> {
        Ok(())
    }
}

impl ser::Serializer for FindNonFinite {
    type Ok = ();
    type Error = NonFinite;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    nothing_to_find! {
        serialize_bool: bool, serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64, serialize_i128: i128,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64, serialize_u128: u128, serialize_char: char,
        serialize_str: &str, serialize_bytes: &[u8], serialize_unit_struct: &'static str,
    }

    fn serialize_f32(self, value: f32) -> Result<(), NonFinite> {
        if value.is_finite() { Ok(()) } else { Err(NonFinite) }
    }
    fn serialize_f64(self, value: f64) -> Result<(), NonFinite> {
        if value.is_finite() { Ok(()) } else { Err(NonFinite) }
    }
    fn serialize_none(self) -> Result<(), NonFinite> {
        Ok(())
    }
    fn serialize_unit(self) -> Result<(), NonFinite> {
        Ok(())
    }
    fn serialize_unit_variant(self, _: &'static str, _: u32, _: &'static str) -> Result<(), NonFinite> {
        Ok(())
    }
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), NonFinite> {
        value.serialize(self)
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), NonFinite> {
        value.serialize(self)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        value: &T,
    ) -> Result<(), NonFinite> {
        value.serialize(self)
    }
    fn serialize_seq(self, _: Option<usize>) -> Result<Self, NonFinite> {
        Ok(self)
    }
    fn serialize_tuple(self, _: usize) -> Result<Self, NonFinite> {
        Ok(self)
    }
    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, NonFinite> {
        Ok(self)
    }
    fn serialize_tuple_variant(self, _: &'static str, _: u32, _: &'static str, _: usize) -> Result<Self, NonFinite> {
        Ok(self)
    }
    fn serialize_map(self, _: Option<usize>) -> Result<Self, NonFinite> {
        Ok(self)
    }
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, NonFinite> {
        Ok(self)
    }
    fn serialize_struct_variant(self, _: &'static str, _: u32, _: &'static str, _: usize) -> Result<Self, NonFinite> {
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_number_that_json_lacks_is_a_permanent_error_wherever_it_hides() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let nested = BTreeMap::from([(String::from("x"), vec![(1_i64, Some(bad))])]);
            let error = Ok::<_, TaskError>(nested).into_json().unwrap_err();
            assert!(!error.is_retryable());
            assert_eq!(error.code(), Some("non-finite"));
        }
        assert!(Ok::<f32, TaskError>(f32::NAN).into_json().is_err());
        assert_eq!(Ok::<_, TaskError>(vec![1.5, -0.0]).into_json().unwrap(), "[1.5,-0.0]");
        assert_eq!(Ok::<_, TaskError>(()).into_json().unwrap(), "null");
        assert_eq!(Ok::<_, TaskError>(i64::MAX).into_json().unwrap(), "9223372036854775807");
    }
}
