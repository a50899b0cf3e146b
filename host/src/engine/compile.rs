//! Compiles bytes to machine code once, and says why some bytes can't be compiled.
//!
//! check the bytes → cache, or Cranelift in a process (else on a thread) of its own → check imports and exports → link

use std::{fs::File, io, sync::Arc};

use tokio::sync::oneshot;
use wasmtime::component::Component;

use super::{
    artefact::{self, Artefact, NEEDS_ASYNC, UNFIT, is_unfit, translate, trust},
    bindings::PluginPre,
    blame, compile_process,
    error::EngineError,
    guest::Code,
    machine::Machine,
    sentence,
    setup::{MEMORIES, TABLE_ELEMENTS, TABLES},
};

/// The package of `wit/plugin.wit`, and the version that this host offers. Before 1.0 a new minor number may break plugins.
pub(super) const CONTRACT: &str = "taskhost:plugin";
const OFFERED: (u64, u64) = (0, 1);
/// The nice value of a compilation on a thread beside running guests.
const NICE: i32 = 19;

pub(super) async fn compile(engine: &Arc<Machine>, bytes: Arc<[u8]>, digest: &str) -> Result<Arc<Code>, EngineError> {
    look(&bytes)?;
    // Before the permit: a cached component waits for no compilation.
    let kept = on_a_thread(engine, digest, |engine, digest| {
        let kept = engine.cache.as_ref().and_then(|cache| cache.get(&engine.wasm, digest));
        kept.map(|component| link(engine, &component, None)).transpose()
    });
    if let Some(code) = kept.await? {
        return Ok(code);
    }
    let one_of_few = Arc::clone(&engine.compiling).acquire_owned().await.map_err(|_| EngineError::Host("the engine was stopped".into()))?;
    if let Some(compiler) = &engine.compiler {
        return translate_apart(engine, compiler, &bytes, digest).await;
    }
    on_a_thread(engine, digest, move |engine, digest| {
        // The thread holds the permit, not the future: a caller that stops waiting does not stop the compiler.
        let _one_of_few = one_of_few;
        translate_here(engine, &bytes, digest)
    })
    .await
}

/// Compiles in the compiler's process: into the cache, or into memory if the disk is full or can't be written.
async fn translate_apart(
    engine: &Arc<Machine>,
    compiler: &compile_process::Compiler,
    bytes: &[u8],
    digest: &str,
) -> Result<Arc<Code>, EngineError> {
    let mut unkept = None;
    if let Some(cache) = &engine.cache {
        match cache.room() {
            Ok(room) => match compile_process::translate(compiler, bytes, &room.file).await {
                Ok(()) => {
                    return on_a_thread(engine, digest, move |engine, digest| {
                        let Some(cache) = &engine.cache else { return Err(EngineError::Host("there is no cache".into())) };
                        let (component, unkept) = cache.adopt(&engine.wasm, digest, room).map_err(unfit)?;
                        link(engine, &component, unkept)
                    })
                    .await;
                }
                Err(EngineError::Host(why)) => unkept = Some(cache.unkept(&why)),
                Err(other) => return Err(other),
            },
            Err(why) => unkept = Some(why),
        }
    }
    let room = in_memory().map_err(|error| {
        EngineError::Host(format!("no room for compiled code ({error}): give this user a directory for temporary files"))
    })?;
    compile_process::translate(compiler, bytes, &room).await?;
    on_a_thread(engine, digest, move |engine, _| {
        let artefact = artefact::read_all(&room).map_err(|error| EngineError::Host(format!("can't read compiled code: {error}")))?;
        let component = trust(&engine.wasm, Artefact::Fresh(&artefact)).map_err(unfit)?;
        link(engine, &component, unkept)
    })
    .await
}

/// A thread of its own, because its low priority can't be raised again.
async fn on_a_thread<T: Send + 'static>(
    engine: &Arc<Machine>,
    digest: &str,
    work: impl FnOnce(&Machine, &str) -> Result<T, EngineError> + Send + 'static,
) -> Result<T, EngineError> {
    let (answer, answered) = oneshot::channel();
    let (engine, digest) = (Arc::clone(engine), digest.to_owned());
    std::thread::Builder::new()
        .name("compile".into())
        .spawn(move || answer.send(work(&engine, &digest)).is_ok())
        .map_err(|error| EngineError::Host(format!("can't start a thread to compile on: {error}")))?;
    answered.await.map_err(|_| EngineError::Host("the engine was stopped while it compiled".into()))?
}

