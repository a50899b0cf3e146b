//! `bench`: what taskhost does on this machine with the user's own broker, and what the machine could do at most.
//!
//! a place of its own → ceilings → enqueue → drain → end to end → latency → delayed tasks → cold start → table or JSON.
//!
//! Invariant: it works under a prefix (Redis) or in a file (SQLite) of its own, which is gone afterwards, also after Ctrl-C.

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, output, worker};
use crate::{
    config::Settings,
    engine::Engine,
    plugins::{self, Plugin},
    task::{NewTask, QueueName, TaskName},
};

mod ceilings;
mod drain;
mod enqueue;
mod growth;
mod latency;
mod place;
mod plot;
mod report;
mod start;
mod usage;

use place::Place;
use report::{Figure, Report};

/// The queue of every task that is enqueued here.
const QUEUE: &str = "bench";
/// Slots that drains are shown for, beside the default.
const SLOTS: [usize; 4] = [1, 10, 50, 200];
/// The share of tasks that a drain on one slot takes, a round trip each, and on ten.
const FEWER: [(usize, usize); 2] = [(1, 20), (10, 4)];

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  taskhost bench --broker redis://127.0.0.1:6379
  taskhost bench --broker sqlite:taskhost.db --quick --json
  taskhost bench --only drain --repeat 5
  taskhost bench --only growth --repeat 1 --plot growth.svg

It enqueues under a prefix of its own (in Redis) or into a file of its own (SQLite) and clears up after itself. Other
users of the same Redis feel the load, and their commands are counted in what is said of Redis.")]
pub(super) struct BenchArgs {
    /// The plugin that offers `add(a, b)`, the body of every task here
    #[arg(long, value_name = "FILE", default_value = "plugins/math.wasm")]
    plugin: PathBuf,
    /// Tasks of a drain [default: 200000, with --quick 20000]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    tasks: Option<u32>,
    /// How often each figure is taken [default: 3, with --quick 1]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=100))]
    repeat: Option<u32>,
    /// A tenth of the tasks, once
    #[arg(long)]
    quick: bool,
    /// Only figures of this part (may be repeated)
    #[arg(long, value_enum, value_name = "PART")]
    only: Vec<Part>,
    /// Measure growth as well, and draw it
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What is measured together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// What the machine could do at most
    Ceilings,
    /// One by one and in bulk, memory of a waiting task
    Enqueue,
    /// A full queue at several numbers of slots, CPU of a task, memory of a finished one
    Drain,
    /// Producer and worker at once
    EndToEnd,
    /// From the enqueue to the result at a waiter, and what an idle worker costs
    Idle,
    /// How late delayed tasks start
    Delayed,
    /// From the start of a worker process to its first task's end
    Start,
    /// How rates change with what there is; only when it is asked for
    Growth,
}

impl Part {
    /// What is measured when nothing is named.
    const USUAL: [Self; 7] = [Self::Ceilings, Self::Enqueue, Self::Drain, Self::EndToEnd, Self::Idle, Self::Delayed, Self::Start];
}

pub(super) async fn call(args: BenchArgs, settings: Settings) -> Result<(), Failure> {
    let listen = |kind| {
        signal(kind).map_err(|error| Failure::Failed(format!("failed to listen for signals: {error}; raise the limit of open files")))
    };
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let place = Place::open(&settings).await?;
    let done = tokio::select! {
        done = measure(&args, settings, &place) => done,
        _ = interrupt.recv() => Err(Failure::Failed("stopped; what the benchmark had enqueued is removed".to_owned())),
        _ = terminate.recv() => Err(Failure::Failed("stopped; what the benchmark had enqueued is removed".to_owned())),
    };
    // Also after a failure; then the failure is what is said.
    let cleared = place.close().await;
    let report = done?;
    cleared?;
    if let Some(file) = &args.plot {
        let failed =
            |error| Failure::Usage(format!("failed to write the plot: {error}; name a file that can be written: `{}`", file.display()));
        std::fs::write(file, report.plot()).map_err(failed)?;
    }
    if args.json { output::json(&report) } else { report.print() }
}

