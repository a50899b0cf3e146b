//! The role of the past: counts of attempts over time, and notes of changes.
//!
//! a worker counts in memory → `record`, every few seconds → the counts of the minute, of the ten minutes and of the day
//!
//! Invariant: a record counts once, however often it is repeated. A worker that dies loses only the counts that it had not recorded yet.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    time::Duration,
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::error::{BrokerError, Result};
use taskhost_core::task::{Millis, QueueName};

/// Keeps counts over time, and notes of changes.
#[async_trait]
pub trait History: Send + Sync {
    /// Adds what a worker counted since its last record, by body. `number` grows with each record of a worker: one that is not greater than
    /// the last adds nothing. It also notes how many tasks are ready, under the name [`QUEUE`].
    async fn record(&self, queue: &QueueName, worker: &str, number: u64, counts: &[(String, Sample)]) -> Result<()>;
    /// The counts from the step of `from` to the one of `to`, both included, in the order of time and then of bodies. `Invalid` if these are
    /// too many steps, see [`HistoryStep::range`].
    async fn history(&self, queue: &QueueName, step: HistoryStep, from: Millis, to: Millis) -> Result<Vec<Point>>;
    /// Keeps a note of a change, with the broker's time. Repeated after a lost reply, the note may stand twice.
    async fn note(&self, note: &Note) -> Result<()>;
    /// The newest notes before `before`, newest first. The newest 10,000 are kept.
    async fn notes(&self, before: Option<&str>, limit: usize) -> Result<Vec<Noted>>;
}

/// Stands beside the bodies, and has what is true of the queue itself. No body has such a name.
pub const QUEUE: &str = "_queue";
/// The most steps of one answer.
const MOST_STEPS: u64 = 400;
/// The most notes that are kept.
pub(super) const NOTES: usize = 10_000;

/// How long a step of the history is, and how long it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HistoryStep {
    /// A minute, kept for 6 hours.
    Minute,
    /// Ten minutes, kept for a week.
    TenMinutes,
    /// A day, kept for 180 days.
    Day,
}

impl HistoryStep {
    pub const ALL: [Self; 3] = [Self::Minute, Self::TenMinutes, Self::Day];

    pub const fn seconds(self) -> u64 {
        match self {
            Self::Minute => 60,
            Self::TenMinutes => 600,
            Self::Day => 86_400,
        }
    }

    pub const fn kept(self) -> Duration {
        Duration::from_secs(match self {
            Self::Minute => 6 * 3600,
            Self::TenMinutes => 7 * 86_400,
            Self::Day => 180 * 86_400,
        })
    }

    /// The start of the step that has this time, in seconds since 1970.
    pub(super) const fn start(self, at: Millis) -> u64 {
        let seconds = at.0 / 1000;
        seconds - seconds % self.seconds()
    }

    /// The steps from the one of `from` to the one of `to`: when the first begins, in seconds since 1970, and how many there are. `Invalid` if
    /// these are more than 400.
    pub fn range(self, from: Millis, to: Millis) -> Result<(u64, u64)> {
        let (first, last) = (self.start(from), self.start(to));
        let count = if last < first { 0 } else { (last - first) / self.seconds() + 1 };
        if count > MOST_STEPS {
            let text = format!("a history has at most {MOST_STEPS} steps, not {count}: ask for a shorter time, or for longer steps");
            return Err(BrokerError::Invalid(text));
        }
        Ok((first, count))
    }
}

/// The outcomes of the attempts of one body in one queue.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Sample {
    pub succeeded: u64,
    /// Attempts after which the task is tried again.
    pub retried: u64,
    pub dead: u64,
    pub cancelled: u64,
    /// CPU time in microseconds.
    pub cpu_us: u64,
    /// The most tasks that were ready when a worker recorded. Of [`QUEUE`] only.
    #[serde(skip)]
    pub ready: u64,
    /// How long attempts ran.
    pub ran: Spread,
    /// How long tasks waited from their enqueue to the claim of their first attempt.
    pub waited: Spread,
}

