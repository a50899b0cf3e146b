//! Makes text of a guest, a file or the broker safe to show. One rule for tables, errors and logs.
//!
//! Characters that steer a terminal or change the direction of a line are shown by number. People see `\u{9b}`. JSON gets `\u009b`, which a
//! parser reads as the same character.

use std::{
    borrow::Cow,
    fmt::{self, Write},
};

/// C0, DEL and C1 control characters, the direction marks of Unicode (UAX #9), and its own line ends.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{206f}' | '\u{fff9}'..='\u{fffb}')
}

/// On one line: line ends and tabs become spaces.
pub fn clean(text: &str) -> String {
    let mut cleaned = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => cleaned.push(' '),
            c => push(&mut cleaned, c),
        }
    }
    cleaned
}

/// Line ends and tabs stay.
pub fn clean_lines(text: &str) -> String {
    let mut cleaned = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\n' | '\t' => cleaned.push(c),
            '\r' if rest.peek() == Some(&'\n') => {}
            c => push(&mut cleaned, c),
        }
    }
    cleaned
}

fn push(cleaned: &mut String, c: char) {
    if is_unsafe(c) { cleaned.extend(c.escape_unicode()) } else { cleaned.push(c) }
}

/// Cleans one record of a log while it is written. Every line but the first is indented, so that none can pass for the next record.
#[derive(Debug)]
pub struct CleanRecord<W>(pub W);

impl<W: Write> Write for CleanRecord<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if is_plain(text) {
            return self.0.write_str(text);
        }
        for c in text.chars() {
            match c {
                '\n' => self.0.write_str("\n    ")?,
                c if is_unsafe(c) && c != '\t' => write!(self.0, "{}", c.escape_unicode())?,
                c => self.0.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// The fast path: nearly every text is printable ASCII.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// The first `head` and the last `tail` characters of a longer text, made safe: both ends tell texts such as ids apart.
pub fn middle(text: &str, head: usize, tail: usize) -> String {
    let count = text.chars().count();
    if count <= head + tail + 1 {
        return clean(text);
    }
    let end: String = text.chars().skip(count - tail).collect();
    clean(&format!("{}…{end}", text.chars().take(head).collect::<String>()))
}

/// The same JSON with escapes, for a JSON text or lines of JSON.
pub fn clean_json(text: &str) -> Cow<'_, str> {
    if is_plain(text) || !text.chars().any(is_unsafe_in_json) {
        return Cow::Borrowed(text);
    }
    let mut cleaned = String::with_capacity(text.len() + 16);
    // Writing to a string does not fail.
    let _ = CleanJson(&mut cleaned).write_str(text);
    Cow::Owned(cleaned)
}

fn is_unsafe_in_json(c: char) -> bool {
    is_unsafe(c) && !matches!(c, '\n' | '\t')
}

/// Cleans JSON while it is written.
#[derive(Debug)]
pub struct CleanJson<W>(pub W);

impl<W: Write> Write for CleanJson<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if is_plain(text) {
            return self.0.write_str(text);
        }
        let mut rest = text;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| is_unsafe_in_json(*c)) {
            self.0.write_str(&rest[..at])?;
            match c {
                // Only between tokens, because JSON does not allow it within a string.
                '\r' => self.0.write_char(' ')?,
                // All of them are below U+10000, so one escape is enough.
                c => write!(self.0, "\\u{:04x}", u32::from(c))?,
            }
            rest = &rest[at + c.len_utf8()..];
        }
        self.0.write_str(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of each kind that the rule names, and what is shown instead.
    const STEERS: [(char, &str); 12] = [
        ('\u{0}', "0"),
        ('\u{7}', "7"),
        ('\u{1b}', "1b"),
        ('\u{7f}', "7f"),
        ('\u{85}', "85"),
        ('\u{9b}', "9b"),
        ('\u{61c}', "61c"),
        ('\u{200f}', "200f"),
        ('\u{2028}', "2028"),
        ('\u{202e}', "202e"),
        ('\u{2066}', "2066"),
        ('\u{2069}', "2069"),
    ];

    #[test]
    fn no_text_steers_the_terminal_or_turns_a_line() {
        for (c, number) in STEERS {
            let text = format!("a{c}b");
            assert_eq!(clean(&text), format!("a\\u{{{number}}}b"));
            assert_eq!(clean_lines(&text), clean(&text));
            let json = serde_json::to_string(&text).unwrap();
            let cleaned = clean_json(&json);
            assert!(!cleaned.chars().any(is_unsafe), "{cleaned}");
            assert_eq!(serde_json::from_str::<String>(&cleaned).unwrap(), text, "the same JSON");
        }
    }

    #[test]
    fn words_of_every_language_stay_as_they_are() {
        for text in ["Grüße, 世界", "שלום", "مرحبا", "👩\u{200d}🚀 e\u{301}"] {
            assert_eq!((clean(text), clean_lines(text), &*clean_json(text)), (text.to_owned(), text.to_owned(), text));
        }
    }

    #[test]
    fn lines_stay_lines_and_no_line_passes_for_a_record() {
        assert_eq!(clean("a\nb\tc\r"), "a b c ");
        assert_eq!(clean_lines("a\r\nb\tc\rd"), "a\nb\tc\\u{d}d");
        let mut record = CleanRecord(String::new());
        record.write_str("a\nERROR forged\t\u{1b}").unwrap();
        assert_eq!(record.0, "a\n    ERROR forged\t\\u{1b}");
        assert_eq!(clean_json("{\"a\":1}\n[\r\n2]\t"), "{\"a\":1}\n[ \n2]\t");
    }
}
