//! Guards for the bytes and open descriptors that the host holds for a guest. Each gives back when it is dropped.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::sync::OwnedSemaphorePermit;

use super::{account::Refused, output::Shared};

/// Bytes that the host keeps for a guest.
pub(super) struct Held {
    shared: Arc<Shared>,
    bytes: u64,
}

impl Held {
    pub(super) fn take(shared: &Arc<Shared>, bytes: usize) -> Result<Self, Refused> {
        let mut held = Self { shared: Arc::clone(shared), bytes: 0 };
        held.grow(bytes)?;
        Ok(held)
    }

    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), Refused> {
        let account = &self.shared.account;
        account.take(bytes as u64)?;
        account.kept.fetch_add(bytes as u64, Relaxed);
        self.bytes += bytes as u64;
        Ok(())
    }

    /// Raises the count to at least this many.
    pub(super) fn reach(&mut self, bytes: usize) -> Result<(), Refused> {
        let more = (bytes as u64).saturating_sub(self.bytes);
        if more > 0 { self.grow(usize::try_from(more).unwrap_or(usize::MAX)) } else { Ok(()) }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shared.account.give_back(self.bytes);
    }
}

/// One open descriptor of a guest.
pub(super) struct Opened {
    shared: Arc<Shared>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Opened {
    /// Counted for the attempt, and not yet for the process.
    fn counted(shared: &Arc<Shared>) -> Result<Self, Refused> {
        // Made first, so that its drop takes the count back if the process refuses.
        let opened = Self { shared: Arc::clone(shared), permit: None };
        shared.account.opened().map(|()| opened)
    }

    pub(super) fn take(shared: &Arc<Shared>) -> Result<Self, Refused> {
        let mut opened = Self::counted(shared)?;
        let permit = shared.account.descriptors_of_all().try_acquire_owned();
        opened.permit = Some(permit.map_err(|_| Refused::DescriptorsOfProcess)?);
        Ok(opened)
    }

    /// How long to wait until another guest closes one.
    pub(super) async fn wait(shared: &Arc<Shared>, patience: Duration) -> Result<Self, Refused> {
        let mut opened = Self::counted(shared)?;
        let permit = tokio::time::timeout(patience, shared.account.descriptors_of_all().acquire_owned()).await;
        opened.permit = permit.ok().and_then(Result::ok);
        if opened.permit.is_some() { Ok(opened) } else { Err(Refused::DescriptorsOfProcess) }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.shared.account.closed();
    }
}
