use std::fmt;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

use crate::Error;

/// `N` bytes of a digest. As text and in JSON: lowercase hex, nothing else.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest<const N: usize>(pub [u8; N]);

impl<const N: usize> Digest<N> {
    /// Reads exactly `2 * N` lowercase hex digits.
    pub fn from_hex(text: &str) -> Result<Self, Error> {
        let mut bytes = [0; N];
        if text.len() != 2 * N || HEXLOWER.decode_mut(text.as_bytes(), &mut bytes).is_err() {
            return Err(Error::Hex { expected: N });
        }
        Ok(Self(bytes))
    }

    /// The `N` bytes.
    pub fn as_bytes(&self) -> &[u8; N] {
        &self.0
    }
}

/// SHA-256 (FIPS 180-4).
pub fn sha256(bytes: &[u8]) -> Digest<32> {
    Digest(sha2::Sha256::digest(bytes).into())
}

impl<const N: usize> fmt::Display for Digest<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl<const N: usize> fmt::Debug for Digest<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<const N: usize> Serialize for Digest<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Digest<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::from_hex(&text).map_err(serde::de::Error::custom)
    }
}
