//! Checks JSON from a guest, and makes it compact: valid, on one line, and not nested deeper than readers accept.

use serde_json::value::RawValue;

/// Readers that build a tree refuse deeper nesting (serde_json's limit is 128).
const DEPTH: usize = 127;

/// The same JSON without white space between tokens. Numbers stay as written.
pub(super) fn compact(text: String) -> Result<String, String> {
    serde_json::from_str::<&RawValue>(&text).map_err(|error| error.to_string())?;
    let spaced = check_depth(&text)?;
    Ok(if spaced { squeeze(&text) } else { text })
}

/// Whether valid JSON has white space outside of strings.
fn check_depth(text: &str) -> Result<bool, String> {
    let (mut depth, mut spaced, mut in_string, mut escaped) = (0_usize, false, false, false);
    for byte in text.bytes() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b' ' | b'\t' | b'\n' | b'\r' => spaced = true,
            _ => {}
        }
        if depth > DEPTH {
            return Err(format!("nested deeper than {DEPTH} levels"));
        }
    }
    Ok(spaced)
}

/// Valid JSON without the white space outside of its strings.
fn squeeze(text: &str) -> String {
    let (mut in_string, mut escaped) = (false, false);
    let keep = |c: &char| {
        if in_string {
            match *c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => in_string = false,
                _ => {}
            }
            return true;
        }
        in_string = *c == '"';
        !matches!(*c, ' ' | '\t' | '\n' | '\r')
    };
    text.chars().filter(keep).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_squeezed_and_nothing_else() {
        assert_eq!(
            compact(" { \"a b\" : [ 1 , 9007199254740993 ,\n\"x \\\" y\" ] } ".into()).unwrap(),
            r#"{"a b":[1,9007199254740993,"x \" y"]}"#
        );
        assert_eq!(compact("2".into()).unwrap(), "2");
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for bad in ["", "nul", "[1,", "NaN", "1 2", "\"a\nb\""] {
            assert!(compact(bad.into()).is_err(), "{bad:?}");
        }
        assert!(compact("[".repeat(500) + &"]".repeat(500)).unwrap_err().contains("127"));
    }
}
