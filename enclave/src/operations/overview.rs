//! What a caller may use, and what is left of its limits.

use identity::caller::ObservedCaller;
use policy_engine::Left;
use protocol::{IdentityOverview, LimitLeft, LimitsLeft, Overview};

use crate::Error;
use crate::env::Env;
use crate::identities::Identity;
use crate::sync::lock;

/// The identities that this caller may use as what the parent saw; with `all`, every one. Nothing
/// is counted, and nothing decided.
pub(crate) fn overview(
    env: &Env<'_>,
    caller: &ObservedCaller,
    all: bool,
) -> Result<Overview, Error> {
    let usable = |identity: &&Identity| all || identity.policy.callers.admit(caller, env.annex());
    let identities = env.provisioned.identities().filter(usable);
    Ok(Overview {
        now: env.now().ok().map(|now| (now.earliest.0, now.latest.0)),
        annex_version: env.annex_id().map(|annex| annex.version),
        next: env.provisioned.record.since(u64::MAX).next,
        identities: identities
            .map(|identity| of(env, identity))
            .collect::<Result<_, _>>()?,
    })
}

fn of(env: &Env<'_>, identity: &Identity) -> Result<IdentityOverview, Error> {
    let described = identity.hold()?.card().description.clone();
    let now = env.now().ok().map(|now| now.earliest);
    let usage = lock(&identity.usage);
    let left = |left: Left<'_>| LimitLeft {
        amount: left.limit.amount.clone(),
        per_seconds: left.limit.per.seconds().unsigned_abs(),
        max: left.limit.max,
        left: left.left,
    };
    let policy = &identity.policy;
    let own = (None, &policy.limits);
    let of_rules = policy
        .rules
        .iter()
        .map(|rule| (Some(&rule.name), &rule.limits));
    let limits = std::iter::once(own)
        .chain(of_rules)
        .filter(|(_, limits)| !limits.is_empty())
        .map(|(rule, limits)| LimitsLeft {
            rule: rule.cloned(),
            limits: usage.left(now, rule, limits).map(left).collect(),
        });
    Ok(IdentityOverview {
        name: described.name,
        did: described.did,
        key_version: described.version,
        limits: limits.collect(),
    })
}
