//! `plugin`: shows the plugins of live workers and of files, prints the contract, and begins projects.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{
    failure::Failure,
    output::{self, Rows, cell},
    plugin_history, plugin_new, plugin_sign,
};
use crate::{
    config::Settings,
    ops::{self, Inspection, Ops, Plugin, SeenPlugin, Wants},
};
use taskhost_core::{
    catalogue::{self, Description, PluginInfo, PluginStatus},
    task::CodeId,
    units,
};

/// The contract of this host.
const WIT: &str = include_str!("../../../wit/plugin.wit");

#[derive(Debug, Subcommand)]
#[command(after_help = "Example:\n  taskhost plugin new greetings && cd greetings && cargo plugin")]
pub(super) enum PluginCommand {
    /// List the plugins that live workers see, with their errors
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the bodies and the policy of a plugin file, or of a plugin that a live worker serves
    #[command(after_help = "Examples:\n  taskhost plugin inspect plugins/math.wasm\n  taskhost plugin inspect math")]
    Inspect(FileArgs),
    /// Load a plugin file like a worker, and say whether it would serve
    #[command(after_help = "Example:\n  taskhost plugin check plugins/math.wasm")]
    Check(FileArgs),
    /// List the versions of a plugin that the workers of this machine know
    History(plugin_history::HistoryArgs),
    /// Go back to the previous version, until the file in the plugin directory changes
    Rollback(plugin_history::RollbackArgs),
    /// Create a project for a plugin in Rust
    New(plugin_new::NewArgs),
    /// Create a key pair for signing plugins
    Keygen(plugin_sign::KeygenArgs),
    /// Sign plugins
    Sign(plugin_sign::SignArgs),
    /// Check the signatures of plugins
    Verify(plugin_sign::VerifyArgs),
    /// Print the contract (WIT) between host and plugins
    Wit,
}

#[derive(Debug, Args)]
pub(super) struct FileArgs {
    /// A .wasm file, or the name of a plugin that a live worker serves
    plugin: String,
    /// Take its policy from this file [default: taskhost.toml]
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

impl PluginCommand {
    /// The options as settings.
    pub(super) fn flags(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::History(args) => args.flags(),
            Self::Rollback(args) => args.flags(),
            _ => Vec::new(),
        }
    }
}

pub(super) async fn call(command: PluginCommand, settings: &Settings) -> Result<(), Failure> {
    match command {
        PluginCommand::List { json } => list(&Ops::connect(settings).await?, json).await,
        PluginCommand::Inspect(args) if args.is_file() => inspect_file(&args, settings, false).await,
        PluginCommand::Inspect(args) => inspect_live(&Ops::connect(settings).await?, &args).await,
        PluginCommand::Check(args) => inspect_file(&args, settings, true).await,
        PluginCommand::History(args) => plugin_history::list(&args, settings),
        PluginCommand::Rollback(args) => plugin_history::roll_back(&args, settings).await,
        PluginCommand::New(args) => plugin_new::call(&args),
        PluginCommand::Keygen(args) => plugin_sign::keygen(&args),
        PluginCommand::Sign(args) => plugin_sign::sign(&args),
        PluginCommand::Verify(args) => plugin_sign::verify(&args),
        PluginCommand::Wit => output::line(WIT.trim_end()),
    }
}

