//! Random keys.

use sha2::{Digest, Sha256};

/// A fresh key. UUIDs come from a generator that is fit for keys. Three of them have 366 random bits, of which the hash keeps 256.
pub(crate) fn key() -> [u8; 32] {
    (0..3).fold(Sha256::new(), |hash, _| hash.chain_update(uuid::Uuid::new_v4())).finalize().into()
}
