//! Reads a rule's text: its zone, and the calendars of the `cron` crate.
//!
//! Each field is read into the set of its values, so that every mistake gets its own sentence, and passed to the crate as a plain list. The
//! crate wants seconds first, weekdays from 1 = Sunday, and both day fields to match.

use std::{collections::BTreeSet, time::Duration};

use chrono_tz::Tz;

use super::{Calendar, CronError, When};
use crate::units;

/// The zone, and when it fires.
pub(super) fn rule(text: &str, zone: &str) -> Result<(Tz, When), CronError> {
    let mut text = text.trim();
    let mut zone_name = zone;
    for prefix in ["CRON_TZ=", "TZ="] {
        if let Some(rest) = text.strip_prefix(prefix) {
            (zone_name, text) = rest.split_once(char::is_whitespace).map_or((rest, ""), |(zone, rule)| (zone, rule.trim()));
            break;
        }
    }
    Ok((self::zone(zone_name)?, if text.starts_with('@') { nickname(text)? } else { fields(text)? }))
}

fn fields(text: &str) -> Result<When, CronError> {
    let words: Vec<_> = text.split_ascii_whitespace().collect();
    let (second, rest) = match words.len() {
        5 => ("0", &words[..]),
        6 => (words[0], &words[1..]),
        0 => return Err(CronError::Shape(format!("a rule is empty; {SHAPE}"))),
        1 => return Err(CronError::Shape(format!("a rule has 5 or 6 fields, `{}` has 1; {SHAPE}", brief(text)))),
        count => return Err(CronError::Shape(format!("a rule has 5 or 6 fields, `{}` has {count}; {SHAPE}", brief(text)))),
    };
    let (second, minute, hour) = (SECOND.read(second)?, MINUTE.read(rest[0])?, HOUR.read(rest[1])?);
    let (day, month, weekday) = (DAY.read(rest[2])?, MONTH.read(rest[3])?, WEEKDAY.read(rest[4])?);
    let hourly = hour.values.len() == 24;
    let clock = format!("{} {} {}", SECOND.list(&second), MINUTE.list(&minute), HOUR.list(&hour));
    let (days, months, weekdays) = (DAY.list(&day), MONTH.list(&month), WEEKDAY.list(&weekday));
    let lines = if day.star || weekday.star {
        vec![format!("{clock} {days} {months} {weekdays}")]
    } else {
        vec![format!("{clock} {days} {months} *"), format!("{clock} * {months} {weekdays}")]
    };
    let any = lines.iter().map(|line| line.parse::<Calendar>()).collect::<Result<_, _>>();
    any.map(|any| When::Calendars { any, hourly }).map_err(|why| CronError::Field(format!("can't read `{}`: {why}; {SHAPE}", brief(text))))
}

const SHAPE: &str = "write `minute hour day-of-month month day-of-week`, such as `30 9 * * MON-FRI`, with seconds before it if needed, or `@daily`, `@every 90s`";

fn nickname(text: &str) -> Result<When, CronError> {
    let (name, rest) = text.split_once(char::is_whitespace).map_or((text, ""), |(name, rest)| (name, rest.trim()));
    let line = match name.to_ascii_lowercase().as_str() {
        "@every" => return every(rest),
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        "@reboot" => {
            return Err(CronError::Shape("`@reboot` is not for schedules: they belong to the broker, which no host starts".into()));
        }
        _ => {
            let known = "@yearly, @annually, @monthly, @weekly, @daily, @midnight, @hourly and @every 90s";
            return Err(CronError::Shape(format!("unknown nickname `{}`; there are {known}", brief(name))));
        }
    };
    if rest.is_empty() { fields(line) } else { Err(CronError::Shape(format!("nothing follows `{name}`; got `{}`", brief(rest)))) }
}

fn every(text: &str) -> Result<When, CronError> {
    let wrong = |why: &str| Err(CronError::Field(format!("`@every {}`: {why}", brief(text))));
    let Some(period) = units::any_duration(text) else { return wrong("a period is a time such as `90s` or `1h30m`") };
    match period {
        _ if period.subsec_nanos() != 0 || period.is_zero() => wrong("a period is at least 1s, in whole seconds"),
        _ if period > Duration::from_secs(366 * 24 * 3600) => wrong("a period is at most a year (366 days)"),
        _ => Ok(When::Every(period)),
    }
}

// -- fields -----------------------------------------------------------------------------------------------------------

struct Field {
    name: &'static str,
    low: u8,
    high: u8,
    /// Of `low` and those after it; at least three letters of one count.
    names: &'static [&'static str],
    /// Whether `?` stands for `*`.
    question: bool,
    /// What is allowed, for the sentence.
    allowed: &'static str,
    /// From a value to the crate's.
    shift: u8,
}

const SECOND: Field = Field { name: "second", low: 0, high: 59, names: &[], question: false, allowed: "0 to 59", shift: 0 };
const MINUTE: Field = Field { name: "minute", low: 0, high: 59, names: &[], question: false, allowed: "0 to 59", shift: 0 };
const HOUR: Field = Field { name: "hour", low: 0, high: 23, names: &[], question: false, allowed: "0 to 23", shift: 0 };
const DAY: Field = Field { name: "day-of-month", low: 1, high: 31, names: &[], question: true, allowed: "1 to 31", shift: 0 };
const MONTH: Field = Field {
    name: "month",
    low: 1,
    high: 12,
    names: &["january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december"],
    question: false,
    allowed: "1 to 12 or JAN to DEC",
    shift: 0,
};
/// 7 is Sunday too; it is folded onto 0 when the field has been read.
const WEEKDAY: Field = Field {
    name: "day-of-week",
    low: 0,
    high: 6,
    names: &["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"],
    question: true,
    allowed: "0 to 7 (0 and 7 are Sunday) or SUN to SAT",
    shift: 1,
};

