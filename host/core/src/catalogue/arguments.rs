//! Turns arguments of a person or a program into the JSON array that a body takes, or a sentence that says why they do not fit.
//!
//! find the body → give each word its parameter → read words as JSON if the schema wants it → check each value against its schema
//!
//! Invariant: values keep their text (integers of any length, floats to the last digit). They are parsed only for the check.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

use super::{
    Body, Catalogue, Parameter, brief,
    json::{parse, refused as refused_json},
    schema::{self, Rule, Unfit},
};
use crate::task::TaskName;

/// Arguments as they were given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Given {
    /// Words of a command line: by position, then by name.
    Words { words: Vec<String>, named: Vec<(String, String)> },
    /// One JSON text: an array by position, or an object by name.
    Json(String),
}

/// Why arguments do not fit: each a sentence that says what would.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentsError {
    /// No live or remembered worker offers the name. `near`: like it, best first; `known`: some, when nothing is near.
    #[error("unknown task `{name}`{}", suggestion(.near, .known))]
    UnknownTask { name: TaskName, near: Vec<String>, known: Vec<String> },
    /// Too few or too many.
    #[error("{0}")]
    Count(String),
    /// A name that is no parameter, or one given twice.
    #[error("{0}")]
    Name(String),
    /// A value that its parameter does not take. `at` is a JSON pointer (RFC 6901) into the arguments as they were given.
    #[error("{why}")]
    Type { at: String, why: String },
    /// Not JSON, or neither an array nor an object.
    #[error("{0}")]
    Json(String),
}

/// Checks many tasks against one catalogue: a body's schemas are compiled once.
#[derive(Debug)]
pub struct Checker {
    catalogue: Arc<Catalogue>,
    rules: HashMap<TaskName, Vec<Rule>>,
}

impl Checker {
    pub fn new(catalogue: Arc<Catalogue>) -> Self {
        Self { catalogue, rules: HashMap::new() }
    }

    pub fn catalogue(&self) -> &Arc<Catalogue> {
        &self.catalogue
    }

    /// The arguments as a compact JSON array, one item a parameter. Optional ones at the end that were left out stay out, as
    /// `plugin.wit` has it: a later version of the body may give them another default. One left out before others is `null`.
    pub fn check(&mut self, name: &TaskName, given: &Given) -> Result<String, ArgumentsError> {
        let Some(offer) = self.catalogue.offers.get(name) else { return Err(unknown(&self.catalogue, name)) };
        if !self.rules.contains_key(name) {
            self.rules.insert(name.clone(), rules(&offer.body));
        }
        checked(&offer.body, &self.rules[name], given)
    }
}

fn rules(body: &Body) -> Vec<Rule> {
    body.parameters.iter().map(|p| Rule::compile(&p.schema)).collect()
}

/// See [`Checker::check`].
fn checked(body: &Body, rules: &[Rule], given: &Given) -> Result<String, ArgumentsError> {
    let mut array = String::from("[");
    let items = placed(body, given)?;
    let last = items.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
    for (index, ((item, parameter), rule)) in items[..last].iter().zip(&body.parameters).zip(rules).enumerate() {
        let text = match item {
            None => "null".into(),
            Some(item) => value(body, parameter, rule, item, || given.pointer(index, &parameter.name))?,
        };
        if array.len() > 1 {
            array.push(',');
        }
        array.push_str(&text);
    }
    array.push(']');
    Ok(array)
}

impl Catalogue {
    /// As [`Checker::check`], for one task.
    pub fn check(&self, name: &TaskName, given: &Given) -> Result<String, ArgumentsError> {
        let offer = self.offers.get(name).ok_or_else(|| unknown(self, name))?;
        checked(&offer.body, &rules(&offer.body), given)
    }
}

impl Given {
    /// The JSON pointer of one argument.
    fn pointer(&self, index: usize, name: &str) -> String {
        match self {
            Self::Json(text) if text.trim_start().starts_with('{') => format!("/{}", name.replace('~', "~0").replace('/', "~1")),
            _ => format!("/{index}"),
        }
    }

