//! What a policy brings to life: identities, the annex, the record.

use std::collections::BTreeMap;
use std::sync::Arc;

use identity::delegation::AGENT;
use identity::token::APPROVER;
use identity::{AnnexId, Did, Digest, UnixSeconds};
use minicbor::{Decode, Encode};
use policy::{Annex, Bundle, Callers, IdentityPolicy, Issuer, PolicyDigest, Service};
use policy_engine::{Denied, Rego};
use protocol::Requester;
use record::End;
use state::Pair;

use crate::Error;
use crate::budgets::SealedBudget;
use crate::credentials::Credentials;
use crate::identities::{BoundTo, Identity};
use crate::record::Record;
use crate::stores::approvals::Approvals;
use crate::stores::peers::Peers;
use crate::stores::refusals::Refusals;
use crate::stores::replay::ReplayCache;
use crate::sync::{Mutex, RwLock, read, write};

/// An annex below which none is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub(crate) struct AnnexFloor {
    /// Its version.
    #[n(0)]
    pub(crate) version: u32,
    /// SHA-256 of its canonical bytes.
    #[n(1)]
    pub(crate) digest: Digest<32>,
}

/// A policy that is committed to.
pub(crate) struct Committed {
    pub(crate) bundle: Bundle,
    pub(crate) canonical: Vec<u8>,
    pub(crate) policy: PolicyDigest,
    /// This image, under this bundle.
    pub(crate) pair: Pair,
    pub(crate) rego: Mutex<Option<Rego>>,
    /// With what the record ended before this boot.
    pub(crate) before: Option<End>,
}

/// An enclave with its policy and its keys, for good.
pub(crate) struct Provisioned {
    pub(crate) bundle: Bundle,
    pub(crate) canonical: Vec<u8>,
    pub(crate) policy: Digest<48>,
    pub(crate) rego: Option<Rego>,
    pub(crate) record: Record,
    /// What its keys are bound to.
    pub(crate) bound: BoundTo,
    pub(crate) replay: Mutex<ReplayCache>,
    pub(crate) peers: Mutex<Peers>,
    /// Lock order: an identity's usage, then this.
    pub(crate) approvals: Mutex<Approvals>,
    pub(crate) refusals: Mutex<Refusals>,
    /// What it has to do with credentials of others, if the bundle names services.
    pub(crate) credentials: Option<Credentials>,
    identities: BTreeMap<String, Identity>,
    annex: RwLock<Option<Arc<(Annex, AnnexId)>>>,
    /// No annex before this one is taken: it was in force when the state was sealed.
    annex_floor: Option<AnnexFloor>,
}

impl Provisioned {
    pub(crate) fn new(
        bundle: Bundle,
        canonical: Vec<u8>,
        rego: Option<Rego>,
        identities: Vec<Identity>,
        record: Record,
        bound: BoundTo,
        annex_floor: Option<AnnexFloor>,
    ) -> Self {
        Self {
            policy: bound.policy.digest(),
            bound,
            rego,
            bundle,
            canonical,
            record,
            replay: Mutex::default(),
            peers: Mutex::default(),
            approvals: Mutex::default(),
            refusals: Mutex::default(),
            credentials: None,
            identities: identities
                .into_iter()
                .map(|identity| (identity.policy.name.clone(), identity))
                .collect(),
            annex: RwLock::new(None),
            annex_floor,
        }
    }

    /// The same, with what it has to do with credentials of others.
    pub(crate) fn with_credentials(self, credentials: Option<Credentials>) -> Self {
        Self {
            credentials,
            ..self
        }
    }

    /// The identity of this name.
    pub(crate) fn identity(&self, name: &str) -> Result<&Identity, Error> {
        self.identities.get(name).ok_or(Error::UnknownIdentity)
    }

    /// All identities.
    pub(crate) fn identities(&self) -> impl Iterator<Item = &Identity> {
        self.identities.values()
    }

    /// The annex in force.
    pub(crate) fn annex(&self) -> Option<Arc<(Annex, AnnexId)>> {
        read(&self.annex).clone()
    }

    pub(crate) fn annex_id(&self) -> Option<AnnexId> {
        self.annex().map(|annex| annex.1)
    }

    /// What a seal says of the annex.
    pub(crate) fn annex_floor(&self) -> Option<AnnexFloor> {
        let floor = |annex: AnnexId| AnnexFloor {
            version: annex.version,
            digest: annex.digest,
        };
        self.annex_id().map(floor).or(self.annex_floor)
    }

    /// What a seal says of budgets that outlive the boot.
    pub(crate) fn budgets(&self, now: UnixSeconds) -> Vec<SealedBudget> {
        let credentials = self.credentials.as_ref();
        credentials.map_or_else(Vec::new, |credentials| {
            credentials.budgets(&self.bundle, now)
        })
    }

    /// Takes an annex of the operator, unless it is older than the one in force or than the bundle
    /// wants. The same one again is no news and no error.
    pub(crate) fn load_annex(&self, signed: &[u8]) -> Result<AnnexId, Error> {
        let annex = Annex::verify(signed, &self.bundle.operator_key.0)?;
        let id = annex.id()?;
        if let Some(lowest) = self
            .bundle
            .annex_version
            .filter(|lowest| id.version < *lowest)
        {
            return Err(Error::AnnexOutdated {
                version: id.version,
                known: lowest,
            });
        }
        if let Some(floor) = self.annex_floor.filter(|floor| {
            id.version < floor.version || (id.version == floor.version && id.digest != floor.digest)
        }) {
            return Err(Error::AnnexOutdated {
                version: id.version,
                known: floor.version,
            });
        }
        let is_ours = |issuer: &&Issuer| {
            self.identities.contains_key(&issuer.name) || self.is_reserved(&issuer.iss)
        };
        if let Some(issuer) = annex.issuers.iter().find(is_ours) {
            return Err(Error::IssuerIsOurs(issuer.name.clone()));
        }
        let mut current = write(&self.annex);
        match current.as_ref().map(|current| current.1) {
            Some(known)
                if id.version < known.version || (id.version == known.version && id != known) =>
            {
                Err(Error::AnnexOutdated {
                    version: id.version,
                    known: known.version,
                })
            }
            _ => {
                *current = Some(Arc::new((annex, id)));
                Ok(id)
            }
        }
    }

