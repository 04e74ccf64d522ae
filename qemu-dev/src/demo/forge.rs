//! Altered copies.

use attestation::Evidence;
use data_encoding::BASE64URL_NOPAD;

/// One part of a token, decoded, changed and put back.
pub(super) fn token_part(token: &str, part: usize, change: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    let mut bytes = BASE64URL_NOPAD
        .decode(parts[part].as_bytes())
        .unwrap_or_default();
    change(&mut bytes);
    parts[part] = BASE64URL_NOPAD.encode(&bytes);
    parts.join(".")
}

/// The first `from` becomes `to`, of the same length.
pub(super) fn replace(bytes: &mut [u8], from: &[u8], to: &[u8]) {
    if let Some(at) = bytes.windows(from.len()).position(|window| window == from) {
        bytes[at..at + to.len()].copy_from_slice(to);
    }
}

/// The evidence with another document.
pub(super) fn document(evidence: &Evidence, document: Vec<u8>) -> Vec<u8> {
    Evidence::new(
        document,
        evidence.key().clone(),
        evidence.bundle().to_vec(),
        evidence.record().to_vec(),
        evidence.state(),
        evidence.possession().to_vec(),
    )
    .to_vec()
}
