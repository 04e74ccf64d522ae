//! Public keys: Ed25519 and P-256.

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

use crate::{Error, Message, sha256};

/// JWS algorithm of a key (RFC 7518, RFC 8037).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    /// Ed25519.
    EdDSA,
    /// ECDSA on P-256 with SHA-256.
    ES256,
}

impl Algorithm {
    /// The name in JOSE headers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EdDSA => "EdDSA",
            Self::ES256 => "ES256",
        }
    }
}

/// An Ed25519 or P-256 public key that was checked when it was made: on the curve, not of small
/// order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicKey {
    /// Ed25519 (RFC 8032).
    Ed25519(ed25519_dalek::VerifyingKey),
    /// P-256.
    P256(p256::ecdsa::VerifyingKey),
}

/// RFC 8410: `SEQUENCE { SEQUENCE { OID 1.3.101.112 } BIT STRING (32 bytes) }`.
const ED25519_SPKI: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];
/// RFC 5480: id-ecPublicKey, prime256v1, and an uncompressed point of 65 bytes.
const P256_SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// Multicodec `ed25519-pub` and `p256-pub` as unsigned varints.
const ED25519_MULTICODEC: [u8; 2] = [0xed, 0x01];
const P256_MULTICODEC: [u8; 2] = [0x80, 0x24];

impl PublicKey {
    /// 32 bytes as RFC 8032 encodes them. Points of small order are refused.
    pub fn ed25519(bytes: &[u8]) -> Result<Self, Error> {
        let bytes: &[u8; 32] = bytes
            .try_into()
            .map_err(|_| Error::KeyInvalid("an Ed25519 key has 32 bytes"))?;
        let key = ed25519_dalek::VerifyingKey::from_bytes(bytes)
            .map_err(|_| Error::KeyInvalid("not a point of the curve"))?;
        if key.is_weak() {
            return Err(Error::KeyInvalid("a point of small order"));
        }
        Ok(Self::Ed25519(key))
    }

    /// A SEC1 point, 33 or 65 bytes.
    pub fn p256(sec1: &[u8]) -> Result<Self, Error> {
        let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(sec1)
            .map_err(|_| Error::KeyInvalid("not a point of P-256"))?;
        Ok(Self::P256(key))
    }

    /// The algorithm this key verifies.
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Self::Ed25519(_) => Algorithm::EdDSA,
            Self::P256(_) => Algorithm::ES256,
        }
    }

    /// Reads the one DER form of a SubjectPublicKeyInfo (RFC 8410, RFC 5480 uncompressed).
    pub fn from_spki(der: &[u8]) -> Result<Self, Error> {
        if let Some(key) = der.strip_prefix(&ED25519_SPKI) {
            Self::ed25519(key)
        } else if let Some(point) = der.strip_prefix(&P256_SPKI)
            && point.first() == Some(&4)
        {
            Self::p256(point)
        } else {
            Err(Error::KeyInvalid(
                "not the SubjectPublicKeyInfo of an Ed25519 or P-256 key",
            ))
        }
    }

    /// DER SubjectPublicKeyInfo: 44 bytes for Ed25519, 91 for P-256.
    pub fn to_spki(&self) -> Vec<u8> {
        match self {
            Self::Ed25519(key) => [&ED25519_SPKI[..], key.as_bytes()].concat(),
            Self::P256(key) => [&P256_SPKI[..], key.to_sec1_point(false).as_bytes()].concat(),
        }
    }

    /// Reads a Multikey (`z` and base58btc of multicodec and key).
    pub fn from_multikey(text: &str) -> Result<Self, Error> {
        // 35 bytes are at most 48 digits of base58; a longer text is not a key, and base58 is slow
        // on long ones.
        let digits = text.strip_prefix('z').filter(|digits| digits.len() <= 48);
        let bytes = digits.and_then(|digits| bs58::decode(digits).into_vec().ok());
        let bytes = bytes.ok_or(Error::KeyInvalid("not a base58btc Multikey"))?;
        if let Some(key) = bytes.strip_prefix(&ED25519_MULTICODEC) {
            Self::ed25519(key)
        } else if let Some(point) = bytes.strip_prefix(&P256_MULTICODEC)
            && point.len() == 33
        {
            Self::p256(point)
        } else {
            Err(Error::KeyInvalid(
                "not the Multikey of an Ed25519 or P-256 key",
            ))
        }
    }

    /// The Multikey form, as in did:key and `publicKeyMultibase`.
    pub fn to_multikey(&self) -> String {
        let bytes = match self {
            Self::Ed25519(key) => [&ED25519_MULTICODEC[..], key.as_bytes()].concat(),
            Self::P256(key) => [&P256_MULTICODEC[..], key.to_sec1_point(true).as_bytes()].concat(),
        };
        format!("z{}", bs58::encode(bytes).into_string())
    }

    /// The JWK form (RFC 7517; RFC 8037 for Ed25519).
    pub fn to_jwk(&self) -> Jwk {
        match self {
            Self::Ed25519(key) => Jwk {
                crv: "Ed25519".into(),
                kty: "OKP".into(),
                x: BASE64URL_NOPAD.encode(key.as_bytes()),
                ..Jwk::default()
            },
            Self::P256(key) => {
                let point = key.to_sec1_point(false);
                let (x, y) = point.as_bytes()[1..].split_at(32);
                Jwk {
                    crv: "P-256".into(),
                    kty: "EC".into(),
                    x: BASE64URL_NOPAD.encode(x),
                    y: Some(BASE64URL_NOPAD.encode(y)),
                    ..Jwk::default()
                }
            }
        }
    }

    /// Reads the public members of a JWK.
    pub fn from_jwk(jwk: &Jwk) -> Result<Self, Error> {
        let member = |text: &str| {
            BASE64URL_NOPAD
                .decode(text.as_bytes())
                .map_err(|_| Error::Base64("a JWK"))
        };
        match (jwk.kty.as_str(), jwk.crv.as_str(), &jwk.y) {
            ("OKP", "Ed25519", None) => Self::ed25519(&member(&jwk.x)?),
            ("EC", "P-256", Some(y)) => {
                let (x, y) = (member(&jwk.x)?, member(y)?);
                if (x.len(), y.len()) != (32, 32) {
                    return Err(Error::KeyInvalid("P-256 coordinates have 32 bytes"));
                }
                Self::p256(&[&[4], &x[..], &y[..]].concat())
            }
            _ => Err(Error::KeyInvalid("not an Ed25519 or P-256 JWK")),
        }
    }

    /// RFC 7638 thumbprint with SHA-256, base64url.
    pub fn thumbprint(&self) -> String {
        let jwk = self.to_jwk();
        let y = jwk.y.map(|y| format!(",\"y\":\"{y}\"")).unwrap_or_default();
        let form = format!(
            "{{\"crv\":\"{}\",\"kty\":\"{}\",\"x\":\"{}\"{y}}}",
            jwk.crv, jwk.kty, jwk.x
        );
        BASE64URL_NOPAD.encode(sha256(form.as_bytes()).as_bytes())
    }

    /// Verifies 64 raw bytes of signature: strict Ed25519 (no small-order points, canonical
    /// encodings), or ES256 `r || s`.
    pub fn verify(&self, message: &Message, signature: &[u8]) -> Result<(), Error> {
        self.verify_bytes(message.as_bytes(), signature)
    }

    /// As [`PublicKey::verify`], over bytes that come framed from elsewhere. The caller's framing
    /// must separate domains.
    pub fn verify_bytes(&self, bytes: &[u8], signature: &[u8]) -> Result<(), Error> {
        let signature: &[u8; 64] = signature.try_into().map_err(|_| Error::SignatureInvalid)?;
        let good = match self {
            Self::Ed25519(key) => key
                .verify_strict(bytes, &ed25519_dalek::Signature::from_bytes(signature))
                .is_ok(),
            Self::P256(key) => {
                p256::ecdsa::Signature::from_slice(signature).is_ok_and(|signature| {
                    p256::ecdsa::signature::Verifier::verify(key, bytes, &signature).is_ok()
                })
            }
        };
        if good {
            Ok(())
        } else {
            Err(Error::SignatureInvalid)
        }
    }
}

