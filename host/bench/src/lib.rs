//! Measures taskhost on this machine with the user's own broker, beside the most that the machine could do.
//!
//! a place of its own → ceilings → enqueue → drain → end to end → latency → delayed tasks → cold start → HTTP → flows → [`Report`].
//!
//! The worker and the engine are handed in as a [`Subject`]: the benchmark fills the broker, keeps the time and does the sums.
//!
//! Invariant: it works under a prefix (Redis) or in a file (SQLite) of its own; [`Place::close`] removes it.

mod attempts;
mod ceilings;
mod drain;
mod enqueue;
mod error;
mod figure;
mod flows;
mod grown;
mod growth;
mod http;
mod latency;
mod looking;
mod place;
mod plot;
mod report;
mod setup;
mod start;
mod stats;
mod subject;
mod usage;

pub use error::BenchError;
pub use place::Place;
pub use report::{Report, Row};
pub use setup::{Options, Part};
pub use subject::{Ended, Subject, WorkerOrder};

use setup::{Bench, SLOTS};

/// The most slots that a part asks of one worker, beside the default.
pub const MOST_SLOTS: usize = SLOTS[SLOTS.len() - 1];

/// Measures each figure of `options.parts`, `options.repeat` times. Calls `step` after each round with the number of finished rounds and of all
/// rounds. Empties the place after each round, and does not close it.
pub async fn measure(
    place: &Place,
    subject: &dyn Subject,
    options: Options,
    mut step: impl FnMut(usize, usize),
) -> Result<Report, BenchError> {
    let parts = options.parts.clone();
    let repeat = options.repeat;
    let report = Report::new(place.about().await?, options.threads, options.slots);
    let mut bench = Bench::new(place, subject, options, report)?;
    let all = parts.len() * repeat as usize;
    let mut done = 0;
    for part in parts {
        for _ in 0..repeat {
            take(&mut bench, part).await?;
            bench.place.clear().await?;
            done += 1;
            step(done, all);
        }
    }
    bench.report.relate();
    Ok(bench.report)
}

/// Measures the figures of one part once.
async fn take(bench: &mut Bench<'_>, part: Part) -> Result<(), BenchError> {
    match part {
        Part::Ceilings => {
            ceilings::round_trips(bench).await?;
            ceilings::broker(bench).await?;
            ceilings::engine(bench).await
        }
        Part::Enqueue => {
            enqueue::singly(bench).await?;
            bench.place.clear().await?;
            enqueue::bulk(bench).await
        }
        Part::Drain => drain::all(bench).await,
        Part::EndToEnd => drain::end_to_end(bench).await,
        Part::Idle => latency::idle(bench).await,
        Part::Delayed => latency::delayed(bench).await,
        Part::Start => start::cold_and_warm(bench).await,
        Part::Http => {
            http::all(bench).await?;
            bench.place.clear().await?;
            looking::all(bench).await
        }
        Part::Flows => flows::all(bench).await,
        Part::Growth => growth::all(bench).await,
    }
}
