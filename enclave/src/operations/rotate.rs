//! Rotation of a key.

use identity::request::Rotation;
use identity::succession::Order;
use identity::{Algorithm, Caller, Digest, UnixSeconds};
use policy::{Callers, IdentityPolicy};
use policy_engine::Denied;
use protocol::{PresentedProof, Requester, Rotate, Rotated};

use crate::Error;
use crate::audit::Trail;
use crate::env::Env;
use crate::identities::{IdentityCard, NextKey};
use crate::keys::KeyPair;
use crate::operations::describe::description;
use crate::stages::authenticate::{Request, verify};

/// Prepares the key that follows an identity's key. `check_idle` says whether anything stands in the way for a while:
/// who may not rotate does not learn of it, and nobody's proof is spent for it. `new_key` asks the NSM for randomness
/// and may be slow: the old key goes on signing meanwhile. `now` is asked after that.
pub(crate) fn rotate(
    env: &Env<'_>,
    rotate: &Rotate,
    check_idle: impl FnOnce() -> Result<(), Error>,
    new_key: impl FnOnce(Algorithm, &str, u32) -> Result<KeyPair, Error>,
    now: impl FnOnce() -> Result<UnixSeconds, Error>,
    trail: &mut Trail,
) -> Result<NextKey, Error> {
    let caller = Caller::Asserted(rotate.requester.caller.clone());
    trail.caller(&caller);
    let provisioned = env.provisioned;
    let (identity, card) = match (&rotate.order, &rotate.proof) {
        (None, Some(_)) => {
            let verified = verify(env, rotate, trail).map_err(not_allowed)?;
            check_idle()?;
            let asked = verified.spend(env, trail)?;
            let card = asked.identity.card()?;
            asked.check_card(&card)?;
            (asked.identity, card)
        }
        (order, None) => {
            let identity = provisioned.find(&rotate.requester, env.annex())?;
            let card = identity.card()?;
            trail.identity(&card);
            if let Some(order) = order {
                trail.rule("operator");
                check_order(env, order, &card)?;
            } else {
                env.check_annex()?;
                if !policy_engine::may_rotate(&identity.policy, env.annex(), &caller) {
                    return Err(Error::RotationNotAllowed);
                }
            }
            check_idle()?;
            (identity, card)
        }
        (Some(_), Some(_)) => {
            return Err(Error::OrderInvalid("there is a caller's proof beside it"));
        }
    };
    let policy = &identity.policy;
    let next = card
        .version()
        .checked_add(1)
        .ok_or(Error::OrderInvalid("no version is left"))?;
    let key = new_key(policy.algorithm, &policy.name, next)?;
    identity.prepare(card.version(), &provisioned.bound, key, now)
}

impl Request for &Rotate {
    fn requester(&self) -> &Requester {
        &self.requester
    }

    fn proof(&self) -> Option<&PresentedProof> {
        self.proof.as_ref()
    }

    fn digest(&self, identity: &str) -> Result<Digest<32>, Error> {
        Ok(Rotation { identity }.digest()?)
    }

    fn callers(policy: &IdentityPolicy) -> Option<&Callers> {
        policy.rotation_callers.as_ref()
    }
}

/// Who may not rotate the key is told so, whatever else it may do.
fn not_allowed(error: Error) -> Error {
    match error {
        Error::Denied(Denied::CallerNotAllowed) => Error::RotationNotAllowed,
        other => other,
    }
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
