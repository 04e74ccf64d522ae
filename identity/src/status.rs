//! Bitstring Status Lists (W3C Recommendation, 2025): which credentials their issuer has revoked.

use std::io::Read;

use data_encoding::BASE64URL_NOPAD;
use flate2::read::GzDecoder;

use crate::Error;

/// The least number of bits (section 6.1: so that an index tells little of whom it is about).
const MIN_BYTES: usize = 131_072 / 8;
/// The most that is unpacked.
const MAX_BYTES: usize = 1 << 17;

/// A list, unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusList(Vec<u8>);

impl StatusList {
    /// Reads `encodedList`: `u`, and base64url of gzip.
    pub fn decode(encoded: &str) -> Result<Self, Error> {
        let invalid = Error::StatusInvalid;
        let text = encoded
            .strip_prefix('u')
            .ok_or(invalid("encodedList does not begin with u"))?;
        let packed = BASE64URL_NOPAD
            .decode(text.as_bytes())
            .map_err(|_| Error::Base64("encodedList"))?;
        let mut bits = Vec::new();
        let unpacked = GzDecoder::new(packed.as_slice())
            .take(MAX_BYTES as u64 + 1)
            .read_to_end(&mut bits);
        unpacked.map_err(|_| invalid("encodedList is not gzip"))?;
        if !(MIN_BYTES..=MAX_BYTES).contains(&bits.len()) {
            return Err(invalid(
                "the list has less than 131072 bits, or more than a million",
            ));
        }
        Ok(Self(bits))
    }

    /// Whether the bit is set, the first one being the highest of the first byte; beyond the list
    /// is an error.
    pub fn is_set(&self, index: u64) -> Result<bool, Error> {
        let byte = usize::try_from(index / 8)
            .ok()
            .and_then(|at| self.0.get(at));
        byte.map(|byte| byte & (0x80 >> (index % 8)) != 0)
            .ok_or(Error::StatusInvalid("the list has no such index"))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn encoded(bits: &[u8]) -> String {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        packer.write_all(bits).unwrap();
        format!("u{}", BASE64URL_NOPAD.encode(&packer.finish().unwrap()))
    }

    #[test]
    fn a_status_list_has_its_bits_from_the_left_and_its_sizes() {
        let mut bits = vec![0; MIN_BYTES];
        (bits[0], bits[1], bits[MIN_BYTES - 1]) = (0x80, 0x01, 0x01);
        let list = StatusList::decode(&encoded(&bits)).unwrap();
        for (index, set) in [
            (0, true),
            (1, false),
            (7, false),
            (8, false),
            (15, true),
            (131_071, true),
            (131_070, false),
        ] {
            assert_eq!(list.is_set(index), Ok(set), "{index}");
        }
        for beyond in [131_072, u64::MAX] {
            assert_eq!(list.is_set(beyond).unwrap_err().code(), "status_invalid");
        }
        // The example of the standard, section 3.2: nothing is revoked.
        let example = "uH4sIAAAAAAAAA-3BMQEAAADCoPVPbQwfoAAAAAAAAAAAAAAAAAAAAIC3AYbSVKsAQAAA";
        assert_eq!(
            StatusList::decode(example).unwrap().is_set(94_567),
            Ok(false)
        );
        assert!(StatusList::decode(&encoded(&vec![0; MAX_BYTES])).is_ok());
        let short = &encoded(&bits[1..]);
        let long = &encoded(&vec![0; MAX_BYTES + 1]);
        let good = encoded(&bits);
        for bad in [
            "",
            "u",
            "uAAAA",
            &good[1..],
            &good[..good.len() - 8],
            short,
            long,
            &format!("{good}="),
        ] {
            assert!(
                StatusList::decode(bad).is_err(),
                "{}",
                &bad[..bad.len().min(40)]
            );
        }
    }
}
