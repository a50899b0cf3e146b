//! JSON Schemas of parameters: read for people ([`signature`], [`describe`]), and compiled to judge values ([`Rule`]).
//!
//! Invariant: a schema is a plugin's word and may be any JSON. What can't be read or compiled, or is too large, takes anything: the body judges
//! its arguments itself in the end.

use jsonschema::{Keyword, PatternOptions, ValidationError, Validator, paths::Location};
use serde_json::{Map, Value};

use super::{Body, brief};

/// One parameter's schema, compiled.
#[derive(Debug)]
pub(super) struct Rule(Option<Validator>);

/// Why a value does not fit.
#[derive(Debug, Default)]
pub(super) struct Unfit {
    /// The JSON pointer of the part that does not fit; empty for the value itself.
    pub(super) at: String,
    /// The reason, where the parameter's type alone does not say it.
    pub(super) why: Option<String>,
}

impl Rule {
    pub(super) fn compile(schema: &Value) -> Self {
        if !is_small(schema, schema, &mut 10_000, 200) {
            return Self(None);
        }
        let options = jsonschema::options().with_keyword("type", written_type).with_keyword("format", number_format);
        Self(options.with_pattern_options(PatternOptions::regex()).build(schema).ok())
    }

    /// Whether `value` fits.
    pub(super) fn judge(&self, schema: &Value, value: &Value) -> Result<(), Unfit> {
        let Some(error) = self.0.as_ref().and_then(|validator| validator.iter_errors(value).next()) else { return Ok(()) };
        let at = error.instance_path().to_string();
        let reason = brief(&error.to_string());
        let why = if !at.is_empty() {
            Some(format!("at `{}`: {reason}", brief(&at)))
        } else if value.is_number() || types(schema) & type_of(value) == 0 {
            None
        } else {
            Some(reason)
        };
        Err(Unfit { at, why })
    }
}

/// Whether a schema has at most so many parts and levels with every reference written out. A few lines of references to references
/// stand for millions of parts, and would be walked one by one; one that refers to itself has no end.
fn is_small(part: &Value, root: &Value, parts: &mut u16, levels: u8) -> bool {
    *parts = parts.saturating_sub(1);
    let Some(levels) = levels.checked_sub(1).filter(|_| *parts > 0) else { return false };
    match part {
        Value::Object(map) => {
            referred(map, root).is_none_or(|target| is_small(target, root, parts, levels))
                && map.values().all(|part| is_small(part, root, parts, levels))
        }
        Value::Array(items) => items.iter().all(|part| is_small(part, root, parts, levels)),
        _ => true,
    }
}

/// `add(a: integer, b: integer) -> integer`, as `plugin inspect` and errors show it.
pub fn signature(body: &Body) -> String {
    format!("{}({}) -> {}", body.name, parameters(body), short(&body.returns))
}

/// `a: integer, b?: string`
pub(super) fn parameters(body: &Body) -> String {
    let words = body.parameters.iter().map(|p| format!("{}{}: {}", p.name, if p.optional { "?" } else { "" }, short(&p.schema)));
    words.collect::<Vec<_>>().join(", ")
}

// -- types: which kinds of JSON value a schema takes ------------------------------------------------------------------

pub(super) const NULL: u8 = 1;
const BOOLEAN: u8 = 2;
const INTEGER: u8 = 4;
const NUMBER: u8 = 8;
pub(super) const STRING: u8 = 16;
pub(super) const ARRAY: u8 = 32;
pub(super) const OBJECT: u8 = 64;
pub(super) const ANY: u8 = 127;

/// The kinds of value that may fit; one too many rather than one too few.
pub(super) fn types(schema: &Value) -> u8 {
    types_within(schema, schema, &mut { STEPS })
}

fn types_within(schema: &Value, root: &Value, steps: &mut u16) -> u8 {
    let Value::Object(map) = schema else { return if schema == &Value::Bool(false) { 0 } else { ANY } };
    if !step(steps) {
        return ANY;
    }
    let mut types = ANY;
    match map.get("type") {
        Some(Value::String(name)) => types &= type_named(name),
        Some(Value::Array(names)) => types &= names.iter().filter_map(Value::as_str).map(type_named).fold(0, |all, one| all | one),
        _ => {}
    }
    if let Some(Value::Array(values)) = map.get("enum") {
        types &= values.iter().map(type_of).fold(0, |all, one| all | one);
    }
    if let Some(value) = map.get("const") {
        types &= type_of(value);
    }
    for word in ["anyOf", "oneOf"] {
        if let Some(Value::Array(schemas)) = map.get(word) {
            types &= schemas.iter().map(|schema| types_within(schema, root, steps)).fold(0, |all, one| all | one);
        }
    }
    if let Some(Value::Array(schemas)) = map.get("allOf") {
        types &= schemas.iter().map(|schema| types_within(schema, root, steps)).fold(ANY, |all, one| all & one);
    }
    if let Some(target) = referred(map, root) {
        types &= types_within(target, root, steps);
    }
    types
}