/// A file in memory, if the system has such files; else a file on disk without a name.
fn in_memory() -> io::Result<File> {
    #[cfg(target_os = "linux")]
    if let Ok(file) = rustix::fs::memfd_create("compiled", rustix::fs::MemfdFlags::CLOEXEC) {
        return Ok(file.into());
    }
    tempfile::tempfile()
}

fn translate_here(engine: &Machine, bytes: &[u8], digest: &str) -> Result<Arc<Code>, EngineError> {
    if engine.cpu.runnable() > 0
        && let Err(error) = rustix::process::setpriority_process(None, NICE)
    {
        tracing::debug!("compiling at full priority: {error}");
    }
    let artefact = translate(&engine.wasm, bytes)?;
    let (component, unkept) = match &engine.cache {
        Some(cache) => cache.put(&engine.wasm, digest, &artefact).map_err(unfit)?,
        None => (trust(&engine.wasm, Artefact::Fresh(&artefact)).map_err(unfit)?, None),
    };
    link(engine, &component, unkept)
}

/// Why fresh code was not loaded: it is larger than any sandbox, which no retry changes, or the machine failed.
fn unfit(problem: String) -> EngineError {
    if !is_unfit(&problem) {
        return EngineError::Host(problem);
    }
    let (_, why) = problem.split_once(UNFIT).unwrap_or_default();
    let why = why.trim_start_matches(" requirements").trim_start_matches([':', ' ']);
    EngineError::BadComponent(sentence::line(
        &format!("needs more than a sandbox has: {why}: make it smaller, or build it as one program"),
        1024,
    ))
}

/// Checks the first bytes.
fn look(bytes: &[u8]) -> Result<(), EngineError> {
    let problem = match bytes {
        [] => "the file is empty: copy the component again",
        [0, b'a', b's', b'm', 0x0d, 0, 1, 0, ..] => return Ok(()),
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => {
            "this is a core module, not a component: build with --target wasm32-wasip2, or wrap it with `wasm-tools component new`"
        }
        [0, b'a', b's', b'm', _, _, _, _, ..] => {
            "this WebAssembly has a version that the host does not know: build with --target wasm32-wasip2"
        }
        _ if b"\0asm".starts_with(&bytes[..bytes.len().min(4)]) => "the file is cut off: copy the component again",
        _ => "this is not WebAssembly: a plugin is a component, built with --target wasm32-wasip2",
    };
    Err(EngineError::BadComponent(problem.into()))
}

fn link(engine: &Machine, component: &Component, unkept: Option<String>) -> Result<Arc<Code>, EngineError> {
    check_names(&engine.wasm, component).map_err(EngineError::BadComponent)?;
    let initial_memory = check_size(component).map_err(EngineError::BadComponent)?;
    let linked = engine.linker.instantiate_pre(component).and_then(PluginPre::new);
    let pre = linked.map_err(|error| {
        if blame::is_the_machines(&error) {
            return EngineError::Host(sentence::line(&format!("can't link it: {error:#}"), 1024));
        }
        EngineError::BadComponent(sentence::line(&format!("does not fit {CONTRACT}@{}: {error:#}", version(OFFERED)), 1024))
    })?;
    Ok(Arc::new(Code { pre, initial_memory, unkept }))
}

