//! Makes tokens of the HTTP API. Needs no broker.

use sha2::{Digest, Sha256};

/// A new token. It is shown once; the settings hold only its hash.
#[derive(Debug)]
pub struct NewToken {
    /// `th_ID_SECRET`: 8 hexadecimal digits to tell tokens apart, and 64 to know one by.
    pub token: String,
    /// SHA-256 of the token, 64 hexadecimal digits.
    pub sha256: String,
}

impl NewToken {
    pub fn generate() -> Self {
        // UUIDs come from a generator that is fit for keys. Three of them have 366 random bits, of which the hash keeps 256.
        let random = (0..3).fold(Sha256::new(), |hash, _| hash.chain_update(uuid::Uuid::new_v4()));
        let id = hex::encode(&Sha256::digest(uuid::Uuid::new_v4())[..4]);
        let token = format!("th_{id}_{}", hex::encode(random.finalize()));
        Self { sha256: hex::encode(Sha256::digest(&token)), token }
    }
}
