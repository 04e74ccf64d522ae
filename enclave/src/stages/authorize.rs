//! Whether the policy lets it be.

use std::sync::Arc;

use identity::Format;
use identity::delegation::{Act, Subject};
use identity::token::EXCHANGE_ACTION;
use identity::{Caller, Digest, Intent, UnixSeconds};
use policy::{ApprovalRule, Delegation, IdentityPolicy, Rule};
use policy_engine::{Denied, ExchangeInput, PolicyInput};

use crate::Error;
use crate::audit::Trail;
use crate::clock::Bounds;
use crate::env::Env;
use crate::identities::{Identity, IdentityCard};
use crate::stages::authenticate::Asked;
use crate::stages::authority::{Authority, Basis, Span, SubjectAuthority, actors, any};
use crate::stages::parse::SignRequest;

/// A validity that nobody named, in seconds.
const DEFAULT_EXCHANGE_SECONDS: i64 = 300;

/// That this request of this caller may be signed with the key of this card, as far as limits and
/// approvals do not matter. It is made here only.
pub(crate) struct Permit<'e> {
    asked: Asked<'e, SignRequest>,
    basis: Basis,
    card: Arc<IdentityCard>,
    rule: &'e Rule,
    approval: Option<&'e ApprovalRule>,
    from: UnixSeconds,
    validity_seconds: u32,
}

/// What a permit was given for, once it is used up.
pub(crate) struct Permitted {
    pub(crate) request: SignRequest,
    pub(crate) caller: Caller,
    pub(crate) digest: Digest<32>,
    pub(crate) basis: Basis,
    pub(crate) card: Arc<IdentityCard>,
    /// Name of the rule that allowed it.
    pub(crate) rule: String,
    pub(crate) from: UnixSeconds,
    pub(crate) validity_seconds: u32,
}

/// What is permitted with the key of one card.
pub(crate) trait OfCard {
    fn card(&self) -> &Arc<IdentityCard>;
}

impl OfCard for Permitted {
    fn card(&self) -> &Arc<IdentityCard> {
        &self.card
    }
}

impl OfCard for Exchange {
    fn card(&self) -> &Arc<IdentityCard> {
        &self.card
    }
}

impl<'e> Permit<'e> {
    pub(crate) fn identity(&self) -> &'e Identity {
        self.asked.identity
    }

    pub(crate) fn request(&self) -> &SignRequest {
        &self.asked.request
    }

    pub(crate) fn caller(&self) -> &Caller {
        &self.asked.caller
    }

    pub(crate) fn digest(&self) -> Digest<32> {
        self.asked.digest
    }

    pub(crate) fn now(&self) -> Bounds {
        self.asked.now
    }

    pub(crate) fn rule(&self) -> &'e Rule {
        self.rule
    }

    /// Who must approve it first.
    pub(crate) fn approval(&self) -> Option<&'e ApprovalRule> {
        self.approval
    }

    /// Uses it up.
    pub(crate) fn into_permitted(self) -> Permitted {
        Permitted {
            request: self.asked.request,
            caller: self.asked.caller,
            digest: self.asked.digest,
            basis: self.basis,
            card: self.card,
            rule: self.rule.name.clone(),
            from: self.from,
            validity_seconds: self.validity_seconds,
        }
    }
}

/// Asks the policy about a signature with the key of this card.
pub(crate) fn sign<'e>(
    env: &Env<'e>,
    card: &Arc<IdentityCard>,
    authority: Authority<'e>,
    trail: &mut Trail,
) -> Result<Permit<'e>, Error> {
    // The key may have been replaced meanwhile.
    trail.identity(card);
    let Authority { asked, basis } = authority;
    asked.check_card(card)?;
    let (provisioned, policy, request) = (env.provisioned, &asked.identity.policy, &asked.request);
    let span = basis.span(policy, card, &request.intent, asked.now)?;
    check_format(request, &basis)?;
    let input = PolicyInput {
        intent: &request.intent,
        payload: &request.payload,
        audience: request.audience.as_deref(),
        validity_seconds: request.validity_seconds,
        delegated: !matches!(basis, Basis::Own),
        envelope: request.format == Format::Envelope,
    };
    let rego = provisioned.rego.as_ref();
    let accepted = policy_engine::accept(
        &provisioned.bundle,
        rego,
        policy,
        env.annex(),
        &asked.caller,
        &input,
    )?;
    trail.rule(&accepted.rule.name);
    let Span { from, seconds } = span;
    Ok(Permit {
        card: Arc::clone(card),
        rule: accepted.rule,
        approval: accepted.approval,
        from,
        // Time can only shorten.
        validity_seconds: seconds.map_or(accepted.validity_seconds, |left| {
            left.min(accepted.validity_seconds)
        }),
        asked,
        basis,
    })
}

/// Whether the format has a place for all that is asked.
fn check_format(request: &SignRequest, basis: &Basis) -> Result<(), Error> {
    let is_grant = matches!(basis, Basis::Granted(_)) || request.intent.delegatee().is_some();
    let (exchanged, approval) = (
        matches!(basis, Basis::Exchanged(_)),
        request.approval.is_some(),
    );
    let fits = match request.format {
        Format::VouchJwt => !is_grant,
        Format::VouchCredential => !exchanged && !approval,
        Format::Envelope => !is_grant && !approval,
    };
    if !fits {
        return Err(Error::DelegationFormat);
    }
    let is_plain = request.payload.names().next().is_none()
        && request.intent.target().is_empty()
        && request.audience.is_none()
        && request.validity_seconds.is_none();
    if request.format == Format::Envelope && !is_plain {
        Err(Error::EnvelopeHasNoPlace)
    } else {
        Ok(())
    }
}

