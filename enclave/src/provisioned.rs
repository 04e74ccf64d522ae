//! What a policy brings to life: identities, the annex, the record.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use identity::AnnexId;
use identity::delegation::AGENT;
use identity::token::APPROVER;
use identity::{Caller, Did, Digest};
use policy::{Annex, Bundle, IdentityPolicy, Issuer};
use policy_engine::{Denied, Rego};
use protocol::Describe;
use record::{Decision, Verdict};

use crate::Error;
use crate::approvals::Approvals;
use crate::enclave::read;
use crate::identities::Identity;
use crate::proofs::{Claimed, Peers, Spent};
use crate::record::Record;
use crate::refusals::Refusals;

pub(crate) struct Cell {
    pub(crate) bundle: Bundle,
    pub(crate) canonical: Vec<u8>,
    pub(crate) policy: Digest<48>,
    pub(crate) rego: Option<Rego>,
    pub(crate) record: Record,
    pub(crate) spent: Mutex<Spent>,
    pub(crate) peers: Mutex<Peers>,
    pub(crate) approvals: Mutex<Approvals>,
    pub(crate) refusals: Mutex<Refusals>,
    identities: BTreeMap<String, RwLock<Option<Identity>>>,
    annex: RwLock<Option<Arc<(Annex, AnnexId)>>>,
}

impl Cell {
    pub(crate) fn new(bundle: Bundle, canonical: Vec<u8>, rego: Option<Rego>, identities: Vec<Identity>, record: Record) -> Self {
        let named = |identity: Identity| (identity.policy.name.clone(), RwLock::new(Some(identity)));
        Self {
            policy: bundle.digest().digest(),
            rego,
            bundle,
            canonical,
            record,
            spent: Mutex::default(),
            peers: Mutex::default(),
            approvals: Mutex::default(),
            refusals: Mutex::default(),
            identities: identities.into_iter().map(named).collect(),
            annex: RwLock::new(None),
        }
    }

    /// All identities.
    pub(crate) fn slots(&self) -> impl Iterator<Item = &RwLock<Option<Identity>>> {
        self.identities.values()
    }

