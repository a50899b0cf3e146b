//! `enqueue --bulk`: the ids of the tasks to stdout in the order of the lines, refusals to stderr and into the file of `--rejected`.
//!
//! Invariant: a reader of the ids that leaves stops no line.

use std::{fs::File, io, path::Path};

use super::{
    enqueue_notes::{duplicate, note_unchecked},
    failure::{Failure, refusal},
    output::{self, Sink},
    rejected::Rejected,
};
use crate::ops::{BulkReport, Defaults, Enqueued, Ops, RequestError, Source};
use taskhost_core::task::NewTask;

/// The most refusals that are printed. Further ones are only counted.
const SHOWN_REFUSALS: usize = 20;

pub(super) async fn call(ops: &Ops, file: &str, rejected: Option<&Path>, defaults: &Defaults, is_unchecked: bool) -> Result<(), Failure> {
    let rejected = rejected.map(Rejected::new).transpose()?;
    let source: Box<dyn io::Read> =
        if file == "-" {
            Box::new(io::stdin())
        } else {
            Box::new(File::open(file).map_err(|error| {
                Failure::Usage(format!("failed to open `{file}`: {error}; name a file of JSON lines, or `-` for stdin"))
            })?)
        };
    let checks = ops.checks(None, is_unchecked).await?;
    note_unchecked(&checks, "the tasks are enqueued");
    let mut told = Told { refused: 0, rejected, sink: Sink::default() };
    let enqueued = ops.enqueue_lines(source, file, defaults, &checks, &mut told).await;
    let Told { refused, rejected, sink } = told;
    sink.end(enqueued.map_err(Failure::from).and_then(|enqueued| all_taken(enqueued, refused, rejected)))
}

/// The output so far.
struct Told {
    refused: usize,
    rejected: Option<Rejected>,
    sink: Sink,
}

impl BulkReport for Told {
    fn enqueued(&mut self, tasks: &[NewTask], answers: &[Enqueued]) {
        let mut ids = String::new();
        for (task, answer) in tasks.iter().zip(answers) {
            if !ids.is_empty() {
                ids.push('\n');
            }
            match answer {
                Enqueued::Added => ids.push_str(task.id.as_str()),
                Enqueued::Duplicate { holder } => {
                    output::note(&duplicate(&task.id, holder));
                    ids.push_str(holder.as_str());
                }
            }
        }
        self.sink.line(&ids);
    }

    fn refused(&mut self, line: &Source, why: &RequestError) {
        let why = match why {
            RequestError::Arguments(error) => refusal(error),
            RequestError::Request(why) => why.clone(),
        };
        self.refused += 1;
        if self.refused <= SHOWN_REFUSALS {
            output::note(&format!("taskhost: line {}: {why}", line.number));
        }
        if let Some(rejected) = &mut self.rejected {
            rejected.keep(line, &why);
        }
    }

    fn wants_text(&self) -> bool {
        self.rejected.is_some()
    }
}

/// Fails if a line was refused, and says what to do with those lines.
fn all_taken(enqueued: u64, refused: usize, rejected: Option<Rejected>) -> Result<(), Failure> {
    if refused == 0 {
        return Ok(());
    }
    let next = match rejected {
        Some(rejected) => rejected.end(),
        None if refused > SHOWN_REFUSALS => {
            format!(
                "the first {SHOWN_REFUSALS} are named above, `--rejected FILE` writes all of them; mend those lines and enqueue them alone"
            )
        }
        None => "mend those lines and enqueue them alone".to_owned(),
    };
    Err(Failure::Usage(format!("{refused} lines were refused, {enqueued} tasks enqueued; {next}")))
}