/// That this caller's identity may act for a subject, as far as limits do not matter. It is made
/// here only.
pub(crate) struct ExchangePermit<'e> {
    identity: &'e Identity,
    now: Bounds,
    exchange: Exchange,
}

/// What an exchange gives.
pub(crate) struct Exchange {
    pub(crate) card: Arc<IdentityCard>,
    pub(crate) caller: Caller,
    pub(crate) audience: Option<String>,
    pub(crate) subject: Subject,
    pub(crate) act: Act,
    pub(crate) scope: Vec<String>,
    pub(crate) intent: Intent,
    pub(crate) from: UnixSeconds,
    pub(crate) exp: i64,
}

impl<'e> ExchangePermit<'e> {
    pub(crate) fn identity(&self) -> &'e Identity {
        self.identity
    }

    pub(crate) fn now(&self) -> Bounds {
        self.now
    }

    /// Uses it up.
    pub(crate) fn into_exchange(self) -> Exchange {
        self.exchange
    }
}

/// Asks the policy whether the identity of this card may act for the subject.
pub(crate) fn exchange<'e>(
    env: &Env<'e>,
    card: &Arc<IdentityCard>,
    authority: SubjectAuthority<'e>,
    trail: &mut Trail,
) -> Result<ExchangePermit<'e>, Error> {
    // The key may have been replaced meanwhile.
    trail.identity(card);
    let SubjectAuthority {
        asked,
        subject,
        from,
        audience_is_ours,
    } = authority;
    asked.check_card(card)?;
    let (provisioned, policy, now) = (env.provisioned, &asked.identity.policy, asked.now);
    let trusted = |delegation: &&Delegation| delegation.from.contains(&from);
    let allowed = policy.delegation.as_ref().filter(trusted);
    let allowed = allowed.ok_or_else(|| Denied::UntrustedPrincipal(from.to_string()))?;
    let act = actor(env, card, &subject, allowed)?;
    let scope = narrowed_scope(&subject, asked.request.scope.as_deref(), allowed)?;
    let resource = subject.narrow_resource(asked.request.resource.as_deref())?;
    trail.resource(&resource);
    let exp = expiry(&subject, now, allowed, policy)?;
    let actors: Vec<String> = subject.act.iter().flat_map(actors).collect();
    let input = ExchangeInput {
        from: &from,
        issuer: &subject.iss,
        subject: &subject.sub,
        actors: &actors,
        scope: &scope,
        resource: &resource,
        audience: asked.request.audience.as_deref(),
        audience_is_ours,
        validity_seconds: exp - now.earliest.0,
    };
    policy_engine::accept_exchange(
        &provisioned.bundle,
        provisioned.rego.as_ref(),
        policy,
        allowed,
        &asked.caller,
        &input,
    )?;
    let intent = Intent::new(EXCHANGE_ACTION.into(), String::new(), resource)?;
    let (identity, caller, audience) = (asked.identity, asked.caller, asked.request.audience);
    let exchange = Exchange {
        card: Arc::clone(card),
        caller,
        audience,
        subject,
        act,
        scope,
        intent,
        from: now.earliest,
        exp,
    };
    Ok(ExchangePermit {
        identity,
        now,
        exchange,
    })
}

/// The identity acts for the subject now, unless one of those who act is revoked.
fn actor(
    env: &Env<'_>,
    card: &IdentityCard,
    subject: &Subject,
    allowed: &Delegation,
) -> Result<Act, Error> {
    let name = format!("agent:{}", card.name);
    let act = subject.act_by(card.did.as_str(), &name, allowed.depth())?;
    if env.is_revoked(|entry| act.names(entry)) {
        return Err(Denied::DelegationRevoked.into());
    }
    Ok(act)
}

/// When the token ends: with the subject's, and no later than the policy and the default allow.
fn expiry(
    subject: &Subject,
    now: Bounds,
    allowed: &Delegation,
    policy: &IdentityPolicy,
) -> Result<i64, Error> {
    let most = policy.max_validity_seconds;
    let longest = allowed.max_validity_seconds.unwrap_or(most).min(most);
    let exp = subject
        .exp
        .min(now.earliest.0 + i64::from(longest).min(DEFAULT_EXCHANGE_SECONDS));
    if exp <= now.latest.0 {
        Err(identity::Error::Expired {
            what: "subject token",
            until: UnixSeconds(subject.exp),
            at: now.latest,
        }
        .into())
    } else {
        Ok(exp)
    }
}

fn narrowed_scope(
    subject: &Subject,
    wanted: Option<&str>,
    allowed: &Delegation,
) -> Result<Vec<String>, Error> {
    let scope = subject.narrow_scope(wanted)?;
    let permitted = |word: &String| any(&allowed.scopes, word);
    // Who names a scope gets it or nothing; who does not, what there is for it.
    let scope: Vec<String> = match wanted {
        Some(_) if scope.iter().all(permitted) => scope,
        Some(_) => return Err(Denied::ScopeNotAllowed.into()),
        None => scope.into_iter().filter(permitted).collect(),
    };
    if scope.is_empty() {
        Err(Denied::ScopeNotAllowed.into())
    } else {
        Ok(scope)
    }
}
