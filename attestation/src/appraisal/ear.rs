//! An EAT attestation result (draft-ietf-rats-ear-04), with the trustworthiness vector of
//! draft-ietf-rats-ar4si.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use data_encoding::BASE64URL_NOPAD;
use identity::{PublicKey, UnixSeconds};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Map, Value, json};

use crate::{Error, Outcome, Reason, Refusal, Step, Verdict};

const EAR_PROFILE: &str = "tag:ietf.org,2026:rats/ear#04";
/// What an EAR is about.
#[derive(Debug, Clone, Copy)]
pub enum About<'a> {
    /// A document alone.
    Document(&'a [u8]),
    /// An evidence file.
    Evidence(&'a [u8]),
}

impl About<'_> {
    /// Media type and bytes in base64url.
    fn to_json(self) -> Value {
        let (kind, bytes) = match self {
            Self::Document(bytes) => ("application/cose; cose-type=\"cose-sign1\"", bytes),
            Self::Evidence(bytes) => ("application/vnd.anchorhold.evidence+cbor", bytes),
        };
        json!([kind, BASE64URL_NOPAD.encode(bytes)])
    }
}

/// Trust claims of draft-ietf-rats-ar4si, section 2.3.
mod claim {
    pub(super) const TRUSTWORTHY_INSTANCE: i8 = 2;
    pub(super) const UNTRUSTWORTHY_INSTANCE: i8 = 96;
    pub(super) const APPROVED_CONFIG: i8 = 2;
    pub(super) const UNSUPPORTABLE_CONFIG: i8 = 96;
    pub(super) const APPROVED_BOOT: i8 = 3;
    pub(super) const CONTRAINDICATED_EXECUTABLES: i8 = 96;
    pub(super) const GENUINE_HARDWARE: i8 = 2;
    pub(super) const CONTRAINDICATED_HARDWARE: i8 = 96;
    pub(super) const UNRECOGNIZED_HARDWARE: i8 = 97;
    pub(super) const VISIBLE_MEMORY: i8 = 96;
    pub(super) const CRYPTO_VALIDATION_FAILED: i8 = 99;
}

/// The claims of an EAR about a judgement made at `at`.
///
/// `affirming` is said of genuine evidence alone, that answered the verifier's challenge, now, with
/// nothing unchecked. A mock and debug mode are `contraindicated`, as is evidence that is wrong.
/// `none` is what was only looked at, what is from an archive, and whatever was refused for what
/// the verifier asked or for what came with the evidence: a token, a challenge, a time-stamp.
pub fn ear(judged: &Result<Verdict, Refusal>, at: UnixSeconds, about: About<'_>) -> Value {
    let (status, vector) = match judged {
        Ok(verdict) => (accepted_status(verdict), accepted_vector(verdict)),
        Err(refusal) => refused(refusal),
    };
    let mut submodule = json!({"ear_status": status});
    if !vector.is_empty() {
        submodule["ear_trustworthiness_vector"] = Value::Object(vector);
    }
    let verifier = json!({"developer": "Anchorhold", "build": concat!("anchorhold-verify ", env!("CARGO_PKG_VERSION"))});
    json!({
        "eat_profile": EAR_PROFILE,
        "iat": at.0,
        "ear_verifier_id": verifier,
        "ear_raw_evidence": about.to_json(),
        "submods": {"nitro-enclave": submodule},
    })
}

fn passed(verdict: &Verdict, step: Step) -> bool {
    verdict
        .checks
        .iter()
        .any(|check| check.step == step && check.outcome == Outcome::Passed)
}

pub(super) fn accepted_status(verdict: &Verdict) -> &'static str {
    let complete =
        verdict.unchecked.is_empty() && verdict.archive.is_none() && passed(verdict, Step::Nonce);
    match verdict.verdict {
        "genuine" if complete => "affirming",
        "genuine" => "none",
        _ => "contraindicated",
    }
}

fn accepted_vector(verdict: &Verdict) -> Map<String, Value> {
    let mut vector = Map::new();
    let mut say = |name: &str, holds: bool, value: i8| {
        if holds {
            vector.insert(name.into(), value.into());
        }
    };
    // What a mock says of itself means nothing.
    if verdict.verdict == "mock" {
        say("hardware", true, claim::UNRECOGNIZED_HARDWARE);
        return vector;
    }
    say("hardware", true, claim::GENUINE_HARDWARE);
    say(
        "runtime-opaque",
        verdict.verdict == "debug",
        claim::VISIBLE_MEMORY,
    );
    say(
        "executables",
        passed(verdict, Step::Measurements),
        claim::APPROVED_BOOT,
    );
    say(
        "configuration",
        passed(verdict, Step::Policy),
        claim::APPROVED_CONFIG,
    );
    say(
        "instance-identity",
        passed(verdict, Step::Possession),
        claim::TRUSTWORTHY_INSTANCE,
    );
    vector
}

