//! Reads arguments with references.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Fields, Place, Result, Scope, step_named};
use crate::workflow::arguments::{Reference, Source, Template};

/// JSON in which objects such as `{"from": "load", "at": "/files"}` are references. `{"literal": …}` is what stands in it.
pub(super) fn template(value: &Value, at: &Place, scope: &Scope<'_>) -> Result<Template> {
    match value {
        Value::Array(parts) => {
            let parts =
                parts.iter().enumerate().map(|(n, part)| template(part, &at.at(&n.to_string()), scope)).collect::<Result<Vec<_>>>()?;
            Ok(if parts.iter().all(|part| matches!(part, Template::Plain(_))) {
                Template::Plain(value.clone())
            } else {
                Template::Array(parts)
            })
        }
        Value::Object(fields) if fields.len() == 1 && fields.contains_key("literal") => Ok(Template::Plain(fields["literal"].clone())),
        Value::Object(fields) if is_reference(fields) => Ok(Template::Reference(reference(value, at, scope)?)),
        Value::Object(fields) => {
            let part = |(name, part): (&String, &Value)| Ok((name.clone(), template(part, &at.at(name), scope)?));
            let parts = fields.iter().map(part).collect::<Result<Vec<_>>>()?;
            Ok(if parts.iter().all(|(_, part)| matches!(part, Template::Plain(_))) {
                Template::Plain(unliteral(value, &parts))
            } else {
                Template::Object(parts)
            })
        }
        plain => Ok(Template::Plain(plain.clone())),
    }
}

/// The object again, of its plain parts.
fn unliteral(value: &Value, parts: &[(String, Template)]) -> Value {
    let parts: BTreeMap<&str, Value> = parts
        .iter()
        .filter_map(|(name, part)| match part {
            Template::Plain(plain) => Some((name.as_str(), plain.clone())),
            _ => None,
        })
        .collect();
    serde_json::to_value(parts).unwrap_or_else(|_| value.clone())
}

fn is_reference(fields: &Map<String, Value>) -> bool {
    let names = ["from", "failure", "item", "index", "own"];
    fields.keys().filter(|name| names.contains(&name.as_str())).count() == 1
        && fields.keys().all(|name| name == "at" || names.contains(&name.as_str()))
}

pub(super) fn reference(value: &Value, at: &Place, scope: &Scope<'_>) -> Result<Reference> {
    let shape = "a reference such as {\"from\": \"load\", \"at\": \"/files\"} is wanted";
    let mut fields = Fields::of(value, at, &["from", "failure", "item", "index", "own", "at"], shape)?;
    let pointer = fields.text("at")?;
    let mut path = pointer.unwrap_or_default();
    let of = match (fields.text("from")?, fields.text("failure")?) {
        (Some(from), None) if from == "input" => Source::Input,
        (Some(from), None) => Source::Result(step_named(&from, &at.at("from"), scope.names)?),
        (None, Some(failure)) => Source::Failure(step_named(&failure, &at.at("failure"), scope.names)?),
        (None, None) if fields.take("index").is_some() => Source::Index,
        (None, None) if fields.left.contains_key("item") => {
            path = format!("{}{path}", fields.text("item")?.unwrap_or_default());
            Source::Item
        }
        (None, None) if fields.left.contains_key("own") => {
            path = format!("{}{path}", fields.text("own")?.unwrap_or_default());
            Source::Own
        }
        _ => return at.fail(shape),
    };
    if matches!(of, Source::Item | Source::Index) && !scope.has_item {
        return at.fail("only a step with `map` has items");
    }
    if of == Source::Own && !scope.has_own {
        return at.fail("only `undo` has an own result: what is undone");
    }
    if !path.is_empty() && !path.starts_with('/') {
        return at.at("at").fail("a JSON pointer begins with `/`, such as `/files/0`");
    }
    Ok(Reference { of, at: path })
}
