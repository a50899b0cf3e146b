//! kv → ECF, record by record.

use std::time::Duration;

use taskhost_sdk::prelude::*;

use crate::{
    base_url,
    record::{Kind, Staged},
};

const PUSH_TIMEOUT: Duration = Duration::from_secs(20);

pub(crate) async fn run(kind: Kind) -> TaskResult<u64> {
    let ecf = base_url("ECF_URL")?;
    let prefix = kind.prefix();
    let mut pushed = 0;
    // List before the push, because the push writes marks.
    let keys: Vec<String> = kv::keys(&*prefix).collect::<Result<_, _>>()?;
    for key in &keys {
        context::check_cancelled()?;
        let Some(staged) = kv::get::<Staged>(key)? else { continue };
        if !staged.is_changed() {
            continue;
        }
        let id = key.strip_prefix(&prefix).unwrap_or(key);
        let url = format!("{ecf}/{}/{}", kind.word(), in_path(id));
        http::put(url).json(&staged.record)?.timeout(PUSH_TIMEOUT).await?.error_for_status()?;
        // Mark after the push. An attempt that dies in between pushes the record again, which changes nothing at ECF.
        kv::set(key, &Staged { pushed: Some(staged.hash.clone()), ..staged })?;
        pushed += 1;
        context::progress(pushed, None, "pushed");
    }
    log::field("kind", kind.word()).field("pushed", pushed).field("known", keys.len()).info("pushed to ECF");
    Ok(pushed)
}

/// An id as one segment of a path (RFC 3986: all but its unreserved characters are escaped).
pub(crate) fn in_path(id: &str) -> String {
    let mut path = String::new();
    for byte in id.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            path.push(char::from(byte));
        } else {
            path.extend(format!("%{byte:02X}").chars());
        }
    }
    path
}
