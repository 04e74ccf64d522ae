//! What the owner of a service accepts.

use std::sync::Arc;

use attestation::{AppraisalPolicy, KnownIssuers, MockRoot};
use identity::did;

use crate::Error;

/// What a service requires of its callers.
#[derive(Debug, Clone)]
pub struct Requirements {
    /// The audience that tokens must name: this service, and nobody else.
    pub audience: String,
    /// What is accepted as evidence. It must name images and bundles.
    pub policy: AppraisalPolicy,
    /// Pinned DID documents; an agent with a did:web needs one of them.
    pub did_documents: Vec<did::Document>,
    /// Accept documents of this mock too. Its evidence proves nothing.
    pub mock_root: Option<MockRoot>,
    /// How far a signer's clock may differ from ours: 0 to 30.
    pub skew_seconds: i64,
    /// Tokens that live longer are refused: each takes a place in memory for as long as it lives.
    pub max_lifetime_seconds: i64,
    /// How long evidence is enough, before another challenge must be answered.
    pub evidence_seconds: i64,
    /// Keys whose evidence is remembered; more are refused.
    pub max_keys: usize,
    /// As many of them may be of one identity of a policy; when it brings another, the one that
    /// would expire first is forgotten.
    pub max_keys_of_one: usize,
    /// Tokens that are remembered until they expire; more are refused.
    pub max_tokens: usize,
    /// As many of them may be of one identity of a policy, so that none keeps the others out.
    pub max_tokens_of_one: usize,
    /// Issuers of documents that were verified before. Guards of one process may share them.
    pub issuers: Arc<KnownIssuers>,
}

impl Requirements {
    /// 5 s of skew, tokens of at most 15 minutes, evidence for 10 minutes, 1,024 keys and 8 of them
    /// for one identity, 100,000 tokens and a tenth of them for one identity.
    pub fn new(audience: impl Into<String>, policy: AppraisalPolicy) -> Self {
        Self {
            audience: audience.into(),
            policy,
            did_documents: Vec::new(),
            mock_root: None,
            skew_seconds: 5,
            max_lifetime_seconds: 900,
            evidence_seconds: 600,
            max_keys: 1024,
            max_keys_of_one: 8,
            max_tokens: 100_000,
            max_tokens_of_one: 10_000,
            issuers: Arc::default(),
        }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let wrong = |why: &'static str| Err(Error::Requirements(why));
        if self.audience.is_empty() {
            return wrong("the audience is empty");
        }
        if self
            .policy
            .audience()
            .is_some_and(|audience| audience != self.audience)
        {
            return wrong("the policy names another audience");
        }
        if !self.policy.names_images() || !self.policy.names_bundles() {
            return wrong(
                "the policy accepts any image or any bundle: give it [[images]] and [[bundles]]",
            );
        }
        if !(0..=identity::SKEW_SECONDS).contains(&self.skew_seconds) {
            return wrong("skew_seconds is not 0 to 30");
        }
        if self.max_lifetime_seconds < 1 || self.evidence_seconds < 1 {
            return wrong("max_lifetime_seconds or evidence_seconds is below 1");
        }
        if [
            self.max_keys,
            self.max_keys_of_one,
            self.max_tokens,
            self.max_tokens_of_one,
        ]
        .contains(&0)
        {
            return wrong("a cache without places refuses everything");
        }
        Ok(())
    }
}
