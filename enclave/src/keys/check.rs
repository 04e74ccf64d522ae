//! Whether a signature that was just made is good, by other code than made it: a faulty one would
//! give the key away.
//!
//! Ed25519 is made by aws-lc and checked by dalek, ES256 is made by p256 and checked by aws-lc.

use std::sync::{Arc, LazyLock};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};
use curve25519_dalek::constants::{ED25519_BASEPOINT_POINT, EIGHT_TORSION};
use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::{IsIdentity, VartimeMultiscalarMul};
use identity::{PublicKey, Signature};
use sha2::{Digest, Sha512};

use crate::Error;

/// What checks the signatures of one key.
pub(crate) enum Check {
    Ed25519(Arc<Ed25519>),
    P256(ParsedPublicKey),
}

/// A public key, and the point that it is.
pub(crate) struct Ed25519 {
    public: [u8; 32],
    point: EdwardsPoint,
}

/// A signature that was made and not yet checked: what the check needs, without the message.
#[cfg_attr(test, derive(Clone))]
pub(crate) struct UncheckedSignature {
    key: Arc<Ed25519>,
    r: [u8; 32],
    s: Scalar,
    k: Scalar,
}

impl Check {
    /// `None` for a key that aws-lc does not take, which none is that p256 made.
    pub(crate) fn new(public: &PublicKey) -> Option<Self> {
        match public {
            PublicKey::Ed25519(key) => Some(Self::Ed25519(Arc::new(Ed25519 {
                public: key.to_bytes(),
                point: key.to_edwards(),
            }))),
            PublicKey::P256(key) => {
                let point = key.to_sec1_point(false);
                let key = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point.as_bytes());
                key.ok().map(Self::P256)
            }
        }
    }

    /// Checks, or leaves what is to be checked with others: an error if it is not good, nothing if
    /// it is.
    pub(crate) fn begin(
        &self,
        message: &[u8],
        signature: &Signature,
    ) -> Result<Option<UncheckedSignature>, Error> {
        match self {
            Self::Ed25519(key) => UncheckedSignature::new(key, message, signature).map(Some),
            Self::P256(key) => match key.verify_sig(message, signature) {
                Ok(()) => Ok(None),
                Err(_) => Err(Error::SelfCheckFailed),
            },
        }
    }
}

impl UncheckedSignature {
    /// The scalar must be spelled in its one way (RFC 8032 section 5.1.7).
    fn new(key: &Arc<Ed25519>, message: &[u8], signature: &Signature) -> Result<Self, Error> {
        let (mut r, mut s) = ([0; 32], [0; 32]);
        r.copy_from_slice(&signature[..32]);
        s.copy_from_slice(&signature[32..]);
        let s = Scalar::from_canonical_bytes(s)
            .into_option()
            .ok_or(Error::SelfCheckFailed)?;
        let hash = Sha512::new()
            .chain_update(r)
            .chain_update(key.public)
            .chain_update(message);
        let k = Scalar::from_bytes_mod_order_wide(&hash.finalize().into());
        Ok(Self {
            key: Arc::clone(key),
            r,
            s,
            k,
        })
    }

    /// As strict as `verify_strict` of ed25519-dalek, for a key of the prime-order group: R must be
    /// `sB - kA` byte by byte, and not of small order.
    pub(crate) fn check(&self) -> Result<(), Error> {
        // What is public may take its own time.
        let point =
            EdwardsPoint::vartime_double_scalar_mul_basepoint(&-self.k, &self.key.point, &self.s);
        if point.compress().as_bytes() == &self.r && !point.is_small_order() {
            Ok(())
        } else {
            Err(Error::SelfCheckFailed)
        }
    }

    /// R as a point, if it is spelled in its one way and not of small order.
    fn r(&self) -> Option<EdwardsPoint> {
        let good = is_canonical(&self.r) && !is_of_small_order(&self.r);
        good.then(|| CompressedEdwardsY(self.r).decompress())?
    }
}

/// Whether the 255 bits are below `p = 2^255 - 19`: each y has one spelling. (The sign of x = 0,
/// which has two, is that of a point of small order.)
fn is_canonical(y: &[u8; 32]) -> bool {
    let [first, middle @ .., last] = y;
    *first < 0xed || middle.iter().any(|byte| *byte != 0xff) || last & 0x7f != 0x7f
}