fn type_named(name: &str) -> u8 {
    match name {
        "null" => NULL,
        "boolean" => BOOLEAN,
        "integer" => INTEGER,
        "number" => INTEGER | NUMBER,
        "string" => STRING,
        "array" => ARRAY,
        "object" => OBJECT,
        _ => ANY,
    }
}

fn type_of(value: &Value) -> u8 {
    match value {
        Value::Null => NULL,
        Value::Bool(_) => BOOLEAN,
        Value::Number(_) => INTEGER | NUMBER,
        Value::String(_) => STRING,
        Value::Array(_) => ARRAY,
        Value::Object(_) => OBJECT,
    }
}

/// How many subschemas are looked at: schemas may refer to themselves, several times over.
const STEPS: u16 = 200;

fn step(steps: &mut u16) -> bool {
    *steps = steps.saturating_sub(1);
    *steps > 0
}

/// What a local `$ref` stands for.
fn referred<'a>(map: &Map<String, Value>, root: &'a Value) -> Option<&'a Value> {
    root.pointer(map.get("$ref")?.as_str()?.strip_prefix('#')?)
}

// -- words ------------------------------------------------------------------------------------------------------------

/// One word or so: `integer`, `list<string>`, `integer or null`, `any`.
fn short(schema: &Value) -> String {
    say(schema, schema, &mut { STEPS }, &Style { list: ("list<", ">"), map: ("map<", ">"), word: short_word })
}

/// A phrase with its article: `a 64-bit integer`, `a list of strings`.
pub(super) fn describe(schema: &Value) -> String {
    say(schema, schema, &mut { STEPS }, &Style { list: ("a list of ", ""), map: ("an object of ", ""), word: singular })
}

struct Style {
    list: (&'static str, &'static str),
    map: (&'static str, &'static str),
    word: fn(&Map<String, Value>, &str) -> String,
}

/// Inside a list or a map: `64-bit integers`.
const PLURAL: Style = Style { list: ("lists of ", ""), map: ("objects of ", ""), word: plural };

fn say(schema: &Value, root: &Value, steps: &mut u16, style: &Style) -> String {
    let nothing = Map::new();
    let any = || (style.word)(&nothing, "any");
    let Some(map) = schema.as_object().filter(|_| step(steps)) else { return any() };
    if let Some(target) = referred(map, root) {
        return say(target, root, steps, style);
    }
    if let Some(value) = map.get("const") {
        return brief(&value.to_string());
    }
    if let Some(values) = map.get("enum").and_then(Value::as_array) {
        return join(values.iter().map(|value| brief(&value.to_string())).collect());
    }
    if let Some(choices) = ["anyOf", "oneOf"].iter().find_map(|word| map.get(*word)?.as_array()) {
        return join(choices.iter().take(9).map(|schema| say(schema, root, steps, style)).collect());
    }
    let inner = if style.list.1.is_empty() { &PLURAL } else { style };
    let mut one = |name: &str| match name {
        "array" if map.get("items").is_some_and(|items| types(items) != ANY) => {
            format!("{}{}{}", style.list.0, say(&map["items"], root, steps, inner), style.list.1)
        }
        "object"
            if !map.contains_key("properties")
                && map.get("additionalProperties").is_some_and(|more| types(more) != ANY && more.is_object()) =>
        {
            format!("{}{}{}", style.map.0, say(&map["additionalProperties"], root, steps, inner), style.map.1)
        }
        name => (style.word)(map, name),
    };
    match map.get("type") {
        Some(Value::String(name)) => one(name),
        Some(Value::Array(names)) => join(names.iter().filter_map(Value::as_str).map(one).collect()),
        _ => any(),
    }
}

/// `a, b or c`, at most eight of them.
fn join(mut words: Vec<String>) -> String {
    words.dedup();
    let more = words.len() > 8;
    words.truncate(8);
    match words.pop() {
        None => "nothing".into(),
        Some(last) if more => format!("{}, {last} …", words.join(", ")),
        Some(last) if words.is_empty() => last,
        Some(last) => format!("{} or {last}", words.join(", ")),
    }
}

fn short_word(_: &Map<String, Value>, name: &str) -> String {
    match name {
        "array" => "list".into(),
        name => brief(name),
    }
}

fn singular(map: &Map<String, Value>, name: &str) -> String {
    match name {
        "any" => "any value".into(),
        "null" => "null".into(),
        "boolean" => "true or false".into(),
        "array" => match map.get("prefixItems").and_then(Value::as_array) {
            Some(items) => format!("a list of {} items", items.len()),
            None => "a list".into(),
        },
        "object" => match map.get("required").and_then(Value::as_array) {
            Some(names) if !names.is_empty() => {
                let names = names.iter().filter_map(Value::as_str).take(8).map(|name| format!("`{}`", brief(name)));
                format!("an object with {}", names.collect::<Vec<_>>().join(", "))
            }
            _ => "an object".into(),
        },
        "integer" => {
            let noun = integer_noun(map);
            let article = if noun.starts_with(['i', 'u', '8']) { "an" } else { "a" };
            format!("{article} {noun}{}", bounds(map))
        }
        "string" => match map.get("format").and_then(Value::as_str) {
            Some(format) => format!("a string ({})", brief(format)),
            None => "a string".into(),
        },
        "number" => format!("a number{}", bounds(map)),
        name => format!("a {}", brief(name)),
    }
}

