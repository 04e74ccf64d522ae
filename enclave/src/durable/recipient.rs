//! For whom KMS encrypts: an RSA key pair that lives for one boot, and what opens its answers.

use aws_lc_rs::cipher::{AES_256, DecryptionContext, PaddedBlockDecryptingKey, UnboundCipherKey};
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rsa::{
    KeySize, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey,
};
use egress::Envelope;
use zeroize::{Zeroize, Zeroizing};

use crate::error::KmsError;

/// A key that KMS has made: 32 bytes.
pub(crate) type DataKey = Zeroizing<[u8; 32]>;

/// An RSA-2048 key pair. KMS takes no other kind (API reference, RecipientInfo).
pub(crate) struct Recipient {
    key: OaepPrivateDecryptingKey,
    spki: Vec<u8>,
}

impl Recipient {
    /// A new one; takes from 50 to 300 ms.
    pub(crate) fn generate() -> Result<Self, KmsError> {
        let key =
            PrivateDecryptingKey::generate(KeySize::Rsa2048).map_err(|_| KmsError::Recipient)?;
        let public = AsDer::<PublicKeyX509Der<'_>>::as_der(&key.public_key());
        let spki = public.map_err(|_| KmsError::Recipient)?.as_ref().to_vec();
        let key = OaepPrivateDecryptingKey::new(key).map_err(|_| KmsError::Recipient)?;
        Ok(Self { key, spki })
    }

    /// DER SubjectPublicKeyInfo: `public_key` of the document that KMS is shown.
    pub(crate) fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// Opens what KMS made for this recipient: RSAES-OAEP holds a content key, which under
    /// AES-256-CBC holds the secret (RFC 5652 section 6).
    pub(crate) fn open(&self, envelope: &Envelope) -> Result<DataKey, KmsError> {
        let mut room = Zeroizing::new(vec![0; self.key.min_output_size()]);
        let decrypted = self.key.decrypt(
            &OAEP_SHA256_MGF1SHA256,
            &envelope.encrypted_key,
            &mut room,
            None,
        );
        let length = decrypted.map_err(|_| KmsError::NotForUs)?.len();
        let key =
            UnboundCipherKey::new(&AES_256, &room[..length]).map_err(|_| KmsError::NotForUs)?;
        let key = PaddedBlockDecryptingKey::cbc_pkcs7(key).map_err(|_| KmsError::NotForUs)?;
        let iv: [u8; 16] = envelope
            .iv
            .as_slice()
            .try_into()
            .map_err(|_| KmsError::NotForUs)?;
        let mut content = Zeroizing::new(envelope.ciphertext.clone());
        let iv = DecryptionContext::Iv128(FixedLength::from(iv));
        let opened = key
            .decrypt(&mut content, iv)
            .map_err(|_| KmsError::NotForUs)?;
        let mut secret = Zeroizing::new([0; 32]);
        if opened.len() != secret.len() {
            opened.zeroize();
            return Err(KmsError::NotForUs);
        }
        secret.copy_from_slice(opened);
        opened.zeroize();
        Ok(secret)
    }
}
