//! Private keys. They are born here, sign here, and are wiped here.

mod check;

use std::cell::RefCell;

use aws_lc_rs::encoding::AsBigEndian;
use aws_lc_rs::signature::Ed25519KeyPair;
use hkdf::Hkdf;
use identity::{Algorithm, Message, PublicKey, Signature, Signer};
use sha2::Sha512;
use zeroize::{Zeroize, Zeroizing};

use self::check::Check;
pub(crate) use self::check::{UncheckedSignature, check_all};
use crate::Error;

/// A key pair. No Clone, no Debug of the secret, no way out.
pub(crate) struct KeyPair {
    secret: Box<Secret>,
    public: PublicKey,
    check: Check,
}

/// Both are wiped when dropped: aws-lc clears every piece of its memory that it gives back.
enum Secret {
    Ed25519(Ed25519KeyPair),
    P256(p256::ecdsa::SigningKey),
}

/// Randomness of each source that goes into a key, in bytes.
pub(crate) const SEED_BYTES: usize = 32;

/// HKDF-SHA-512 (RFC 5869) of both sources: as good as the better one of them.
fn mixed(nsm: &[u8; SEED_BYTES], os: &[u8; SEED_BYTES]) -> Hkdf<Sha512> {
    let mut both = Zeroizing::new([0; 2 * SEED_BYTES]);
    both[..SEED_BYTES].copy_from_slice(nsm);
    both[SEED_BYTES..].copy_from_slice(os);
    Hkdf::<Sha512>::new(Some(b"anchorhold/key/v1"), &*both)
}

/// 32 secret bytes of both sources, for `context`.
pub(crate) fn secret(
    nsm: &[u8; SEED_BYTES],
    os: &[u8; SEED_BYTES],
    context: &[u8],
) -> Zeroizing<[u8; 32]> {
    let mut secret = Zeroizing::new([0; 32]);
    mixed(nsm, os)
        .expand_multi_info(&[b"secret", context], &mut *secret)
        .expect("a short output");
    secret
}

impl KeyPair {
    /// 32 secret bytes that follow from this key, for `context`: HKDF-SHA-512 (RFC 5869).
    pub(crate) fn derived(&self, context: &[u8]) -> Result<Zeroizing<[u8; 32]>, Error> {
        let own = self.secret()?;
        let mut secret = Zeroizing::new([0; 32]);
        Hkdf::<Sha512>::new(Some(b"anchorhold/derived/v1"), &*own)
            .expand(context, &mut *secret)
            .expect("a short output");
        Ok(secret)
    }

    /// Derives a key from both sources with HKDF-SHA-512 (RFC 5869): as good as the better one of
    /// them. `context` is what the key is for, so that equal randomness would still give different
    /// keys.
    pub(crate) fn generate(
        algorithm: Algorithm,
        nsm: &[u8; SEED_BYTES],
        os: &[u8; SEED_BYTES],
        context: &[u8],
    ) -> Self {
        let derived = mixed(nsm, os);
        let mut counter = 0_u8;
        loop {
            let mut seed = Zeroizing::new([0; 32]);
            // 32 bytes is far below HKDF's limit of 255 blocks.
            derived
                .expand_multi_info(&[&[counter], context], &mut *seed)
                .expect("a short output");
            if let Some(pair) = Self::from_seed(algorithm, &seed) {
                return pair;
            }
            counter = counter.wrapping_add(1);
        }
    }

    /// `None` for the rare 32 bytes that are no P-256 scalar.
    fn from_seed(algorithm: Algorithm, seed: &[u8; 32]) -> Option<Self> {
        let (secret, public) = match algorithm {
            Algorithm::EdDSA => {
                // Two implementations must find the same public key.
                let public = ed25519_dalek::SigningKey::from_bytes(seed).verifying_key();
                let key = Ed25519KeyPair::from_seed_and_public_key(seed, public.as_bytes())
                    .expect("two implementations find the same public key");
                (Secret::Ed25519(key), PublicKey::Ed25519(public))
            }
            Algorithm::ES256 => {
                let key = p256::ecdsa::SigningKey::from_slice(seed).ok()?;
                let public = PublicKey::P256(*key.verifying_key());
                (Secret::P256(key), public)
            }
        };
        let check = Check::new(&public)?;
        Some(Self {
            secret: Box::new(secret),
            public,
            check,
        })
    }