fn plural(map: &Map<String, Value>, name: &str) -> String {
    match name {
        "any" => "any values".into(),
        "null" => "nulls".into(),
        "boolean" => "booleans".into(),
        "array" => "lists".into(),
        "object" => "objects".into(),
        "integer" => format!("{}s", integer_noun(map)),
        name => format!("{}s", brief(name)),
    }
}

fn integer_noun(map: &Map<String, Value>) -> String {
    match width(map.get("format").and_then(Value::as_str).unwrap_or_default()) {
        Some((bits, true)) => format!("{bits}-bit integer"),
        Some((bits, false)) => format!("unsigned {bits}-bit integer"),
        None => "integer".into(),
    }
}

/// ` from 1 to 10`, unless the format says it already.
fn bounds(map: &Map<String, Value>) -> String {
    if map.get("format").and_then(Value::as_str).is_some_and(|format| width(format).is_some()) {
        return String::new();
    }
    match (map.get("minimum"), map.get("maximum")) {
        (Some(low), Some(high)) => format!(" from {} to {}", brief(&low.to_string()), brief(&high.to_string())),
        (Some(low), None) => format!(" of at least {}", brief(&low.to_string())),
        (None, Some(high)) => format!(" of at most {}", brief(&high.to_string())),
        (None, None) => String::new(),
    }
}

// -- integers of a width ----------------------------------------------------------------------------------------------

/// Bits, and whether signed: `int64` → (64, true).
fn width(format: &str) -> Option<(u32, bool)> {
    let (signed, bits) = match format.strip_prefix('u') {
        Some(rest) => (false, rest.strip_prefix("int")?),
        None => (true, format.strip_prefix("int")?),
    };
    Some((bits.parse().ok().filter(|bits| [8, 16, 32, 64].contains(bits))?, signed))
}

/// `format: int64` and the like: numbers within the width. Other formats assert nothing.
#[expect(clippy::unnecessary_wraps, reason = "the signature is the library's")]
fn number_format<'a>(
    _: &'a Map<String, Value>,
    format: &'a Value,
    _: Location,
) -> Result<Box<dyn for<'i> Keyword<'i>>, ValidationError<'a>> {
    Ok(Box::new(Width(format.as_str().and_then(width))))
}

struct Width(Option<(u32, bool)>);

impl Width {
    fn holds(&self, value: &Value) -> bool {
        match (self.0, value) {
            (Some((bits, true)), Value::Number(number)) => {
                number.as_i64().is_some_and(|number| (-1_i128 << (bits - 1)..1_i128 << (bits - 1)).contains(&i128::from(number)))
            }
            (Some((bits, false)), Value::Number(number)) => number.as_u64().is_some_and(|number| u128::from(number) < 1_u128 << bits),
            _ => true,
        }
    }
}

impl<'i> Keyword<'i> for Width {
    fn validate(&self, instance: &'i Value) -> Result<(), ValidationError<'i>> {
        let Some((bits, signed)) = self.0.filter(|_| !self.holds(instance)) else { return Ok(()) };
        let kind = if signed { "" } else { "unsigned " };
        Err(ValidationError::custom(format!("{instance} does not fit an {kind}integer of {bits} bits")))
    }

    fn is_valid(&self, instance: &'i Value) -> bool {
        self.holds(instance)
    }
}

// -- integers as they are written -------------------------------------------------------------------------------------

/// `type`. JSON Schema takes `1.0` for an integer, but a guest that reads an integer does not, so it is refused here, before the task
/// is enqueued.
#[expect(clippy::unnecessary_wraps, reason = "the signature is the library's")]
fn written_type<'a>(_: &'a Map<String, Value>, names: &'a Value, _: Location) -> Result<Box<dyn for<'i> Keyword<'i>>, ValidationError<'a>> {
    let names: Vec<&str> = match names {
        Value::String(name) => vec![name],
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        _ => vec!["any"],
    };
    let types = names.iter().map(|name| type_named(name)).fold(0, |all, one| all | one);
    let words = names.iter().map(|name| format!("\"{}\"", brief(name))).collect::<Vec<_>>().join(" or ");
    Ok(Box::new(Written { types, words }))
}

struct Written {
    types: u8,
    words: String,
}

impl<'i> Keyword<'i> for Written {
    fn validate(&self, instance: &'i Value) -> Result<(), ValidationError<'i>> {
        if self.is_valid(instance) { Ok(()) } else { Err(ValidationError::custom(format!("{instance} is not of type {}", self.words))) }
    }

    fn is_valid(&self, instance: &'i Value) -> bool {
        let found = match instance {
            Value::Number(number) if number.is_f64() => NUMBER,
            other => type_of(other),
        };
        self.types & found != 0
    }
}
