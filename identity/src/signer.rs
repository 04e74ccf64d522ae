//! Who signs.

use crate::{Error, Message, PublicKey, Signature};

/// A key that signs messages of this crate. The enclave has the only real one.
pub trait Signer {
    /// Why a signature was not made.
    type Error: From<Error>;

    /// The public half.
    fn public_key(&self) -> &PublicKey;

    /// Signs, or says why not.
    fn sign(&self, message: &Message) -> Result<Signature, Self::Error>;
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A signer of tests: keys of repeated bytes.
    pub(crate) enum TestKey {
        Ed25519(ed25519_dalek::SigningKey, PublicKey),
        P256(p256::ecdsa::SigningKey, PublicKey),
    }

    impl TestKey {
        pub(crate) fn ed25519(byte: u8) -> Self {
            let key = ed25519_dalek::SigningKey::from_bytes(&[byte; 32]);
            let public = PublicKey::Ed25519(key.verifying_key());
            Self::Ed25519(key, public)
        }

        pub(crate) fn p256(byte: u8) -> Self {
            let key = p256::ecdsa::SigningKey::from_slice(&[byte; 32]).unwrap();
            let public = PublicKey::P256(*key.verifying_key());
            Self::P256(key, public)
        }
    }

    pub(crate) fn both() -> [TestKey; 2] {
        [TestKey::ed25519(7), TestKey::p256(7)]
    }

    /// The same JWS with the other signature that verifies, which ECDSA has and Ed25519 has not.
    pub(crate) fn twin(jws: &str, key: &TestKey) -> String {
        if matches!(key, TestKey::Ed25519(..)) {
            return jws.to_owned();
        }
        let base64 = data_encoding::BASE64URL_NOPAD;
        let (signed, signature) = jws.rsplit_once('.').unwrap();
        let signature =
            p256::ecdsa::Signature::from_slice(&base64.decode(signature.as_bytes()).unwrap())
                .unwrap();
        let (r, s) = signature.split_scalars();
        let twin = p256::ecdsa::Signature::from_scalars(*r, -*s).unwrap();
        format!("{signed}.{}", base64.encode(&twin.to_bytes()))
    }

    pub(crate) fn both_public() -> [PublicKey; 2] {
        both().map(|key| key.public_key().clone())
    }

    impl Signer for TestKey {
        type Error = Error;

        fn public_key(&self) -> &PublicKey {
            match self {
                Self::Ed25519(_, public) | Self::P256(_, public) => public,
            }
        }

        fn sign(&self, message: &Message) -> Result<Signature, Error> {
            Ok(match self {
                Self::Ed25519(key, _) => {
                    ed25519_dalek::Signer::sign(key, message.as_bytes()).to_bytes()
                }
                Self::P256(key, _) => {
                    let signature: p256::ecdsa::Signature =
                        p256::ecdsa::signature::Signer::sign(key, message.as_bytes());
                    signature.to_bytes().into()
                }
            })
        }
    }
}
