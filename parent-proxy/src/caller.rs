//! Who is calling. On a Unix socket the kernel says so; on localhost a token does, and browsers are kept out.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};

use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use identity::caller::ObservedCaller;
use identity::request::CallerProof;
use policy::{Annex, Bundle, Callers};
use protocol::PresentedProof;
use subtle::ConstantTimeEq;

use crate::config::Localhost;
use crate::quotas::CallerQuota;

/// A caller as this process saw it.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// Its claim towards the enclave.
    pub(crate) claim: ObservedCaller,
    /// Whether any identity of the policy names it.
    pub(crate) admitted: bool,
    /// Whether it may see how the sidecar does: its own user, root, and whom the configuration names.
    pub(crate) operator: bool,
    /// What it takes of this process.
    pub(crate) account: Arc<CallerQuota>,
}

/// Why a caller is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum TurnedAway {
    /// The kernel could not say who it is.
    CallerUnknown,
    /// The process that connected has ended.
    CallerGone,
    /// No token, or no known one.
    TokenInvalid,
    /// `Host` is not this server.
    ForeignHost,
    /// A browser sent it from some page.
    ForeignOrigin,
    /// It connects too often, or has too many connections.
    TooManyConnections,
}

impl Caller {
    /// Whoever this is what was seen of.
    pub(crate) fn of(claim: ObservedCaller, account: Arc<CallerQuota>, admission: &Admission, operators: &Operators) -> Self {
        Self { admitted: admission.admits(&claim), operator: operators.include(&claim), account, claim }
    }

    /// A request on localhost: for this host, from no web page, with a token of a caller.
    pub(crate) fn of_headers(headers: &HeaderMap, localhost: &Localhost) -> Result<ObservedCaller, TurnedAway> {
        check_host(headers, localhost.listen)?;
        if headers.contains_key(ORIGIN) {
            return Err(TurnedAway::ForeignOrigin);
        }
        let shown =
            headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| value.strip_prefix("Bearer "));
        let shown = shown.ok_or(TurnedAway::TokenInvalid)?;
        // Every token is compared, whichever matches.
        let mut found = None;
        for caller in &localhost.callers {
            if bool::from(caller.token.as_bytes().ct_eq(shown.as_bytes())) {
                found = Some(&caller.name);
            }
        }
        let name = found.ok_or(TurnedAway::TokenInvalid)?.clone();
        Ok(ObservedCaller::named(name))
    }
}

/// Who may see how the sidecar does.
#[derive(Debug, Default)]
pub(crate) struct Operators {
    /// Beside root and the sidecar's own user.
    pub(crate) uids: Vec<u32>,
    /// On localhost.
    pub(crate) names: Vec<String>,
}

impl Operators {
    fn include(&self, seen: &ObservedCaller) -> bool {
        let own = |uid| uid == 0 || uid == rustix::process::geteuid().as_raw() || self.uids.contains(&uid);
        seen.uid.is_some_and(own) || seen.name.as_ref().is_some_and(|name| self.names.contains(name))
    }
}

/// Whom the policy, and the annex of the moment, name at all. The enclave decides for itself; this keeps strangers from taking
/// the callers' places.
pub(crate) struct Admission {
    policy: Bundle,
    annex: RwLock<Option<Arc<Annex>>>,
    /// Thumbprints of the keys that the policy names, of callers and of approvers (RFC 7638).
    caller_keys: BTreeSet<String>,
    approver_keys: BTreeSet<String>,
}

impl Admission {
    pub(crate) fn new(policy: Bundle) -> Self {
        let caller_keys = policy.callers.iter().filter_map(|caller| caller.key.as_ref()).map(|key| key.0.thumbprint()).collect();
        let approver_keys = policy.approvers.iter().map(|approver| approver.key.0.thumbprint()).collect();
        Self { policy, annex: RwLock::new(None), caller_keys, approver_keys }
    }

    pub(crate) fn set_annex(&self, annex: Annex) {
        *self.annex.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(annex));
    }

    fn annex(&self) -> Option<Arc<Annex>> {
        self.annex.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The policy.
    pub(crate) fn policy(&self) -> &Bundle {
        &self.policy
    }

    fn admits(&self, seen: &ObservedCaller) -> bool {
        let annex = self.annex();
        callers(&self.policy).any(|callers| callers.admit(seen, annex.as_deref()))
    }

    /// Whether somebody with these ids might be named, whatever else is to be seen of it.
    pub(crate) fn may_admit(&self, uid: u32, gid: u32) -> bool {
        let fits = |wanted: Option<u32>, id: u32| wanted.is_none_or(|wanted| wanted == id);
        let described = |annex: Arc<Annex>| annex.callers.iter().any(|caller| fits(caller.uid, uid) && fits(caller.gid, gid));
        let own = uid == 0 || uid == rustix::process::geteuid().as_raw();
        own || self.admits(&ObservedCaller::ids(uid, gid)) || self.annex().is_some_and(described)
    }

    /// Whether callers of some identity prove themselves.
    pub(crate) fn expects_proofs(&self) -> bool {
        !self.policy.callers.is_empty()
    }

    /// Whether a proof could be of a caller whom the policy names: by its key, or by an enclave that has a document. Nothing is verified;
    /// the enclave does not learn of others.
    pub(crate) fn expects_proof(&self, proof: &PresentedProof) -> bool {
        match &proof.document {
            Some(_) => self.policy.callers.iter().any(|caller| caller.enclave.is_some()),
            None => CallerProof::unverified_kid(&proof.jws).is_ok_and(|kid| self.caller_keys.contains(&kid)),
        }
    }

    /// Whether an approval names the key of an approver. Nothing is verified.
    pub(crate) fn expects_approval(&self, jws: &str) -> bool {
        CallerProof::unverified_kid(jws).is_ok_and(|kid| self.approver_keys.contains(&kid))
    }

    /// Whether anybody is named by executable.
    pub(crate) fn measures(&self) -> bool {
        self.annex().is_some_and(|annex| annex.callers.iter().any(|caller| !caller.executables.is_empty()))
    }
}

/// All that the policy says of callers.
pub(crate) fn callers(policy: &Bundle) -> impl Iterator<Item = &Callers> {
    policy.identities.iter().flat_map(|identity| [Some(&identity.callers), identity.rotation_callers.as_ref()]).flatten()
}

/// Exactly one `Host`, and it names this listener: a page that had its name rebound to 127.0.0.1 sends its own.
fn check_host(headers: &HeaderMap, listen: SocketAddr) -> Result<(), TurnedAway> {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(TurnedAway::ForeignHost);
    };
    let good = [format!("localhost:{}", listen.port()), listen.to_string()];
    if good.iter().any(|good| host.as_bytes() == good.as_bytes()) { Ok(()) } else { Err(TurnedAway::ForeignHost) }
}
