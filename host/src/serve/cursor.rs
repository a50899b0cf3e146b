//! Cursors of pages, signed: a client gives back what it was given, and nothing of its own.

use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

use super::problem::{self, Problem};
use crate::{config::Token, random};

/// The key that cursors are signed with: the same in all servers with the same tokens. Without tokens, that of this process.
#[derive(Debug)]
pub(super) struct CursorKey([u8; 32]);

impl CursorKey {
    pub(super) fn new(tokens: &[Token]) -> Self {
        let mut key = Sha256::new().chain_update("cursor");
        for token in tokens {
            key.update(token.sha256);
        }
        if tokens.is_empty() {
            key.update(random::key());
        }
        Self(key.finalize().into())
    }

    pub(super) fn seal(&self, cursor: &str) -> String {
        hex::encode([&*self.mac(cursor).finalize().into_bytes(), cursor.as_bytes()].concat())
    }

    pub(super) fn open(&self, sealed: &str) -> Result<String, Problem> {
        let foreign = || {
            let detail = "not a cursor of this server as it runs now: pass the `next` of the last page, or start from the beginning";
            Problem::new(&problem::STALE_CURSOR, detail).with("parameter", "cursor")
        };
        let bytes = hex::decode(sealed).map_err(|_| foreign())?;
        let (mac, cursor) = bytes.split_at_checked(32).ok_or_else(foreign)?;
        let cursor = std::str::from_utf8(cursor).map_err(|_| foreign())?;
        self.mac(cursor).verify_slice(mac).map_err(|_| foreign())?;
        Ok(cursor.to_owned())
    }

    fn mac(&self, cursor: &str) -> Hmac<Sha256> {
        <Hmac<Sha256> as Mac>::new_from_slice(&self.0).expect("a key of any length will do").chain_update(cursor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_taken_from_this_server_only() {
        let key = CursorKey::new(&[]);
        let sealed = key.seal("{\"at\":\"ä\"}");
        assert_eq!(key.open(&sealed).expect("ours"), "{\"at\":\"ä\"}");
        let changed = format!("{}00", &sealed[..sealed.len() - 2]);
        for odd in ["", "zz", "7b7d", &changed, &CursorKey::new(&[]).seal("{}")] {
            assert!(key.open(odd).is_err(), "{odd}");
        }
    }
}
