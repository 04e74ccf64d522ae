//! A sealed state: what is public of it, how its content key is kept, its ciphertext.

use identity::cose::{self, Purpose};
use identity::{BootId, Did, Digest, KeyId, PublicKey, UnixSeconds, cbor, sha256};
use minicbor::bytes::ByteSlice;
use minicbor::{Decode, Encode};

use crate::genesis::bytes;
use crate::{Error, KmsKey, MAX_IDENTITIES, Pair, StateId, Terms};

const TAG: &str = "anchorhold/sealed/v1";
const HEADER_TAG: &str = "anchorhold/seal-header/v1";
const SEAL_TAG: &str = "anchorhold/seal/v1";
const KMS: &str = "kms";
/// The longest sealed state, in bytes.
pub const MAX_SEALED: usize = 3 * 1024 * 1024;
/// `CiphertextBlob` of KMS (API reference, Decrypt).
const MAX_WRAPPED: usize = 6144;

/// A sealed state, of which nothing is verified yet but its form: a map `{0: tag, 1: header, 2:
/// wraps, 3: nonce, 4: ciphertext, 5: signature}`.
///
/// The ciphertext is AES-256-GCM with the header's bytes as additional data. The signature is a
/// COSE_Sign1 for [`Purpose::SEAL`] by the state key over [`SealStatement`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Sealed {
    #[n(0)]
    tag: String,
    #[cbor(n(1), with = "minicbor::bytes")]
    header: Vec<u8>,
    #[n(2)]
    wraps: Vec<Wrap>,
    #[n(3)]
    nonce: Digest<12>,
    #[cbor(n(4), with = "minicbor::bytes")]
    ciphertext: Vec<u8>,
    #[cbor(n(5), with = "minicbor::bytes")]
    signature: Vec<u8>,
}

/// What the state key signs of a seal: `[tag, state id, epoch, sequence, SHA-256 of the CBOR array
/// [header, wraps, nonce, ciphertext]]`.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct SealStatement {
    #[n(0)]
    tag: String,
    /// The state.
    #[n(1)]
    pub state: StateId,
    /// Of the header.
    #[n(2)]
    pub epoch: u64,
    /// Of the header.
    #[n(3)]
    pub sequence: u64,
    /// Of all that the signature covers.
    #[n(4)]
    pub digest: Digest<32>,
}

/// How the content key of a state is kept: `["kms", ARN, CiphertextBlob]`.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Wrap {
    #[n(0)]
    kind: String,
    /// The KMS key that wraps it.
    #[n(1)]
    pub kms_key: KmsKey,
    /// `CiphertextBlob` of GenerateDataKey.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub wrapped: Vec<u8>,
}

impl Wrap {
    /// A data key of KMS.
    pub fn kms(kms_key: KmsKey, wrapped: Vec<u8>) -> Self {
        Self {
            kind: KMS.into(),
            kms_key,
            wrapped,
        }
    }
}

/// What is public of a sealed state. It can be believed once the ciphertext has opened under it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Header {
    #[n(0)]
    tag: String,
    /// The state.
    #[n(1)]
    pub state: StateId,
    /// Its name.
    #[n(2)]
    pub name: String,
    /// Version of the operator's word that was taken last.
    #[n(3)]
    pub epoch: u64,
    /// Rises with each seal.
    #[n(4)]
    pub sequence: u64,
    /// What the operator has said of it last.
    #[n(5)]
    pub authority: Authority,
    /// What bundles must not weaken.
    #[n(6)]
    pub terms: Terms,
    /// Who sealed it: image and bundle.
    #[n(7)]
    pub sealer: Pair,
    /// In which boot.
    #[n(8)]
    pub boot_id: BootId,
    /// When, in seconds since 1970.
    #[n(9)]
    pub time: i64,
    /// Its identities, in the order of their names, each once.
    #[n(10)]
    pub identities: Vec<SealedIdentity>,
}

/// Whose word counts for a state, and what it was last.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Authority {
    /// The operator's key, DER SubjectPublicKeyInfo.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub operator: Vec<u8>,
    /// Version of the certificate; 1 is the order of the birth.
    #[n(1)]
    pub version: u64,
    /// SHA-256 of the certificate or the order, as it was signed.
    #[n(2)]
    pub digest: Digest<32>,
}

/// What is public of a sealed identity.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct SealedIdentity {
    /// Its name.
    #[n(0)]
    pub name: String,
    /// Its environment.
    #[n(1)]
    pub environment: String,
    /// Its DID.
    #[n(2)]
    pub did: String,
    /// DID URL of its key.
    #[n(3)]
    pub kid: String,
    /// Version of its key.
    #[n(4)]
    pub version: u32,
    /// Its key, DER SubjectPublicKeyInfo.
    #[cbor(n(5), with = "minicbor::bytes")]
    pub spki: Vec<u8>,
    /// Whether the sealer's bundle had it.
    #[n(6)]
    pub use_: Use,
}

/// Whether the sealer's bundle had an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Use {
    /// It had.
    #[n(0)]
    Active,
    /// It had not: the key is kept, and signs nothing.
    #[n(1)]
    Kept,
}

/// SHA-256 of the CBOR of wraps.
pub fn wraps_digest(wraps: &[Wrap]) -> Digest<32> {
    sha256(&cbor::to_vec(&wraps))
}

fn malformed(why: impl Into<String>) -> Error {
    Error::SealedStateMalformed(why.into())
}

