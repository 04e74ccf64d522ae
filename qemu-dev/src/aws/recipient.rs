//! Recipients: the attestation document of a request, verified, and the key that it names.

use std::collections::BTreeMap;

use attestation::{Attested, MockRoot, unverified_time, verify_mock};
use data_encoding::{BASE64, HEXLOWER};
use der::Decode;
use der::asn1::AnyRef;
use der::oid::db::rfc5912::RSA_ENCRYPTION;
use identity::UnixSeconds;
use serde::Deserialize;
use x509_cert::spki::SubjectPublicKeyInfoRef;

use super::Refusal;

/// The oldest document, in milliseconds.
const MAX_AGE_MS: u64 = 300_000;
/// How far a document may be ahead of the mock's clock, in milliseconds.
const MAX_AHEAD_MS: u64 = 10_000;
/// The longest document, in bytes.
const MAX_DOCUMENT: usize = 262_144;

/// `Recipient` of a request.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct RawRecipient {
    attestation_document: String,
    key_encryption_algorithm: String,
}

/// Whom a verified document speaks for.
pub(super) struct Recipient {
    /// RSA of 2048 bits, DER SubjectPublicKeyInfo.
    pub(super) public_key: Vec<u8>,
    /// Registers, in lowercase hex.
    pub(super) pcrs: BTreeMap<u8, String>,
}

impl RawRecipient {
    /// Verifies the document to the mock NSM's root, at the mock's time in milliseconds.
    pub(super) fn verify(&self, root: &MockRoot, now_ms: u64) -> Result<Recipient, Refusal> {
        if self.key_encryption_algorithm != "RSAES_OAEP_SHA_256" {
            return Err(Refusal::validation(
                "KeyEncryptionAlgorithm is not RSAES_OAEP_SHA_256",
            ));
        }
        let bytes = BASE64
            .decode(self.attestation_document.as_bytes())
            .map_err(|_| {
                Refusal::new(
                    "SerializationException",
                    "AttestationDocument is not base64",
                )
            })?;
        if bytes.len() > MAX_DOCUMENT {
            return Err(Refusal::validation("AttestationDocument is too long"));
        }
        let refused = |error| Refusal::validation(format!("the attestation document: {error}"));
        let at = verified_at(unverified_time(&bytes).map_err(refused)?, now_ms);
        let mock = verify_mock(&bytes, root, at).map_err(refused)?;
        let document = mock.document();
        if document.timestamp_ms + MAX_AGE_MS < now_ms {
            return Err(Refusal::validation(
                "the attestation document is older than 5 minutes",
            ));
        }
        if now_ms + MAX_AHEAD_MS < document.timestamp_ms {
            return Err(Refusal::validation(
                "the attestation document is of the future",
            ));
        }
        let public_key = document.public_key.clone().unwrap_or_default();
        if !is_rsa_2048(&public_key) {
            return Err(Refusal::validation(
                "public_key of the attestation document is not RSA-2048 in DER SubjectPublicKeyInfo",
            ));
        }
        let pcrs = document.pcrs().iter();
        Ok(Recipient {
            public_key,
            pcrs: pcrs
                .map(|(index, pcr)| (index, HEXLOWER.encode(pcr.as_bytes())))
                .collect(),
        })
    }
}

/// The mock's time; a document that is a little ahead is verified at its own.
fn verified_at(made: UnixSeconds, now_ms: u64) -> UnixSeconds {
    let now = UnixSeconds((now_ms / 1000).cast_signed());
    let latest = now.plus((MAX_AHEAD_MS / 1000).cast_signed());
    if made <= latest { now.max(made) } else { now }
}

/// 294 bytes: a modulus of 2048 bits and the exponent 65537.
fn is_rsa_2048(der: &[u8]) -> bool {
    let is_rsa = SubjectPublicKeyInfoRef::from_der(der).is_ok_and(|key| {
        let algorithm = key.algorithm;
        algorithm.oid == RSA_ENCRYPTION && algorithm.parameters == Some(AnyRef::NULL)
    });
    let key = aws_lc_rs::rsa::PublicEncryptingKey::from_der(der);
    der.len() == 294 && is_rsa && key.is_ok_and(|key| key.key_size_bits() == 2048)
}
