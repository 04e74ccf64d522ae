//! The evidence file, `application/vnd.anchorhold.evidence+cbor`: everything behind one answer to
//! one challenge.

mod binding;

use identity::cose::{self, Purpose};
use identity::credential::Content;
use identity::token::{self, Claims};
use identity::{Did, Digest, KeyId, PublicKey, Tee, UnixSeconds, cbor, credential, did, json};
use minicbor::{Decode, Encode};
use policy::Bundle;
use serde_json::Value;
use state::{Custody, StateFacts};

use crate::steps::{Step, Steps};
use crate::{Attested, Error, Field, Unchecked};

pub use self::binding::{Binding, KeyDescription};

const TAG: &str = "anchorhold/evidence/v1";
/// For a key that is kept in a state.
const TAG_KEPT: &str = "anchorhold/evidence/v2";
/// The first member of a proof of possession.
pub const POSSESSION_TAG: &str = "anchorhold/possession/v1";
/// Longer files are not looked at: a document, a bundle and a little more.
const MAX_BYTES: usize = 64 * 1024;

/// What the key signs to prove itself: `[tag, nonce, SHA-256 of the document's payload]` in
/// deterministic CBOR.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Possession {
    /// [`POSSESSION_TAG`].
    #[n(0)]
    pub tag: String,
    /// The verifier's challenge.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub nonce: Vec<u8>,
    /// SHA-256 of the payload of the attestation document.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub document: [u8; 32],
}

/// A parsed evidence file; nothing of it is verified yet.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Evidence {
    #[n(0)]
    tag: String,
    #[cbor(n(1), with = "minicbor::bytes")]
    document: Vec<u8>,
    #[n(2)]
    key: KeyDescription,
    #[cbor(n(3), with = "minicbor::bytes")]
    bundle: Vec<u8>,
    #[cbor(n(4), with = "minicbor::bytes")]
    possession: Vec<u8>,
    #[cbor(n(5), with = "minicbor::bytes")]
    record: Vec<u8>,
    #[n(6)]
    state: Option<StateFacts>,
}

impl Evidence {
    /// Puts the parts together: the document's bytes, the key it binds, the bundle's canonical
    /// bytes, the record key's SubjectPublicKeyInfo, the state that the key is kept in, the proof.
    pub fn new(
        document: Vec<u8>,
        key: KeyDescription,
        bundle: Vec<u8>,
        record: Vec<u8>,
        state: Option<StateFacts>,
        possession: Vec<u8>,
    ) -> Self {
        Self {
            tag: tag(state.as_ref()).into(),
            document,
            key,
            bundle,
            possession,
            record,
            state,
        }
    }

