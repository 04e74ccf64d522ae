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
