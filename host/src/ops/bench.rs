//! This host as the subject of `taskhost_bench`.

use std::{collections::HashMap, env, fmt, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use taskhost_bench::{BenchError, Ended, MOST_SLOTS, Subject, WorkerOrder};
use taskhost_core::{
    retry::RetrySettings,
    task::{CodeId, LogLine, Outcome, Progress, TaskName},
};
use tokio::{process::Command, sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{engine::worker_engine, error::OpsError};
use crate::{
    config::{ENVIRONMENT_CONFIG, ENVIRONMENT_PREFIX, Settings},
    engine::{About, Attempted, Call, Engine, ServiceError, Services},
    plugins::{self, Plugin, PluginsError, Registry},
    telemetry,
    worker::{Invoke, Offers, Stop, Work, WorkerError, WorkerSettings, run_with, worker_id},
};

/// This program with the measured plugin.
pub struct BenchHost {
    engine: Arc<Engine>,
    plugin: Arc<Plugin>,
    body: TaskName,
    threads: usize,
    lease: Duration,
    retry: RetrySettings,
}

impl BenchHost {
    /// `file` is the plugin that offers `add`.
    pub async fn load(file: &Path, settings: &Settings) -> Result<Self, OpsError> {
        let engine = worker_engine(settings, settings.concurrency.max(MOST_SLOTS))?;
        let inspected = plugins::inspect(file, &engine, None, None, &settings.limits).await?;
        let body = TaskName::new("add").map_err(|error| OpsError::Machine(error.to_string()))?;
        if !inspected.plugin.description.bodies.iter().any(|offered| offered.name == body) {
            return Err(PluginsError::File(format!("`{}` offers no `add`", file.display())).into());
        }
        let (threads, lease, retry) = (settings.threads, settings.lease, settings.retry.clone());
        Ok(Self { engine, plugin: Arc::new(inspected.plugin), body, threads, lease, retry })
    }

    pub fn stop(&self) {
        self.engine.stop();
    }
}

impl fmt::Debug for BenchHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BenchHost").field("plugin", &self.plugin.id).finish_non_exhaustive()
    }
}

#[async_trait]
impl Subject for BenchHost {
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
                        about: About::without_broker(Vec::new()),
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

    fn server(&self, variables: Vec<(&'static str, String)>) -> Result<Command, BenchError> {
        let mut server = this_program(variables)?;
        server.args(["serve", "--http", "127.0.0.1:0", "--log", "info"]).env(ENVIRONMENT_CONFIG, "/dev/null");
        Ok(server)
    }

    fn process(&self, queue: &str, plugins: &Path, state: &Path, variables: Vec<(&'static str, String)>) -> Result<Command, BenchError> {
        let settings = state.with_extension("toml");
        std::fs::write(&settings, "").map_err(|error| broken("can't write a settings file for the benchmark", &error))?;
        let mut worker = this_program(variables)?;
        worker.arg("worker").args(["--queue", queue, "--log", "warn"]).arg("--plugins").arg(plugins).arg("--state").arg(state);
        worker.env(ENVIRONMENT_CONFIG, settings);
        Ok(worker)
    }
}

/// This program again, with these variables and none of the user's settings in its environment.
fn this_program(variables: Vec<(&'static str, String)>) -> Result<Command, BenchError> {
    let program = env::current_exe().map_err(|error| broken("can't find this program to start it again", &error))?;
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with(ENVIRONMENT_PREFIX) || name.starts_with("OTEL_") {
            command.env_remove(&*name);
        }
    }
    command.envs(variables);
    Ok(command)
}

fn broken(what: &str, error: &std::io::Error) -> BenchError {
    BenchError::Failed(format!("{what}: {error}"))
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

/// Services without a broker, because `add` needs none.
struct Nothing;

fn nobody<T>() -> Result<T, ServiceError> {
    Err(ServiceError::Unavailable("the benchmark calls this body without a broker".to_owned()))
}

#[async_trait]
impl Services for Nothing {
    fn log_so_far(&self, _lines: String) {}

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
