//! Prints sizes, times and other people's text for a sentence.

use std::{fmt::Write, time::Duration};

/// `64 MiB`, `1.5 MiB`, `300 bytes`.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    for (unit, scale) in UNITS {
        if bytes >= scale {
            let whole = bytes / scale;
            // In integers, so that a limit of 64 MiB is printed exactly.
            let tenths = (bytes % scale) * 10 / scale;
            return if tenths == 0 { format!("{whole} {unit}") } else { format!("{whole}.{tenths} {unit}") };
        }
    }
    format!("{bytes} bytes")
}

/// `30 s`, `1.5 s`, `250 ms`.
pub(super) fn time(span: Duration) -> String {
    let ms = span.as_millis();
    match (ms / 1000, ms % 1000) {
        (0, ms) => format!("{ms} ms"),
        (s, 0) => format!("{s} s"),
        (s, ms) => format!("{s}.{} s", ms / 100),
    }
}

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
    fn sizes_and_times_read_as_they_were_set() {
        assert_eq!(size(64 << 20), "64 MiB");
        assert_eq!(size((3 << 20) / 2), "1.5 MiB");
        assert_eq!(size(300), "300 bytes");
        assert_eq!(time(Duration::from_secs(30)), "30 s");
        assert_eq!(time(Duration::from_millis(1500)), "1.5 s");
        assert_eq!(time(Duration::from_millis(250)), "250 ms");
    }

    #[test]
    fn foreign_text_becomes_one_bounded_line() {
        assert_eq!(line("a\nb\x1b[31m\tc", 100), "a b [31m c");
        assert_eq!(line(&"é".repeat(100), 5), "éé…");
        assert_eq!(line(&("\0".repeat(50) + "far beyond"), 5), "", "eight times the limit are looked at");
    }
}
