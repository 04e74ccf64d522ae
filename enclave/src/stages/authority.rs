//! On whose behalf an identity acts: token exchange (RFC 8693), and signatures under what was exchanged.

use identity::delegation::{Act, Subject};
use identity::grants::Grants;
use identity::request;
use identity::token::{self, Claims, EXCHANGE_ACTION, Expected, Link, Vouch};
use identity::{Caller, Did, Intent, Payload, PublicKey, UnixSeconds};
use policy::{Delegation, Delegator, IdentityPolicy, Pattern};
use policy_engine::{AskedExchange, Denied};
use protocol::{Exchange, Signed};
use record::Decision;

use crate::cell::Cell;
use crate::clock::Bounds;
use crate::enclave::{lock, read};
use crate::identities::Identity;
use crate::signing::{check_audience, describe};
use crate::{Enclave, Error, Nsm};

/// For whom, through whom, and within what.
pub(crate) struct Behalf {
    pub(crate) sub: String,
    pub(crate) act: Act,
    pub(crate) chain: Vec<Link>,
    scope: Vec<String>,
    resource: String,
    exp: i64,
}

/// A validity that nobody named, in seconds.
const DEFAULT_SECONDS: i64 = 300;

impl<N: Nsm> Enclave<N> {
    /// Takes up a delegation: the answer is a token by which the caller's identity acts for the subject.
    pub(crate) fn exchange(&self, cell: &Cell, exchange: Exchange, decision: &mut Decision) -> Result<Signed, Error> {
        decision.caller = Some(Caller::Asserted(exchange.of.caller.clone()));
        decision.action = Some(EXCHANGE_ACTION.into());
        decision.policy_id = "delegation".into();
        check_audience(exchange.audience.as_deref())?;
        cell.check_annex()?;
        let claimed = exchange.proof.as_ref().map(|proof| self.claimed(cell, proof)).transpose()?;
        let slot = match &claimed {
            Some(claimed) => cell.find_proven(exchange.of.identity.as_deref(), claimed)?,
            None => cell.find(&exchange.of)?,
        };
        let now = self.now()?;
        let (caller, proven_for) = {
            let identity = read(slot);
            let identity = identity.as_ref().ok_or(Error::Halted)?;
            describe(identity, decision);
            let request = request::Exchange {
                audience: exchange.audience.as_deref(),
                identity: &identity.policy.name,
                resource: exchange.resource.as_deref(),
                scope: exchange.scope.as_deref(),
                subject_token: &exchange.subject_token,
            };
            let digest = request.digest()?;
            decision.request_digest = Some(digest);
            let (caller, proven_for) = match (claimed, &exchange.proof) {
                (Some(claimed), Some(proof)) => {
                    let version = identity.current.description.version;
                    let proven = self.proven(cell, claimed, &proof.jws, digest, version, now)?;
                    (Caller::Proven(proven), Some(version))
                }
                _ => (Caller::Asserted(exchange.of.caller.clone()), None),
            };
            decision.caller = Some(caller.clone());
            cell.admit(identity, &caller)?;
            (caller, proven_for)
        };
        // Other identities are looked at here, so none is held.
        let audience_is_ours = exchange.audience.as_deref().is_some_and(|audience| cell.is_of(audience));
        let (subject, from) = self.subject(cell, &exchange.subject_token, now)?;
        let slot = read(slot);
        let identity = slot.as_ref().ok_or(Error::Halted)?;
        if proven_for.is_some_and(|version| version != identity.current.description.version) {
            return Err(Error::ProofInvalid("for another version of the key"));
        }
        // Its key may have been replaced meanwhile.
        describe(identity, decision);
        decision.delegation_issuers = subject.issuers().map(str::to_owned).collect();
        let policy = &identity.policy;
        let allowed = policy.delegation.as_ref().filter(|delegation| delegation.from.contains(&from));
        let allowed = allowed.ok_or_else(|| Denied::UntrustedPrincipal(from.to_string()))?;
        let (did, agent) = (identity.current.did.as_str(), format!("agent:{}", policy.name));
        let act = subject.act_by(did, &agent, allowed.depth())?;
        if cell.annex().is_some_and(|annex| annex.0.revoked.iter().any(|entry| act.names(entry))) {
            return Err(Denied::DelegationRevoked.into());
        }
        let scope = granted_scope(&subject, exchange.scope.as_deref(), allowed)?;
        let resource = subject.narrow_resource(exchange.resource.as_deref())?;
        decision.resource = Some(resource.clone());
        let longest =
            i64::from(allowed.max_validity_seconds.unwrap_or(policy.max_validity_seconds).min(policy.max_validity_seconds));
        let exp = subject.exp.min(now.earliest.0 + longest.min(DEFAULT_SECONDS));
        if exp <= now.latest.0 {
            return Err(identity::Error::Expired.into());
        }
        let actors: Vec<String> = subject.act.iter().flat_map(actors_of).collect();
        let asked = AskedExchange {
            from: &from,
            issuer: &subject.iss,
            subject: &subject.sub,
            actors: &actors,
            scope: &scope,
            resource: &resource,
            audience: exchange.audience.as_deref(),
            audience_is_ours,
            validity_seconds: exp - now.earliest.0,
        };
        policy_engine::accept_exchange(&cell.bundle, cell.rego.as_ref(), policy, allowed, &caller, &asked)?;
        lock(&identity.usage).take_exchange(now.earliest, &identity.policy)?;
        let mut chain = subject.chain;
        chain.push(subject.link);
        let intent = Intent::new(EXCHANGE_ACTION.into(), String::new(), resource)?;
        let mut id = [0; 16];
        self.entropy.fill(&mut id)?;
        let version = &identity.current;
        let claims = Claims {
            iss: version.did.clone(),
            sub: subject.sub,
            act: Some(act),
            scope: Some(scope.join(" ")),
            aud: exchange.audience,
            iat: now.earliest.0,
            nbf: now.earliest.0,
            exp,
            jti: uuid::Builder::from_random_bytes(id).into_uuid(),
            binding: version.binding_digest,
            tee: N::TEE,
            caller,
            vouch: Vouch { version: "1.0".into(), payload: Payload::default(), intent, delegation_chain: chain },
        };
        note(&claims, decision);
        decision.token_id = Some(claims.jti.to_string());
        decision.expires_at = Some(UnixSeconds(exp));
        Ok(Signed {
            signed: token::sign(&claims, &version.kid, &version.key)?,
            did: version.did.to_string(),
            signature_id: claims.jti.to_string(),
            expires_at: exp,
            key_version: version.description.version,
            identity: policy.name.clone(),
            rule: "delegation".into(),
            scope: claims.scope,
        })
    }

