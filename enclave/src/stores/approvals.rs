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
        let same =
            |entry: &&Entry| entry.waiting.request == waiting.request && entry.caller == *caller;
        if let Some(known) = self.0.values().find(same) {
            return Ok(known.waiting.clone());
        }
        let holder = caller.without_its_choices();
        let of_one = || self.0.values().filter(|entry| entry.identity == identity);
        let of_caller = of_one()
            .filter(|entry| entry.caller.without_its_choices() == holder)
            .count();
        if self.0.len() >= MAX_WAITING
            || of_one().count() >= MAX_OF_ONE
            || of_caller >= MAX_OF_ONE_CALLER
        {
            return Err(Error::ApprovalsFull);
        }
        let entry = Entry {
            identity: identity.to_owned(),
            caller: caller.clone(),
            waiting: waiting.clone(),
            approved: None,
        };
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
            return Err(Error::ApprovalInvalid(
                "for another request, or another caller",
            ));
        }
        match &entry.approved {
            None => Ok(ApprovalOutcome::Pending(entry.waiting.clone())),
            Some(approved) => Ok(ApprovalOutcome::Approved(approved.clone())),
        }
    }

    /// The approval of exactly this request of this caller, if somebody has given one. Nothing is used.
    pub(crate) fn approved(
        &self,
        caller: &Caller,
        request: Digest<32>,
        now: UnixSeconds,
    ) -> Option<(ApprovalId, record::Approval)> {
        let good = |entry: &Entry| {
            let Entry { waiting, .. } = entry;
            entry.approved.is_some()
                && now.0 <= waiting.expires_at
                && waiting.request == request.0
                && entry.caller == *caller
        };
        let mut all = self.0.iter();
        let (id, entry) = all.find(|(_, entry)| good(entry))?;
        Some((*id, entry.approved.as_ref()?.by.clone()))
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
        let entry = self
            .0
            .get(&id)
            .filter(|entry| now.0 <= entry.waiting.expires_at);
        entry
            .map(|entry| &entry.waiting)
            .ok_or(Error::ApprovalUnknown)
    }

    /// The identity and the digest of what an approval is for, whether it is good or not.
    pub(crate) fn subject(&self, id: ApprovalId) -> Result<(&str, Digest<32>), Error> {
        let entry = self.0.get(&id).ok_or(Error::ApprovalUnknown)?;
        Ok((&entry.identity, Digest(entry.waiting.request)))
    }

    /// Takes an approval whose signature is verified: by an approver whom the rule names, for
    /// exactly what waits.
    pub(crate) fn approve(
        &mut self,
        signed: &Signed<'_>,
        boot_id: BootId,
        now: UnixSeconds,
    ) -> Result<(PendingApproval, Approved), Error> {
        let Signed {
            approval,
            approver,
            kid,
            jws,
        } = signed;
        let entry = self
            .0
            .get_mut(&approval.approval)
            .ok_or(Error::ApprovalUnknown)?;
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
            return Err(Error::ApprovalInvalid(
                "the rule does not name this approver",
            ));
        }
        let own = matches!(&entry.caller, Caller::Proven(proven) if proven.key == *kid);
        if own {
            return Err(Error::ApprovalInvalid(
                "the caller that asks cannot approve",
            ));
        }
        if entry.approved.is_some() {
            return Err(Error::ApprovalInvalid("it was approved before"));
        }
        let by = record::Approval {
            key: kid.clone(),
            name: approver.name.clone(),
        };
        let signature = jws
            .rsplit_once('.')
            .map(|(_, signature)| signature)
            .unwrap_or_default()
            .to_owned();
        let approved = Approved {
            by,
            signature,
            at: now.0,
        };
        entry.approved = Some(approved.clone());
        entry.waiting.approved = true;
        Ok((entry.waiting.clone(), approved))
    }
}

#[cfg(test)]
mod tests {
    use identity::caller::{ObservedCaller, Proven};
    use identity::{PublicKey, sha256};

    use super::*;

    const BOOT: [u8; 16] = [7; 16];

    fn uid(uid: u32) -> Caller {
        Caller::Asserted(ObservedCaller::ids(uid, 1))
    }