impl Header {
    /// A header; its epoch is the version of the operator's word.
    #[expect(clippy::too_many_arguments, reason = "each is a member of the format")]
    pub fn new(
        state: StateId,
        name: &str,
        sequence: u64,
        authority: Authority,
        terms: Terms,
        sealer: Pair,
        boot_id: BootId,
        time: UnixSeconds,
        identities: Vec<SealedIdentity>,
    ) -> Self {
        Self {
            tag: HEADER_TAG.into(),
            state,
            name: name.to_owned(),
            epoch: authority.version,
            sequence,
            authority,
            terms,
            sealer,
            boot_id,
            time: time.0,
            identities,
        }
    }

    /// Its bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        cbor::to_vec(self)
    }

    fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let header: Self =
            cbor::from_slice(bytes).map_err(|error| malformed(format!("header: {error}")))?;
        header
            .check()
            .map_err(|why| malformed(format!("header: {why}")))?;
        Ok(header)
    }

    fn check(&self) -> Result<(), String> {
        if self.tag != HEADER_TAG {
            return Err("another tag".into());
        }
        self.operator()?;
        if self.authority.version == 0 {
            return Err("there is no certificate 0".into());
        }
        if self.epoch != self.authority.version {
            return Err("its epoch is not the version of what was taken".into());
        }
        if self.identities.is_empty() || self.identities.len() > MAX_IDENTITIES {
            return Err("not 1 to 64 identities".into());
        }
        if !self
            .identities
            .is_sorted_by(|one, next| one.name < next.name)
        {
            return Err("its identities are not in the order of their names, each once".into());
        }
        self.identities
            .iter()
            .try_for_each(|identity| identity.key().map(|_| ()))
    }

    /// The operator's key.
    pub fn operator(&self) -> Result<PublicKey, String> {
        PublicKey::from_spki(&self.authority.operator).map_err(|error| error.to_string())
    }

    /// The identity of this name.
    pub fn identity(&self, name: &str) -> Option<&SealedIdentity> {
        self.identities
            .iter()
            .find(|identity| identity.name == name)
    }
}

impl SealedIdentity {
    /// Its key, if DID and key id belong to it.
    pub fn key(&self) -> Result<PublicKey, String> {
        let text = |error: identity::Error| format!("{:?}: {error}", self.name);
        let key = PublicKey::from_spki(&self.spki).map_err(text)?;
        let did = Did::parse(&self.did).map_err(text)?;
        if KeyId::of(&did, &key).map_err(text)?.as_str() != self.kid {
            return Err(format!("{:?}: its key id is of another key", self.name));
        }
        if self.version == 0 {
            return Err(format!("{:?}: there is no version 0", self.name));
        }
        Ok(key)
    }
}

impl Sealed {
    /// Puts the parts together. `sign` makes the COSE_Sign1 over the bytes of a [`SealStatement`].
    pub fn new<E>(
        header: &Header,
        wraps: Vec<Wrap>,
        nonce: [u8; 12],
        ciphertext: Vec<u8>,
        sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, E>,
    ) -> Result<Self, E> {
        let mut sealed = Self {
            tag: TAG.into(),
            header: header.to_vec(),
            wraps,
            nonce: Digest(nonce),
            ciphertext,
            signature: Vec::new(),
        };
        sealed.signature = sign(&cbor::to_vec(&sealed.statement(header)))?;
        Ok(sealed)
    }

    /// Reads the one encoding, and its header.
    pub fn parse(bytes: &[u8]) -> Result<(Self, Header), Error> {
        if bytes.len() > MAX_SEALED {
            return Err(malformed("longer than 3 MiB"));
        }
        let sealed: Self = cbor::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
        if sealed.tag != TAG {
            return Err(malformed("another tag"));
        }
        match sealed.wraps.as_slice() {
            [wrap] if wrap.kind == KMS => {
                if wrap.wrapped.is_empty() || wrap.wrapped.len() > MAX_WRAPPED {
                    return Err(malformed("a wrapped key of a size that KMS does not make"));
                }
            }
            _ => return Err(malformed("not wrapped by one key of KMS")),
        }
        let header = Header::parse(&sealed.header)?;
        Ok((sealed, header))
    }

    /// Its bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        cbor::to_vec(self)
    }

    /// The additional data of its ciphertext.
    pub fn header_bytes(&self) -> &[u8] {
        &self.header
    }

    /// How its content key is kept.
    pub fn wrap(&self) -> &Wrap {
        // What was read has one; what was made, too.
        &self.wraps[0]
    }

    /// [`wraps_digest`] of its wraps: the plaintext repeats it.
    pub fn wraps_digest(&self) -> Digest<32> {
        wraps_digest(&self.wraps)
    }

    /// Of AES-256-GCM.
    pub fn nonce(&self) -> [u8; 12] {
        self.nonce.0
    }

    /// Of AES-256-GCM, with its tag at the end.
    pub fn ciphertext(&self) -> &[u8] {
        &self.ciphertext
    }

    fn statement(&self, header: &Header) -> SealStatement {
        let [head, ciphertext]: [&ByteSlice; 2] = [bytes(&self.header), bytes(&self.ciphertext)];
        SealStatement {
            tag: SEAL_TAG.into(),
            state: header.state,
            epoch: header.epoch,
            sequence: header.sequence,
            digest: sha256(&cbor::to_vec(&(head, &self.wraps, self.nonce, ciphertext))),
        }
    }

    /// Verifies that the state key vouches for this seal.
    pub fn verify(&self, header: &Header, state_key: &PublicKey) -> Result<(), Error> {
        let signed = cose::verify(Purpose::SEAL, &self.signature, state_key)
            .map_err(|_| malformed("not signed by the state key"))?;
        if signed == cbor::to_vec(&self.statement(header)) {
            Ok(())
        } else {
            Err(malformed("the state key signed another seal"))
        }
    }
}