    /// Verifies a subject token; gives its authority, and its issuer as the policy knows it.
    fn subject(&self, cell: &Cell, token: &str, now: Bounds) -> Result<(Subject, Delegator), Error> {
        if let Some((claims, of)) = self.own_token(cell, token, now)? {
            let subject = Subject::of(&claims, token)?;
            if subject.act.is_none() {
                // A token about the agent itself hands nothing on.
                return Err(identity::Error::DelegationInvalid("nobody's authority is in it").into());
            }
            check_exchanged(&claims)?;
            check_revoked(cell, &subject)?;
            return Ok((subject, Delegator::Agent(of)));
        }
        let iss = Subject::unverified_issuer(token)?;
        let annex = cell.annex();
        let issuer = annex.as_ref().and_then(|annex| annex.0.issuers.iter().find(|issuer| issuer.iss == iss));
        let issuer = issuer.ok_or(Denied::UntrustedPrincipal(printable(&iss)))?;
        let keys: Vec<PublicKey> = issuer.keys.iter().map(|key| key.0.clone()).collect();
        let subject = Subject::verify(token, &keys, now.latest)?;
        if subject.principals().any(|name| cell.is_reserved(name)) {
            return Err(identity::Error::DelegationInvalid("it gives a name or a DID of ours to somebody outside").into());
        }
        check_revoked(cell, &subject)?;
        Ok((subject, Delegator::Issuer(issuer.name.clone())))
    }

    /// A token of one of our own identities, by any version of its key of this boot; `None` for one of somebody else.
    pub(crate) fn own_token(&self, cell: &Cell, token: &str, now: Bounds) -> Result<Option<(Claims, String)>, Error> {
        let Ok(claimed) = token::unverified_key(token) else { return Ok(None) };
        for slot in cell.slots() {
            let slot = read(slot);
            let identity = slot.as_ref().ok_or(Error::Halted)?;
            let versions = identity.versions();
            let Some(version) =
                versions.iter().find(|version| version.did == claimed.iss && version.binding == claimed.binding.0)
            else {
                continue;
            };
            let (key, did) = (PublicKey::from_spki(&version.spki)?, Did::parse(&version.did)?);
            let audience = token::unverified_claims(token)?.aud;
            let expected = Expected { key: &key, did: &did, at: now.latest, audience: audience.as_deref() };
            return Ok(Some((token::verify(token, &expected)?, identity.policy.name.clone())));
        }
        Ok(None)
    }
}

/// What grants of others let an identity do.
pub(crate) struct Granted {
    pub(crate) grants: Grants,
    /// Who granted first, as the policy knows it.
    from: Delegator,
}

