//! Makes tokens of the HTTP API. Needs no broker.

use sha2::{Digest, Sha256};

use crate::random;

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
        let token = format!("th_{}_{}", hex::encode(&random::key()[..4]), hex::encode(random::key()));
        Self { sha256: hex::encode(Sha256::digest(&token)), token }
    }
}
