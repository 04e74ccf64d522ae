//! On whose behalf something is asked, as far as what was presented shows it. Other identities are
//! looked at here, so none is held.

use identity::delegation::{Act, Subject};
use identity::grants::Grants;
use identity::token::{self, Claims, DelegationLink, Expected};
use identity::{Did, Intent, PublicKey, UnixSeconds};
use policy::{Delegator, IdentityPolicy, Pattern};
use policy_engine::Denied;

use crate::Error;
use crate::audit::Trail;
use crate::clock::Bounds;
use crate::env::Env;
use crate::identities::IdentityCard;
use crate::stages::authenticate::Asked;
use crate::stages::parse::{ExchangeRequest, Presented, SignRequest};

/// What is asked, and on whose behalf.
pub(crate) struct Authority<'e> {
    pub(crate) asked: Asked<'e, SignRequest>,
    pub(crate) basis: Basis,
}

/// On whose behalf.
pub(crate) enum Basis {
    /// The agent's own.
    Own,
    /// The one who delegated to the agent, by a token that an exchange made.
    Exchanged(ExchangedAuthority),
    /// The one who granted to the agent, by credentials.
    Granted(GrantedAuthority),
}

/// For whom, through whom, and within what.
pub(crate) struct ExchangedAuthority {
    pub(crate) sub: String,
    pub(crate) act: Act,
    pub(crate) chain: Vec<DelegationLink>,
    issuer: Did,
    scope: Vec<String>,
    resource: String,
    exp: i64,
}

/// What grants of others let an identity do.
pub(crate) struct GrantedAuthority {
    pub(crate) grants: Grants,
    /// Who granted first, as the policy knows it.
    from: Delegator,
}

/// The time from which on, and for how long at most, something may be valid under an authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) from: UnixSeconds,
    /// Positive; none: as long as the rule allows.
    pub(crate) seconds: Option<u32>,
}

impl<'e> Authority<'e> {
    /// Verifies what was presented.
    pub(crate) fn establish(
        env: &Env<'e>,
        asked: Asked<'e, SignRequest>,
        trail: &mut Trail,
    ) -> Result<Self, Error> {
        let basis = match &asked.request.presented {
            Presented::None => Basis::Own,
            Presented::Token(text) => Basis::Exchanged(ExchangedAuthority::verify(
                env,
                &asked.identity.policy.name,
                text,
                asked.now,
                trail,
            )?),
            Presented::Grants(text) => {
                Basis::Granted(GrantedAuthority::verify(env, text, asked.now, trail)?)
            }
        };
        Ok(Self { asked, basis })
    }
}

impl Basis {
    /// Whether the key of now may do this by it, and when.
    pub(crate) fn span(
        &self,
        policy: &IdentityPolicy,
        card: &IdentityCard,
        intent: &Intent,
        now: Bounds,
    ) -> Result<Span, Error> {
        match self {
            Self::Own => Ok(Span {
                from: now.earliest,
                seconds: None,
            }),
            Self::Exchanged(exchanged) => exchanged.span(policy, card, intent, now),
            Self::Granted(granted) => granted.span(policy, card, intent, now),
        }
    }
}

impl ExchangedAuthority {
    /// Of a token of the agent's own, by which it acts for somebody.
    fn verify(
        env: &Env<'_>,
        name: &str,
        text: &str,
        now: Bounds,
        trail: &mut Trail,
    ) -> Result<Self, Error> {
        let own = own_token(env, text, now)?;
        let (claims, of) = own.ok_or(identity::Error::DelegationInvalid(
            "not a token of this identity",
        ))?;
        let act = claims.act.clone().filter(|_| of == name);
        let act = act.ok_or(identity::Error::DelegationInvalid(
            "not a token by which this identity acts for somebody",
        ))?;
        check_exchanged(&claims)?;
        let subject = Subject::of(&claims, text)?;
        trail.delegated(&claims.sub, principals(&claims.sub, &act));
        trail.issuers(
            claims
                .vouch
                .delegation_chain
                .iter()
                .map(|link| link.iss.clone())
                .collect(),
        );
        check_revoked(env, &subject)?;
        Ok(Self {
            sub: claims.sub,
            act,
            chain: claims.vouch.delegation_chain,
            issuer: claims.iss,
            scope: subject.scope.unwrap_or_default(),
            resource: subject.resource,
            exp: claims.exp,
        })
    }

