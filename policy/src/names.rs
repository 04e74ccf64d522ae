//! What bundle and annex are made of alike.

use identity::PublicKey;
use serde::{Deserialize, Serialize};

use crate::Error;

const MAX_VALIDITY_SECONDS: u32 = 24 * 60 * 60;

/// A public key, written as Multikey.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MultikeyText(pub PublicKey);

impl TryFrom<String> for MultikeyText {
    type Error = identity::Error;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        PublicKey::from_multikey(&text).map(Self)
    }
}

impl From<MultikeyText> for String {
    fn from(key: MultikeyText) -> Self {
        key.0.to_multikey()
    }
}

pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
    if name.is_empty() || name.len() > 63 || !name.bytes().all(good) {
        return Err("a name has 1 to 63 lowercase letters, digits, '-', '_' or '.'".into());
    }
    Ok(())
}

pub(crate) fn check_validity(seconds: u32) -> Result<(), String> {
    if (1..=MAX_VALIDITY_SECONDS).contains(&seconds) {
        Ok(())
    } else {
        Err("max_validity_seconds is 1 to 86400".into())
    }
}

pub(crate) fn malformed(why: impl Into<String>) -> Error {
    Error::Malformed(why.into())
}