/// Names every import that is missing: first those of another major version, then those that no host offers.
fn check_names(engine: &wasmtime::Engine, component: &Component) -> Result<(), String> {
    let world = component.component_type();
    let imports: Vec<&str> = world.imports(engine).map(|(name, _)| name).collect();
    let exports: Vec<&str> = world.exports(engine).map(|(name, _)| name).collect();
    for name in imports.iter().chain(&exports) {
        match Name::parse(name) {
            Some(Name { package: CONTRACT, version: needed, .. }) if needed != OFFERED => {
                return Err(format!("needs {CONTRACT}@{}; this host offers {}", version(needed), version(OFFERED)));
            }
            Some(Name { package, version: (0, 3..) | (1.., _), .. }) if package.starts_with("wasi:") => return Err(NEEDS_ASYNC.into()),
            _ => {}
        }
    }
    let unknown: Vec<&str> = imports.into_iter().filter(|name| !is_offered(name)).collect();
    if !unknown.is_empty() {
        let names = sentence::cut(unknown.join("`, `"), 512);
        return Err(format!(
            "imports what this host does not offer: `{names}`; it offers {CONTRACT}, WASI 0.2 and wasi:http/outgoing-handler"
        ));
    }
    let tasks = exports.iter().filter_map(|name| Name::parse(name)).any(|name| name.package == CONTRACT && name.interface == "tasks");
    if !tasks {
        return Err(format!(
            "exports no {CONTRACT}/tasks: use `export_plugin!` of the SDK, or build for the world that `taskhost plugin wit` prints"
        ));
    }
    Ok(())
}

/// Whether the interface is known by name. The linker checks its functions.
fn is_offered(import: &str) -> bool {
    Name::parse(import).is_some_and(|name| match name.package {
        CONTRACT => matches!(name.interface, "types" | "context" | "log" | "children" | "kv" | "spans"),
        "wasi:http" => matches!(name.interface, "types" | "outgoing-handler"),
        "wasi:cli" | "wasi:clocks" | "wasi:filesystem" | "wasi:io" | "wasi:random" | "wasi:sockets" => true,
        _ => false,
    })
}

/// `package:name/interface@major.minor.patch`
struct Name<'a> {
    package: &'a str,
    interface: &'a str,
    /// The numbers whose change may break plugins: major and, before 1.0, minor.
    version: (u64, u64),
}

impl<'a> Name<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (path, number) = text.rsplit_once('@')?;
        let (package, interface) = path.split_once('/')?;
        let mut numbers = number.split('.').map(|part| part.parse::<u64>().ok());
        let (major, minor) = (numbers.next()??, numbers.next()??);
        Some(Self { package, interface, version: (major, if major == 0 { minor } else { 0 }) })
    }
}

fn version((major, minor): (u64, u64)) -> String {
    if major == 0 { format!("0.{minor}") } else { major.to_string() }
}

/// Checks that one instance fits a slot of the pool. Returns the bytes of the largest memory.
fn check_size(component: &Component) -> Result<u64, String> {
    let Some(needed) = component.resources_required() else {
        return Err("imports core modules, which this host does not offer".into());
    };
    let advice = "build it as one program";
    if needed.num_memories > MEMORIES {
        return Err(format!("needs {} memories; {MEMORIES} are the most: {advice}", needed.num_memories));
    }
    if needed.num_tables > TABLES {
        return Err(format!("needs {} tables; {TABLES} are the most: {advice}", needed.num_tables));
    }
    let elements = needed.max_initial_table_size.unwrap_or(0);
    if elements > TABLE_ELEMENTS as u64 {
        return Err(format!(
            "needs a table of {elements} elements; {TABLE_ELEMENTS} are the most: make it smaller (optimise, strip unused code)"
        ));
    }
    Ok(needed.max_initial_memory_size.unwrap_or(0).saturating_mul(64 << 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell_what_it_is() {
        let problem = |bytes: &[u8]| look(bytes).unwrap_err().to_string();
        assert!(problem(b"").contains("empty"));
        assert!(problem(b"\0as").contains("cut off"));
        assert!(problem(b"\0asm\x0d\0").contains("cut off"));
        assert!(problem(b"\0asm\x01\0\0\0").contains("core module"));
        assert!(problem(b"#!/bin/sh\n").contains("not WebAssembly"));
        assert!(look(b"\0asm\x0d\0\x01\0").is_ok());
    }

    #[test]
    fn a_version_before_one_breaks_with_its_minor() {
        let version = |text| Name::parse(text).unwrap().version;
        assert_eq!(version("taskhost:plugin/tasks@0.1.9"), OFFERED);
        assert_ne!(version("taskhost:plugin/tasks@0.2.0"), OFFERED);
        assert_eq!(version("taskhost:plugin/tasks@2.3.4"), (2, 0));
        assert!(Name::parse("local-function").is_none());
    }
}
