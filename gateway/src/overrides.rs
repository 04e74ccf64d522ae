//! Warnings that somebody overrides who has seen what is asked: approvals of an enclave's policy.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use identity::Digest;
use identity::token::{DelegationLink, unverified_claims};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::answer::{Override, Refusal};
use crate::callers::Caller;
use crate::excerpt::MAX_PAYLOAD;
use crate::headers::{OVERRIDE, only};
use crate::read::Request;
use crate::room::Peer;
use crate::signer::{Answer, Error, Signer, Wanted};

/// The action of an override's intent. The policy's rule for it must want an approval.
pub const ACTION: &str = "iatp.override";

/// In place of an id: asks for an approval.
const ASK: &str = "request";

/// So many of one caller wait at most: those of all have bounds, too.
const OF_ONE: usize = 2;
/// No approval waits longer.
const LONGEST: Duration = Duration::from_secs(3600);

/// A request that was warned of.
#[derive(Debug)]
pub struct Warned<'a> {
    /// What it is.
    pub request: &'a Request,
    /// Who sends it, as far as that is known.
    pub caller: Option<&'a Caller>,
    /// From where.
    pub peer: Peer,
    /// It asks for a WebSocket, whose messages nobody has seen.
    pub is_socket: bool,
    /// The agent that it is for.
    pub agent: &'a str,
    /// Of what.
    pub warning: String,
    /// The agent's score.
    pub score: u8,
}

impl Warned<'_> {
    /// The token over its approval, if it has one; else how to get one.
    pub async fn overridden(
        &self,
        signer: &Signer,
        approvals: &Approvals,
    ) -> Result<String, Refusal> {
        // What is still to come cannot be shown.
        let digest = self.request.fingerprint().filter(|_| !self.is_socket);
        let Some(digest) = digest else {
            return Err(self.refuse(Override::Unavailable));
        };
        let given = only(&self.request.headers, OVERRIDE);
        let owner = match self.caller {
            Some(caller) => Owner::Caller(Caller::clone(caller)),
            None => Owner::Peer(self.peer),
        };
        let approval = match given.and_then(|given| given.to_str().ok()) {
            Some(ASK) if approvals.may_ask(&owner, digest) => None,
            Some(ASK) => return Err(self.refuse(Override::Full)),
            // Nobody else's, and none that was made up, is asked about.
            Some(id) if approvals.knows(&owner, digest, id) => Some(id),
            _ => return Err(self.refuse(Override::Approval(None))),
        };
        let wanted = Wanted {
            action: ACTION,
            target: self.agent,
            payload: self.payload(digest),
            seconds: None,
            approval,
        };
        // Seals are asked for beside them.
        let Ok(_turn) = approvals.turns.acquire().await else {
            return Err(self.refuse(Override::Unavailable));
        };
        match signer.sign(&wanted).await {
            Ok(Answer::Signed(token)) if is_approved(&token) => {
                approvals.forget(digest);
                Ok(token)
            }
            Ok(Answer::Signed(_)) => {
                tracing::error!(
                    "the policy signs {ACTION} without an approval: nothing is overridden"
                );
                Err(self.refuse(Override::Unavailable))
            }
            Ok(Answer::Waits(approval)) => {
                if let Some(id) = approval["id"].as_str() {
                    approvals.remember(owner, digest, id);
                }
                Err(self.refuse(Override::Approval(Some(approval))))
            }
            Err(error @ Error::Refused { .. }) if approval.is_some() => {
                approvals.forget(digest);
                tracing::info!(%error, "an override was not approved");
                Err(self.refuse(Override::Approval(None)))
            }
            Err(error) => {
                tracing::warn!(%error, "nobody can be asked for an approval");
                Err(self.refuse(Override::Unavailable))
            }
        }
    }

    fn refuse(&self, by: Override) -> Refusal {
        Refusal::Warned {
            warning: self.warning.clone(),
            score: self.score,
            by,
        }
    }

    /// What who approves sees and signs. The same for the same request, whenever it is sent.
    fn payload(&self, digest: Digest<32>) -> Value {
        let request = self.request;
        let facts: Vec<&str> = request.kinds.iter().map(inspect::Kind::name).collect();
        let header = |name| {
            let value = only(&request.headers, name).and_then(|value| value.to_str().ok());
            value.map(|value| inspect::mask_text(value, inspect::Purpose::Log).0)
        };
        let excerpt = request.scrubbed();
        json!({
            "agent": self.agent,
            "caller": self.caller.map(|caller| caller.as_ref()),
            "content_encoding": header("content-encoding"),
            "content_type": header("content-type"),
            "digest": digest,
            // Longer bodies are shown in part.
            "excerpt": excerpt,
            "excerpt_is_whole": excerpt.len() < MAX_PAYLOAD,
            "facts": facts,
            "length": request.body.len(),
            "method": request.method.as_str(),
            "path": inspect::mask_text(&request.meant, inspect::Purpose::Log).0,
            "query": request.scrubbed_query(),
            "score": self.score,
            "warning": self.warning,
        })
    }
}

/// Who waits for an approval.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Owner {
    Caller(Caller),
    Peer(Peer),
}

/// The approvals that this gateway has asked for, by what they are for.
#[derive(Debug)]
pub struct Approvals {
    known: Mutex<BTreeMap<Digest<32>, Waiting>>,
    turns: Semaphore,
}

#[derive(Debug)]
struct Waiting {
    owner: Owner,
    id: String,
    until: Instant,
}

impl Default for Approvals {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            turns: Semaphore::new(2),
        }
    }
}

impl Approvals {
    /// One more, or the same once more.
    fn may_ask(&self, owner: &Owner, digest: Digest<32>) -> bool {
        self.with(|known| {
            let of_owner = known.values().filter(|waiting| waiting.owner == *owner);
            known
                .get(&digest)
                .is_some_and(|waiting| waiting.owner == *owner)
                || of_owner.count() < OF_ONE
        })
    }

    fn knows(&self, owner: &Owner, digest: Digest<32>, id: &str) -> bool {
        self.with(|known| {
            let waiting = known.get(&digest);
            waiting.is_some_and(|waiting| waiting.owner == *owner && waiting.id == id)
        })
    }

    fn remember(&self, owner: Owner, digest: Digest<32>, id: &str) {
        let waiting = Waiting {
            owner,
            id: id.to_owned(),
            until: Instant::now() + LONGEST,
        };
        self.with(|known| known.insert(digest, waiting));
    }

    fn forget(&self, digest: Digest<32>) {
        self.with(|known| known.remove(&digest));
    }

    fn with<T>(&self, with: impl FnOnce(&mut BTreeMap<Digest<32>, Waiting>) -> T) -> T {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        known.retain(|_, waiting| waiting.until > now);
        with(&mut known)
    }
}

/// Whether somebody has approved what it is over: a policy may sign without.
fn is_approved(token: &str) -> bool {
    let claims = unverified_claims(token);
    claims.is_ok_and(|claims| {
        let mut chain = claims.vouch.delegation_chain.iter();
        chain.any(DelegationLink::is_approval)
    })
}
