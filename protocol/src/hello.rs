//! The first three frames of a connection.

use identity::cose::{self, Purpose};
use identity::{BootId, PublicKey, Signer, cbor};
use minicbor::{Decode, Encode};

use crate::{Error, Refusal};

/// The one version that is spoken.
pub const VERSION: u32 = 10;

/// The enclave's first frame on a connection.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Hello {
    /// [`VERSION`].
    #[n(0)]
    pub version: u32,
    /// Random for each boot of the enclave.
    #[n(1)]
    pub boot_id: BootId,
    /// Random for each connection.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub challenge: [u8; 32],
}

/// The proxy's first frame: its key signs this connection's challenge.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct ChannelProof {
    /// [`VERSION`].
    #[n(0)]
    pub version: u32,
    /// DER SubjectPublicKeyInfo of the proxy's Ed25519 key.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub key: Vec<u8>,
    /// COSE_Sign1 for [`Purpose::WINDOW`] over the encoded [`Hello`].
    #[cbor(n(2), with = "minicbor::bytes")]
    pub statement: Vec<u8>,
}

/// The enclave's second frame.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Welcome {
    /// Requests may follow.
    #[n(0)]
    Welcome,
    /// The enclave will close the connection.
    #[n(1)]
    Refused(#[n(0)] Refusal),
}

impl Hello {
    /// Reads the enclave's first frame. Of a version that is not spoken, only the version is read.
    pub fn decode(frame: &[u8]) -> Result<Self, Error> {
        check_version(frame)?;
        Ok(cbor::from_slice(frame)?)
    }
}

impl ChannelProof {
    /// Answers `hello` with the proxy's key.
    pub fn new<S: Signer>(hello: &Hello, signer: &S) -> Result<Self, S::Error> {
        let statement = cose::sign(Purpose::WINDOW, &cbor::to_vec(hello), signer)?;
        Ok(Self {
            version: VERSION,
            key: signer.public_key().to_spki(),
            statement,
        })
    }

    /// Reads the proxy's first frame. Of a version that is not spoken, only the version is read.
    pub fn decode(frame: &[u8]) -> Result<Self, Error> {
        check_version(frame)?;
        Ok(cbor::from_slice(frame)?)
    }

    /// Verifies the proof for `hello` and gives the key that was proven.
    pub fn verify(&self, hello: &Hello) -> Result<PublicKey, Error> {
        let key = PublicKey::from_spki(&self.key).map_err(|_| Error::ProofInvalid)?;
        let signed = cose::verify(Purpose::WINDOW, &self.statement, &key)
            .map_err(|_| Error::ProofInvalid)?;
        if signed == cbor::to_vec(hello) {
            Ok(key)
        } else {
            Err(Error::ProofInvalid)
        }
    }
}

fn check_version(frame: &[u8]) -> Result<(), Error> {
    let mut reader = cbor::Reader::new(frame);
    reader.array()?;
    match reader.u64()? {
        version if version == u64::from(VERSION) => Ok(()),
        version => Err(Error::VersionUnknown(version)),
    }
}

#[cfg(test)]
mod tests {
    use identity::{Message, Signature};

    use super::*;

    struct Key(ed25519_dalek::SigningKey, PublicKey);

    impl Key {
        fn new(byte: u8) -> Self {
            let key = ed25519_dalek::SigningKey::from_bytes(&[byte; 32]);
            let public = PublicKey::Ed25519(key.verifying_key());
            Self(key, public)
        }
    }

    impl Signer for Key {
        type Error = identity::Error;

        fn public_key(&self) -> &PublicKey {
            &self.1
        }

        fn sign(&self, message: &Message) -> Result<Signature, identity::Error> {
            Ok(ed25519_dalek::Signer::sign(&self.0, message.as_bytes()).to_bytes())
        }
    }

    fn hello() -> Hello {
        Hello {
            version: VERSION,
            boot_id: BootId::new([1; 16]),
            challenge: [2; 32],
        }
    }

    #[test]
    fn a_proof_is_of_one_key_for_one_challenge_of_one_boot() {
        let (key, hello) = (Key::new(3), hello());
        let proof = ChannelProof::new(&hello, &key).unwrap();
        assert_eq!(proof.verify(&hello), Ok(key.1));
        let others = [
            Hello {
                boot_id: BootId::new([9; 16]),
                ..hello.clone()
            },
            Hello {
                challenge: [9; 32],
                ..hello.clone()
            },
        ];
        for other in &others {
            assert_eq!(proof.verify(other), Err(Error::ProofInvalid));
        }
        let stolen = ChannelProof {
            key: Key::new(4).1.to_spki(),
            ..proof.clone()
        };
        assert_eq!(stolen.verify(&hello), Err(Error::ProofInvalid));
        let no_key = ChannelProof {
            key: vec![0],
            ..proof
        };
        assert_eq!(no_key.verify(&hello), Err(Error::ProofInvalid));
    }

    #[test]
    fn a_version_that_is_not_spoken_is_named_whatever_follows_it() {
        let (key, hello) = (Key::new(3), hello());
        let proof = ChannelProof::new(&hello, &key).unwrap();
        assert_eq!(Hello::decode(&cbor::to_vec(&hello)), Ok(hello.clone()));
        assert_eq!(ChannelProof::decode(&cbor::to_vec(&proof)), Ok(proof));
        for version in [0, VERSION - 1, VERSION + 1] {
            let other = cbor::to_vec(&Hello { version, ..hello });
            let refused = Error::VersionUnknown(version.into());
            assert_eq!(Hello::decode(&other).err(), Some(refused.clone()));
            // An array of another length, of something else.
            let other = cbor::to_vec(&(version, "new"));
            assert_eq!(Hello::decode(&other).err(), Some(refused.clone()));
            assert_eq!(ChannelProof::decode(&other).err(), Some(refused));
        }
    }
}