    /// The arguments as a compact JSON array without any body to ask: a word is JSON if it reads as JSON, else a string.
    pub fn unchecked(&self) -> Result<String, ArgumentsError> {
        match self {
            Self::Words { named, .. } if !named.is_empty() => {
                Err(ArgumentsError::Name("arguments by name need a body to take their order from: give them by position".into()))
            }
            Self::Words { words, .. } => {
                let item = |word: &String| match parse(word) {
                    Ok(_) => Ok(compact(word)),
                    Err(error @ ArgumentsError::Name(_)) => Err(error),
                    Err(_) => Ok(quoted(word)),
                };
                Ok(format!("[{}]", words.iter().map(item).collect::<Result<Vec<_>, _>>()?.join(",")))
            }
            Self::Json(text) => match json(text)? {
                // A raw value is not looked into: half a surrogate, a number without end or depth without end would reach the guest.
                Items::Array(_) => parse(text).map(|_| compact(text)),
                Items::Object(_) => {
                    Err(ArgumentsError::Name("arguments by name need a body to take their order from: give a JSON array".into()))
                }
            },
        }
    }
}

/// One argument before it is judged.
enum Item<'a> {
    Word(&'a str),
    Json(Box<RawValue>),
}

/// One item a parameter, in the body's order; `None` for an optional one that was left out.
fn placed<'a>(body: &Body, given: &'a Given) -> Result<Vec<Option<Item<'a>>>, ArgumentsError> {
    let (positional, named): (Vec<Item>, Vec<(String, Item)>) = match given {
        Given::Words { words, named } => {
            (words.iter().map(|w| Item::Word(w)).collect(), named.iter().map(|(name, w)| (name.clone(), Item::Word(w))).collect())
        }
        Given::Json(text) => match json(text)? {
            Items::Array(items) => (items.into_iter().map(Item::Json).collect(), Vec::new()),
            Items::Object(items) => (Vec::new(), items.into_iter().map(|(name, item)| (name, Item::Json(item))).collect()),
        },
    };
    let got = positional.len() + named.len();
    if positional.len() > body.parameters.len() {
        return Err(ArgumentsError::Count(format!("{}; got {got}", takes(body))));
    }
    let mut items: Vec<Option<Item>> = positional.into_iter().map(Some).collect();
    items.resize_with(body.parameters.len(), || None);
    for (name, item) in named {
        let Some(at) = body.parameters.iter().position(|p| p.name == name) else { return Err(unknown_parameter(body, &name)) };
        if items[at].replace(item).is_some() {
            return Err(ArgumentsError::Name(format!("parameter `{name}` of `{}` is given twice: leave one out", body.name)));
        }
    }
    let missing: Vec<_> = items
        .iter()
        .zip(&body.parameters)
        .filter(|(item, p)| item.is_none() && !p.optional)
        .map(|(_, p)| format!("`{}`", p.name))
        .collect();
    if missing.is_empty() {
        Ok(items)
    } else {
        Err(ArgumentsError::Count(format!("{}; got {got}: missing {}", takes(body), missing.join(", "))))
    }
}

/// The argument's JSON text, if its parameter takes it.
///
/// A word is taken as it stands where the schema takes strings only; read as JSON where it takes none; and where it takes both,
/// read as JSON if that fits and taken as it stands if not.
fn value(body: &Body, parameter: &Parameter, rule: &Rule, item: &Item, pointer: impl Fn() -> String) -> Result<String, ArgumentsError> {
    let types = schema::types(&parameter.schema);
    let refused = |got: &str, unfit: Unfit| {
        let why = unfit.why.map(|why| format!(": {why}")).unwrap_or_default();
        let takes = schema::describe(&parameter.schema);
        let why = format!("parameter `{}` of `{}` takes {takes}; got {}{why}", parameter.name, body.name, brief(got));
        ArgumentsError::Type { at: pointer() + &unfit.at, why }
    };
    let judged = |value: &Value| if parameter.optional && value.is_null() { Ok(()) } else { rule.judge(&parameter.schema, value) };
    match item {
        Item::Json(text) => match judged(&parse(text.get())?) {
            Ok(()) => Ok(compact(text.get())),
            Err(why) => Err(refused(&compact(text.get()), why)),
        },
        Item::Word(word) => {
            let strings_only = types & !(schema::STRING | schema::NULL) == 0;
            let read = if strings_only { None } else { Some(parse(word)) };
            let why_not = match &read {
                // It is JSON, and nobody can say which: no string was meant.
                Some(Err(error @ ArgumentsError::Name(_))) => return Err(error.clone()),
                Some(Ok(value)) => match judged(value) {
                    Ok(()) => return Ok(compact(word)),
                    Err(why) => Some((compact(word), why)),
                },
                Some(Err(error)) if types & schema::STRING == 0 => {
                    let meant = types & (schema::ARRAY | schema::OBJECT) != 0 && word.trim_start().starts_with(['[', '{']);
                    Some((quoted(word), Unfit { why: meant.then(|| error.to_string()), ..Unfit::default() }))
                }
                _ => None,
            };
            if types & schema::STRING != 0 {
                let string = Value::String((*word).to_owned());
                match judged(&string) {
                    Ok(()) => return Ok(quoted(word)),
                    Err(why) if why_not.is_none() => return Err(refused(&quoted(word), why)),
                    Err(_) => {}
                }
            }
            let (got, why) = why_not.unwrap_or_else(|| (quoted(word), Unfit::default()));
            Err(refused(&got, why))
        }
    }
}

