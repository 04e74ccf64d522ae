//! Rotation of a key.

use identity::succession::Order;
use identity::{Algorithm, Caller, UnixSeconds};
use protocol::{Rotate, Rotated};

use crate::Error;
use crate::audit::Trail;
use crate::env::Env;
use crate::identities::{IdentityCard, NextKey};
use crate::keys::KeyPair;
use crate::operations::describe::description;

/// Prepares the key that follows an identity's key. `new_key` asks the NSM for randomness and may be slow: the old key
/// goes on signing meanwhile. `now` is asked after that.
pub(crate) fn rotate(
    env: &Env<'_>,
    rotate: &Rotate,
    new_key: impl FnOnce(Algorithm, &str, u32) -> Result<KeyPair, Error>,
    now: impl FnOnce() -> Result<UnixSeconds, Error>,
    trail: &mut Trail,
) -> Result<NextKey, Error> {
    let caller = Caller::Asserted(rotate.requester.caller.clone());
    trail.caller(&caller);
    let provisioned = env.provisioned;
    let identity = provisioned.find(&rotate.requester, env.annex())?;
    let (policy, card) = (&identity.policy, identity.card()?);
    trail.identity(&card);
    match &rotate.order {
        Some(order) => {
            trail.rule("operator");
            check_order(env, order, &card)?;
        }
        None if policy_engine::may_rotate(policy, env.annex(), &caller) => {}
        None => return Err(Error::RotationNotAllowed),
    }
    let next = card
        .version()
        .checked_add(1)
        .ok_or(Error::OrderInvalid("no version is left"))?;
    let key = new_key(policy.algorithm, &policy.name, next)?;
    identity.prepare(card.version(), &provisioned.bound, key, now)
}

/// Puts a key that was prepared into its place.
pub(crate) fn replace(env: &Env<'_>, next: NextKey) -> Result<Rotated, Error> {
    let identity = env.provisioned.identity(next.name())?;
    let (versions, statement) = identity.replace(next)?;
    Ok(Rotated {
        description: description(env, &identity.policy.name, versions),
        statement,
    })
}

fn check_order(env: &Env<'_>, order: &[u8], card: &IdentityCard) -> Result<(), Error> {
    let operator = &env.provisioned.bundle.operator_key.0;
    let order = Order::verify(order, operator)
        .map_err(|_| Error::OrderInvalid("not signed by the operator"))?;
    if order.identity != card.name {
        return Err(Error::OrderInvalid("for another identity"));
    }
    if order.boot_id != env.boot_id {
        return Err(Error::OrderInvalid("for another boot"));
    }
    if order.version != card.version() {
        return Err(Error::OrderInvalid("for another version of the key"));
    }
    if env.now()?.latest.0 > order.not_after {
        return Err(Error::OrderInvalid("it came too late"));
    }
    Ok(())
}
