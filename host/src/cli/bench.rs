//! `bench`: the options, the table, and this host as the subject of `taskhost_bench`.
//!
//! Invariant: the benchmark removes its own prefix or file afterwards, also after Ctrl-C.

use std::{
    collections::HashMap,
    env,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use clap::Args;
use taskhost_bench::{BenchError, Ended, MOST_SLOTS, Options, Place, Report, Subject, WorkerOrder};
use tokio::{
    process::Command,
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{failure::Failure, output, worker};
use crate::{
    config::{ENVIRONMENT_CONFIG, ENVIRONMENT_PREFIX, Settings},
    engine::{About, Attempted, Call, Engine, LogLine, ServiceError, Services},
    plugins::{self, Plugin, Registry},
    telemetry,
    worker::{Invoke, Offers, Stop, Work, WorkerError, WorkerSettings, run_with, worker_id},
};
use taskhost_core::{
    retry::RetrySettings,
    task::{Clock, CodeId, Outcome, Progress, QueueName, SystemClock, TaskId, TaskName},
};

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
    let host = ThisHost::load(&args.plugin, settings).await?;
    // The progress bar is drawn on a terminal only.
    let bar = indicatif::ProgressBar::new(0);
    bar.set_style(indicatif::ProgressStyle::default_bar());
    let step = |done: usize, all: usize| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    };
    let report = taskhost_bench::measure(place, &host, args.options(settings), step).await;
    bar.finish_and_clear();
    host.engine.stop();
    Ok(report?)
}

/// This program with the measured plugin.
struct ThisHost {
    engine: Arc<Engine>,
    plugin: Arc<Plugin>,
    body: TaskName,
    threads: usize,
    lease: Duration,
    retry: RetrySettings,
}

impl ThisHost {
    async fn load(file: &Path, settings: &Settings) -> Result<Self, Failure> {
        let engine = worker::engine(settings, settings.concurrency.max(MOST_SLOTS))?;
        let inspected = plugins::inspect(file, &engine, None, None, &settings.limits).await;
        let inspected = inspected.map_err(|error| Failure::Usage(format!("{error}; name the plugin that offers `add` with --plugin")))?;
        let body = TaskName::new("add").map_err(|error| Failure::Failed(error.to_string()))?;
        if !inspected.plugin.description.bodies.iter().any(|offered| offered.name == body) {
            return Err(Failure::Usage(format!("`{}` offers no `add`: name the plugin that does with --plugin", file.display())));
        }
        let (threads, lease, retry) = (settings.threads, settings.lease, settings.retry.clone());
        Ok(Self { engine, plugin: Arc::new(inspected.plugin), body, threads, lease, retry })
    }
}

#[async_trait]
impl Subject for ThisHost {
    fn body(&self) -> TaskName {
        self.body.clone()
    }

    fn code(&self) -> CodeId {
        self.plugin.id.clone()
    }

    async fn call(&self, lanes: usize, each: usize) -> Result<(), BenchError> {
        let mut calls = JoinSet::new();
        let services: Arc<dyn Services> = Arc::new(Nothing);
        let terms = Arc::new(self.plugin.terms());
        for _ in 0..lanes {
            let (engine, terms, body, services) = (self.engine.clone(), terms.clone(), self.body.clone(), services.clone());
            let lane = async move {
                for number in 0..each {
                    let call = Call {
                        terms: terms.clone(),
                        body: body.as_str().to_owned(),
                        args: format!("[{number},1]"),
                        about: About {
                            task_id: TaskId::fresh(),
                            queue: QueueName::default(),
                            attempt: 1,
                            max_attempts: 1,
                            enqueued_at: SystemClock.now(),
                            headers: Vec::new(),
                        },
                        timeout: terms.limits.timeout,
                        cancelled: CancellationToken::new(),
                        grace: Duration::from_secs(1),
                        services: services.clone(),
                    };
                    succeeded(&engine.invoke(call).await.outcome)?;
                }
                Ok::<_, String>(())
            };
            calls.spawn_on(lane, &self.engine.guests());
        }
        while let Some(lane) = calls.join_next().await {
            lane.map_err(|error| error.to_string())
                .and_then(|done| done)
                .map_err(|why| BenchError::Failed(format!("a call of the benchmark failed: {why}; is this the plugin of the examples?")))?;
        }
        Ok(())
    }

