//! `bench`: the options and the table.
//!
//! Invariant: the benchmark removes its own prefix or file afterwards, also after Ctrl-C.

use std::path::PathBuf;

use clap::Args;
use taskhost_bench::{BenchError, Options, Place, Report};
use tokio::signal::unix::{SignalKind, signal};

use super::{failure::Failure, output};
use crate::{
    config::Settings,
    ops::{BenchHost, OpsError},
};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  taskhost bench --broker redis://127.0.0.1:6379
  taskhost bench --broker sqlite:taskhost.db --quick --json
  taskhost bench --only drain --repeat 5
  taskhost bench --only growth --repeat 1 --plot growth.svg

It uses a prefix of its own (Redis) or a file of its own (SQLite), and removes it at the end. Other users of the same Redis
feel the load, and their commands are part of the figures of Redis.")]
pub(super) struct BenchArgs {
    /// The plugin that offers `add(a, b)`, the body of all tasks
    #[arg(long, value_name = "FILE", default_value = "plugins/math.wasm")]
    plugin: PathBuf,
    /// The number of tasks of a drain [default: 200000, with --quick 20000]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    tasks: Option<u32>,
    /// How often each figure is measured [default: 3, with --quick 1]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=100))]
    repeat: Option<u32>,
    /// Measure once, with a tenth of the tasks
    #[arg(long)]
    quick: bool,
    /// Measure only this part (may be repeated)
    #[arg(long, value_enum, value_name = "PART")]
    only: Vec<Part>,
    /// Also measure growth, and draw it
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// What is measured together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// The ceilings of this machine
    Ceilings,
    /// Enqueueing one by one and in bulk, and the memory of a waiting task
    Enqueue,
    /// Draining a full queue with several numbers of slots; CPU time of a task; memory of an ended task
    Drain,
    /// Producer and worker at the same time
    EndToEnd,
    /// The time from enqueue to result, and the cost of an idle worker
    Idle,
    /// How late delayed tasks start
    Delayed,
    /// The time from the start of a worker process to the end of its first task
    Start,
    /// The HTTP API: enqueueing over one and over many connections, requests that wait, and what looking costs
    Http,
    /// Flows: a chord, many chains at once, one chain alone
    Flows,
    /// Rates with growing numbers of tasks, queues, workers and plugins; only on request
    Growth,
}

impl From<Part> for taskhost_bench::Part {
    fn from(part: Part) -> Self {
        match part {
            Part::Ceilings => Self::Ceilings,
            Part::Enqueue => Self::Enqueue,
            Part::Drain => Self::Drain,
            Part::EndToEnd => Self::EndToEnd,
            Part::Idle => Self::Idle,
            Part::Delayed => Self::Delayed,
            Part::Start => Self::Start,
            Part::Http => Self::Http,
            Part::Flows => Self::Flows,
            Part::Growth => Self::Growth,
        }
    }
}

impl BenchArgs {
    fn options(&self, settings: &Settings) -> Options {
        let only: Vec<taskhost_bench::Part> = self.only.iter().map(|part| (*part).into()).collect();
        let mut parts: Vec<_> = taskhost_bench::Part::USUAL.into_iter().filter(|part| only.is_empty() || only.contains(part)).collect();
        if self.plot.is_some() || only.contains(&taskhost_bench::Part::Growth) {
            parts.push(taskhost_bench::Part::Growth);
        }
        let (tasks, repeat) = if self.quick { (20_000, 1) } else { (200_000, 3) };
        Options {
            parts,
            tasks: self.tasks.map_or(tasks, |tasks| tasks as usize),
            repeat: self.repeat.unwrap_or(repeat),
            plugin: self.plugin.clone(),
            slots: settings.concurrency,
            threads: settings.threads,
            lease: settings.lease,
        }
    }
}

pub(super) async fn call(args: BenchArgs, settings: Settings) -> Result<(), Failure> {
    let listen = |kind| {
        signal(kind).map_err(|error| Failure::Failed(format!("failed to listen for signals: {error}; raise the limit of open files")))
    };
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let place = Place::open(&settings.broker, &settings.bounds).await?;
    let done = tokio::select! {
        done = measure(&args, &settings, &place) => done,
        _ = interrupt.recv() => Err(Failure::Failed("stopped; what the benchmark had enqueued is removed".to_owned())),
        _ = terminate.recv() => Err(Failure::Failed("stopped; what the benchmark had enqueued is removed".to_owned())),
    };
    // Also after a failure, which is then the message.
    let cleared = place.close().await;
    let report = done?;
    cleared?;
    if let Some(file) = &args.plot {
        let failed =
            |error| Failure::Usage(format!("failed to write the plot: {error}; name a file that can be written: `{}`", file.display()));
        std::fs::write(file, report.plot()).map_err(failed)?;
    }
    if args.json { output::json(&report) } else { print(&report) }
}

fn print(report: &Report) -> Result<(), Failure> {
    let mut rows = output::Rows::new(&["FIGURE", "MIN", "MEDIAN", "MAX", "UNIT", "OF ITS CEILING"]);
    for cells in report.table() {
        rows.add(cells.into_iter().map(output::cell).collect());
    }
    rows.print("nothing was measured")?;
    output::note(&report.about());
    Ok(())
}

async fn measure(args: &BenchArgs, settings: &Settings, place: &Place) -> Result<Report, Failure> {
    let host = BenchHost::load(&args.plugin, settings).await.map_err(|error| match error {
        OpsError::Plugins(error) => Failure::Usage(format!("{error}; name the plugin that offers `add` with --plugin")),
        error => error.into(),
    })?;
    // The progress bar is drawn on a terminal only.
    let bar = indicatif::ProgressBar::new(0);
    bar.set_style(indicatif::ProgressStyle::default_bar());
    let step = |done: usize, all: usize| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    };
    let report = taskhost_bench::measure(place, &host, args.options(settings), step).await;
    bar.finish_and_clear();
    host.stop();
    Ok(report?)
}

impl From<BenchError> for Failure {
    fn from(error: BenchError) -> Self {
        match error {
            BenchError::Broker(error) => error.into(),
            BenchError::TimedOut(why) => Self::TimedOut(why),
            BenchError::Failed(why) => Self::Failed(why),
        }
    }
}
