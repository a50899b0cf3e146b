//! The command line: parse → settings → one subcommand → print → exit code.
//!
//! One file a subcommand; clap is named nowhere else. A command prints its answer to stdout and everything else to stderr.
//!
//! Exit codes: 0 done, 1 the task failed (or something here did), 2 usage, 3 broker unreachable, 4 timed out waiting.

use std::{env, ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use crate::{
    config::{ConfigError, Key, Settings},
    ops, telemetry,
};

mod bench;
mod bulk;
mod consent;
mod descriptors;
mod enqueue;
mod enqueue_notes;
mod failure;
mod flow;
mod flow_text;
mod hook;
mod output;
mod plugin;
mod plugin_history;
mod plugin_new;
mod plugin_sign;
mod queue;
mod rejected;
mod result;
mod run;
mod schedule;
mod serve;
mod shared_args;
mod signals;
mod task;
mod token;
mod top;
mod traced;
mod wait;
mod worker;
mod workers;

pub use failure::Failure;

/// A task queue whose task bodies are WebAssembly components.
///
/// Start a worker, drop a plugin into its directory, and enqueue what it offers.
#[derive(Debug, Parser)]
#[command(
    name = "taskhost",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Example:\n  taskhost worker --plugins ./plugins\n  taskhost enqueue add 1 1 --wait"
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// The options of every command.
#[derive(Debug, Args)]
struct Global {
    /// The broker that stores the tasks: redis://HOST:PORT or sqlite:PATH [default: sqlite:taskhost.db]
    #[arg(long, global = true, value_name = "ADDRESS", help_heading = "Everywhere")]
    broker: Option<String>,
    /// Settings file [default: ./taskhost.toml if there is one]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Everywhere")]
    config: Option<PathBuf>,
    /// The level of the log, or a filter such as info,taskhost::worker=debug
    #[arg(long, global = true, value_name = "FILTER", help_heading = "Everywhere")]
    log: Option<String>,
    /// The format of the log: pretty or json
    #[arg(long, global = true, value_name = "FORMAT", help_heading = "Everywhere")]
    log_format: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Claim tasks, and run their bodies from the plugin directory
    Worker(worker::WorkerArgs),
    /// Answer HTTP: enqueue tasks and steer them, without running any
    Serve(serve::ServeArgs),
    /// Enqueue a task
    Enqueue(enqueue::EnqueueArgs),
    /// Print the result of a task
    Result(result::ResultArgs),
    /// List, show, cancel, retry and delete tasks
    #[command(subcommand)]
    Task(task::TaskCommand),
    /// Run flows of tasks that depend on tasks, and steer them
    #[command(subcommand)]
    Flow(flow::FlowCommand),
    /// Give a flow the signal that one of its steps waits for
    Signal(flow::SignalArgs),
    /// List, pause, resume and purge queues
    #[command(subcommand)]
    Queue(queue::QueueCommand),
    /// Add, list and steer schedules
    #[command(subcommand)]
    Schedule(schedule::ScheduleCommand),
    /// List, check, sign and create plugins
    #[command(subcommand)]
    Plugin(plugin::PluginCommand),
    /// List hooks, and enable those that their receivers disabled
    #[command(subcommand)]
    Hook(hook::HookCommand),
    /// Make tokens of the HTTP API
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// List the live workers
    Workers(workers::WorkersArgs),
    /// Watch queues, tasks and workers in the terminal, and steer them by keys
    Top(top::TopArgs),
    /// Measure taskhost on this machine with your own broker
    Bench(bench::BenchArgs),
    /// Run one attempt of a body in this process, without a broker or worker
    Run(run::RunArgs),
    /// The compiler process of a worker: reads a component from stdin, writes code to stdout
    #[command(name = ops::COMPILE_SUBCOMMAND, hide = true)]
    CompilePlugin {
        /// The most bytes of memory
        memory: u64,
        /// The most seconds of CPU time
        cpu: u64,
        /// Its nice value
        nice: i32,
    },
}

/// The whole process.
pub fn main() -> ExitCode {
    let cli = match parse(&std::env::args_os().collect::<Vec<_>>()) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    if let Command::CompilePlugin { memory, cpu, nice } = cli.command {
        return compile(memory, cpu, nice);
    }
    let code = match start(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let (code, text) = failure.told();
            if let Some(text) = text {
                output::note(&text);
            }
            code
        }
    };
    telemetry::finish();
    code
}

