//! Sealing and opening: the content key of each seal, AES-256-GCM, the state key's signature.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use hkdf::Hkdf;
use identity::cbor;
use identity::cose::{self, Purpose};
use sha2::Sha512;
use state::{Header, Sealed, StateId, Wrap};
use zeroize::Zeroizing;

use super::contents::Contents;
use super::recipient::DataKey;
use crate::Error;
use crate::keys::KeyPair;

const KEY_TAG: &str = "anchorhold/seal-key/v1";

/// The key of one seal: HKDF-SHA-512 (RFC 5869) of the data key over `[tag, state id, sequence]`.
fn content_key(data_key: &DataKey, state: StateId, sequence: u64) -> Result<LessSafeKey, Error> {
    let mut key = Zeroizing::new([0; 32]);
    Hkdf::<Sha512>::new(Some(KEY_TAG.as_bytes()), &**data_key)
        .expand(&cbor::to_vec(&(KEY_TAG, state, sequence)), &mut *key)
        .expect("a short output");
    let key = UnboundKey::new(&AES_256_GCM, &*key).map_err(|_| Error::SelfCheckFailed)?;
    Ok(LessSafeKey::new(key))
}

/// Seals, and opens what was sealed before it leaves: a seal that does not open would be the end of
/// the state.
pub(crate) fn seal(
    header: &Header,
    wrap: Wrap,
    contents: &Contents,
    (data_key, state_key): (&DataKey, &KeyPair),
    nonce: [u8; 12],
) -> Result<Vec<u8>, Error> {
    let key = content_key(data_key, header.state, header.sequence)?;
    let mut text = contents.to_vec();
    key.seal_in_place_append_tag(
        Nonce::assume_unique_for_key(nonce),
        Aad::from(header.to_vec()),
        &mut *text,
    )
    .map_err(|_| Error::SelfCheckFailed)?;
    let ciphertext = std::mem::take(&mut *text);
    let sealed = Sealed::new(header, vec![wrap], nonce, ciphertext, |statement| {
        cose::sign(Purpose::SEAL, statement, state_key)
    })?;
    let bytes = sealed.to_vec();
    if bytes.len() > state::MAX_SEALED {
        return Err(Error::SealTooLarge);
    }
    let (again, header) = Sealed::parse(&bytes)?;
    open(&again, &header, data_key).map_err(|_| Error::SelfCheckFailed)?;
    Ok(bytes)
}

/// Opens. A seal under another key, of another state, number or header, with other wraps, or with
/// any bit changed, does not open.
pub(crate) fn open(
    sealed: &Sealed,
    header: &Header,
    data_key: &DataKey,
) -> Result<Contents, Error> {
    let key = content_key(data_key, header.state, header.sequence)?;
    let mut text = Zeroizing::new(sealed.ciphertext().to_vec());
    let opened = key.open_in_place(
        Nonce::assume_unique_for_key(sealed.nonce()),
        Aad::from(sealed.header_bytes()),
        &mut text,
    );
    let opened = opened.map_err(|_| Error::SealedStateUnopened)?;
    let contents = Contents::parse(opened).ok_or(Error::SealedStateForged("its contents"))?;
    if contents.wraps != sealed.wraps_digest() {
        return Err(Error::SealedStateForged("its wraps"));
    }
    Ok(contents)
}
