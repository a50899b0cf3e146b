//! `run`: makes one attempt of a body on the real engine, without a broker or worker, for plugin authors.
//!
//! file → inspect under a policy → invoke with a kv that lives as long as the attempt → the result on stdout
//!
//! Shows the body's log, output and children on stderr. Nothing outlives the command.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use clap::Args;
use parking_lot::{Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

use super::{
    failure::Failure,
    output,
    shared_args::{Arguments, pair},
    task::log_line,
    worker,
};
use crate::{
    config::Settings,
    engine::{About, Call, Grants, Limits, LogLine, ServiceError, Services, Terms},
    plugins::{self, Plugin, PluginsError},
};
use taskhost_core::units;
use taskhost_core::{
    catalogue::{ArgumentsError, Bound, Catalogue, Offer},
    task::{Clock, ErrorKind, NewTask, Outcome, Progress, QueueName, SystemClock, TaskId, TaskName},
};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  taskhost run plugins/math.wasm add 1 1
  taskhost run org.wasm transferBU --http https://hr.example.com --env CENTER_URL=https://hr.example.com/api")]
pub(super) struct RunArgs {
    /// The plugin's file
    file: PathBuf,
    /// The body to run
    body: TaskName,
    #[command(flatten)]
    arguments: Arguments,
    /// Take the plugin's policy from this file's [plugins.NAME] table [default: taskhost.toml]
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Grant an environment variable (may be repeated)
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = pair)]
    env: Vec<(String, String)>,
    /// Grant outgoing HTTP to an origin (may be repeated)
    #[arg(long, value_name = "ORIGIN", value_parser = plugins::http_grant)]
    http: Vec<crate::engine::HttpGrant>,
    /// Grant the plugin's own store; here it lives as long as the attempt
    #[arg(long)]
    kv: bool,
    /// Grant enqueueing of a task, or of all that begin so with `NAME*` (may be repeated); here it is only shown
    #[arg(long, value_name = "TASK")]
    enqueue: Vec<String>,
    /// How long it may take [default: the policy's, else the body's hint, else 60s]
    #[arg(long, value_name = "TIME", value_parser = units::positive_duration)]
    timeout: Option<Duration>,
    /// What it may use [default: the policy's, else 64MiB]
    #[arg(long, value_name = "SIZE", value_parser = units::size)]
    memory: Option<u64>,
    /// Something for the body to read (may be repeated)
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = pair)]
    headers: Vec<(String, String)>,
}

pub(super) async fn call(args: RunArgs, settings: &Settings) -> Result<(), Failure> {
    let engine = worker::foreground_engine(settings)?;
    let policy = args.policy.as_deref().or(settings.file.as_deref());
    let inspection = plugins::inspect(&args.file, &engine, policy, None, &settings.limits).await.map_err(|error| match error {
        PluginsError::Machine(text) => Failure::Failed(text),
        error => Failure::Usage(error.to_string()),
    })?;
    for warning in &inspection.warnings {
        output::note(&format!("taskhost: {warning}"));
    }
    let plugin = inspection.plugin;
    let checked = args.checked(&plugin, settings.bounds.payload_limit)?;
    let hint = plugin.description.bodies.iter().find(|body| body.name == args.body).and_then(|body| body.hints.timeout_ms);
    let limits = Limits { memory: args.memory.unwrap_or(plugin.limits.memory), ..(*plugin.limits).clone() };
    let bound = Bound { policy: limits.timeout_ceiling, setting: limits.timeout };
    let timeout = args.timeout.unwrap_or_else(|| bound.settle(hint.map(Duration::from_millis)));
    let attempted = engine
        .invoke(Call {
            terms: Terms { limits: limits.into(), grants: args.grants(&plugin.grants).into(), ..plugin.terms() }.into(),
            body: args.body.to_string(),
            args: checked,
            about: About {
                task_id: TaskId::fresh(),
                queue: QueueName::default(),
                attempt: 1,
                max_attempts: 1,
                enqueued_at: SystemClock.now(),
                headers: args.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect(),
            },
            timeout,
            cancelled: CancellationToken::new(),
            grace: settings.grace,
            services: Arc::new(Local::default()),
        })
        .await;
    engine.stop();
    tracing::info!(ran = ?attempted.ran, cpu = ?attempted.cpu, memory = units::show_size(attempted.memory), "attempt ended");
    match attempted.outcome {
        Outcome::Done { result, children } => {
            for child in &children {
                output::note(&enqueued(child));
            }
            output::json_text(&result)
        }
        Outcome::Failed { error, after } => {
            let mut lines = vec![format!("{} failed: {}", args.body, output::clean(&error.to_string()))];
            if let Some(code) = &error.code {
                lines.push(format!("  code: {}", output::clean(code)));
            }
            // Other details are the end of stderr, which was shown already.
            let own = matches!(error.kind, ErrorKind::Retry | ErrorKind::Permanent | ErrorKind::InvalidArguments);
            for line in output::clean_lines(error.detail.as_deref().filter(|_| own).unwrap_or_default().trim()).lines() {
                lines.push(format!("  | {line}"));
            }
            if error.kind.is_retryable() {
                let after = after.map_or_else(String::new, |after| format!(" after {}", units::show_duration(after)));
                lines.push(format!("  a worker would try again{after}"));
            }
            Err(Failure::Task(lines.join("\n")))
        }
        Outcome::HostFault { reason, .. } => Err(Failure::Failed(reason)),
    }
}

