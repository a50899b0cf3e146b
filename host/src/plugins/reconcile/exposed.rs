//! Which files that decide about plugins others may write to.

use crate::plugins::{policy_file::PolicyFile, signed::Signatures, state::State, writable::Writable};

/// One sentence for each. Blocks on the file system.
pub(super) fn exposed(writable: Writable, policy: &PolicyFile, signatures: Option<&Signatures>, state: Option<&State>) -> Vec<String> {
    if writable == Writable::Allow {
        return Vec::new();
    }
    [policy.exposed(), signatures.and_then(Signatures::exposed), state.and_then(State::warning)].into_iter().flatten().collect()
}
