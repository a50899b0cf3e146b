//! Compilation in a separate process, with the real program.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::{
    hostile::Guest,
    support::{call, compile, entries, plugin, private_dir, result, settings},
};
use taskhost::engine::{Compiler, Engine, EngineError, EngineSettings};

fn program() -> PathBuf {
    env!("CARGO_BIN_EXE_taskhost").into()
}

fn apart(cache: Option<PathBuf>, program: Option<PathBuf>) -> Arc<Engine> {
    Engine::start(EngineSettings { cache, compiler: program.map(Compiler::new), ..settings() }).unwrap()
}

#[tokio::test]
async fn what_another_process_compiled_runs_here() {
    let dir = private_dir();
    let engine = apart(Some(dir.path().into()), Some(program()));
    let code = compile(&engine, &plugin("math")).await.unwrap();
    assert_eq!(result(engine.invoke(call(&code, "add", "[1,1]")).await), "2");
    let kept = entries(dir.path());
    assert!(kept.len() == 1 && kept[0].extension().is_some_and(|end| end == "cwasm"), "{kept:?}");
    // The cache has it, so the next engine needs no compiler.
    let without = apart(Some(dir.path().into()), Some("/nowhere/at/all".into()));
    let code = compile(&without, &plugin("math")).await.unwrap();
    assert_eq!(result(without.invoke(call(&code, "add", "[1,1]")).await), "2");
    // It also works without a cache.
    let uncached = apart(None, Some(program()));
    let code = compile(&uncached, &Guest::default().build()).await.unwrap();
    assert_eq!(result(uncached.invoke(call(&code, "go", "[]")).await), "7");
}

#[tokio::test]
async fn what_is_wrong_with_a_plugin_is_told_across_the_processes() {
    let dir = private_dir();
    let engine = apart(Some(dir.path().into()), Some(program()));
    let good = Guest::default().build();
    for (bytes, expected) in [
        (good[..good.len() / 2].to_vec(), "the file is cut off"),
        (wat::parse_str("(component (type (func async)))").unwrap(), "WASI 0.3 / async"),
    ] {
        match compile(&engine, &bytes).await {
            Err(EngineError::BadComponent(why)) => assert!(why.contains(expected), "{why}"),
            other => panic!("not refused: {other:?}"),
        }
    }
    assert!(entries(dir.path()).is_empty(), "nothing is left behind: {:?}", entries(dir.path()));
}