struct Set {
    values: BTreeSet<u8>,
    /// One of the items begins with `*` or `?`.
    star: bool,
}

impl Field {
    fn read(&self, text: &str) -> Result<Set, CronError> {
        let mut set = Set { values: BTreeSet::new(), star: false };
        for item in text.split(',') {
            let (base, step) = match item.split_once('/') {
                Some((base, step)) => (base, Some(self.step(item, step)?)),
                None => (item, None),
            };
            let (first, last) = self.range(item, base, step.is_some())?;
            set.star |= base == "*" || base == "?";
            set.values.extend((first..=last).step_by(step.unwrap_or(1).into()).map(|value| if self.is_sunday(value) { 0 } else { value }));
        }
        Ok(set)
    }

    /// First and last value of an item; a last 7 is the Sunday at the end of a week.
    fn range(&self, item: &str, base: &str, stepped: bool) -> Result<(u8, u8), CronError> {
        if base == "*" || base == "?" && self.question {
            return Ok((self.low, self.high));
        }
        if base == "?" {
            return Err(self.wrong(item, "`?` stands in day-of-month and day-of-week only: write `*`"));
        }
        let Some((first, last)) = base.split_once('-') else {
            let first = self.value(item, base)?;
            return Ok((first, if stepped { self.high.max(first) } else { first }));
        };
        let (low, mut high) = (self.value(item, first)?, self.value(item, last)?);
        if self.shift == 1 && high == 0 && low > 0 {
            high = 7;
        }
        if low > high {
            let halves = if high == self.low {
                format!("{first}-{},{last}", self.high)
            } else {
                format!("{first}-{},{}-{last}", self.high, self.low)
            };
            return Err(self.wrong(item, &format!("a range does not run backwards: write `{halves}`")));
        }
        Ok((low, high))
    }

    fn value(&self, item: &str, text: &str) -> Result<u8, CronError> {
        let wrong = || {
            let quartz =
                matches!(text.to_ascii_uppercase().as_str(), "L" | "LW" | "W") || text.contains(['#']) || text.ends_with(['W', 'L']);
            let aside = if quartz { "; `L`, `W` and `#` are not part of this dialect" } else { "" };
            self.wrong(item, &format!("{} is {}{aside}", self.name, self.allowed))
        };
        if text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() {
            let value = text.parse().map_err(|_| wrong())?;
            return if (self.low..=self.high).contains(&value) || self.is_sunday(value) { Ok(value) } else { Err(wrong()) };
        }
        let small = text.to_ascii_lowercase();
        let found = if small.len() < 3 { None } else { self.names.iter().position(|name| name.starts_with(&small)) };
        found.and_then(|at| u8::try_from(at).ok()).map(|at| self.low + at).ok_or_else(wrong)
    }

    fn step(&self, item: &str, text: &str) -> Result<u8, CronError> {
        let size = self.high - self.low + 1;
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match text.parse::<u8>() {
            Ok(step) if digits && (1..=size).contains(&step) => Ok(step),
            _ => Err(self.wrong(item, &format!("a step is 1 to {size} here; for longer periods there is `@every 90m`"))),
        }
    }

    fn wrong(&self, item: &str, why: &str) -> CronError {
        CronError::Field(format!("can't read {} `{}`: {why}", self.name, brief(item)))
    }

    fn is_sunday(&self, value: u8) -> bool {
        self.shift == 1 && value == 7
    }

    /// As the crate reads it.
    fn list(&self, set: &Set) -> String {
        if set.values.len() == usize::from(self.high - self.low) + 1 {
            return "*".into();
        }
        set.values.iter().map(|value| (value + self.shift).to_string()).collect::<Vec<_>>().join(",")
    }
}

// -- zones ------------------------------------------------------------------------------------------------------------

fn zone(name: &str) -> Result<Tz, CronError> {
    name.parse().map_err(|_| CronError::Zone { name: brief(name), near: near_zones(name) })
}

/// Zones like `name`, or with a city like it; best first, at most three.
fn near_zones(name: &str) -> Vec<String> {
    let wanted: String = name.to_lowercase().replace(' ', "_").chars().take(64).collect();
    if wanted.is_empty() {
        return Vec::new();
    }
    let mut found: Vec<_> = chrono_tz::TZ_VARIANTS
        .iter()
        .filter_map(|zone| {
            let whole = zone.name().to_lowercase();
            let city = whole.rsplit('/').next().unwrap_or(&whole);
            let distance = strsim::damerau_levenshtein(&wanted, &whole).min(strsim::damerau_levenshtein(&wanted, city));
            (distance <= 2.min(wanted.chars().count() / 3)).then_some((distance, zone.name()))
        })
        .collect();
    found.sort_unstable();
    found.into_iter().take(3).map(|(_, name)| name.to_owned()).collect()
}

pub(super) fn meant(near: &[String]) -> String {
    match near.split_first() {
        None => "zones have IANA names such as `UTC` or `Asia/Shanghai`".into(),
        Some((first, more)) => more.iter().fold(format!("did you mean `{first}`"), |text, name| format!("{text} or `{name}`")) + "?",
    }
}

/// For a sentence: at most 80 characters, control characters escaped.
fn brief(text: &str) -> String {
    let mut short: String = text.chars().take(80).flat_map(char::escape_debug).collect();
    if text.chars().nth(80).is_some() {
        short.push('…');
    }
    short
}
