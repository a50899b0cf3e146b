//! Compiled code, as bytes or as a file: makes it from WebAssembly, reads it, and loads it.
//!
//! Invariant: only [`trust`] loads compiled code. Loading is executing.

use std::{
    fs::File,
    io,
    os::{fd::AsRawFd, unix::fs::FileExt},
};

use wasmtime::component::Component;

use super::{blame, error::EngineError, sentence, shape};

/// wasmtime does not export the type of this error.
pub(super) const UNFIT: &str = "pooling allocator";

pub(super) fn is_unfit(problem: &str) -> bool {
    problem.contains(UNFIT)
}

/// Compiles WebAssembly into an artefact that [`wasmtime::component::Component`] loads. A plugin's author decides how much time and memory
/// that takes, so a worker does it in another process.
pub(super) fn translate(engine: &wasmtime::Engine, bytes: &[u8]) -> Result<Vec<u8>, EngineError> {
    shape::check(bytes).map_err(EngineError::BadComponent)?;
    engine.precompile_component(bytes).map_err(|error| {
        if blame::is_the_machines(&error) {
            return EngineError::Host(sentence::line(&format!("can't compile: {error:#}"), 1024));
        }
        EngineError::BadComponent(translate_problem(&error))
    })
}

/// Checked compiled code, ready to be loaded.
#[derive(Clone, Copy)]
pub(super) enum Artefact<'a> {
    /// The bytes that `translate` has just returned, here or in the compiler's process.
    Fresh(&'a [u8]),
    /// An entry of the cache whose seal is right.
    Kept(&'a File),
}

/// A path to an open file, also if its own path leads elsewhere by now.
const DESCRIPTORS: &str = if cfg!(target_os = "linux") { "/proc/self/fd" } else { "/dev/fd" };

#[expect(unsafe_code, reason = "loading compiled code is executing it; this is where the engine trusts its own compiler")]
pub(super) fn trust(engine: &wasmtime::Engine, artefact: Artefact<'_>) -> Result<Component, String> {
    // SAFETY: this engine's own compiler made both kinds. A kept one is the very file that has just been checked: only this user may
    // write to it, it is never changed in place, and its name contains the seal of this engine and of its bytes.
    let loaded = unsafe {
        match artefact {
            Artefact::Fresh(bytes) => Component::deserialize(engine, bytes),
            // By its descriptor, because its path may lead to another file by now.
            Artefact::Kept(file) => Component::deserialize_file(engine, format!("{DESCRIPTORS}/{}", file.as_raw_fd())),
        }
    };
    loaded.map_err(|error| format!("can't load compiled code: {error:#}"))
}

pub(super) const NEEDS_ASYNC: &str = "uses WASI 0.3 / async; build for WASI 0.2 (jco: `--backend qjs --backend-qjs-disable-async`)";

fn translate_problem(error: &wasmtime::Error) -> String {
    let text = format!("{error:#}");
    if text.contains("component model async") || text.contains("concurrency support") {
        return NEEDS_ASYNC.into();
    }
    if text.contains("unexpected end") {
        return sentence::line(&format!("the file is cut off: copy the component again ({text})"), 1024);
    }
    sentence::line(&format!("not a component that this host can run: {text}; build with --target wasm32-wasip2"), 1024)
}

/// Reads a whole file, wherever its cursor is.
pub(super) fn read_all(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    pieces(file, |piece| bytes.extend_from_slice(piece))?;
    Ok(bytes)
}

/// Passes a file on piece by piece, from its beginning.
pub(super) fn pieces(file: &File, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let (mut buffer, mut at) = (vec![0; 64 << 10], 0);
    loop {
        match file.read_at(&mut buffer, at)? {
            0 => return Ok(()),
            read => {
                each(&buffer[..read]);
                at += read as u64;
            }
        }
    }
}