async fn list(ops: &Ops, json: bool) -> Result<(), Failure> {
    let seen = ops.plugins().await?;
    if json {
        return output::json(&seen);
    }
    let mut rows = Rows::new(&["FILE", "STATUS", "SERVES", "DIGEST", "WORKERS", "BODIES"]);
    for SeenPlugin { info, workers } in &seen {
        let bodies = info.description.as_ref().map_or(&[][..], |description| &description.bodies);
        let names: Vec<&str> = bodies.iter().map(|body| body.name.as_str()).collect();
        rows.add(vec![
            cell(&info.file),
            status(info.status),
            cell(info.serving.as_ref().map_or("-", |code| code.version.as_str())),
            cell(info.serving.as_ref().map_or("-", short_digest)),
            cell(workers.len()),
            cell(if names.is_empty() { "-".to_owned() } else { names.join(" ") }),
        ]);
    }
    let nothing = if seen.is_empty() && ops.workers().await?.is_empty() {
        "taskhost: no live worker, so nothing is served; start one with `taskhost worker --plugins ./plugins`"
    } else {
        "taskhost: the live workers see no plugin; drop a .wasm into their plugin directory"
    };
    rows.print(nothing)?;
    for SeenPlugin { info, .. } in &seen {
        if let Some(error) = &info.error {
            output::line(&format!("\n{}: {error}", output::clean(&info.file)))?;
        }
        for warning in &info.warnings {
            output::line(&format!("\n{}: warning: {warning}", output::clean(&info.file)))?;
        }
    }
    Ok(())
}

fn status(status: PluginStatus) -> comfy_table::Cell {
    match status {
        PluginStatus::Serving => cell("serving").fg(comfy_table::Color::Green),
        PluginStatus::Loading => cell("loading").fg(comfy_table::Color::Yellow),
        PluginStatus::Failed => cell("failed").fg(comfy_table::Color::Red),
        PluginStatus::RolledBack => cell("rolled back").fg(comfy_table::Color::Red),
    }
}

fn short_digest(code: &CodeId) -> &str {
    code.digest.get(..12).unwrap_or(&code.digest)
}

async fn inspect_live(ops: &Ops, args: &FileArgs) -> Result<(), Failure> {
    let info = ops.plugin(&args.plugin).await?;
    if args.json {
        return output::json(&info);
    }
    if let Some(error) = &info.error {
        output::note(&format!("taskhost: {}: {}", info.file, output::clean_lines(error)));
    }
    match (&info.description, &info.serving) {
        (Some(description), Some(code)) => output::line(&describe(&args.plugin, description, code)),
        _ => Err(Failure::Failed(format!("{} does not serve", info.file))),
    }
}

async fn inspect_file(args: &FileArgs, settings: &Settings, verdict_only: bool) -> Result<(), Failure> {
    let policy = args.policy.as_deref().or(settings.file.as_deref());
    // The exit code is the verdict on the file.
    let inspection = ops::inspect(settings, args.plugin.as_ref(), policy).await.map_err(|error| Failure::Failed(error.to_string()))?;
    let plugin = &inspection.plugin;
    for warning in &inspection.warnings {
        output::note(&format!("taskhost: {}: warning: {warning}", plugin.file));
    }
    if args.json {
        let info = PluginInfo {
            file: plugin.file.clone(),
            status: PluginStatus::Serving,
            serving: Some(plugin.id.clone()),
            error: None,
            warnings: inspection.warnings.clone(),
            description: Some(plugin.description.clone()),
            granted: Vec::new(),
            lacking: Vec::new(),
        };
        let wants = plugin.wants(&inspection.imports);
        let signature = signature(&inspection);
        return output::json(&Inspected { info, size: inspection.size, signature, imports: &inspection.imports, wants });
    }
    if !verdict_only {
        output::line(&describe(&plugin.id.plugin, &plugin.description, &plugin.id))?;
        return output::line(&asked(&inspection, policy));
    }
    if let Err(why) = &inspection.signature {
        return Err(Failure::Failed(format!("{}: would not serve: {why}", plugin.file)));
    }
    let policy = match (inspection.has_policy, policy) {
        (true, Some(file)) => format!("its policy stands in {}", file.display()),
        _ => "no policy, so it may do nothing outside of itself".to_owned(),
    };
    let bodies = plugin.description.bodies.len();
    let noun = if bodies == 1 { "body" } else { "bodies" };
    output::line(&format!(
        "{}: would serve: {bodies} {noun}, version {}, {}, {policy}",
        plugin.file,
        plugin.id.version,
        units::show_size(inspection.size)
    ))
}

