//! Bodies share the CPU: long ones run a few at a time, short ones between them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    hostile::running,
    support::{LONG, call, compile, result, settings},
};
use crate::support::{Place, RedisServer, wait_until};
use taskhost::engine::{Code, Engine, EngineSettings};
use taskhost_broker::{Broker, BrokerSettings};

/// Counts down this many times.
fn spinning(rounds: u64) -> Vec<u8> {
    let run = format!(
        "(local $left i64) (local.set $left (i64.const {rounds}))
        (loop $l (local.set $left (i64.sub (local.get $left) (i64.const 1))) (br_if $l (i64.ne (local.get $left) (i64.const 0))))
        (call $ok (i32.const 2064) (i32.const 1))"
    );
    running(&run)
}

/// A guest that computes for about 40 ms on this machine, and its exact time.
async fn computing(engine: &Arc<Engine>) -> (Arc<Code>, Duration) {
    let probe = 20_000_000;
    let code = compile(engine, &spinning(probe)).await.unwrap();
    let cpu = engine.invoke(call(&code, "go", "[]")).await.cpu.max(Duration::from_micros(100));
    let rounds = u64::try_from(u128::from(probe) * 40_000_000 / cpu.as_nanos()).unwrap();
    let code = compile(engine, &spinning(rounds)).await.unwrap();
    let exactly = engine.invoke(call(&code, "go", "[]")).await.cpu;
    (code, exactly)
}

#[tokio::test]
async fn waiting_for_a_share_of_the_cpu_is_not_timed() {
    let engine = Engine::start(EngineSettings { slots: 120, ..settings() }).unwrap();
    let (long, takes) = computing(&engine).await;
    let short = compile(&engine, &spinning(10)).await.unwrap();
    // A hundred of them on two threads take fifty times as long as one, on any machine. Each may take thirty times as long.
    let timeout = 30 * takes;
    let mut attempts = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let mut one = call(&long, "go", "[]");
        one.timeout = timeout;
        let engine = Arc::clone(&engine);
        attempts.spawn(async move { engine.invoke(one).await });
    }
    // The long ones have the CPU first. A short one still passes between them.
    tokio::time::timeout(LONG, async {
        while engine.runnable() < 4 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("many of them want CPU");
    assert_eq!(result(engine.invoke(call(&short, "go", "[]")).await), "7");
    let mut ended = Vec::new();
    while let Some(one) = attempts.try_join_next() {
        ended.push(one.expect("no attempt panics"));
    }
    assert!(ended.len() < 50, "the short one waited for {} long ones", ended.len());
    ended.extend(tokio::time::timeout(LONG, attempts.join_all()).await.expect("all of them end"));
    let longest = ended.iter().map(|one| one.ran).max().unwrap();
    assert!(longest > timeout, "else they did not queue: {longest:?} of {timeout:?}");
    for attempted in ended {
        assert_eq!(result(attempted), "7");
    }
    assert_eq!(engine.runnable(), 0);
}

/// The p50 and p99 of round trips to a broker.
async fn asked(broker: &dyn Broker) -> (Duration, Duration) {
    let mut took = Vec::new();
    for _ in 0..1_000 {
        let began = Instant::now();
        broker.now().await.expect("now");
        took.push(began.elapsed());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    took.sort_unstable();
    (took[500], took[990])
}

/// docs/performance.md has the printed figures. The test only asserts that nobody waits for the loops.
#[tokio::test]
async fn the_broker_is_asked_beside_endless_loops_and_before_them() {
    let server = RedisServer::make().await;
    let broker = server.open(BrokerSettings::default()).await;
    let engine = Engine::start(EngineSettings { slots: 80, ..settings() }).unwrap();
    #[cfg(target_os = "linux")]
    {
        let theirs = engine.guests().spawn(async { rustix::process::getpriority_process(None) }).await.unwrap().unwrap();
        assert!(theirs > rustix::process::getpriority_process(None).unwrap(), "guests step back: nice {theirs}");
    }
    let (idle, idle_slowest) = asked(&*broker).await;
    let endless = compile(&engine, &running("(loop $l (br $l)) unreachable")).await.unwrap();
    let mut loops = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let (engine, endless) = (Arc::clone(&engine), call(&endless, "go", "[]"));
        loops.spawn(async move { engine.invoke(endless).await });
    }
    // Two of them run, the others stand in line.
    wait_until(LONG, "all loops want CPU", async || engine.runnable() >= 64).await;
    let (beside, beside_slowest) = asked(&*broker).await;
    eprintln!("a round trip to Redis: p50 {idle:?}, p99 {idle_slowest:?}; beside 64 loops: p50 {beside:?}, p99 {beside_slowest:?}");
    assert!(beside < 50 * idle_slowest, "beside the loops {beside:?}, alone at most {idle_slowest:?}");
    loops.abort_all();
}
