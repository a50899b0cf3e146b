//! Arguments with references: to the input of the flow, to results of earlier steps, to the item of a list.
//!
//! Invariant: a whole result is put in as it was written, so integers of any length stay what they are.

use serde_json::Value;

/// JSON with references in it.
#[derive(Debug, Clone, PartialEq)]
pub enum Template {
    /// JSON as it stands.
    Plain(Value),
    Array(Vec<Template>),
    Object(Vec<(String, Template)>),
    Reference(Reference),
}

/// A value of the flow, or a part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    pub of: Source,
    /// A JSON pointer; empty for the whole value. Where there is no such part, the value is null.
    pub at: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    Input,
    /// The result of a step: of many items a list, in which a failed one is null.
    Result(usize),
    /// Why a step failed, as text; null if it did not.
    Failure(usize),
    /// The item of this node.
    Item,
    /// The place of this node among the items, from 0.
    Index,
    /// The result of what is undone.
    Own,
}

impl Template {
    /// The steps that it refers to.
    pub fn steps(&self) -> Vec<usize> {
        let mut steps = Vec::new();
        self.each(&mut |reference| match reference.of {
            Source::Result(step) | Source::Failure(step) => steps.push(step),
            Source::Input | Source::Item | Source::Index | Source::Own => {}
        });
        steps
    }

    /// Calls `visit` with each reference.
    pub fn each(&self, visit: &mut impl FnMut(&Reference)) {
        match self {
            Self::Plain(_) => {}
            Self::Array(parts) => parts.iter().for_each(|part| part.each(visit)),
            Self::Object(parts) => parts.iter().for_each(|(_, part)| part.each(visit)),
            Self::Reference(reference) => visit(reference),
        }
    }

    /// The JSON text, compact. `value` gives the JSON of a source.
    pub fn fill(&self, value: &mut impl FnMut(Source) -> String, out: &mut String) {
        match self {
            Self::Plain(plain) => out.push_str(&plain.to_string()),
            Self::Array(parts) => {
                out.push('[');
                for (n, part) in parts.iter().enumerate() {
                    if n > 0 {
                        out.push(',');
                    }
                    part.fill(value, out);
                }
                out.push(']');
            }
            Self::Object(parts) => {
                out.push('{');
                for (n, (name, part)) in parts.iter().enumerate() {
                    if n > 0 {
                        out.push(',');
                    }
                    out.push_str(&Value::from(name.as_str()).to_string());
                    out.push(':');
                    part.fill(value, out);
                }
                out.push('}');
            }
            Self::Reference(reference) => out.push_str(&reference.text(&value(reference.of))),
        }
    }
}

impl Reference {
    /// The part of a value that is meant, as JSON text.
    pub fn text(&self, value: &str) -> String {
        if self.at.is_empty() {
            return value.to_owned();
        }
        self.part(value).to_string()
    }

    /// The same, read.
    pub fn part(&self, value: &str) -> Value {
        let value: Value = serde_json::from_str(value).unwrap_or_default();
        value.pointer(&self.at).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reference(of: Source, at: &str) -> Template {
        Template::Reference(Reference { of, at: at.into() })
    }

    #[test]
    fn references_are_replaced_and_the_rest_stands() {
        let template = Template::Array(vec![
            Template::Plain(json!([1, "x"])),
            reference(Source::Input, "/id"),
            Template::Object(vec![("a\"b".into(), reference(Source::Result(0), "")), ("c".into(), reference(Source::Input, "/none"))]),
            reference(Source::Index, ""),
        ]);
        let mut text = String::new();
        let mut value = |of| match of {
            Source::Input => r#"{"id": 7}"#.to_owned(),
            Source::Result(0) => "123456789012345678901234567890".to_owned(),
            Source::Index => "3".to_owned(),
            other => panic!("nobody asks for {other:?}"),
        };
        template.fill(&mut value, &mut text);
        assert_eq!(text, r#"[[1,"x"],7,{"a\"b":123456789012345678901234567890,"c":null},3]"#);
        assert_eq!(template.steps(), [0]);
    }
}
