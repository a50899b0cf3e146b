//! `wasi:http/types` with limits. The text of a request stays in the host until its handle is dropped, so it is limited and counted.
//!
//! a function of the contract → too long? → counted → wasmtime's own function
//!
//! Invariant: this file has every function by which a guest can put text, headers or a body behind a handle.

use wasmtime::{
    StoreContextMut,
    component::{Linker, LinkerInstance, Resource},
};
use wasmtime_wasi_http::{
    FieldMap, WasiHttpView,
    p2::{
        bindings::http::types::{self as wasi, ErrorCode, HeaderError, HostFields, Method, Scheme},
        body::{HostFutureTrailers, HostOutgoingBody},
        types::{HostFutureIncomingResponse, HostIncomingResponse, HostOutgoingRequest, HostOutgoingResponse},
    },
};

use super::{
    guest::Guest,
    http_bounds::{AUTHORITY, BODY, FIELDS, NAME, PATH},
    memory,
};

const HTTP: &str = "wasi:http/types@0.2.12";

type Store<'a> = StoreContextMut<'a, Guest>;
/// The contract's refusal, which has no reason.
type Plain<T = ()> = (Result<T, ()>,);

pub(super) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut http = linker.instance(HTTP)?;
    fields(&mut http)?;
    requests(&mut http)?;
    answers(&mut http)
}

fn fields(http: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    type Answer<T = ()> = (Result<T, HeaderError>,);
    http.func_wrap("[static]fields.from-list", |mut store: Store<'_>, (entries,): (Vec<(String, Vec<u8>)>,)| {
        let guest = store.data_mut();
        guest.keep(entries.iter().map(|(name, value)| memory::header(name, value)).sum::<usize>().min(2 * FIELDS))?;
        Ok::<Answer<_>, _>((told(HostFields::from_list(&mut guest.http(), entries))?,))
    })?;
    http.func_wrap("[method]fields.append", |mut store: Store<'_>, (fields, name, value): (Resource<FieldMap>, String, Vec<u8>)| {
        let guest = store.data_mut();
        guest.keep(memory::header(&name, &value).min(FIELDS))?;
        Ok::<Answer, _>((told(HostFields::append(&mut guest.http(), fields, name, value))?,))
    })?;
    http.func_wrap("[method]fields.set", |mut store: Store<'_>, (fields, name, values): (Resource<FieldMap>, String, Vec<Vec<u8>>)| {
        let guest = store.data_mut();
        let map = fields.rep();
        guest.keep(values.iter().map(|value| memory::header(&name, value)).sum::<usize>().min(2 * FIELDS))?;
        let answer = told(HostFields::set(&mut guest.http(), fields, name, values))?;
        if answer.is_ok() {
            pack(guest, map)?;
        }
        Ok::<Answer, _>((answer,))
    })?;
    http.func_wrap("[method]fields.delete", |mut store: Store<'_>, (fields, name): (Resource<FieldMap>, String)| {
        let guest = store.data_mut();
        let map = fields.rep();
        let answer = told(HostFields::delete(&mut guest.http(), fields, name))?;
        if answer.is_ok() {
            pack(guest, map)?;
        }
        Ok::<Answer, _>((answer,))
    })?;
    // The two share memory until one is changed, and then it is copied.
    http.func_wrap("[method]fields.clone", |mut store: Store<'_>, (fields,): (Resource<FieldMap>,)| {
        let guest = store.data_mut();
        let bytes = memory::headers(guest.table.get(&fields)?);
        guest.keep(bytes)?;
        Ok((HostFields::clone(&mut guest.http(), fields)?,))
    })
}

/// A new map, because a map keeps the memory of entries that were removed.
fn pack(guest: &mut Guest, map: u32) -> wasmtime::Result<()> {
    let map = guest.table.get_mut(&Resource::<FieldMap>::new_borrow(map))?;
    let mut packed = FieldMap::new_mutable(FIELDS);
    for (name, value) in map.iter() {
        packed.append_raw(name.clone(), value.clone())?;
    }
    *map = packed;
    Ok(())
}