    /// The secret, to be kept sealed: what [`Self::from_secret`] takes. The one way out.
    pub(crate) fn secret(&self) -> Result<Zeroizing<[u8; SEED_BYTES]>, Error> {
        let mut secret = Zeroizing::new([0; SEED_BYTES]);
        match &*self.secret {
            Secret::Ed25519(key) => {
                let seed = key.seed().and_then(|seed| seed.as_be_bytes());
                // aws-lc clears what it gives, when it is dropped.
                let seed = seed.map_err(|_| Error::SelfCheckFailed)?;
                secret.copy_from_slice(seed.as_ref());
            }
            Secret::P256(key) => {
                let mut bytes = key.to_bytes();
                secret.copy_from_slice(&bytes);
                bytes.as_mut_slice().zeroize();
            }
        }
        Ok(secret)
    }

    /// A key that was kept; `None` for what is no secret of this algorithm.
    pub(crate) fn from_secret(algorithm: Algorithm, secret: &[u8; SEED_BYTES]) -> Option<Self> {
        Self::from_seed(algorithm, secret)
    }

    /// Signs; gives what is still to be checked, if anything is.
    fn make(&self, message: &Message) -> Result<(Signature, Option<UncheckedSignature>), Error> {
        let signature: Signature = match &*self.secret {
            Secret::Ed25519(key) => key
                .try_sign(message.as_bytes())
                .ok()
                .and_then(|signature| signature.as_ref().try_into().ok())
                .ok_or(Error::SelfCheckFailed)?,
            Secret::P256(key) => {
                let signature: p256::ecdsa::Signature =
                    p256::ecdsa::signature::Signer::sign(key, message.as_bytes());
                signature.to_bytes().into()
            }
        };
        let unchecked = self.check.begin(message.as_bytes(), &signature)?;
        Ok((signature, unchecked))
    }
}

impl Signer for KeyPair {
    type Error = Error;

    fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// Signs, then has the signature checked by another implementation: a faulty one would give
    /// the key away.
    fn sign(&self, message: &Message) -> Result<Signature, Error> {
        let (signature, unchecked) = self.make(message)?;
        unchecked.map_or(Ok(()), |unchecked| unchecked.check())?;
        Ok(signature)
    }
}

/// Signs, and leaves the checks of what it signed to be made with those of other requests.
pub(crate) struct Deferred<'k> {
    key: &'k KeyPair,
    unchecked: RefCell<Vec<UncheckedSignature>>,
}

impl<'k> Deferred<'k> {
    pub(crate) fn new(key: &'k KeyPair) -> Self {
        Self {
            key,
            unchecked: RefCell::default(),
        }
    }

    /// What must be checked before anything that was signed leaves.
    pub(crate) fn into_unchecked(self) -> Vec<UncheckedSignature> {
        self.unchecked.into_inner()
    }
}

impl Signer for Deferred<'_> {
    type Error = Error;

    fn public_key(&self) -> &PublicKey {
        self.key.public_key()
    }

    fn sign(&self, message: &Message) -> Result<Signature, Error> {
        let (signature, unchecked) = self.key.make(message)?;
        self.unchecked.borrow_mut().extend(unchecked);
        Ok(signature)
    }
}

#[cfg(test)]
mod tests {
    use identity::cose::{self, Purpose};

    use super::*;

    #[test]
    fn both_sources_and_the_context_go_into_a_key() {
        for algorithm in [Algorithm::EdDSA, Algorithm::ES256] {
            let key = |nsm, os, context: &[u8]| {
                KeyPair::generate(algorithm, &[nsm; 32], &[os; 32], context).public
            };
            assert_eq!(key(1, 2, b"a"), key(1, 2, b"a"));
            let keys = [
                key(1, 2, b"a"),
                key(3, 2, b"a"),
                key(1, 3, b"a"),
                key(2, 1, b"a"),
                key(1, 2, b"b"),
            ];
            for (index, one) in keys.iter().enumerate() {
                assert!(!keys[..index].contains(one));
            }
        }
    }

    #[test]
    fn a_signature_that_does_not_verify_never_leaves() {
        for algorithm in [Algorithm::EdDSA, Algorithm::ES256] {
            let good = KeyPair::generate(algorithm, &[1; 32], &[2; 32], b"");
            assert!(cose::sign(Purpose::POSSESSION, b"x", &good).is_ok());
            // As if memory had been damaged: the secret is not the one that belongs to the bound
            // key.
            let other = KeyPair::generate(algorithm, &[3; 32], &[2; 32], b"");
            let faulty = KeyPair {
                secret: other.secret,
                public: good.public,
                check: good.check,
            };
            assert_eq!(
                cose::sign(Purpose::POSSESSION, b"x", &faulty),
                Err(Error::SelfCheckFailed)
            );
        }
    }
}
