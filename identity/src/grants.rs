//! Chains of credentials: a root grants something to somebody, who grants part of it to the next
//! one, until somebody acts (Vouch, `fleet`). Each grant is a Vouch credential of its own whose
//! intent names its `delegatee`.
//!
//! Clocks may differ by [`SKEW_SECONDS`] at a grant's begin; its end is its end. What is granted
//! only narrows: the same action and target, a resource at or below the one granted, a validity
//! within the grant's.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::credential::{self, Grant};
use crate::delegation::is_within;
use crate::{
    Algorithm, Did, Error, Intent, PublicKey, SKEW_SECONDS, TimeInvalid, UnixSeconds, json,
};

/// Grants before the one who acts: with it, five (see [`crate::delegation::MAX_DEPTH`]).
pub const MAX_GRANTS: usize = 4;
const MAX_BYTES: usize = 16 * 1024;
/// Entries of one grant: for revocation and suspension.
const MAX_STATUS: usize = 2;

/// Grants that were verified, root first. There is at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grants(Vec<Granted>);

/// One grant.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Granted {
    id: String,
    issuer: Did,
    delegatee: Did,
    intent: Intent,
    valid_from: UnixSeconds,
    valid_until: UnixSeconds,
    proof_value: String,
    /// What it says of the grants before it.
    chain: Vec<Grant>,
    status: Vec<Status>,
}

/// Where the status of a credential stands: an entry of a Bitstring Status List (W3C).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The credential of the list.
    pub list: String,
    /// Which bit of it.
    pub index: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    #[serde(rename = "@context")]
    context: Vec<String>,
    id: String,
    r#type: Vec<String>,
    issuer: Did,
    valid_from: UnixSeconds,
    valid_until: UnixSeconds,
    credential_subject: Subject,
    #[serde(default)]
    credential_status: Option<OneOrMore>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Subject {
    id: Did,
    intent: Intent,
    #[serde(default)]
    delegation_chain: Vec<Grant>,
}

enum OneOrMore {
    More(Vec<WireStatus>),
    One(WireStatus),
}

impl<'de> Deserialize<'de> for OneOrMore {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let entries = match Value::deserialize(deserializer)? {
            more @ Value::Array(_) => json::typed(more).map(Self::More),
            one => json::typed(one).map(Self::One),
        };
        entries.map_err(D::Error::custom)
    }
}

impl OneOrMore {
    fn entries(self) -> Result<Vec<Status>, Error> {
        match self {
            Self::One(one) => Ok(vec![one.entry()?]),
            Self::More(more) if more.len() > MAX_STATUS => {
                Err(Error::StatusInvalid("more than two entries"))
            }
            Self::More(more) => more.iter().map(WireStatus::entry).collect(),
        }
    }
}

fn outside(from: UnixSeconds, until: UnixSeconds, at: UnixSeconds) -> Error {
    Error::OutsideValidityWindow(format!(
        "a grant holds from {from} to {until}; the time is {at}"
    ))
}