impl Sample {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds counts of the same queue. Of `ready` the larger one counts.
    pub fn add(&mut self, other: &Self) {
        let ready = self.ready.max(other.ready);
        self.parts().into_iter().zip(other.clone().parts()).for_each(|((_, sum), (_, more))| *sum = sum.saturating_add(*more));
        self.ready = ready;
        self.ran.add(&other.ran);
        self.waited.add(&other.waited);
    }

    fn parts(&mut self) -> [(&'static str, &mut u64); 6] {
        let Self { succeeded, retried, dead, cancelled, cpu_us, ready, ran: _, waited: _ } = self;
        [("s", succeeded), ("f", retried), ("d", dead), ("c", cancelled), ("u", cpu_us), ("q", ready)]
    }

    /// As it is stored: `name=n`, a space between each. Counts of 0 are left out.
    pub(super) fn write(&self) -> String {
        let mut text = String::new();
        let mut put = |name: &str, place: Option<u8>, n: u64| {
            if n > 0 {
                let space = if text.is_empty() { "" } else { " " };
                let place = place.map_or_else(String::new, |place| place.to_string());
                let _infallible = write!(text, "{space}{name}{place}={n}");
            }
        };
        self.clone().parts().into_iter().for_each(|(name, n)| put(name, None, *n));
        for (name, spread) in [("r", &self.ran), ("w", &self.waited)] {
            spread.0.iter().for_each(|(place, n)| put(name, Some(*place), *n));
        }
        text
    }

    /// Skips unknown and unreadable parts: another version may have written them.
    pub(super) fn read(text: &str) -> Self {
        let mut sample = Self::default();
        for (name, n) in text.split(' ').filter_map(|part| part.split_once('=')) {
            let Ok(n) = n.parse::<u64>() else { continue };
            if let Some((_, sum)) = sample.parts().into_iter().find(|(known, _)| *known == name) {
                *sum = sum.saturating_add(n);
                continue;
            }
            let spread = if name.starts_with('r') { &mut sample.ran } else { &mut sample.waited };
            if let Some(place) = name.strip_prefix(['r', 'w']).and_then(|place| place.parse().ok()) {
                spread.put(place, n);
            }
        }
        sample
    }
}

/// No duration has a later place.
const LAST_PLACE: u8 = 60;

/// How many durations there are of each length. Lengths are √2 apart, from 100 µs on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spread(pub BTreeMap<u8, u64>);

impl Spread {
    /// The longest duration that counts at a place.
    pub fn bound(place: u8) -> Duration {
        // Another program may have written a place that no duration has.
        Duration::from_micros(100).mul_f64(2f64.powf(f64::from(place.min(LAST_PLACE)) / 2.0))
    }

    /// How many durations there are at all places.
    pub fn count(&self) -> u64 {
        self.0.values().fold(0, |sum, n| sum.saturating_add(*n))
    }

    fn add(&mut self, other: &Self) {
        other.0.iter().for_each(|(place, n)| self.put(*place, *n));
    }

    /// Another program may have written a number that no sum of durations reaches, so the sum stops at the largest one.
    fn put(&mut self, place: u8, n: u64) {
        let sum = self.0.entry(place).or_default();
        *sum = sum.saturating_add(n);
    }

    /// The duration that this percentage of them does not exceed; `None` without any.
    pub fn quantile(&self, percent: u64) -> Option<Duration> {
        let rank = self.count().saturating_mul(percent).div_ceil(100).max(1);
        let mut seen = 0_u64;
        let place = self.0.iter().find(|(_, n)| {
            seen = seen.saturating_add(**n);
            seen >= rank
        });
        place.map(|(place, _)| Self::bound(*place))
    }
}

/// Shown by its quantiles, in milliseconds.
impl Serialize for Spread {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Shown {
            count: u64,
            #[serde(skip_serializing_if = "Option::is_none")]
            p50_ms: Option<f64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            p95_ms: Option<f64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            p99_ms: Option<f64>,
        }
        let ms = |percent| self.quantile(percent).map(|duration| (duration.as_secs_f64() * 1e6).round() / 1e3);
        Shown { count: self.count(), p50_ms: ms(50), p95_ms: ms(95), p99_ms: ms(99) }.serialize(serializer)
    }
}

