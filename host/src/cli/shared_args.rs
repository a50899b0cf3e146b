//! Options that several commands share: a task's arguments, its queue, and its task options.

use std::{
    io::{self, Read},
    time::Duration,
};

use clap::Args;

use super::failure::Failure;
use taskhost_core::units;
use taskhost_core::{
    catalogue::Given,
    task::{Carried, OptionFilter, Priority, QueueName, Tag, TaskOptions},
};

/// The arguments of a task, given in one of three ways.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Its arguments: JSON if the parameter takes JSON, else plain text
    #[arg(allow_negative_numbers = true)]
    args: Vec<String>,
    /// An argument by name (may be repeated)
    #[arg(long = "arg", value_name = "NAME=VALUE", value_parser = pair)]
    named: Vec<(String, String)>,
    /// All arguments as one JSON array, or as an object by name; - reads stdin
    #[arg(long, value_name = "JSON", conflicts_with_all = ["args", "named"])]
    args_json: Option<String>,
}

impl Arguments {
    pub(super) fn given(&self, payload_limit: usize) -> Result<Given, Failure> {
        Ok(match self.args_json.as_deref() {
            Some("-") => Given::Json(from_stdin(payload_limit)?),
            Some(text) => Given::Json(text.to_owned()),
            None => Given::Words { words: self.args.clone(), named: self.named.clone() },
        })
    }
}

fn from_stdin(payload_limit: usize) -> Result<String, Failure> {
    let mut text = String::new();
    let most = u64::try_from(payload_limit).unwrap_or(u64::MAX).saturating_add(1);
    io::stdin()
        .lock()
        .take(most)
        .read_to_string(&mut text)
        .map_err(|error| Failure::Usage(format!("failed to read the arguments from stdin: {error}; give JSON in UTF-8")))?;
    if text.len() > payload_limit {
        let limit = units::show_size(u64::try_from(payload_limit).unwrap_or(u64::MAX));
        return Err(Failure::Usage(format!(
            "the arguments are larger than the payload limit of {limit}; put the data elsewhere and pass its address, or raise `payload_limit`"
        )));
    }
    // Some editors put a byte order mark before UTF-8.
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// The queue and options of a task, which take precedence over its body's hints.
#[derive(Debug, Args)]
pub(super) struct Wishes {
    /// The queue [default: the body's hint, else default]
    #[arg(long)]
    pub(super) queue: Option<QueueName>,
    /// 0 to 9; workers claim 9 first [default: 5]
    #[arg(long)]
    priority: Option<Priority>,
    /// Attempts after the first [default: the body's hint, else the worker's]
    #[arg(long, value_name = "NUMBER")]
    retries: Option<u32>,
    /// The time limit of an attempt, such as 2m
    #[arg(long, value_name = "TIME", value_parser = units::positive_duration)]
    timeout: Option<Duration>,
    #[command(flatten)]
    carried: CarriedWords,
}

impl Wishes {
    pub(super) fn options(&self) -> Result<TaskOptions, Failure> {
        Ok(TaskOptions {
            priority: self.priority.unwrap_or_default(),
            timeout: self.timeout,
            max_attempts: self.retries.map(|retries| retries.saturating_add(1)),
            carried: self.carried.options()?,
            ..TaskOptions::default()
        })
    }
}

/// The options that brokers carry without looking at them.
#[derive(Debug, Args)]
struct CarriedWords {
    /// A tag to find it by: 1 to 32 characters of A-Z a-z 0-9 . _ : - (may be repeated, 8 at most)
    #[arg(long = "tag", value_name = "WORD")]
    tags: Vec<Tag>,
}

impl CarriedWords {
    fn options(&self) -> Result<Carried, Failure> {
        let mut carried = Carried::default();
        carried.tags.extend(self.tags.iter().cloned()).map_err(Failure::Usage)?;
        Ok(carried)
    }
}

/// Which tasks a listing shows, by their options.
#[derive(Debug, Args)]
pub(super) struct OptionFilterWords {
    /// Only tasks with this tag (if repeated: with all of them)
    #[arg(long = "tag", value_name = "WORD")]
    tags: Vec<Tag>,
}

impl OptionFilterWords {
    pub(super) fn filter(&self) -> OptionFilter {
        OptionFilter { tags: self.tags.clone() }
    }
}

pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("write it as NAME=VALUE: `{text}`")),
    }
}
