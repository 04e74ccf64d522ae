//! Warnings that somebody overrides who has seen what is asked: approvals of an enclave's policy.

use identity::token::{DelegationLink, unverified_claims};
use serde_json::{Value, json};

use crate::answer::{Override, Refusal};
use crate::callers::Caller;
use crate::headers::{OVERRIDE, only};
use crate::read::Request;
use crate::signer::{Answer, Error, Signer, Wanted};

/// The action of an override's intent. The policy's rule for it must want an approval.
pub const ACTION: &str = "iatp.override";

/// In place of an id: asks for an approval.
const ASK: &str = "request";

/// A request that was warned of.
#[derive(Debug)]
pub struct Warned<'a> {
    /// What it is.
    pub request: &'a Request,
    /// Who sends it.
    pub caller: Option<&'a Caller>,
    /// The agent that it is for.
    pub agent: &'a str,
    /// Of what.
    pub warning: String,
    /// The agent's score.
    pub score: u8,
}

impl Warned<'_> {
    /// The token over its approval, if it has one; else how to get one.
    pub async fn overridden(&self, signer: &Signer) -> Result<String, Refusal> {
        // Who has not seen a body cannot approve it.
        let Some(digest) = self.request.fingerprint() else {
            return Err(self.refuse(Override::Unavailable));
        };
        let given = only(&self.request.headers, OVERRIDE);
        let approval = match given.and_then(|given| given.to_str().ok()) {
            Some(ASK) => None,
            Some(id) if is_id(id) => Some(id),
            _ => return Err(self.refuse(Override::Approval(None))),
        };
        let wanted = Wanted {
            action: ACTION,
            target: self.agent,
            payload: self.payload(&digest.to_string()),
            seconds: None,
            approval,
        };
        match signer.sign(&wanted).await {
            Ok(Answer::Signed(token)) if is_approved(&token) => Ok(token),
            Ok(Answer::Signed(_)) => {
                tracing::error!(
                    "the policy signs {ACTION} without an approval: nothing is overridden"
                );
                Err(self.refuse(Override::Unavailable))
            }
            Ok(Answer::Waits(approval)) => Err(self.refuse(Override::Approval(Some(approval)))),
            Err(error @ Error::Refused { .. }) if approval.is_some() => {
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
    fn payload(&self, digest: &str) -> Value {
        let facts: Vec<&str> = self.request.kinds.iter().map(inspect::Kind::name).collect();
        json!({
            "agent": self.agent,
            "caller": self.caller.map(|caller| caller.as_ref()),
            "digest": digest,
            "excerpt": self.request.scrubbed(),
            "facts": facts,
            "method": self.request.method.as_str(),
            "path": self.request.scrubbed_target(),
            "score": self.score,
            "warning": self.warning,
        })
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

fn is_id(text: &str) -> bool {
    text.len() == 32
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