    /// The annex in force.
    pub(crate) fn annex(&self) -> Option<Arc<(Annex, AnnexId)>> {
        self.annex.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn annex_id(&self) -> Option<AnnexId> {
        self.annex().map(|annex| annex.1)
    }

    /// Takes an annex of the operator, unless it is older than the one in force or than the bundle wants. The same one again is no
    /// news and no error.
    pub(crate) fn load_annex(&self, signed: &[u8]) -> Result<(), Error> {
        let annex = Annex::verify(signed, &self.bundle.operator_key.0)?;
        let id = annex.id()?;
        if let Some(lowest) = self.bundle.annex_version.filter(|lowest| id.version < *lowest) {
            return Err(Error::AnnexOutdated { version: id.version, known: lowest });
        }
        let is_ours = |issuer: &&Issuer| self.identities.contains_key(&issuer.name) || self.is_reserved(&issuer.iss);
        if let Some(issuer) = annex.issuers.iter().find(is_ours) {
            return Err(Error::IssuerIsOurs(issuer.name.clone()));
        }
        let mut current = self.annex.write().unwrap_or_else(PoisonError::into_inner);
        match current.as_ref().map(|current| current.1) {
            Some(known) if id.version < known.version || (id.version == known.version && id != known) => {
                Err(Error::AnnexOutdated { version: id.version, known: known.version })
            }
            _ => {
                *current = Some(Arc::new((annex, id)));
                Ok(())
            }
        }
    }

    /// The identity that is meant: the one named, or the only one that the caller may use.
    pub(crate) fn find(&self, of: &Describe) -> Result<&RwLock<Option<Identity>>, Error> {
        let annex = self.annex();
        self.find_for(of.identity.as_deref(), |identity| identity.callers.admit(&of.caller, annex.as_ref().map(|annex| &annex.0)))
    }

    /// The same, for a caller that says it can prove itself.
    pub(crate) fn find_proven(&self, name: Option<&str>, claimed: &Claimed) -> Result<&RwLock<Option<Identity>>, Error> {
        let usable = |identity: &&IdentityPolicy| identity.callers.proven.contains(&claimed.name);
        // Nothing is spent on an identity that is not for it.
        if name.and_then(|name| self.bundle.identity(name)).is_some_and(|named| !usable(&named)) {
            return Err(Denied::CallerNotAllowed.into());
        }
        self.find_for(name, usable)
    }

    /// Refuses to decide without the annex that the bundle wants: what it revokes would be good.
    pub(crate) fn check_annex(&self) -> Result<(), Error> {
        match (self.bundle.annex_version, self.annex_id()) {
            (Some(lowest), None) => Err(Error::AnnexRequired(lowest)),
            _ => Ok(()),
        }
    }

    fn find_for(
        &self,
        name: Option<&str>,
        usable: impl Fn(&&IdentityPolicy) -> bool,
    ) -> Result<&RwLock<Option<Identity>>, Error> {
        if let Some(name) = name {
            return self.identities.get(name).ok_or(Error::UnknownIdentity);
        }
        let mut usable = self.bundle.identities.iter().filter(usable);
        match (usable.next(), usable.count()) {
            (Some(one), 0) => self.identities.get(&one.name).ok_or(Error::UnknownIdentity),
            (None, _) => Err(Denied::CallerNotAllowed.into()),
            (Some(_), others) => Err(Error::IdentityRequired(others + 1)),
        }
    }

    /// Whether this names an identity of the bundle, as a token's audience: by `agent:<name>`, or by the DID that it has now.
    pub(crate) fn is_of(&self, audience: &str) -> bool {
        let by_did =
            |slot: &RwLock<Option<Identity>>| read(slot).as_ref().is_some_and(|own| own.current.did.as_str() == audience);
        let by_name = audience.strip_prefix(AGENT).is_some_and(|name| self.identities.contains_key(name));
        by_name || self.slots().any(by_did)
    }

    /// Whether nobody outside may be called so: what names agents and approvers here, an identity's name, its DID of now or of before, and
    /// what a reader could take for one of these.
    pub(crate) fn is_reserved(&self, name: &str) -> bool {
        if name.trim() != name || !identity::hides_nothing(name) {
            return true;
        }
        // Full-width forms look like ASCII (Unicode, halfwidth and fullwidth forms).
        let ascii = |c: char| match u32::from(c) {
            code @ 0xff01..=0xff5e => char::from_u32(code - 0xfee0).unwrap_or(c),
            _ => c,
        };
        let plain: String = name.chars().map(ascii).flat_map(char::to_lowercase).collect();
        if [AGENT, APPROVER].iter().any(|prefix| plain.starts_with(prefix)) || self.identities.contains_key(&plain) {
            return true;
        }
        if !plain.starts_with("did:") {
            return false;
        }
        // A DID URL names what its DID names (DID Core section 3.2). What is no DID in its one spelling might be one of ours in another.
        let did = name.split(['#', '?', '/', ';']).next().unwrap_or_default();
        let is_spelled_otherwise = Did::parse(did).is_err() && (plain.starts_with("did:key:") || plain.starts_with("did:web:"));
        let is_web = |identity: &IdentityPolicy| identity.did != "did:key" && is_same_domain(&identity.did, did);
        let by_did = |slot: &RwLock<Option<Identity>>| read(slot).as_ref().is_some_and(|identity| identity.had_did(did));
        is_spelled_otherwise || self.bundle.identities.iter().any(is_web) || self.slots().any(by_did)
    }

    /// Refuses callers that may not use this identity at all.
    pub(crate) fn admit(&self, identity: &Identity, caller: &Caller) -> Result<(), Error> {
        let annex = self.annex();
        if policy_engine::admits(&identity.policy, annex.as_ref().map(|annex| &annex.0), caller) {
            Ok(())
        } else {
            Err(Denied::CallerNotAllowed.into())
        }
    }

    /// A decision of which nothing is known but what it is about: allowed, unless something is in the way.
    pub(crate) fn decision(&self, event_type: &str, rule: &str) -> Decision {
        Decision {
            action: None,
            agent_id: None,
            annex: None,
            approvals: Vec::new(),
            before: None,
            binding: None,
            caller: None,
            delegated_by: None,
            delegation_chain: Vec::new(),
            delegation_issuers: Vec::new(),
            did: None,
            environment: None,
            event_type: event_type.to_owned(),
            expires_at: None,
            key_version: None,
            policy_decision: Verdict::Allow,
            policy_digest: self.policy,
            policy_id: rule.to_owned(),
            refusal: None,
            refusals_unrecorded: None,
            request_digest: None,
            resource: None,
            target: None,
            timestamp: None,
            token_id: None,
        }
    }

    /// Wipes every key.
    pub(crate) fn wipe(&self) {
        for slot in self.identities.values() {
            *slot.write().unwrap_or_else(PoisonError::into_inner) = None;
        }
        self.record.wipe();
    }
}

/// Whether both are a did:web of one document: the default port says nothing (did:web method, section 2.5.2).
fn is_same_domain(one: &str, other: &str) -> bool {
    let plain = |did: &str| did.to_ascii_lowercase().replacen("%3a443", "", 1);
    plain(one) == plain(other)
}
