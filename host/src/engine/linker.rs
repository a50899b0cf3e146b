//! Links everything that a component may import, once for all components.

use wasmtime::component::Linker;

use super::{error::EngineError, files, guest::Guest, imports, requests};

/// Everything that a component may import. Functions that the policy does not grant are linked too, and answer "denied".
pub(super) fn linker(engine: &wasmtime::Engine) -> Result<Linker<Guest>, EngineError> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)
        .and_then(|()| wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker))
        .and_then(|()| imports::add_to_linker(&mut linker))
        .and_then(|()| {
            // Replaces some of those functions by ours, which have limits.
            linker.allow_shadowing(true);
            requests::add_to_linker(&mut linker)?;
            files::add_to_linker(&mut linker)
        })
        .map_err(|error| EngineError::Host(format!("can't link the host's interfaces: {error:#}")))?;
    Ok(linker)
}