/// The error for the guest. An error that the contract does not have is a trap.
fn told<T>(answer: wasmtime_wasi_http::p2::HeaderResult<T>) -> wasmtime::Result<Result<T, HeaderError>> {
    match answer {
        Ok(value) => Ok(Ok(value)),
        Err(error) => error.downcast().map(Err),
    }
}

fn requests(http: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    type Request = Resource<HostOutgoingRequest>;
    http.func_wrap("[method]outgoing-request.set-method", |mut store: Store<'_>, (request, method): (Request, Method)| {
        let (guest, length) = (store.data_mut(), memory::method(&method));
        bounded(guest, length, NAME, |guest| wasi::HostOutgoingRequest::set_method(&mut guest.http(), request, method))
    })?;
    http.func_wrap("[method]outgoing-request.set-scheme", |mut store: Store<'_>, (request, scheme): (Request, Option<Scheme>)| {
        let (guest, length) = (store.data_mut(), scheme.as_ref().map_or(0, memory::scheme));
        bounded(guest, length, NAME, |guest| wasi::HostOutgoingRequest::set_scheme(&mut guest.http(), request, scheme))
    })?;
    http.func_wrap("[method]outgoing-request.set-authority", |mut store: Store<'_>, (request, authority): (Request, Option<String>)| {
        let (guest, length) = (store.data_mut(), authority.as_ref().map_or(0, String::len));
        bounded(guest, length, AUTHORITY, |guest| wasi::HostOutgoingRequest::set_authority(&mut guest.http(), request, authority))
    })?;
    http.func_wrap("[method]outgoing-request.set-path-with-query", |mut store: Store<'_>, (request, path): (Request, Option<String>)| {
        let (guest, length) = (store.data_mut(), path.as_ref().map_or(0, String::len));
        bounded(guest, length, PATH, |guest| wasi::HostOutgoingRequest::set_path_with_query(&mut guest.http(), request, path))
    })?;
    http.func_wrap("[method]outgoing-request.body", |mut store: Store<'_>, (request,): (Request,)| {
        let guest = store.data_mut();
        guest.keep(BODY)?;
        Ok::<Plain<Resource<HostOutgoingBody>>, _>((wasi::HostOutgoingRequest::body(&mut guest.http(), request)?,))
    })
}

fn bounded(
    guest: &mut Guest,
    length: usize,
    most: usize,
    set: impl FnOnce(&mut Guest) -> wasmtime::Result<Result<(), ()>>,
) -> wasmtime::Result<Plain> {
    if length > most {
        return Ok((Err(()),));
    }
    guest.keep(length)?;
    Ok((set(guest)?,))
}

fn answers(http: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    type Future<T> = (Option<Result<Result<T, ErrorCode>, ()>>,);
    http.func_wrap("[method]outgoing-response.body", |mut store: Store<'_>, (response,): (Resource<HostOutgoingResponse>,)| {
        let guest = store.data_mut();
        guest.keep(BODY)?;
        Ok::<Plain<Resource<HostOutgoingBody>>, _>((wasi::HostOutgoingResponse::body(&mut guest.http(), response)?,))
    })?;
    http.func_wrap("[method]future-incoming-response.get", |mut store: Store<'_>, (future,): (Resource<HostFutureIncomingResponse>,)| {
        let guest = store.data_mut();
        let answer = wasi::HostFutureIncomingResponse::get(&mut guest.http(), future)?;
        if let Some(Ok(Ok(response))) = &answer {
            let bytes = memory::headers(&guest.table.get(response)?.headers);
            guest.keep(bytes)?;
        }
        Ok::<Future<Resource<HostIncomingResponse>>, _>((answer,))
    })?;
    http.func_wrap("[method]future-trailers.get", |mut store: Store<'_>, (future,): (Resource<HostFutureTrailers>,)| {
        let guest = store.data_mut();
        let answer = wasi::HostFutureTrailers::get(&mut guest.http(), future)?;
        if let Some(Ok(Ok(Some(trailers)))) = &answer {
            let bytes = memory::headers(guest.table.get(trailers)?);
            guest.keep(bytes)?;
        }
        Ok::<Future<Option<Resource<FieldMap>>>, _>((answer,))
    })
}
