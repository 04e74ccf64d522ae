//! What is signed as.

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// What is signed as. Its name is that of requests (`"format"`), logs and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, Encode, Decode)]
#[serde(rename_all = "kebab-case")]
#[cbor(index_only)]
pub enum Format {
    /// A compact JWS.
    #[default]
    #[n(0)]
    VouchJwt,
    /// A Data Integrity credential.
    #[n(1)]
    VouchCredential,
    /// A plain envelope, as a compact JWS.
    #[n(2)]
    Envelope,
}

impl Format {
    /// `vouch-jwt`, `vouch-credential` or `envelope`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::VouchJwt => "vouch-jwt",
            Self::VouchCredential => "vouch-credential",
            Self::Envelope => "envelope",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_has_one_name() {
        for format in [Format::VouchJwt, Format::VouchCredential, Format::Envelope] {
            assert_eq!(serde_json::to_value(format).unwrap(), format.as_str());
            assert_eq!(
                serde_json::from_value::<Format>(format.as_str().into()).unwrap(),
                format
            );
        }
    }
}
