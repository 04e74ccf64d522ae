//! What a signature costs: limits are counted, an approval is used. All of it or nothing, and each once.

use std::sync::MutexGuard;

use identity::ApprovalId;
use policy::{ApprovalRule, IdentityPolicy};
use policy_engine::{Reservation, Usage};
use protocol::PendingApproval;

use crate::Error;
use crate::audit::Trail;
use crate::env::Env;
use crate::identities::{Crossing, KeyGuard};
use crate::keys::KeyPair;
use crate::stages::authorize::{Exchange, ExchangePermit, Permit, Permitted};
use crate::stores::approvals::{ApprovalOutcome, Approved};
use crate::sync::lock;

/// Something that may be signed now, and that is paid for. It is made here only, and is the only way to an identity's key for what a
/// caller asked.
pub(crate) struct Settled<T> {
    pub(crate) what: T,
    /// Who approved it.
    pub(crate) approved: Option<Approved>,
    /// So that nobody else can make one.
    _made_here: (),
}

impl<T> Settled<T> {
    /// The key that signs it.
    pub(crate) fn key<'g>(&self, guard: &'g KeyGuard<'_>) -> &'g KeyPair {
        guard.key(Crossing::Settled)
    }
}

/// What came of settling.
pub(crate) enum Settling {
    /// It may be signed.
    Settled(Box<Settled<Permitted>>),
    /// Somebody must approve it first.
    Pending(PendingApproval),
}

/// Settles a request for a signature: reserves what limits leave, and then uses the approval. One that cannot be had gives back what was
/// reserved; an approval is not lost to a limit.
pub(crate) fn sign(env: &Env<'_>, permit: Permit<'_>, trail: &mut Trail) -> Result<Settling, Error> {
    let (policy, rule) = (&permit.identity().policy, permit.rule());
    // Most have no limits, and nothing to wait for here.
    let limited = !(rule.limits.is_empty() && policy.limits.is_empty());
    let mut usage = limited.then(|| lock(&permit.identity().usage));
    let reserve =
        |usage: &mut MutexGuard<'_, Usage>| usage.reserve(permit.now().earliest, policy, rule, &permit.request().payload);
    let reservation = usage.as_mut().map(reserve).transpose()?;
    let outcome = permit.approval().map(|wanted| approval(env, &permit, wanted)).transpose();
    let settled = matches!(outcome, Ok(None | Some(ApprovalOutcome::Approved(_))));
    if let (Some(usage), Some(reservation)) = (&mut usage, reservation) {
        close(usage, reservation, settled);
    }
    drop(usage);
    let approved = match outcome? {
        None => None,
        Some(ApprovalOutcome::Approved(approved)) => Some(approved),
        Some(ApprovalOutcome::Pending(waiting)) => {
            trail.pending();
            return Ok(Settling::Pending(waiting));
        }
    };
    if let Some(approved) = &approved {
        trail.approved(&approved.by);
    }
    let settled = Settled { what: permit.into_permitted(), approved, _made_here: () };
    Ok(Settling::Settled(Box::new(settled)))
}

fn close(usage: &mut Usage, reservation: Reservation, settled: bool) {
    if settled { usage.settle(reservation) } else { usage.release(reservation) }
}

/// Lets the request wait, or finds that it was approved.
fn approval(env: &Env<'_>, permit: &Permit<'_>, wanted: &ApprovalRule) -> Result<ApprovalOutcome, Error> {
    let (caller, digest, latest) = (permit.caller(), permit.digest(), permit.now().latest);
    if let Some(id) = permit.request().approval {
        return lock(&env.provisioned.approvals).spend(id, caller, digest, latest);
    }
    let identity = &permit.identity().policy.name;
    let waiting = PendingApproval {
        id: ApprovalId::new(env.random()?),
        boot_id: env.boot_id,
        request: digest.0,
        expires_at: latest.0 + i64::from(wanted.seconds),
        approved: false,
        canonical: permit.request().in_form(identity).canonical()?,
        by: wanted.by.clone(),
    };
    lock(&env.provisioned.approvals).wait(identity, caller, waiting, latest).map(ApprovalOutcome::Pending)
}

/// Settles an exchange: counts it.
pub(crate) fn exchange(permit: ExchangePermit<'_>) -> Result<Settled<Exchange>, Error> {
    let policy: &IdentityPolicy = &permit.identity().policy;
    let mut usage = lock(&permit.identity().usage);
    let reservation = usage.reserve_exchange(permit.now().earliest, policy)?;
    usage.settle(reservation);
    drop(usage);
    Ok(Settled { what: permit.into_exchange(), approved: None, _made_here: () })
}
