//! All ends of an attempt.

use std::{sync::Arc, time::Duration};

use super::{
    hostile::{ATTEMPT, ENQUEUE, EXIT, EXIT_WITH_CODE, Guest, INCREMENT, IS_CANCELLED, running},
    support::{Fake, LONG, call, compile, engine, error, load, result, run, settings, told},
};
use taskhost::engine::{Engine, FileGrant, FileMode, Grants, Limits};
use taskhost_core::task::{ErrorKind, Outcome};

const DECIMAL: &str = "(i32.store8 (i32.const 4096) (i32.add (i32.const 48) (call $number))) (call $ok (i32.const 4096) (i32.const 1))";

#[tokio::test]
async fn a_guest_answers() {
    let code = load(&Guest::default().build()).await;
    let attempted = run(call(&code, "go", "[]")).await;
    assert_eq!(attempted.memory, 64 << 10, "one page");
    assert_eq!(result(attempted), "7");
    let (description, warnings) = engine().describe(&code).await.unwrap();
    assert_eq!((description.version.as_str(), description.bodies[0].name.as_str(), warnings.len()), ("1", "go", 0));
}

#[tokio::test]
async fn nothing_of_one_attempt_is_seen_by_the_next() {
    // Counts in a global and in memory; both are fresh each time.
    let more = "(global $count (mut i32) (i32.const 0))
        (func $number (result i32)
            (global.set $count (i32.add (global.get $count) (i32.const 1)))
            (i32.store8 (i32.const 5000) (i32.add (i32.load8_u (i32.const 5000)) (i32.const 1)))
            (i32.add (global.get $count) (i32.load8_u (i32.const 5000))))";
    let code = load(&Guest { more, run: DECIMAL, ..Guest::default() }.build()).await;
    for _ in 0..20 {
        assert_eq!(result(run(call(&code, "go", "[]")).await), "2");
    }
}

#[tokio::test]
async fn the_context_is_the_calls() {
    let more = "(func $number (result i32) (call $attempt))";
    let code = load(&Guest { imports: &[ATTEMPT], more, run: DECIMAL, ..Guest::default() }.build()).await;
    assert_eq!(result(run(call(&code, "go", "[]")).await), "2");
}

#[tokio::test]
async fn an_endless_loop_times_out() {
    let code = load(&running("(loop $l (br $l)) (unreachable)")).await;
    let mut endless = call(&code, "go", "[]");
    endless.timeout = Duration::from_millis(300);
    let attempted = run(endless).await;
    assert!(attempted.cpu > Duration::ZERO);
    assert_eq!(told(attempted), (ErrorKind::Timeout, "timed out after 300 ms".into()));
}

#[tokio::test]
async fn the_ceiling_cuts_the_timeout() {
    let code = load(&running("(loop $l (br $l)) (unreachable)")).await;
    let mut endless = call(&code, "go", "[]");
    Arc::make_mut(&mut endless.terms).limits = Arc::new(Limits { timeout_ceiling: Some(Duration::from_millis(100)), ..Limits::default() });
    assert_eq!(told(run(endless).await).1, "timed out after 100 ms");
}

#[tokio::test]
async fn a_guest_that_loops_as_it_starts_times_out() {
    let code = load(&Guest { more: "(func $forever (loop $l (br $l))) (start $forever)", ..Guest::default() }.build()).await;
    let mut endless = call(&code, "go", "[]");
    endless.timeout = Duration::from_millis(100);
    assert_eq!(told(run(endless).await).0, ErrorKind::Timeout);
    let refused = engine().describe(&code).await.unwrap_err().to_string();
    assert!(refused.contains("100 ms of CPU"), "{refused}");
}

