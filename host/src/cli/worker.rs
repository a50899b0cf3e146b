//! `worker`: settings → engine, plugins, broker → the loops, until a signal stops it.
//!
//! Invariant: a setting that can never work ends the process at the start with a sentence. A broker that is away is waited for. A loop that
//! dies ends the process with an error.

use std::{sync::Arc, time::Duration};

use clap::Args;
use tokio::{
    sync::{oneshot, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{descriptors, failure::Failure, serve::HttpArgs, signals};
use crate::{
    config::{BrokerAddress, Settings},
    ops::{self, Ops},
    plugins::{self, Plugins, PluginsSettings, Registry, Writable},
    schedule,
    serve::{Observed, Server, ServerStop},
    telemetry::{self, metrics::WorkerMetrics, traces::Traces},
    worker::{self, Hooks, Stop, WorkerSettings},
};
use taskhost_broker::FileSchedule;
use taskhost_core::{
    catalogue::{Given, Offer},
    observe::Observers,
    trace::Sampling,
    units,
};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  taskhost worker --plugins ./plugins
  taskhost worker --broker redis://127.0.0.1:6379 --queue mail=3 --queue default

Each setting also has a key in taskhost.toml and a TASKHOST_… variable. README.md lists them.")]
pub(super) struct WorkerArgs {
    /// The plugin directory: its *.wasm files are the plugins [default: ./plugins]
    #[arg(long, value_name = "DIR")]
    plugins: Option<String>,
    /// Claim from this queue, with this weight (may be repeated) [default: default]
    #[arg(long = "queue", value_name = "NAME[=WEIGHT]")]
    queues: Vec<String>,
    /// The most attempts at once [default: 128 for each core]
    #[arg(long, value_name = "NUMBER")]
    concurrency: Option<String>,
    /// The time that attempts may go on after SIGTERM [default: 25s]
    #[arg(long, value_name = "TIME")]
    drain: Option<String>,
    /// The time after which a silent worker loses its tasks [default: 30s]
    #[arg(long, value_name = "TIME")]
    lease: Option<String>,
    /// The time limit of an attempt, if neither task nor body sets one [default: 60s]
    #[arg(long, value_name = "TIME")]
    timeout: Option<String>,
    /// Attempts after the first, if neither task nor body sets a number [default: 3]
    #[arg(long, value_name = "NUMBER")]
    retries: Option<String>,
    /// The memory of one attempt, if no policy sets it [default: 64MiB]
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,
    /// The memory of all attempts together [default: half of the machine's memory]
    #[arg(long, value_name = "SIZE")]
    guest_memory: Option<String>,
    /// Threads that run guests [default: one for each core]
    #[arg(long, value_name = "NUMBER")]
    threads: Option<String>,
    /// Serve only plugins that are signed with a key in the --trust file
    #[arg(long)]
    require_signed: bool,
    /// The file of minisign public keys for --require-signed
    #[arg(long, value_name = "FILE")]
    trust: Option<String>,
    /// What to do if others may write to the plugin directory: warn, refuse or allow [default: warn]
    #[arg(long, value_name = "WHAT")]
    plugin_dir_writable: Option<String>,
    /// The directory for last good plugins and compiled code
    #[arg(long, value_name = "DIR")]
    state: Option<String>,
    #[command(flatten)]
    http: HttpArgs,
}

impl WorkerArgs {
    /// The options as text, which is parsed together with the file and the environment.
    pub(super) fn flags(&self) -> Vec<(&'static str, String)> {
        let queues = (!self.queues.is_empty()).then(|| self.queues.join(","));
        let given = [
            ("plugins", self.plugins.clone()),
            ("queues", queues),
            ("concurrency", self.concurrency.clone()),
            ("drain", self.drain.clone()),
            ("lease", self.lease.clone()),
            ("timeout", self.timeout.clone()),
            ("retries", self.retries.clone()),
            ("memory", self.memory.clone()),
            ("guest_memory", self.guest_memory.clone()),
            ("threads", self.threads.clone()),
            ("require_signed", self.require_signed.then(|| "true".to_owned())),
            ("trust", self.trust.clone()),
            ("plugin_dir_writable", self.plugin_dir_writable.clone()),
            ("state", self.state.clone()),
        ];
        given.into_iter().filter_map(|(key, value)| Some((key, value?))).chain(self.http.flags()).collect()
    }
}

/// How long loops may take to end after they were told to.
const LAST: Duration = Duration::from_secs(10);

pub(super) async fn call(_args: WorkerArgs, settings: Settings) -> Result<(), Failure> {
    descriptors::check(&settings)?;
    let stop = Stop::default();
    let mut loops = JoinSet::new();
    let shutdown = CancellationToken::new();
    loops.spawn(stop.clone().watch("signals", shutdown.clone(), signals::run(stop.clone(), shutdown.clone())?));
    let server_stop = ServerStop { drain: stop.drain.clone(), end: shutdown.clone() };
    let mut observers = telemetry::observers();
    let traces = Traces::from_environment().map_err(Failure::Usage)?;
    if let Some(traces) = &traces {
        observers = observers.with(traces.clone());
    }
    let metrics = Arc::<WorkerMetrics>::default();
    observers = observers.with(metrics.clone());
    let mut server = None;
    if settings.http.address.is_some() {
        let metrics = metrics.clone();
        let observed = Observed { metrics: Some(metrics), traces: traces.clone() };
        server = Some(answer_http(&settings, observed, server_stop)?);
    }
    let sampling = traces.as_ref().map(|traces| traces.sampling());
    let done = work(&settings, (observers, metrics), sampling, &stop, &shutdown, &mut loops).await;
    // Also ends the loops that end with the drain, if the worker ended without a signal.
    stop.drain.cancel();
    shutdown.cancel();
    let ended = async { while loops.join_next().await.is_some() {} };
    if tokio::time::timeout(LAST, ended).await.is_err() {
        tracing::warn!("a loop of this worker does not end: given up");
    }
    if let Some(server) = server {
        _ = tokio::time::timeout(LAST, server).await;
    }
    if let Some(traces) = traces {
        traces.finish();
    }
    match stop.failed() {
        Some(why) => Err(Failure::Failed(why.to_owned())),
        None => done,
    }
}

async fn work(
    settings: &Settings,
    (observers, metrics): (Observers, Arc<WorkerMetrics>),
    sampling: Option<Sampling>,
    stop: &Stop,
    shutdown: &CancellationToken,
    loops: &mut JoinSet<()>,
) -> Result<(), Failure> {
    let engine = ops::worker_engine(settings, settings.concurrency)?;
    let room = PluginsSettings {
        dir: settings.plugins.clone(),
        state: settings.state.clone(),
        policy: settings.file.clone(),
        trust: settings.trust.clone(),
        writable: settings.writable,
        limits: settings.limits.clone(),
    };
    let opened = Plugins::open(room, engine.clone()).map_err(|error| Failure::Usage(error.to_string()))?.observed(observers.clone());
    let mut registry = opened.registry();
    let id: Arc<str> = worker::worker_id().into();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        broker = %settings.broker,
        plugins = %settings.plugins.display(),
        concurrency = settings.concurrency,
        guest_memory = units::show_size(settings.guest_memory),
        worker = %id,
        "taskhost worker starting"
    );
    loops.spawn(stop.clone().watch("plugins", shutdown.clone(), opened.run(shutdown.clone())));
    let Some(ops) = patiently(settings, stop).await? else { return Ok(()) };
    let broker = ops.broker().clone();
    if let BrokerAddress::Sqlite(path) = &settings.broker
        && let Some(warning) = plugins::exposed("the tasks in", path.as_ref()).filter(|_| settings.writable != Writable::Allow)
    {
        tracing::warn!("{warning}");
    }
    // Claims before the plugins are judged would park their tasks.
    tokio::select! {
        changed = registry.changed() => changed.map_err(|_| Failure::Failed("the plugins room ended before it began: see the log".to_owned()))?,
        () = stop.drain.cancelled() => return Ok(()),
    }
    for (name, plugin) in &registry.borrow_and_update().bodies {
        tracing::debug!(task = %name, plugin = plugin.id.plugin, version = plugin.id.version, "offered");
    }
    if registry.borrow().bodies.is_empty() {
        tracing::info!("no plugin offers anything yet: drop a .wasm into `{}`", settings.plugins.display());
    }
    tokio::select! {
        () = warn_of_schedules(&ops, settings, &registry) => {}
        () = stop.drain.cancelled() => return Ok(()),
    }
    let schedules = schedule::run(broker.clone(), settings.schedules.clone(), observers.clone(), stop.drain.clone());
    loops.spawn(stop.clone().watch("schedules", stop.drain.clone(), schedules));
    let told = WorkerSettings {
        queues: settings.queues.clone(),
        concurrency: settings.concurrency,
        cores: settings.threads,
        lease: settings.lease,
        drain: settings.drain,
        grace: settings.grace,
        retry: settings.retry.clone(),
        state: Some(settings.state.clone()),
        broker_identity: format!("{} {}", settings.broker, settings.bounds.prefix),
        schedules: settings.schedules.iter().map(FileSchedule::of).collect(),
        observers,
        metrics: Some(metrics),
        sampling,
        hooks: Hooks::new(settings.hooks.clone(), settings.bounds.payload_limit),
        ..WorkerSettings::new(id)
    };
    let ran = worker::run(told, broker, engine.clone(), registry, stop.clone()).await;
    shutdown.cancel();
    engine.stop();
    match ran {
        Ok(_) => Ok(()),
        Err(worker::WorkerError::Settings(text)) => Err(Failure::Usage(text)),
        Err(worker::WorkerError::Broker(error)) => Err(error.into()),
        Err(worker::WorkerError::Died(why)) => Err(Failure::Failed(why)),
    }
}

/// Warns about schedules of the file whose task nobody offers, or whose arguments the body does not take. They are used all the same, because
/// a plugin may come later.
async fn warn_of_schedules(ops: &Ops, settings: &Settings, registry: &watch::Receiver<Arc<Registry>>) {
    if settings.schedules.is_empty() {
        return;
    }
    let mut known = match ops.catalogue().await {
        Ok(catalogue) => catalogue,
        Err(error) => return tracing::debug!(%error, "the schedules of taskhost.toml are not checked"),
    };
    for file in &registry.borrow().files {
        let (Some(code), Some(description)) = (&file.serving, &file.description) else { continue };
        let offers = description.bodies.iter().map(|body| (body.name.clone(), Offer { body: body.clone(), code: code.clone() }));
        known.offers.extend(offers);
    }
    for schedule in &settings.schedules {
        if let Err(why) = known.check(&schedule.task, &Given::Json(schedule.args.clone())) {
            tracing::warn!(schedule = schedule.name, "this schedule of taskhost.toml enqueues what can't run now: {why}");
        }
    }
}

/// Answers HTTP on a thread of its own, with its own connection to the broker: requests do not delay a heartbeat. The receiver is told when
/// it has ended.
fn answer_http(settings: &Settings, observed: Observed, stop: ServerStop) -> Result<oneshot::Receiver<()>, Failure> {
    let server = Server::bind(settings, observed, &stop)?;
    tracing::info!(at = server.url(), "this worker answers HTTP");
    let failed = |error| Failure::Failed(format!("failed to start the thread of HTTP: {error}; raise the limit of threads or open files"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let (ended, told) = oneshot::channel();
    let run = move || {
        if let Err(error) = runtime.block_on(server.run(stop)) {
            tracing::warn!(%error, "HTTP is answered no more");
        }
        runtime.shutdown_background();
        _ = ended.send(());
    };
    std::thread::Builder::new().name("taskhost-http".into()).spawn(run).map_err(failed)?;
    Ok(told)
}

/// Connects, and tries again until it succeeds; `None` if the worker is stopped meanwhile.
async fn patiently(settings: &Settings, stop: &Stop) -> Result<Option<Ops>, Failure> {
    let connecting = Ops::connect_patiently(settings, |error, delay| {
        tracing::warn!(%error, retry_in = units::show_duration(delay), "the broker is not reachable, the worker keeps trying");
    });
    tokio::select! {
        connected = connecting => Ok(Some(connected?)),
        () = stop.drain.cancelled() => Ok(None),
    }
}
