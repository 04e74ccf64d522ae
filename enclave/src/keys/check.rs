//! Whether a signature that was just made is good, by other code than made it: a faulty one would
//! give the key away.
//!
//! Ed25519 is made by aws-lc and checked by dalek, ES256 is made by p256 and checked by aws-lc.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};
use curve25519_dalek::constants::ED25519_BASEPOINT_TABLE;
use curve25519_dalek::edwards::EdwardsBasepointTable;
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::BasepointTable;
use identity::{PublicKey, Signature};
use sha2::{Digest, Sha512};

/// What checks the signatures of one key.
pub(crate) enum Check {
    Ed25519(Box<Ed25519>),
    P256(ParsedPublicKey),
}

/// Multiples of the key, computed once: 30 KiB.
pub(crate) struct Ed25519 {
    public: [u8; 32],
    table: EdwardsBasepointTable,
}

impl Check {
    /// `None` for a key that aws-lc does not take, which none is that p256 made.
    pub(crate) fn new(public: &PublicKey) -> Option<Self> {
        match public {
            PublicKey::Ed25519(key) => Some(Self::Ed25519(Box::new(Ed25519 {
                public: key.to_bytes(),
                table: EdwardsBasepointTable::create(&key.to_edwards()),
            }))),
            PublicKey::P256(key) => {
                let point = key.to_sec1_point(false);
                let key = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point.as_bytes());
                key.ok().map(Self::P256)
            }
        }
    }

    pub(crate) fn is_good(&self, message: &[u8], signature: &Signature) -> bool {
        match self {
            Self::Ed25519(check) => check.is_good(message, signature),
            Self::P256(key) => key.verify_sig(message, signature).is_ok(),
        }
    }
}

impl Ed25519 {
    /// As strict as `verify_strict` of ed25519-dalek, for a key that is of the prime-order group: R
    /// must be `sB - kA` byte by byte, and not of small order (RFC 8032 section 5.1.7, without the
    /// cofactor).
    fn is_good(&self, message: &[u8], signature: &Signature) -> bool {
        let (r, s) = signature.split_at(32);
        let s = s
            .try_into()
            .ok()
            .and_then(|s| Scalar::from_canonical_bytes(s).into_option());
        let Some(s) = s else { return false };
        let hash = Sha512::new()
            .chain_update(r)
            .chain_update(self.public)
            .chain_update(message);
        let k = Scalar::from_bytes_mod_order_wide(&hash.finalize().into());
        let point = ED25519_BASEPOINT_TABLE.mul_base(&s) - self.table.mul_base(&k);
        point.compress().as_bytes() == r && !point.is_small_order()
    }
}

#[cfg(test)]
mod tests {
    use curve25519_dalek::edwards::CompressedEdwardsY;
    use ed25519_dalek::{Signer, SigningKey};

    use super::*;

    fn ed25519() -> (SigningKey, PublicKey, Check) {
        let key = SigningKey::from_bytes(&[7; 32]);
        let public = PublicKey::Ed25519(key.verifying_key());
        let check = Check::new(&public).unwrap();
        (key, public, check)
    }

    #[test]
    fn every_bit_of_a_signature_and_of_what_was_signed_counts() {
        let (key, _, check) = ed25519();
        let other = p256::ecdsa::SigningKey::from_slice(&[7; 32]).unwrap();
        let p256 = Check::new(&PublicKey::P256(*other.verifying_key())).unwrap();
        let by_p256: p256::ecdsa::Signature = other.sign(b"message");
        let (by_ed25519, by_p256) = (key.sign(b"message").to_bytes(), by_p256.to_bytes().into());
        for (check, good) in [(check, by_ed25519), (p256, by_p256)] {
            assert!(check.is_good(b"message", &good));
            assert!(!check.is_good(b"messagf", &good));
            for at in 0..64 {
                for bit in 0..8 {
                    let mut bad = good;
                    bad[at] ^= 1 << bit;
                    assert!(!check.is_good(b"message", &bad), "byte {at} bit {bit}");
                }
            }
        }
    }

    /// A fault that makes R a point of small order leaves `s = ka` behind: the key, to all who divide.
    #[test]
    fn a_signature_whose_r_has_small_order_is_refused_as_the_strict_verifier_does() {
        let (key, public, check) = ed25519();
        let mut refused = 0;
        for order in 0..8 {
            let r = curve25519_dalek::constants::EIGHT_TORSION[order].compress();
            let hash = Sha512::new()
                .chain_update(r.as_bytes())
                .chain_update(key.verifying_key().as_bytes())
                .chain_update(b"message");
            let k = Scalar::from_bytes_mod_order_wide(&hash.finalize().into());
            let s = k * key.to_scalar();
            let signature: Signature = [r.to_bytes(), s.to_bytes()].concat().try_into().unwrap();
            assert!(!check.is_good(b"message", &signature), "{order}");
            assert!(
                public.verify_bytes(b"message", &signature).is_err(),
                "{order}"
            );
            refused += 1;
        }
        assert_eq!(refused, 8);
    }

    /// What the scalar may be in two ways, and what a lenient verifier takes for the same R.
    #[test]
    fn a_signature_has_one_spelling() {
        let (key, _, check) = ed25519();
        let good = key.sign(b"message").to_bytes();
        let mut more = good;
        // s + L, little-endian.
        let order: [u8; 32] = [
            0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9,
            0xde, 0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
        ];
        let mut carry = 0;
        for (byte, add) in more[32..].iter_mut().zip(order) {
            let sum = u16::from(*byte) + u16::from(add) + carry;
            (*byte, carry) = (sum.to_le_bytes()[0], sum >> 8);
        }
        assert!(check.is_good(b"message", &good) && !check.is_good(b"message", &more));
        // R and a point of order eight: the same for who multiplies by the cofactor.
        let r = CompressedEdwardsY(good[..32].try_into().unwrap())
            .decompress()
            .unwrap();
        for torsion in &curve25519_dalek::constants::EIGHT_TORSION[1..] {
            let mut other = good;
            other[..32].copy_from_slice((r + torsion).compress().as_bytes());
            assert!(!check.is_good(b"message", &other));
        }
    }
}
