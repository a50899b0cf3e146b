//! Streams of files that count what they hold: a read that nobody fetched, a write that the disk has not taken.
//!
//! Invariant: a stream keeps its file's descriptor counted, and holds at most [`WRITE`] bytes each way.

use std::sync::Arc;

use bytes::Bytes;
use wasmtime_wasi::{
    async_trait,
    p2::{DynInputStream, DynOutputStream, InputStream, OutputStream, Pollable, StreamError, StreamResult},
};

use super::{
    super::{
        capture::Shared,
        held::{Held, Opened},
    },
    WRITE,
};

/// What is read ahead for a guest that only asks whether there is anything.
pub(super) const PEEK: usize = 4 << 10;

pub(super) struct Input {
    inner: DynInputStream,
    held: Held,
    _opened: Option<Arc<Opened>>,
}

impl Input {
    /// Puts a counting stream in its place; `held`: [`PEEK`].
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
    /// What was written last, until the stream takes more.
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

/// Stands in the table for the moment in which a stream is wrapped.
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
