use attestation::policy::{Bundle, Delegation, IdentityPolicy};

use crate::Denied;
use crate::rules::{among_resources, any, check_environment, check_resource};

/// What a token exchange asks for, once the subject token is verified and its authority narrowed.
#[derive(Debug, Clone, Copy)]
pub struct AskedExchange<'a> {
    /// What the new token is limited to; may be empty.
    pub resource: &'a str,
    /// For whom the new token is made.
    pub audience: Option<&'a str>,
    /// Whether that is an identity of this bundle.
    pub audience_is_ours: bool,
}

/// Whether the policy lets this identity have such a token. Whether its scope is within `delegation`, and whether limits leave room, is
/// asked apart.
pub fn accept_exchange(
    bundle: &Bundle,
    policy: &IdentityPolicy,
    delegation: &Delegation,
    asked: &AskedExchange<'_>,
) -> Result<(), Denied> {
    if !among_resources(&delegation.resources, asked.resource)? {
        return Err(Denied::TargetNotAllowed);
    }
    check_resource(bundle, false, asked.resource)?;
    check_environment(bundle, policy, asked.resource)?;
    let listed = |audience| delegation.audiences.as_ref().is_some_and(|audiences| any(audiences, audience));
    match asked.audience {
        Some(audience) if !asked.audience_is_ours && !listed(audience) => Err(Denied::AudienceNotAllowed("delegation".into())),
        _ => Ok(()),
    }
}
