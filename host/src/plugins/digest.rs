//! What tells one version of a plugin from another.

use std::sync::Arc;

/// SHA-256 of a plugin's bytes, 64 lower-case hex digits.
pub(super) type Digest = Arc<str>;
