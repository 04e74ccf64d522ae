use identity::Caller;
use policy::{Bundle, Delegation, Delegator, IdentityPolicy};

use crate::rules::{among_resources, any, check_environment, check_resource};
use crate::{Denied, Rego};

/// What a token exchange asks for, once the subject token is verified and its authority narrowed.
#[derive(Debug, Clone, Copy)]
pub struct AskedExchange<'a> {
    /// Whose token is taken up.
    pub from: &'a Delegator,
    /// `iss` of that token.
    pub issuer: &'a str,
    /// `sub`: on whose behalf.
    pub subject: &'a str,
    /// Who acts already, oldest first: `agent:<name>`, or what its issuer calls it.
    pub actors: &'a [String],
    /// Words that the new token has, each once.
    pub scope: &'a [String],
    /// What the new token is limited to; may be empty.
    pub resource: &'a str,
    /// For whom the new token is made.
    pub audience: Option<&'a str>,
    /// Whether that is an identity of this bundle.
    pub audience_is_ours: bool,
    /// For how long the new token is valid.
    pub validity_seconds: i64,
}

/// Whether the policy lets this identity have such a token: audience and resource first, then Rego, where the bundle wants it asked.
/// Whether its scope is within `delegation`, and whether limits leave room, is asked apart.
pub fn accept_exchange(
    bundle: &Bundle,
    rego: Option<&Rego>,
    policy: &IdentityPolicy,
    delegation: &Delegation,
    caller: &Caller,
    asked: &AskedExchange<'_>,
) -> Result<(), Denied> {
    if !among_resources(&delegation.resources, asked.resource)? {
        return Err(Denied::TargetNotAllowed);
    }
    let rego = rego.filter(|_| bundle.rego.as_ref().is_some_and(|rego| rego.exchanges));
    check_resource(bundle, rego.is_some(), asked.resource)?;
    check_environment(bundle, policy, asked.resource)?;
    let listed = |audience| delegation.audiences.as_ref().is_some_and(|audiences| any(audiences, audience));
    match asked.audience {
        Some(audience) if !asked.audience_is_ours && !listed(audience) => {
            return Err(Denied::AudienceNotAllowed("delegation".into()));
        }
        _ => {}
    }
    rego.map_or(Ok(()), |rego| rego.decide_exchange(bundle, policy, caller, asked))
}
