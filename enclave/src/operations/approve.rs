//! Approvals: showing what waits, and taking one.

use identity::ApprovalId;
use identity::request::{Approval, CallerProof};
use policy::Approver;
use protocol::PendingApproval;

use crate::Error;
use crate::audit::Trail;
use crate::env::Env;
use crate::stores::approvals::Signed;
use crate::sync::lock;

/// Shows a request that waits to a caller that knows its id.
pub(crate) fn show(env: &Env<'_>, id: ApprovalId) -> Result<PendingApproval, Error> {
    let now = env.now()?.latest;
    lock(&env.provisioned.approvals).get(id, now).cloned()
}

/// Takes an approval: signed by an approver whom the rule names, for exactly what waits.
pub(crate) fn approve(
    env: &Env<'_>,
    jws: &str,
    trail: &mut Trail,
) -> Result<PendingApproval, Error> {
    let now = env.now()?.latest;
    let kid = CallerProof::unverified_kid(jws)
        .map_err(|_| Error::ApprovalOfNobody("not a JWS of an approval"))?;
    let named = |approver: &&Approver| approver.key.0.thumbprint() == kid;
    let approver = env.provisioned.bundle.approvers.iter().find(named);
    let approver = approver.ok_or(Error::ApprovalOfNobody(
        "the policy names no approver with this key",
    ))?;
    let approval = Approval::verify(jws, &approver.key.0);
    let approval =
        approval.map_err(|_| Error::ApprovalOfNobody("its signature or form is not good"))?;
    let mut approvals = lock(&env.provisioned.approvals);
    let (identity, digest) = approvals.subject(approval.approval)?;
    trail.waiting(identity, digest);
    let (waiting, approved) = approvals.approve(
        &Signed {
            approval,
            approver,
            kid,
            jws,
        },
        env.boot_id,
        now,
    )?;
    trail.approved(&approved.by);
    Ok(waiting)
}
