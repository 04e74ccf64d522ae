//! COSE_Sign1 (RFC 9052 section 4.2) in the one form used here: untagged or tag 18, one protected `alg`, nothing
//! unprotected, the payload inside.

use std::collections::BTreeMap;

use minicbor::bytes::ByteSlice;

use crate::cbor::{self, Reader};
use crate::{Algorithm, Error, Message, PublicKey, Signer};

/// The CBOR tag of COSE_Sign1 (RFC 9052 section 2).
pub const TAG: u64 = 18;

/// The parts of a COSE_Sign1, as they stand in the original bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sign1<'b> {
    /// Serialised protected header.
    pub protected: &'b [u8],
    /// What is signed.
    pub payload: &'b [u8],
    /// Raw signature.
    pub signature: &'b [u8],
}

impl<'b> Sign1<'b> {
    /// Parses; unprotected headers, indefinite lengths and bytes after the end are refused.
    pub fn parse(bytes: &'b [u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(bytes);
        reader.tag_if(TAG)?;
        if reader.array()? != 4 {
            return Err(Error::Cose("not an array of four"));
        }
        let protected = reader.bytes()?;
        if reader.map()? != Some(0) {
            return Err(Error::Cose("unprotected headers"));
        }
        let (payload, signature) = (reader.bytes()?, reader.bytes()?);
        reader.finish()?;
        Ok(Self { protected, payload, signature })
    }

    /// The bytes under the signature: `["Signature1", protected, external_aad, payload]` (RFC 9052 section 4.4).
    pub fn sig_structure(&self, external_aad: &[u8]) -> Vec<u8> {
        sig_structure(self.protected, external_aad, self.payload)
    }
}

fn sig_structure(protected: &[u8], external_aad: &[u8], payload: &[u8]) -> Vec<u8> {
    let [protected, external_aad, payload] = [protected, external_aad, payload].map(<&ByteSlice>::from);
    cbor::to_vec(&("Signature1", protected, external_aad, payload))
}

/// The tagged purpose of a statement: it goes into external_aad, so that no statement can stand for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Purpose(&'static str);

impl Purpose {
    /// Possession of the key that an attestation document names.
    pub const POSSESSION: Self = Self("anchorhold/possession/v1");
    /// The old key names its successor.
    pub const SUCCESSOR: Self = Self("anchorhold/successor/v1");
    /// The new key accepts.
    pub const SUCCESSOR_ACCEPTED: Self = Self("anchorhold/successor-accepted/v1");
    /// The operator asks for a rotation.
    pub const ROTATION_ORDER: Self = Self("anchorhold/rotation-order/v1");
    /// The head of a batch of the decision record.
    pub const RECORD: Self = Self("anchorhold/record/v1");
    /// The operator's annex to a policy.
    pub const ANNEX: Self = Self("anchorhold/annex/v1");
    /// The proxy proves its key to the enclave.
    pub const WINDOW: Self = Self("anchorhold/window/v1");
}

fn protected(algorithm: Algorithm) -> [u8; 3] {
    match algorithm {
        Algorithm::EdDSA => [0xa1, 0x01, 0x27],
        Algorithm::ES256 => [0xa1, 0x01, 0x26],
    }
}

/// Signs `payload` for `purpose`; gives the bytes of the COSE_Sign1, untagged.
pub fn sign<S: Signer>(purpose: Purpose, payload: &[u8], signer: &S) -> Result<Vec<u8>, S::Error> {
    let protected = protected(signer.public_key().algorithm());
    let signature = signer.sign(&Message::cose(sig_structure(&protected, purpose.0.as_bytes(), payload)))?;
    let [protected, payload, signature] = [&protected[..], payload, &signature[..]].map(<&ByteSlice>::from);
    Ok(cbor::to_vec(&(protected, BTreeMap::<u8, u8>::new(), payload, signature)))
}

/// Verifies a COSE_Sign1 for `purpose` and gives its payload. Tag 18 is refused: a statement has one form.
pub fn verify<'b>(purpose: Purpose, bytes: &'b [u8], key: &PublicKey) -> Result<&'b [u8], Error> {
    let sign1 = Sign1::parse(bytes)?;
    if bytes.first() != Some(&0x84) {
        return Err(Error::Cose("tagged"));
    }
    if sign1.protected != protected(key.algorithm()) {
        return Err(Error::AlgorithmMismatch);
    }
    key.verify_bytes(&sign1.sig_structure(purpose.0.as_bytes()), sign1.signature)?;
    Ok(sign1.payload)
}

#[cfg(test)]
mod tests {
    use coset::{CborSerializable, iana};

    use super::*;
    use crate::signer::tests::{TestKey, both};

    #[test]
    fn statements_are_those_of_an_independent_cose_implementation() {
        for key in both() {
            let ours = sign(Purpose::POSSESSION, b"payload", &key).unwrap();
            let theirs = coset::CoseSign1::from_slice(&ours).unwrap();
            let algorithm = match key.public_key().algorithm() {
                Algorithm::EdDSA => iana::Algorithm::EdDSA,
                Algorithm::ES256 => iana::Algorithm::ES256,
            };
            assert_eq!(theirs.protected.header.alg, Some(coset::RegisteredLabelWithPrivate::Assigned(algorithm)));
            theirs
                .verify_signature(b"anchorhold/possession/v1", |signature, data| key.public_key().verify_bytes(data, signature))
                .unwrap();
            assert_eq!(theirs.to_vec().unwrap(), ours);
        }
    }

    #[test]
    fn a_statement_stands_for_one_purpose_one_key_and_one_payload() {
        let [ed, p256] = both();
        let good = sign(Purpose::POSSESSION, b"payload", &ed).unwrap();
        assert_eq!(verify(Purpose::POSSESSION, &good, ed.public_key()).unwrap(), b"payload");
        assert_eq!(verify(Purpose::SUCCESSOR, &good, ed.public_key()), Err(Error::SignatureInvalid));
        assert_eq!(verify(Purpose::POSSESSION, &good, p256.public_key()), Err(Error::AlgorithmMismatch));
        let other = TestKey::ed25519(9);
        assert_eq!(verify(Purpose::POSSESSION, &good, other.public_key()), Err(Error::SignatureInvalid));
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                assert!(verify(Purpose::POSSESSION, &bad, ed.public_key()).is_err(), "byte {at} bit {bit}");
            }
            assert!(verify(Purpose::POSSESSION, &good[..at], ed.public_key()).is_err());
        }
        let tagged = [&[0xd2], &good[..]].concat();
        assert_eq!(verify(Purpose::POSSESSION, &tagged, ed.public_key()), Err(Error::Cose("tagged")));
    }
}
