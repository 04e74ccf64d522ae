//! An approval that a request needs before it is made.

use identity::{ApprovalId, Caller, Digest, UnixSeconds};
use policy::ApprovalRule;
use protocol::PendingApproval;

use crate::Error;
use crate::env::Env;
use crate::stores::approvals::Approvals;
use crate::sync::lock;

/// A request that somebody must approve.
pub(super) struct Wanted<'a> {
    pub(super) identity: &'a str,
    pub(super) caller: &'a Caller,
    /// Digest of what an approver is shown.
    pub(super) request: Digest<32>,
    pub(super) now: UnixSeconds,
}

impl Wanted<'_> {
    /// The approval that it has, and who gave it.
    pub(super) fn given(
        &self,
        env: &Env<'_>,
        approval: &ApprovalRule,
    ) -> Option<(ApprovalId, record::Approval)> {
        let approvals = lock(&env.provisioned.approvals);
        let given = approvals.approved(self.caller, self.request, self.now);
        // Another rule may want others since then.
        given.filter(|(_, by)| approval.by.contains(&by.name))
    }

    /// Whether it is there still: nobody else may have used it meanwhile.
    pub(super) fn look(&self, approvals: &mut Approvals, given: ApprovalId) -> Result<(), Error> {
        approvals
            .look(given, self.caller, self.request, self.now)
            .map(|_| ())
    }

    pub(super) fn spend(&self, approvals: &mut Approvals, given: ApprovalId) -> Result<(), Error> {
        approvals
            .spend(given, self.caller, self.request, self.now)
            .map(|_| ())
    }

    /// Who asks for the same again finds the one that waits already.
    pub(super) fn wait(
        &self,
        env: &Env<'_>,
        approval: &ApprovalRule,
        shown: String,
    ) -> Result<PendingApproval, Error> {
        let waiting = PendingApproval {
            id: ApprovalId::new(env.random()?),
            boot_id: env.boot_id,
            request: self.request.0,
            expires_at: self.now.0 + i64::from(approval.seconds),
            approved: false,
            canonical: shown,
            by: approval.by.clone(),
        };
        lock(&env.provisioned.approvals).wait(self.identity, self.caller, waiting, self.now)
    }
}
