//! How sections of an image become a register.

use sha2::{Digest, Sha384};

/// The register that the image's signature signs.
pub(crate) fn pcr0(kernel: &[u8], cmdline: &[u8], ramdisks: &[&[u8]]) -> [u8; 48] {
    register(
        [kernel, cmdline]
            .into_iter()
            .chain(ramdisks.iter().copied()),
    )
}

/// SHA-384(48 zero bytes || SHA-384(parts)).
pub(crate) fn register<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 48] {
    let mut hasher = Sha384::new();
    parts.into_iter().for_each(|part| hasher.update(part));
    Sha384::new()
        .chain_update([0; 48])
        .chain_update(hasher.finalize())
        .finalize()
        .into()
}
