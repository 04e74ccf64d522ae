//! Statements: COSE_Sign1 (RFC 9052 section 4.2) in the one form used here. Untagged, one protected
//! `alg`, nothing unprotected, the payload inside, and a purpose in `external_aad`.
//!
//! The reader is our own, and takes one encoding: docs/adr/0003 says why. Documents of the NSM have
//! one of theirs, in `attestation`, whose rules each have a name.

use std::collections::BTreeMap;

use minicbor::bytes::ByteSlice;

use crate::cbor::{self, Reader};
use crate::{Algorithm, Error, Message, PublicKey, Signer};

/// The tagged purpose of a statement: it goes into external_aad, so that no statement can stand for
/// another.
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
    /// The operator lets a new state be born.
    pub const GENESIS_ORDER: Self = Self("anchorhold/genesis-order/v1");
    /// The operator says which images and bundles may open a state.
    pub const STATE_CERTIFICATE: Self = Self("anchorhold/state/v1");
    /// The state key vouches for a seal of its state.
    pub const SEAL: Self = Self("anchorhold/seal/v1");
    /// The operator puts a credential.
    pub const CREDENTIAL: Self = Self("anchorhold/credential/v1");
    /// The operator orders what keys open credentials.
    pub const CREDENTIAL_EPOCHS: Self = Self("anchorhold/credential-epochs/v1");
    /// How long credentials may be used.
    pub const LEASE: Self = Self("anchorhold/lease/v1");
    /// The proxy proves its key to the enclave.
    pub const WINDOW: Self = Self("anchorhold/window/v1");
}

/// `{1: alg}`, and nothing else.
fn protected(algorithm: Algorithm) -> [u8; 3] {
    match algorithm {
        Algorithm::EdDSA => [0xa1, 0x01, 0x27],
        Algorithm::ES256 => [0xa1, 0x01, 0x26],
    }
}

/// The bytes under the signature: `["Signature1", protected, external_aad, payload]` (RFC 9052
/// section 4.4).
fn sig_structure(protected: &[u8], external_aad: &[u8], payload: &[u8]) -> Vec<u8> {
    let [protected, external_aad, payload] =
        [protected, external_aad, payload].map(<&ByteSlice>::from);
    cbor::to_vec(&("Signature1", protected, external_aad, payload))
}

/// Signs `payload` for `purpose`; gives the bytes of the COSE_Sign1, untagged.
pub fn sign<S: Signer>(purpose: Purpose, payload: &[u8], signer: &S) -> Result<Vec<u8>, S::Error> {
    let protected = protected(signer.public_key().algorithm());
    let signed = sig_structure(&protected, purpose.0.as_bytes(), payload);
    let signature = signer.sign(&Message::cose(signed))?;
    let [protected, payload, signature] =
        [&protected[..], payload, &signature[..]].map(<&ByteSlice>::from);
    Ok(cbor::to_vec(&(
        protected,
        BTreeMap::<u8, u8>::new(),
        payload,
        signature,
    )))
}

/// Verifies a COSE_Sign1 for `purpose` and gives its payload. Tag 18 is refused: a statement has one
/// form.
pub fn verify<'b>(purpose: Purpose, bytes: &'b [u8], key: &PublicKey) -> Result<&'b [u8], Error> {
    let statement = Statement::parse(bytes)?;
    if statement.protected != protected(key.algorithm()) {
        return Err(Error::AlgorithmMismatch);
    }
    let signed = sig_structure(statement.protected, purpose.0.as_bytes(), statement.payload);
    key.verify_bytes(&signed, statement.signature)?;
    Ok(statement.payload)
}

/// What a statement says, before anything is verified: to find the key, never to trust.
pub fn unverified_payload(bytes: &[u8]) -> Result<&[u8], Error> {
    Ok(Statement::parse(bytes)?.payload)
}

/// The parts of a statement, as they stand in its bytes.
struct Statement<'b> {
    protected: &'b [u8],
    payload: &'b [u8],
    signature: &'b [u8],
}

impl<'b> Statement<'b> {
    fn parse(bytes: &'b [u8]) -> Result<Self, Error> {
        // Major type 6 (RFC 8949 section 3.1).
        if bytes.first().is_some_and(|head| head >> 5 == 6) {
            return Err(Error::Cose("tagged"));
        }
        let mut reader = Reader::new(bytes);
        if reader.array()? != 4 {
            return Err(Error::Cose("not an array of four"));
        }
        let protected = reader.bytes()?;
        if reader.map()? != Some(0) {
            return Err(Error::Cose("unprotected headers"));
        }
        let (payload, signature) = (reader.bytes()?, reader.bytes()?);
        reader.finish()?;
        Ok(Self {
            protected,
            payload,
            signature,
        })
    }
}

#[cfg(test)]
mod tests {
    use coset::{CborSerializable, CoseSign1, iana};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;
    use crate::signer::tests::{TestKey, both};

