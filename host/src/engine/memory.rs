//! Counts the memory of one attempt: its sandbox, and the memory behind its handles in the host.
//!
//! a growth, or a host call that keeps bytes → counted → refused at a limit. Nobody reports a dropped handle, so now and then all handles
//! are measured again, and the memory of those that are gone is given back.
//!
//! Invariant: the count is at least the memory held, and exceeds it by at most as much again, or by [`STALE`].

use std::sync::{Arc, atomic::Ordering::Relaxed};

use http::HeaderMap;
use wasmtime::{ResourceLimiter, component::ResourceTable};
use wasmtime_wasi_http::{
    FieldMap,
    p2::{
        bindings::http::types::{Method, Scheme},
        body::HostFutureTrailers,
        types::{HostIncomingResponse, HostOutgoingRequest, HostOutgoingResponse},
    },
};

use super::{
    account::Refused,
    http_bounds::{BODY, CHUNK},
    limits::Limits,
    output::Shared,
};

/// How many counted bytes may be gone before all handles are measured again.
const STALE: u64 = 256 << 10;
/// The memory of a header beside its text: its place in the map, and the allocator's overhead for two short texts.
const HEADER: usize = 176;

/// The sums of memory and tables of one attempt. A refused growth is -1 for the guest, and is remembered so that the outcome can name it.
pub(super) struct Usage {
    /// The bytes of its sandbox.
    pub(super) memory: u64,
    /// The bytes behind its handles at the last measurement, and those that came since.
    weighed: u64,
    since: u64,
    table_elements: u64,
    table_limit: u64,
    shared: Arc<Shared>,
    /// The bytes granted to the last growth, given back if the growth fails for another reason.
    last: u64,
    pub(super) refused: Option<Refused>,
}

impl Usage {
    pub(super) fn new(limits: &Limits, shared: Arc<Shared>) -> Self {
        Self { memory: 0, weighed: 0, since: 0, table_elements: 0, table_limit: limits.table_elements, shared, last: 0, refused: None }
    }

    /// Counts bytes that a host call is about to put behind a handle. Measures all handles of `table` again if many bytes may be gone, or before
    /// a refusal.
    pub(super) fn keep(&mut self, table: &mut ResourceTable, bytes: usize) -> Result<(), Refused> {
        let bytes = bytes as u64;
        if self.since.saturating_add(bytes) > self.weighed.max(STALE) {
            self.weigh(table);
        }
        self.count(bytes).or_else(|_| {
            self.weigh(table);
            self.count(bytes)
        })
    }

    fn count(&mut self, bytes: u64) -> Result<(), Refused> {
        self.shared.account.take(bytes)?;
        self.shared.account.kept.fetch_add(bytes, Relaxed);
        self.since += bytes;
        Ok(())
    }

    fn weigh(&mut self, table: &mut ResourceTable) {
        let found = table.iter_mut().map(|entry| weight(entry) as u64).sum::<u64>();
        let counted = self.weighed + self.since;
        if found > counted {
            self.shared.account.found(found - counted);
        } else {
            self.shared.account.give_back(counted - found);
        }
        (self.weighed, self.since) = (found, 0);
    }
}

impl Drop for Usage {
    fn drop(&mut self) {
        self.shared.account.give_back(self.memory + self.weighed + self.since);
    }
}

/// The bytes behind one handle. Streams, connections and listings count themselves by `Held`; everything else is small.
fn weight(entry: &dyn std::any::Any) -> usize {
    if let Some(fields) = entry.downcast_ref::<FieldMap>() {
        headers(fields)
    } else if let Some(request) = entry.downcast_ref::<HostOutgoingRequest>() {
        let texts = [&request.authority, &request.path_with_query].map(|text| text.as_ref().map_or(0, String::capacity));
        let scheme = request.scheme.as_ref().map_or(0, scheme);
        let body = if request.body.is_some() { BODY } else { 0 };
        method(&request.method) + scheme + texts.iter().sum::<usize>() + headers(&request.headers) + body
    } else if let Some(response) = entry.downcast_ref::<HostOutgoingResponse>() {
        headers(&response.headers) + if response.body.is_some() { BODY } else { 0 }
    } else if let Some(response) = entry.downcast_ref::<HostIncomingResponse>() {
        headers(&response.headers)
    } else if let Some(HostFutureTrailers::Done(Ok(Some(trailers)))) = entry.downcast_ref() {
        headers(trailers)
    } else {
        0
    }
}

pub(super) fn method(method: &Method) -> usize {
    if let Method::Other(text) = method { text.len() } else { 0 }
}

pub(super) fn scheme(scheme: &Scheme) -> usize {
    if let Scheme::Other(text) = scheme { text.len() } else { 0 }
}

/// The most memory that a map of these headers takes.
pub(super) fn headers(map: &HeaderMap) -> usize {
    let texts = map.keys().map(|name| name.as_str().len()).sum::<usize>() + map.values().map(http::HeaderValue::len).sum::<usize>();
    texts + map.capacity().max(map.len()) * HEADER
}

/// The most memory that one more header adds, because its map may double.
pub(super) fn header(name: &str, value: &[u8]) -> usize {
    name.len() + value.len() + 2 * HEADER
}

const _: () = assert!(BODY >= 2 * CHUNK, "a body's channel has room for two chunks");

impl ResourceLimiter for Usage {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let more = (desired as u64).saturating_sub(current as u64);
        self.last = 0;
        if let Err(refused) = self.shared.account.take(more) {
            self.refused = Some(refused);
            return Ok(false);
        }
        self.memory += more;
        self.last = more;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        let back = std::mem::take(&mut self.last);
        self.memory -= back;
        self.shared.account.give_back(back);
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        // Not given back if the growth fails: that happens only at the table's own maximum, which the guest has reached then.
        let sum = self.table_elements.saturating_add((desired as u64).saturating_sub(current as u64));
        if sum > self.table_limit {
            self.refused = Some(Refused::Tables);
            return Ok(false);
        }
        self.table_elements = sum;
        Ok(true)
    }
}
