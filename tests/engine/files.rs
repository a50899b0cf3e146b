//! Files for the engine: components that never load, and compiled code kept on disk.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use super::{
    hostile::{Guest, INCREMENT, Import},
    support::{call, compile, engine, entries, private_dir, result, settings},
};
use taskhost::engine::{Engine, EngineError, EngineSettings};

async fn refused(bytes: &[u8]) -> String {
    match compile(engine(), bytes).await {
        Err(EngineError::BadComponent(why)) => why,
        other => panic!("not refused as a bad component: {other:?}"),
    }
}

#[tokio::test]
async fn what_is_no_plugin_is_told_so() {
    let good = Guest::default().build();
    let about = [
        (vec![], "empty"),
        (b"hello".to_vec(), "not WebAssembly"),
        (wat::parse_str("(module)").unwrap(), "core module, not a component: build with --target wasm32-wasip2"),
        (wat::parse_str("(component)").unwrap(), "exports no taskhost:plugin/tasks"),
        (good[..good.len() / 2].to_vec(), "cut off"),
        (Guest { contract: "taskhost:plugin/tasks@2.0.0", ..Guest::default() }.build(), "needs taskhost:plugin@2; this host offers 0.1"),
        (Guest { contract: "taskhost:plugin/tasks@0.2.0", ..Guest::default() }.build(), "needs taskhost:plugin@0.2; this host offers 0.1"),
        (Guest { imports: &[foreign("acme:crm/api@1.0.0")], ..Guest::default() }.build(), "does not offer: `acme:crm/api@1.0.0`"),
        (Guest { imports: &[foreign("wasi:cli/run@0.3.0")], ..Guest::default() }.build(), "WASI 0.3 / async"),
        (Guest { imports: &[foreign("taskhost:plugin/kv@0.1.0")], ..Guest::default() }.build(), "`f`"),
        (wat::parse_str("(component (type (func async)))").unwrap(), "WASI 0.3 / async"),
    ];
    for (bytes, expected) in about {
        let why = refused(&bytes).await;
        assert!(why.contains(expected), "expected `{expected}`: {why}");
    }
}

fn foreign(interface: &str) -> Import<'_> {
    Import { interface, types: "", name: "f", function: "(func)", core: "" }
}

#[tokio::test]
async fn describe_gets_nothing_but_a_log() {
    let describe = "(call $increment (i32.const 2050) (i32.const 2) (i64.const 5) (i32.const 4000)) (i32.const 1024)";
    let code = compile(engine(), &Guest { imports: &[INCREMENT], describe, ..Guest::default() }.build()).await.unwrap();
    let why = engine().describe(&code).await.unwrap_err();
    assert!(matches!(&why, EngineError::BadDescription(text) if text.contains("taskhost:plugin/kv")), "{why}");
    let trap = compile(engine(), &Guest { describe: "(unreachable)", ..Guest::default() }.build()).await.unwrap();
    assert!(matches!(engine().describe(&trap).await, Err(EngineError::BadDescription(_))));
}

fn with_cache(dir: &std::path::Path, cache_bytes: u64) -> Arc<Engine> {
    Engine::start(EngineSettings { cache: Some(dir.into()), cache_bytes, ..settings() }).unwrap()
}

#[tokio::test]
async fn compiled_code_outlives_the_process_and_is_checked() {
    let (dir, bytes) = (private_dir(), Guest::default().build());
    let answer = async |engine: &Arc<Engine>| result(engine.invoke(call(&compile(engine, &bytes).await.unwrap(), "go", "[]")).await);
    let first = with_cache(dir.path(), 1 << 30);
    assert_eq!(answer(&first).await, "7");
    let [entry] = &entries(dir.path())[..] else { panic!("one entry: {:?}", entries(dir.path())) };
    let written = (fs::read(entry).unwrap(), fs::metadata(entry).unwrap().ino());

    // The next process takes it from the cache, and marks it as used.
    fs::File::open(entry).unwrap().set_modified(UNIX_EPOCH + Duration::from_secs(1)).unwrap();
    assert_eq!(answer(&with_cache(dir.path(), 1 << 30)).await, "7");
    let about = fs::metadata(entry).unwrap();
    assert_eq!(about.ino(), written.1, "not written again");
    assert!(about.mtime() > 1, "marked as used");

    // A changed byte is noticed, and the entry is made again.
    let mut bad = written.0.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 0xff;
    drop(first);
    fs::remove_file(entry).unwrap();
    fs::write(entry, &bad).unwrap();
    assert_eq!(answer(&with_cache(dir.path(), 1 << 30)).await, "7");
    let [entry] = &entries(dir.path())[..] else { panic!("the bad one is gone: {:?}", entries(dir.path())) };
    assert!(fs::read(entry).unwrap() != bad, "compiled again: {entry:?}");
}

#[tokio::test]
async fn the_cache_is_bounded_least_recently_used_first() {
    let dir = private_dir();
    let engine = with_cache(dir.path(), 1);
    for page in 1..4 {
        compile(&engine, &Guest { memory: page, ..Guest::default() }.build()).await.unwrap();
        assert_eq!(entries(dir.path()).len(), 1, "only the last one");
    }
}

/// The machine, or the guests together, may have no memory for it now. That is no property of its bytes.
#[tokio::test]
async fn a_describe_that_gets_no_memory_is_not_the_plugins_fault() {
    let engine = Engine::start(EngineSettings { guest_memory: 1, ..settings() }).unwrap();
    let code = compile(&engine, &Guest::default().build()).await.unwrap();
    let why = engine.describe(&code).await.unwrap_err();
    assert!(matches!(&why, EngineError::Busy(text) if text.contains("guest_memory")), "{why:?}");
}

#[test]
fn a_cache_that_others_may_write_to_is_refused() {
    let dir = private_dir();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o770)).unwrap();
    let why = Engine::start(EngineSettings { cache: Some(dir.path().into()), ..settings() }).unwrap_err().to_string();
    assert!(why.contains("chmod 700"), "{why}");
}
