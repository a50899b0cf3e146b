//! The cron dialect: reads a rule, and computes when it fires next. Pure.
//!
//! text → zone, nickname or fields (`parse`) → the `cron` crate's calendar over wall-clock time → instants of the zone
//!
//! The dialect follows crontab(5) and robfig/cron. The documentation of [`Rule`] says what holds if they differ or are silent. The crate only
//! sees wall-clock time, as if it were UTC, so changes of the clock never reach it.
//!
//! Invariant: a valid rule fires at least once, and `next_after(t)` is later than `t`.

use std::{str::FromStr, time::Duration};

use ::cron::Schedule as Calendar;
use chrono::{DateTime, MappedLocalTime, NaiveDateTime, Offset, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;

use crate::task::Millis;

mod parse;
#[cfg(test)]
mod tests;

/// Why a rule is refused: a sentence that names the field and the allowed values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    /// Not 5 or 6 fields, an unknown nickname, or nothing at all.
    #[error("{0}")]
    Shape(String),
    /// One field.
    #[error("{0}")]
    Field(String),
    /// No such time zone. `near`: names like it.
    #[error("unknown time zone `{name}`; {}", parse::meant(.near))]
    Zone { name: String, near: Vec<String> },
    /// Well-formed, but no day fits.
    #[error("`{0}` never fires: no day of the calendar fits its day-of-month, month and day-of-week")]
    Never(String),
}

/// When something fires.
///
/// Fields: `[second] minute hour day-of-month month day-of-week`. Each is a list of `*`, `n`, `a-b`, and any of these with
/// `/step` (`n/step` is from n to the end); months and days have English names too. Sunday is 0 and 7. `?` stands for `*`
/// in the two day fields. Nicknames: `@yearly @annually @monthly @weekly @daily @midnight @hourly`, and `@every 90s`. `CRON_TZ=Zone` or
/// `TZ=Zone` before all of it overrides the zone.
///
/// - Days: when both day fields are restricted, either may match; a field with an item that begins with `*` or `?` is not
///   restricted, and then both must match (so `0 0 */2 * MON` is: odd days that are Mondays).
/// - The clock is put forward: a rule that names hours (any but all 24) fires once at the first instant after the gap for
///   whatever it misses in the gap. A rule for every hour goes on by the new time and has nothing to make up for.
/// - The clock is put back: a rule that names hours fires at the first of two equal wall times only. A rule for every hour fires
///   at both.
/// - `@every` counts from when the schedule was created, in real time.
/// - The calendar ends with the year 2100.
#[derive(Debug, Clone)]
pub struct Rule {
    zone: Tz,
    when: When,
}

#[derive(Debug, Clone)]
enum When {
    /// Whole seconds, at least one.
    Every(Duration),
    /// The earliest of these calendars counts; there are two if either day field may match. `hourly`: the rule names all 24 hours.
    Calendars { any: Vec<Calendar>, hourly: bool },
}

impl Rule {
    /// Reads a rule. `zone` is an IANA name, used if the rule names no zone itself.
    pub fn parse(text: &str, zone: &str) -> Result<Self, CronError> {
        let (zone, when) = parse::rule(text, zone)?;
        let rule = Self { zone, when };
        // The years 2000 to 2100 contain every possible day of the calendar.
        if rule.next_after(Millis(0), Millis(946_684_800_000)).is_none() {
            return Err(CronError::Never(text.trim().to_owned()));
        }
        Ok(rule)
    }

    /// The first firing after `after`, by wall clock in the rule's zone; `anchor` is where `@every` counts from. `None` after 2100.
    pub fn next_after(&self, anchor: Millis, after: Millis) -> Option<Millis> {
        let next = match &self.when {
            When::Every(period) => every(*period, anchor, after),
            When::Calendars { any, hourly } => {
                let after = instant(after)?;
                let next = if *hourly { self.next_hourly(any, after) } else { self.next_of_hours(any, after) }?;
                u64::try_from(next.timestamp_millis()).ok().map(Millis)
            }
        };
        next.filter(|next| {
            debug_assert!(*next > after, "a rule fires after the time it is asked about");
            *next > after
        })
    }

