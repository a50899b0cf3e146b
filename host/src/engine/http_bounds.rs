//! The bounds of a guest's HTTP: what it may put behind one handle of a request.

/// Bytes of headers, those of their places in the map included.
pub(super) const FIELDS: usize = 64 << 10;
/// Bytes of a method's and a scheme's name.
pub(super) const NAME: usize = 256;
pub(super) const AUTHORITY: usize = 8 << 10;
pub(super) const PATH: usize = 32 << 10;
/// Bytes that a guest may write to a request's body at once.
pub(super) const CHUNK: usize = 16 << 10;
/// What waits in a body to be sent, at most.
pub(super) const BODY: usize = 2 * CHUNK;
