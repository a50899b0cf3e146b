//! Shortens other people's text for a sentence.

use std::fmt::Write;

/// At most `limit` bytes of a text, cut at a character, with `…` at the cut.
pub(super) fn cut(mut text: String, limit: usize) -> String {
    if text.len() > limit {
        text.truncate(text.floor_char_boundary(limit));
        text.push('…');
    }
    text
}

/// A guest's text on one line of at most `limit` bytes. Line breaks and control characters become spaces.
pub(super) fn line(text: &str, limit: usize) -> String {
    // A guest may pass megabytes of white space, and checking them all would cost the time of others.
    let text = &text[..text.floor_char_boundary(limit.saturating_mul(8))];
    let mut out = String::with_capacity(text.len().min(limit) + 4);
    for word in text.split(|c: char| c.is_control()).filter(|word| !word.is_empty()) {
        let gap = if out.is_empty() { "" } else { " " };
        let _ = write!(out, "{gap}{word}");
        if out.len() > limit {
            break;
        }
    }
    cut(out.trim().to_owned(), limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_becomes_one_bounded_line() {
        assert_eq!(line("a\nb\x1b[31m\tc", 100), "a b [31m c");
        assert_eq!(line(&"é".repeat(100), 5), "éé…");
        assert_eq!(line(&("\0".repeat(50) + "far beyond"), 5), "", "eight times the limit are looked at");
    }
}