    /// The identity that is meant: the one named, or the only one that the caller may use by this
    /// annex.
    pub(crate) fn find(
        &self,
        requester: &Requester,
        annex: Option<&Annex>,
    ) -> Result<&Identity, Error> {
        let usable = |policy: &&IdentityPolicy| policy.callers.admit(&requester.caller, annex);
        self.find_for(requester.identity.as_deref(), usable)
    }

    /// The identity with whose credential a service is asked: the one named, or the only one that the
    /// caller may use and the service has a rule for.
    pub(crate) fn find_user(
        &self,
        requester: &Requester,
        annex: Option<&Annex>,
        service: &Service,
    ) -> Result<&Identity, Error> {
        let usable = |policy: &&IdentityPolicy| {
            let mut rules = service.rules.iter();
            rules.any(|rule| rule.identities.contains(&policy.name))
                && policy.callers.admit(&requester.caller, annex)
        };
        self.find_for(requester.identity.as_deref(), usable)
    }

    /// The same, for a caller of this name that says it can prove itself, among those who may: `callers` of a policy.
    pub(crate) fn find_proven(
        &self,
        identity: Option<&str>,
        caller: &str,
        callers: impl Fn(&IdentityPolicy) -> Option<&Callers>,
    ) -> Result<&Identity, Error> {
        let usable = |policy: &&IdentityPolicy| {
            let callers = callers(policy);
            callers.is_some_and(|callers| callers.proven.iter().any(|name| name == caller))
        };
        // Nothing is spent on an identity that is not for it.
        if identity
            .and_then(|name| self.bundle.identity(name))
            .is_some_and(|named| !usable(&named))
        {
            return Err(Denied::CallerNotAllowed.into());
        }
        self.find_for(identity, usable)
    }

    fn find_for(
        &self,
        name: Option<&str>,
        usable: impl Fn(&&IdentityPolicy) -> bool,
    ) -> Result<&Identity, Error> {
        if let Some(name) = name {
            return self.identities.get(name).ok_or(Error::UnknownIdentity);
        }
        let mut usable = self.bundle.identities.iter().filter(usable);
        match (usable.next(), usable.next()) {
            (Some(one), None) => self.identities.get(&one.name).ok_or(Error::UnknownIdentity),
            (None, _) => Err(Denied::CallerNotAllowed.into()),
            (Some(one), Some(another)) => {
                let names = [one, another].into_iter().chain(usable);
                let names = names.map(|identity| identity.name.clone());
                Err(Error::IdentityRequired(names.collect()))
            }
        }
    }

    /// Whether this names an identity of the bundle, as a token's audience: by `agent:<name>`, or
    /// by the DID that it has now.
    pub(crate) fn is_of(&self, audience: &str) -> bool {
        let by_did = |own: &Identity| own.card().is_ok_and(|card| card.did.as_str() == audience);
        let by_name = audience
            .strip_prefix(AGENT)
            .is_some_and(|name| self.identities.contains_key(name));
        by_name || self.identities().any(by_did)
    }

    /// Whether nobody outside may be called so: what names agents and approvers here, an identity's
    /// name, its DID of now or of before, and what a reader could take for one of these.
    pub(crate) fn is_reserved(&self, name: &str) -> bool {
        if name.trim() != name || !identity::hides_nothing(name) {
            return true;
        }
        // Full-width forms look like ASCII (Unicode, halfwidth and fullwidth forms).
        let ascii = |c: char| match u32::from(c) {
            code @ 0xff01..=0xff5e => char::from_u32(code - 0xfee0).unwrap_or(c),
            _ => c,
        };
        let plain: String = name
            .chars()
            .map(ascii)
            .flat_map(char::to_lowercase)
            .collect();
        if [AGENT, APPROVER]
            .iter()
            .any(|prefix| plain.starts_with(prefix))
            || self.identities.contains_key(&plain)
        {
            return true;
        }
        if !plain.starts_with("did:") {
            return false;
        }
        // A DID URL names what its DID names (DID Core section 3.2). What is no DID in its one
        // spelling might be one of ours in another.
        let did = name.split(['#', '?', '/', ';']).next().unwrap_or_default();
        let is_spelled_otherwise = Did::parse(did).is_err()
            && (plain.starts_with("did:key:") || plain.starts_with("did:web:"));
        let is_web = |identity: &IdentityPolicy| {
            identity.did != "did:key" && is_same_domain(&identity.did, did)
        };
        let by_did = |own: &Identity| own.hold().is_ok_and(|held| held.had_did(did));
        is_spelled_otherwise
            || self.bundle.identities.iter().any(is_web)
            || self.identities().any(by_did)
    }

    /// Wipes every key.
    pub(crate) fn wipe(&self) {
        self.identities().for_each(Identity::wipe);
        self.record.wipe();
        self.credentials.iter().for_each(Credentials::wipe);
    }
}

/// Whether both are a did:web of one document: the default port says nothing (did:web method,
/// section 2.5.2).
fn is_same_domain(one: &str, other: &str) -> bool {
    let plain = |did: &str| did.to_ascii_lowercase().replacen("%3a443", "", 1);
    plain(one) == plain(other)
}
