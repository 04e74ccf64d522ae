//! What something says of itself, with nothing verified: to show, never to trust.

use data_encoding::HEXLOWER;
use identity::{Digest, PublicKey, UnixSeconds, json, token};
use policy::Bundle;
use serde::Serialize;
use serde_json::{Map, Value};
use state::StateFacts;

use crate::document::{Document, unverified_document};
use crate::{Evidence, Subject};

/// What a document, evidence or a statement says, as far as it can be read. Nothing of it is
/// verified: anybody can have written it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Claimed {
    /// When the document was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub made: Option<UnixSeconds>,
    /// The enclave's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module_id: Option<String>,
    /// The challenge that it answers, hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
    /// Register index to value.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub pcrs: Map<String, Value>,
    /// The key that the evidence is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<ClaimedKey>,
    /// Digest of the policy bundle in the evidence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bundle: Option<Digest<48>>,
    /// The key of the decision record, as a Multikey.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record_key: Option<String>,
    /// The state that the key is kept in, how far that has come, and how it is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<StateFacts>,
    /// The claims of the token, or the credential.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claims: Option<Value>,
}

/// Whose key evidence says that it is for.
#[derive(Debug, Clone, Serialize)]
pub struct ClaimedKey {
    /// Name of the identity in the bundle.
    pub name: String,
    /// Its DID.
    pub did: String,
    /// DID URL of the key.
    pub kid: String,
    /// Version within the boot.
    pub version: u32,
}

impl Claimed {
    /// Reads what can be read; what cannot is left out.
    pub fn of(subject: Subject<'_>) -> Self {
        let (document, evidence, claims) = match subject {
            Subject::Document(bytes) => (Some(bytes), None, None),
            Subject::Evidence(bytes) => (None, Some(bytes), None),
            Subject::Token { token, evidence } => {
                let claims = token::unverified_parts(token).ok();
                (None, Some(evidence), claims.map(|(_, claims)| claims))
            }
            Subject::Credential {
                credential,
                evidence,
            } => (None, Some(evidence), json::parse(credential).ok()),
        };
        let evidence = evidence.and_then(|bytes| Evidence::parse(bytes).ok());
        let mut claimed = Self {
            claims,
            ..Self::default()
        };
        if let Some(evidence) = &evidence {
            claimed.read_evidence(evidence);
        }
        let document = document.or(evidence.as_ref().map(Evidence::document));
        if let Some(document) = document.and_then(|bytes| unverified_document(bytes).ok()) {
            claimed.read_document(&document);
        }
        claimed
    }

    fn read_evidence(&mut self, evidence: &Evidence) {
        let key = evidence.key();
        self.key = Some(ClaimedKey {
            name: key.name.clone(),
            did: key.did.clone(),
            kid: key.kid.clone(),
            version: key.version,
        });
        let bundle = Bundle::from_canonical(evidence.bundle()).ok();
        self.bundle = bundle.map(|bundle| bundle.digest().digest());
        let record = PublicKey::from_spki(evidence.record()).ok();
        self.record_key = record.map(|key| key.to_multikey());
        self.state = evidence.state();
    }

    fn read_document(&mut self, document: &Document) {
        self.made = Some(document.made());
        self.module_id = Some(document.module_id.clone());
        self.nonce = document
            .nonce
            .as_deref()
            .map(|nonce| HEXLOWER.encode(nonce));
        let pcr = |(index, pcr): (u8, &identity::Pcr)| {
            (index.to_string(), Value::String(pcr.to_string()))
        };
        self.pcrs = document.pcrs().iter().map(pcr).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> Vec<u8> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/cases");
        std::fs::read(format!("{folder}/{name}")).unwrap()
    }

    #[test]
    fn what_can_be_read_is_said_and_the_rest_left_out() {
        let (evidence, token) = (file("evidence/good.cbor"), file("tokens/good.jwt"));
        let token = std::str::from_utf8(&token).unwrap().trim_end();
        let all = Claimed::of(Subject::Token {
            token,
            evidence: &evidence,
        });
        let key = all.key.unwrap();
        assert_eq!((key.name.as_str(), key.version), ("agent", 1));
        assert_eq!(all.state, None);
        let kept = Claimed::of(Subject::Evidence(&file("evidence/kept.cbor")));
        assert_eq!(kept.state.unwrap().state.to_string(), "5a".repeat(32));
        assert!(key.kid.starts_with(&key.did));
        assert_eq!(
            all.made,
            identity::parse_rfc3339("2026-01-01T00:00:00Z").ok()
        );
        assert_eq!(all.nonce, Some("c4".repeat(32)));
        assert_eq!(all.pcrs["0"], "01".repeat(48));
        assert!(all.bundle.is_some() && all.record_key.is_some());
        assert_eq!(all.claims.unwrap()["iss"], key.did);
        let broken = Claimed::of(Subject::Token {
            token,
            evidence: &evidence[1..],
        });
        assert!(broken.key.is_none() && broken.made.is_none() && broken.claims.is_some());
        let nothing = Claimed::of(Subject::Document(b""));
        assert_eq!(
            serde_json::to_value(nothing).unwrap(),
            serde_json::json!({})
        );
    }
}