    async fn work(&self, order: WorkerOrder, drain: CancellationToken) -> Result<u64, BenchError> {
        let mut bodies = HashMap::from([(self.body.clone(), self.plugin.clone())]);
        bodies.extend(order.names.into_iter().map(|name| (name, self.plugin.clone())));
        let (_plugins, offers) = watch::channel(Arc::new(Offers::of(&Registry { bodies, ..Registry::default() }, &self.retry)));
        let settings = WorkerSettings {
            queues: order.queues.into_iter().map(|queue| (queue, 1)).collect(),
            concurrency: order.slots,
            cores: self.threads,
            lease: self.lease,
            retry: self.retry.clone(),
            observers: telemetry::observers(),
            ..WorkerSettings::new(worker_id())
        };
        let invoke = Arc::new(Counted { engine: self.engine.clone(), ended: order.ended });
        let mut stop = Stop::default();
        stop.drain = drain;
        match run_with(settings, order.broker, invoke, offers, stop).await {
            Ok(summary) => Ok(summary.succeeded),
            Err(WorkerError::Broker(error)) => Err(error.into()),
            Err(WorkerError::Settings(why) | WorkerError::Died(why)) => Err(BenchError::Failed(why)),
        }
    }

    fn process(&self, queue: &str, plugins: &Path, state: &Path, variables: Vec<(&'static str, String)>) -> Result<Command, BenchError> {
        let broken = |what: &str, error: std::io::Error| BenchError::Failed(format!("{what}: {error}"));
        let program = env::current_exe().map_err(|error| broken("can't find this program to start it again", error))?;
        let settings = state.with_extension("toml");
        std::fs::write(&settings, "").map_err(|error| broken("can't write a settings file for the benchmark", error))?;
        let mut worker = Command::new(program);
        worker.arg("worker").args(["--queue", queue, "--log", "warn"]).arg("--plugins").arg(plugins).arg("--state").arg(state);
        for (name, _) in env::vars_os() {
            if name.to_string_lossy().starts_with(ENVIRONMENT_PREFIX) {
                worker.env_remove(name);
            }
        }
        worker.envs(variables).env(ENVIRONMENT_CONFIG, settings);
        Ok(worker)
    }
}

fn succeeded(outcome: &Outcome) -> Result<(), String> {
    match outcome {
        Outcome::Done { .. } => Ok(()),
        Outcome::Failed { error, .. } => Err(error.to_string()),
        Outcome::HostFault { reason, .. } => Err(reason.clone()),
    }
}

/// The engine. It tells the benchmark about every attempt that ended.
struct Counted {
    engine: Arc<Engine>,
    ended: Ended,
}

#[async_trait]
impl Invoke for Counted {
    async fn invoke(&self, work: Work) -> Attempted {
        let attempted = Invoke::invoke(&self.engine, work).await;
        (self.ended)(succeeded(&attempted.outcome));
        attempted
    }

    fn runnable(&self) -> usize {
        Engine::runnable(&self.engine)
    }

    fn runtime(&self) -> Option<tokio::runtime::Handle> {
        Some(self.engine.guests())
    }
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

/// Services without a broker, because `add` needs none.
struct Nothing;

fn nobody<T>() -> Result<T, ServiceError> {
    Err(ServiceError::Unavailable("the benchmark calls this body without a broker".to_owned()))
}

#[async_trait]
impl Services for Nothing {
    async fn kv_get(&self, _key: &str) -> Result<Option<Vec<u8>>, ServiceError> {
        nobody()
    }

    async fn kv_set(&self, _key: &str, _value: Vec<u8>) -> Result<(), ServiceError> {
        nobody()
    }

    async fn kv_remove(&self, _key: &str) -> Result<bool, ServiceError> {
        nobody()
    }

    async fn kv_increment(&self, _key: &str, _by: i64) -> Result<i64, ServiceError> {
        nobody()
    }

    async fn kv_keys(&self, _prefix: &str, _after: Option<&str>, _limit: usize) -> Result<Vec<String>, ServiceError> {
        nobody()
    }

    fn progress(&self, _progress: Progress) {}

    fn log(&self, _line: &LogLine) {}
}
