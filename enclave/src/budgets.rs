//! Budgets that outlive a boot, as a sealed state has them.

use minicbor::{Decode, Encode};
use policy_engine::KeptBudget;

/// What was used of a budget, and what may have been since.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub(crate) struct SealedBudget {
    #[n(0)]
    pub(crate) identity: String,
    #[n(1)]
    pub(crate) service: String,
    #[n(2)]
    pub(crate) rule: String,
    /// Its period.
    #[n(3)]
    pub(crate) seconds: i64,
    /// The part of time that was now, counted in sixtieths of the period.
    #[n(4)]
    pub(crate) at: i64,
    /// What was used in it and in those before it, oldest first.
    #[n(5)]
    pub(crate) parts: Vec<u64>,
    /// What may be used beyond that.
    #[n(6)]
    pub(crate) slice: u64,
}

impl SealedBudget {
    /// What is kept of a budget of an identity, of a rule of this service.
    pub(crate) fn new(identity: &str, service: &str, kept: KeptBudget) -> Self {
        Self {
            identity: identity.to_owned(),
            service: service.to_owned(),
            rule: kept.rule,
            seconds: kept.seconds,
            at: kept.at,
            parts: kept.parts,
            slice: kept.slice,
        }
    }

    /// The same, if it is of this identity and service.
    pub(crate) fn of(&self, identity: &str, service: &str) -> Option<KeptBudget> {
        let is_its = self.identity == identity && self.service == service;
        is_its.then(|| KeptBudget {
            rule: self.rule.clone(),
            seconds: self.seconds,
            at: self.at,
            parts: self.parts.clone(),
            slice: self.slice,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_of_one_identity_and_one_service() {
        let kept = KeptBudget {
            rule: "chat".into(),
            seconds: 86_400,
            at: 7,
            parts: vec![1, 2],
            slice: 3,
        };
        let sealed = SealedBudget::new("crew", "api", kept.clone());
        assert_eq!(sealed.of("crew", "api"), Some(kept));
        for (identity, service) in [("other", "api"), ("crew", "other"), ("api", "crew")] {
            assert_eq!(sealed.of(identity, service), None);
        }
    }
}