/// The counts of one body in one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// When the step begins.
    pub start: Millis,
    /// The body, or `_other` for those beyond what a worker counts apart, or [`QUEUE`].
    pub task: String,
    pub sample: Sample,
}

/// Who changed what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The name of the token, or of the caller without one.
    pub by: String,
    /// The address that it came from.
    pub from: String,
    /// Such as `POST /v1/queues/{queue}/pause`.
    pub what: String,
    /// The things that were changed, by the names of their parameters.
    pub about: BTreeMap<String, String>,
    /// The status of the answer.
    pub status: u16,
}

/// A note, with its time and its place among the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Noted {
    pub id: String,
    pub at: Millis,
    #[serde(flatten)]
    pub note: Note,
}

impl fmt::Display for HistoryStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Minute => "1m",
            Self::TenMinutes => "10m",
            Self::Day => "1d",
        })
    }
}

impl std::str::FromStr for HistoryStep {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        Self::ALL.into_iter().find(|step| step.to_string() == text).ok_or_else(|| "the steps are `1m`, `10m` and `1d`".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(counts: &[(u8, u64)]) -> Spread {
        Spread(counts.iter().copied().collect())
    }

    #[test]
    fn a_sample_is_read_as_it_was_written_and_samples_add_up() {
        let mut sample = Sample { succeeded: 3, dead: 1, cpu_us: 1200, ran: spread(&[(0, 1), (12, 3)]), ..Sample::default() };
        assert_eq!(sample.write(), "s=3 d=1 u=1200 r0=1 r12=3");
        assert_eq!(Sample::read(&sample.write()), sample);
        let more = Sample { succeeded: 2, cancelled: 1, waited: spread(&[(4, 2)]), ran: spread(&[(12, 1)]), ..Sample::default() };
        sample.add(&more);
        assert_eq!(sample.write(), "s=5 d=1 c=1 u=1200 r0=1 r12=4 w4=2");
        assert!(Sample::read("").is_empty() && Sample::default().write().is_empty());
    }

    #[test]
    fn what_another_program_wrote_is_left_out() {
        let read = Sample::read("s=2 x=3 s r=1 r999=1 w=7 w3=4 d=-1 c=1.5 =  u=18446744073709551616");
        assert_eq!(read, Sample { succeeded: 2, waited: spread(&[(3, 4)]), ..Sample::default() });
    }

    #[test]
    fn numbers_too_large_to_add_up_stop_at_the_largest() {
        let most = u64::MAX;
        let mut read = Sample::read(&format!("s={most} s=1 r1={most} r1={most} r2={most} w3=1"));
        read.add(&read.clone());
        assert_eq!((read.succeeded, read.ran.count(), read.waited.count()), (most, most, 2));
        assert_eq!(read.ran.quantile(99), Some(Spread::bound(1)));
    }

    #[test]
    fn a_quantile_is_the_bound_of_the_place_that_has_it() {
        assert_eq!(Spread::default().quantile(50), None);
        let spread = spread(&[(0, 90), (2, 9), (20, 1)]);
        assert_eq!(spread.quantile(50), Some(Duration::from_micros(100)));
        assert_eq!(spread.quantile(95), Some(Duration::from_micros(200)));
        assert_eq!(spread.quantile(99), Some(Duration::from_micros(200)));
        assert_eq!(spread.quantile(100), Some(Spread::bound(20)));
        assert!(Spread::bound(u8::MAX) > Spread::bound(53), "whatever stands there");
    }

    #[test]
    fn a_history_has_a_bounded_number_of_steps() {
        let minutes = |n: u64| HistoryStep::Minute.range(Millis(0), Millis(n * 60_000));
        assert_eq!(minutes(0).unwrap(), (0, 1));
        assert_eq!(minutes(399).unwrap(), (0, 400));
        assert!(minutes(400).is_err());
        assert_eq!(HistoryStep::Day.range(Millis(86_400_000), Millis(0)).unwrap().1, 0);
        assert_eq!(HistoryStep::Day.range(Millis(2 * 86_400_000 - 1), Millis(2 * 86_400_000)).unwrap(), (86_400, 2));
    }
}