    fn span(
        &self,
        policy: &IdentityPolicy,
        card: &IdentityCard,
        intent: &Intent,
        now: Bounds,
    ) -> Result<Span, Error> {
        if self.issuer != card.did {
            // The actor that it names would not be the issuer of what is signed under it.
            return Err(identity::Error::DelegationInvalid(
                "the identity has another DID since; exchange again",
            )
            .into());
        }
        if !self.scope.iter().any(|word| word == intent.action()) {
            return Err(identity::Error::ScopeExceedsParent {
                wanted: intent.action().to_owned(),
                given: self.scope.join(" "),
            }
            .into());
        }
        if !identity::delegation::is_within(intent.resource(), &self.resource) {
            return Err(identity::Error::ResourceExceedsParent {
                wanted: intent.resource().to_owned(),
                given: self.resource.clone(),
            }
            .into());
        }
        let delegation = policy
            .delegation
            .as_ref()
            .ok_or_else(|| Denied::UntrustedPrincipal(self.sub.clone()))?;
        if !policy_engine::among_resources(&delegation.resources, intent.resource())? {
            return Err(Denied::TargetNotAllowed.into());
        }
        let left = u32::try_from(self.exp - now.latest.0)
            .ok()
            .filter(|left| *left > 0);
        Ok(Span {
            from: now.earliest,
            seconds: Some(left.ok_or(identity::Error::Expired {
                what: "delegation",
                until: UnixSeconds(self.exp),
                at: now.latest,
            })?),
        })
    }
}

impl GrantedAuthority {
    /// Verifies grants, root first. The root is an issuer of the annex, or an identity of ours; who
    /// else granted, its DID or the annex gives the key of.
    fn verify(env: &Env<'_>, text: &str, now: Bounds, trail: &mut Trail) -> Result<Self, Error> {
        let root = Grants::unverified_root(text)?;
        let issuers = env
            .annex()
            .map(|annex| annex.issuers.as_slice())
            .unwrap_or_default();
        let listed = |did: &Did| issuers.iter().find(|issuer| issuer.iss == did.as_str());
        // Ours first: no annex gives an identity of the bundle another key.
        let keys_of = |did: &Did| match (own_keys(env, did), listed(did)) {
            (Some((_, keys)), _) => keys,
            (None, Some(issuer)) => issuer.keys.iter().map(|key| key.0.clone()).collect(),
            (None, None) => Vec::new(),
        };
        let own_root = own_keys(env, &root).map(|(name, _)| Delegator::Agent(name));
        let from =
            own_root.or_else(|| listed(&root).map(|issuer| Delegator::Issuer(issuer.name.clone())));
        let from = from.ok_or_else(|| Denied::UntrustedPrincipal(root.to_string()))?;
        let grants = Grants::verify(text, now.latest, keys_of)?;
        trail.granted(
            [grants.root()]
                .into_iter()
                .chain(grants.between())
                .map(ToString::to_string)
                .collect(),
        );
        check_grants(env, &grants)?;
        Ok(Self { grants, from })
    }

    fn span(
        &self,
        policy: &IdentityPolicy,
        card: &IdentityCard,
        intent: &Intent,
        now: Bounds,
    ) -> Result<Span, Error> {
        let allowed = policy
            .delegation
            .as_ref()
            .filter(|delegation| delegation.from.contains(&self.from));
        let allowed = allowed.ok_or_else(|| Denied::UntrustedPrincipal(self.from.to_string()))?;
        if *self.grants.delegatee() != card.did {
            return Err(identity::Error::SubjectIssuerMismatch.into());
        }
        if self.grants.depth() >= allowed.depth() {
            return Err(identity::Error::DelegationInvalid("too many act for one another").into());
        }
        // One that was made in this moment may begin a little after the earliest time that it can
        // be now.
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
        let left = u32::try_from((until.0 - from.0).min(i64::from(longest))).ok();
        match left.filter(|left| *left > 0 && now.latest < until) {
            Some(left) => Ok(Span {
                from,
                seconds: Some(left),
            }),
            None => Err(identity::Error::OutsideValidityWindow(format!(
                "the grant holds until {until}; the time is {}",
                now.latest
            ))
            .into()),
        }
    }
}

/// Refuses grants of which one is revoked: by its id, by the DID or the name of the one who granted, or
/// by a status list.
fn check_grants(env: &Env<'_>, grants: &Grants) -> Result<(), Error> {
    let agents: Vec<String> = grants
        .dids()
        .filter_map(|did| own_keys(env, did))
        .map(|(name, _)| format!("agent:{name}"))
        .collect();
    if grants
        .ids()
        .chain(agents.iter().map(String::as_str))
        .any(|id| env.is_revoked(|revoked| revoked == id))
    {
        return Err(Denied::DelegationRevoked.into());
    }
    for status in grants.status() {
        let known = env.annex().and_then(|annex| annex.status(status));
        if known.ok_or_else(|| Denied::StatusUnknown(printable(&status.list)))?? {
            return Err(Denied::DelegationRevoked.into());
        }
    }
    Ok(())
}

/// The identity of ours that has or had this DID, and its keys.
fn own_keys(env: &Env<'_>, did: &Did) -> Option<(String, Vec<PublicKey>)> {
    env.provisioned.identities().find_map(|identity| {
        let held = identity.hold().ok()?;
        let keys = held
            .versions()
            .iter()
            .filter(|version| version.did == did.as_str());
        let keys: Vec<PublicKey> = keys
            .filter_map(|version| PublicKey::from_spki(&version.spki).ok())
            .collect();
        (!keys.is_empty()).then(|| (identity.policy.name.clone(), keys))
    })
}