/// A file and its policy.
#[derive(Debug, Serialize)]
struct Inspected<'a> {
    #[serde(flatten)]
    info: PluginInfo,
    size: u64,
    signature: String,
    imports: &'a [String],
    #[serde(flatten)]
    wants: Wants,
}

/// The wishes of the file, its grants, and the lines for the rest.
fn asked(inspection: &Inspection, policy: Option<&Path>) -> String {
    let plugin = &inspection.plugin;
    let wants = plugin.wants(&inspection.imports);
    let imports: Vec<String> = inspection.imports.iter().map(|import| output::clean(import)).collect();
    let file = policy.map_or_else(|| "taskhost.toml".to_owned(), |file| file.display().to_string());
    let phrases = |phrases: &[String], none: &str| {
        if phrases.is_empty() { none.to_owned() } else { output::clean(&phrases.join("; ")) }
    };
    let mut lines = vec![
        String::new(),
        format!("digest   {}", plugin.id.digest),
        format!("size     {}", units::show_size(inspection.size)),
        format!("signed   {}", output::clean(&signature(inspection))),
        format!("imports  {}", phrases(&imports, "nothing").replace("; ", "\n         ")),
        format!("granted  {}", phrases(&wants.granted, "nothing")),
        format!("lacks    {}", phrases(&wants.lacking, "nothing")),
        format!("limits   {}", limits(plugin)),
    ];
    if !wants.lines.is_empty() {
        let how = if inspection.has_policy { "have these lines in its table" } else { "paste this" };
        lines.push(format!("\nTo grant what it lacks, {how} in {file}; the values are the author's examples:\n"));
        lines.push(format!("[plugins.{}]", plugin.id.plugin));
        lines.extend(wants.lines.iter().map(|line| output::clean(line)));
    }
    lines.join("\n")
}

fn signature(inspection: &Inspection) -> String {
    inspection.signature.clone().unwrap_or_else(|why| format!("refused: {why}"))
}

fn limits(plugin: &Plugin) -> String {
    let limits = &plugin.limits;
    let mut phrases =
        vec![format!("memory {}", units::show_size(limits.memory)), format!("timeout {}", units::show_duration(limits.timeout))];
    phrases.extend(limits.cpu.map(|cpu| format!("cpu {}", units::show_duration(cpu))));
    phrases.extend(plugin.concurrency.map(|concurrency| format!("concurrency {concurrency}")));
    phrases.join(", ")
}

impl FileArgs {
    /// Whether it is a name: no dot and no slash.
    fn is_file(&self) -> bool {
        self.plugin.contains(['/', '.'])
    }
}

/// A plugin and its bodies, for people.
fn describe(name: &str, description: &Description, code: &CodeId) -> String {
    let mut lines = vec![format!("{name} {} ({})", output::clean(&description.version), short_digest(code))];
    lines.extend(summary(&description.doc).map(|doc| format!("  {doc}")));
    for body in &description.bodies {
        lines.push(String::new());
        lines.push(catalogue::signature(body));
        lines.extend(summary(&body.doc).map(|doc| format!("  {doc}")));
        let hints = &body.hints;
        let told = [
            hints.timeout_ms.map(|ms| format!("timeout {}", units::show_duration(std::time::Duration::from_millis(ms)))),
            hints.retries.map(|retries| format!("retries {retries}")),
            hints.queue.as_ref().map(|queue| format!("queue {queue}")),
            hints.cron.as_ref().map(|rule| format!("cron {}", output::clean(rule))),
        ];
        let told: Vec<String> = told.into_iter().flatten().collect();
        if !told.is_empty() {
            lines.push(format!("  hints: {}", told.join(", ")));
        }
    }
    lines.join("\n")
}

fn summary(doc: &str) -> Option<String> {
    doc.lines().next().map(output::clean).filter(|line| !line.trim().is_empty())
}
