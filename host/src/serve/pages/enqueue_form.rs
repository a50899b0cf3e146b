//! A form made from the schemas of a body's parameters, and the request that a filled-in form stands for.
//!
//! Invariant: a plugin wrote the schema, so it may be any JSON. A part that is not understood, or is nested too deep, gets a field for JSON.

use maud::{Markup, html};
use serde_json::{Map, Value, json};
use taskhost_core::{catalogue::Body, text::clean};

use super::view::View;
use crate::serve::query::Query;

/// The deepest nesting of fields, and the most fields of an object.
const DEEPEST: usize = 4;
const WIDEST: usize = 40;

/// How a value is written in a form.
enum Kind<'a> {
    Number,
    Flag,
    Choice(Vec<&'a str>),
    Text,
    /// One value a line.
    Lines {
        is_text: bool,
    },
    Parts(Vec<(&'a String, &'a Value, bool)>),
    Json,
}

/// Follows references, and takes the `null` off an optional type.
fn plain<'a>(schema: &'a Value, root: &'a Value) -> (&'a Value, bool) {
    let (mut schema, mut is_optional) = (schema, false);
    for _ in 0..8 {
        let target = schema["$ref"].as_str().and_then(|reference| root.pointer(reference.strip_prefix('#')?));
        if let Some(target) = target {
            schema = target;
            continue;
        }
        let of = schema["anyOf"].as_array().or_else(|| schema["oneOf"].as_array());
        let Some([one, other]) = of.map(Vec::as_slice) else { break };
        let is_null = |part: &Value| part["type"] == "null";
        if is_null(other) || is_null(one) {
            schema = if is_null(other) { one } else { other };
            is_optional = true;
        } else {
            break;
        }
    }
    (schema, is_optional)
}

/// The `type` of a schema. Of a list such as `["string", "null"]` it is the type that is not `null`.
fn type_of(schema: &Value) -> &str {
    match &schema["type"] {
        Value::String(name) => name,
        Value::Array(names) => match names.iter().filter_map(Value::as_str).filter(|name| *name != "null").collect::<Vec<_>>()[..] {
            [one] => one,
            _ => "",
        },
        _ => "",
    }
}

fn kind<'a>(schema: &'a Value, root: &'a Value, depth: usize) -> Kind<'a> {
    if let Some(choices) = schema["enum"].as_array() {
        let words: Vec<_> = choices.iter().filter_map(Value::as_str).collect();
        return if words.len() == choices.len() { Kind::Choice(words) } else { Kind::Json };
    }
    match type_of(schema) {
        "integer" | "number" => Kind::Number,
        "boolean" => Kind::Flag,
        "string" => Kind::Text,
        "array" => match type_of(plain(&schema["items"], root).0) {
            "string" => Kind::Lines { is_text: true },
            "integer" | "number" => Kind::Lines { is_text: false },
            _ => Kind::Json,
        },
        "object" => match schema["properties"].as_object() {
            Some(parts) if depth < DEEPEST && parts.len() <= WIDEST => {
                let is_needed = |name: &String| schema["required"].as_array().is_some_and(|all| all.iter().any(|one| one == name));
                Kind::Parts(parts.iter().map(|(name, part)| (name, part, is_needed(name))).collect())
            }
            _ => Kind::Json,
        },
        _ => Kind::Json,
    }
}

/// The fields of all parameters.
pub(super) fn fields(view: &View, body: &Body, filled: &Query) -> Markup {
    html! {
        @if body.parameters.is_empty() { p.note { (view.say("It takes no arguments.")) } }
        @for parameter in &body.parameters {
            (field(view, &parameter.name, &format!("p.{}", parameter.name), (&parameter.schema, &parameter.schema), !parameter.optional, filled, 0))
        }
    }
}