// -- JSON -------------------------------------------------------------------------------------------------------------

enum Items {
    Array(Vec<Box<RawValue>>),
    Object(Vec<(String, Box<RawValue>)>),
}

fn json(text: &str) -> Result<Items, ArgumentsError> {
    match text.trim_start().bytes().next() {
        Some(b'[') => serde_json::from_str(text).map(Items::Array).map_err(|error| refused_json(&error)),
        Some(b'{') => serde_json::from_str::<Pairs>(text).map(|pairs| Items::Object(pairs.0)).map_err(|error| refused_json(&error)),
        _ => Err(ArgumentsError::Json(format!(
            "arguments are a JSON array such as [1, \"x\"], or an object of parameters by name; got {}",
            brief(text.trim())
        ))),
    }
}

/// Valid JSON without the white space between its tokens; everything else byte for byte.
fn compact(text: &str) -> String {
    let (mut out, mut in_string, mut escaped) = (String::with_capacity(text.len()), false, false);
    for c in text.chars() {
        if in_string {
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
        } else if matches!(c, ' ' | '\t' | '\n' | '\r') {
            continue;
        } else {
            in_string = c == '"';
        }
        out.push(c);
    }
    out
}

fn quoted(word: &str) -> String {
    Value::from(word).to_string()
}

/// An object's members in their order, the same name as often as it stands there.
struct Pairs(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Pairs;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of parameters by name")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

// -- sentences --------------------------------------------------------------------------------------------------------

/// Those of `known` that `word` may have meant, best first, at most three.
pub fn near<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let small = word.to_lowercase();
    let allowed = (small.chars().count() / 3).clamp(1, 4);
    let mut seen = HashSet::new();
    let mut found: Vec<_> = known
        .into_iter()
        .filter(|name| seen.insert(*name))
        .filter_map(|name| {
            let other = name.to_lowercase();
            let distance = strsim::damerau_levenshtein(&small, &other);
            let part = small.len() >= 3 && (other.starts_with(&small) || small.starts_with(&other) && other.len() >= 3);
            (distance <= allowed || part).then_some((distance, name))
        })
        .collect();
    found.sort_unstable();
    found.into_iter().take(3).map(|(_, name)| name.to_owned()).collect()
}

fn unknown(catalogue: &Catalogue, name: &TaskName) -> ArgumentsError {
    let near = near(name.as_str(), catalogue.offers.keys().map(TaskName::as_str));
    let known = catalogue.offers.keys().map(TaskName::to_string).take(10).collect();
    ArgumentsError::UnknownTask { name: name.clone(), near, known }
}

fn suggestion(near: &[String], known: &[String]) -> String {
    if !near.is_empty() {
        return format!("; did you mean {}?", ticked(near, " or "));
    }
    match known.len() {
        0 => "; no worker has announced a body yet: start one with its plugins".into(),
        10.. => format!("; some of those known: {}", ticked(known, ", ")),
        _ => format!("; known are {}", ticked(known, ", ")),
    }
}

fn ticked(names: &[String], between: &str) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(between)
}

fn unknown_parameter(body: &Body, name: &str) -> ArgumentsError {
    let near = near(name, body.parameters.iter().map(|p| p.name.as_str()));
    let hint = match (near.is_empty(), body.parameters.is_empty()) {
        (false, _) => format!("did you mean {}?", ticked(&near, " or ")),
        (true, true) => "it takes no arguments".into(),
        (true, false) => format!("it takes ({})", schema::parameters(body)),
    };
    ArgumentsError::Name(format!("`{}` has no parameter `{}`; {hint}", body.name, brief(name)))
}

/// `` `add` takes 2 arguments (a: integer, b: integer)``
fn takes(body: &Body) -> String {
    let most = body.parameters.len();
    let least = body.parameters.iter().filter(|p| !p.optional).count();
    let count = match (least, most) {
        (_, 0) => return format!("`{}` takes no arguments", body.name),
        (1, 1) => "1 argument".into(),
        _ if least == most => format!("{most} arguments"),
        _ => format!("{least} to {most} arguments"),
    };
    format!("`{}` takes {count} ({})", body.name, schema::parameters(body))
}
