//! `enqueue --bulk`: newline-delimited JSON, streamed to the broker in batches; ids to stdout in the order of the lines.
//!
//! read → check → send when a batch is full or the reader would block → print ids. The next lines are read while the broker takes the last
//! batches.
//!
//! Invariant: a refused line is named and delays no other line. A reader of the ids that leaves delays none either. Memory holds a few
//! batches, however long the file is.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
    task::Poll,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesOrdered};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::{
    ask,
    failure::Failure,
    new_task::{Defaults, duplicate, refusal, same},
    output::{self, Sink},
    rejected::{Rejected, Source},
};
use taskhost_broker::{Broker, BrokerError, Enqueued};
use taskhost_core::units;
use taskhost_core::{
    catalogue::{Catalogue, Checker, Given},
    task::{Millis, NewTask, Priority, QueueName, Start, Tags, TaskId, TaskName, Unique},
};

const BATCH_TASKS: usize = 1_000;
const BATCH_BYTES: usize = 4 << 20;
/// The most batches that the broker has not answered yet.
const UNDER_WAY: usize = 2;
/// How often to yield so that the runtime sends a batch.
const TURNS: usize = 3;
/// The longest line, beyond any sensible payload limit. It protects against a file without line ends.
const LINE_BYTES: u64 = 256 << 20;
/// The most refusals that are printed. Further ones are only counted.
const SHOWN_REFUSALS: usize = 20;

/// The mark that some editors put before UTF-8.
const MARK: &[u8] = "\u{feff}".as_bytes();

pub(super) async fn call(
    broker: &dyn Broker,
    file: &str,
    rejected: Option<&Path>,
    defaults: &Defaults,
    unchecked: bool,
) -> Result<(), Failure> {
    let rejected = rejected.map(Rejected::new).transpose()?;
    let catalogue = if unchecked { Catalogue::default() } else { broker.catalogue().await? };
    let source: Box<dyn Read> =
        if file == "-" {
            Box::new(io::stdin())
        } else {
            Box::new(File::open(file).map_err(|error| {
                Failure::Usage(format!("failed to open `{file}`: {error}; name a file of JSON lines, or `-` for stdin"))
            })?)
        };
    let mut bulk = Bulk {
        broker,
        batch: Vec::new(),
        bytes: 0,
        under_way: FuturesOrdered::new(),
        enqueued: 0,
        refused: 0,
        rejected,
        sink: Sink::default(),
    };
    let mut checker = Checker::new(&catalogue);
    let loading = if catalogue.offers.is_empty() { None } else { ask::loading(broker).await? };
    let check = !catalogue.offers.is_empty() && loading.is_none();
    if let Some(file) = loading {
        output::note(&format!("taskhost: `{file}` is still being loaded by a worker, so the tasks are enqueued unchecked"));
    } else if !check && !unchecked {
        output::note("taskhost: no worker has announced anything yet, so the tasks are enqueued unchecked");
    }
    let clock = Clock { read: broker.now().await?, at: Instant::now() };
    let went =
        read(&mut bulk, BufReader::with_capacity(1 << 20, source), file, defaults, &clock, &catalogue, check.then_some(&mut checker)).await;
    let sink = std::mem::take(&mut bulk.sink);
    sink.end(went.and_then(|()| bulk.finish()))
}

async fn read(
    bulk: &mut Bulk<'_>,
    mut reader: BufReader<Box<dyn Read>>,
    file: &str,
    defaults: &Defaults,
    clock: &Clock,
    catalogue: &Catalogue,
    mut checker: Option<&mut Checker<'_>>,
) -> Result<(), Failure> {
    let mut line = Vec::new();
    let mut number = 0_u64;
    loop {
        // The next read from a pipe may block for long, so the lines at hand are sent first.
        if reader.buffer().is_empty() {
            bulk.send().await?;
            bulk.settle(0).await?;
        } else if bulk.batch.len() >= BATCH_TASKS || bulk.bytes >= BATCH_BYTES {
            bulk.send().await?;
        }
        line.clear();
        let read = (&mut reader).take(LINE_BYTES).read_until(b'\n', &mut line);
        if read.map_err(|error| bulk.stopped(number, &format!("failed to read `{file}`: {error}")))? == 0 {
            break;
        }
        number += 1;
        if number == 1 && line.starts_with(MARK) {
            line.drain(..MARK.len());
        }
        if number == 1 && (line.starts_with(b"\xff\xfe") || line.starts_with(b"\xfe\xff")) {
            return Err(bulk.stopped(0, &format!("`{file}` is written in UTF-16; write it in UTF-8")));
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let source = Source::new(number, &line, bulk.rejected.is_some());
        match task(&line, defaults, clock, catalogue, checker.as_deref_mut()) {
            Ok(task) => bulk.add(source, task),
            Err(why) => bulk.refuse(&source, &why),
        }
    }
    bulk.send().await?;
    bulk.settle(0).await
}

/// One batch: its lines and tasks.
type Sent = (Vec<Source>, Vec<NewTask>, Result<Vec<Enqueued>, BrokerError>);

struct Bulk<'a> {
    broker: &'a dyn Broker,
    batch: Vec<(Source, NewTask)>,
    bytes: usize,
    under_way: FuturesOrdered<BoxFuture<'a, Sent>>,
    enqueued: u64,
    refused: usize,
    rejected: Option<Rejected>,
    sink: Sink,
}

