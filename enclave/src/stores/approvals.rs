//! Requests that wait for somebody's approval, within this boot.

use std::collections::BTreeMap;

use identity::request::{Approval, Proof};
use identity::token::Link;
use identity::{ApprovalId, Caller, Digest, UnixSeconds};
use policy::Approver;
use protocol::Waiting;
use record::{self, Decision};

use crate::cell::Cell;
use crate::enclave::lock;
use crate::{Enclave, Error, Nsm};

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
    waiting: Waiting,
    approved: Option<Approved>,
}

/// Who approved, and the beginning of the signature.
#[derive(Clone)]
pub(crate) struct Approved {
    pub(crate) by: record::Approval,
    signature: String,
    at: i64,
}

impl Approved {
    /// As a link of the token's chain.
    pub(crate) fn link(&self, did: &str, request: Digest<32>) -> Link {
        Link::approval(&self.by.name, did, request, self.at, &self.signature)
    }
}

impl Approvals {
    /// Lets a request wait. Who asks for the same again finds the one that waits already.
    pub(crate) fn wait(&mut self, identity: &str, caller: &Caller, waiting: Waiting, now: UnixSeconds) -> Result<Waiting, Error> {
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

    /// Takes an approved request out, for exactly this request and caller; an approval works once.
    pub(crate) fn spend(
        &mut self,
        id: ApprovalId,
        caller: &Caller,
        request: Digest<32>,
        now: UnixSeconds,
    ) -> Result<Spent, Error> {
        let entry = self.0.get(&id).ok_or(Error::ApprovalUnknown)?;
        if now.0 > entry.waiting.expires_at {
            self.0.remove(&id);
            return Err(Error::ApprovalInvalid("it came too late"));
        }
        if entry.waiting.request != request.0 || entry.caller != *caller {
            return Err(Error::ApprovalInvalid("for another request, or another caller"));
        }
        match &entry.approved {
            None => Ok(Spent::Waits(entry.waiting.clone())),
            Some(approved) => {
                let approved = approved.clone();
                self.0.remove(&id);
                Ok(Spent::Approved(approved))
            }
        }
    }
}

/// What came of asking for an approval.
pub(crate) enum Spent {
    Waits(Waiting),
    Approved(Approved),
}

impl<N: Nsm> Enclave<N> {
    /// Shows a request that waits to whoever knows its id.
    pub(crate) fn waiting(&self, cell: &Cell, id: ApprovalId) -> Result<Waiting, Error> {
        let now = self.now()?.latest;
        let approvals = lock(&cell.approvals);
        let entry = approvals.0.get(&id).filter(|entry| now.0 <= entry.waiting.expires_at);
        entry.map(|entry| entry.waiting.clone()).ok_or(Error::ApprovalUnknown)
    }

    /// Takes an approval: signed by an approver whom the rule names, for exactly what waits.
    pub(crate) fn approve(&self, cell: &Cell, jws: &str, decision: &mut Decision) -> Result<Waiting, Error> {
        let now = self.now()?.latest;
        let kid = Proof::unverified_kid(jws).map_err(|_| Error::ApprovalOfNobody("not a JWS of an approval"))?;
        let approver = cell.bundle.approvers.iter().find(|approver| approver.key.0.thumbprint() == kid);
        let approver: &Approver = approver.ok_or(Error::ApprovalOfNobody("the policy names no approver with this key"))?;
        let approval =
            Approval::verify(jws, &approver.key.0).map_err(|_| Error::ApprovalOfNobody("its signature or form is not good"))?;
        let mut approvals = lock(&cell.approvals);
        let entry = approvals.0.get_mut(&approval.approval).ok_or(Error::ApprovalUnknown)?;
        decision.request_digest = Some(Digest(entry.waiting.request));
        decision.agent_id = Some(format!("agent:{}", entry.identity));
        decision.delegation_chain = vec![format!("agent:{}", entry.identity)];
        if approval.boot_id != self.boot_id() {
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
        let own = matches!(&entry.caller, Caller::Proven(proven) if proven.key == kid);
        if own {
            return Err(Error::ApprovalInvalid("whoever asks cannot approve"));
        }
        if entry.approved.is_some() {
            return Err(Error::ApprovalInvalid("it was approved before"));
        }
        let by = record::Approval { key: kid, name: approver.name.clone() };
        decision.approvals = vec![by.clone()];
        let signature = jws.rsplit_once('.').map(|(_, signature)| signature).unwrap_or_default().to_owned();
        entry.approved = Some(Approved { by, signature, at: now.0 });
        entry.waiting.approved = true;
        Ok(entry.waiting.clone())
    }
}