    #[test]
    fn statements_are_those_of_an_independent_cose_implementation() {
        for key in both() {
            let ours = sign(Purpose::POSSESSION, b"payload", &key).unwrap();
            let theirs = CoseSign1::from_slice(&ours).unwrap();
            let algorithm = match key.public_key().algorithm() {
                Algorithm::EdDSA => iana::Algorithm::EdDSA,
                Algorithm::ES256 => iana::Algorithm::ES256,
            };
            let algorithm = coset::RegisteredLabelWithPrivate::Assigned(algorithm);
            assert_eq!(theirs.protected.header.alg, Some(algorithm));
            let verify =
                |signature: &[u8], data: &[u8]| key.public_key().verify_bytes(data, signature);
            theirs
                .verify_signature(b"anchorhold/possession/v1", verify)
                .unwrap();
            assert_eq!(theirs.to_vec().unwrap(), ours);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        /// What we read, an independent implementation reads in the same way.
        #[test]
        fn what_is_read_is_read_so_by_an_independent_implementation(
            payload in vec(any::<u8>(), 0..40),
            changes in vec((any::<Index>(), any::<u8>(), 0..3_u8), 0..4),
        ) {
            let mut bytes = sign(Purpose::ANNEX, &payload, &both()[0]).unwrap();
            for (at, byte, how) in changes {
                match how {
                    0 => *at.get_mut(&mut bytes) = byte,
                    1 => bytes.insert(at.index(bytes.len() + 1), byte),
                    _ => drop(bytes.remove(at.index(bytes.len()))),
                }
            }
            if let Ok(ours) = unverified_payload(&bytes) {
                let theirs = CoseSign1::from_slice(&bytes);
                // Of the protected header they read more than we do; what is not ours is refused.
                if let Ok(theirs) = theirs {
                    prop_assert!(theirs.unprotected.is_empty());
                    prop_assert_eq!(theirs.payload.as_deref(), Some(ours));
                } else {
                    prop_assert!(bytes[2..5] != [0xa1, 0x01, 0x27]);
                }
            }
        }
    }

    /// RFC 9052 sections 4.2 and 4.4, written by hand.
    #[test]
    fn statements_are_those_of_the_rfc_byte_by_byte() {
        for key in both() {
            let made = sign(Purpose::POSSESSION, b"payload", &key).unwrap();
            let algorithm: u8 = match key.public_key().algorithm() {
                Algorithm::EdDSA => 0x27,
                Algorithm::ES256 => 0x26,
            };
            let head = [
                &[0x84, 0x43, 0xa1, 0x01, algorithm, 0xa0, 0x47][..],
                b"payload",
                &[0x58, 64],
            ]
            .concat();
            let (start, signature) = made.split_at(head.len());
            assert_eq!((start, signature.len()), (&head[..], 64));
            let aad = b"anchorhold/possession/v1";
            let signed = [
                &[0x84, 0x6a][..],
                b"Signature1",
                &[0x43, 0xa1, 0x01, algorithm, 0x58, 24],
                aad,
                &[0x47],
                b"payload",
            ];
            key.public_key()
                .verify_bytes(&signed.concat(), signature)
                .unwrap();
            assert_eq!(unverified_payload(&made).unwrap(), b"payload");
        }
    }

    /// Each says the same as the good one, and is signed; none is its one encoding.
    #[test]
    fn a_statement_has_one_encoding() {
        let [key, _] = both();
        let sig_structure = |protected: &[u8]| {
            let [protected, aad, payload] = [protected, b"anchorhold/annex/v1", b"x"]
                .map(|bytes| minicbor::bytes::ByteVec::from(bytes.to_vec()));
            cbor::to_vec(&("Signature1", protected, aad, payload))
        };
        let signed = |protected: &[u8]| {
            key.sign(&Message::cose(sig_structure(protected)))
                .unwrap()
                .to_vec()
        };
        let string = |bytes: &[u8]| cbor::to_vec(&minicbor::bytes::ByteVec::from(bytes.to_vec()));
        let short: &[u8] = &[0xa1, 0x01, 0x27];
        let signature = signed(short);
        let parts = [
            &[0x84][..],
            &string(short),
            &[0xa0],
            &string(b"x"),
            &string(&signature),
        ];
        let good = parts.concat();
        assert_eq!(
            verify(Purpose::ANNEX, &good, key.public_key()).unwrap(),
            b"x"
        );
        let with = |at: usize, other: &[u8]| {
            let mut parts = parts;
            parts[at] = other;
            parts.concat()
        };
        let header = |protected: &[u8]| {
            [
                &[0x84][..],
                &string(protected),
                &[0xa0],
                &string(b"x"),
                &string(&signed(protected)),
            ]
            .concat()
        };
        for (what, other) in [
            ("tag 18", [&[0xd2][..], &good].concat()),
            ("tag 98", [&[0xd8, 0x62][..], &good].concat()),
            ("a byte after it", [&good[..], &[0]].concat()),
            ("an array of a longer head", with(0, &[0x98, 4])),
            (
                "an array without an end",
                [&with(0, &[0x9f])[..], &[0xff]].concat(),
            ),
            (
                "an array of five",
                [&with(0, &[0x85])[..], &[0xf6]].concat(),
            ),
            ("no payload", with(3, &[0xf6])),
            ("a payload of text", with(3, &[0x61, b'x'])),
            ("a payload of a longer head", with(3, &[0x58, 1, b'x'])),
            ("a payload in pieces", with(3, &[0x5f, 0x41, b'x', 0xff])),
            ("an unprotected header", with(2, &[0xa1, 0x01, 0x27])),
            (
                "an unprotected header of a longer head",
                with(2, &[0xb8, 0]),
            ),
            (
                "an unprotected header without an end",
                with(2, &[0xbf, 0xff]),
            ),
            (
                "a protected header of a longer head",
                header(&[0xb8, 1, 0x01, 0x27]),
            ),
            (
                "a protected header without an end",
                header(&[0xbf, 0x01, 0x27, 0xff]),
            ),
            (
                "a label of a longer head",
                header(&[0xa1, 0x18, 0x01, 0x27]),
            ),
            (
                "an algorithm of a longer head",
                header(&[0xa1, 0x01, 0x38, 0x07]),
            ),
            (
                "an algorithm by name",
                header(&[&[0xa1, 0x01, 0x65][..], b"EdDSA"].concat()),
            ),
            ("a label twice", header(&[0xa2, 0x01, 0x27, 0x01, 0x27])),
            (
                "a label more",
                header(&[0xa2, 0x01, 0x27, 0x04, 0x41, 0x01]),
            ),
            ("no protected header", header(&[])),
            ("an empty protected header", header(&[0xa0])),
        ] {
            assert!(
                verify(Purpose::ANNEX, &other, key.public_key()).is_err(),
                "{what}"
            );
        }
    }

    /// Nested as deep as there are bytes, in each place where something may stand; and a counter
    /// signature within the header of a counter signature, each a byte string of its own, which
    /// no limit of depth sees.
    #[test]
    fn what_is_nested_deep_costs_no_stack() {
        let string = |bytes: &[u8]| cbor::to_vec(&<&ByteSlice>::from(bytes));
        let mut bombs = Vec::new();
        for by in [0x81, 0x9f, 0xa1, 0xbf, 0xc1, 0xd2] {
            let deep = vec![by; 60_000];
            bombs.extend([
                [&[0x84][..], &string(&deep), &[0xa0, 0x40, 0x40]].concat(),
                [&[0x84, 0x43, 0xa1, 0x01, 0x27][..], &deep].concat(),
                [&[0x84, 0x43, 0xa1, 0x01, 0x27, 0xa0][..], &deep].concat(),
                deep,
            ]);
        }
        let mut header = vec![0xa0];
        while header.len() < 30_000 {
            header = [&[0xa1, 0x07, 0x83][..], &string(&header), &[0xa0, 0x40]].concat();
        }
        bombs.extend([
            [&[0x84, 0x43, 0xa1, 0x01, 0x27][..], &header, &[0x40, 0x40]].concat(),
            [&[0x84][..], &string(&header), &[0xa0, 0x40, 0x40]].concat(),
        ]);
        let [key, _] = both();
        for bomb in bombs {
            let key = key.public_key().clone();
            let small = std::thread::Builder::new().stack_size(64 * 1024);
            let refused = small.spawn(move || verify(Purpose::ANNEX, &bomb, &key).is_err());
            assert!(refused.unwrap().join().unwrap());
        }
    }

    #[test]
    fn a_statement_stands_for_one_purpose_one_key_and_one_payload() {
        let [ed, p256] = both();
        let good = sign(Purpose::POSSESSION, b"payload", &ed).unwrap();
        assert_eq!(
            verify(Purpose::POSSESSION, &good, ed.public_key()).unwrap(),
            b"payload"
        );
        assert_eq!(
            verify(Purpose::SUCCESSOR, &good, ed.public_key()),
            Err(Error::SignatureInvalid)
        );
        assert_eq!(
            verify(Purpose::POSSESSION, &good, p256.public_key()),
            Err(Error::AlgorithmMismatch)
        );
        let other = TestKey::ed25519(9);
        assert_eq!(
            verify(Purpose::POSSESSION, &good, other.public_key()),
            Err(Error::SignatureInvalid)
        );
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                assert!(
                    verify(Purpose::POSSESSION, &bad, ed.public_key()).is_err(),
                    "byte {at} bit {bit}"
                );
            }
            assert!(verify(Purpose::POSSESSION, &good[..at], ed.public_key()).is_err());
        }
        let tagged = [&[0xd2], &good[..]].concat();
        assert_eq!(
            verify(Purpose::POSSESSION, &tagged, ed.public_key()),
            Err(Error::Cose("tagged"))
        );
    }
}
