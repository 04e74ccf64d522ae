//! What the record learns of a request, as it becomes known.

use std::time::Duration;

use identity::{AnnexId, Caller, Digest, Intent, UnixSeconds};
use record::{Approval, Decision, Verdict};

use crate::Error;
use crate::env::Env;
use crate::identities::IdentityCard;
use crate::sync::lock;

/// The event of a refusal has at most so many bytes without its place and signature, which are less
/// than 512.
const MAX_REFUSAL: usize = 3584 - 128;
/// The event of an approval.
const APPROVAL_GRANT: &str = "approval.grant";

/// What is known of one decision. Every member of an event is set here, in whatever order it
/// becomes known.
#[derive(Clone)]
pub(crate) struct Trail {
    decision: Decision,
    /// The agent's part of the chain of delegation.
    agent: Option<String>,
    /// From whom it was delegated.
    behind: Behind,
    /// The annex that was taken by it.
    loaded: Option<AnnexId>,
    /// When it ended, where that is much later than when it began.
    ended: Option<UnixSeconds>,
}

/// The chain of delegation, but for the agent.
#[derive(Clone)]
enum Behind {
    /// Nobody, or it is not known yet.
    Nobody,
    /// Those who granted, before the agent.
    Granted(Vec<String>),
    /// All who act for one another, the agent among them.
    Whole(Vec<String>),
}

impl Trail {
    /// Nothing is known but the type of the event, and the rule that decides unless another one
    /// does: allowed, unless something is in the way.
    pub(crate) fn new(policy: Digest<48>, event_type: &str, rule: &str) -> Self {
        let decision = Decision {
            action: None,
            agent_id: None,
            annex: None,
            approvals: Vec::new(),
            before: None,
            binding: None,
            caller: None,
            credential: None,
            delegated_by: None,
            delegation_chain: Vec::new(),
            delegation_issuers: Vec::new(),
            did: None,
            environment: None,
            event_type: event_type.to_owned(),
            expires_at: None,
            key_version: None,
            policy_decision: Verdict::Allow,
            policy_digest: policy,
            policy_id: rule.to_owned(),
            refusal: None,
            refusals_unrecorded: None,
            request_digest: None,
            resource: None,
            target: None,
            timestamp: None,
            token_id: None,
        };
        Self {
            decision,
            agent: None,
            behind: Behind::Nobody,
            loaded: None,
            ended: None,
        }
    }

    /// What follows from it, as another type of event, under this annex; it has no time yet.
    pub(crate) fn follow(&self, event_type: &str, annex: Option<AnnexId>) -> Decision {
        let mut next = self.clone().compose(annex);
        event_type.clone_into(&mut next.event_type);
        next
    }

    /// With what the record ended before this boot.
    pub(crate) fn boot(&mut self, before: Option<record::End>) {
        self.decision.before = before;
    }

    /// The annex that is in force from now on: the event names that one, and not the one before.
    pub(crate) fn loaded(&mut self, annex: AnnexId) {
        self.loaded = Some(annex);
    }

    /// When it ended; without this an event has the time at which the request began.
    pub(crate) fn ended(&mut self, at: UnixSeconds) {
        self.ended = Some(at);
    }

    /// Who asks.
    pub(crate) fn caller(&mut self, caller: &Caller) {
        self.decision.caller = Some(caller.clone());
    }

    /// What is asked.
    pub(crate) fn intent(&mut self, intent: &Intent) {
        self.action(intent.action());
        self.decision.target = Some(intent.target().to_owned()).filter(|target| !target.is_empty());
        self.resource(intent.resource());
    }

    /// What is to be done.
    pub(crate) fn action(&mut self, action: &str) {
        self.decision.action = Some(action.to_owned());
    }

    /// To what.
    pub(crate) fn resource(&mut self, resource: &str) {
        self.decision.resource = Some(resource.to_owned());
    }

    /// Digest of the request in its canonical form.
    pub(crate) fn digest(&mut self, digest: Digest<32>) {
        self.decision.request_digest = Some(digest);
    }

    /// Whose key it is about.
    pub(crate) fn identity(&mut self, card: &IdentityCard) {
        let decision = &mut self.decision;
        self.agent = Some(format!("agent:{}", card.name));
        decision.agent_id = Some(card.agent_id.clone());
        decision.did = Some(card.did.clone());
        decision.environment = Some(card.environment.clone());
        decision.key_version = Some(card.version());
        decision.binding = Some(card.binding_digest);
    }

    /// Whose request waits, of which nothing else is known.
    pub(crate) fn waiting(&mut self, identity: &str, digest: Digest<32>) {
        let agent = format!("agent:{identity}");
        self.decision.agent_id = Some(agent.clone());
        self.agent = Some(agent);
        self.digest(digest);
    }