impl<'a> Bulk<'a> {
    fn add(&mut self, line: Source, task: NewTask) {
        self.bytes += task.args.len();
        self.batch.push((line, task));
    }

    fn refuse(&mut self, line: &Source, why: &str) {
        self.refused += 1;
        if self.refused <= SHOWN_REFUSALS {
            output::note(&format!("taskhost: line {}: {why}", line.number));
        }
        if let Some(rejected) = &mut self.rejected {
            rejected.keep(line, why);
        }
    }

    /// Sends the batch and goes on, so that the broker takes it while the next lines are read.
    async fn send(&mut self) -> Result<(), Failure> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.settle(UNDER_WAY - 1).await?;
        let (lines, tasks): (Vec<Source>, Vec<NewTask>) = std::mem::take(&mut self.batch).into_iter().unzip();
        self.bytes = 0;
        let broker: &'a dyn Broker = self.broker;
        self.under_way.push_back(Box::pin(async move {
            let answers = broker.enqueue(&tasks).await;
            (lines, tasks, answers)
        }));
        for _ in 0..TURNS {
            let polled = std::future::poll_fn(|context| Poll::Ready(self.under_way.poll_next_unpin(context))).await;
            if let Poll::Ready(Some(sent)) = polled {
                self.sent(sent).await?;
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Waits until at most `left` batches are under way.
    async fn settle(&mut self, left: usize) -> Result<(), Failure> {
        while self.under_way.len() > left {
            if let Some(sent) = self.under_way.next().await {
                self.sent(sent).await?;
            }
        }
        Ok(())
    }

    async fn sent(&mut self, (lines, tasks, answers): Sent) -> Result<(), Failure> {
        let answers = match answers {
            // One task over the limit refuses the whole call. Enqueue them one by one to find it.
            Err(BrokerError::Invalid(_)) => {
                for (line, task) in lines.iter().zip(&tasks) {
                    match self.broker.enqueue(std::slice::from_ref(task)).await {
                        Ok(answers) => self.answered(std::slice::from_ref(task), &answers),
                        Err(BrokerError::Invalid(why)) => self.refuse(line, &why),
                        Err(error) => return Err(self.broken(line.number.saturating_sub(1), &error)),
                    }
                }
                return Ok(());
            }
            answers => answers.map_err(|error| self.broken(lines.first().map_or(0, |line| line.number.saturating_sub(1)), &error))?,
        };
        self.answered(&tasks, &answers);
        Ok(())
    }

    fn answered(&mut self, tasks: &[NewTask], answers: &[Enqueued]) {
        let mut ids = String::new();
        for (task, answer) in tasks.iter().zip(answers) {
            if !ids.is_empty() {
                ids.push('\n');
            }
            match answer {
                Enqueued::Added => {
                    self.enqueued += 1;
                    ids.push_str(task.id.as_str());
                }
                Enqueued::Duplicate { holder } => {
                    output::note(&duplicate(&task.id, holder));
                    ids.push_str(holder.as_str());
                }
            }
        }
        self.sink.line(&ids);
    }

    fn broken(&self, last: u64, error: &BrokerError) -> Failure {
        // Batches after the failed one may be enqueued too. With ids of your own, enqueueing again is harmless.
        Failure::Broker(format!("{error}\n  lines up to {last} are done ({} enqueued); go on from line {}", self.enqueued, last + 1))
    }

    fn stopped(&self, last: u64, why: &str) -> Failure {
        Failure::Usage(format!("{why}\n  lines up to {last} are read ({} enqueued)", self.enqueued))
    }

    fn finish(self) -> Result<(), Failure> {
        if self.refused == 0 {
            return Ok(());
        }
        let next = match self.rejected {
            Some(rejected) => rejected.end(),
            None if self.refused > SHOWN_REFUSALS => {
                format!(
                    "the first {SHOWN_REFUSALS} are named above, `--rejected FILE` writes all of them; mend those lines and enqueue them alone"
                )
            }
            None => "mend those lines and enqueue them alone".to_owned(),
        };
        Err(Failure::Usage(format!("{} lines were refused, {} tasks enqueued; {next}", self.refused, self.enqueued)))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    /// The earlier reason for its refusal, in a file of `--rejected`.
    #[serde(default, rename = "refused")]
    _refused: IgnoredAny,
    task: TaskName,
    #[serde(default)]
    args: Option<Box<RawValue>>,
    queue: Option<QueueName>,
    id: Option<TaskId>,
    #[serde(alias = "in")]
    delay: Option<Time>,
    at: Option<Time>,
    expires: Option<Time>,
    priority: Option<Priority>,
    retries: Option<u32>,
    timeout: Option<Time>,
    unique: Option<Time>,
    unique_key: Option<String>,
    /// Zero keeps none.
    #[serde(alias = "ttl")]
    result_ttl: Option<Time>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default, alias = "tag")]
    tags: Tags,
}

/// A duration is text such as `"5m"`, or milliseconds; a point in time is as on the command line.
#[derive(Deserialize)]
#[serde(untagged)]
enum Time {
    Number(u64),
    Text(String),
}

impl Time {
    fn duration(&self, field: &str) -> Result<Duration, String> {
        match self {
            Self::Number(millis) => units::duration(&format!("{millis}ms")),
            Self::Text(text) => units::duration(text),
        }
        .map_err(|why| format!("`{field}`: {why}"))
    }