async fn measure(args: &BenchArgs, settings: Settings, place: &Place) -> Result<Report, Failure> {
    let slots = settings.concurrency.max(SLOTS[SLOTS.len() - 1]);
    let engine = worker::engine(&settings, slots)?;
    let inspected = plugins::inspect(&args.plugin, &engine, None, None, &settings.limits).await;
    let inspected = inspected.map_err(|error| Failure::Usage(format!("{error}; name the plugin that offers `add` with --plugin")))?;
    let body = TaskName::new("add").map_err(|error| Failure::Failed(error.to_string()))?;
    if !inspected.plugin.description.bodies.iter().any(|offered| offered.name == body) {
        return Err(Failure::Usage(format!("`{}` offers no `add`: name the plugin that does with --plugin", args.plugin.display())));
    }
    let queue = QueueName::new(QUEUE).map_err(|error| Failure::Failed(error.to_string()))?;
    let (tasks, repeat) = if args.quick { (20_000, 1) } else { (200_000, 3) };
    let mut bench = Bench {
        tasks: args.tasks.map_or(tasks, |tasks| tasks as usize),
        repeat: args.repeat.unwrap_or(repeat),
        file: args.plugin.clone(),
        plugin: Arc::new(inspected.plugin),
        report: Report::new(&settings, place.about().await?),
        place,
        settings,
        engine,
        body,
        queue,
    };
    let usual = Part::USUAL.into_iter().filter(|part| args.only.is_empty() || args.only.contains(part));
    let growth = (args.plot.is_some() || args.only.contains(&Part::Growth)).then_some(Part::Growth);
    let parts: Vec<Part> = usual.chain(growth).collect();
    // Nothing but a terminal gets to see it.
    let bar = indicatif::ProgressBar::new(u64::from(bench.repeat) * parts.len() as u64);
    bar.set_style(indicatif::ProgressStyle::default_bar());
    for part in parts {
        for _ in 0..bench.repeat {
            bench.take(part).await?;
            bench.place.clear().await?;
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    bench.engine.stop();
    bench.report.relate();
    Ok(bench.report)
}

/// What every part needs.
struct Bench<'a> {
    place: &'a Place,
    settings: Settings,
    engine: Arc<Engine>,
    plugin: Arc<Plugin>,
    file: PathBuf,
    body: TaskName,
    queue: QueueName,
    tasks: usize,
    repeat: u32,
    report: Report,
}

impl Bench<'_> {
    async fn take(&mut self, part: Part) -> Result<(), Failure> {
        match part {
            Part::Ceilings => {
                ceilings::round_trips(self).await?;
                ceilings::broker(self).await?;
                ceilings::engine(self).await
            }
            Part::Enqueue => {
                enqueue::singly(self).await?;
                self.place.clear().await?;
                enqueue::bulk(self).await
            }
            Part::Drain => {
                for slots in SLOTS {
                    let share = FEWER.iter().find(|(few, _)| *few == slots).map_or(2, |(_, share)| *share);
                    let drained = drain::full_queue(self, slots, (self.tasks / share).max(100)).await?;
                    self.report.add(Figure::Drain(slots), drained.rate());
                    self.place.clear().await?;
                }
                drain::by_default(self).await
            }
            Part::EndToEnd => drain::end_to_end(self).await,
            Part::Idle => latency::idle(self).await,
            Part::Delayed => latency::delayed(self).await,
            Part::Start => start::cold_and_warm(self).await,
            Part::Growth => growth::all(self).await,
        }
    }

    /// A task of this benchmark.
    fn task(&self, number: usize) -> NewTask {
        let mut task = NewTask::new(self.body.clone(), format!("[{number},1]"));
        task.queue = self.queue.clone();
        task
    }
}

/// How many a second.
fn rate(count: usize, took: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a count of tasks is far below 2^52")]
    let count = count as f64;
    count / took.as_secs_f64().max(1e-9)
}

/// Microseconds each.
fn each(count: usize, took: Duration) -> f64 {
    1e6 / rate(count, took)
}

/// The value below which `share` of them lie; they need not be sorted.
fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index, rounded down")]
    let index = (values.len() as f64 * share) as usize;
    values.get(index.min(values.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let mut values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!((quantile(&mut values, 0.5), quantile(&mut values, 0.99), quantile(&mut values, 1.0)), (51.0, 100.0, 100.0));
        assert!(quantile(&mut [], 0.5).is_nan());
    }

    #[test]
    fn rates_and_times_each_are_each_others_inverse() {
        assert!((rate(50_000, Duration::from_millis(500)) - 100_000.0).abs() < 1e-6);
        assert!((each(50_000, Duration::from_millis(500)) - 10.0).abs() < 1e-9);
    }
}
