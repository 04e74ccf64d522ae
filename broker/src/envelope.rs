//! How a credential is kept outside the enclave.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use hkdf::Hkdf;
use identity::cbor;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::{Error, Omni};

const VERSION: u8 = 0x05;
const DOMAIN: &str = "anchorhold/credential-envelope/v1";
/// AgentKeys' own, so that keys of an actor are derived as there.
const SALT: &[u8] = b"agentkeys.kek-salt.v2";
const INFO: &[u8] = b"agentkeys.user.v1";
const NONCE: usize = 12;
const TAG: usize = 16;
/// Version byte, epoch, version.
const HEAD: usize = 1 + 4 + 8;
/// With the longest credential.
const MAX_BYTES: usize = HEAD + NONCE + 4096 + TAG;

/// One of the keys K3: 32 bytes that no host has, and their number. Each actor has a key of its own
/// under it.
pub struct Epoch {
    /// From 1.
    pub number: u32,
    /// The key.
    pub key: Zeroizing<[u8; 32]>,
}

/// Whose credential, for which service: what its envelope is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// Who put it.
    pub operator: &'a Omni,
    /// Who uses it.
    pub actor: &'a Omni,
    /// For which service.
    pub service: &'a str,
    /// Where that is: a bundle that comes later may call another one so.
    pub upstream: &'a str,
}

/// A sealed credential: `0x05 || epoch u32 || version u64 || nonce || ciphertext || tag`, numbers
/// big-endian, under AES-256-GCM; its AAD is the CBOR array `[domain, epoch, version, operator, actor,
/// service, upstream]`. The key is HKDF-SHA-256 of K3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Of K3.
    pub epoch: u32,
    /// Rises with each credential of an actor for a service.
    pub version: u64,
    bytes: Vec<u8>,
}

impl Envelope {
    /// Seals. `nonce` is used once.
    pub fn seal(
        epoch: &Epoch,
        version: u64,
        place: Place<'_>,
        secret: &[u8],
        nonce: [u8; NONCE],
    ) -> Result<Self, Error> {
        let mut text = Zeroizing::new(Vec::with_capacity(secret.len() + TAG));
        text.extend_from_slice(secret);
        key(epoch, place.actor)?
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(aad(epoch.number, version, place)),
                &mut *text,
            )
            .map_err(|_| Error::EnvelopeUnopened("it cannot be sealed"))?;
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&epoch.number.to_be_bytes());
        bytes.extend_from_slice(&version.to_be_bytes());
        bytes.extend_from_slice(&nonce);
        bytes.extend_from_slice(&text);
        Ok(Self {
            epoch: epoch.number,
            version,
            bytes,
        })
    }

    /// Reads one; nothing is opened.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let wrong = Error::EnvelopeUnopened("it is none of this form");
        if !(HEAD + NONCE + TAG..=MAX_BYTES).contains(&bytes.len()) || bytes[0] != VERSION {
            return Err(wrong);
        }
        let epoch = bytes[1..]
            .first_chunk()
            .map(|epoch| u32::from_be_bytes(*epoch));
        let version = bytes[5..]
            .first_chunk()
            .map(|version| u64::from_be_bytes(*version));
        match (epoch, version) {
            (Some(epoch), Some(version)) => Ok(Self {
                epoch,
                version,
                bytes: bytes.to_vec(),
            }),
            _ => Err(wrong),
        }
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Opens: one of another place, epoch or version, or with any bit changed, does not.
    pub fn open(&self, epoch: &Epoch, place: Place<'_>) -> Result<Zeroizing<Vec<u8>>, Error> {
        if epoch.number != self.epoch {
            return Err(Error::EnvelopeUnopened("it is of another epoch"));
        }
        let (nonce, ciphertext) = self.bytes[HEAD..].split_at(NONCE);
        let nonce = Nonce::try_assume_unique_for_key(nonce);
        let nonce = nonce.map_err(|_| Error::EnvelopeUnopened("its nonce"))?;
        let mut text = Zeroizing::new(ciphertext.to_vec());
        let length = key(epoch, place.actor)?
            .open_in_place(
                nonce,
                Aad::from(aad(self.epoch, self.version, place)),
                &mut text,
            )
            .map_err(|_| {
                Error::EnvelopeUnopened(
                    "it is of another actor, service, place of a service, operator or boot, or was changed",
                )
            })?
            .len();
        text.truncate(length);
        Ok(text)
    }
}

fn aad(epoch: u32, version: u64, place: Place<'_>) -> Vec<u8> {
    cbor::to_vec(&(
        DOMAIN,
        epoch,
        version,
        place.operator,
        place.actor,
        place.service,
        place.upstream,
    ))
}

/// The key of an actor: HKDF-SHA-256 (RFC 5869) of K3, with AgentKeys' salt and info.
fn key(epoch: &Epoch, actor: &Omni) -> Result<LessSafeKey, Error> {
    let mut key = Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(Some(SALT), &*epoch.key)
        .expand_multi_info(&[INFO, actor.as_bytes()], &mut *key)
        .expect("a short output");
    UnboundKey::new(&AES_256_GCM, &*key)
        .map(LessSafeKey::new)
        .map_err(|_| Error::EnvelopeUnopened("no key"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(number: u32, byte: u8) -> Epoch {
        Epoch {
            number,
            key: Zeroizing::new([byte; 32]),
        }
    }

    #[test]
    fn it_opens_at_its_place_and_nowhere_else() {
        let (operator, actor, other) = (Omni::new([1; 32]), Omni::new([2; 32]), Omni::new([3; 32]));
        let place = Place {
            operator: &operator,
            actor: &actor,
            service: "openrouter",
            upstream: "https://openrouter.ai/api",
        };
        let sealed = Envelope::seal(&epoch(7, 9), 42, place, b"sk-12345", [5; 12]).unwrap();
        let read = Envelope::parse(sealed.as_bytes()).unwrap();
        assert_eq!((&read, read.epoch, read.version), (&sealed, 7, 42));
        assert_eq!(&**read.open(&epoch(7, 9), place).unwrap(), b"sk-12345");
        for (epoch, place) in [
            (epoch(8, 9), place),
            (epoch(7, 8), place),
            (
                epoch(7, 9),
                Place {
                    actor: &other,
                    ..place
                },
            ),
            (
                epoch(7, 9),
                Place {
                    operator: &other,
                    ..place
                },
            ),
            (
                epoch(7, 9),
                Place {
                    service: "openai",
                    ..place
                },
            ),
            (
                epoch(7, 9),
                Place {
                    upstream: "https://openrouter.example/api",
                    ..place
                },
            ),
        ] {
            assert_eq!(
                read.open(&epoch, place).unwrap_err().code(),
                "envelope_unopened"
            );
        }
        for at in 0..sealed.as_bytes().len() {
            for bit in [1, 0x80] {
                let mut bytes = sealed.as_bytes().to_vec();
                bytes[at] ^= bit;
                let opened = Envelope::parse(&bytes).and_then(|read| {
                    let epoch = epoch(read.epoch, 9);
                    read.open(&epoch, place).map(|_| ())
                });
                assert!(opened.is_err(), "byte {at}");
            }
            assert!(
                Envelope::parse(&sealed.as_bytes()[..at])
                    .and_then(|read| read.open(&epoch(7, 9), place).map(|_| ()))
                    .is_err()
            );
        }
    }
}
