//! A request that is to be made with a credential, in the one form that is judged, recorded and
//! sent.

use identity::{Digest, cbor, sha256};

use crate::{Header, Target};

const TAG: &str = "anchorhold/credential-use/v1";

/// Everything of a request but its body.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'a> {
    /// Name of the service.
    pub service: &'a str,
    /// `GET`, and so on.
    pub method: &'a str,
    /// Path and query.
    pub target: &'a Target,
    /// What is sent on of its headers.
    pub headers: &'a [Header],
    /// How long its body is, if that is known before.
    pub length: Option<u64>,
}

impl RequestHead<'_> {
    /// SHA-256 of the CBOR array `["anchorhold/credential-use/v1", service, method, URL, query or null,
    /// SHA-256 of the headers, length or null]`.
    pub fn digest(&self) -> Digest<32> {
        sha256(&cbor::to_vec(&(
            TAG,
            self.service,
            self.method,
            self.target.resource(),
            self.target.query(),
            header_digest(self.headers),
            self.length,
        )))
    }
}

/// SHA-256 of headers as they are sent, without the credential: the CBOR array of `[name, value]`.
pub fn header_digest(headers: &[Header]) -> Digest<32> {
    sha256(&cbor::to_vec(&headers))
}
