//! `token`: makes tokens of the HTTP API.

use clap::{Args, Subcommand};

use super::{
    failure::Failure,
    output::{self, Sink},
};
use crate::{
    config::{Scope, is_token_name},
    ops::NewToken,
};

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Make a token, and print the lines for taskhost.toml
    New(NewArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  taskhost token new ci --scope enqueue --scope read --queue 'mail*'

The scopes:
  enqueue   enqueue tasks
  read      look at tasks, queues, schedules, workers and plugins, without arguments, results and logs
  payload   see arguments, results, error messages and logs too
  operate   cancel, retry and delete tasks; pause, resume and purge queues
  schedule  write and steer schedules
  metrics   read the metrics
  admin     all of these, and roll plugins back")]
pub(super) struct NewArgs {
    /// Its name, for the log
    name: String,
    /// What it may do (may be repeated)
    #[arg(long = "scope", value_name = "SCOPE", required = true, value_delimiter = ',')]
    scopes: Vec<Scope>,
    /// Only these queues; `*` stands for any text (may be repeated)
    #[arg(long = "queue", value_name = "PATTERN")]
    queues: Vec<String>,
    /// Only these tasks; `*` stands for any text (may be repeated)
    #[arg(long = "task", value_name = "PATTERN")]
    tasks: Vec<String>,
}

pub(super) fn call(command: TokenCommand) -> Result<(), Failure> {
    let TokenCommand::New(args) = command;
    if !is_token_name(&args.name) {
        return Err(Failure::Usage(format!("a token's name has 1 to 64 characters of A-Z a-z 0-9 . _ -: `{}`", args.name)));
    }
    let new = NewToken::generate();
    output::note("the token, which is shown only now:");
    let mut sink = Sink::default();
    sink.line(&new.token);
    sink.end(Ok(()))?;
    output::note(&format!("\nthe lines for the taskhost.toml of the server, which must start anew:\n\n{}", lines(&args, &new.sha256)));
    Ok(())
}

/// A table of `taskhost.toml`.
fn lines(args: &NewArgs, sha256: &str) -> String {
    let list = |words: &[String]| words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ");
    let scopes: Vec<String> = args.scopes.iter().map(ToString::to_string).collect();
    let mut lines = vec![format!("[tokens.{:?}]", args.name), format!("sha256 = \"{sha256}\""), format!("scopes = [{}]", list(&scopes))];
    let patterns = [("queues", &args.queues), ("tasks", &args.tasks)].into_iter().filter(|(_, patterns)| !patterns.is_empty());
    lines.extend(patterns.map(|(key, patterns)| format!("{key} = [{}]", list(patterns))));
    lines.join("\n") + "\n"
}
