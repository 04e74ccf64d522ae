//! Bytes that went by.

use aws_lc_rs::digest::{Context, SHA256};

/// How many bytes went by, and their digest.
pub(crate) struct Counted {
    pub(crate) bytes: u64,
    digest: Context,
}

impl Counted {
    pub(crate) fn new() -> Self {
        Self {
            bytes: 0,
            digest: Context::new(&SHA256),
        }
    }

    pub(crate) fn add(&mut self, piece: &[u8]) {
        self.bytes += piece.len() as u64;
        self.digest.update(piece);
    }

    /// SHA-256 of them.
    pub(crate) fn digest(&self) -> [u8; 32] {
        let mut digest = [0; 32];
        digest.copy_from_slice(self.digest.clone().finish().as_ref());
        digest
    }
}