fn field(view: &View, label: &str, path: &str, (schema, root): (&Value, &Value), is_needed: bool, filled: &Query, depth: usize) -> Markup {
    let (schema, is_optional) = plain(schema, root);
    let is_needed = is_needed && !is_optional;
    let value = filled.text(path).unwrap_or_default();
    let hint = schema["description"].as_str().unwrap_or_default();
    let head = html! { span { (clean(label)) @if !is_needed { " " span.note { (view.say("optional")) } } } };
    let foot = html! { @if !hint.is_empty() { small { (clean(hint)) } } };
    html! {
        @match kind(schema, root, depth) {
            Kind::Number => label { (head) input name=(path) value=(value) inputmode="decimal" required[is_needed] autocomplete="off"; (foot) },
            Kind::Flag => label { (head) select name=(path) { @if !is_needed { option value="" { "—" } } @for word in ["false", "true"] { option value=(word) selected[value == word] { (word) } } } (foot) },
            Kind::Choice(words) => label { (head) select name=(path) { @if !is_needed { option value="" { "—" } } @for word in words { option value=(word) selected[value == word] { (clean(word)) } } } (foot) },
            // An empty field of a text means the empty text.
            Kind::Text => label { (head) input name=(path) value=(value) autocomplete="off"; (foot) },
            Kind::Lines { .. } => label { (head) textarea name=(path) rows="3" placeholder=(view.say("one a line")) { (value) } (foot) },
            Kind::Json => label { (head) textarea name=(path) rows="3" placeholder="JSON" spellcheck="false" required[is_needed] { (value) } (foot) },
            Kind::Parts(parts) => fieldset {
                legend { (head) }
                @for (name, part, needed) in parts { (field(view, name, &format!("{path}.{name}"), (part, root), needed && is_needed, filled, depth + 1)) }
                (foot)
            },
        }
    }
}

/// The request that a form stands for, as the API takes it; or what is wrong with the form.
pub(super) fn request(body: &Body, filled: &Query) -> Result<String, String> {
    let mut args = Vec::new();
    for parameter in &body.parameters {
        args.push(read(&format!("p.{}", parameter.name), (&parameter.schema, &parameter.schema), !parameter.optional, filled, 0)?);
    }
    while args.last().is_some_and(Option::is_none) && body.parameters.get(args.len() - 1).is_some_and(|parameter| parameter.optional) {
        args.pop();
    }
    let args: Vec<Value> = args.into_iter().map(Option::unwrap_or_default).collect();
    let mut request = json!({ "task": body.name, "args": args });
    for name in ["queue", "delay", "timeout", "id"] {
        if let Some(text) = filled.text(name) {
            request[name] = text.into();
        }
    }
    if let Some(retries) = filled.text("retries") {
        request["retries"] = retries.parse::<u32>().map_err(|_| format!("retries is a number: `{retries}`"))?.into();
    }
    Ok(request.to_string())
}

fn read(path: &str, (schema, root): (&Value, &Value), is_needed: bool, filled: &Query, depth: usize) -> Result<Option<Value>, String> {
    let (schema, is_optional) = plain(schema, root);
    let is_needed = is_needed && !is_optional;
    let text = filled.text(path);
    let name = path.trim_start_matches("p.");
    let parsed = |text: &str| serde_json::from_str::<Value>(text.trim()).map_err(|error| format!("{name}: {error}"));
    let number = |text: &str| parsed(text).ok().filter(Value::is_number).ok_or_else(|| format!("{name}: `{text}` is not a number"));
    Ok(match (kind(schema, root, depth), text) {
        (Kind::Parts(parts), _) => {
            let mut object = Map::new();
            for (part, of, needed) in parts {
                if let Some(value) = read(&format!("{path}.{part}"), (of, root), needed && is_needed, filled, depth + 1)? {
                    object.insert(part.clone(), value);
                }
            }
            (is_needed || !object.is_empty()).then_some(Value::Object(object))
        }
        // An empty field of a required text means the empty text.
        (Kind::Text, None) => is_needed.then(|| Value::String(String::new())),
        (Kind::Lines { .. }, None) => is_needed.then(|| json!([])),
        (Kind::Number | Kind::Flag | Kind::Choice(_) | Kind::Json, None) => {
            if is_needed {
                return Err(format!("{name} is missing"));
            }
            None
        }
        (Kind::Number, Some(text)) => Some(number(text)?),
        (Kind::Flag, Some(text)) => Some((text == "true").into()),
        (Kind::Choice(_) | Kind::Text, Some(text)) => Some(text.into()),
        (Kind::Lines { is_text }, Some(text)) => {
            let lines = text.lines().map(|line| line.trim_end_matches('\r')).filter(|line| !line.is_empty());
            Some(lines.map(|line| if is_text { Ok(Value::from(line)) } else { number(line) }).collect::<Result<Vec<_>, _>>()?.into())
        }
        (Kind::Json, Some(text)) => Some(parsed(text)?),
    })
}