fn refused(refusal: &Refusal) -> (&'static str, Map<String, Value>) {
    let failed = refusal
        .checks
        .iter()
        .find(|check| check.outcome == Outcome::Failed)
        .map(|check| check.step);
    let claim = match (failed, &refusal.reason) {
        // What is wrong is not the evidence.
        (None, _) | (_, Reason::Unchecked(_)) => None,
        (Some(step), _) if Step::SIGNED.contains(&step) => None,
        (Some(Step::TimeAnchor | Step::Nonce | Step::Age), _) => None,
        (_, Reason::Wrong(Error::CertificateDenied { .. })) => {
            Some(("hardware", claim::CONTRAINDICATED_HARDWARE))
        }
        (Some(Step::Mode), _) => Some(("runtime-opaque", claim::VISIBLE_MEMORY)),
        (Some(Step::DenyLists | Step::Measurements), _) => {
            Some(("executables", claim::CONTRAINDICATED_EXECUTABLES))
        }
        (Some(Step::Policy | Step::Epoch), _) => {
            Some(("configuration", claim::UNSUPPORTABLE_CONFIG))
        }
        (Some(step), _) if step > Step::Mode => {
            Some(("instance-identity", claim::UNTRUSTWORTHY_INSTANCE))
        }
        (Some(_), _) => Some(("hardware", claim::CRYPTO_VALIDATION_FAILED)),
    };
    match claim {
        None => ("none", Map::new()),
        Some((name, value)) => (
            "contraindicated",
            Map::from_iter([(name.to_owned(), value.into())]),
        ),
    }
}

/// The verifier's own Ed25519 key, with which it signs its results. It has nothing to do with any
/// attested key.
#[derive(Debug)]
pub struct VerifierKey(Ed25519KeyPair);

impl VerifierKey {
    /// Reads PKCS#8 in PEM, as `openssl genpkey -algorithm ed25519` writes it.
    pub fn from_pem(pem: &[u8]) -> Result<Self, Error> {
        let der =
            PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|_| Error::VerifierKeyMalformed)?;
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der());
        pair.map(Self).map_err(|_| Error::VerifierKeyMalformed)
    }

    /// An EAR as a JWT (RFC 7519, `eat+jwt` of RFC 9782) in compact form. `kid` is the thumbprint
    /// of the key (RFC 7638).
    pub fn sign_ear(&self, claims: &Value) -> Result<String, Error> {
        let public = PublicKey::ed25519(self.0.public_key().as_ref())?;
        let header = json!({"alg": "EdDSA", "typ": "eat+jwt", "kid": public.thumbprint()});
        let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        let signed = format!("{}.{}", part(&header), part(claims));
        let signature = BASE64URL_NOPAD.encode(self.0.sign(signed.as_bytes()).as_ref());
        Ok(format!("{signed}.{signature}"))
    }
}

#[cfg(test)]
mod tests {
    use identity::Digest;

    use super::*;
    use crate::{Archive, Check};

    fn verdict(kind: &'static str) -> Verdict {
        let check = |step| Check {
            step,
            outcome: Outcome::Passed,
            against: String::new(),
            meaning: None,
        };
        Verdict {
            verdict: kind,
            unchecked: Vec::new(),
            root: Digest([0; 32]),
            module_id: String::new(),
            timestamp: UnixSeconds(0),
            pcrs: Map::new(),
            nonce: None,
            user_data: None,
            public_key: None,
            certificates: Vec::new(),
            anchor_digest: Digest([0; 32]),
            archive: None,
            checks: vec![check(Step::Nonce), check(Step::Measurements)],
            key: None,
            claims: None,
        }
    }

    #[test]
    fn only_what_is_genuine_and_complete_and_fresh_is_affirmed() {
        assert_eq!(accepted_status(&verdict("genuine")), "affirming");
        let archive = Archive {
            anchor: "rfc3161",
            time: UnixSeconds(0),
            witness: String::new(),
        };
        let incomplete = [
            Verdict {
                unchecked: vec![crate::Unchecked::Policy],
                ..verdict("genuine")
            },
            Verdict {
                archive: Some(archive),
                ..verdict("genuine")
            },
            Verdict {
                checks: Vec::new(),
                ..verdict("genuine")
            },
        ];
        for verdict in incomplete {
            assert_eq!(accepted_status(&verdict), "none", "{verdict:?}");
        }
        assert_eq!(accepted_status(&verdict("debug")), "contraindicated");
        assert_eq!(accepted_status(&verdict("mock")), "contraindicated");
        let vector = accepted_vector(&verdict("genuine"));
        assert_eq!(
            Value::Object(vector),
            json!({"hardware": 2, "executables": 3})
        );
        let vector = accepted_vector(&verdict("mock"));
        assert_eq!(Value::Object(vector), json!({"hardware": 97}));
    }

    #[test]
    fn a_signed_result_is_a_jwt_of_the_verifiers_key() {
        // RFC 8410 section 10.3.
        let pem = b"-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
        let key = VerifierKey::from_pem(pem).unwrap();
        let signed = key.sign_ear(&json!({"a": 1})).unwrap();
        let parts: Vec<Vec<u8>> = signed
            .split('.')
            .map(|part| BASE64URL_NOPAD.decode(part.as_bytes()).unwrap())
            .collect();
        let header: Value = serde_json::from_slice(&parts[0]).unwrap();
        let public = PublicKey::from_jwk(&identity::Jwk {
            kty: "OKP".into(),
            crv: "Ed25519".into(),
            x: "Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE".into(),
            ..identity::Jwk::default()
        })
        .unwrap();
        assert_eq!(
            header,
            json!({"alg": "EdDSA", "typ": "eat+jwt", "kid": public.thumbprint()})
        );
        assert_eq!(parts[1], b"{\"a\":1}");
        let (signed, _) = signed.rsplit_once('.').unwrap();
        public.verify_bytes(signed.as_bytes(), &parts[2]).unwrap();
    }
}