    fn positive(&self, field: &str) -> Result<Duration, String> {
        match self.duration(field)? {
            Duration::ZERO => Err(format!("`{field}`: a duration here is longer than zero, such as \"30s\"")),
            duration => Ok(duration),
        }
    }

    fn start(&self, field: &str) -> Result<Start, String> {
        match self {
            Self::Number(number) => units::instant(&number.to_string()).map(Start::At),
            Self::Text(text) => units::start(text),
        }
        .map_err(|why| format!("`{field}`: {why}"))
    }
}

/// The broker's time, continued by our monotonic clock, because reading a pipe may take long.
struct Clock {
    read: Millis,
    at: Instant,
}

impl Clock {
    fn after(&self, time: Duration) -> Millis {
        self.read.after(self.at.elapsed()).after(time)
    }
}

fn task(
    line: &[u8],
    defaults: &Defaults,
    clock: &Clock,
    catalogue: &Catalogue,
    checker: Option<&mut Checker<'_>>,
) -> Result<NewTask, String> {
    let line: Line = serde_json::from_slice(line).map_err(|error| {
        // serde counts lines within the line, so its "line 1" would mislead.
        let text = error.to_string();
        let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
        format!("{text} (column {}); a line is like {{\"task\": \"add\", \"args\": [1, 1]}}", error.column())
    })?;
    let given = Given::Json(line.args.as_deref().map_or("[]", RawValue::get).to_owned());
    let args = match checker {
        Some(checker) => checker.check(&line.task, &given),
        None => given.unchecked(),
    };
    let mut task = defaults.task(&line.task, args.map_err(|error| refusal(&error))?, catalogue);
    task.queue = line.queue.unwrap_or(task.queue);
    task.id = line.id.unwrap_or(task.id);
    let options = &mut task.options;
    options.priority = line.priority.unwrap_or(options.priority);
    task.start = match (&line.delay, &line.at) {
        (Some(_), Some(_)) => return Err("give `delay` or `at`, not both".to_owned()),
        (Some(delay), None) => Start::In(delay.duration("delay")?),
        (None, Some(at)) => at.start("at")?,
        (None, None) => task.start,
    };
    match line.expires.map(|time| time.start("expires")).transpose()? {
        Some(Start::At(at)) => task.expires = Some(at),
        Some(Start::In(time)) => task.expires = Some(clock.after(time)),
        Some(Start::Now) | None => {}
    }
    options.max_attempts = line.retries.map(|retries| retries.saturating_add(1)).or(options.max_attempts);
    options.timeout = line.timeout.map(|time| time.positive("timeout")).transpose()?.or(options.timeout);
    options.result_ttl = line.result_ttl.map(|time| time.duration("result_ttl")).transpose()?.or(options.result_ttl);
    if let Some(time) = line.unique {
        task.unique = Some(Unique { key: same(&task.name, &task.args), ttl: time.positive("unique")? });
    }
    match (&mut task.unique, line.unique_key) {
        (Some(unique), Some(key)) => unique.key = key,
        (None, Some(_)) => return Err("`unique_key` needs `unique`, such as \"1h\"".to_owned()),
        (_, None) => {}
    }
    options.carried.tags.extend(line.tags)?;
    options.headers.extend(line.headers.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)));
    Ok(task)
}
