//! How a credential gets into an enclave: sealed on the operator's desk to a key that the enclave
//! attests, and signed by the operator.

use identity::cose::{self, Purpose};
use identity::json::MAX_SAFE_INTEGER;
use identity::{Digest, PublicKey, Signer, cbor, sha256};
use minicbor::{Decode, Encode};
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256 as HPKE;
use rustls::crypto::hpke::{EncapsulatedSecret, Hpke, HpkePrivateKey, HpkePublicKey};
use zeroize::Zeroizing;

use crate::place::check_secret;
use crate::{Error, Omni};

const TAG: &str = "anchorhold/credential-put/v1";
const KEY_TAG: &str = "anchorhold/sealing-key/v1";
const AUTHORITY_TAG: &str = "anchorhold/ingress-authority/v1";
/// Longer ones are not looked at.
const MAX_ORDER: usize = 8 * 1024;

/// An enclave's key to which credentials are sealed: HPKE (RFC 9180) with X25519, HKDF-SHA-256 and
/// AES-256-GCM. It ends with the boot.
pub struct SealingKey {
    public: Vec<u8>,
    private: HpkePrivateKey,
}

impl SealingKey {
    /// A new one.
    pub fn generate() -> Result<Self, Error> {
        let (public, private) = HPKE
            .generate_key_pair()
            .map_err(|_| Error::CredentialOrderInvalid("no sealing key can be made"))?;
        Ok(Self {
            public: public.0,
            private,
        })
    }

    /// Its public half, 32 bytes: `public_key` of the attestation document.
    pub fn public(&self) -> &[u8] {
        &self.public
    }
}

/// `user_data` of the document that attests a sealing key: SHA-256 of the CBOR array
/// `["anchorhold/sealing-key/v1", policy digest, key]`.
pub fn sealing_data(policy: &Digest<48>, key: &[u8]) -> Digest<32> {
    let key: &minicbor::bytes::ByteSlice = key.into();
    sha256(&cbor::to_vec(&(KEY_TAG, policy, key)))
}

/// `user_data` of the document that attests the authority of an enclave's ingress process: SHA-256 of the CBOR array
/// `["anchorhold/ingress-authority/v1", policy digest, SHA-256 of its certificate]`.
pub fn authority_data(policy: &Digest<48>, certificate: &[u8]) -> Digest<32> {
    sha256(&cbor::to_vec(&(AUTHORITY_TAG, policy, sha256(certificate))))
}

/// An order to keep a credential, as the operator signs it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Order {
    #[n(0)]
    tag: String,
    /// Who puts it.
    #[n(1)]
    pub operator: Omni,
    /// For whom.
    #[n(2)]
    pub actor: Omni,
    /// For which service.
    #[n(3)]
    pub service: String,
    /// Above that of every one before it.
    #[n(4)]
    pub version: u64,
    /// HPKE's encapsulated key.
    #[cbor(n(5), with = "minicbor::bytes")]
    encapsulated: Vec<u8>,
    /// The credential, under HPKE.
    #[cbor(n(6), with = "minicbor::bytes")]
    ciphertext: Vec<u8>,
}

impl Order {
    /// Seals a credential to an enclave's key, and signs.
    pub fn sign<S: Signer>(
        (operator, actor, service): (Omni, Omni, &str),
        version: u64,
        secret: &[u8],
        sealing_key: &[u8],
        key: &S,
    ) -> Result<Vec<u8>, Error>
    where
        S::Error: std::fmt::Display,
    {
        check_secret(secret)?;
        let mut order = Self {
            tag: TAG.into(),
            operator,
            actor,
            service: service.to_owned(),
            version,
            encapsulated: Vec::new(),
            ciphertext: Vec::new(),
        };
        let to = HpkePublicKey(sealing_key.to_vec());
        let (encapsulated, ciphertext) = HPKE
            .seal(TAG.as_bytes(), &order.aad(), secret, &to)
            .map_err(|_| Error::CredentialOrderInvalid("nothing can be sealed to this key"))?;
        order.encapsulated = encapsulated.0;
        order.ciphertext = ciphertext;
        cose::sign(Purpose::CREDENTIAL, &cbor::to_vec(&order), key)
            .map_err(|_| Error::CredentialOrderInvalid("it cannot be signed"))
    }

    /// Verifies the operator's signature.
    pub fn verify(signed: &[u8], operator: &PublicKey) -> Result<Self, Error> {
        let wrong = Error::CredentialOrderInvalid;
        if signed.len() > MAX_ORDER {
            return Err(wrong("longer than 8 KiB"));
        }
        let payload = cose::verify(Purpose::CREDENTIAL, signed, operator)
            .map_err(|_| wrong("not signed by the operator's key"))?;
        let order: Self = cbor::from_slice(payload).map_err(|_| wrong("not of this form"))?;
        if order.tag != TAG {
            return Err(wrong("not of this form"));
        }
        if order.version > MAX_SAFE_INTEGER {
            return Err(wrong("its version is beyond 2^53-1"));
        }
        Ok(order)
    }

    /// What an order says, before anything of it is verified: for a file's name, and no more.
    pub fn unverified(signed: &[u8]) -> Result<Self, Error> {
        let wrong = |_| Error::CredentialOrderInvalid("not of this form");
        cbor::from_slice(cose::unverified_payload(signed).map_err(wrong)?).map_err(wrong)
    }

    /// The credential.
    pub fn open(&self, key: &SealingKey) -> Result<Zeroizing<Vec<u8>>, Error> {
        let encapsulated = EncapsulatedSecret(self.encapsulated.clone());
        let opened = HPKE.open(
            &encapsulated,
            TAG.as_bytes(),
            &self.aad(),
            &self.ciphertext,
            &key.private,
        );
        let secret = Zeroizing::new(opened.map_err(|_| {
            Error::CredentialOrderInvalid("sealed to the key of another boot, or changed")
        })?);
        check_secret(&secret)?;
        Ok(secret)
    }

    fn aad(&self) -> Vec<u8> {
        cbor::to_vec(&(&self.operator, &self.actor, &self.service, self.version))
    }
}
