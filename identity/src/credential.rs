//! The Vouch credential: a W3C Verifiable Credential 2.0 with one Data Integrity proof,
//! `eddsa-jcs-2022`.
//!
//! The key signs `SHA-256(JCS(proof options)) || SHA-256(JCS(document without proof))` (W3C
//! vc-di-eddsa section 3.3).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::token::{Expected, check_audience, check_window};
use crate::{
    Algorithm, Caller, Did, Digest, Error, Intent, KeyId, Message, Payload, PublicKey, Signer, Tee,
    UnixSeconds, json, sha256,
};

const CONTEXTS: [&str; 2] = [
    "https://www.w3.org/ns/credentials/v2",
    "https://vouch-protocol.com/contexts/v1",
];
const TYPES: [&str; 2] = ["VerifiableCredential", "VouchCredential"];
const CRYPTOSUITE: &str = "eddsa-jcs-2022";
/// Longer credentials are not looked at: 64 KiB.
pub const MAX_BYTES: usize = 64 * 1024;

/// What a credential says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Unique id; in the document as `urn:uuid:`.
    pub id: Uuid,
    /// Issuer, and subject.
    pub issuer: Did,
    /// Begin of validity, and time of the proof.
    pub valid_from: UnixSeconds,
    /// End of validity.
    pub valid_until: UnixSeconds,
    /// Action, target and resource, none of them empty.
    pub intent: Intent,
    /// The grants under which it is made, root first.
    pub delegation_chain: Vec<Grant>,
    /// The caller's JSON.
    pub payload: Payload,
    /// `proof.domain`.
    pub audience: Option<String>,
    /// SHA-256 of the `user_data` of every attestation document of this key version.
    pub binding: Digest<32>,
    /// Where the key says it lives.
    pub tee: Tee,
    /// Who asked for it: `provenance.caller`.
    pub caller: Caller,
}

