//! Decides trust within a pass: which bytes are signed, and which files and directories others may write to.

use super::{Loader, PolicyFile, Reconciler, Signatures, Tracked, Wanted};
use crate::plugins::{digest::Digest, state::State, writable::Writable};

/// Sentences about files that decide about plugins and that others may write to. Blocks on the file system.
pub(super) fn exposed(writable: Writable, policy: &PolicyFile, signatures: Option<&Signatures>, state: Option<&State>) -> Vec<String> {
    if writable == Writable::Allow {
        return Vec::new();
    }
    [policy.exposed(), signatures.and_then(Signatures::exposed), state.and_then(State::warning)].into_iter().flatten().collect()
}

impl<L: Loader> Reconciler<L> {
    /// Verifies new bytes, and bytes with new keys or signatures. Bytes that are trusted only now are read again.
    pub(super) async fn look_at_signatures(&mut self) {
        let Some(mut signatures) = self.signatures.clone() else { return };
        let captured = |(file, t): (&String, &Tracked)| Some(Wanted::File(t.captured.as_ref()?.1.clone(), self.dir.join(file)));
        let kept = self.files.values().filter_map(|t| t.good.clone()).chain(self.gone_back_to()).map(Wanted::Kept);
        let wanted: Vec<Wanted> = self.files.iter().filter_map(captured).chain(kept).collect();
        let (state, writable) = (self.state.clone(), self.writable);
        let looked = tokio::task::spawn_blocking(move || {
            signatures.look(&wanted, state.as_deref(), writable);
            signatures
        });
        let Ok(signatures) = looked.await else { return };
        for tracked in self.files.values_mut() {
            let Some((_, digest)) = &tracked.captured else { continue };
            let has_bytes = self.compiled.contains_key(digest) || self.waiting.iter().any(|(waiting, _)| waiting == digest);
            if !has_bytes && signatures.distrust(digest).is_none() {
                tracked.captured = None;
                self.unsettled = true;
            }
        }
        self.signatures = Some(signatures);
    }

    /// Why these bytes must not run, if so.
    pub(super) fn distrust(&self, digest: &Digest) -> Option<String> {
        self.signatures.as_ref()?.distrust(digest).map(str::to_owned)
    }

    /// Whether nothing is known of these bytes yet.
    pub(super) fn is_open(&self, digest: &Digest) -> bool {
        self.signatures.as_ref().is_some_and(|signatures| signatures.is_open(digest))
    }
}