fn check_proof_expiry(proof: &Map<String, Value>, at: UnixSeconds) -> Result<(), Error> {
    let Some(expires) = proof.get("expires") else {
        return Ok(());
    };
    let expires = expires
        .as_str()
        .ok_or(TimeInvalid)
        .and_then(crate::parse_rfc3339)?;
    if at >= expires {
        Err(Error::OutsideValidityWindow(format!(
            "the proof of a grant expired at {expires}; the time is {at}"
        )))
    } else {
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireStatus {
    r#type: String,
    status_list_index: String,
    status_list_credential: String,
    #[serde(default)]
    status_size: Option<u32>,
}

impl Grants {
    /// Verifies a JSON array of grants, root first. `keys_of` gives the keys of a DID; a did:key
    /// has its own.
    pub fn verify(
        text: &str,
        at: UnixSeconds,
        mut keys_of: impl FnMut(&Did) -> Vec<PublicKey>,
    ) -> Result<Self, Error> {
        if text.len() > MAX_BYTES {
            return Err(Error::DelegationInvalid("longer than 16 KiB"));
        }
        let Value::Array(credentials) = json::parse(text.as_bytes())? else {
            return Err(Error::DelegationInvalid("not an array of credentials"));
        };
        if credentials.is_empty() || credentials.len() > MAX_GRANTS {
            return Err(Error::DelegationInvalid("1 to 4 grants"));
        }
        let mut grants: Vec<Granted> = Vec::with_capacity(credentials.len());
        for credential in credentials {
            let grant = Granted::verify(credential, at, &mut keys_of)?;
            if let Some(parent) = grants.last() {
                if grant.issuer != parent.delegatee {
                    return Err(Error::SubjectIssuerMismatch);
                }
                parent.allows(&grant.intent)?;
                if grant.valid_from < parent.valid_from || grant.valid_until > parent.valid_until {
                    return Err(Error::OutsideValidityWindow(format!(
                        "a grant holds from {} to {}, the one before it from {} to {}",
                        grant.valid_from, grant.valid_until, parent.valid_from, parent.valid_until
                    )));
                }
            }
            if !grant.follows(&grants) {
                return Err(Error::DelegationInvalid(
                    "a grant names other grants before it than those that are presented",
                ));
            }
            if grant.issuer == grant.delegatee
                || grants.iter().any(|known| known.issuer == grant.delegatee)
            {
                return Err(Error::DelegationInvalid("a loop"));
            }
            grants.push(grant);
        }
        Ok(Self(grants))
    }

    /// Who granted first, before anything is verified: to find out whether it is believed.
    pub fn unverified_root(text: &str) -> Result<Did, Error> {
        #[derive(Deserialize)]
        struct Issuer {
            issuer: Did,
        }
        if text.len() > MAX_BYTES {
            return Err(Error::DelegationInvalid("longer than 16 KiB"));
        }
        let all: Vec<Issuer> = json::parse_as(text.as_bytes())?;
        all.into_iter()
            .next()
            .map(|first| first.issuer)
            .ok_or(Error::DelegationInvalid("1 to 4 grants"))
    }

    /// Who granted first.
    pub fn root(&self) -> &Did {
        &self.first().issuer
    }

    /// To whom it was granted at last.
    pub fn delegatee(&self) -> &Did {
        &self.last().delegatee
    }

    /// How many grants.
    pub fn depth(&self) -> usize {
        self.0.len()
    }

    /// Those to whom it was granted on the way, without the last one.
    pub fn between(&self) -> impl Iterator<Item = &Did> {
        self.0.iter().skip(1).map(|grant| &grant.issuer)
    }

    /// Everybody who granted, or was granted to.
    pub fn dids(&self) -> impl Iterator<Item = &Did> {
        self.0
            .iter()
            .flat_map(|grant| [&grant.issuer, &grant.delegatee])
    }

    /// Everything by which a grant could have been revoked.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flat_map(|grant| {
            let proof = grant.proof_value.get(..64).unwrap_or(&grant.proof_value);
            [
                grant.id.as_str(),
                grant.issuer.as_str(),
                grant.delegatee.as_str(),
                proof,
            ]
        })
    }

    /// Where the status of the grants stands.
    pub fn status(&self) -> impl Iterator<Item = &Status> {
        self.0.iter().flat_map(|grant| &grant.status)
    }

    /// Whether what is to be done lies within what was granted; from when on, and until when.
    pub fn allow(
        &self,
        intent: &Intent,
        at: UnixSeconds,
    ) -> Result<(UnixSeconds, UnixSeconds), Error> {
        let last = self.last();
        last.allows(intent)?;
        if intent.delegatee().is_some_and(|to| {
            *to == last.delegatee || self.0.iter().any(|grant| grant.issuer == *to)
        }) {
            return Err(Error::DelegationInvalid("a loop"));
        }
        if at.0 + SKEW_SECONDS < last.valid_from.0 || at >= last.valid_until {
            return Err(outside(last.valid_from, last.valid_until, at));
        }
        Ok((last.valid_from, last.valid_until))
    }

    /// The `delegationChain` of what is signed under these grants.
    pub fn links(&self, intent: &Intent) -> Vec<Grant> {
        let intents = self
            .0
            .iter()
            .skip(1)
            .map(|next| &next.intent)
            .chain([intent]);
        self.0
            .iter()
            .zip(intents)
            .map(|(grant, intent)| grant.link(intent))
            .collect()
    }

    fn first(&self) -> &Granted {
        self.0.first().expect("there is at least one")
    }

    fn last(&self) -> &Granted {
        self.0.last().expect("there is at least one")
    }
}

