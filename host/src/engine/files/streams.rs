//! Streams of files that count the bytes they hold: data that was read and not fetched, and data that the disk has not taken yet.
//!
//! Invariant: a stream keeps its file's descriptor counted, and holds at most [`WRITE`] bytes in each direction.

use std::sync::Arc;

use bytes::Bytes;
use wasmtime_wasi::{
    async_trait,
    p2::{DynInputStream, DynOutputStream, InputStream, OutputStream, Pollable, StreamError, StreamResult},
};

use super::{
    super::{
        held::{Held, Opened},
        output::Shared,
    },
    WRITE,
};

/// The bytes that are read ahead if a guest only asks whether there is anything.
pub(super) const PEEK: usize = 4 << 10;

pub(super) struct Input {
    inner: DynInputStream,
    held: Held,
    _opened: Option<Arc<Opened>>,
}

impl Input {
    /// Puts a counting stream in its place; `held` counts [`PEEK`] bytes.
    pub(super) fn wrap(stream: &mut DynInputStream, held: Held, opened: Option<Arc<Opened>>) {
        let inner = std::mem::replace(stream, Box::new(Nothing));
        *stream = Box::new(Self { inner, held, _opened: opened });
    }
}

#[async_trait]
impl Pollable for Input {
    async fn ready(&mut self) {
        self.inner.ready().await;
    }
}

#[async_trait]
impl InputStream for Input {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        let size = size.min(WRITE);
        self.held.reach(size).map_err(|refused| StreamError::Trap(refused.into()))?;
        self.inner.read(size)
    }

    async fn blocking_read(&mut self, size: usize) -> StreamResult<Bytes> {
        let size = size.min(WRITE);
        self.held.reach(size).map_err(|refused| StreamError::Trap(refused.into()))?;
        self.inner.blocking_read(size).await
    }

    async fn cancel(&mut self) {
        self.inner.cancel().await;
    }
}

pub(super) struct Output {
    inner: DynOutputStream,
    shared: Arc<Shared>,
    /// The bytes of the last write, until the stream takes more.
    held: Option<Held>,
    _opened: Option<Arc<Opened>>,
}

impl Output {
    /// Puts a counting stream in its place.
    pub(super) fn wrap(stream: &mut DynOutputStream, shared: &Arc<Shared>, opened: Option<Arc<Opened>>) {
        let inner = std::mem::replace(stream, Box::new(Nothing));
        *stream = Box::new(Self { inner, shared: Arc::clone(shared), held: None, _opened: opened });
    }

    fn hold(&mut self, bytes: &Bytes) -> StreamResult<()> {
        if bytes.len() > WRITE {
            return Err(StreamError::trap("wrote more than `check-write` allows"));
        }
        self.held = Some(Held::take(&self.shared, bytes.len()).map_err(|refused| StreamError::Trap(refused.into()))?);
        Ok(())
    }
}

#[async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {
        self.inner.ready().await;
    }
}

#[async_trait]
impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.hold(&bytes)?;
        self.inner.write(bytes)
    }

    async fn blocking_write_and_flush(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.hold(&bytes)?;
        let written = self.inner.blocking_write_and_flush(bytes).await;
        self.held = None;
        written
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.inner.flush()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        let may = self.inner.check_write()?;
        if may > 0 {
            self.held = None;
        }
        Ok(may)
    }

    async fn cancel(&mut self) {
        self.inner.cancel().await;
    }
}

/// Takes a stream's place in the table while the stream is wrapped.
struct Nothing;

#[async_trait]
impl Pollable for Nothing {
    async fn ready(&mut self) {}
}

#[async_trait]
impl InputStream for Nothing {
    fn read(&mut self, _: usize) -> StreamResult<Bytes> {
        Err(StreamError::Closed)
    }
}

#[async_trait]
impl OutputStream for Nothing {
    fn write(&mut self, _: Bytes) -> StreamResult<()> {
        Err(StreamError::Closed)
    }

    fn flush(&mut self) -> StreamResult<()> {
        Err(StreamError::Closed)
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Err(StreamError::Closed)
    }
}
