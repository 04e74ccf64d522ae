//! Measurements of images, as files.

use identity::{Digest, Pcr};
use serde::{Deserialize, Serialize};

use crate::{Document, Error};

/// The measurements of one image, as nitro-cli prints them under `Measurements`.
///
/// PCR0, 1 and 2 always count together: section boundaries of an image are not measured by any one
/// of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measurements {
    /// `Sha384 { ... }`.
    #[serde(rename = "HashAlgorithm")]
    pub hash_algorithm: String,
    /// The image.
    #[serde(rename = "PCR0")]
    pub pcr0: Pcr,
    /// Kernel, command line and first ramdisk.
    #[serde(rename = "PCR1")]
    pub pcr1: Pcr,
    /// The other ramdisks.
    #[serde(rename = "PCR2")]
    pub pcr2: Pcr,
    /// The signing certificate, for signed images.
    #[serde(rename = "PCR8", default, skip_serializing_if = "Option::is_none")]
    pub pcr8: Option<Pcr>,
}

#[derive(Serialize, Deserialize)]
struct File {
    #[serde(rename = "Measurements")]
    measurements: Measurements,
}

impl Measurements {
    /// Reads the JSON that `nitro-cli build-enclave`, `describe-eif` and `anchorhold-eif describe`
    /// print.
    pub fn parse(json: &[u8]) -> Result<Self, Error> {
        let malformed = |why: String| Error::MeasurementsMalformed(why);
        let file: File =
            identity::json::parse_as(json).map_err(|error| malformed(error.to_string()))?;
        let measurements = file.measurements;
        // How Rust prints the hasher, which differs between versions of the library that nitro-cli
        // is built with.
        if !["Sha384", "Sha512_48"]
            .iter()
            .any(|name| measurements.hash_algorithm.starts_with(name))
        {
            return Err(malformed("HashAlgorithm is not Sha384".into()));
        }
        if [measurements.pcr0, measurements.pcr1, measurements.pcr2].contains(&Digest([0; 48])) {
            return Err(malformed(
                "a measurement is zero, which only debug mode shows".into(),
            ));
        }
        Ok(measurements)
    }

    /// The JSON form that [`Measurements::parse`] reads.
    pub fn to_json(&self) -> String {
        let file = File {
            measurements: self.clone(),
        };
        serde_json::to_string_pretty(&file).unwrap_or_default()
    }

    /// Whether a document shows this image.
    pub fn match_document(&self, document: &Document) -> bool {
        let same = |(index, expected): &(u8, Pcr)| document.pcrs().get(*index) == Some(expected);
        self.registers().iter().all(same)
    }

    /// Which register must hold what.
    pub(crate) fn registers(&self) -> Vec<(u8, Pcr)> {
        let mut all = vec![(0, self.pcr0), (1, self.pcr1), (2, self.pcr2)];
        all.extend(self.pcr8.map(|pcr8| (8, pcr8)));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_measurements_are_read() {
        let hex = |byte: u8| Digest([byte; 48]).to_string();
        let good = format!(
            "{{\"Measurements\":{{\"HashAlgorithm\":\"Sha384 {{ ... }}\",\"PCR0\":\"{}\",\"PCR1\":\"{}\",\"PCR2\":\"{}\"}},\"EifVersion\":4}}",
            hex(1),
            hex(2),
            hex(3)
        );
        let read = Measurements::parse(good.as_bytes()).unwrap();
        assert_eq!(
            Measurements::parse(read.to_json().as_bytes()).unwrap(),
            read
        );
        for (from, to) in [
            ("Sha384", "Sha256"),
            ("PCR2", "PCR3"),
            (&hex(1), &hex(0)),
            (&hex(1), "01"),
            (&hex(1), &hex(0xab).to_uppercase()),
            ("{\"Measurements\"", "{\"M\""),
            ("{", ""),
        ] {
            assert_eq!(
                Measurements::parse(good.replacen(from, to, 1).as_bytes())
                    .unwrap_err()
                    .code(),
                "measurements_malformed",
                "{from}"
            );
        }
    }
}