impl Granted {
    fn verify(
        credential: Value,
        at: UnixSeconds,
        keys_of: &mut impl FnMut(&Did) -> Vec<PublicKey>,
    ) -> Result<Self, Error> {
        let malformed = |why: &str| Error::CredentialMalformed(why.to_owned());
        let Value::Object(mut document) = credential else {
            return Err(malformed("not an object"));
        };
        let wire = Wire::deserialize(&document)
            .map_err(|error| Error::CredentialMalformed(error.to_string()))?;
        if !credential::has_form(&wire.context, &wire.r#type) {
            return Err(malformed(
                "@context or type is not that of a Vouch credential",
            ));
        }
        let Some(Value::Object(proof)) = document.remove("proof") else {
            return Err(malformed("no proof"));
        };
        let keys = match wire.issuer.embedded_key() {
            Some(key) => vec![key],
            None => keys_of(&wire.issuer),
        };
        check_proof_expiry(&proof, at)?;
        let proof_value = verify_proof(&document, proof, &wire.issuer, &keys)?;
        if wire.credential_subject.id != wire.issuer {
            return Err(Error::IssuerMismatch);
        }
        if wire.valid_from >= wire.valid_until
            || at.0 + SKEW_SECONDS < wire.valid_from.0
            || at >= wire.valid_until
        {
            return Err(outside(wire.valid_from, wire.valid_until, at));
        }
        let Subject {
            intent,
            delegation_chain,
            ..
        } = wire.credential_subject;
        let delegatee = intent
            .delegatee()
            .cloned()
            .ok_or(Error::DelegationInvalid("a grant names no delegatee"))?;
        if intent.resource().trim_end_matches('/').is_empty() {
            return Err(Error::CredentialIntentIncomplete);
        }
        let status = wire
            .credential_status
            .map(OneOrMore::entries)
            .transpose()?
            .unwrap_or_default();
        Ok(Self {
            id: wire.id,
            issuer: wire.issuer,
            delegatee,
            intent,
            valid_from: wire.valid_from,
            valid_until: wire.valid_until,
            proof_value,
            chain: delegation_chain,
            status,
        })
    }

    /// As a link of the chain of what is done under it.
    fn link(&self, intent: &Intent) -> Grant {
        Grant {
            issuer: self.issuer.clone(),
            subject: self.delegatee.clone(),
            intent: intent.clone(),
            valid_from: self.valid_from,
            valid_until: self.valid_until,
            parent_proof_value: self.proof_value.chars().take(64).collect(),
        }
    }

    /// Whether its own chain names exactly the grants that stand before it: nobody takes one out,
    /// so that it is not looked at.
    fn follows(&self, before: &[Self]) -> bool {
        let same = |(claimed, grant): (&Grant, &Self)| {
            let link = grant.link(&claimed.intent);
            *claimed == link
        };
        self.chain.len() == before.len() && self.chain.iter().zip(before).all(same)
    }

