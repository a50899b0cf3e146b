//! Durations, sizes and times as text: `30s`, `64MiB`, `2026-01-01T09:00:00Z`.
//!
//! A refusal is a sentence that says what is allowed. An option, a variable and a line of `taskhost.toml` are refused in the same words.

use std::time::Duration;

use crate::task::{Millis, Start};

/// `30s`, `5m`, `1h 30m`, `250ms`. A number without a unit is refused, because it could mean seconds or milliseconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let value = any_duration(text).ok_or_else(|| format!("a duration is written like `30s`, `5m` or `1h 30m`: `{text}`"))?;
    // Beyond this, adding it to a clock in milliseconds would no longer be exact in the broker.
    if value > Duration::from_secs(100 * 366 * 24 * 3600) {
        return Err(format!("a duration is at most 100 years: `{text}`"));
    }
    Ok(value)
}

/// A duration of any length, for callers with a sentence of their own; `None` if it is written otherwise.
pub fn any_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    if text == "0" { Some(Duration::ZERO) } else { humantime::parse_duration(text).ok() }
}

/// A duration that is not zero.
pub fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err(format!("a duration here is longer than zero, such as `30s`: `{text}`")),
        value => Ok(value),
    }
}

/// `64MiB`, `1GB`, `512KiB`, `1048576` (bytes).
pub fn size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let refused = || format!("a size is written like `64MiB`, `1GB` or `1048576` (bytes): `{text}`");
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let number: u64 = text[..digits].parse().map_err(|_| refused())?;
    let unit: u64 = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(refused()),
    };
    number.checked_mul(unit).ok_or_else(refused)
}

/// An instant: RFC 3339, or seconds (milliseconds from 1e11 on) since 1970-01-01T00:00:00Z.
pub fn instant(text: &str) -> Result<Millis, String> {
    let refused = || format!("a time is written like `2026-01-31T09:00:00+08:00` or as seconds since 1970: `{text}`");
    if let Ok(number) = text.parse::<u64>() {
        let millis = if number < 100_000_000_000 { number * 1000 } else { number };
        return if millis < 100_000_000_000_000 { Ok(Millis(millis)) } else { Err(refused()) };
    }
    let time = chrono::DateTime::parse_from_rfc3339(text).map_err(|_| refused())?;
    u64::try_from(time.timestamp_millis()).map(Millis).map_err(|_| refused())
}

/// An instant, or a duration from now on.
pub fn start(text: &str) -> Result<Start, String> {
    instant(text).map(Start::At).or_else(|_| duration(text).map(Start::In)).map_err(|_| {
        format!("a time is written like `2026-01-31T09:00:00+08:00`, as seconds since 1970, or like `5m` from now on: `{text}`")
    })
}

/// A time that has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Past {
    At(Millis),
    /// So long ago.
    Ago(Duration),
}

impl Past {
    pub fn at(self, now: Millis) -> Millis {
        match self {
            Self::At(at) => at,
            Self::Ago(ago) => now.before(ago),
        }
    }
}

/// A time, or how long ago it is, such as `2h`.
pub fn past(text: &str) -> Result<Past, String> {
    instant(text).map(Past::At).or_else(|_| duration(text).map(Past::Ago)).map_err(|_| {
        format!("a time is written like `2026-01-31T09:00:00+08:00`, as seconds since 1970, or as how long ago, like `5m`: `{text}`")
    })
}

/// Bytes for people: `64 MiB`, `1.5 GiB`, `300 bytes`.
pub fn show_size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut tenths = u128::from(bytes) * 10;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    if tenths.is_multiple_of(10) || unit == 0 {
        format!("{} {}", tenths / 10, UNITS[unit])
    } else {
        format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    }
}

/// A count with its digits in groups of three: `12,408`.
pub fn show_count(count: u64) -> String {
    let digits = count.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join(",")
}

