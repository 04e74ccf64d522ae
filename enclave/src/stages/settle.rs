//! What a signature costs: limits are counted, an approval is used. All of it or nothing, and each
//! once.

use std::sync::Arc;

use identity::ApprovalId;
use policy::ApprovalRule;
use protocol::PendingApproval;

use crate::Error;
use crate::audit::Trail;
use crate::env::Env;
use crate::identities::{Crossing, KeyGuard};
use crate::keys::KeyPair;
use crate::stages::authorize::{Exchange, ExchangePermit, OfCard, Permit, Permitted};
use crate::stores::approvals::{ApprovalOutcome, Approved};
use crate::sync::lock;

/// Something that may be signed now, and that is paid for. It is made here only, and is the only
/// way to an identity's key for what a caller asked.
pub(crate) struct Settled<T> {
    what: T,
    /// Who approved it.
    approved: Option<Approved>,
}

impl<T: OfCard> Settled<T> {
    /// The key that signs it: that of the card that it was permitted for, and no other.
    pub(crate) fn key<'g>(&self, guard: &'g KeyGuard<'_>) -> Result<&'g KeyPair, Error> {
        if !Arc::ptr_eq(guard.card(), self.what.card()) {
            return Err(Error::SelfCheckFailed);
        }
        Ok(guard.key(Crossing::Settled))
    }

    /// Uses it up.
    pub(crate) fn into_parts(self) -> (T, Option<Approved>) {
        (self.what, self.approved)
    }

    /// What it is for.
    pub(crate) fn what(&self) -> &T {
        &self.what
    }
}

/// What came of settling.
pub(crate) enum Settling {
    /// It may be signed.
    Settled(Box<Settled<Permitted>>),
    /// Somebody must approve it first.
    Pending(PendingApproval),
}

/// Settles a request for a signature. What waits for an approval takes nothing of any limit. With
/// an approval: it is looked at, then limits reserve, then it is used; so it is not lost to a
/// limit, and who has none learns nothing of limits.
pub(crate) fn sign(
    env: &Env<'_>,
    permit: Permit<'_>,
    trail: &mut Trail,
) -> Result<Settling, Error> {
    // A request that waited for the key, or for its turn at Rego, waited while others went on.
    env.check_current()?;
    let approved = match (permit.approval(), permit.request().approval) {
        (None, _) => {
            reserve(&permit, || Ok(()))?;
            None
        }
        (Some(wanted), None) => return wait(env, &permit, wanted, trail),
        (Some(_), Some(id)) => {
            let (caller, digest, latest) = (permit.caller(), permit.digest(), permit.now().latest);
            // Lock order: usage, approvals; and this one is let go before usage is asked for.
            let found = lock(&env.provisioned.approvals).look(id, caller, digest, latest)?;
            if let ApprovalOutcome::Pending(waiting) = found {
                trail.pending();
                return Ok(Settling::Pending(waiting));
            }
            Some(reserve(&permit, || {
                lock(&env.provisioned.approvals).spend(id, caller, digest, latest)
            })?)
        }
    };
    if let Some(approved) = &approved {
        trail.approved(&approved.by);
    }
    Ok(Settling::Settled(Box::new(Settled {
        what: permit.into_permitted(),
        approved,
    })))
}

/// Counts the request, and does what follows; what was counted is given back if that fails.
fn reserve<T>(permit: &Permit<'_>, then: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    let (policy, rule) = (&permit.identity().policy, permit.rule());
    // Most have no limits, and nothing to wait for here.
    if rule.limits.is_empty() && policy.limits.is_empty() {
        return then();
    }
    let mut usage = lock(&permit.identity().usage);
    let reservation = usage.reserve(
        permit.now().earliest,
        policy,
        rule,
        &permit.request().payload,
    )?;
    let done = then();
    if done.is_ok() {
        usage.settle(reservation)
    } else {
        usage.release(reservation)
    }
    done
}

/// Lets the request wait for an approval.
fn wait(
    env: &Env<'_>,
    permit: &Permit<'_>,
    wanted: &ApprovalRule,
    trail: &mut Trail,
) -> Result<Settling, Error> {
    let (identity, latest) = (&permit.identity().policy.name, permit.now().latest);
    let waiting = PendingApproval {
        id: ApprovalId::new(env.random()?),
        boot_id: env.boot_id,
        request: permit.digest().0,
        expires_at: latest.0 + i64::from(wanted.seconds),
        approved: false,
        canonical: permit.request().in_form(identity).canonical()?,
        by: wanted.by.clone(),
    };
    let waiting =
        lock(&env.provisioned.approvals).wait(identity, permit.caller(), waiting, latest)?;
    trail.pending();
    Ok(Settling::Pending(waiting))
}

/// Settles an exchange: counts it.
pub(crate) fn exchange(
    env: &Env<'_>,
    permit: ExchangePermit<'_>,
) -> Result<Settled<Exchange>, Error> {
    env.check_current()?;
    let policy = &permit.identity().policy;
    let mut usage = lock(&permit.identity().usage);
    let reservation = usage.reserve_exchange(permit.now().earliest, policy)?;
    usage.settle(reservation);
    drop(usage);
    Ok(Settled {
        what: permit.into_exchange(),
        approved: None,
    })
}
