//! What comes out.

use identity::{Digest, UnixSeconds};
use serde::Serialize;
use serde_json::{Value, json};
use state::{Custody, Rollback, StateFacts, StateId};

use crate::steps::{Check, Unchecked};
use crate::{CertificateId, Error};

/// Why a case was refused, and what became of each step.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// Every step, in order.
    pub checks: Vec<Check>,
}

/// Why a case was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// Something was checked and found wrong.
    #[error(transparent)]
    Wrong(#[from] Error),
    /// Everything checked was right, but not everything that matters was checked.
    #[error("not checked: {}; give what you expect, or say that you only want to look", names(.0))]
    Unchecked(Vec<Unchecked>),
}

impl Refusal {
    /// The stable snake_case name of this refusal.
    pub fn code(&self) -> &'static str {
        match &self.reason {
            Reason::Wrong(error) => error.code(),
            Reason::Unchecked(_) => "unchecked",
        }
    }

    /// `{"verdict":"refused","error":{"code","message"},"checks":[{"step","outcome","against"}]}`.
    pub fn to_json(&self) -> Value {
        let error = json!({"code": self.code(), "message": self.to_string()});
        json!({"verdict": "refused", "error": error, "checks": self.checks})
    }
}

fn names(unchecked: &[Unchecked]) -> String {
    let name = |u: &Unchecked| match u {
        Unchecked::Nonce => "nonce",
        Unchecked::Measurements => "measurements",
        Unchecked::Policy => "bundle",
        Unchecked::DidDocument => "DID document",
        Unchecked::Identity => "identity (bring evidence, not a document alone)",
    };
    unchecked.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// What was accepted. Its JSON is the answer of `anchorhold-verify --json`.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// `genuine`, `debug` or `mock`.
    pub verdict: &'static str,
    /// What nobody asked to be checked.
    pub unchecked: Vec<Unchecked>,
    /// SHA-256 of the root certificate (DER).
    pub root: Digest<32>,
    /// The enclave's name.
    pub module_id: String,
    /// When the document was made.
    pub timestamp: UnixSeconds,
    /// Register index to value.
    pub pcrs: serde_json::Map<String, Value>,
    /// Hex, or null.
    pub nonce: Option<String>,
    /// Hex, or null.
    pub user_data: Option<String>,
    /// Hex, or null.
    pub public_key: Option<String>,
    /// The certificates of the chain, root first: what a deny list names.
    pub certificates: Vec<CertificateId>,
    /// SHA-256 of the document and, directly after it, of the token, or of the credential in its
    /// RFC 8785 form: what a witness of the time must see.
    pub anchor_digest: Digest<32>,
    /// The witness of the time, where one was needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archive: Option<Archive>,
    /// Every step, in order.
    pub checks: Vec<Check>,
    /// The attested key, where evidence was judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyFacts>,
    /// The claims of the token or the content of the credential.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claims: Option<Value>,
}

/// Why something old was accepted.
#[derive(Debug, Clone, Serialize)]
pub struct Archive {
    /// `rfc3161`, or another kind of [`TimeAnchor`](crate::archive::TimeAnchor).
    pub anchor: &'static str,
    /// Document and token existed by then.
    pub time: UnixSeconds,
    /// Who says so.
    pub witness: String,
}

/// The attested key.
#[derive(Debug, Clone, Serialize)]
pub struct KeyFacts {
    /// Name of the identity in the policy.
    pub name: String,
    /// Its DID.
    pub did: String,
    /// DID URL of the key.
    pub kid: String,
    /// Version within the boot, or within the state.
    pub version: u32,
    /// What tokens of this key name.
    pub binding: Digest<32>,
    /// Digest of the policy that governs the key.
    pub policy: Digest<48>,
    /// The key that signs the record of every decision of that boot, as a Multikey.
    pub record_key: String,
    /// Where the key is kept.
    pub custody: Custody,
    /// The state that it is kept in: its id, hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<StateId>,
    /// The state's epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// Whether a parent can roll the state back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollback: Option<Rollback>,
}

impl KeyFacts {
    /// The state that the key is kept in, in one piece.
    pub fn state_facts(&self) -> Option<StateFacts> {
        Some(StateFacts {
            state: self.state?,
            epoch: self.epoch?,
            custody: self.custody,
            rollback: self.rollback?,
        })
    }
}
