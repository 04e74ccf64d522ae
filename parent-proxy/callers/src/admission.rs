//! Whom the policy names at all, and who may see how the sidecar does.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};

use identity::caller::ObservedCaller;
use identity::request::CallerProof;
use policy::{Annex, Bundle, Callers};
use protocol::PresentedProof;

/// Who may see how the sidecar does.
#[derive(Debug, Default)]
pub struct Operators {
    /// Beside root and the sidecar's own user.
    pub uids: Vec<u32>,
    /// On localhost.
    pub names: Vec<String>,
}

impl Operators {
    pub(crate) fn include(&self, seen: &ObservedCaller) -> bool {
        let own = |uid| {
            uid == 0 || uid == rustix::process::geteuid().as_raw() || self.uids.contains(&uid)
        };
        seen.uid.is_some_and(own)
            || seen
                .name
                .as_ref()
                .is_some_and(|name| self.names.contains(name))
    }
}

/// Whom the policy, and the annex of the moment, name at all. The enclave decides for itself; this
/// keeps strangers from taking the callers' places.
pub struct Admission {
    policy: Bundle,
    annex: RwLock<Option<Arc<Annex>>>,
    /// Thumbprints of the keys that the policy names, of callers and of approvers (RFC 7638).
    caller_keys: BTreeSet<String>,
    approver_keys: BTreeSet<String>,
}

impl Admission {
    /// Of a policy, until an annex comes.
    pub fn new(policy: Bundle) -> Self {
        let caller_keys = policy
            .callers
            .iter()
            .filter_map(|caller| caller.key.as_ref())
            .map(|key| key.0.thumbprint())
            .collect();
        let approver_keys = policy
            .approvers
            .iter()
            .map(|approver| approver.key.0.thumbprint())
            .collect();
        Self {
            policy,
            annex: RwLock::new(None),
            caller_keys,
            approver_keys,
        }
    }

    /// Whom this annex names, and no longer the one before.
    pub fn set_annex(&self, annex: Annex) {
        *self.annex.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(annex));
    }

    fn annex(&self) -> Option<Arc<Annex>> {
        self.annex
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The policy.
    pub fn policy(&self) -> &Bundle {
        &self.policy
    }

    pub(crate) fn admits(&self, seen: &ObservedCaller) -> bool {
        let annex = self.annex();
        all_callers(&self.policy).any(|callers| callers.admit(seen, annex.as_deref()))
    }

    /// Whether somebody with these ids might be named, whatever else is to be seen of it.
    pub fn may_admit(&self, uid: u32, gid: u32) -> bool {
        let fits = |wanted: Option<u32>, id: u32| wanted.is_none_or(|wanted| wanted == id);
        let described = |annex: Arc<Annex>| {
            annex
                .callers
                .iter()
                .any(|caller| fits(caller.uid, uid) && fits(caller.gid, gid))
        };
        let own = uid == 0 || uid == rustix::process::geteuid().as_raw();
        own || self.admits(&ObservedCaller::ids(uid, gid)) || self.annex().is_some_and(described)
    }

    /// Whether callers of some identity prove themselves.
    pub fn expects_proofs(&self) -> bool {
        !self.policy.callers.is_empty()
    }

    /// Whether a proof could be of a caller whom the policy names: by its key, or by an enclave
    /// that has a document. Nothing is verified; the enclave does not learn of others.
    pub fn expects_proof(&self, proof: &PresentedProof) -> bool {
        match &proof.document {
            Some(_) => self
                .policy
                .callers
                .iter()
                .any(|caller| caller.enclave.is_some()),
            None => CallerProof::unverified_kid(&proof.jws)
                .is_ok_and(|kid| self.caller_keys.contains(&kid)),
        }
    }

    /// Whether an approval names the key of an approver. Nothing is verified.
    pub fn expects_approval(&self, jws: &str) -> bool {
        CallerProof::unverified_kid(jws).is_ok_and(|kid| self.approver_keys.contains(&kid))
    }

    /// Whether anybody is named by executable.
    pub fn measures(&self) -> bool {
        self.annex().is_some_and(|annex| {
            annex
                .callers
                .iter()
                .any(|caller| !caller.executables.is_empty())
        })
    }
}

/// All that the policy says of callers.
pub(crate) fn all_callers(policy: &Bundle) -> impl Iterator<Item = &Callers> {
    policy
        .identities
        .iter()
        .flat_map(|identity| [Some(&identity.callers), identity.rotation_callers.as_ref()])
        .flatten()
}