#[tokio::test]
async fn a_compiler_that_breaks_is_not_the_end() {
    let dir = private_dir();
    let script = |text: &str| {
        let path = dir.path().join(format!("compiler-{}", fastrand::u64(..)));
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        Some(path)
    };
    let bytes = Guest::default().build();
    for (does, expected) in [
        ("ulimit -c 0; kill -ABRT $$", "gave up on it"),
        ("kill -XCPU $$", "240 s of CPU"),
        ("kill -XFSZ $$", "1 GiB of code"),
        ("echo memory allocation of 5 bytes failed >&2; ulimit -c 0; kill -ABRT $$", "3 GiB of memory"),
        ("yes >&2; exit 101", "gave up on it"),
    ] {
        match compile(&apart(None, script(does)), &bytes).await {
            Err(EngineError::BadComponent(why)) => assert!(why.contains(expected), "{does}: {why}"),
            other => panic!("{does}: {other:?}"),
        }
    }
    // A failure of the machine may not happen next time.
    let by_the_machine = ["kill -KILL $$", "kill -INT $$", "kill -HUP $$", "echo no artefact", "yes >&2; exit 1", "exit 127"].map(script);
    for compiler in by_the_machine.into_iter().chain([Some("/nowhere/at/all".into())]) {
        match compile(&apart(None, compiler), &bytes).await {
            Err(EngineError::Busy(_) | EngineError::Host(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// `/dev/full` acts as a full disk.
#[tokio::test]
async fn a_disk_that_is_full_is_not_held_against_a_plugin() {
    let (dir, scripts) = (private_dir(), private_dir());
    let script = |name: &str, text: &str| {
        let path = scripts.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        Some(path)
    };
    let (bytes, program) = (Guest::default().build(), program());
    let full = script("full", &format!("exec {} \"$@\" > /dev/full", program.display()));
    match compile(&apart(Some(dir.path().into()), full), &bytes).await {
        Err(EngineError::Host(why)) => assert!(why.contains("No space left"), "{why}"),
        other => panic!("{other:?}"),
    }
    // Only the disk of the cache is full. The code stays in memory, and a warning says so.
    let once = scripts.path().join("once");
    let text = format!("[ -e {0} ] && exec {1} \"$@\"; touch {0}; exec {1} \"$@\" > /dev/full", once.display(), program.display());
    let engine = apart(Some(dir.path().into()), script("once-full", &text));
    let code = compile(&engine, &bytes).await.unwrap();
    assert!(code.unkept().unwrap().contains("No space left") && code.unkept().unwrap().contains("make room"), "{:?}", code.unkept());
    assert_eq!(result(engine.invoke(call(&code, "go", "[]")).await), "7");
    assert!(entries(dir.path()).is_empty(), "nothing is left behind: {:?}", entries(dir.path()));
}

#[tokio::test]
async fn a_command_that_somebody_waits_for_compiles_at_normal_priority() {
    let dir = private_dir();
    let (path, told) = (dir.path().join("compiler"), dir.path().join("told"));
    // The last argument is its nice value.
    std::fs::write(&path, format!("#!/bin/sh\necho $4 > {}; exec {} \"$@\"\n", told.display(), program().display())).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let with = async |compiler: Compiler| {
        let engine = Engine::start(EngineSettings { compiler: Some(compiler), ..settings() }).unwrap();
        compile(&engine, &Guest::default().build()).await.unwrap();
        std::fs::read_to_string(&told).unwrap().trim().to_owned()
    };
    assert_eq!(with(Compiler::foreground(path.clone())).await, "0");
    assert_ne!(with(Compiler::new(path)).await, "0", "beside guests it steps back");
}

#[tokio::test]
async fn who_stops_waiting_stops_the_compiler() {
    let dir = private_dir();
    let (script, pid) = (dir.path().join("compiler"), dir.path().join("pid"));
    std::fs::write(&script, format!("#!/bin/sh\necho $$ > {0}.new; mv {0}.new {0}; exec sleep 3600\n", pid.display())).unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let engine = apart(None, Some(script));
    let bytes = Guest::default().build();
    let waiting = tokio::spawn(async move { compile(&engine, &bytes).await.map(drop) });
    let until = async |is_so: &dyn Fn() -> bool| {
        tokio::time::timeout(Duration::from_secs(60), async {
            while !is_so() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("it comes to be");
    };
    until(&|| pid.exists()).await;
    let process = PathBuf::from("/proc").join(std::fs::read_to_string(&pid).unwrap().trim());
    assert!(process.exists());
    waiting.abort();
    // It stays a zombie until the runtime reaps it.
    until(&|| std::fs::read_to_string(process.join("stat")).map_or(true, |stat| stat.contains(") Z "))).await;
}

/// The real compiler under a real limit of the kernel, which is lower than a worker's.
#[tokio::test]
async fn a_component_that_takes_too_much_memory_to_compile_is_refused_and_the_next_is_not() {
    let large = super::hostile::large_component(8 << 20, 7);
    let with = |memory: u64| {
        let compiler = Some(Compiler { memory: memory << 20, ..Compiler::new(program()) });
        Engine::start(EngineSettings { compiler, ..settings() }).unwrap()
    };
    // The first limit is too low for the bytes, the second for the code.
    for memory in [10, 18] {
        let engine = with(memory);
        match compile(&engine, &large).await {
            Err(EngineError::BadComponent(why)) => assert_eq!(
                why,
                format!("compiling it takes more than {memory} MiB of memory: make it smaller (optimise, strip unused code)")
            ),
            other => panic!("not refused: {other:?}"),
        }
        let code = compile(&engine, &Guest::default().build()).await.unwrap();
        assert_eq!(result(engine.invoke(call(&code, "go", "[]")).await), "7");
    }
    // With more memory the compiler succeeds. Only then it is found that this is no plugin.
    match compile(&with(256), &large).await {
        Err(EngineError::BadComponent(why)) => assert!(why.contains("exports no taskhost:plugin/tasks"), "{why}"),
        other => panic!("{other:?}"),
    }
}

/// CPU time does not depend on the load of the machine. A plugin that needs too much is refused for good.
#[tokio::test]
async fn a_component_that_takes_too_long_to_compile_is_refused() {
    let compiler = Some(Compiler { cpu: 1, ..Compiler::new(program()) });
    let engine = Engine::start(EngineSettings { compiler, ..settings() }).unwrap();
    match compile(&engine, &super::hostile::large_component(30 << 20, 7)).await {
        Err(EngineError::BadComponent(why)) => {
            assert_eq!(why, "compiling it takes more than 1 s of CPU: make it smaller (optimise, strip unused code)");
        }
        other => panic!("not refused: {other:?}"),
    }
    let code = compile(&engine, &Guest::default().build()).await.unwrap();
    assert_eq!(result(engine.invoke(call(&code, "go", "[]")).await), "7");
}

/// In a container with lower limits, those hold. A plugin that fits them compiles.
#[tokio::test]
async fn a_machine_that_allows_less_is_no_reason_to_refuse() {
    let dir = private_dir();
    let within = |limit: &str| {
        let path = dir.path().join(format!("within-{}", fastrand::u64(..)));
        std::fs::write(&path, format!("#!/bin/sh\nulimit {limit} && exec {} \"$@\"\n", program().display())).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        apart(None, Some(path))
    };
    let bytes = Guest::default().build();
    let large = super::hostile::large_component(30 << 20, 7);
    for (limit, bytes, expected) in [("-f 2", &bytes, "of code"), ("-t 2", &large, "of CPU")] {
        match compile(&within(limit), bytes).await {
            Err(EngineError::BadComponent(why)) => assert!(why.contains(expected), "{why}"),
            other => panic!("not refused: {other:?}"),
        }
    }
    let engine = within("-f 10000 && ulimit -t 100");
    let code = compile(&engine, &bytes).await.unwrap();
    assert_eq!(result(engine.invoke(call(&code, "go", "[]")).await), "7");
}
