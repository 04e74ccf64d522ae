//! A TRACE v0.2 trust record.

use data_encoding::{BASE64URL_NOPAD, HEXLOWER_PERMISSIVE};
use identity::{PublicKey, UnixSeconds};
use serde_json::{Value, json};

use super::Verdict;
use super::ear::accepted_status;

const TRACE_PROFILE: &str = "tag:agentrust-io.com,2026:trace-v0.2";

/// A TRACE v0.2 trust record of an accepted verdict over evidence.
///
/// `cnf` is the attested key. A trust record is meant to be signed by that key, which signs no
/// bytes of others' choosing, so the record has no signature and reaches conformance level 0,
/// whatever stands behind it. What nobody told the verifier is said to be unstated: the model, and
/// the class of the data.
pub fn trace(verdict: &Verdict, at: UnixSeconds) -> Result<Value, NoRecord> {
    if verdict.archive.is_some() {
        return Err(NoRecord::Archive);
    }
    let key = verdict.key.as_ref().ok_or(NoRecord::NoKey)?;
    let register = |index: &str| {
        verdict
            .pcrs
            .get(index)
            .and_then(Value::as_str)
            .ok_or(NoRecord::NoKey)
    };
    let jwk = PublicKey::from_spki(&hex(verdict.public_key.as_deref()))
        .map_err(|_| NoRecord::NoKey)?
        .to_jwk();
    let genuine = verdict.verdict == "genuine";
    let mut runtime = json!({
        "platform": if genuine { "aws-nitro" } else { "software-only" },
        "measurement": format!("sha384:{}", register("0")?),
    });
    if let Some(nonce) = &verdict.nonce {
        runtime["nonce"] = BASE64URL_NOPAD.encode(&hex(Some(nonce))).into();
    }
    Ok(json!({
        "eat_profile": TRACE_PROFILE,
        "iat": at.0,
        "subject": key.did,
        "model": {"provider": "unstated", "model_id": "unstated"},
        "runtime": runtime,
        "policy": {"bundle_hash": format!("sha384:{}", key.policy), "enforcement_mode": "enforce"},
        "data_class": "unstated",
        "build_provenance": {"slsa_level": 0, "digest": format!("sha384:{}", register("0")?)},
        "appraisal": {"status": accepted_status(verdict), "verifier": "urn:anchorhold:anchorhold-verify", "timestamp": at.0},
        "cnf": {"jwk": jwk},
    }))
}

fn hex(text: Option<&str>) -> Vec<u8> {
    HEXLOWER_PERMISSIVE
        .decode(text.unwrap_or_default().as_bytes())
        .unwrap_or_default()
}

/// Why there is no trust record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoRecord {
    /// Only evidence names a key and an identity; a document alone does not.
    #[error(
        "a trust record is about an identity and its key, which evidence proves and a document alone does not"
    )]
    NoKey,
    /// A record has one time, and it would be taken for now.
    #[error("a trust record says what is trusted now; what is from an archive was trusted then")]
    Archive,
}