impl<N: Nsm> Enclave<N> {
    /// Verifies grants, root first. The root is an issuer of the annex, or an identity of ours; who else granted, its DID or the annex
    /// gives the key of.
    pub(crate) fn granted(&self, cell: &Cell, text: &str, now: Bounds, decision: &mut Decision) -> Result<Granted, Error> {
        let root = Grants::unverified_root(text)?;
        let annex = cell.annex();
        let issuers = annex.as_ref().map(|annex| annex.0.issuers.as_slice()).unwrap_or_default();
        let listed = |did: &Did| issuers.iter().find(|issuer| issuer.iss == did.as_str());
        let own = |did: &Did| {
            cell.slots().find_map(|slot| {
                let slot = read(slot);
                let identity = slot.as_ref()?;
                let versions = identity.versions();
                let keys = versions.iter().filter(|version| version.did == did.as_str());
                let keys: Vec<PublicKey> = keys.filter_map(|version| PublicKey::from_spki(&version.spki).ok()).collect();
                (!keys.is_empty()).then(|| (identity.policy.name.clone(), keys))
            })
        };
        // Ours first: no annex gives an identity of the bundle another key.
        let keys_of = |did: &Did| match (own(did), listed(did)) {
            (Some((_, keys)), _) => keys,
            (None, Some(issuer)) => issuer.keys.iter().map(|key| key.0.clone()).collect(),
            (None, None) => Vec::new(),
        };
        let own_root = own(&root).map(|(name, _)| Delegator::Agent(name));
        let from = own_root.or_else(|| listed(&root).map(|issuer| Delegator::Issuer(issuer.name.clone())));
        let from = from.ok_or_else(|| Denied::UntrustedPrincipal(root.to_string()))?;
        let granted = Granted { grants: Grants::verify(text, now.latest, keys_of)?, from };
        granted.note(decision);
        let grants = &granted.grants;
        let revoked = annex.as_ref().map(|annex| annex.0.revoked.as_slice()).unwrap_or_default();
        let agents: Vec<String> = grants.dids().filter_map(own).map(|own| format!("agent:{}", own.0)).collect();
        if grants.ids().chain(agents.iter().map(String::as_str)).any(|id| revoked.iter().any(|revoked| revoked == id)) {
            return Err(Denied::DelegationRevoked.into());
        }
        for status in grants.status() {
            let known = annex.as_ref().and_then(|annex| annex.0.status(status));
            if known.ok_or_else(|| Denied::StatusUnknown(printable(&status.list)))?? {
                return Err(Denied::DelegationRevoked.into());
            }
        }
        Ok(granted)
    }
}

impl Granted {
    /// Writes down for whom it is, before the agent that stands there already.
    pub(crate) fn note(&self, decision: &mut Decision) {
        let name = |did: &Did| did.to_string();
        decision.delegated_by = Some(name(self.grants.root()));
        let before = [self.grants.root()].into_iter().chain(self.grants.between()).map(name);
        decision.delegation_issuers = [self.grants.root()].into_iter().chain(self.grants.between()).map(name).collect();
        let agent = std::mem::take(&mut decision.delegation_chain);
        decision.delegation_chain = before.chain(agent.into_iter().last()).collect();
    }

    /// Whether this identity may do this by them, from when on, and for how many seconds at most.
    pub(crate) fn check(&self, identity: &Identity, intent: &Intent, now: Bounds) -> Result<(UnixSeconds, u32), Error> {
        let policy = &identity.policy;
        let allowed = policy.delegation.as_ref().filter(|delegation| delegation.from.contains(&self.from));
        let allowed = allowed.ok_or_else(|| Denied::UntrustedPrincipal(self.from.to_string()))?;
        if *self.grants.delegatee() != identity.current.did {
            return Err(identity::Error::SubjectIssuerMismatch.into());
        }
        if self.grants.depth() >= allowed.depth() {
            return Err(identity::Error::DelegationInvalid("too many act for one another").into());
        }
        // One that was made in this moment may begin a little after the earliest time that it can be now.
        let (from, until) = self.grants.allow(intent, now.latest)?;
        let from = UnixSeconds(from.0.max(now.earliest.0));
        if !any(&allowed.scopes, intent.action()) {
            return Err(Denied::ScopeNotAllowed.into());
        }
        if !policy_engine::among_resources(&allowed.resources, intent.resource())? {
            return Err(Denied::TargetNotAllowed.into());
        }
        let longest = allowed.max_validity_seconds.unwrap_or(u32::MAX);
        // Never past the grant's own end.
        let left = (until.0 - from.0).min(i64::from(longest));
        match u32::try_from(left) {
            Ok(left) if left > 0 && now.latest < until => Ok((from, left)),
            _ => Err(identity::Error::OutsideValidityWindow.into()),
        }
    }
}

