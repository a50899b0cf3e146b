//! The limits of a guest's HTTP requests.

/// The most bytes of headers, including their places in the map.
pub(super) const FIELDS: usize = 64 << 10;
/// The most bytes of the name of a method or scheme.
pub(super) const NAME: usize = 256;
pub(super) const AUTHORITY: usize = 8 << 10;
pub(super) const PATH: usize = 32 << 10;
/// The most bytes that a guest may write to a request's body at once.
pub(super) const CHUNK: usize = 16 << 10;
/// The most pieces of a body that wait to be sent.
pub(super) const BODY: usize = 2 * CHUNK;
