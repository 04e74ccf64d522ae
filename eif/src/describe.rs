//! What can be said of an image file.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Error, Image, Measurements, Signature};

/// The metadata section, as nitro-cli writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Metadata {
    #[serde(rename = "ImageName")]
    pub(crate) name: String,
    #[serde(rename = "ImageVersion")]
    pub(crate) version: String,
    #[serde(rename = "BuildMetadata")]
    pub(crate) build: BuildMetadata,
    #[serde(rename = "DockerInfo")]
    pub(crate) docker: Value,
    #[serde(rename = "CustomMetadata")]
    pub(crate) custom: Value,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BuildMetadata {
    #[serde(rename = "BuildTime")]
    pub(crate) time: String,
    #[serde(rename = "BuildTool")]
    pub(crate) tool: String,
    #[serde(rename = "BuildToolVersion")]
    pub(crate) tool_version: String,
    #[serde(rename = "OperatingSystem")]
    pub(crate) operating_system: String,
    #[serde(rename = "KernelVersion")]
    pub(crate) kernel_version: String,
}

#[derive(Serialize)]
struct Description {
    #[serde(rename = "EifVersion")]
    version: u16,
    #[serde(rename = "Measurements")]
    measurements: Measurements,
    #[serde(rename = "IsSigned")]
    is_signed: bool,
    #[serde(rename = "SigningCertificate", skip_serializing_if = "Option::is_none")]
    certificate: Option<Value>,
    #[serde(rename = "CheckCRC")]
    crc: bool,
    #[serde(rename = "SignatureCheck", skip_serializing_if = "Option::is_none")]
    signature: Option<bool>,
    #[serde(rename = "ImageName", skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(rename = "ImageVersion", skip_serializing_if = "Option::is_none")]
    image_version: Option<String>,
    #[serde(rename = "Metadata", skip_serializing_if = "Option::is_none")]
    metadata: Option<DescribedMetadata>,
}

#[derive(Serialize)]
struct DescribedMetadata {
    #[serde(flatten)]
    build: BuildMetadata,
    #[serde(rename = "DockerInfo")]
    docker: Value,
    #[serde(flatten, skip_serializing_if = "Value::is_null")]
    custom: Value,
}

/// What nitro-cli's `describe-eif` prints, indented JSON without a line end. An image with a wrong
/// checksum, or a signature that is not its own, is refused and not described.
pub fn describe(file: &[u8]) -> Result<String, Error> {
    let image = Image::parse(file)?;
    let signature = image.signature.map(Signature::parse).transpose()?;
    if signature
        .as_ref()
        .is_some_and(|signature| !signature.is_of(&image))
    {
        return Err(Error::Signature(
            "not one of this image by the key of its certificate".into(),
        ));
    }
    let metadata: Option<Metadata> = serde_json::from_slice(image.metadata).map_err(unreadable)?;
    let (name, image_version) = metadata
        .as_ref()
        .map(|of| (of.name.clone(), of.version.clone()))
        .unzip();
    let metadata = match metadata {
        Some(Metadata {
            build,
            docker,
            custom: custom @ (Value::Object(_) | Value::Null),
            ..
        }) => Some(DescribedMetadata {
            build,
            docker,
            custom,
        }),
        Some(_) => {
            return Err(Error::Metadata(
                "CustomMetadata is neither an object nor null".into(),
            ));
        }
        None => None,
    };
    let description = Description {
        version: 4,
        measurements: Measurements::of(&image)?,
        is_signed: signature.is_some(),
        certificate: signature.as_ref().map(Signature::certificate_info),
        crc: true,
        signature: signature.is_some().then_some(true),
        name,
        image_version,
        metadata,
    };
    serde_json::to_string_pretty(&description).map_err(unreadable)
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn unreadable(error: serde_json::Error) -> Error {
    Error::Metadata(error.to_string())
}
