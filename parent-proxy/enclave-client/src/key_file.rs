//! Ed25519 keys of the host: the proxy's, the operator's. Never an identity's.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey};
use ed25519_dalek::{Signer as _, SigningKey};
use identity::{Message, PublicKey, Signature, Signer};
use zeroize::Zeroizing;

use crate::Error;
use crate::files::{is_private, read_bounded};

/// An Ed25519 key in a PKCS#8 PEM file that only its owner can read.
pub struct KeyFile {
    key: SigningKey,
    public: PublicKey,
}

impl KeyFile {
    /// Reads a key; a file that group or others can read is refused.
    pub fn read(file: &Path) -> Result<Self, Error> {
        let io = |source| Error::File {
            file: file.into(),
            source,
        };
        let wrong = |why| Error::KeyFile {
            file: file.into(),
            why,
        };
        if !is_private(file, fs::metadata(file).map_err(io)?.mode()) {
            return Err(wrong("readable by group or others; chmod 600"));
        }
        let pem = Zeroizing::new(read_bounded(file)?);
        let pem =
            std::str::from_utf8(&pem).map_err(|_| wrong("not an Ed25519 key in PKCS#8 PEM"))?;
        let key = SigningKey::from_pkcs8_pem(pem)
            .map_err(|_| wrong("not an Ed25519 key in PKCS#8 PEM"))?;
        Ok(Self::new(key))
    }

    /// Makes a key and writes it to a file that must not exist yet.
    pub fn create(file: &Path) -> Result<Self, Error> {
        let io = |source| Error::File {
            file: file.into(),
            source,
        };
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *seed).map_err(|_| io(std::io::Error::other("no randomness")))?;
        let key = Self::new(SigningKey::from_bytes(&seed));
        let pem = key
            .key
            .to_pkcs8_pem(ed25519_dalek::pkcs8::spki::der::pem::LineEnding::LF);
        let pem = pem.map_err(|_| io(std::io::Error::other("the key cannot be encoded")))?;
        let mut opened = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(file)
            .map_err(io)?;
        opened.write_all(pem.as_bytes()).map_err(io)?;
        Ok(key)
    }

    fn new(key: SigningKey) -> Self {
        let public = PublicKey::Ed25519(key.verifying_key());
        Self { key, public }
    }
}

impl Signer for KeyFile {
    type Error = identity::Error;

    fn public_key(&self) -> &PublicKey {
        &self.public
    }

    fn sign(&self, message: &Message) -> Result<Signature, identity::Error> {
        Ok(self.key.sign(message.as_bytes()).to_bytes())
    }
}