    /// All firings after `after`.
    pub fn firings(&self, anchor: Millis, after: Millis) -> impl Iterator<Item = Millis> + '_ {
        std::iter::successors(self.next_after(anchor, after), move |last| self.next_after(anchor, *last))
    }

    /// The zone that the rule is read in.
    pub fn zone(&self) -> Tz {
        self.zone
    }

    /// A time as people of the rule's zone write it: `2026-03-08 03:00:00 -04:00`.
    pub fn show(&self, at: Millis) -> String {
        instant(at).map_or_else(|| at.0.to_string(), |at| at.with_timezone(&self.zone).format("%Y-%m-%d %H:%M:%S %:z").to_string())
    }

    /// Wall times in order, each mapped to its first instant, or to the end of the gap that swallowed it.
    fn next_of_hours(&self, any: &[Calendar], after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let mut wall = after.with_timezone(&self.zone).naive_local();
        loop {
            wall = next_wall(any, wall)?;
            let at = match self.zone.from_local_datetime(&wall) {
                MappedLocalTime::Single(at) | MappedLocalTime::Ambiguous(at, _) => at.to_utc(),
                MappedLocalTime::None => self.end_of_gap(wall)?,
            };
            // Not later: `after` is in the repeated hour, and this firing was in its first turn.
            if at > after {
                return Some(at);
            }
        }
    }

    /// Goes through real time in stretches of one offset each. Times that match the wall clock of their stretch fire.
    fn next_hourly(&self, any: &[Calendar], after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let mut from = after;
        let mut offset = self.offset(from);
        loop {
            let wall = next_wall(any, from.naive_utc().checked_add_signed(offset)?)?;
            let at = wall.checked_sub_signed(offset)?.and_utc();
            let Some(change) = self.first_change(from, at, offset) else { return Some(at) };
            from = change - TimeDelta::seconds(1);
            offset = self.offset(change);
        }
    }

    /// The first instant in `from..=until` whose offset is not `offset`. No zone changes its clock and changes it back within a day.
    fn first_change(&self, from: DateTime<Utc>, until: DateTime<Utc>, offset: TimeDelta) -> Option<DateTime<Utc>> {
        let mut known = from + TimeDelta::seconds(1);
        if known > until || self.offset(known) != offset {
            return (known <= until && self.offset(known) != offset).then_some(known);
        }
        while known < until {
            let look = (known + TimeDelta::days(1)).min(until);
            if self.offset(look) != offset {
                return Some(bisect(known, look, |at| self.offset(at) != offset));
            }
            known = look;
        }
        None
    }

    /// The first instant after `wall`, a time that the zone skips.
    fn end_of_gap(&self, wall: NaiveDateTime) -> Option<DateTime<Utc>> {
        let near = wall.and_utc();
        let (before, beyond) = (near.checked_sub_signed(TimeDelta::days(2))?, near.checked_add_signed(TimeDelta::days(2))?);
        Some(bisect(before, beyond, |at| at.with_timezone(&self.zone).naive_local() > wall))
    }

    fn offset(&self, at: DateTime<Utc>) -> TimeDelta {
        TimeDelta::seconds(self.zone.offset_from_utc_datetime(&at.naive_utc()).fix().local_minus_utc().into())
    }
}

impl FromStr for Rule {
    type Err = CronError;
    /// As [`Rule::parse`] in UTC.
    fn from_str(text: &str) -> Result<Self, CronError> {
        Self::parse(text, "UTC")
    }
}

/// `anchor` + n × `period`, n at least 1.
fn every(period: Duration, anchor: Millis, after: Millis) -> Option<Millis> {
    let period = u64::try_from(period.as_millis()).ok().filter(|period| *period > 0)?;
    let turns = after.0.saturating_sub(anchor.0) / period + 1;
    Some(Millis(anchor.0.checked_add(turns.checked_mul(period)?)?))
}

/// The next wall time of any of the calendars.
fn next_wall(any: &[Calendar], after: NaiveDateTime) -> Option<NaiveDateTime> {
    any.iter().filter_map(|calendar| calendar.after(&after.and_utc()).next()).min().map(|at| at.naive_utc())
}

/// Whole seconds: firings have no fractions.
fn instant(at: Millis) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(i64::try_from(at.0 / 1000).ok()?, 0)
}

/// The first second in `low..=high` at which `holds` is true; false at `low`, true at `high`, one change between.
fn bisect(low: DateTime<Utc>, high: DateTime<Utc>, holds: impl Fn(DateTime<Utc>) -> bool) -> DateTime<Utc> {
    let (mut low, mut high) = (low, high);
    while high - low > TimeDelta::seconds(1) {
        let middle = low + TimeDelta::seconds((high - low).num_seconds() / 2);
        if holds(middle) { high = middle } else { low = middle }
    }
    high
}