#[tokio::test]
async fn a_guest_parked_in_a_host_call_times_out_and_wants_no_cpu() {
    let code = load(&incrementing()).await;
    let engine = Engine::start(settings()).unwrap();
    let own = compile(&engine, &incrementing()).await.unwrap();
    let mut parked = call(&own, "go", "[]");
    let services = Arc::new(Fake { hangs: true, ..Fake::default() });
    parked.services = Arc::clone(&services) as _;
    parked.timeout = Duration::from_millis(300);
    let attempt = tokio::spawn({
        let engine = Arc::clone(&engine);
        async move { engine.invoke(parked).await }
    });
    services.asked.notified().await;
    tokio::time::timeout(LONG, async {
        while engine.runnable() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("a parked attempt is not runnable");
    assert_eq!(told(attempt.await.unwrap()), (ErrorKind::Timeout, "timed out after 300 ms".into()));
    // On the shared engine the broker is there for the same guest.
    assert_eq!(result(run(call(&code, "go", "[]")).await), "5");
}

/// Adds 5 to the key `go`, and answers with the sum.
fn incrementing() -> Vec<u8> {
    let more = "(func $number (result i32)
        (call $increment (i32.const 2050) (i32.const 2) (i64.const 5) (i32.const 4000))
        (if (i32.load8_u (i32.const 4000)) (then (unreachable)))
        (i32.load (i32.const 4008)))";
    Guest { imports: &[INCREMENT], more, run: DECIMAL, ..Guest::default() }.build()
}

#[tokio::test]
async fn kv_belongs_to_the_services() {
    let code = load(&incrementing()).await;
    let services = Arc::new(Fake::default());
    let mut adding = call(&code, "go", "[]");
    adding.services = Arc::clone(&services) as _;
    assert_eq!(result(run(adding).await), "5");
    assert_eq!(services.kv.lock().unwrap()["go"], b"5");
    let mut without = call(&code, "go", "[]");
    without.services = Arc::new(Fake { down: true, ..Fake::default() });
    assert_eq!(told(run(without).await).0, ErrorKind::Trap, "an unreachable broker is an error for the guest, which this one traps on");
}

#[tokio::test]
async fn a_memory_bomb_is_named() {
    let run_ = "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) (unreachable)";
    let attempted = run(call(&load(&running(run_)).await, "go", "[]")).await;
    assert!(attempted.memory <= 64 << 20 && attempted.memory > 60 << 20, "{attempted:?}");
    assert_eq!(told(attempted), (ErrorKind::MemoryLimit, "memory limit of 64 MiB reached".into()));
    // A guest that accepts the refusal succeeds.
    let modest = "(drop (memory.grow (i32.const 60000))) (call $ok (i32.const 2064) (i32.const 1))";
    assert_eq!(result(run(call(&load(&running(modest)).await, "go", "[]")).await), "7");
    // A guest that is too large from the start fails too.
    let large = load(&Guest { memory: 2000, ..Guest::default() }.build()).await;
    assert_eq!(large.initial_memory(), 2000 << 16);
    assert_eq!(told(run(call(&large, "go", "[]")).await).0, ErrorKind::MemoryLimit);
}

#[tokio::test]
async fn the_memory_of_all_guests_is_the_hosts_fault() {
    let engine = Engine::start(taskhost::engine::EngineSettings { guest_memory: 32 << 20, ..settings() }).unwrap();
    let bomb = running("(loop $l (br_if $l (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) (unreachable)");
    let code = compile(&engine, &bomb).await.unwrap();
    // It runs twice, because the first one must give its memory back.
    for _ in 0..2 {
        let attempted = engine.invoke(call(&code, "go", "[]")).await;
        let Outcome::HostFault { reason, .. } = attempted.outcome else { panic!("{attempted:?}") };
        assert!(reason.contains("`guest_memory` of 32 MiB"), "{reason}");
        assert!(attempted.memory > 30 << 20);
    }
}

#[tokio::test]
async fn a_granted_directory_that_is_not_there_is_the_operators_to_mend() {
    let mut reading = call(&load(&Guest::default().build()).await, "go", "[]");
    let grant = FileGrant { host: "/nowhere/at/all".into(), guest: "/in".into(), mode: FileMode::ReadOnly };
    Arc::make_mut(&mut reading.terms).grants = Arc::new(Grants { files: vec![grant], ..Grants::default() });
    let Outcome::HostFault { reason, .. } = run(reading).await.outcome else { panic!("it ran") };
    assert!(reason.contains("[plugins.probe]") && reason.contains("`/nowhere/at/all`"), "{reason}");
}

#[tokio::test]
async fn more_attempts_than_slots_are_the_hosts_fault() {
    let engine = Engine::start(taskhost::engine::EngineSettings { slots: 1, ..settings() }).unwrap();
    let code = compile(&engine, &incrementing()).await.unwrap();
    let mut attempts = tokio::task::JoinSet::new();
    let services: Vec<_> = (0..10).map(|_| Arc::new(Fake { hangs: true, ..Fake::default() })).collect();
    for services in &services {
        let mut parked = call(&code, "go", "[]");
        parked.services = Arc::clone(services) as _;
        parked.timeout = Duration::from_secs(1);
        let engine = Arc::clone(&engine);
        attempts.spawn(async move { engine.invoke(parked).await });
    }
    let ended = tokio::time::timeout(LONG, attempts.join_all()).await.unwrap();
    let refused = ended.iter().filter(|one| matches!(&one.outcome, Outcome::HostFault { reason, .. } if reason.contains("slots"))).count();
    assert_eq!(refused, 1, "nine slots: {ended:?}");
}

#[tokio::test]
async fn deep_recursion_is_a_stack_overflow() {
    let more = "(func $deep (param i64) (result i64) (i64.add (call $deep (i64.add (local.get 0) (i64.const 1))) (local.get 0)))";
    let code = load(&Guest { more, run: "(drop (call $deep (i64.const 0))) (unreachable)", ..Guest::default() }.build()).await;
    assert_eq!(told(run(call(&code, "go", "[]")).await).0, ErrorKind::StackOverflow);
    // Like guests in Rust: their stack in linear memory ends first.
    let more = "(global $sp (mut i32) (i32.const 65536))
        (func $deep (param i32)
            (global.set $sp (i32.sub (global.get $sp) (i32.const 1024)))
            (i32.store (global.get $sp) (local.get 0))
            (call $deep (local.get 0))
            (global.set $sp (i32.add (global.get $sp) (i32.const 1024))))";
    let code = load(&Guest { more, run: "(call $deep (i32.const 1)) (unreachable)", ..Guest::default() }.build()).await;
    assert_eq!(told(run(call(&code, "go", "[]")).await).0, ErrorKind::StackOverflow);
    // One access out of bounds.
    let astray = load(&running("(i32.load (i32.const -8))")).await;
    assert_eq!(told(run(call(&astray, "go", "[]")).await), (ErrorKind::Trap, "trapped: out of bounds memory access".into()));
}

#[tokio::test]
async fn leaving_is_told_with_the_code() {
    let code = load(&Guest { imports: &[EXIT], run: "(call $exit (i32.const 0)) (unreachable)", ..Guest::default() }.build()).await;
    assert_eq!(told(run(call(&code, "go", "[]")).await), (ErrorKind::Exit, "left with exit(0) without a result".into()));
    let run_ = "(call $exit-with-code (i32.const 3)) (unreachable)";
    let code = load(&Guest { imports: &[EXIT_WITH_CODE], run: run_, ..Guest::default() }.build()).await;
    assert_eq!(told(run(call(&code, "go", "[]")).await), (ErrorKind::Exit, "left with exit(3) without a result".into()));
}

#[tokio::test]
async fn traps_are_named() {
    let code = load(&running("(unreachable)")).await;
    assert_eq!(told(run(call(&code, "go", "[]")).await), (ErrorKind::Trap, "trapped: wasm `unreachable` instruction executed".into()));
    let code = load(&running("(i32.div_u (i32.const 1) (i32.const 0))")).await;
    assert_eq!(told(run(call(&code, "go", "[]")).await), (ErrorKind::Trap, "trapped: integer divide by zero".into()));
}

#[tokio::test]
async fn a_result_must_be_json_of_reasonable_size() {
    let answering = |at: u32, length: u32| format!("(call $ok (i32.const {at}) (i32.const {length}))");
    let wide = |run: String| async move { load(&Guest { run: &run, memory: 200, ..Guest::default() }.build()).await };
    // `{}` is at 2056. Half of it is no JSON.
    let error_ = error(run(call(&wide(answering(2056, 1)).await, "go", "[]")).await);
    assert_eq!(error_.kind, ErrorKind::BadResult);
    assert!(error_.message.contains("not one JSON text"), "{error_:?}");
    let code = load(&running("(i32.store8 (i32.const 4096) (i32.const 255)) (call $ok (i32.const 4096) (i32.const 1))")).await;
    assert_eq!(told(run(call(&code, "go", "[]")).await).0, ErrorKind::BadResult, "not UTF-8");
    assert_eq!(told(run(call(&load(&running("(i32.const -4)")).await, "go", "[]")).await).0, ErrorKind::BadResult, "nowhere");
    for size in [1 << 20 | 1, 6 << 20] {
        let (kind, message) = told(run(call(&wide(answering(10_000, size)).await, "go", "[]")).await);
        assert_eq!(kind, ErrorKind::ResultTooLarge);
        assert!(message.contains("limit of 1 MiB"), "{message}");
    }
}

#[tokio::test]
async fn cancelled_is_believed_only_after_the_word() {
    let waits = "(loop $l (br_if $l (i32.eqz (call $is-cancelled)))) (call $cancelled)";
    let code = load(&Guest { imports: &[IS_CANCELLED], run: waits, ..Guest::default() }.build()).await;
    let asked = call(&code, "go", "[]");
    let cancel = asked.cancelled.clone();
    let (attempted, ()) = tokio::join!(run(asked), async { cancel.cancel() });
    assert_eq!(told(attempted), (ErrorKind::Cancelled, "the body stopped because it was cancelled".into()));
    let lies = load(&running("(call $cancelled)")).await;
    assert_eq!(told(run(call(&lies, "go", "[]")).await).0, ErrorKind::Permanent);
}

#[tokio::test]
async fn who_ignores_the_word_is_stopped_after_the_grace() {
    let code = load(&running("(loop $l (br $l)) (unreachable)")).await;
    let mut deaf = call(&code, "go", "[]");
    deaf.grace = Duration::from_millis(200);
    deaf.cancelled.cancel();
    let (kind, message) = told(run(deaf).await);
    assert_eq!((kind, message.as_str()), (ErrorKind::Cancelled, "cancelled; the body did not return within its grace of 200 ms"));
}

#[tokio::test]
async fn a_dropped_attempt_is_stopped() {
    let engine = Engine::start(settings()).unwrap();
    let code = compile(&engine, &running("(loop $l (br $l)) (unreachable)")).await.unwrap();
    let attempt = tokio::spawn({
        let (engine, endless) = (Arc::clone(&engine), call(&code, "go", "[]"));
        async move { engine.invoke(endless).await }
    });
    until(|| engine.runnable() == 1).await;
    attempt.abort();
    until(|| engine.runnable() == 0).await;
}

#[tokio::test]
async fn a_stopped_engine_drops_its_attempts() {
    let engine = Engine::start(settings()).unwrap();
    let code = compile(&engine, &running("(loop $l (br $l)) (unreachable)")).await.unwrap();
    let attempt = tokio::spawn({
        let (engine, endless) = (Arc::clone(&engine), call(&code, "go", "[]"));
        async move { engine.invoke(endless).await }
    });
    until(|| engine.runnable() == 1).await;
    engine.stop();
    let attempted = tokio::time::timeout(LONG, attempt).await.unwrap().unwrap();
    assert!(matches!(attempted.outcome, Outcome::HostFault { .. }), "{attempted:?}");
    until(|| engine.runnable() == 0).await;
}

/// Waits for an event.
async fn until(mut is_so: impl FnMut() -> bool) {
    tokio::time::timeout(LONG, async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("it comes to be");
}

/// Enqueues `go` with the arguments `[]` this many times. Returns the tag of the last error, or 7.
fn spawning(times: u32, priority: u32) -> Vec<u8> {
    let more = format!(
        "(func $number (result i32) (local $left i32)
            (local.set $left (i32.const {times}))
            (loop $l
                (call $enqueue (i32.const 2050) (i32.const 2) (i32.const 2065) (i32.const 2)
                    (i32.const 0) (i32.const 0) (i32.const 0) (i64.const 1500)
                    (i32.const 1) (i32.const {priority}) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
                    (i32.const 4000))
                (if (i32.load8_u (i32.const 4000)) (then (return (i32.load8_u (i32.const 4004)))))
                (local.set $left (i32.sub (local.get $left) (i32.const 1)))
                (br_if $l (local.get $left)))
            (i32.const 7))"
    );
    Guest { imports: &[ENQUEUE], more: &more, run: DECIMAL, memory: 4, ..Guest::default() }.build()
}

#[tokio::test]
async fn children_ride_with_the_success() {
    let attempted = run(call(&load(&spawning(3, 9)).await, "go", "[]")).await;
    let Outcome::Done { result, children } = attempted.outcome else { panic!("{attempted:?}") };
    assert_eq!((result.as_str(), children.len()), ("7", 3));
    let child = &children[0];
    assert_eq!((child.name.as_str(), child.args.as_str(), child.queue.as_str(), child.options.priority.get()), ("go", "[]", "mail", 9));
    assert_eq!(child.start, taskhost_core::task::Start::In(Duration::from_millis(1500)));
    assert!(children[1].id != children[0].id);
}

#[tokio::test]
async fn children_are_bounded_and_checked() {
    let (invalid, too_many) = ("1", "2");
    assert_eq!(result(run(call(&load(&spawning(1001, 0)).await, "go", "[]")).await), too_many);
    assert_eq!(result(run(call(&load(&spawning(1000, 0)).await, "go", "[]")).await), "7");
    assert_eq!(result(run(call(&load(&spawning(1, 10)).await, "go", "[]")).await), invalid);
    let mut small = call(&load(&spawning(3, 0)).await, "go", "[]");
    Arc::make_mut(&mut small.terms).limits = Arc::new(Limits { children_bytes: 5, ..Limits::default() });
    assert_eq!(result(run(small).await), too_many);
}

#[tokio::test]
async fn tables_are_bounded() {
    let more =
        "(table $t 1 funcref) (func $grow (loop $l (br_if $l (i32.ne (table.grow $t (ref.null func) (i32.const 500)) (i32.const -1)))))";
    let mut growing = call(&load(&Guest { more, run: "(call $grow) (unreachable)", ..Guest::default() }.build()).await, "go", "[]");
    Arc::make_mut(&mut growing.terms).limits = Arc::new(Limits { table_elements: 5000, ..Limits::default() });
    assert_eq!(told(run(growing).await), (ErrorKind::Trap, "limit of 5000 table elements reached".into()));
}
