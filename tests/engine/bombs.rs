//! Guests that use too much, or answer with invalid data. Each gets a sentence as its error.

use std::{fmt::Write, sync::Arc, time::Duration};

use super::{
    hostile::{EXIT, FIELDS, Guest, IS_CANCELLED, LOG, OWN_RESOURCE, offering, unsigned},
    support::{Fake, call, compile, engine, error, load, plugin, result, run, told},
};
use taskhost::engine::{Call, Code, EngineError, Limits};
use taskhost_core::task::{ErrorKind, Outcome};
use tokio::sync::OnceCell;

async fn probe(body: &str, args: &str) -> Call {
    static CODE: OnceCell<Arc<Code>> = OnceCell::const_new();
    call(CODE.get_or_init(async || load(&plugin("probe")).await).await, body, args)
}

async fn going(guest: Guest<'_>) -> Call {
    call(&load(&guest.build()).await, "go", "[]")
}

/// The error of `describe`.
async fn not_described(bytes: &[u8]) -> String {
    match engine().describe(&load(bytes).await).await {
        Err(EngineError::BadDescription(why)) => why,
        other => panic!("believed: {other:?}"),
    }
}

#[tokio::test]
async fn a_flood_of_the_hosts_handles_ends_at_their_limit() {
    let run_ = "(loop $l (drop (call $.constructor.fields)) (br $l)) (unreachable)";
    let flooding = going(Guest { imports: &[FIELDS], run: run_, ..Guest::default() }).await;
    let ended = told(run(flooding).await);
    assert_eq!(ended, (ErrorKind::Trap, "holds more than 10000 resources (streams, files, requests) at once".into()));
    let mut few = going(Guest { imports: &[FIELDS], run: run_, ..Guest::default() }).await;
    Arc::make_mut(&mut few.terms).limits = Arc::new(Limits { resources: 50, ..Limits::default() });
    assert_eq!(told(run(few).await).1, "holds more than 50 resources (streams, files, requests) at once");
}

#[tokio::test]
async fn a_flood_of_its_own_handles_ends_at_their_limit() {
    // A guest's own resources are in no table of the host, but each handle costs host memory.
    let run_ = "(loop $l (drop (call $own (i32.const 1))) (br $l)) (unreachable)";
    let flooding = going(Guest { imports: &[OWN_RESOURCE], run: run_, ..Guest::default() }).await;
    let ended = told(run(flooding).await);
    assert_eq!(ended, (ErrorKind::Trap, "holds more than 10000 resources (streams, files, requests) at once".into()));
}

#[tokio::test]
async fn a_heap_of_objects_is_memory_too() {
    // A linked list of garbage-collected objects. It needs no linear memory.
    let more = "(type $node (struct (field (ref null $node)) (field i64 i64 i64 i64)))
        (func $grow (local $list (ref null $node))
            (loop $l
                (local.set $list
                    (struct.new $node (local.get $list) (i64.const 1) (i64.const 2) (i64.const 3) (i64.const 4)))
                (br $l)))";
    let Ok(code) = compile(engine(), &Guest { more, run: "(call $grow) (unreachable)", ..Guest::default() }.build()).await else {
        panic!("this host runs garbage-collected guests");
    };
    let attempted = run(call(&code, "go", "[]")).await;
    assert_eq!(told(attempted), (ErrorKind::MemoryLimit, "memory limit of 64 MiB reached".into()));
}

#[tokio::test]
async fn a_table_bomb_ends_at_its_limit() {
    // The table grows to the size of the pool. Beyond that, growing returns -1 each time.
    let more = "(table $t 1 funcref)
        (func $grow (loop $l (br_if $l (i32.ne (table.grow $t (ref.null func) (i32.const 500)) (i32.const -1)))))";
    let bomb = going(Guest { more, run: "(call $grow) (call $ok (i32.const 2064) (i32.const 1))", ..Guest::default() }).await;
    assert_eq!(result(run(bomb).await), "7");
    // A table that is too large from the start is refused when the plugin is loaded.
    let large = Guest { more: "(table $t 10000000 funcref)", ..Guest::default() }.build();
    let why = compile(engine(), &large).await.unwrap_err().to_string();
    assert!(why.contains("needs more than a sandbox has: table index 0 has a minimum element size of 10000000"), "{why}");
}