    /// Reads the one encoding of an evidence file.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_BYTES {
            return Err(Error::EvidenceMalformed("longer than 64 KiB".into()));
        }
        let evidence: Self =
            cbor::from_slice(bytes).map_err(|error| Error::EvidenceMalformed(error.to_string()))?;
        let expected = tag(evidence.state.as_ref());
        if evidence.tag != expected {
            return Err(Error::EvidenceMalformed(format!(
                "its tag is {:?}, not {expected:?}",
                evidence.tag.chars().take(64).collect::<String>()
            )));
        }
        Ok(evidence)
    }

    /// The file's bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        cbor::to_vec(self)
    }

    /// The attestation document, as the NSM made it.
    pub fn document(&self) -> &[u8] {
        &self.document
    }

    /// The key that the evidence describes; a claim until [`Evidence::verify`] has accepted it.
    pub fn key(&self) -> &KeyDescription {
        &self.key
    }

    /// The canonical bytes of the policy bundle; a claim until [`Evidence::verify`] has accepted
    /// it.
    pub fn bundle(&self) -> &[u8] {
        &self.bundle
    }

    /// The record key's SubjectPublicKeyInfo; a claim until [`Evidence::verify`] has accepted it.
    pub fn record(&self) -> &[u8] {
        &self.record
    }

    /// The state that the key is kept in, if it is; a claim until [`Evidence::verify`] has accepted
    /// it.
    pub fn state(&self) -> Option<StateFacts> {
        self.state
    }

    /// The proof of possession, a COSE_Sign1.
    pub fn possession(&self) -> &[u8] {
        &self.possession
    }

    /// From a document, which must have been verified from [`Evidence::document`], to the key that
    /// it binds: under the policy that the evidence carries, with proof of possession.
    pub(crate) fn bind<A: Attested + Clone>(
        &self,
        document: &A,
        steps: &mut Steps,
    ) -> Result<AttestedKey<A>, Error> {
        let claims = document.document();
        let bundle = Bundle::from_canonical(&self.bundle)?;
        let policy = bundle.digest();
        let committed = claims.pcrs().get(16).ok_or(Error::PolicyNotCommitted)?;
        if *committed != policy.pcr16() {
            return Err(Error::PolicyMismatch(format!(
                "it is {committed}, and the bundle in the evidence gives {}",
                policy.pcr16()
            )));
        }
        let key = PublicKey::from_spki(&self.key.spki)?;
        let did = Did::parse(&self.key.did)?;
        let kid = KeyId::of(&did, &key)?;
        if kid.as_str() != self.key.kid {
            return Err(identity::Error::KeyIdMismatch.into());
        }
        let binding = Binding::new(&self.key, &policy, &self.record, self.state);
        if claims.public_key.as_deref() != Some(&self.key.spki) {
            return Err(Error::BindingMismatch(Field::PublicKey));
        }
        if claims.user_data.as_deref() != Some(binding.user_data()) {
            return Err(Error::BindingMismatch(Field::UserData));
        }
        let other = |what: &str| {
            let (name, did) = (&self.key.name, &self.key.did);
            Error::IdentityNotInPolicy(format!("{name:?} = {did} {what}"))
        };
        let described = bundle
            .identity(&self.key.name)
            .ok_or_else(|| other("is not in it"))?;
        if !described.describes(&did, key.algorithm()) {
            return Err(other("has another DID or algorithm there"));
        }
        let record = PublicKey::from_spki(&self.record)?;
        steps.passed(Step::Binding, format!("the key {kid}"));
        self.check_possession(document, &key)?;
        steps.passed(Step::Possession, "a signature over nonce and document");
        let until = *document.leaf_validity().end();
        let name = self.key.name.clone();
        let signer = AttestedSigner {
            name,
            policy: policy.digest(),
            did,
            kid,
            key,
            binding: binding.digest(),
            tee: A::TEE,
            state: self.state,
            until,
        };
        let (document, description, unchecked) = (document.clone(), self.key.clone(), Vec::new());
        Ok(AttestedKey {
            document,
            description,
            signer,
            bundle,
            record,
            unchecked,
        })
    }

    fn check_possession<A: Attested>(&self, document: &A, key: &PublicKey) -> Result<(), Error> {
        let claims = document.document();
        let proven = cose::verify(Purpose::POSSESSION, &self.possession, key)
            .map_err(|_| Error::PossessionInvalid)?;
        let proven: Possession = cbor::from_slice(proven).map_err(|_| Error::PossessionInvalid)?;
        let good = proven.tag == POSSESSION_TAG
            && claims.nonce.as_deref() == Some(&proven.nonce)
            && proven.document == claims.payload_digest().0;
        if good {
            Ok(())
        } else {
            Err(Error::PossessionInvalid)
        }
    }
}

fn tag(state: Option<&StateFacts>) -> &'static str {
    if state.is_some() { TAG_KEPT } else { TAG }
}

/// A key that was verified to live in an enclave of kind `A`, under a known policy.
#[derive(Debug, Clone)]
pub struct AttestedKey<A> {
    document: A,
    description: KeyDescription,
    signer: AttestedSigner,
    bundle: Bundle,
    record: PublicKey,
    pub(crate) unchecked: Vec<Unchecked>,
}

impl<A: Attested> AttestedKey<A> {
    /// The verified document.
    pub fn document(&self) -> &A {
        &self.document
    }

    /// Name, DID, key id, version and key.
    pub fn description(&self) -> &KeyDescription {
        &self.description
    }

    /// What verifies tokens of the key, whatever the kind of its enclave.
    pub fn signer(&self) -> &AttestedSigner {
        &self.signer
    }

    /// The identity's DID.
    pub fn did(&self) -> &Did {
        &self.signer.did
    }

    /// The key.
    pub fn key(&self) -> &PublicKey {
        &self.signer.key
    }

    /// DID URL of the key.
    pub fn kid(&self) -> &KeyId {
        &self.signer.kid
    }

    /// The policy that governs the key.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// The key that signs the record of every decision of this boot.
    pub fn record_key(&self) -> &PublicKey {
        &self.record
    }

    /// What tokens of this key name.
    pub fn binding(&self) -> Digest<32> {
        self.signer.binding
    }

    /// What nobody asked to be checked.
    pub fn unchecked(&self) -> &[Unchecked] {
        &self.unchecked
    }

    /// Requires the key in a DID document that the verifier has pinned or resolved over TLS.
    /// Evidence never proves a domain.
    pub fn require_did_document(&mut self, document: &did::Document) -> Result<(), Error> {
        if document.did() != self.did() || document.key(self.kid().as_str()) != Some(self.key()) {
            return Err(Error::DidDocumentLacksKey(self.kid().to_string()));
        }
        self.unchecked
            .retain(|unchecked| *unchecked != Unchecked::DidDocument);
        Ok(())
    }

    /// Verifies a Vouch token made with this key.
    pub fn verify_token(
        &self,
        token: &str,
        at: UnixSeconds,
        audience: Option<&str>,
    ) -> Result<Claims, Error> {
        self.signer.verify_token(token, at, audience)
    }

    /// Verifies a Vouch credential made with this key.
    pub fn verify_credential(
        &self,
        text: &[u8],
        at: UnixSeconds,
        audience: Option<&str>,
    ) -> Result<Content, Error> {
        self.signer.verify_credential(text, at, audience)
    }
}

