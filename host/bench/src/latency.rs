//! Latencies of one task: from the enqueue to the result in an idle system, and from the due time to the start of a delayed task.

use std::time::{Duration, Instant};

use taskhost_broker::Broker;
use taskhost_core::task::{NewTask, Start, TaskId, TaskView};

use crate::{
    attempts::Attempts,
    drain::beside,
    error::BenchError,
    figure::Figure,
    setup::Bench,
    stats::{per, quantile, rate},
    usage::{self, Usage},
};

/// Longer than the time of any task here.
const LIMIT: Duration = Duration::from_secs(30);
/// The number of tasks that are waited for one by one.
const ASKED: usize = 500;
/// The time for which an idle worker is measured.
const WATCHED: Duration = Duration::from_secs(5);
/// Delayed tasks, due within this time.
const DELAYED: usize = 500;
const WITHIN: Duration = Duration::from_secs(3);

pub(crate) async fn idle(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let asker = bench.place.again().await?;
    let asked = if bench.options.repeat == 1 { ASKED / 2 } else { ASKED };
    let attempts = Attempts::new(usize::MAX);
    let look = async {
        // The cost of the start does not count as the cost of idling.
        ended(asker.await_end(Some(&bench.queue), &enqueued(&*asker, bench, 0).await?, LIMIT).await?)?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let before = Usage::now(bench.place).await?;
        tokio::time::sleep(WATCHED).await;
        let host = before.host_since();
        let after = Usage::now(bench.place).await?;
        let resident = usage::resident();

        let mut took = Vec::with_capacity(asked);
        for number in 0..asked {
            // Leave a pause, so that the worker is idle.
            tokio::time::sleep(Duration::from_millis(2)).await;
            let began = Instant::now();
            let id = enqueued(&*asker, bench, number).await?;
            ended(asker.await_end(Some(&bench.queue), &id, LIMIT).await?)?;
            took.push(began.elapsed().as_secs_f64() * 1e3);
        }
        Ok((host, before.commands_until(&after), resident, took))
    };
    let ((host, commands, resident, mut took), _) = beside(bench, bench.options.slots, &attempts, look).await?;
    bench.report.add(Figure::IdleCpu, host.as_secs_f64() / WATCHED.as_secs_f64() * 100.0);
    if let Some(commands) = commands {
        bench.report.add(Figure::IdleCommands, rate(usize::try_from(commands).unwrap_or(usize::MAX), WATCHED));
    }
    if let Some(bytes) = resident {
        bench.report.add(Figure::IdleResident, per(bytes, 1 << 20));
    }
    for (figure, share) in [(Figure::Idle50, 0.5), (Figure::Idle95, 0.95), (Figure::Idle99, 0.99)] {
        bench.report.add(figure, quantile(&mut took, share));
    }
    Ok(())
}

/// As `taskhost enqueue --wait` does.
async fn enqueued(broker: &dyn Broker, bench: &Bench<'_>, number: usize) -> Result<TaskId, BenchError> {
    let task = NewTask { awaited: true, ..bench.task(number) };
    broker.enqueue(std::slice::from_ref(&task)).await?;
    Ok(task.id)
}

fn ended(view: Option<TaskView>) -> Result<TaskView, BenchError> {
    match view {
        Some(view) if view.state.is_ended() => Ok(view),
        _ => Err(BenchError::TimedOut(format!("a task of the benchmark did not end within {} s", LIMIT.as_secs()))),
    }
}

/// By the broker's clock: the start time minus the due time.
pub(crate) async fn delayed(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let broker = bench.place.broker();
    let attempts = Attempts::new(usize::MAX);
    let look = async {
        let mut waiting = Vec::with_capacity(DELAYED);
        for number in 0..DELAYED {
            let mut task = bench.task(number);
            let delay = Duration::from_millis(500 + fastrand::u64(..u64::try_from(WITHIN.as_millis()).unwrap_or(1)));
            task.start = Start::In(delay);
            waiting.push((task, delay));
        }
        let tasks: Vec<_> = waiting.iter().map(|(task, _)| task.clone()).collect();
        broker.enqueue(&tasks).await?;
        waiting.sort_by_key(|(_, delay)| *delay);
        let mut late = Vec::with_capacity(DELAYED);
        // Wait for the last one first. Then the others have ended.
        for (task, delay) in waiting.iter().rev() {
            let view = ended(broker.await_end(Some(&bench.queue), &task.id, LIMIT).await?)?;
            let started = view.started_at.unwrap_or(view.enqueued_at);
            late.push(started.since(view.enqueued_at.after(*delay)).as_secs_f64() * 1e3);
        }
        Ok(late)
    };
    let (mut late, _) = beside(bench, bench.options.slots, &attempts, look).await?;
    bench.report.add(Figure::Late50, quantile(&mut late, 0.5));
    bench.report.add(Figure::Late99, quantile(&mut late, 0.99));
    Ok(())
}