#[tokio::test]
async fn a_huge_error_text_is_cut_or_refused() {
    let failing = |length: u32| {
        let run = format!(
            "(memory.fill (i32.const 10000) (i32.const 120) (i32.const {length})) (call $failed (i32.const 10000) (i32.const {length}))"
        );
        async move { going(Guest { run: &run, memory: 200, ..Guest::default() }).await }
    };
    let (kind, message) = told(run(failing(3 << 20).await).await);
    assert_eq!((kind, message.len()), (ErrorKind::Permanent, (2 << 10) + "…".len()), "{message}");
    assert!(message.starts_with("xxx") && message.ends_with("x…"), "{message}");
    let (kind, message) = told(run(failing(6 << 20).await).await);
    assert_eq!(kind, ErrorKind::ResultTooLarge);
    assert!(message.contains("too many bytes, over the limit of 1 MiB"), "{message}");
    // It is no text.
    let run_ = "(i32.store8 (i32.const 4096) (i32.const 255)) (call $failed (i32.const 4096) (i32.const 1))";
    let (kind, message) = told(run(going(Guest { run: run_, ..Guest::default() }).await).await);
    assert_eq!(kind, ErrorKind::BadResult);
    assert!(message.contains("can't be read"), "{message}");
}

#[tokio::test]
async fn a_panic_of_ten_megabytes_is_told_in_two_kilobytes() {
    let error = error(run(probe("panic_loudly", "[10]").await).await);
    assert_eq!(error.kind, ErrorKind::Panic, "{error:?}");
    assert!(error.message.starts_with("panicked at ") && error.message.contains("lib.rs:"), "its place is kept: {error:?}");
    assert!(error.message.len() <= (2 << 10) + 64, "{} bytes", error.message.len());
    assert!(error.detail.unwrap().len() <= 8 << 10);
}

#[tokio::test]
async fn an_allocator_that_traps_is_the_guests_fault() {
    let trapping = going(Guest { realloc: "(unreachable)", ..Guest::default() }).await;
    assert_eq!(told(run(trapping).await), (ErrorKind::Trap, "trapped: wasm `unreachable` instruction executed".into()));
    for (realloc, expected) in [
        ("(return (i32.const -64))", "its `cabi_realloc` answered with no place in its memory"),
        ("(return (i32.add (local.get 2) (i32.const 1)))", ""),
    ] {
        let (kind, message) = told_or_done(run(going(Guest { realloc, ..Guest::default() }).await).await);
        assert!(message.contains(expected), "{realloc}: {kind:?}: {message}");
    }
    let mut endless = going(Guest { realloc: "(loop $l (br $l))", ..Guest::default() }).await;
    endless.timeout = Duration::from_millis(100);
    assert_eq!(told(run(endless).await), (ErrorKind::Timeout, "timed out after 100 ms".into()));
    // It exits within a call from the host.
    let leaving = going(Guest { imports: &[EXIT], run: "(call $exit (i32.const 1)) (unreachable)", ..Guest::default() }).await;
    assert_eq!(told(run(leaving).await).1, "left with exit(1) without a result");
}

