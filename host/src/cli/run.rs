//! `run`: makes one attempt of a body right here, for plugin authors: the result on stdout, its log, progress and children on stderr.

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::Args;

use super::{
    failure::Failure,
    output,
    shared_args::{Arguments, pair},
    task::log_line,
};
use crate::{
    config::Settings,
    ops::{self, AttemptOrder, Heard, HttpGrant},
};
use taskhost_core::{
    task::{ErrorKind, NewTask, Outcome, TaskName},
    units,
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
    #[arg(long, value_name = "ORIGIN", value_parser = ops::http_grant)]
    http: Vec<HttpGrant>,
    /// Grant the plugin's store; it is empty and lasts for this attempt
    #[arg(long)]
    kv: bool,
    /// Grant enqueueing of a task, or with `NAME*` of all that begin with NAME (may be repeated); the tasks are only shown
    #[arg(long, value_name = "TASK")]
    enqueue: Vec<String>,
    /// The time limit [default: the policy's, else the body's hint, else 60s]
    #[arg(long, value_name = "TIME", value_parser = units::positive_duration)]
    timeout: Option<Duration>,
    /// The memory limit [default: the policy's, else 64MiB]
    #[arg(long, value_name = "SIZE", value_parser = units::size)]
    memory: Option<u64>,
    /// A header for the body (may be repeated)
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = pair)]
    headers: Vec<(String, String)>,
}

pub(super) async fn call(args: RunArgs, settings: &Settings) -> Result<(), Failure> {
    let order = AttemptOrder {
        given: args.arguments.given(settings.bounds.payload_limit)?,
        body: args.body.clone(),
        file: args.file,
        policy: args.policy,
        env: args.env,
        http: args.http,
        kv: args.kv,
        enqueue: args.enqueue,
        timeout: args.timeout,
        memory: args.memory,
        headers: args.headers.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect(),
    };
    let attempted = ops::attempt(settings, order, Arc::new(|heard| hear(&heard))).await?;
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

fn hear(heard: &Heard<'_>) {
    match heard {
        Heard::Warning(text) => output::note(&format!("taskhost: {text}")),
        Heard::Log(line) => output::note(&log_line(line)),
        Heard::Progress(progress) => {
            let of = progress.total.map_or_else(String::new, |total| format!(" of {total}"));
            output::note(&format!("progress {}{of} {}", progress.done, output::clean(&progress.note)));
        }
    }
}