    /// Who granted it, root first.
    pub(crate) fn granted(&mut self, grantors: Vec<String>) {
        self.decision.delegated_by = grantors.first().cloned();
        self.decision.delegation_issuers.clone_from(&grantors);
        self.behind = Behind::Granted(grantors);
    }

    /// On whose behalf, and who acts for one another, the subject first and the agent last.
    pub(crate) fn delegated(&mut self, subject: &str, chain: Vec<String>) {
        self.decision.delegated_by = Some(subject.to_owned());
        self.behind = Behind::Whole(chain);
    }

    /// Who issued each token of a delegation, oldest first.
    pub(crate) fn issuers(&mut self, issuers: Vec<String>) {
        self.decision.delegation_issuers = issuers;
    }

    /// What is done with a credential.
    pub(crate) fn credential(&mut self, credential: record::Credential) {
        self.decision.credential = Some(credential);
    }

    /// The rule that decides.
    pub(crate) fn rule(&mut self, name: &str) {
        name.clone_into(&mut self.decision.policy_id);
    }

    /// Who approved it.
    pub(crate) fn approved(&mut self, by: &Approval) {
        self.decision.approvals = vec![by.clone()];
    }

    /// It waits for an approval.
    pub(crate) fn pending(&mut self) {
        self.decision.policy_decision = Verdict::Pending;
    }

    /// What was signed: its id, and the end of its validity.
    pub(crate) fn issued(&mut self, id: &str, expires_at: UnixSeconds) {
        self.decision.token_id = Some(id.to_owned());
        self.decision.expires_at = Some(expires_at);
    }

    /// The decision, with what is true at its end; none where the record learns nothing: of what
    /// means nobody, which strangers could fill its disk with, and of what a caller asks again and
    /// again though it may not have it, or waits already.
    pub(crate) fn close<T>(
        mut self,
        env: &Env<'_>,
        outcome: &Result<T, Error>,
        since_boot: Duration,
    ) -> Option<Decision> {
        if outcome
            .as_ref()
            .is_err_and(|error| is_of_nobody(&self.decision.event_type, error))
        {
            return None;
        }
        if outcome.is_err() || self.decision.policy_decision == Verdict::Pending {
            let mut refusals = lock(&env.provisioned.refusals);
            let unrecorded = refusals.record(
                &self.decision.event_type,
                self.decision.caller.as_ref(),
                since_boot,
            )?;
            self.decision.refusals_unrecorded =
                Some(unrecorded).filter(|unrecorded| *unrecorded > 0);
        }
        let mut decision = self.compose(env.annex_id());
        if let Err(error) = outcome {
            decision.shorten(MAX_REFUSAL);
            decision.policy_decision = Verdict::Deny;
            decision.refusal = Some(error.code().to_owned());
            if let Error::Denied(denied) = error {
                denied
                    .rule()
                    .unwrap_or("default")
                    .clone_into(&mut decision.policy_id);
            }
        }
        Some(dated(env, decision))
    }

    /// The decision of something that was done.
    pub(crate) fn done(self, env: &Env<'_>) -> Decision {
        dated(env, self.compose(env.annex_id()))
    }

    /// What is known, once nothing more will be; `annex` is the one that was applied.
    pub(crate) fn compose(self, annex: Option<AnnexId>) -> Decision {
        let Self {
            mut decision,
            agent,
            behind,
            loaded,
            ended,
        } = self;
        decision.timestamp = ended;
        decision.annex = loaded.or(annex);
        decision.delegation_chain = match behind {
            Behind::Nobody => agent.into_iter().collect(),
            Behind::Granted(grantors) => grantors.into_iter().chain(agent).collect(),
            Behind::Whole(chain) => chain,
        };
        decision
    }
}

/// Adds the time, and of which bundle the rule is.
pub(crate) fn dated(env: &Env<'_>, mut decision: Decision) -> Decision {
    decision.timestamp = decision
        .timestamp
        .or(env.now().ok().map(|now| now.earliest));
    decision.policy_id = format!(
        "{}@{}",
        decision.policy_id,
        &env.provisioned.policy.to_string()[..16]
    );
    decision
}

/// Whether a refusal is of a key or an id that names nobody and nothing here.
fn is_of_nobody(event_type: &str, error: &Error) -> bool {
    match error {
        Error::ProofOfNobody(_) | Error::ApprovalOfNobody(_) => true,
        // Who asks for a signature with a wrong id is a caller; who approves nothing may be anybody
        // with an approval of before.
        Error::ApprovalUnknown => event_type == APPROVAL_GRANT,
        _ => false,
    }
}