/// A grant under which a credential is made, as Vouch has it: who granted what to whom, and the
/// credential that says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Grant {
    /// Who granted.
    pub issuer: Did,
    /// To whom.
    pub subject: Did,
    /// What the subject does with it.
    pub intent: Intent,
    /// Begin of the grant's validity.
    pub valid_from: UnixSeconds,
    /// Its end.
    pub valid_until: UnixSeconds,
    /// The first 64 characters of the grant's `proofValue`.
    pub parent_proof_value: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Wire {
    #[serde(rename = "@context")]
    context: Vec<String>,
    id: String,
    r#type: Vec<String>,
    issuer: Did,
    valid_from: UnixSeconds,
    valid_until: UnixSeconds,
    credential_subject: Subject,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    proof: Option<Proof>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Subject {
    id: Did,
    vouch_version: String,
    intent: Intent,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    delegation_chain: Vec<Grant>,
    payload: Payload,
    provenance: Provenance,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Provenance {
    caller: Caller,
    runtime_attestation: RuntimeAttestation,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuntimeAttestation {
    binding: Digest<32>,
    tee: Tee,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Proof {
    r#type: String,
    cryptosuite: String,
    created: UnixSeconds,
    verification_method: String,
    proof_purpose: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    domain: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    proof_value: Option<String>,
}

/// Signs a credential; gives its JSON.
pub fn sign<S: Signer>(content: Content, kid: &KeyId, signer: &S) -> Result<Value, S::Error> {
    if signer.public_key().algorithm() != Algorithm::EdDSA {
        return Err(Error::CredentialNeedsEd25519.into());
    }
    check_intent(&content.intent)?;
    let (document, proof) = unsigned(content, kid);
    let mut document = to_object(&document)?;
    let mut proof = to_object(&proof)?;
    let signature = signer.sign(&message(&document, &proof)?)?;
    let value = format!("z{}", bs58::encode(signature).into_string());
    proof.insert("proofValue".into(), Value::String(value));
    document.insert("proof".into(), Value::Object(proof));
    Ok(Value::Object(document))
}

/// The document, and the options of its proof.
fn unsigned(content: Content, kid: &KeyId) -> (Wire, Proof) {
    let proof = Proof {
        r#type: "DataIntegrityProof".into(),
        cryptosuite: CRYPTOSUITE.into(),
        created: content.valid_from,
        verification_method: kid.to_string(),
        proof_purpose: "assertionMethod".into(),
        domain: content.audience,
        proof_value: None,
    };
    let document = Wire {
        context: CONTEXTS.map(String::from).into(),
        id: content.id.urn().to_string(),
        r#type: TYPES.map(String::from).into(),
        issuer: content.issuer.clone(),
        valid_from: content.valid_from,
        valid_until: content.valid_until,
        credential_subject: Subject {
            id: content.issuer,
            vouch_version: "1.0".into(),
            intent: content.intent,
            delegation_chain: content.delegation_chain,
            payload: content.payload,
            provenance: Provenance {
                caller: content.caller,
                runtime_attestation: RuntimeAttestation {
                    binding: content.binding,
                    tee: content.tee,
                },
            },
        },
        proof: None,
    };
    (document, proof)
}

/// Verifies a credential: form, key id, proof, then times within [`crate::SKEW_SECONDS`], then
/// audience.
pub fn verify(text: &[u8], expected: &Expected<'_>) -> Result<Content, Error> {
    let Signed { content, begins } = verify_signature(text, expected.key, expected.did)?;
    check_window("credential", begins, content.valid_until, expected.at)?;
    check_audience(content.audience.as_deref(), expected.audience)?;
    Ok(content)
}

/// A credential whose proof was verified, and of which neither times nor audience were looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// What it says.
    pub content: Content,
    /// When it begins to be valid: the later of `validFrom` and the proof's `created`.
    pub begins: UnixSeconds,
}

/// Verifies form, key id, proof and issuer, and neither times nor audience: for a verifier that
/// names each step. It must call [`check_window`] and [`check_audience`] too.
pub fn verify_signature(text: &[u8], key: &PublicKey, did: &Did) -> Result<Signed, Error> {
    if text.len() > MAX_BYTES {
        return Err(malformed("longer than 64 KiB"));
    }
    let Value::Object(document) = json::parse(text)? else {
        return Err(malformed("not an object"));
    };
    let wire = Wire::deserialize(&document)
        .map_err(|error| Error::CredentialMalformed(error.to_string()))?;
    let proof = wire.proof.ok_or_else(|| malformed("no proof"))?;
    check_form(&wire.context, &wire.r#type, &proof)?;
    if key.algorithm() != Algorithm::EdDSA {
        return Err(Error::CredentialNeedsEd25519);
    }
    if proof.verification_method != KeyId::of(did, key)?.as_str() {
        return Err(Error::KeyIdMismatch);
    }
    check_proof(document, &proof, key)?;
    let subject = wire.credential_subject;
    if wire.issuer != *did || subject.id != *did {
        return Err(Error::IssuerMismatch);
    }
    if subject.vouch_version != "1.0" {
        return Err(malformed("vouchVersion is not 1.0"));
    }
    check_intent(&subject.intent)?;
    let id = wire
        .id
        .strip_prefix("urn:uuid:")
        .and_then(|id| Uuid::parse_str(id).ok());
    let id = id
        .filter(|id| id.urn().to_string() == wire.id)
        .ok_or_else(|| malformed("id is not a urn:uuid"))?;
    let begins = wire.valid_from.max(proof.created);
    let content = Content {
        id,
        issuer: wire.issuer,
        valid_from: wire.valid_from,
        valid_until: wire.valid_until,
        intent: subject.intent,
        delegation_chain: subject.delegation_chain,
        payload: subject.payload,
        audience: proof.domain,
        binding: subject.provenance.runtime_attestation.binding,
        tee: subject.provenance.runtime_attestation.tee,
        caller: subject.provenance.caller,
    };
    Ok(Signed { content, begins })
}

fn check_proof(
    mut document: Map<String, Value>,
    proof: &Proof,
    key: &PublicKey,
) -> Result<(), Error> {
    let Some(Value::Object(mut options)) = document.remove("proof") else {
        return Err(malformed("no proof"));
    };
    options.remove("proofValue");
    key.verify(&message(&document, &options)?, &proof_value(proof)?)
}

/// Which binding a credential names, before anything is verified: to choose evidence, never to
/// trust.
pub fn unverified_binding(text: &[u8]) -> Result<Digest<32>, Error> {
    if text.len() > MAX_BYTES {
        return Err(malformed("longer than 64 KiB"));
    }
    let wire = Wire::deserialize(json::parse(text)?)
        .map_err(|error| Error::CredentialMalformed(error.to_string()))?;
    Ok(wire
        .credential_subject
        .provenance
        .runtime_attestation
        .binding)
}

/// The RFC 8785 form of a credential, whatever it says: what stands for it where bytes are
/// compared. Nothing is verified.
pub fn canonical(text: &[u8]) -> Result<Vec<u8>, Error> {
    if text.len() > MAX_BYTES {
        return Err(malformed("longer than 64 KiB"));
    }
    json::canonical(&json::parse(text)?)
}

fn check_form(context: &[String], types: &[String], proof: &Proof) -> Result<(), Error> {
    if !has_form(context, types) {
        return Err(malformed(
            "@context or type is not that of a Vouch credential",
        ));
    }
    if !is_assertion(&proof.r#type, &proof.cryptosuite, &proof.proof_purpose) {
        return Err(malformed("the proof is not an eddsa-jcs-2022 assertion"));
    }
    Ok(())
}

/// Whether it is a Vouch credential by its `@context` and `type`.
pub(crate) fn has_form(context: &[String], types: &[String]) -> bool {
    context == CONTEXTS && types == TYPES
}

/// Whether a proof is of the one kind that is taken.
pub(crate) fn is_assertion(kind: &str, cryptosuite: &str, purpose: &str) -> bool {
    (kind, cryptosuite, purpose) == ("DataIntegrityProof", CRYPTOSUITE, "assertionMethod")
}

fn check_intent(intent: &Intent) -> Result<(), Error> {
    if intent.target().is_empty() || intent.resource().is_empty() {
        return Err(Error::CredentialIntentIncomplete);
    }
    Ok(())
}

fn proof_value(proof: &Proof) -> Result<Vec<u8>, Error> {
    decode_proof_value(proof.proof_value.as_deref().unwrap_or_default())
}

/// The signature in a `proofValue`.
pub(crate) fn decode_proof_value(value: &str) -> Result<Vec<u8>, Error> {
    let digits = value.strip_prefix('z').filter(|digits| digits.len() <= 90);
    digits
        .and_then(|digits| bs58::decode(digits).into_vec().ok())
        .ok_or_else(|| malformed("proofValue is not base58btc of a signature"))
}

/// The 64 bytes that are signed. `options` is the proof without its value; it takes the document's
/// `@context`.
pub(crate) fn message(
    document: &Map<String, Value>,
    options: &Map<String, Value>,
) -> Result<Message, Error> {
    let mut options = options.clone();
    if let Some(context) = document.get("@context") {
        options.insert("@context".into(), context.clone());
    }
    let mut digests = [0; 64];
    digests[..32].copy_from_slice(sha256(&json::canonical(&options)?).as_bytes());
    digests[32..].copy_from_slice(sha256(&json::canonical(document)?).as_bytes());
    Ok(Message::credential(digests))
}

fn to_object<T: Serialize>(value: &T) -> Result<Map<String, Value>, Error> {
    match serde_json::to_value(value) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(malformed("not an object")),
        Err(error) => Err(Error::JsonShape(error.to_string())),
    }
}

fn malformed(why: &str) -> Error {
    Error::CredentialMalformed(why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::ObservedCaller;
    use crate::signer::tests::{TestKey, both};

    fn content(key: &TestKey) -> Content {
        Content {
            id: Uuid::from_bytes([0x41; 16]),
            issuer: Did::key(key.public_key()),
            valid_from: UnixSeconds(1_795_225_251),
            valid_until: UnixSeconds(1_795_225_551),
            intent: Intent::new(
                "transfer".into(),
                "account_123".into(),
                "https://bank.example/v1/transfers".into(),
            )
            .unwrap(),
            delegation_chain: Vec::new(),
            payload: Payload::parse(b"{\"amount\":100}").unwrap(),
            audience: Some("https://bank.example".into()),
            binding: sha256(b"user_data"),
            tee: Tee::Mock,
            caller: Caller::Asserted(ObservedCaller::ids(1000, 1000)),
        }
    }

    fn expected<'a>(key: &'a TestKey, did: &'a Did) -> Expected<'a> {
        Expected {
            key: key.public_key(),
            did,
            at: UnixSeconds(1_795_225_300),
            audience: Some("https://bank.example"),
        }
    }

    #[test]
    fn a_credential_verifies_and_every_member_counts() {
        let [key, _] = both();
        let content = content(&key);
        let kid = KeyId::of(&content.issuer, key.public_key()).unwrap();
        let signed = sign(content.clone(), &kid, &key).unwrap();
        let expected = expected(&key, &content.issuer);
        assert_eq!(
            verify(signed.to_string().as_bytes(), &expected).unwrap(),
            content
        );

        let mut leaves = Vec::new();
        collect(&signed, String::new(), &mut leaves);
        assert!(leaves.len() > 20);
        for pointer in leaves {
            let mut changed = signed.clone();
            let leaf = changed.pointer_mut(&pointer).unwrap();
            *leaf = match leaf {
                Value::String(text) => Value::String(format!("{text}x")),
                Value::Number(number) => Value::from(number.as_u64().unwrap() + 1),
                other => panic!("{other}"),
            };
            assert!(
                verify(changed.to_string().as_bytes(), &expected).is_err(),
                "{pointer}"
            );
        }
    }

    fn collect(value: &Value, at: String, leaves: &mut Vec<String>) {
        match value {
            Value::Object(map) => map.iter().for_each(|(name, v)| {
                collect(v, format!("{at}/{}", name.replace('/', "~1")), leaves)
            }),
            Value::Array(items) => items
                .iter()
                .enumerate()
                .for_each(|(i, v)| collect(v, format!("{at}/{i}"), leaves)),
            _ => leaves.push(at),
        }
    }

    #[test]
    fn what_is_refused_has_its_code() {
        let [key, p256] = both();
        let good = content(&key);
        let kid = KeyId::of(&good.issuer, key.public_key()).unwrap();
        let p256_kid = KeyId::of(&Did::key(p256.public_key()), p256.public_key()).unwrap();
        assert_eq!(
            sign(good.clone(), &p256_kid, &p256),
            Err(Error::CredentialNeedsEd25519)
        );
        let short = Content {
            intent: Intent::new("a".into(), String::new(), String::new()).unwrap(),
            ..good.clone()
        };
        assert_eq!(
            sign(short, &kid, &key),
            Err(Error::CredentialIntentIncomplete)
        );

        let check = |change: &dyn Fn(&mut Content)| {
            let mut content = good.clone();
            change(&mut content);
            let signed = sign(content, &kid, &key).unwrap();
            verify(signed.to_string().as_bytes(), &expected(&key, &good.issuer))
                .map(|_| ())
                .map_err(|error| error.code())
        };
        assert_eq!(check(&|_| ()), Ok(()));
        assert_eq!(
            check(&|c| c.issuer = Did::key(p256.public_key())),
            Err("issuer_mismatch")
        );
        assert_eq!(
            check(&|c| c.valid_until = UnixSeconds(1_795_225_270)),
            Err("expired")
        );
        assert_eq!(
            check(&|c| c.valid_from = UnixSeconds(1_795_225_331)),
            Err("not_yet_valid")
        );
        assert_eq!(check(&|c| c.audience = None), Err("audience_mismatch"));

        let signed = sign(good.clone(), &kid, &key).unwrap();
        let mut unsigned = signed.clone();
        unsigned.as_object_mut().unwrap().remove("proof");
        let mut array = signed.clone();
        array["proof"] = Value::Array(vec![signed["proof"].clone()]);
        let mut twice = signed.clone();
        twice["admin"] = Value::Bool(true);
        for bad in [unsigned, array, twice, Value::Null] {
            let refused =
                verify(bad.to_string().as_bytes(), &expected(&key, &good.issuer)).unwrap_err();
            assert_eq!(refused.code(), "credential_malformed", "{bad}");
        }
    }

    /// The document with a good proof over whatever it says now.
    fn sealed(document: &Value, key: &TestKey) -> Vec<u8> {
        let mut document = document.as_object().unwrap().clone();
        let mut proof = document
            .remove("proof")
            .unwrap()
            .as_object()
            .unwrap()
            .clone();
        proof.remove("proofValue");
        let signature = key.sign(&message(&document, &proof).unwrap()).unwrap();
        proof.insert(
            "proofValue".into(),
            format!("z{}", bs58::encode(signature).into_string()).into(),
        );
        document.insert("proof".into(), proof.into());
        serde_json::to_vec(&document).unwrap()
    }

    #[test]
    fn a_good_proof_over_another_form_is_refused() {
        let [key, p256] = both();
        let good = content(&key);
        let kid = KeyId::of(&good.issuer, key.public_key()).unwrap();
        let signed = sign(good.clone(), &kid, &key).unwrap();
        let judged = |pointer: &str, value: Value| {
            let mut changed = signed.clone();
            *changed.pointer_mut(pointer).unwrap() = value;
            verify(&sealed(&changed, &key), &expected(&key, &good.issuer))
                .map(|_| ())
                .map_err(|error| error.code())
        };
        assert_eq!(
            judged("/proof/proofPurpose", "assertionMethod".into()),
            Ok(())
        );
        let other = Did::key(p256.public_key()).to_string();
        for (pointer, value, code) in [
            (
                "/@context",
                serde_json::json!([CONTEXTS[0]]),
                "credential_malformed",
            ),
            (
                "/@context",
                serde_json::json!([CONTEXTS[1], CONTEXTS[0]]),
                "credential_malformed",
            ),
            (
                "/type",
                serde_json::json!(["VerifiableCredential"]),
                "credential_malformed",
            ),
            (
                "/proof/type",
                "Ed25519Signature2020".into(),
                "credential_malformed",
            ),
            (
                "/proof/cryptosuite",
                "eddsa-rdfc-2022".into(),
                "credential_malformed",
            ),
            (
                "/proof/proofPurpose",
                "authentication".into(),
                "credential_malformed",
            ),
            ("/id", "urn:uuid:x".into(), "credential_malformed"),
            (
                "/id",
                "urn:uuid:41414141414141414141414141414141".into(),
                "credential_malformed",
            ),
            (
                "/credentialSubject/vouchVersion",
                "2.0".into(),
                "credential_malformed",
            ),
            (
                "/credentialSubject/id",
                other.clone().into(),
                "issuer_mismatch",
            ),
            ("/issuer", other.into(), "issuer_mismatch"),
            (
                "/credentialSubject/intent/target",
                "".into(),
                "credential_intent_incomplete",
            ),
            (
                "/credentialSubject/intent/resource",
                "".into(),
                "credential_intent_incomplete",
            ),
            (
                "/proof/created",
                "2026-11-21T02:00:00Z".into(),
                "not_yet_valid",
            ),
        ] {
            assert_eq!(
                judged(pointer, value.clone()),
                Err(code),
                "{pointer}: {value}"
            );
        }
    }

    #[test]
    fn the_longest_credential_is_looked_at_and_a_longer_one_is_not() {
        let [key, _] = both();
        let good = content(&key);
        let kid = KeyId::of(&good.issuer, key.public_key()).unwrap();
        let of_size = |size: usize| {
            let padded = |n: usize| Content {
                payload: Payload::parse(format!("{{\"x\":\"{}\"}}", "a".repeat(n)).as_bytes())
                    .unwrap(),
                ..good.clone()
            };
            let text = |n: usize| sign(padded(n), &kid, &key).unwrap().to_string();
            // The signature's length differs by a digit at times; white space fills up.
            let mut text = text(size - text(0).len() - 20);
            text.push_str(&" ".repeat(size - text.len()));
            text.into_bytes()
        };
        let expected = expected(&key, &good.issuer);
        assert!(verify(&of_size(MAX_BYTES), &expected).is_ok());
        assert_eq!(
            verify(&of_size(MAX_BYTES + 1), &expected),
            Err(malformed("longer than 64 KiB"))
        );
        let begins = verify_signature(&of_size(2000), expected.key, expected.did)
            .map(|signed| signed.begins);
        assert_eq!(begins, Ok(UnixSeconds(1_795_225_251)));
        assert_eq!(unverified_binding(&of_size(MAX_BYTES)), Ok(good.binding));
        assert_eq!(
            unverified_binding(&of_size(MAX_BYTES + 1)),
            Err(malformed("longer than 64 KiB"))
        );
        assert_eq!(
            unverified_binding(b"{}").unwrap_err().code(),
            "credential_malformed"
        );
        let spaced = format!(" {}\n", sign(good.clone(), &kid, &key).unwrap());
        assert_eq!(
            canonical(spaced.as_bytes()),
            json::canonical(&sign(good.clone(), &kid, &key).unwrap())
        );
        assert!(canonical(&of_size(MAX_BYTES)).is_ok());
        assert_eq!(
            canonical(&of_size(MAX_BYTES + 1)),
            Err(malformed("longer than 64 KiB"))
        );
    }
}
