//! One signature: who asks, for what, whether the policy allows it, and then the token or the credential.

use identity::agent_id;
use identity::envelope::Envelope;
use identity::request;
use identity::token::{Claims, Link, Vouch};
use identity::{ApprovalId, Caller, Digest, Intent, Payload, Signer, Tee, credential, token};
use policy::ApprovalRule;
use policy_engine::Asked;
use protocol::{Answer, Format, Sign, Signed, Waiting};
use record::{Decision, Verdict};
use uuid::Uuid;

use crate::approvals::Spent;
use crate::cell::Cell;
use crate::clock::Bounds;
use crate::delegation::Behalf;
use crate::enclave::{lock, read};
use crate::identities::{Identity, Version};
use crate::{Enclave, Error, Nsm};

/// Base64url makes four bytes of three, and the rest of a token is far below 8 KiB, so this fits through the window.
const MAX_PAYLOAD: usize = 32 * 1024;
const MAX_AUDIENCE: usize = 1024;

impl<N: Nsm> Enclave<N> {
    /// Decides and signs; what is known so far of the decision is written down as it becomes known.
    pub(crate) fn sign(&self, cell: &Cell, sign: Sign, decision: &mut Decision) -> Result<Answer, Error> {
        decision.caller = Some(Caller::Asserted(sign.of.caller.clone()));
        let delegatee = sign.delegatee.as_deref().map(identity::Did::parse).transpose()?;
        let intent = Intent::new(sign.action, sign.target, sign.resource)?.granted_to(delegatee);
        decision.action = Some(intent.action().to_owned());
        decision.target = Some(intent.target().to_owned()).filter(|target| !target.is_empty());
        decision.resource = Some(intent.resource().to_owned());
        if sign.payload.len() > MAX_PAYLOAD {
            return Err(Error::PayloadTooLarge);
        }
        let payload = Payload::parse(sign.payload.as_bytes())?;
        check_audience(sign.audience.as_deref())?;
        if sign.validity_seconds == Some(0) {
            return Err(Error::ValidityInvalid);
        }
        cell.check_annex()?;
        let claimed = sign.proof.as_ref().map(|proof| self.claimed(cell, proof)).transpose()?;
        let slot = match &claimed {
            Some(claimed) => cell.find_proven(sign.of.identity.as_deref(), claimed)?,
            None => cell.find(&sign.of)?,
        };
        // Whoever holds one identity asks for no other: with writers in between, two of them could wait for each other.
        let mut own = None;
        let mut granted = None;
        if let Some(shown) = &sign.delegation {
            {
                let identity = read(slot);
                let identity = identity.as_ref().ok_or(Error::Halted)?;
                describe(identity, decision);
                // Nothing is verified for whom the identity does not admit.
                if claimed.is_none() {
                    cell.admit(identity, &Caller::Asserted(sign.of.caller.clone()))?;
                }
            }
            if shown.starts_with('[') {
                granted = Some(self.granted(cell, shown, self.now()?, decision)?);
            } else {
                own = self.own_token(cell, shown, self.now()?)?;
            }
        }
        let slot = read(slot);
        let identity = slot.as_ref().ok_or(Error::Halted)?;
        describe(identity, decision);
        granted.iter().for_each(|granted| granted.note(decision));
        let request = request::Request {
            audience: sign.audience.as_deref(),
            delegation: sign.delegation.as_deref(),
            format: name(sign.format),
            identity: &identity.policy.name,
            intent: &intent,
            payload: &payload,
            validity_seconds: sign.validity_seconds,
        };
        let digest = request.digest()?;
        decision.request_digest = Some(digest);
        let now = self.now()?;
        let version = &identity.current;
        let caller = match (claimed, &sign.proof) {
            (Some(claimed), Some(proof)) => {
                Caller::Proven(self.proven(cell, claimed, &proof.jws, digest, version.description.version, now)?)
            }
            _ => Caller::Asserted(sign.of.caller),
        };
        decision.caller = Some(caller.clone());
        let token = sign.delegation.as_deref().filter(|_| granted.is_none());
        let behalf = token.map(|token| Behalf::of(cell, identity, token, own, decision)).transpose()?;
        let under = granted.as_ref().map(|granted| granted.check(identity, &intent, now)).transpose()?;
        let left = behalf.as_ref().map(|behalf| behalf.check(&identity.policy, &intent, now.latest));
        let left = left.transpose()?.or(under.map(|under| under.1));
        let is_grant = granted.is_some() || intent.delegatee().is_some();
        let fits = match sign.format {
            Format::VouchJwt => !is_grant,
            Format::VouchCredential => behalf.is_none() && sign.approval.is_none(),
            Format::Envelope => !is_grant && sign.approval.is_none(),
        };
        if !fits {
            return Err(Error::DelegationFormat);
        }
        if sign.format == Format::Envelope
            && !(payload.names().next().is_none()
                && intent.target().is_empty()
                && sign.audience.is_none()
                && sign.validity_seconds.is_none())
        {
            return Err(Error::EnvelopeHasNoPlace);
        }
        let asked = Asked {
            intent: &intent,
            payload: &payload,
            audience: sign.audience.as_deref(),
            validity_seconds: sign.validity_seconds,
            delegated: behalf.is_some() || granted.is_some(),
            envelope: sign.format == Format::Envelope,
        };
        let annex = cell.annex();
        let annex = annex.as_ref().map(|annex| &annex.0);
        let accepted = policy_engine::accept(&cell.bundle, cell.rego.as_ref(), &identity.policy, annex, &caller, &asked)?;
        decision.policy_id = accepted.rule.name.clone();
        let mut approved = None;
        if let Some(wanted) = accepted.approval {
            match self.approval(cell, identity, wanted, &request, digest, &caller, sign.approval, now)? {
                Spent::Approved(by) => approved = Some(by),
                Spent::Waits(waiting) => {
                    decision.policy_decision = Verdict::Pending;
                    return Ok(Answer::Waiting(waiting));
                }
            }
        }
        decision.approvals = approved.iter().map(|approved| approved.by.clone()).collect();
        if !(accepted.rule.limits.is_empty() && identity.policy.limits.is_empty()) {
            lock(&identity.usage).take(now.earliest, &identity.policy, accepted.rule, &payload)?;
        }
        let mut id = [0; 16];
        self.entropy.fill(&mut id)?;
        let delegation_chain = granted.as_ref().map(|granted| granted.grants.links(&intent)).unwrap_or_default();
        let content = Content {
            delegation_chain,
            id: uuid::Builder::from_random_bytes(id).into_uuid(),
            now: under.map_or(now.earliest, |under| under.0).0,
            // Time can only shorten.
            validity_seconds: i64::from(left.map_or(accepted.validity_seconds, |left| left.min(accepted.validity_seconds))),
            intent,
            payload,
            audience: sign.audience,
            tee: N::TEE,
            caller,
            behalf,
            approval: approved.map(|approved| approved.link(version.did.as_str(), digest)),
        };
        let seconds = if sign.format == Format::Envelope { 0 } else { content.validity_seconds };
        let (mut signature_id, expires_at) = (content.id.to_string(), content.now + seconds);
        let signed = match sign.format {
            Format::VouchJwt => content.token(version)?,
            Format::VouchCredential => content.credential(version)?,
            Format::Envelope => content.envelope(&identity.policy.name, version)?,
        };
        if sign.format == Format::Envelope {
            // It has no id of its own: its signature is one.
            signature_id = Envelope::id(&signed, version.key.public_key())?;
        }
        decision.token_id = Some(signature_id.clone());
        decision.expires_at = Some(identity::UnixSeconds(expires_at));
        Ok(Answer::Signed(Signed {
            signed,
            did: version.did.to_string(),
            signature_id,
            expires_at,
            key_version: version.description.version,
            identity: identity.policy.name.clone(),
            rule: accepted.rule.name.clone(),
            scope: None,
        }))
    }