/// What is asked for, and whose authority is to be taken up.
pub(crate) struct SubjectAuthority<'e> {
    pub(crate) asked: Asked<'e, ExchangeRequest>,
    pub(crate) subject: Subject,
    /// Who issued the subject token, as the policy knows it.
    pub(crate) from: Delegator,
    /// Whether the audience is an identity of ours.
    pub(crate) audience_is_ours: bool,
}

impl<'e> SubjectAuthority<'e> {
    /// Verifies the subject token.
    pub(crate) fn establish(
        env: &Env<'e>,
        asked: Asked<'e, ExchangeRequest>,
        trail: &mut Trail,
    ) -> Result<Self, Error> {
        let audience_is_ours = asked
            .request
            .audience
            .as_deref()
            .is_some_and(|audience| env.provisioned.is_of(audience));
        let (subject, from) = subject(env, &asked.request.subject_token, asked.now)?;
        trail.issuers(subject.issuers().map(str::to_owned).collect());
        Ok(Self {
            asked,
            subject,
            from,
            audience_is_ours,
        })
    }
}

/// Verifies a subject token; gives its authority, and its issuer as the policy knows it.
fn subject(env: &Env<'_>, token: &str, now: Bounds) -> Result<(Subject, Delegator), Error> {
    if let Some((claims, of)) = own_token(env, token, now)? {
        let subject = Subject::of(&claims, token)?;
        if subject.act.is_none() {
            // A token about the agent itself hands nothing on.
            return Err(identity::Error::DelegationInvalid("nobody's authority is in it").into());
        }
        check_exchanged(&claims)?;
        check_revoked(env, &subject)?;
        return Ok((subject, Delegator::Agent(of)));
    }
    let iss = Subject::unverified_issuer(token)?;
    let issuer = env
        .annex()
        .and_then(|annex| annex.issuers.iter().find(|issuer| issuer.iss == iss));
    let issuer = issuer.ok_or(Denied::UntrustedPrincipal(printable(&iss)))?;
    let keys: Vec<PublicKey> = issuer.keys.iter().map(|key| key.0.clone()).collect();
    let subject = Subject::verify(token, &keys, now.latest)?;
    if subject
        .principals()
        .any(|name| env.provisioned.is_reserved(name))
    {
        return Err(identity::Error::DelegationInvalid(
            "it gives a name or a DID of ours to somebody outside",
        )
        .into());
    }
    check_revoked(env, &subject)?;
    Ok((subject, Delegator::Issuer(issuer.name.clone())))
}

/// A token of one of our own identities, by any version of its key of this boot; `None` for one of
/// somebody else.
fn own_token(env: &Env<'_>, token: &str, now: Bounds) -> Result<Option<(Claims, String)>, Error> {
    let Ok(claimed) = token::unverified_key(token) else {
        return Ok(None);
    };
    for identity in env.provisioned.identities() {
        let held = identity.hold()?;
        let is_by = |version: &&protocol::VersionFacts| {
            version.did == claimed.iss && version.binding == claimed.binding.0
        };
        let Some(version) = held.versions().iter().find(is_by) else {
            continue;
        };
        let (key, did) = (
            PublicKey::from_spki(&version.spki)?,
            Did::parse(&version.did)?,
        );
        let audience = token::unverified_claims(token)?.aud;
        let expected = Expected {
            key: &key,
            did: &did,
            at: now.latest,
            audience: audience.as_deref(),
        };
        return Ok(Some((
            token::verify(token, &expected)?,
            identity.policy.name.clone(),
        )));
    }
    Ok(None)
}

/// What was signed for a tool under a delegation is no delegation itself.
fn check_exchanged(claims: &Claims) -> Result<(), Error> {
    if claims.is_exchanged() {
        return Ok(());
    }
    Err(identity::Error::DelegationInvalid("it was signed, not exchanged").into())
}

fn check_revoked(env: &Env<'_>, subject: &Subject) -> Result<(), Error> {
    if env.is_revoked(|entry| subject.is_revoked_by(entry)) {
        Err(Denied::DelegationRevoked.into())
    } else {
        Ok(())
    }
}

/// The subject, and then who acts, oldest first.
pub(crate) fn principals(sub: &str, act: &Act) -> Vec<String> {
    [sub.to_owned()].into_iter().chain(actors(act)).collect()
}

/// Who acts, oldest first.
pub(crate) fn actors(act: &Act) -> Vec<String> {
    let mut actors: Vec<String> = act
        .actors()
        .map(|act| act.agent.clone().unwrap_or_else(|| act.sub.clone()))
        .collect();
    actors.reverse();
    actors
}

pub(crate) fn any(patterns: &[Pattern], text: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches(text))
}

/// A name that a stranger chose, for a message.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(128).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_strangers_is_shown_without_what_is_no_letter_and_not_at_length() {
        assert_eq!(printable("https://idp\u{1b}[31m\n"), "https://idp[31m");
        assert_eq!(printable(&"x".repeat(200)), "x".repeat(128));
    }
}