/// Whether it is the y of one of the eight points of small order, which no other point has.
fn is_of_small_order(r: &[u8; 32]) -> bool {
    let y = |mut r: [u8; 32]| {
        r[31] &= 0x7f;
        r
    };
    static SMALL: LazyLock<[[u8; 32]; 8]> =
        LazyLock::new(|| EIGHT_TORSION.map(|point| point.compress().to_bytes()));
    SMALL.iter().any(|small| y(*small) == y(*r))
}

/// Checks all at once: the sum of `z (R + kA - sB)` is zero, for weights that nobody knew when the
/// signatures were made. The terms of one key, and those of B, are one each.
///
/// Weights are odd, and stand at R as they are: an R that is off by a point of small order would
/// pass under an even one, and such a fault can give the key away. (The order of the group is odd,
/// so `-z` as a scalar would be even.) Several, each off by a point of small order, may cancel (two
/// by that of order two always): this is against a fault, not against a signer that means harm, and
/// such signatures give no key away, for k is that of the R that stands there. `random` fills the
/// weights.
pub(crate) fn check_all(
    batch: &[UncheckedSignature],
    random: impl FnOnce(&mut [u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    if let [] | [_] = batch {
        return batch.iter().try_for_each(UncheckedSignature::check);
    }
    let mut weights = vec![0; 16 * batch.len()];
    random(&mut weights)?;
    let mut base = Scalar::ZERO;
    let mut keys: Vec<(&Arc<Ed25519>, Scalar)> = Vec::new();
    let (mut scalars, mut points) = (Vec::new(), Vec::new());
    for (unchecked, weight) in batch.iter().zip(weights.as_chunks::<16>().0) {
        let z = Scalar::from(u128::from_le_bytes(*weight) | 1);
        base += z * unchecked.s;
        let known = keys
            .iter_mut()
            .find(|(key, _)| Arc::ptr_eq(key, &unchecked.key));
        match known {
            Some((_, sum)) => *sum += z * unchecked.k,
            None => keys.push((&unchecked.key, z * unchecked.k)),
        }
        scalars.push(z);
        points.push(unchecked.r().ok_or(Error::SelfCheckFailed)?);
    }
    for (key, sum) in keys {
        scalars.push(sum);
        points.push(key.point);
    }
    scalars.push(-base);
    points.push(ED25519_BASEPOINT_POINT);
    if EdwardsPoint::vartime_multiscalar_mul(scalars, points).is_identity() {
        Ok(())
    } else {
        Err(Error::SelfCheckFailed)
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer, SigningKey};

    use crate::Entropy;

    use super::*;

    impl Check {
        /// Whether it is good by itself, and among others whichever its place.
        fn is_good(&self, message: &[u8], signature: &Signature) -> bool {
            let begin = || self.begin(message, signature);
            let alone = begin().and_then(|unchecked| unchecked.map_or(Ok(()), |u| u.check()));
            let among = |place: usize| {
                let mut batch = GOOD[..4].to_vec();
                batch.extend(begin()?);
                let last = batch.len() - 1;
                batch.swap(place.min(last), last);
                check_all(&batch, weights)
            };
            let among = [0, 4].map(|place| among(place).is_ok());
            assert!(
                among.iter().all(|good| *good == alone.is_ok()),
                "{among:?} {alone:?}"
            );
            alone.is_ok()
        }
    }

    /// Sixteen good signatures of three keys.
    static GOOD: LazyLock<Vec<UncheckedSignature>> = LazyLock::new(|| {
        let keys = [1, 2, 3].map(|seed| SigningKey::from_bytes(&[seed; 32]));
        let checks =
            keys.each_ref().map(
                |key| match Check::new(&PublicKey::Ed25519(key.verifying_key())) {
                    Some(Check::Ed25519(check)) => check,
                    _ => panic!("Ed25519"),
                },
            );
        let good = |n: usize| {
            let (key, message) = (n % 3, [n.to_le_bytes()[0]]);
            let signature = keys[key].sign(&message).to_bytes();
            UncheckedSignature::new(&checks[key], &message, &signature).unwrap()
        };
        (0..16).map(good).collect()
    });

    impl UncheckedSignature {
        /// A good one; 0 to 15.
        pub(crate) fn good(n: usize) -> Self {
            GOOD[n].clone()
        }

        /// One that is not.
        pub(crate) fn damaged(mut self) -> Self {
            self.s += Scalar::ONE;
            self
        }
    }

    fn weights(out: &mut [u8]) -> Result<(), Error> {
        crate::OsEntropy.fill(out)
    }

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
        for (order, point) in EIGHT_TORSION.iter().enumerate() {
            let r = point.compress();
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
        for torsion in &EIGHT_TORSION[1..] {
            let mut other = good;
            other[..32].copy_from_slice((r + torsion).compress().as_bytes());
            assert!(!check.is_good(b"message", &other));
        }
    }

    /// One damaged signature of sixteen, each in turn: R, s, an R that is off by a point of
    /// small order, and what was signed.
    #[test]
    fn one_faulty_signature_of_sixteen_is_found_wherever_it_stands() {
        let batch = |at: usize, fault: &dyn Fn(&mut UncheckedSignature)| {
            let mut batch = GOOD.clone();
            fault(&mut batch[at]);
            check_all(&batch, weights)
        };
        for at in 0..16 {
            assert_eq!(batch(at, &|_| {}), Ok(()));
            for byte in [0, 13, 31] {
                let fault = |unchecked: &mut UncheckedSignature| unchecked.r[byte] ^= 1;
                assert_eq!(
                    batch(at, &fault),
                    Err(Error::SelfCheckFailed),
                    "R, byte {byte}"
                );
            }
            let faults: [&dyn Fn(&mut UncheckedSignature); 2] =
                [&|unchecked| unchecked.s += Scalar::ONE, &|unchecked| {
                    unchecked.k += Scalar::ONE
                }];
            for (n, fault) in faults.iter().enumerate() {
                assert_eq!(batch(at, fault), Err(Error::SelfCheckFailed), "{n}");
            }
            for torsion in &EIGHT_TORSION[1..] {
                let fault = |unchecked: &mut UncheckedSignature| {
                    let r = CompressedEdwardsY(unchecked.r).decompress().unwrap();
                    unchecked.r = (r + torsion).compress().to_bytes();
                };
                // With any weights, so that an even one would be met.
                for _ in 0..8 {
                    assert_eq!(batch(at, &fault), Err(Error::SelfCheckFailed));
                }
            }
        }
    }

    #[test]
    fn without_randomness_nothing_is_checked_together_and_one_is_checked_alone() {
        let batch = |n: usize| GOOD[..n].to_vec();
        let none = |_: &mut [u8]| Err(Error::NoRandomness);
        assert_eq!(check_all(&batch(1), none), Ok(()));
        assert_eq!(check_all(&batch(2), none), Err(Error::NoRandomness));
        assert_eq!(check_all(&[], none), Ok(()));
    }

    /// Of the y below 19, which alone have two, each that is on the curve is taken in one spelling.
    #[test]
    fn a_y_has_one_spelling() {
        let mut taken = 0;
        for small in 0..19_u8 {
            let (mut y, mut other) = ([0; 32], [0xff; 32]);
            // y, and y + p.
            (y[0], other[0], other[31]) = (small, 0xed + small, 0x7f);
            let r = |r| {
                UncheckedSignature {
                    r,
                    ..GOOD[0].clone()
                }
                .r()
            };
            let good = CompressedEdwardsY(y)
                .decompress()
                .filter(|point| !point.is_small_order());
            assert_eq!(r(y), good);
            assert_eq!(
                CompressedEdwardsY(other).decompress(),
                CompressedEdwardsY(y).decompress()
            );
            assert_eq!(r(other), None, "{small}");
            taken += usize::from(good.is_some());
        }
        assert!(taken > 4, "{taken}");
        // p - 1 is the greatest.
        let (mut greatest, mut less) = ([0xff; 32], [0xff; 32]);
        (greatest[0], greatest[31], less[31]) = (0xec, 0x7f, 0x7e);
        assert!(is_canonical(&greatest) && is_canonical(&less));
    }
}