/// A public JSON Web Key (RFC 7517) of this profile.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jwk {
    /// `OKP` or `EC`.
    pub kty: String,
    /// `Ed25519` or `P-256`.
    pub crv: String,
    /// Key, or x coordinate: 32 bytes in base64url.
    pub x: String,
    /// y coordinate of an EC key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub y: Option<String>,
    /// DID URL of the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kid: Option<String>,
    /// JWS algorithm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alg: Option<String>,
    /// `sig`.
    #[serde(default, rename = "use", skip_serializing_if = "Option::is_none")]
    pub usage: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signer::tests::both_public as keys;

    #[test]
    fn every_form_of_a_key_reads_back() {
        for key in keys() {
            assert_eq!(PublicKey::from_spki(&key.to_spki()).unwrap(), key);
            assert_eq!(PublicKey::from_multikey(&key.to_multikey()).unwrap(), key);
            assert_eq!(PublicKey::from_jwk(&key.to_jwk()).unwrap(), key);
            let library = match &key {
                PublicKey::Ed25519(key) => {
                    ed25519_dalek::pkcs8::EncodePublicKey::to_public_key_der(key).unwrap()
                }
                PublicKey::P256(key) => {
                    p256::pkcs8::EncodePublicKey::to_public_key_der(key).unwrap()
                }
            };
            assert_eq!(library.as_bytes(), key.to_spki());
        }
    }

    #[test]
    fn forms_of_the_standards_are_met() {
        // RFC 8037 appendix A.3: the thumbprint of the RFC 8032 test key.
        let jwk = Jwk {
            kty: "OKP".into(),
            crv: "Ed25519".into(),
            x: "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo".into(),
            ..Jwk::default()
        };
        let key = PublicKey::from_jwk(&jwk).unwrap();
        assert_eq!(
            key.thumbprint(),
            "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
        );
        // did:key v0.7, sections "Ed25519" and "P-256": the prefixes that everybody recognises.
        assert!(key.to_multikey().starts_with("z6Mk"));
        assert!(keys()[1].to_multikey().starts_with("zDn"));
    }

    #[test]
    fn weak_and_malformed_keys_are_refused() {
        assert_eq!(
            PublicKey::ed25519(&[0; 32]).unwrap_err().code(),
            "key_invalid"
        );
        let mut identity_point = [0; 32];
        identity_point[0] = 1;
        assert_eq!(
            PublicKey::ed25519(&identity_point).unwrap_err(),
            Error::KeyInvalid("a point of small order")
        );
        assert!(PublicKey::ed25519(&[1; 31]).is_err());
        assert!(PublicKey::p256(&[4; 65]).is_err());
        for key in keys() {
            let mut spki = key.to_spki();
            spki.push(0);
            assert!(PublicKey::from_spki(&spki).is_err());
            assert!(PublicKey::from_multikey(&key.to_multikey()[1..]).is_err());
            assert!(PublicKey::from_multikey(&format!("{}1", key.to_multikey())).is_err());
        }
        assert!(PublicKey::from_multikey(&"z".repeat(1 << 20)).is_err());
    }
}