impl Behalf {
    /// What a token of this identity's own lets it ask for; `own` is what was verified of it.
    pub(crate) fn of(
        cell: &Cell,
        identity: &Identity,
        token: &str,
        own: Option<(Claims, String)>,
        decision: &mut Decision,
    ) -> Result<Self, Error> {
        let (claims, of) = own.ok_or(identity::Error::DelegationInvalid("not a token of this identity"))?;
        let act = claims.act.clone().filter(|_| of == identity.policy.name);
        let act = act.ok_or(identity::Error::DelegationInvalid("not a token by which this identity acts for somebody"))?;
        check_exchanged(&claims)?;
        if claims.iss != identity.current.did {
            // The actor that it names would not be the issuer of what is signed under it.
            return Err(identity::Error::DelegationInvalid("the identity has another DID since; exchange again").into());
        }
        let subject = Subject::of(&claims, token)?;
        decision.delegated_by = Some(claims.sub.clone());
        decision.delegation_chain = principals(&claims.sub, &act);
        decision.delegation_issuers = claims.vouch.delegation_chain.iter().map(|link| link.iss.clone()).collect();
        check_revoked(cell, &subject)?;
        Ok(Self {
            sub: claims.sub,
            act,
            chain: claims.vouch.delegation_chain,
            scope: subject.scope.unwrap_or_default(),
            resource: subject.resource,
            exp: claims.exp,
        })
    }

    /// Whether what is asked lies within it, and for how long at most it may be valid.
    pub(crate) fn check(&self, policy: &IdentityPolicy, intent: &Intent, now: UnixSeconds) -> Result<u32, Error> {
        if !self.scope.iter().any(|word| word == intent.action()) {
            return Err(identity::Error::ScopeExceedsParent.into());
        }
        if !identity::delegation::is_within(intent.resource(), &self.resource) {
            return Err(identity::Error::ResourceExceedsParent.into());
        }
        let delegation = policy.delegation.as_ref().ok_or_else(|| Denied::UntrustedPrincipal(self.sub.clone()))?;
        if !policy_engine::among_resources(&delegation.resources, intent.resource())? {
            return Err(Denied::TargetNotAllowed.into());
        }
        u32::try_from(self.exp - now.0).ok().filter(|left| *left > 0).ok_or_else(|| identity::Error::Expired.into())
    }
}

/// What was signed for a tool under a delegation is no delegation itself.
fn check_exchanged(claims: &Claims) -> Result<(), Error> {
    if claims.is_exchanged() {
        return Ok(());
    }
    Err(identity::Error::DelegationInvalid("it was signed, not exchanged").into())
}

fn note(claims: &Claims, decision: &mut Decision) {
    decision.delegated_by = Some(claims.sub.clone());
    decision.delegation_chain = claims.act.as_ref().map(|act| principals(&claims.sub, act)).unwrap_or_default();
}

/// The subject, and then who acts, oldest first.
fn principals(sub: &str, act: &Act) -> Vec<String> {
    [sub.to_owned()].into_iter().chain(actors_of(act)).collect()
}

/// Who acts, oldest first.
fn actors_of(act: &Act) -> Vec<String> {
    let mut actors: Vec<String> = act.actors().map(|act| act.agent.clone().unwrap_or_else(|| act.sub.clone())).collect();
    actors.reverse();
    actors
}

fn granted_scope(subject: &Subject, wanted: Option<&str>, allowed: &Delegation) -> Result<Vec<String>, Error> {
    let scope = subject.narrow_scope(wanted)?;
    let permitted = |word: &String| any(&allowed.scopes, word);
    // Who names a scope gets it or nothing; who does not, what there is for it.
    let scope: Vec<String> = match wanted {
        Some(_) if scope.iter().all(permitted) => scope,
        Some(_) => return Err(Denied::ScopeNotAllowed.into()),
        None => scope.into_iter().filter(permitted).collect(),
    };
    if scope.is_empty() { Err(Denied::ScopeNotAllowed.into()) } else { Ok(scope) }
}

fn check_revoked(cell: &Cell, subject: &Subject) -> Result<(), Error> {
    let revoked = cell.annex().is_some_and(|annex| annex.0.revoked.iter().any(|entry| subject.is_revoked_by(entry)));
    if revoked { Err(Denied::DelegationRevoked.into()) } else { Ok(()) }
}

fn any(patterns: &[Pattern], text: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches(text))
}

/// A name that a stranger chose, for a message.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(128).collect()
}