#[cfg(test)]
mod tests {
    use taskhost_core::catalogue::{Hints, Parameter};

    use super::*;

    fn body(parameters: &[(&str, Value, bool)]) -> Body {
        let of = |(name, schema, optional): &(&str, Value, bool)| Parameter {
            name: (*name).into(),
            schema: schema.clone(),
            optional: *optional,
        };
        Body {
            name: "mail".parse().expect("a name"),
            doc: String::new(),
            parameters: parameters.iter().map(of).collect(),
            returns: Value::Null,
            hints: Hints::default(),
        }
    }

    fn filled(pairs: &[(&str, &str)]) -> Query {
        Query::of_pairs(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn a_filled_in_form_stands_for_a_request() {
        let body = body(&[
            ("to", json!({"type": "string"}), false),
            ("count", json!({"type": "integer"}), false),
            ("tags", json!({"type": "array", "items": {"type": "string"}}), false),
            (
                "options",
                json!({"type": "object", "required": ["html"], "properties": {"html": {"type": "boolean"}, "size": {"anyOf": [{"type": "number"}, {"type": "null"}]}, "deep": {"$ref": "#/$defs/Deep"}}, "$defs": {"Deep": {"type": "object", "properties": {"kind": {"enum": ["a", "b"]}}}}}),
                false,
            ),
            ("any", json!({}), true),
        ]);
        let form = [
            ("p.to", "x y"),
            ("p.count", "3"),
            ("p.tags", "one\r\ntwo\r\n"),
            ("p.options.html", "true"),
            ("p.options.deep.kind", "b"),
            ("queue", "mail"),
            ("retries", "2"),
        ];
        let request: Value = serde_json::from_str(&request(&body, &filled(&form)).expect("a request")).expect("JSON");
        let args = json!(["x y", 3, ["one", "two"], {"html": true, "deep": {"kind": "b"}}]);
        assert_eq!(request, json!({"task": "mail", "args": args, "queue": "mail", "retries": 2}));
    }

    #[test]
    fn what_can_not_be_read_is_named() {
        let body = body(&[("count", json!({"type": "integer"}), false), ("any", json!({}), true)]);
        for (form, why) in [
            (vec![], "count is missing"),
            (vec![("p.count", "x")], "count: `x` is not a number"),
            (vec![("p.count", "1"), ("p.any", "{")], "any: EOF"),
            (vec![("p.count", "1"), ("retries", "-1")], "retries is a number"),
        ] {
            let refused = request(&body, &filled(&form)).expect_err(why);
            assert!(refused.starts_with(why), "{refused}");
        }
    }

    #[test]
    fn a_schema_that_refers_to_itself_is_written_by_hand() {
        let endless = json!({"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}});
        let tree = json!({"$ref": "#/$defs/T", "$defs": {"T": {"type": "object", "properties": {"next": {"$ref": "#/$defs/T"}}}}});
        let body = body(&[("a", endless, true), ("t", tree, true)]);
        assert_eq!(request(&body, &filled(&[])).expect("nothing is needed"), r#"{"args":[],"task":"mail"}"#);
    }
}