    fn waiting(id: u32) -> PendingApproval {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&id.to_be_bytes());
        PendingApproval {
            id: ApprovalId::new(bytes),
            boot_id: BootId::new(BOOT),
            request: sha256(&id.to_be_bytes()).0,
            expires_at: 100,
            approved: false,
            canonical: String::new(),
            by: vec!["alice".into()],
        }
    }

    fn approver(name: &str) -> Approver {
        Approver {
            name: name.into(),
            key: policy::MultikeyText(PublicKey::ed25519(&[1; 32]).unwrap()),
        }
    }

    fn code<T>(result: Result<T, Error>) -> Result<T, String> {
        result.map_err(|error| error.to_string())
    }

    #[test]
    fn an_approval_is_for_what_waits_by_whom_the_rule_names_and_once() {
        let (alice, bob) = (approver("alice"), approver("bob"));
        let mut approvals = Approvals::default();
        let robot = Caller::Proven(Proven {
            key: "robot".into(),
            measurement: None,
            name: "robot".into(),
        });
        approvals
            .wait("agent", &robot, waiting(1), UnixSeconds(50))
            .unwrap();
        let good = || Approval {
            approval: waiting(1).id,
            boot_id: BootId::new(BOOT),
            exp: 110,
            request: Digest(waiting(1).request),
        };
        let mut approve = |approval, approver, kid: &str, at| {
            let signed = Signed {
                approval,
                approver,
                kid: kid.into(),
                jws: "a.b.c",
            };
            code(
                approvals
                    .approve(&signed, BootId::new(BOOT), UnixSeconds(at))
                    .map(|_| ()),
            )
        };
        for (approval, by, kid, at, wanted) in [
            (
                Approval {
                    boot_id: BootId::new([8; 16]),
                    ..good()
                },
                &alice,
                "k",
                60,
                "another boot",
            ),
            (
                Approval {
                    request: sha256(b"x"),
                    ..good()
                },
                &alice,
                "k",
                60,
                "another request",
            ),
            (Approval { exp: 59, ..good() }, &alice, "k", 60, "too late"),
            (good(), &alice, "k", 101, "too late"),
            (good(), &bob, "k", 60, "does not name"),
            (good(), &alice, "robot", 60, "cannot approve"),
        ] {
            let error = approve(approval, by, kid, at).unwrap_err();
            assert!(error.contains(wanted), "{error} {wanted}");
        }
        assert_eq!(approve(good(), &alice, "k", 100), Ok(()));
        assert!(
            approve(good(), &alice, "k", 60)
                .unwrap_err()
                .contains("approved before")
        );
        let spend = |approvals: &mut Approvals, caller: &Caller, request, at| {
            code(
                approvals
                    .spend(waiting(1).id, caller, request, UnixSeconds(at))
                    .map(|_| ()),
            )
        };
        let request = Digest(waiting(1).request);
        assert!(
            spend(&mut approvals, &uid(1), request, 60)
                .unwrap_err()
                .contains("another caller")
        );
        assert!(
            spend(&mut approvals, &robot, sha256(b"x"), 60)
                .unwrap_err()
                .contains("another request")
        );
        assert_eq!(spend(&mut approvals, &robot, request, 100), Ok(()));
        assert_eq!(
            spend(&mut approvals, &robot, request, 100),
            Err(Error::ApprovalUnknown.to_string())
        );
    }

    #[test]
    fn what_waits_too_long_is_gone_and_only_so_many_wait() {
        let mut approvals = Approvals::default();
        let wait = |approvals: &mut Approvals, identity: &str, caller: u32, n: u32| {
            approvals
                .wait(identity, &uid(caller), waiting(n), UnixSeconds(50))
                .map(|waiting| waiting.id)
        };
        assert_eq!(wait(&mut approvals, "a", 1, 1), Ok(waiting(1).id));
        // The same again, but by somebody else.
        let again = PendingApproval {
            id: waiting(99).id,
            ..waiting(1)
        };
        assert_eq!(
            approvals
                .wait("a", &uid(1), again.clone(), UnixSeconds(50))
                .unwrap()
                .id,
            waiting(1).id
        );
        assert_eq!(
            approvals
                .wait("a", &uid(2), again, UnixSeconds(50))
                .unwrap()
                .id,
            waiting(99).id
        );
        for n in 2..=8 {
            assert!(wait(&mut approvals, "a", 1, n).is_ok());
        }
        assert_eq!(wait(&mut approvals, "a", 1, 9), Err(Error::ApprovalsFull));
        for n in 10..33 {
            assert!(wait(&mut approvals, "a", n, n).is_ok());
        }
        assert_eq!(
            (approvals.0.len(), wait(&mut approvals, "a", 500, 500)),
            (32, Err(Error::ApprovalsFull))
        );
        for n in 1000..1224 {
            assert!(wait(&mut approvals, &n.to_string(), 1, n).is_ok());
        }
        assert_eq!(
            (approvals.0.len(), wait(&mut approvals, "z", 1, 5000)),
            (256, Err(Error::ApprovalsFull))
        );
        // Too late by one.
        let late = approvals.spend(
            waiting(1).id,
            &uid(1),
            Digest(waiting(1).request),
            UnixSeconds(101),
        );
        assert!(late.unwrap_err().to_string().contains("too late"));
        assert!(
            approvals.get(waiting(1).id, UnixSeconds(100)).is_err()
                && approvals.get(waiting(2).id, UnixSeconds(100)).is_ok()
        );
        assert!(approvals.get(waiting(2).id, UnixSeconds(101)).is_err());
        assert!(
            approvals
                .wait("a", &uid(1), waiting(6000), UnixSeconds(101))
                .is_ok()
        );
        assert_eq!(approvals.0.len(), 1);
    }

    #[test]
    fn an_approval_is_found_by_exactly_what_it_is_of_while_it_holds() {
        let (alice, mut approvals) = (approver("alice"), Approvals::default());
        for n in [1, 2] {
            let wait = approvals.wait("agent", &uid(1), waiting(n), UnixSeconds(50));
            wait.unwrap();
        }
        let request = |n| Digest(waiting(n).request);
        let found = |approvals: &Approvals, caller: u32, n, at| {
            let found = approvals.approved(&uid(caller), request(n), UnixSeconds(at));
            found.map(|(id, by)| (id, by.name))
        };
        assert_eq!(found(&approvals, 1, 1, 60), None, "nobody has given it");
        let signed = Signed {
            approval: Approval {
                approval: waiting(1).id,
                boot_id: BootId::new(BOOT),
                exp: 60,
                request: request(1),
            },
            approver: &alice,
            kid: "k".into(),
            jws: "a.b.c",
        };
        let given = approvals.approve(&signed, BootId::new(BOOT), UnixSeconds(60));
        given.unwrap();
        let it = Some((waiting(1).id, "alice".to_owned()));
        assert_eq!(found(&approvals, 1, 1, 60), it);
        assert_eq!(found(&approvals, 1, 1, 100), it);
        assert_eq!(found(&approvals, 1, 1, 101), None);
        assert_eq!(found(&approvals, 2, 1, 60), None);
        assert_eq!(found(&approvals, 1, 2, 60), None);
        // Nothing was used.
        assert_eq!(found(&approvals, 1, 1, 60), it);
    }
}
