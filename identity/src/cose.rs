//! Statements: COSE_Sign1 (RFC 9052 section 4.2) in the one form used here. Untagged, one protected
//! `alg`, nothing unprotected, the payload inside, and a purpose in `external_aad`.
//!
//! `coset` makes and reads them. It is lenient where RFC 8949 lets an encoder choose, so what it
//! read is encoded again and must be the same bytes: a statement has one encoding. Documents of the
//! NSM have a reader of their own, in `attestation`.

use coset::cbor::Value;
use coset::cbor::de::from_reader_with_recursion_limit;
use coset::{
    AsCborValue, CborSerializable, CoseSign1, CoseSign1Builder, Header, HeaderBuilder, iana,
};

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
    /// The proxy proves its key to the enclave.
    pub const WINDOW: Self = Self("anchorhold/window/v1");
}

/// An array and what stands in it; what is deeper is not read, so that hostile bytes cannot use up
/// the stack.
const DEPTH: usize = 4;
/// `{1: alg}` of either algorithm.
const PROTECTED_BYTES: usize = 3;

/// `{1: alg}`, and nothing else.
fn protected(algorithm: Algorithm) -> Header {
    let algorithm = match algorithm {
        Algorithm::EdDSA => iana::Algorithm::EdDSA,
        Algorithm::ES256 => iana::Algorithm::ES256,
    };
    HeaderBuilder::new().algorithm(algorithm).build()
}

/// Signs `payload` for `purpose`; gives the bytes of the COSE_Sign1, untagged.
pub fn sign<S: Signer>(purpose: Purpose, payload: &[u8], signer: &S) -> Result<Vec<u8>, S::Error> {
    let make = |to_be_signed: &[u8]| {
        signer
            .sign(&Message::cose(to_be_signed.to_vec()))
            .map(|signature| signature.to_vec())
    };
    let statement = CoseSign1Builder::new()
        .protected(protected(signer.public_key().algorithm()))
        .payload(payload.to_vec())
        .try_create_signature(purpose.0.as_bytes(), make)?
        .build();
    statement
        .to_vec()
        .map_err(|_| Error::Cose("cannot be encoded").into())
}

/// Verifies a COSE_Sign1 for `purpose` and gives its payload. Tag 18 is refused: a statement has
/// one form.
pub fn verify(purpose: Purpose, bytes: &[u8], key: &PublicKey) -> Result<Vec<u8>, Error> {
    let (statement, payload) = parse(bytes)?;
    if statement.protected.header != protected(key.algorithm()) {
        return Err(Error::AlgorithmMismatch);
    }
    key.verify_bytes(
        &statement.tbs_data(purpose.0.as_bytes()),
        &statement.signature,
    )?;
    Ok(payload)
}

/// What a statement says, before anything is verified: to find the key, never to trust.
pub fn unverified_payload(bytes: &[u8]) -> Result<Vec<u8>, Error> {
    parse(bytes).map(|(_, payload)| payload)
}

/// Reads the one encoding of a statement: it, and its payload.
fn parse(bytes: &[u8]) -> Result<(CoseSign1, Vec<u8>), Error> {
    let odd = Error::Cose("not an array of four, or of other types");
    let value: Value = from_reader_with_recursion_limit(bytes, DEPTH).map_err(|_| odd.clone())?;
    // coset reads what stands within these bytes as deep as it goes.
    let protected = value
        .as_array()
        .and_then(|parts| parts.first())
        .and_then(Value::as_bytes);
    if protected.is_none_or(|protected| protected.len() != PROTECTED_BYTES) {
        return Err(Error::Cose("another protected header"));
    }
    let mut statement = CoseSign1::from_cbor_value(value).map_err(|_| odd)?;
    if !statement.unprotected.is_empty() {
        return Err(Error::Cose("unprotected headers"));
    }
    // Else coset would write the protected header as it was read, whatever its encoding.
    let read = statement.protected.original_data.take();
    if statement.clone().to_vec().ok().as_deref() != Some(bytes) {
        return Err(Error::Cose("not in its one encoding"));
    }
    statement.protected.original_data = read;
    let payload = statement.payload.clone().ok_or(Error::Cose("no payload"))?;
    Ok((statement, payload))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cbor;
    use crate::signer::tests::{TestKey, both};

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

    /// Nested as deep as there are bytes, in each place where something may stand.
    #[test]
    fn what_is_nested_deep_costs_no_stack() {
        let deep = |within: &[u8], by: u8| {
            let bomb = vec![by; 60_000];
            let head = [&[0x59][..], &60_000_u16.to_be_bytes()].concat();
            match within {
                b"protected" => [&[0x84][..], &head, &bomb, &[0xa0, 0x40, 0x40]].concat(),
                b"unprotected" => [&[0x84, 0x43, 0xa1, 0x01, 0x27][..], &bomb].concat(),
                b"payload" => [&[0x84, 0x43, 0xa1, 0x01, 0x27, 0xa0][..], &bomb].concat(),
                _ => bomb,
            }
        };
        for by in [0x81, 0x9f, 0xa1, 0xbf, 0xc1, 0xd2] {
            for within in [&b"protected"[..], b"unprotected", b"payload", b"all"] {
                let bytes = deep(within, by);
                let small = std::thread::Builder::new().stack_size(128 * 1024);
                let refused = small
                    .spawn(move || unverified_payload(&bytes).is_err())
                    .unwrap()
                    .join()
                    .unwrap();
                assert!(refused, "{by:#x} in {within:?}");
            }
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
            Err(Error::Cose("another protected header"))
        );
    }
}
