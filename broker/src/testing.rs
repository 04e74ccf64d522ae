//! What the tests here share.

use ed25519_dalek::SigningKey;
use identity::{Message, PublicKey, Signature, Signer};

/// An operator's key, of a byte that is repeated.
pub(crate) struct Key(SigningKey, PublicKey);

pub(crate) fn key(byte: u8) -> Key {
    let key = SigningKey::from_bytes(&[byte; 32]);
    let public = PublicKey::Ed25519(key.verifying_key());
    Key(key, public)
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