    fn allows(&self, intent: &Intent) -> Result<(), Error> {
        let other_target =
            !self.intent.target().is_empty() && intent.target() != self.intent.target();
        if intent.action() != self.intent.action() || other_target {
            let spelled = |intent: &Intent| format!("{} {}", intent.action(), intent.target());
            return Err(Error::ScopeExceedsParent {
                wanted: spelled(intent).trim_end().to_owned(),
                given: spelled(&self.intent).trim_end().to_owned(),
            });
        }
        if intent.resource().is_empty() || !is_within(intent.resource(), self.intent.resource()) {
            return Err(Error::ResourceExceedsParent {
                wanted: intent.resource().to_owned(),
                given: self.intent.resource().to_owned(),
            });
        }
        Ok(())
    }
}

/// eddsa-jcs-2022 over the whole document, by a key of its issuer; gives the proof's value.
fn verify_proof(
    document: &Map<String, Value>,
    mut proof: Map<String, Value>,
    issuer: &Did,
    keys: &[PublicKey],
) -> Result<String, Error> {
    let malformed = |why: &str| Error::CredentialMalformed(why.to_owned());
    let Some(Value::String(value)) = proof.remove("proofValue") else {
        return Err(malformed("no proofValue"));
    };
    let text = |name: &str| proof.get(name).and_then(Value::as_str).unwrap_or_default();
    if !credential::is_assertion(text("type"), text("cryptosuite"), text("proofPurpose")) {
        return Err(malformed("the proof is not an eddsa-jcs-2022 assertion"));
    }
    if text("verificationMethod").split('#').next() != Some(issuer.as_str()) {
        return Err(Error::KeyIdMismatch);
    }
    let signature = credential::decode_proof_value(&value)?;
    let message = credential::message(document, &proof)?;
    let mut usable = keys
        .iter()
        .filter(|key| key.algorithm() == Algorithm::EdDSA);
    if usable.any(|key| key.verify(&message, &signature).is_ok()) {
        Ok(value)
    } else {
        Err(Error::SignatureInvalid)
    }
}

