//! Reads a schedule's `args`: TOML → the text of a JSON array.
//!
//! Invariant: a value arrives as it was written, or is refused. JSON has no dates, and neither `nan` nor `inf`.

use toml::{Spanned, de::DeValue};

/// Why a value is refused, and its place in the file.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) at: usize,
    pub(super) why: String,
}

/// The items of `args` as a JSON array.
pub(super) fn json(args: &Spanned<DeValue<'_>>) -> Result<String, Refused> {
    if !args.get_ref().is_array() {
        let got = args.get_ref().type_str();
        return Err(Refused { at: args.span().start, why: format!("`args` is an array such as [1, \"x\"], not {got}") });
    }
    value(args, "args")
}

/// The value of the key `name` as JSON.
pub(super) fn value(value: &Spanned<DeValue<'_>>, name: &str) -> Result<String, Refused> {
    let mut out = String::new();
    write(value, name, &mut out)?;
    Ok(out)
}

/// Writes `value`. Its `place` is a path such as `args[0].day`.
fn write(value: &Spanned<DeValue<'_>>, place: &str, out: &mut String) -> Result<(), Refused> {
    let refused = |why: String| Refused { at: value.span().start, why: format!("`{place}` is {why}") };
    match value.get_ref() {
        DeValue::String(text) => out.push_str(&quoted(text)),
        DeValue::Boolean(truth) => out.push_str(if *truth { "true" } else { "false" }),
        DeValue::Integer(number) => {
            let read = i64::from_str_radix(number.as_str(), number.radix());
            let read = read.map_err(|_| refused(format!("beyond 64 bits; write it as a text: \"{number}\"")))?;
            out.push_str(&read.to_string());
        }
        DeValue::Float(number) => {
            // The digits are copied as written, because `f64` may have fewer. JSON has no plus sign.
            let text = number.as_str().trim_start_matches('+');
            match text.parse::<f64>() {
                Ok(read) if read.is_finite() => out.push_str(text),
                Ok(read) if read.is_infinite() && !text.contains("inf") => {
                    return Err(refused(format!("beyond what a number can be; write it as a text: \"{text}\"")));
                }
                _ => return Err(refused(format!("`{text}`, which JSON has no number for; write it as a text: \"{text}\""))),
            }
        }
        DeValue::Datetime(time) => {
            return Err(refused(format!("a date or time, which JSON has none of; write it as a text: \"{time}\"")));
        }
        DeValue::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(item, &format!("{place}[{index}]"), out)?;
            }
            out.push(']');
        }
        DeValue::Table(table) => {
            out.push('{');
            for (index, (key, item)) in table.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                out.push_str(&quoted(key.get_ref()));
                out.push(':');
                write(item, &format!("{place}.{}", key.get_ref().escape_debug()), out)?;
            }
            out.push('}');
        }
    }
    Ok(())
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
