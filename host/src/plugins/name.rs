//! The name of a plugin.

/// A plugin's name is its file's stem: policy and kv go by it.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let valid = (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
        && !name.starts_with(['_', '-']);
    if valid {
        Ok(())
    } else {
        Err(format!("a plugin's name starts with a-z or 0-9 and has at most 64 characters of a-z 0-9 _ -: `{}`", name.escape_debug()))
    }
}

/// `math` of `math.wasm`.
pub(super) fn stem(file: &str) -> &str {
    file.strip_suffix(".wasm").unwrap_or(file)
}