/// A child that a worker would enqueue with the success.
fn enqueued(child: &NewTask) -> String {
    format!("taskhost: would enqueue {} {} in queue `{}`", child.name, output::short(&child.args, 200), child.queue)
}

impl RunArgs {
    fn checked(&self, plugin: &Plugin, payload_limit: usize) -> Result<String, Failure> {
        let given = self.arguments.given(payload_limit)?;
        let offers = plugin.description.bodies.iter();
        let offers = offers.map(|body| (body.name.clone(), Offer { body: body.clone(), code: plugin.id.clone() })).collect();
        Catalogue { offers }.check(&self.body, &given).map_err(|error| {
            Failure::Usage(match error {
                ArgumentsError::UnknownTask { .. } => format!("{} offers no such body: {error}", plugin.file),
                error => error.to_string(),
            })
        })
    }

    /// The grants of the policy and of the flags.
    fn grants(&self, policy: &Grants) -> Grants {
        let mut grants = policy.clone();
        grants.env.extend(self.env.iter().cloned());
        grants.http.extend(self.http.iter().cloned());
        if self.kv {
            grants.kv.get_or_insert_default();
        }
        if !self.enqueue.is_empty() {
            grants.enqueue.get_or_insert_default().tasks.extend(self.enqueue.iter().cloned());
        }
        grants
    }
}

/// Services without a broker: kv in memory, logs and progress to stderr.
#[derive(Debug, Default)]
struct Local {
    kv: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl Local {
    fn kv(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.kv.lock()
    }
}

#[async_trait]
impl Services for Local {
    async fn kv_get(&self, key: &str) -> Result<Option<Vec<u8>>, ServiceError> {
        Ok(self.kv().get(key).cloned())
    }

    async fn kv_set(&self, key: &str, value: Vec<u8>) -> Result<(), ServiceError> {
        self.kv().insert(key.to_owned(), value);
        Ok(())
    }

    async fn kv_remove(&self, key: &str) -> Result<bool, ServiceError> {
        Ok(self.kv().remove(key).is_some())
    }

    async fn kv_increment(&self, key: &str, by: i64) -> Result<i64, ServiceError> {
        let mut kv = self.kv();
        let old = match kv.get(key) {
            None => 0,
            Some(bytes) => std::str::from_utf8(bytes)
                .ok()
                .and_then(|text| text.parse::<i64>().ok())
                .ok_or_else(|| ServiceError::Invalid(format!("the value of `{key}` is no decimal integer")))?,
        };
        let sum = old.checked_add(by).ok_or_else(|| ServiceError::Invalid(format!("the sum at `{key}` does not fit 64 bits")))?;
        kv.insert(key.to_owned(), sum.to_string().into_bytes());
        Ok(sum)
    }

    async fn kv_keys(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, ServiceError> {
        let kv = self.kv();
        let from = after.map_or(prefix, |after| after.max(prefix));
        let keys = kv.range(from.to_owned()..).map(|(key, _)| key);
        Ok(keys.take_while(|key| key.starts_with(prefix)).filter(|key| Some(key.as_str()) != after).take(limit).cloned().collect())
    }

    fn progress(&self, progress: Progress) {
        let of = progress.total.map_or_else(String::new, |total| format!(" of {total}"));
        output::note(&format!("progress {}{of} {}", progress.done, output::clean(&progress.note)));
    }

    fn log(&self, line: &LogLine) {
        output::note(&log_line(line));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_local_kv_pages_in_byte_order() {
        let kv = Local::default();
        for key in ["b1", "a", "b2", "b3", "c"] {
            kv.kv_set(key, b"x".to_vec()).await.unwrap();
        }
        assert_eq!(kv.kv_keys("b", None, 2).await.unwrap(), ["b1", "b2"]);
        assert_eq!(kv.kv_keys("b", Some("b2"), 2).await.unwrap(), ["b3"]);
        assert_eq!(kv.kv_keys("b", Some("a"), 9).await.unwrap().len(), 3);
        assert!(kv.kv_keys("z", None, 9).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn the_local_kv_counts() {
        let kv = Local::default();
        assert_eq!(kv.kv_increment("n", 3).await, Ok(3));
        assert_eq!(kv.kv_increment("n", -5).await, Ok(-2));
        kv.kv_set("n", b"x".to_vec()).await.unwrap();
        assert!(matches!(kv.kv_increment("n", 1).await, Err(ServiceError::Invalid(_))));
    }
}
