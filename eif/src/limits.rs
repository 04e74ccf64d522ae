//! What is too large.

/// No image that we read is larger. (An enclave's memory holds it unpacked.)
pub const MAX_IMAGE_BYTES: u64 = 4 << 30;
