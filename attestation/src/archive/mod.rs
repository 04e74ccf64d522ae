//! Independent witnesses of time. A leaf certificate lives for three hours; what it vouched for can
//! be verified later only if somebody else saw it in those hours.

mod rfc3161;

use der::{AnyRef, Decode, Reader, SliceReader};
use identity::{Digest, UnixSeconds, sha256};

use crate::Error;

pub use rfc3161::TimeStamp;

/// Somebody who saw a digest at a time: an RFC 3161 authority ([`TimeStamp`]), or the checkpoint of
/// a log.
pub trait TimeAnchor: std::fmt::Debug + Send + Sync {
    /// What kind of witness this is, as verdicts name it.
    fn kind(&self) -> &'static str;

    /// Verifies that the witness saw `digest`, and gives when.
    fn prove(&self, digest: &Digest<32>) -> Result<Anchored, Error>;
}

/// A proven time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchored {
    /// The digest had been seen by then: the latest moment that the witness's accuracy allows.
    pub time: UnixSeconds,
    /// Who says so.
    pub witness: String,
}

/// What a witness must have seen: SHA-256 of the document's bytes and, directly after them, those
/// of the token, or of the credential in its RFC 8785 form.
pub fn anchored_digest(document: &[u8], signed: &[u8]) -> Digest<32> {
    sha256(&[document, signed].concat())
}

/// The parts of a constructed value, each in DER.
fn parts(constructed: &[u8]) -> Result<Vec<&[u8]>, der::Error> {
    let mut reader = SliceReader::new(AnyRef::from_der(constructed)?.value())?;
    let mut parts = Vec::new();
    while !reader.is_finished() {
        parts.push(reader.tlv_bytes()?);
    }
    Ok(parts)
}