impl WireStatus {
    fn entry(&self) -> Result<Status, Error> {
        if self.r#type != "BitstringStatusListEntry" {
            return Err(Error::StatusInvalid(
                "its type is not BitstringStatusListEntry",
            ));
        }
        if self.status_size.is_some_and(|bits| bits != 1) {
            return Err(Error::StatusInvalid("its entries have more than one bit"));
        }
        let index = self
            .status_list_index
            .parse()
            .map_err(|_| Error::StatusInvalid("statusListIndex is no number"))?;
        Ok(Status {
            list: self.status_list_credential.clone(),
            index,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Signer;
    use crate::signer::tests::TestKey;

    const AT: UnixSeconds = UnixSeconds(1_795_225_251);

    fn did(key: &TestKey) -> Did {
        Did::key(key.public_key())
    }

    fn sealed(mut document: Value, key: &TestKey) -> Value {
        let mut proof = document.as_object_mut().unwrap().remove("proof").unwrap();
        proof.as_object_mut().unwrap().remove("proofValue");
        let message =
            credential::message(document.as_object().unwrap(), proof.as_object().unwrap()).unwrap();
        proof["proofValue"] = format!(
            "z{}",
            bs58::encode(key.sign(&message).unwrap()).into_string()
        )
        .into();
        document["proof"] = proof;
        document
    }

    /// As Vouch writes a grant.
    fn grant(by: &TestKey, to: &Did, resource: &str, change: &dyn Fn(&mut Value)) -> Value {
        let mut document = json!({
            "@context": ["https://www.w3.org/ns/credentials/v2", "https://vouch-protocol.com/contexts/v1"],
            "id": format!("urn:uuid:{}", did(by)), "type": ["VerifiableCredential", "VouchCredential"], "issuer": did(by),
            "validFrom": UnixSeconds(AT.0 - 60), "validUntil": UnixSeconds(AT.0 + 600),
            "credentialSubject": {
                "id": did(by), "vouchVersion": "1.0", "reputationScore": 7,
                "intent": {"action": "read", "target": "logs", "resource": resource, "delegatee": to},
            },
            "proof": {
                "type": "DataIntegrityProof", "cryptosuite": "eddsa-jcs-2022", "created": UnixSeconds(AT.0 - 60),
                "verificationMethod": format!("{}#key-1", did(by)), "proofPurpose": "assertionMethod",
            },
        });
        change(&mut document);
        sealed(document, by)
    }

    fn keys() -> [TestKey; 5] {
        [1, 2, 3, 4, 5].map(TestKey::ed25519)
    }

    /// A grant under others, as Vouch writes one: with a link for each.
    fn under(
        before: &[Value],
        by: &TestKey,
        to: &Did,
        resource: &str,
        change: &dyn Fn(&mut Value),
    ) -> Value {
        grant(by, to, resource, &|document| {
            let parent = before.last().unwrap();
            let mut chain = parent["credentialSubject"]["delegationChain"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            chain.push(json!({
                "issuer": parent["issuer"], "subject": document["issuer"], "intent": document["credentialSubject"]["intent"],
                "validFrom": parent["validFrom"], "validUntil": parent["validUntil"],
                "parentProofValue": parent["proof"]["proofValue"].as_str().unwrap()[..64],
            }));
            document["credentialSubject"]["delegationChain"] = json!(chain);
            change(document);
        })
    }

    /// From the first to the third, by way of the second.
    fn chain(first: &dyn Fn(&mut Value), second: &dyn Fn(&mut Value)) -> Result<Grants, Error> {
        let [a, b, c, ..] = keys();
        let first = grant(&a, &did(&b), "https://x/logs", first);
        verify(&[
            first.clone(),
            under(&[first], &b, &did(&c), "https://x/logs/app", second),
        ])
    }

    fn verify(grants: &[Value]) -> Result<Grants, Error> {
        Grants::verify(&json!(grants).to_string(), AT, |_| Vec::new())
    }

    fn intent(action: &str, resource: &str) -> Intent {
        Intent::new(action.into(), "logs".into(), resource.into()).unwrap()
    }

    fn keep(_: &mut Value) {}

    #[test]
    fn a_status_is_an_object_or_several() {
        let object =
            serde_json::json!({"type": "t", "statusListIndex": "1", "statusListCredential": "c"});
        let listed = serde_json::json!(["t", "1", "c", null]);
        let entries = |value: &Value| serde_json::from_value::<OneOrMore>(value.clone()).is_ok();
        for (value, good) in [
            (object.clone(), true),
            (Value::Array(vec![object]), true),
            (listed.clone(), false),
            (Value::Array(vec![listed]), false),
            (Value::Null, false),
        ] {
            assert_eq!(entries(&value), good, "{value}");
        }
    }

    #[test]
    fn what_was_granted_may_be_done_and_no_more() {
        let [a, b, c, d, _] = keys();
        let grants = chain(&keep, &keep).unwrap();
        assert_eq!(
            (grants.root(), grants.delegatee(), grants.depth()),
            (&did(&a), &did(&c), 2)
        );
        assert_eq!(grants.between().collect::<Vec<_>>(), [&did(&b)]);
        let (from, until) = (UnixSeconds(AT.0 - 60), UnixSeconds(AT.0 + 600));
        assert_eq!(
            grants.allow(&intent("read", "https://x/logs/app"), AT),
            Ok((from, until))
        );
        assert_eq!(
            grants.allow(
                &intent("read", "https://x/logs/app/1").granted_to(Some(did(&d))),
                AT
            ),
            Ok((from, until))
        );
        let refused =
            |intent: Intent, at: i64| grants.allow(&intent, UnixSeconds(at)).unwrap_err().code();
        assert_eq!(
            refused(intent("write", "https://x/logs/app"), AT.0),
            "scope_exceeds_parent"
        );
        for wide in [
            "https://x/logs",
            "https://x/logs/apple",
            "https://x/logs/app/../b",
            "",
        ] {
            assert_eq!(
                refused(intent("read", wide), AT.0),
                "resource_exceeds_parent",
                "{wide}"
            );
        }
        for back in [did(&a), did(&b), did(&c)] {
            assert_eq!(
                refused(
                    intent("read", "https://x/logs/app").granted_to(Some(back)),
                    AT.0
                ),
                "delegation_invalid"
            );
        }
        for at in [AT.0 - 91, until.0] {
            assert_eq!(
                refused(intent("read", "https://x/logs/app"), at),
                "outside_validity_window"
            );
        }
        // Clocks differ by at most half a minute.
        assert!(
            grants
                .allow(
                    &intent("read", "https://x/logs/app"),
                    UnixSeconds(AT.0 - 90)
                )
                .is_ok()
        );
        for (from, good) in [(30, true), (31, false)] {
            let soon =
                |document: &mut Value| document["validFrom"] = json!(UnixSeconds(AT.0 + from));
            assert_eq!(
                verify(&[grant(&a, &did(&b), "r", &soon)]).is_ok(),
                good,
                "{from}"
            );
        }
        let links = grants.links(&intent("read", "https://x/logs/app/1"));
        assert_eq!(
            (
                links.len(),
                &links[0].issuer,
                &links[1].issuer,
                &links[1].subject
            ),
            (2, &did(&a), &did(&b), &did(&c))
        );
        assert_eq!(links[0].parent_proof_value.len(), 64);
        assert!(
            grants.ids().any(|id| id == links[0].parent_proof_value)
                && grants
                    .ids()
                    .any(|id| *id == format!("urn:uuid:{}", did(&a)))
        );
        let text = json!([grant(&a, &did(&b), "r", &keep)]).to_string();
        let longest = text.clone() + &" ".repeat(MAX_BYTES - text.len());
        assert!(Grants::verify(&longest, AT, |_| Vec::new()).is_ok());
        assert_eq!(Grants::unverified_root(&longest), Ok(did(&a)));
        let longer = Error::DelegationInvalid("longer than 16 KiB");
        assert_eq!(Grants::unverified_root(&(longest + " ")), Err(longer));
        assert_eq!(Grants::unverified_root(&text), Ok(did(&a)));
    }

    #[test]
    fn every_fault_of_a_grant_has_its_code() {
        let [a, b, c, d, e] = keys();
        let set = |pointer: &'static str, value: Value| {
            move |document: &mut Value| *document.pointer_mut(pointer).unwrap() = value.clone()
        };
        let later = |seconds: i64| json!(UnixSeconds(AT.0 + seconds));
        for (pointer, value, code) in [
            ("/validUntil", later(0), "outside_validity_window"),
            ("/validUntil", later(-61), "outside_validity_window"),
            ("/validFrom", later(31), "outside_validity_window"),
            // Before, or after, the grant that it follows.
            ("/validFrom", later(-61), "outside_validity_window"),
            ("/validUntil", later(601), "outside_validity_window"),
            (
                "/credentialSubject/intent/resource",
                "https://x".into(),
                "resource_exceeds_parent",
            ),
            (
                "/credentialSubject/intent/resource",
                "https://x/log".into(),
                "resource_exceeds_parent",
            ),
            (
                "/credentialSubject/intent/resource",
                "".into(),
                "credential_intent_incomplete",
            ),
            (
                "/credentialSubject/intent/action",
                "write".into(),
                "scope_exceeds_parent",
            ),
            (
                "/credentialSubject/intent/target",
                "other".into(),
                "scope_exceeds_parent",
            ),
            (
                "/credentialSubject/intent/resource",
                "/".into(),
                "credential_intent_incomplete",
            ),
            (
                "/credentialSubject/intent/delegatee",
                json!(did(&a)),
                "delegation_invalid",
            ),
            (
                "/credentialSubject/intent/delegatee",
                json!(did(&b)),
                "delegation_invalid",
            ),
            ("/credentialSubject/id", json!(did(&a)), "issuer_mismatch"),
            (
                "/type",
                json!(["VerifiableCredential"]),
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
            (
                "/proof/verificationMethod",
                json!(format!("{}#key-1", did(&a))),
                "key_id_mismatch",
            ),
        ] {
            assert_eq!(
                chain(&keep, &set(pointer, value.clone()))
                    .unwrap_err()
                    .code(),
                code,
                "{pointer} {value}"
            );
        }
        let no_delegatee = |document: &mut Value| {
            document["credentialSubject"]["intent"]
                .as_object_mut()
                .unwrap()
                .remove("delegatee");
        };
        assert_eq!(
            chain(&keep, &no_delegatee).unwrap_err().code(),
            "delegation_invalid"
        );

        let first = grant(&a, &did(&b), "https://x/logs", &keep);
        let good = [
            first.clone(),
            under(&[first], &b, &did(&c), "https://x/logs/app", &keep),
        ];
        // What it was given under is taken away, or is another one.
        assert_eq!(verify(&good[1..]).unwrap_err().code(), "delegation_invalid");
        let bare = grant(&b, &did(&c), "https://x/logs/app", &keep);
        assert_eq!(
            verify(&[good[0].clone(), bare]).unwrap_err().code(),
            "delegation_invalid"
        );
        for pointer in [
            "issuer",
            "subject",
            "validFrom",
            "validUntil",
            "parentProofValue",
        ] {
            let forged = |document: &mut Value| {
                let link = &mut document["credentialSubject"]["delegationChain"][0];
                link[pointer] = match pointer {
                    "issuer" | "subject" => json!(did(&d)),
                    "validFrom" | "validUntil" => later(7),
                    _ => "z".repeat(64).into(),
                };
            };
            assert_eq!(
                chain(&keep, &forged).unwrap_err().code(),
                "delegation_invalid",
                "{pointer}"
            );
        }
        // An expiry that was changed after it was signed, no signature, an empty one, another
        // one's.
        for (pointer, value, code) in [
            ("/1/validUntil", later(599), "signature_invalid"),
            (
                "/1/credentialSubject/intent/resource",
                "https://x/logs".into(),
                "signature_invalid",
            ),
            (
                "/1/credentialSubject/reputationScore",
                8.into(),
                "signature_invalid",
            ),
            ("/1/proof/created", later(0), "signature_invalid"),
            ("/1/proof/proofValue", "".into(), "credential_malformed"),
            ("/1/proof/proofValue", "z".into(), "signature_invalid"),
            (
                "/1/proof/proofValue",
                good[0]["proof"]["proofValue"].clone(),
                "signature_invalid",
            ),
            ("/1/proof", Value::Null, "credential_malformed"),
            ("/1", Value::Null, "credential_malformed"),
        ] {
            let mut changed = json!(good);
            *changed.pointer_mut(pointer).unwrap() = value.clone();
            assert_eq!(
                verify(changed.as_array().unwrap()).unwrap_err().code(),
                code,
                "{pointer} {value}"
            );
        }
        // The wrong parent, and the wrong order.
        let stranger = under(&good[..1], &d, &did(&c), "https://x/logs/app", &keep);
        let expired = |document: &mut Value| document["proof"]["expires"] = later(0);
        assert_eq!(
            chain(&keep, &expired).unwrap_err().code(),
            "outside_validity_window"
        );
        assert!(chain(&keep, &|document| document["proof"]["expires"] = later(1)).is_ok());
        assert_eq!(
            chain(&keep, &|document| document["proof"]["expires"] = json!(7))
                .unwrap_err()
                .code(),
            "time_invalid"
        );
        assert_eq!(
            verify(&[good[0].clone(), stranger]).unwrap_err().code(),
            "subject_issuer_mismatch"
        );
        assert_eq!(
            verify(&[good[1].clone(), good[0].clone()])
                .unwrap_err()
                .code(),
            "delegation_invalid"
        );
        // Too many, none, no array, too long.
        let mut long = vec![grant(&a, &did(&b), "r", &keep)];
        for (by, to) in [(&b, &c), (&c, &d), (&d, &e)] {
            long.push(under(&long, by, &did(to), "r", &keep));
        }
        assert_eq!(verify(&long).map(|grants| grants.depth()), Ok(4));
        let fifth = under(&long, &e, &did(&TestKey::ed25519(6)), "r", &keep);
        for bad in [
            [&long[..], &[fifth]].concat(),
            Vec::new(),
            vec![json!("x".repeat(MAX_BYTES))],
        ] {
            assert_eq!(verify(&bad).unwrap_err().code(), "delegation_invalid");
        }
        assert_eq!(
            Grants::verify("{}", AT, |_| Vec::new()).unwrap_err().code(),
            "delegation_invalid"
        );
        assert!(
            Grants::unverified_root("[]").is_err()
                && Grants::unverified_root(&format!("[{}]", "1,".repeat(MAX_BYTES))).is_err()
        );
    }

    #[test]
    fn a_grant_of_a_domain_has_its_key_from_elsewhere() {
        let [a, b, ..] = keys();
        let web = Did::parse("did:web:corp.example").unwrap();
        let as_web = |document: &mut Value| {
            document["issuer"] = json!(web);
            document["credentialSubject"]["id"] = json!(web);
            document["proof"]["verificationMethod"] = json!(format!("{web}#key-1"));
        };
        let text = json!([grant(&a, &did(&b), "r", &as_web)]).to_string();
        let with = |keys: &[&TestKey]| {
            let keys: Vec<PublicKey> = keys.iter().map(|key| key.public_key().clone()).collect();
            Grants::verify(&text, AT, |of| {
                if *of == web { keys.clone() } else { Vec::new() }
            })
            .map(|_| ())
            .map_err(|error| error.code())
        };
        let p256 = TestKey::p256(7);
        assert_eq!(with(&[&p256, &b, &a]), Ok(()));
        assert_eq!(with(&[&b, &p256]), Err("signature_invalid"));
        assert_eq!(with(&[]), Err("signature_invalid"));
    }

    #[test]
    fn the_status_of_a_grant_stands_in_lists() {
        let entry = |index: &str| json!({"type": "BitstringStatusListEntry", "statusPurpose": "revocation", "statusListIndex": index, "statusListCredential": "https://x/1"});
        let with = |status: Value| {
            chain(&keep, &move |document| {
                document["credentialStatus"] = status.clone()
            })
            .map(|grants| {
                grants
                    .status()
                    .map(|status| (status.list.clone(), status.index))
                    .collect::<Vec<_>>()
            })
            .map_err(|error| error.code())
        };
        assert_eq!(with(entry("7")), Ok(vec![("https://x/1".into(), 7)]));
        assert_eq!(with(json!([entry("7"), entry("8")])).unwrap().len(), 2);
        assert_eq!(
            with(json!([entry("7"), entry("8"), entry("9")])),
            Err("status_invalid")
        );
        let mut wide = entry("7");
        wide["statusSize"] = 2.into();
        assert_eq!(with(wide), Err("status_invalid"));
        assert_eq!(with(entry("-1")), Err("status_invalid"));
        let mut other = entry("1");
        other["type"] = "RevocationList2020Status".into();
        assert_eq!(with(other), Err("status_invalid"));
        assert_eq!(
            with(json!({"type": "BitstringStatusListEntry"})),
            Err("credential_malformed")
        );
    }
}