/// What remains of an [`AttestedKey`] for verifying what the key signs: enough to keep in a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttestedSigner {
    name: String,
    policy: Digest<48>,
    did: Did,
    kid: KeyId,
    key: PublicKey,
    binding: Digest<32>,
    tee: Tee,
    state: Option<StateFacts>,
    until: UnixSeconds,
}

/// What the key signed, with its signature, issuer, binding and kind of TEE verified: neither times
/// nor audience are held yet.
#[derive(Debug)]
pub(crate) struct Signed {
    /// The claims of a token, or the credential.
    pub(crate) value: Value,
    what: &'static str,
    pub(crate) issuer: Did,
    pub(crate) begins: UnixSeconds,
    ends: UnixSeconds,
    audience: Option<String>,
}

impl Signed {
    pub(crate) fn check_window(&self, at: UnixSeconds) -> Result<(), Error> {
        Ok(token::check_window(self.what, self.begins, self.ends, at)?)
    }

    pub(crate) fn check_audience(&self, expected: Option<&str>) -> Result<(), Error> {
        Ok(token::check_audience(self.audience.as_deref(), expected)?)
    }
}

impl AttestedSigner {
    /// The identity's name in its policy.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Digest of the policy that governs the key.
    pub fn policy(&self) -> Digest<48> {
        self.policy
    }

    /// The identity's DID.
    pub fn did(&self) -> &Did {
        &self.did
    }

    /// What tokens of this key name.
    pub fn binding(&self) -> Digest<32> {
        self.binding
    }

    /// Where the key lives.
    pub fn tee(&self) -> Tee {
        self.tee
    }

    /// The state that the key is kept in; none if it ends with its boot.
    pub fn state(&self) -> Option<StateFacts> {
        self.state
    }

    /// Where the key is kept.
    pub fn custody(&self) -> Custody {
        self.state.map_or(Custody::Ephemeral, |state| state.custody)
    }

    /// When the leaf certificate of the document expires; nothing vouches for the key any longer
    /// then.
    pub fn until(&self) -> UnixSeconds {
        self.until
    }

    /// Verifies a Vouch token made with this key.
    pub fn verify_token(
        &self,
        token: &str,
        at: UnixSeconds,
        audience: Option<&str>,
    ) -> Result<Claims, Error> {
        let claims = self.token_signature(token)?;
        claims.check_window(at)?;
        claims.check_audience(audience)?;
        Ok(claims)
    }

    /// Verifies a Vouch credential made with this key.
    pub fn verify_credential(
        &self,
        text: &[u8],
        at: UnixSeconds,
        audience: Option<&str>,
    ) -> Result<Content, Error> {
        let credential::Signed { content, begins } = self.credential_signature(text)?;
        token::check_window("credential", begins, content.valid_until, at)?;
        token::check_audience(content.audience.as_deref(), audience)?;
        Ok(content)
    }

    pub(crate) fn signed_token(&self, token: &str) -> Result<Signed, Error> {
        let claims = self.token_signature(token)?;
        Ok(Signed {
            value: serde_json::to_value(&claims).unwrap_or_default(),
            what: "token",
            begins: claims.begins(),
            ends: UnixSeconds(claims.exp),
            issuer: claims.iss,
            audience: claims.aud,
        })
    }

    pub(crate) fn signed_credential(&self, text: &[u8]) -> Result<Signed, Error> {
        let credential::Signed { content, begins } = self.credential_signature(text)?;
        let (issuer, ends, audience) = (content.issuer, content.valid_until, content.audience);
        Ok(Signed {
            value: json::parse(text)?,
            what: "credential",
            issuer,
            begins,
            ends,
            audience,
        })
    }

    fn token_signature(&self, token: &str) -> Result<Claims, Error> {
        let verified = token::verify_signature(token, &self.key, &self.did);
        // A token of another binding is refused as such, whatever else is wrong with it.
        let binding = match &verified {
            Ok(claims) => claims.binding,
            Err(_) => token::unverified_claims(token)?.binding,
        };
        self.require_binding(binding)?;
        let claims = verified?;
        self.require_tee(claims.tee)?;
        Ok(claims)
    }

    fn credential_signature(&self, text: &[u8]) -> Result<credential::Signed, Error> {
        self.require_binding(credential::unverified_binding(text)?)?;
        let signed = credential::verify_signature(text, &self.key, &self.did)?;
        self.require_tee(signed.content.tee)?;
        Ok(signed)
    }

    fn require_binding(&self, found: Digest<32>) -> Result<(), Error> {
        if found == self.binding {
            Ok(())
        } else {
            Err(Error::TokenBindingMismatch {
                found,
                expected: self.binding,
            })
        }
    }

    fn require_tee(&self, tee: Tee) -> Result<(), Error> {
        if tee == self.tee {
            Ok(())
        } else {
            Err(Error::TeeMismatch {
                found: tee,
                expected: self.tee,
            })
        }
    }
}
