//! What a hypervisor measures of an image.

use serde::Serialize;

use crate::register::{pcr0, register};
use crate::{Error, Image, Signature};

/// What a hypervisor measures of an image, in lowercase hex; serialized as nitro-cli prints it.
///
/// Each is SHA-384(48 zero bytes || SHA-384(sections)): PCR0 of all that is executed, PCR1 of
/// kernel, command line and first ramdisk, PCR2 of the other ramdisks, PCR8 of the signing
/// certificate (DER). Section boundaries and metadata are not measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Measurements {
    #[serde(rename = "HashAlgorithm")]
    algorithm: &'static str,
    /// The whole image.
    #[serde(rename = "PCR0")]
    pub pcr0: String,
    /// The boot: kernel, command line, first ramdisk.
    #[serde(rename = "PCR1")]
    pub pcr1: String,
    /// The application: the other ramdisks.
    #[serde(rename = "PCR2")]
    pub pcr2: String,
    /// The signing certificate, in a signed image.
    #[serde(rename = "PCR8", skip_serializing_if = "Option::is_none")]
    pub pcr8: Option<String>,
}

impl Measurements {
    /// Measures an image. Its signature, if it has one, must be one that can be read.
    pub fn of(image: &Image<'_>) -> Result<Self, Error> {
        let certificate = image
            .signature
            .map(Signature::parse)
            .transpose()?
            .map(|signature| signature.certificate_der());
        Ok(Self {
            algorithm: "Sha384 { ... }",
            pcr0: hex(&pcr0(image.kernel, image.cmdline, &image.ramdisks)),
            pcr1: hex(&register(
                [image.kernel, image.cmdline]
                    .into_iter()
                    .chain(image.ramdisks.iter().take(1).copied()),
            )),
            pcr2: hex(&register(image.ramdisks.iter().skip(1).copied())),
            pcr8: certificate.map(|der| hex(&register([der.as_slice()]))),
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}