/// The kind and message of a failure, or the result.
fn told_or_done(attempted: taskhost::engine::Attempted) -> (Option<ErrorKind>, String) {
    match attempted.outcome {
        Outcome::Failed { error, .. } => (Some(error.kind), error.message),
        Outcome::Done { result, .. } => (None, result),
        other @ Outcome::HostFault { .. } => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn floods_are_kept_in_bounds() {
    for (what, times) in [("log", 50_000), ("stdout", 50_000), ("progress", 150_000)] {
        let services = Arc::new(Fake::default());
        let mut flood = probe("flood", &format!(r#"["{what}",{times}]"#)).await;
        flood.services = Arc::clone(&services) as _;
        let attempted = run(flood).await;
        let (kept, passed_on, progress) =
            (attempted.log.len(), services.lines.lock().unwrap().len(), services.progress.lock().unwrap().len());
        assert_eq!(result(attempted), times.to_string(), "{what}");
        assert!(kept <= 64 << 10 && passed_on <= 10_000, "{what}: {kept} bytes, {passed_on} lines");
        match what {
            "progress" => assert_eq!(progress, 100_000, "the rest is dropped"),
            _ => assert!(kept > 32 << 10 && passed_on == 10_000, "{what}: the newest are kept: {kept} bytes, {passed_on} lines"),
        }
    }
    // A guest that reaches no other limit ends at the deadline.
    let mut endless = probe("flood", r#"["stdout",1000000000000]"#).await;
    endless.timeout = Duration::from_millis(300);
    assert_eq!(told(run(endless).await).1, "timed out after 300 ms");
}

#[tokio::test]
async fn more_than_fits_one_call_is_not_taken() {
    let run_ = "(call $log (i32.const 2) (i32.const 10000) (i32.const 6000000) (i32.const 0) (i32.const 0)) (unreachable)";
    let loud = going(Guest { imports: &[LOG], run: run_, memory: 200, ..Guest::default() }).await;
    assert_eq!(told(run(loud).await), (ErrorKind::Trap, "handed more than 5 MiB to the host in one call".into()));
    // A list of so many fields that their lengths alone are too much. The host allocates nothing for them before.
    let run_ = "(call $log (i32.const 2) (i32.const 10000) (i32.const 1) (i32.const 0) (i32.const 500000)) (unreachable)";
    let wide = going(Guest { imports: &[LOG], run: run_, memory: 200, ..Guest::default() }).await;
    assert_eq!(told(run(wide).await).0, ErrorKind::Trap);
}

#[tokio::test]
async fn describe_gets_little_time_and_no_rights() {
    let endless = Guest { describe: "(loop $l (br $l)) (unreachable)", ..Guest::default() }.build();
    assert_eq!(not_described(&endless).await, "`describe` used more than 100 ms of CPU: it should only return constants");
    let asking = Guest { imports: &[IS_CANCELLED], describe: "(drop (call $is-cancelled)) (i32.const 1024)", ..Guest::default() }.build();
    assert_eq!(not_described(&asking).await, "`describe` called `taskhost:plugin/context`: only `log` works there");
    let leaving = Guest { imports: &[EXIT], describe: "(call $exit (i32.const 0)) (unreachable)", ..Guest::default() }.build();
    let why = not_described(&leaving).await;
    assert!(why.starts_with("`describe` failed: ") && why.contains("exit"), "{why}");
    let bomb = "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) (unreachable)";
    let why = not_described(&Guest { describe: bomb, ..Guest::default() }.build()).await;
    assert!(why.starts_with("`describe` failed: "), "{why}");
    let nowhere = not_described(&Guest { describe: "(i32.const -4)", ..Guest::default() }.build()).await;
    assert!(nowhere.starts_with("`describe` failed: "), "{nowhere}");
}

#[tokio::test]
async fn odd_and_duplicate_names_are_refused() {
    let long = "n".repeat(300);
    for (names, expected) in [
        (vec!["two words"], "`two words`"),
        (vec![""], "bad description: "),
        (vec![long.as_str()], "bad description: "),
        (vec!["../../etc/passwd"], "`../../etc/passwd`"),
        (vec!["a\u{1b}[31mb"], "bad description: "),
        (vec!["go", "stop", "go"], "bad description: it offers `go` twice"),
        (vec![], "bad description: it offers no body"),
    ] {
        let why = not_described(&offering(&names)).await;
        assert!(why.contains(expected) && !why.contains(char::is_control) && why.len() < 1200, "{names:?}: {why:?}");
    }
    let (description, _) = engine().describe(&load(&offering(&["go", "stop"])).await).await.unwrap();
    assert_eq!(description.bodies.len(), 2);
}

#[tokio::test]
async fn a_zip_bomb_of_components_is_refused() {
    // Each level contains the level below twice. A few hundred bytes would become 2^40 instances.
    let mut text = "(component (core module $m) (core instance (instantiate $m)))".to_owned();
    for _ in 0..40 {
        text = format!(
            "(component (component $c {}) (instance (instantiate $c)) (instance (instantiate $c)))",
            &text["(component".len()..text.len() - 1]
        );
    }
    let bytes = wat::parse_str(&text).unwrap();
    assert!(bytes.len() < 8 << 10, "{} bytes", bytes.len());
    let why = compile(engine(), &bytes).await.unwrap_err().to_string();
    assert!(why.contains("more than 32 deep"), "{why}");
    // The levels are side by side and not nested. Each instantiates the one before it twice.
    let mut text = "(component $c0 (core module $m) (core instance (instantiate $m)))".to_owned();
    for n in 1..40 {
        let _ = write!(
            text,
            "(component $c{n} (alias outer 1 $c{} (component $b)) (instance (instantiate $b)) (instance (instantiate $b)))",
            n - 1
        );
    }
    let why = compile(engine(), &wat::parse_str(format!("(component {text} (instance (instantiate $c39)))")).unwrap()).await.unwrap_err();
    assert!(why.to_string().contains("would unfold to more than 1000 instances"), "{why}");
    // Ten thousand headers, each within the one before. This is deeper than a parser's stack.
    let mut deep = Vec::new();
    for _ in 0..10_000 {
        let inner = [b"\0asm\x0d\0\x01\0", &deep[..]].concat();
        deep = [&[4][..], &unsigned(inner.len()), &inner].concat();
    }
    let why = compile(engine(), &[b"\0asm\x0d\0\x01\0", &deep[..]].concat()).await.unwrap_err().to_string();
    assert!(why.contains("more than 32 deep"), "{why}");
}