/// A duration as settings write it: `1h 30m`, `30s`, `250ms`. At most two units.
pub fn show_duration(value: Duration) -> String {
    const UNITS: [(&str, u128); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
    let mut rest = value.as_millis();
    let mut parts = Vec::new();
    for (name, millis) in UNITS {
        if rest >= millis && parts.len() < 2 {
            parts.push(format!("{}{name}", rest / millis));
            rest %= millis;
        }
    }
    if parts.is_empty() { "0s".into() } else { parts.join(" ") }
}

/// A duration within a sentence: `30 s`, `1.5 s`, `250 ms`.
pub fn duration_in_words(span: Duration) -> String {
    let ms = span.as_millis();
    match (ms / 1000, ms % 1000) {
        (0, ms) => format!("{ms} ms"),
        (s, 0) => format!("{s} s"),
        (s, ms) => format!("{s}.{} s", ms / 100),
    }
}

/// How long ago, in one unit: `3s`, `5m`, `2h`, `4d`; `now` below a second.
pub fn age(of: Millis, now: Millis) -> String {
    let shown = show_duration(now.since(of));
    let first = shown.split(' ').next().unwrap_or_default();
    if first.ends_with("ms") { "now".to_owned() } else { first.to_owned() }
}

/// How long ago, as a phrase: `3s ago` or `now`.
pub fn ago(of: Millis, now: Millis) -> String {
    match age(of, now).as_str() {
        "now" | "0s" => "now".to_owned(),
        age => format!("{age} ago"),
    }
}

/// How long until, as a phrase: `in 3s`, or `now` if it is past.
pub fn until(when: Millis, now: Millis) -> String {
    match age(now, when).as_str() {
        "now" | "0s" => "now".to_owned(),
        rest => format!("in {rest}"),
    }
}

/// An instant for people, in UTC: `2026-01-31 09:00:00 UTC`.
pub fn show_instant(at: Millis) -> String {
    i64::try_from(at.0)
        .ok()
        .and_then(chrono::DateTime::from_timestamp_millis)
        .map_or_else(|| at.0.to_string(), |time| time.format("%Y-%m-%d %H:%M:%S UTC").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_grouped() {
        assert_eq!([0, 999, 1_000, 12_408, 1_000_000].map(show_count), ["0", "999", "1,000", "12,408", "1,000,000"]);
    }

    #[test]
    fn sizes_and_durations_are_printed_as_they_were_set() {
        assert_eq!(show_size(64 << 20), "64 MiB");
        assert_eq!(show_size((3 << 20) / 2), "1.5 MiB");
        assert_eq!(show_size(300), "300 bytes");
        assert_eq!(duration_in_words(Duration::from_secs(30)), "30 s");
        assert_eq!(duration_in_words(Duration::from_millis(1500)), "1.5 s");
        assert_eq!(duration_in_words(Duration::from_millis(250)), "250 ms");
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1h 30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert!(duration("30").unwrap_err().contains("`30s`"));
        assert!(duration("200years").is_err());
        assert!(positive_duration("0s").is_err());
    }

    #[test]
    fn sizes_know_both_thousands() {
        assert_eq!(size("64MiB"), Ok(64 << 20));
        assert_eq!(size("1 GB"), Ok(1_000_000_000));
        assert_eq!(size("1048576"), Ok(1 << 20));
        for wrong in ["", "MiB", "-1", "1.5MiB", "64 parsec", "99999999999TiB"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_are_rfc_3339_or_epoch() {
        assert_eq!(instant("1970-01-01T00:00:01Z"), Ok(Millis(1000)));
        assert_eq!(instant("2026-01-31T09:00:00+08:00"), Ok(Millis(1_769_821_200_000)));
        assert_eq!(instant("1769821200"), Ok(Millis(1_769_821_200_000)));
        assert_eq!(instant("1769821200000"), Ok(Millis(1_769_821_200_000)));
        for wrong in ["tomorrow", "1969-12-31T00:00:00Z", "2026-01-31", "99999999999999999"] {
            assert!(instant(wrong).is_err(), "{wrong}");
        }
        assert_eq!(start("5m"), Ok(Start::In(Duration::from_secs(300))));
    }

    #[test]
    fn what_is_shown_is_short() {
        assert_eq!(show_size(64 << 20), "64 MiB");
        assert_eq!(show_size(1536 << 20), "1.5 GiB");
        assert_eq!(show_size(12), "12 bytes");
        assert_eq!(show_duration(Duration::from_millis(90_061_001)), "1d 1h");
        assert_eq!(show_duration(Duration::from_secs(90)), "1m 30s");
        assert_eq!(show_duration(Duration::ZERO), "0s");
    }

    #[test]
    fn ages_have_one_unit() {
        let now = Millis(10_000_000);
        assert_eq!(age(Millis(10_000_000 - 90_000), now), "1m");
        assert_eq!(age(Millis(9_999_900), now), "now");
        assert_eq!(age(Millis(20_000_000), now), "0s");
        assert_eq!(until(Millis(10_300_000), now), "in 5m");
        assert_eq!(until(Millis(1), now), "now");
        assert_eq!(until(Millis(10_000_300), now), "now");
    }

    #[test]
    fn what_was_just_now_is_not_now_ago() {
        let now = Millis(10_000_000);
        assert_eq!(ago(Millis(10_000_000 - 90_000), now), "1m ago");
        assert_eq!([9_999_900, 10_000_000, 20_000_000].map(|at| ago(Millis(at), now)), ["now"; 3]);
    }
}
