//! The cost of looking: streams of events, the list of many ended tasks, and watchers of the overview beside an idle and a busy broker.
//!
//! tasks that have ended, and some queues → a server → the page, again and again → nobody looks, watchers look, by turns
//!
//! Invariant: a watcher does what the page's script does: it reads the page again after each event.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use taskhost_core::task::{NewTask, QueueName, Start};
use tokio::{io::AsyncReadExt, time::timeout};

use crate::{
    drain,
    error::BenchError,
    figure::Figure,
    http::{Connection, LIMIT, Server, request},
    setup::{Bench, QUEUE},
    stats::{per, quantile},
    usage::{Usage, resident_of},
};

/// Streams of events at once.
const STREAMS: usize = 1_000;
/// Queues beside the one of the benchmark.
const QUEUES: usize = 19;
/// People who look at the overview.
const WATCHERS: usize = 10;
/// For this long an idle broker is looked at, and left alone.
const WATCHED: Duration = Duration::from_secs(10);
/// How often the list is read.
const PAGES: usize = 20;
/// Drains are this much shorter than that of the ended tasks.
const SHARE: usize = 4;

pub(crate) async fn all(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    // A process that has served before has memory to spare.
    if let Some(bytes) = streams(&Server::start(bench).await?).await? {
        bench.report.add(Figure::HttpStreamsMemory, per(bytes, 1 << 20));
    }
    fill(bench).await?;
    let server = Server::start(bench).await?;
    let mut took = pages(&server).await?;
    bench.report.add(Figure::HttpTasksPage, quantile(&mut took, 0.5));

    let alone = idle(bench, async |time| {
        tokio::time::sleep(time).await;
        Ok(())
    });
    let alone = alone.await?;
    let watched = idle(bench, async |time| watch(&server, tokio::time::sleep(time)).await).await?;
    if let (Some(alone), Some(watched)) = (alone, watched) {
        bench.report.add(Figure::LookingCpu, ((watched.as_secs_f64() - alone.as_secs_f64()) / WATCHED.as_secs_f64() * 100.0).max(0.0));
    }
    // The one that comes second finds another machine, so they take turns.
    let count = (bench.options.tasks / SHARE).max(100);
    for is_watched in [false, true, true, false] {
        let rate = if is_watched {
            let mut rate = None;
            watch(&server, async { rate = Some(drain::rate_of(bench, count).await) }).await?;
            rate.ok_or_else(|| BenchError::Failed("the watchers left before the drain was over".to_owned()))??
        } else {
            drain::rate_of(bench, count).await?
        };
        bench.report.add(if is_watched { Figure::WatchedDrain } else { Figure::UnwatchedDrain }, rate);
    }
    Ok(())
}

/// The memory that streams of events take in the server, if it is known.
async fn streams(server: &Server) -> Result<Option<u64>, BenchError> {
    let Some(before) = resident_of(server.pid()) else { return Ok(None) };
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        let mut stream = server.connect().await?;
        stream.send(&request("GET", "/v1/events", "")).await?;
        streams.push(stream);
    }
    try_join_all(streams.iter_mut().map(first)).await?;
    Ok(resident_of(server.pid()).map(|after| after.saturating_sub(before)))
}

/// Waits for the first part of a stream.
async fn first(stream: &mut Connection) -> Result<(), BenchError> {
    let mut some = [0; 4096];
    match timeout(LIMIT, stream.stream.read(&mut some)).await {
        Ok(Ok(1..)) => Ok(()),
        _ => Err(BenchError::TimedOut("a stream of events did not begin".to_owned())),
    }
}

/// Tasks that have ended, and queues with a task each that waits for later.
async fn fill(bench: &Bench<'_>) -> Result<(), BenchError> {
    drain::rate_of(bench, bench.options.tasks).await?;
    let mut tasks = Vec::new();
    for number in 0..QUEUES {
        let queue = QueueName::new(format!("{QUEUE}-{number}")).map_err(|error| BenchError::Failed(error.to_string()))?;
        tasks.push(NewTask { queue, start: Start::In(Duration::from_secs(86_400)), ..bench.task(number) });
    }
    bench.place.broker().enqueue(&tasks).await?;
    Ok(())
}

/// How long the list of tasks took each time, in milliseconds. A change before each keeps the server from showing what it has read before.
async fn pages(server: &Server) -> Result<Vec<f64>, BenchError> {
    let mut connection = server.connect().await?;
    let mut took = Vec::new();
    for _ in 0..PAGES {
        connection.ask(&request("POST", &format!("/v1/queues/{QUEUE}/resume"), ""), "200").await?;
        let began = Instant::now();
        connection.ask(&request("GET", "/tasks", ""), "200").await?;
        took.push(began.elapsed().as_secs_f64() * 1e3);
    }
    Ok(took)
}

/// CPU time of the broker's server during `look`; `None` without a server.
async fn idle(bench: &Bench<'_>, look: impl AsyncFnOnce(Duration) -> Result<(), BenchError>) -> Result<Option<Duration>, BenchError> {
    let before = Usage::now(bench.place).await?;
    look(WATCHED).await?;
    let after = Usage::now(bench.place).await?;
    Ok(before.server_until(&after))
}

/// Watches the overview during `work`.
async fn watch(server: &Server, work: impl Future<Output = ()>) -> Result<(), BenchError> {
    let mut watchers = Vec::new();
    for _ in 0..WATCHERS {
        let (mut events, mut page) = (server.connect().await?, server.connect().await?);
        watchers.push(async move {
            events.send(&request("GET", "/v1/events", "")).await?;
            let mut some = vec![0; 65536];
            loop {
                match events.stream.read(&mut some).await {
                    Ok(read @ 1..) if some[..read].windows(6).any(|part| part == b"event:") => {
                        page.ask(&request("GET", "/", ""), "200").await?;
                    }
                    Ok(1..) => {}
                    _ => return Err::<(), _>(BenchError::Failed("the server ended a stream of events".to_owned())),
                }
            }
        });
    }
    tokio::select! {
        left = try_join_all(watchers) => left.map(drop),
        () = work => Ok(()),
    }
}
