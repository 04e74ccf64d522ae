//! Digests, and how they are written.

use std::fmt;

use data_encoding::HEXLOWER;
use minicbor::encode::Write;
use minicbor::{Decode, Decoder, Encode, Encoder};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

use crate::Error;

/// `N` bytes of a digest. As text and in JSON: lowercase hex, nothing else; in CBOR: a byte string.
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

impl<C, const N: usize> Encode<C> for Digest<N> {
    fn encode<W: Write>(
        &self,
        encoder: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        encoder.bytes(&self.0)?.ok()
    }
}

impl<'b, C, const N: usize> Decode<'b, C> for Digest<N> {
    fn decode(decoder: &mut Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        let bytes = decoder.bytes()?;
        bytes
            .try_into()
            .map(Self)
            .map_err(|_| minicbor::decode::Error::message("a digest of another size"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_lowercase_hex_and_nothing_else() {
        let digest = Digest([0xab, 1]);
        assert_eq!(
            (digest.to_string(), format!("{digest:?}")),
            ("ab01".into(), "ab01".into())
        );
        assert_eq!(Digest::from_hex("ab01"), Ok(digest));
        for bad in ["AB01", "ab0", "ab010", "ab0100", "", "xy01"] {
            assert_eq!(Digest::<2>::from_hex(bad), Err(Error::Hex { expected: 2 }));
        }
    }
}
