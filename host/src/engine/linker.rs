//! Everything that a component may import, linked once for all of them.

use wasmtime::component::Linker;

use super::{error::EngineError, files, guest::Guest, imports, requests};

/// Everything that a component may import. What policy does not grant is linked as well: it answers "denied".
pub(super) fn linker(engine: &wasmtime::Engine) -> Result<Linker<Guest>, EngineError> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)
        .and_then(|()| wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker))
        .and_then(|()| imports::add_to_linker(&mut linker))
        .and_then(|()| {
            // Some of those functions again, with bounds.
            linker.allow_shadowing(true);
            requests::add_to_linker(&mut linker)?;
            files::add_to_linker(&mut linker)
        })
        .map_err(|error| EngineError::Host(format!("can't link the host's interfaces: {error:#}")))?;
    Ok(linker)
}