/// Parses the words. `--wait 30s` means `--wait=30s` if nothing else can be meant. If the word may be an argument too, `enqueue` asks the
/// body's parameters.
fn parse(words: &[OsString]) -> Result<Cli, clap::Error> {
    let cli = Cli::try_parse_from(words);
    let Some(joined) = enqueue::with_wait_joined(words) else { return cli };
    match (cli, Cli::try_parse_from(joined)) {
        (Ok(mut cli), Ok(joined)) => {
            if let (Command::Enqueue(args), Command::Enqueue(joined)) = (&mut cli.command, joined.command) {
                args.joined = Some(Box::new(joined));
            }
            Ok(cli)
        }
        (Err(_), Ok(joined)) => Ok(joined),
        (cli, Err(_)) => cli,
    }
}

/// Runs the compiler's process. It reads no settings, because others chose the bytes that it compiles.
fn compile(memory: u64, cpu: u64, nice: i32) -> ExitCode {
    match ops::compile_plugin(memory, cpu, nice, std::io::stdin().lock(), std::io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err((status, why)) => {
            output::note(&why);
            ExitCode::from(status)
        }
    }
}

fn start(cli: Cli) -> Result<(), Failure> {
    let mut flags = cli.global.flags();
    if let Command::Worker(args) = &cli.command {
        flags.extend(args.flags());
    }
    if let Command::Serve(args) = &cli.command {
        flags.extend(args.http.flags());
    }
    if let Command::Plugin(command) = &cli.command {
        flags.extend(command.flags());
    }
    let settings = Settings::load(cli.global.config.as_deref(), &flags)?;
    // A worker logs at its level. A command logs only failures.
    let level = match cli.command {
        Command::Worker(_) | Command::Serve(_) => Key::of("log").map_or("info", |key| key.default),
        // An attempt costs as much as in a worker, including the span of its log lines.
        Command::Bench(_) => "warn,taskhost::worker::attempt=info",
        _ => "warn",
    };
    let writer =
        if matches!(cli.command, Command::Worker(_) | Command::Serve(_)) { telemetry::Writer::Worker } else { telemetry::Writer::Command };
    telemetry::start(settings.log.as_deref().unwrap_or(level), settings.log_json, writer).map_err(Failure::Usage)?;
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    let control = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("failed to start the runtime: {error}; raise the limit of open files or threads")))?;
    let done = control.block_on(dispatch(cli.command, settings));
    // A thread that is blocked on stdin or DNS must not keep the process from ending.
    control.shutdown_background();
    done
}

async fn dispatch(command: Command, settings: Settings) -> Result<(), Failure> {
    match command {
        Command::Worker(args) => worker::call(args, settings).await,
        Command::Serve(_) => serve::call(&settings).await,
        Command::Enqueue(args) => enqueue::call(args, &settings).await,
        Command::Result(args) => result::call(args, &settings).await,
        Command::Task(command) => task::call(command, &settings).await,
        Command::Flow(command) => flow::call(command, &settings).await,
        Command::Signal(args) => flow::signal(args, &settings).await,
        Command::Queue(command) => queue::call(command, &settings).await,
        Command::Schedule(command) => schedule::call(command, &settings).await,
        Command::Plugin(command) => plugin::call(command, &settings).await,
        Command::Hook(command) => hook::call(command, &settings).await,
        Command::Token(command) => token::call(command),
        Command::Workers(args) => workers::call(&args, &settings).await,
        Command::Top(args) => top::call(&args, &settings).await,
        Command::Bench(args) => Box::pin(bench::call(args, settings)).await,
        Command::Run(args) => run::call(args, &settings).await,
        // Handled before settings are read.
        Command::CompilePlugin { .. } => Ok(()),
    }
}

impl Global {
    fn flags(&self) -> Vec<(&'static str, String)> {
        let given = [("broker", &self.broker), ("log", &self.log), ("log_format", &self.log_format)];
        given.into_iter().filter_map(|(key, value)| Some((key, value.clone()?))).collect()
    }
}

/// Help and version are answers; everything else is a usage error, exit 2.
fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // A closed stdout is no error if the output was help.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let text = error.render().to_string();
    let shown = without_addresses(&text, env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()));
    if shown == text && output::clean_lines(&text) == text {
        let _ = error.print();
    } else {
        output::note(shown.trim_end());
    }
    ExitCode::from(2)
}

/// Hides words in clap's error that may be addresses with passwords.
fn without_addresses(text: &str, words: impl Iterator<Item = String>) -> String {
    let addresses = words.filter_map(|word| {
        let at = word.find("://").filter(|at| word[*at..].contains('@') || word[*at..].contains("pass"))?;
        // In `--brokr=redis://…` the address begins behind the `=`.
        Some(word[word[..at].rfind('=').map_or(0, |equals| equals + 1)..].to_owned())
    });
    addresses.fold(text.to_owned(), |text, address| text.replace(&address, "an address that is not shown"))
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Usage(error.to_string())
    }
}
