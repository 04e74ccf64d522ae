//! A certificate taken apart, changed, and signed again: for chains that are wrong on purpose.

use der::{AnyRef, Decode, Encode, Reader, SliceReader};
use p384::ecdsa::signature::hazmat::PrehashSigner;
use sha2::{Digest, Sha256, Sha384, Sha512};

/// The key of an issuer. The NSM's are all on P-384.
pub(crate) enum Key {
    P384(p384::ecdsa::SigningKey),
    /// For a certificate that may not have such a key.
    P256(p256::ecdsa::SigningKey),
}

impl Key {
    fn sign(&self, digest: &[u8]) -> Vec<u8> {
        match self {
            Self::P384(key) => {
                let signature: p384::ecdsa::DerSignature = key
                    .sign_prehash(digest)
                    .expect("a whole digest can be signed");
                signature.as_bytes().to_vec()
            }
            Self::P256(key) => {
                let signature: p256::ecdsa::DerSignature = key
                    .sign_prehash(digest)
                    .expect("a whole digest can be signed");
                signature.as_bytes().to_vec()
            }
        }
    }
}

/// Where the parts of a TBSCertificate stand (RFC 5280 section 4.1), for those who change one.
pub mod part {
    #![expect(missing_docs, reason = "the names are those of RFC 5280")]
    pub const VERSION: usize = 0;
    pub const SERIAL: usize = 1;
    pub const SIGNATURE: usize = 2;
    pub const VALIDITY: usize = 4;
    pub const SUBJECT: usize = 5;
    pub const KEY: usize = 6;
    pub const EXTENSIONS: usize = 7;
}

/// The parts of a certificate, each in DER.
pub struct Draft {
    /// The parts of the TBSCertificate; see [`part`].
    pub tbs: Vec<Vec<u8>>,
    /// The AlgorithmIdentifier outside.
    pub algorithm: Vec<u8>,
    /// What hashes the TBSCertificate for the signature.
    pub hash: fn(&[u8]) -> Vec<u8>,
    /// Changes the signature after it was made.
    pub signature: fn(&mut Vec<u8>),
    /// Changes the whole certificate at last.
    pub whole: fn(&mut Vec<u8>),
}

/// SHA-384, as the NSM's chain has it.
pub fn sha384(bytes: &[u8]) -> Vec<u8> {
    Sha384::digest(bytes).to_vec()
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> Vec<u8> {
    Sha256::digest(bytes).to_vec()
}

/// SHA-512.
pub fn sha512(bytes: &[u8]) -> Vec<u8> {
    Sha512::digest(bytes).to_vec()
}

impl Draft {
    pub(crate) fn of(certificate: &[u8]) -> Self {
        let [tbs, algorithm, _] = parts(certificate)
            .try_into()
            .expect("a certificate has three parts");
        Self {
            tbs: parts(&tbs),
            algorithm,
            hash: sha384,
            signature: |_| (),
            whole: |_| (),
        }
    }

    pub(crate) fn sign(&self, issuer: &Key) -> Vec<u8> {
        let tbs = sequence(&self.tbs.concat());
        let mut signature = issuer.sign(&(self.hash)(&tbs));
        (self.signature)(&mut signature);
        let signature = tlv(0x03, &[&[0], &signature[..]].concat());
        let mut whole = sequence(&[tbs, self.algorithm.clone(), signature].concat());
        (self.whole)(&mut whole);
        whole
    }

    /// Appends an extension.
    pub fn extend(&mut self, oid: &str, critical: bool, value: &[u8]) {
        let oid = der::asn1::ObjectIdentifier::new_unwrap(oid)
            .to_der()
            .expect("an object identifier can be encoded");
        let critical: &[u8] = if critical { &[0x01, 0x01, 0xff] } else { &[] };
        let extension = sequence(&[&oid, critical, &tlv(0x04, value)].concat());
        let mut extensions = self.extensions();
        extensions.push(extension);
        self.tbs.truncate(part::EXTENSIONS);
        self.tbs.push(tlv(0xa3, &sequence(&extensions.concat())));
    }

    /// The extensions, each in DER.
    pub fn extensions(&self) -> Vec<Vec<u8>> {
        self.tbs
            .get(part::EXTENSIONS)
            .map_or_else(Vec::new, |explicit| parts(&parts(explicit)[0]))
    }
}

/// The parts of a constructed value, each in DER.
pub fn parts(constructed: &[u8]) -> Vec<Vec<u8>> {
    let whole = AnyRef::from_der(constructed).expect("DER of ours");
    let mut reader = SliceReader::new(whole.value()).expect("DER of ours");
    let mut parts = Vec::new();
    while !reader.is_finished() {
        parts.push(reader.tlv_bytes().expect("DER of ours").to_vec());
    }
    parts
}

/// A SEQUENCE.
pub fn sequence(content: &[u8]) -> Vec<u8> {
    tlv(0x30, content)
}

/// Tag, length, value.
pub fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let length = match length {
        0..=0x7f => vec![length.to_le_bytes()[0]],
        0x80..=0xff => vec![0x81, length.to_le_bytes()[0]],
        _ => vec![0x82, length.to_le_bytes()[1], length.to_le_bytes()[0]],
    };
    [&[tag], &length[..], content].concat()
}