    /// Lets the request wait, or finds that it was approved.
    #[expect(clippy::too_many_arguments, reason = "all that an approval is for")]
    fn approval(
        &self,
        cell: &Cell,
        identity: &Identity,
        wanted: &ApprovalRule,
        request: &request::Request<'_>,
        digest: Digest<32>,
        caller: &Caller,
        id: Option<ApprovalId>,
        now: Bounds,
    ) -> Result<Spent, Error> {
        if let Some(id) = id {
            return lock(&cell.approvals).spend(id, caller, digest, now.latest);
        }
        let mut id = [0; 16];
        self.entropy.fill(&mut id)?;
        let waiting = Waiting {
            id: ApprovalId::new(id),
            boot_id: self.boot_id(),
            request: digest.0,
            expires_at: now.latest.0 + i64::from(wanted.seconds),
            approved: false,
            canonical: request.canonical()?,
            by: wanted.by.clone(),
        };
        lock(&cell.approvals).wait(&identity.policy.name, caller, waiting, now.latest).map(Spent::Waits)
    }
}

/// Writes down whose key it is about.
pub(crate) fn describe(identity: &Identity, decision: &mut Decision) {
    let version = &identity.current;
    let agent = agent_id(&identity.policy.name, version.key.public_key());
    decision.delegation_chain = vec![format!("agent:{}", identity.policy.name)];
    decision.agent_id = Some(agent);
    decision.did = Some(version.did.clone());
    decision.environment = Some(identity.policy.environment.clone());
    decision.key_version = Some(version.description.version);
    decision.binding = Some(version.binding_digest);
}

