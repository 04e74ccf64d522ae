//! Whether a delegation may be taken up.

use identity::Caller;
use policy::{Bundle, Delegation, IdentityPolicy};

use crate::rules::{among_resources, any, check_environment, check_resource};
use crate::{Denied, ExchangeInput, Rego};

/// Whether the policy lets this identity have such a token: audience and resource first, then Rego,
/// where the bundle wants it asked. Whether its scope is within `delegation`, and whether limits
/// leave room, is asked apart.
pub fn accept_exchange(
    bundle: &Bundle,
    rego: Option<&Rego>,
    policy: &IdentityPolicy,
    delegation: &Delegation,
    caller: &Caller,
    asked: &ExchangeInput<'_>,
) -> Result<(), Denied> {
    if !among_resources(&delegation.resources, asked.resource)? {
        return Err(Denied::TargetNotAllowed);
    }
    let rego = rego.filter(|_| bundle.rego.as_ref().is_some_and(|rego| rego.exchanges));
    check_resource(bundle, rego.is_some(), asked.resource)?;
    check_environment(bundle, policy, asked.resource)?;
    let listed = |audience| {
        delegation
            .audiences
            .as_ref()
            .is_some_and(|audiences| any(audiences, audience))
    };
    match asked.audience {
        Some(audience) if !asked.audience_is_ours && !listed(audience) => {
            return Err(Denied::AudienceNotAllowed {
                rule: "delegation".into(),
                why: "does not accept this audience, or wants one",
            });
        }
        _ => {}
    }
    rego.map_or(Ok(()), |rego| {
        rego.decide_exchange(bundle, policy, caller, asked)
    })
}
