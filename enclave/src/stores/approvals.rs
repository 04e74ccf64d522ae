//! Requests that wait for somebody's approval.

use std::collections::BTreeMap;

use identity::request::Approval;
use identity::token::DelegationLink;
use identity::{ApprovalId, BootId, Caller, Digest, UnixSeconds};
use policy::Approver;
use protocol::PendingApproval;

use crate::Error;

/// Requests that wait: in all, of one identity, and of one caller of it.
const MAX_WAITING: usize = 256;
const MAX_OF_ONE: usize = 32;
const MAX_OF_ONE_CALLER: usize = 8;

/// What waits.
#[derive(Default)]
pub(crate) struct Approvals(BTreeMap<ApprovalId, Entry>);

struct Entry {
    identity: String,
    caller: Caller,
    waiting: PendingApproval,
    approved: Option<Approved>,
}

/// Who approved, and the beginning of the signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Approved {
    pub(crate) by: record::Approval,
    signature: String,
    at: i64,
}

impl Approved {
    /// As a link of the token's chain.
    pub(crate) fn link(&self, did: &str, request: Digest<32>) -> DelegationLink {
        DelegationLink::approval(&self.by.name, did, request, self.at, &self.signature)
    }
}

/// What came of asking for an approval.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ApprovalOutcome {
    /// Nobody has approved it yet.
    Pending(PendingApproval),
    /// Somebody has, and that approval is used now.
    Approved(Approved),
}

/// What an approver signed, and who that is.
pub(crate) struct Signed<'a> {
    pub(crate) approval: Approval,
    pub(crate) approver: &'a Approver,
    /// Thumbprint of the approver's key.
    pub(crate) kid: String,
    /// The JWS itself.
    pub(crate) jws: &'a str,
}

impl Approvals {
    /// Lets a request wait. Who asks for the same again finds the one that waits already.
    pub(crate) fn wait(
        &mut self,
        identity: &str,
        caller: &Caller,
        waiting: PendingApproval,
        now: UnixSeconds,
    ) -> Result<PendingApproval, Error> {
        self.0.retain(|_, entry| now.0 <= entry.waiting.expires_at);
        let same = |entry: &&Entry| entry.waiting.request == waiting.request && entry.caller == *caller;
        if let Some(known) = self.0.values().find(same) {
            return Ok(known.waiting.clone());
        }
        let holder = caller.without_its_choices();
        let of_one = || self.0.values().filter(|entry| entry.identity == identity);
        let of_caller = of_one().filter(|entry| entry.caller.without_its_choices() == holder).count();
        if self.0.len() >= MAX_WAITING || of_one().count() >= MAX_OF_ONE || of_caller >= MAX_OF_ONE_CALLER {
            return Err(Error::Busy);
        }
        let entry = Entry { identity: identity.to_owned(), caller: caller.clone(), waiting: waiting.clone(), approved: None };
        self.0.insert(waiting.id, entry);
        Ok(waiting)
    }

    /// Whether exactly this request of this caller was approved. Nothing is used.
    pub(crate) fn look(
        &mut self,
        id: ApprovalId,
        caller: &Caller,
        request: Digest<32>,
        now: UnixSeconds,
    ) -> Result<ApprovalOutcome, Error> {
        let entry = self.0.get(&id).ok_or(Error::ApprovalUnknown)?;
        if now.0 > entry.waiting.expires_at {
            self.0.remove(&id);
            return Err(Error::ApprovalInvalid("it came too late"));
        }
        if entry.waiting.request != request.0 || entry.caller != *caller {
            return Err(Error::ApprovalInvalid("for another request, or another caller"));
        }
        match &entry.approved {
            None => Ok(ApprovalOutcome::Pending(entry.waiting.clone())),
            Some(approved) => Ok(ApprovalOutcome::Approved(approved.clone())),
        }
    }

    /// Takes an approved request out, for exactly this request and caller; an approval works once.
    pub(crate) fn spend(
        &mut self,
        id: ApprovalId,
        caller: &Caller,
        request: Digest<32>,
        now: UnixSeconds,
    ) -> Result<Approved, Error> {
        match self.look(id, caller, request, now)? {
            ApprovalOutcome::Pending(_) => Err(Error::ApprovalUnknown),
            ApprovalOutcome::Approved(approved) => {
                self.0.remove(&id);
                Ok(approved)
            }
        }
    }

    /// A request that waits.
    pub(crate) fn get(&self, id: ApprovalId, now: UnixSeconds) -> Result<&PendingApproval, Error> {
        let entry = self.0.get(&id).filter(|entry| now.0 <= entry.waiting.expires_at);
        entry.map(|entry| &entry.waiting).ok_or(Error::ApprovalUnknown)
    }

    /// The identity and the digest of what an approval is for, whether it is good or not.
    pub(crate) fn subject(&self, id: ApprovalId) -> Result<(&str, Digest<32>), Error> {
        let entry = self.0.get(&id).ok_or(Error::ApprovalUnknown)?;
        Ok((&entry.identity, Digest(entry.waiting.request)))
    }

    /// Takes an approval whose signature is verified: by an approver whom the rule names, for exactly what waits.
    pub(crate) fn approve(
        &mut self,
        signed: &Signed<'_>,
        boot_id: BootId,
        now: UnixSeconds,
    ) -> Result<(PendingApproval, Approved), Error> {
        let Signed { approval, approver, kid, jws } = signed;
        let entry = self.0.get_mut(&approval.approval).ok_or(Error::ApprovalUnknown)?;
        if approval.boot_id != boot_id {
            return Err(Error::ApprovalInvalid("for another boot"));
        }
        if approval.request.0 != entry.waiting.request {
            return Err(Error::ApprovalInvalid("for another request"));
        }
        if now.0 > approval.exp || now.0 > entry.waiting.expires_at {
            return Err(Error::ApprovalInvalid("it came too late"));
        }
        if !entry.waiting.by.contains(&approver.name) {
            return Err(Error::ApprovalInvalid("the rule does not name this approver"));
        }
        let own = matches!(&entry.caller, Caller::Proven(proven) if proven.key == *kid);
        if own {
            return Err(Error::ApprovalInvalid("whoever asks cannot approve"));
        }
        if entry.approved.is_some() {
            return Err(Error::ApprovalInvalid("it was approved before"));
        }
        let by = record::Approval { key: kid.clone(), name: approver.name.clone() };
        let signature = jws.rsplit_once('.').map(|(_, signature)| signature).unwrap_or_default().to_owned();
        let approved = Approved { by, signature, at: now.0 };
        entry.approved = Some(approved.clone());
        entry.waiting.approved = true;
        Ok((entry.waiting.clone(), approved))
    }
}