fn name(format: Format) -> &'static str {
    match format {
        Format::VouchJwt => "vouch-jwt",
        Format::VouchCredential => "vouch-credential",
        Format::Envelope => "envelope",
    }
}

/// What is about to be signed.
struct Content {
    delegation_chain: Vec<credential::Grant>,
    id: Uuid,
    now: i64,
    validity_seconds: i64,
    intent: Intent,
    payload: Payload,
    audience: Option<String>,
    tee: Tee,
    caller: Caller,
    behalf: Option<Behalf>,
    approval: Option<Link>,
}

impl Content {
    fn token(self, version: &Version) -> Result<String, Error> {
        let scope = self.behalf.as_ref().map(|_| self.intent.action().to_owned());
        let (sub, act, mut delegation_chain) = match self.behalf {
            Some(behalf) => (behalf.sub, Some(behalf.act), behalf.chain),
            None => (version.did.to_string(), None, Vec::new()),
        };
        delegation_chain.extend(self.approval);
        let claims = Claims {
            iss: version.did.clone(),
            sub,
            act,
            scope,
            aud: self.audience,
            iat: self.now,
            nbf: self.now,
            exp: self.now + self.validity_seconds,
            jti: self.id,
            binding: version.binding_digest,
            tee: self.tee,
            caller: self.caller,
            vouch: Vouch { version: "1.0".into(), payload: self.payload, intent: self.intent, delegation_chain },
        };
        token::sign(&claims, &version.kid, &version.key)
    }

    fn envelope(self, name: &str, version: &Version) -> Result<String, Error> {
        let envelope = Envelope {
            action: self.intent.action().to_owned(),
            agent_id: agent_id(name, version.key.public_key()),
            delegated_by: self.behalf.map(|behalf| behalf.sub),
            resource: self.intent.resource().to_owned(),
            timestamp: self.now,
        };
        envelope.sign(&version.kid, &version.key)
    }

    fn credential(self, version: &Version) -> Result<String, Error> {
        let content = credential::Content {
            id: self.id,
            issuer: version.did.clone(),
            valid_from: identity::UnixSeconds(self.now),
            valid_until: identity::UnixSeconds(self.now + self.validity_seconds),
            intent: self.intent,
            delegation_chain: self.delegation_chain,
            payload: self.payload,
            audience: self.audience,
            binding: version.binding_digest,
            tee: self.tee,
            caller: self.caller,
        };
        Ok(credential::sign(content, &version.kid, &version.key)?.to_string())
    }
}

pub(crate) fn check_audience(audience: Option<&str>) -> Result<(), Error> {
    let good = |text: &str| !text.is_empty() && text.len() <= MAX_AUDIENCE && !text.chars().any(char::is_control);
    if audience.is_none_or(good) { Ok(()) } else { Err(Error::AudienceInvalid) }
}
