//! Flows: a chord from its start to the end of its callback, many chains at once, and one chain alone, beside a plain drain.
//!
//! a worker waits → the flow starts → all of its attempts have ended → the flow has ended
//!
//! Invariant: the callback takes a result of a member, so the flow has read all of them.

use std::time::{Duration, Instant};

use serde_json::json;
use taskhost_broker::NewFlow;
use taskhost_core::task::TaskId;

use crate::{
    attempts::Attempts,
    drain::{self, beside},
    error::BenchError,
    figure::Figure,
    setup::Bench,
    stats::rate,
};

/// Members of the chord, at the most.
const MEMBERS: usize = 10_000;
/// Chains at once, at the most, and the steps of each.
const CHAINS: usize = 2_000;
const STEPS: usize = 10;
/// The steps of the chain that runs alone.
const ALONE: usize = 50;
/// Chains that are started together.
const TOGETHER: usize = 64;
/// How long a flow may take.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) async fn all(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let members = (bench.options.tasks / 10).clamp(100, MEMBERS);
    let plain = drain::rate_of(bench, members).await?;
    bench.report.add(Figure::FlowPlainDrain, plain);
    bench.place.clear().await?;
    let took = chord(bench, members).await?;
    bench.report.add(Figure::FlowChord, took.as_secs_f64() * 1_000.0);
    bench.report.add(Figure::FlowMembers, rate(members, took));
    bench.place.clear().await?;
    let chains = (members / 5).clamp(10, CHAINS);
    let took = run(bench, chains, STEPS).await?;
    bench.report.add(Figure::FlowEdges, rate(chains * STEPS, took));
    bench.place.clear().await?;
    let took = run(bench, 1, ALONE).await?;
    bench.report.add(Figure::FlowEdgeIdle, took.as_secs_f64() * 1_000.0 / f64::from(u32::try_from(ALONE).unwrap_or(1)));
    Ok(())
}

fn flow(bench: &Bench<'_>, id: TaskId, steps: &serde_json::Value, input: String) -> NewFlow {
    let plan = json!({ "flow": 1, "name": "bench", "steps": steps }).to_string();
    NewFlow { id, queue: bench.queue.clone(), plan, input, headers: Vec::new(), parent: None }
}

/// From the start to the end of the callback.
async fn chord(bench: &Bench<'_>, members: usize) -> Result<Duration, BenchError> {
    let body = bench.body.as_str();
    let steps = json!({
        "all": {"task": body, "map": {"from": "input"}, "args": [{"item": ""}, 1], "parallel": 100_000},
        "sum": {"task": body, "args": [{"from": "all", "at": "/0"}, 1]}});
    let list: Vec<usize> = (0..members).collect();
    let flow = flow(bench, TaskId::fresh(), &steps, json!(list).to_string());
    flows(bench, vec![flow], members + 1).await
}

/// So many chains of so many steps.
async fn run(bench: &Bench<'_>, chains: usize, length: usize) -> Result<Duration, BenchError> {
    let body = bench.body.as_str();
    let mut steps = serde_json::Map::new();
    for n in 0..length {
        let before = if n == 0 { json!(1) } else { json!({ "from": format!("s{:03}", n - 1) }) };
        steps.insert(format!("s{n:03}"), json!({ "task": body, "args": [before, 1] }));
    }
    let steps = steps.into();
    let flows_of = (0..chains).map(|_| flow(bench, TaskId::fresh(), &steps, "null".to_owned())).collect();
    flows(bench, flows_of, chains * length).await
}

/// Starts flows beside a worker. How long it took until all of their attempts, and they themselves, had ended.
async fn flows(bench: &Bench<'_>, flows: Vec<NewFlow>, attempts_of_all: usize) -> Result<Duration, BenchError> {
    let broker = bench.place.again().await?;
    let attempts = Attempts::new(attempts_of_all);
    let (took, succeeded) = beside(bench, bench.options.slots, &attempts, async {
        // The worker is there before they start.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let began = Instant::now();
        for some in flows.chunks(TOGETHER) {
            futures_util::future::try_join_all(some.iter().map(|flow| broker.start_flow(flow))).await?;
        }
        attempts.all_ended().await;
        for flow in &flows {
            loop {
                let view = broker.flow(Some(&flow.queue), &flow.id).await?;
                if view.is_none_or(|view| view.line.ended_at.is_some()) {
                    break;
                }
                if began.elapsed() > PATIENCE {
                    return Err(BenchError::TimedOut(format!("flow `{}` has not ended: see the log", flow.id)));
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            if flows.len() > 1 {
                // The last attempt has ended, so the others have ended too, or do in this moment.
                break;
            }
        }
        Ok(began.elapsed())
    })
    .await?;
    attempts.check(attempts_of_all, succeeded)?;
    Ok(took)
}
