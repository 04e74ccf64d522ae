//! Why the policy says no.

/// No more is said of what rules want, in bytes.
const MAX_WANTS: usize = 1000;

/// A decision not to sign.
///
/// Of several rules, the one that came furthest speaks. The codes are those of the Vouch
/// specification where it has one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
#[non_exhaustive]
pub enum Denied {
    /// The caller is not among the identity's callers.
    #[error("this caller may not use this identity")]
    CallerNotAllowed,
    /// A label, a prefix or Rego decides about the resource, and it is not spelled in the one way
    /// that these compare.
    #[error("the resource is not spelled in the one way that labels and prefixes compare: {0}")]
    ResourceNotCanonical(&'static str),
    /// The key is for one environment, the resource of another.
    #[error("the key is for {key}, the resource is of {resource}")]
    EnvironmentMismatch {
        /// The identity's environment.
        key: String,
        /// The resource's.
        resource: String,
    },
    /// The action is that of a token exchange, which is asked for at `POST /token`, or of the use of a
    /// credential; nothing is signed with it.
    #[error(
        "the actions \"act\" and \"credential.use\" are those of a token exchange and of the use of a credential; nothing is signed with them"
    )]
    ActionReserved,
    /// No rule of the service lets this request be made.
    #[error("no rule of the service {service} {why}")]
    ServiceRequestNotAllowed {
        /// The service.
        service: String,
        /// Of the rule that came furthest: what it lacks.
        why: &'static str,
    },
    /// The annex has no price for the model.
    #[error("no price is known for the model {model:?} of the service {service}")]
    ModelNotPriced {
        /// The service.
        service: String,
        /// The model.
        model: String,
    },
    /// A budget that outlives the boot has more left, and it is not written down yet that it may be used.
    #[error(
        "what is left of the budget of rule {rule} must be sealed and stored before it is used"
    )]
    BudgetNotKept {
        /// The rule.
        rule: String,
    },
    /// The operator's annex revokes the credential, or the agent that it is for.
    #[error("the credential was revoked")]
    CredentialRevoked,
    /// No rule accepts the action.
    #[error("no rule accepts this action")]
    IntentActionNotInAllowlist,
    /// No rule that accepts the action accepts the target.
    #[error("rule {0} does not accept this target")]
    IntentTargetPatternViolation(String),
    /// No rule that accepts action and target accepts the resource.
    #[error("rule {0} does not accept this resource")]
    IntentResourceOutOfScope(String),
    /// The payload lacks a member that the rule wants.
    #[error("rule {rule} wants the payload member {pointer}")]
    IntentMissingRequiredField {
        /// The rule.
        rule: String,
        /// RFC 6901 pointer.
        pointer: String,
    },
    /// A payload member is not as the rule wants it, or is one that it does not want.
    #[error("rule {rule} wants {wants} at {pointer}; the payload has {has}")]
    PayloadFieldOutOfBounds {
        /// The rule.
        rule: String,
        /// RFC 6901 pointer.
        pointer: String,
        /// Type and bounds of what the rule wants there.
        wants: String,
        /// Type of what is there; its value is nobody's to repeat.
        has: &'static str,
    },
    /// The rule is for callers that sign their requests.
    #[error("rule {0} is for proven callers: sign the request with the caller's own key")]
    CallerNotProven(String),
    /// The rule is for what is asked on somebody's behalf.
    #[error("rule {0} is for what is asked on somebody's behalf: bring a delegation")]
    NotDelegated(String),
    /// The rule signs grants only, and none is asked for; or none to this delegatee.
    #[error("rule {rule} {why}")]
    DelegateeNotAllowed {
        /// The rule.
        rule: String,
        /// What is wrong.
        why: &'static str,
    },
    /// The rule does not let it be signed as a plain envelope.
    #[error("rule {0} allows no plain envelope")]
    EnvelopeNotAllowed(String),
    /// The rule wants one's approval, Rego another's.
    #[error("the rule and the policy in Rego want approvals of different people")]
    ApproversDiffer,
    /// Whether a grant was revoked is not known: the annex does not have the list.
    #[error("whether it was revoked is not known: the annex has no status list {0:?}")]
    StatusUnknown(String),
    /// The identity may not take up tokens of this issuer.
    #[error("this identity may not act for whom {0:?} speaks")]
    UntrustedPrincipal(String),
    /// The token, one before it, or somebody in it was revoked.
    #[error("the delegation was revoked")]
    DelegationRevoked,
    /// Nothing of the scope is left that this identity may have.
    #[error("this identity may not have that scope")]
    ScopeNotAllowed,
    /// The identity may not act for this resource.
    #[error("this identity may not act for that resource")]
    TargetNotAllowed,
    /// The rule wants an audience, or another one.
    #[error("rule {rule} {why}")]
    AudienceNotAllowed {
        /// The rule.
        rule: String,
        /// What is wrong.
        why: &'static str,
    },
    /// The validity asked for is longer than the policy allows.
    #[error("rule {rule} allows at most {max_seconds} s of validity")]
    ValidityExceedsPolicy {
        /// The rule.
        rule: String,
        /// What it allows.
        max_seconds: u32,
    },
    /// The Rego module does not allow it.
    #[error("the policy in Rego, {0}, does not allow it")]
    PolicyDenied(String),
    /// The Rego module took more than 10 ms or 16 MiB.
    #[error("the policy in Rego came to no decision in its time and memory: {0}")]
    PolicyTimeout(String),
    /// The Rego module failed.
    #[error("the policy in Rego failed: {0}")]
    PolicyFailed(String),
    /// What the Rego module would see is longer than 8 KiB.
    #[error("the policy in Rego is not asked about more than 8 KiB")]
    PolicyInputTooLarge,
    /// Too many requests in a time.
    #[error("{} allows {max} in a {per}", of(rule))]
    RateLimitExceeded {
        /// The rule; none if it is the identity's own limit.
        rule: Option<String>,
        /// What it allows.
        max: u64,
        /// In which time.
        per: &'static str,
        /// When it may be tried again, in seconds from now.
        retry_after: Option<u32>,
    },
    /// A sum over a payload member is used up.
    #[error(
        "{} allows a sum of {max} over {amount} in a {per}; {left} of it are left, and {wanted} were asked for",
        of(rule)
    )]
    BudgetExceeded {
        /// The rule; none if it is the identity's own limit.
        rule: Option<String>,
        /// RFC 6901 pointer to the member.
        amount: String,
        /// What it allows.
        max: u64,
        /// What is left of it.
        left: u64,
        /// What was asked for.
        wanted: u64,
        /// In which time.
        per: &'static str,
        /// When this amount may be tried again, in seconds from now; none if it is more than is
        /// ever allowed.
        retry_after: Option<u32>,
    },
    /// A limit sums over a payload member that is not there, or is no integer of 0 or more.
    #[error("{} wants an integer of 0 or more at {amount}", of(rule))]
    AmountMissing {
        /// The rule; none if it is the identity's own limit.
        rule: Option<String>,
        /// RFC 6901 pointer to the member.
        amount: String,
    },
}

fn of(rule: &Option<String>) -> String {
    rule.as_ref()
        .map_or_else(|| "the identity".into(), |rule| format!("rule {rule}"))
}

impl Denied {
    /// The stable snake_case name of this refusal.
    pub fn code(&self) -> &'static str {
        self.into()
    }

    /// The rule that refused; none if no rule was reached.
    pub fn rule(&self) -> Option<&str> {
        match self {
            Self::CallerNotAllowed
            | Self::ActionReserved
            | Self::ServiceRequestNotAllowed { .. }
            | Self::ModelNotPriced { .. }
            | Self::CredentialRevoked
            | Self::ResourceNotCanonical(_)
            | Self::EnvironmentMismatch { .. }
            | Self::IntentActionNotInAllowlist
            | Self::UntrustedPrincipal(_)
            | Self::DelegationRevoked
            | Self::StatusUnknown(_)
            | Self::ApproversDiffer
            | Self::ScopeNotAllowed
            | Self::TargetNotAllowed => None,
            Self::PolicyDenied(_)
            | Self::PolicyTimeout(_)
            | Self::PolicyFailed(_)
            | Self::PolicyInputTooLarge => Some("rego"),
            Self::IntentTargetPatternViolation(rule)
            | Self::IntentResourceOutOfScope(rule)
            | Self::IntentMissingRequiredField { rule, .. }
            | Self::PayloadFieldOutOfBounds { rule, .. }
            | Self::CallerNotProven(rule)
            | Self::NotDelegated(rule)
            | Self::DelegateeNotAllowed { rule, .. }
            | Self::EnvelopeNotAllowed(rule)
            | Self::AudienceNotAllowed { rule, .. }
            | Self::ValidityExceedsPolicy { rule, .. } => Some(rule),
            Self::BudgetNotKept { rule } => Some(rule),
            Self::RateLimitExceeded { rule, .. }
            | Self::BudgetExceeded { rule, .. }
            | Self::AmountMissing { rule, .. } => rule.as_deref(),
        }
    }

    /// When the same may be tried again, in seconds from now.
    pub fn retry_after(&self) -> Option<u32> {
        match self {
            Self::RateLimitExceeded { retry_after, .. }
            | Self::BudgetExceeded { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Of another rule that got as far: what it wants at the same place is said too.
    pub(crate) fn join(&mut self, other: Self) {
        if let (
            Self::PayloadFieldOutOfBounds { pointer, wants, .. },
            Self::PayloadFieldOutOfBounds {
                rule,
                pointer: same,
                wants: also,
                ..
            },
        ) = (self, other)
            && *pointer == same
            && wants.len() < MAX_WANTS
        {
            *wants = format!("{wants}, or rule {rule} {also},");
        }
    }

    /// How far the rule got: the later, the more it has to say.
    pub(crate) fn stage(&self) -> u8 {
        match self {
            Self::CallerNotAllowed | Self::ActionReserved | Self::EnvironmentMismatch { .. } => 0,
            Self::IntentActionNotInAllowlist => 1,
            Self::IntentTargetPatternViolation(_) => 2,
            Self::IntentResourceOutOfScope(_) | Self::ResourceNotCanonical(_) => 3,
            Self::IntentMissingRequiredField { .. } | Self::PayloadFieldOutOfBounds { .. } => 4,
            Self::CallerNotProven(_)
            | Self::NotDelegated(_)
            | Self::DelegateeNotAllowed { .. }
            | Self::EnvelopeNotAllowed(_) => 5,
            Self::AudienceNotAllowed { .. } => 6,
            Self::ValidityExceedsPolicy { .. } => 7,
            Self::RateLimitExceeded { .. }
            | Self::BudgetExceeded { .. }
            | Self::BudgetNotKept { .. }
            | Self::AmountMissing { .. }
            | Self::ServiceRequestNotAllowed { .. }
            | Self::ModelNotPriced { .. }
            | Self::CredentialRevoked
            | Self::UntrustedPrincipal(_)
            | Self::DelegationRevoked
            | Self::StatusUnknown(_)
            | Self::ApproversDiffer
            | Self::ScopeNotAllowed
            | Self::TargetNotAllowed
            | Self::PolicyDenied(_)
            | Self::PolicyTimeout(_)
            | Self::PolicyFailed(_)
            | Self::PolicyInputTooLarge => 8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_rule_that_refused() {
        let of_rule = [
            Denied::CallerNotProven("r".into()),
            Denied::BudgetNotKept { rule: "r".into() },
            Denied::AmountMissing {
                rule: Some("r".into()),
                amount: "/a".into(),
            },
        ];
        for denied in of_rule {
            assert_eq!(denied.rule(), Some("r"));
        }
        assert_eq!(Denied::PolicyInputTooLarge.rule(), Some("rego"));
        assert_eq!(Denied::CallerNotAllowed.rule(), None);
    }

    #[test]
    fn what_rules_want_is_said_up_to_a_thousand_bytes() {
        let of = |length| Denied::PayloadFieldOutOfBounds {
            rule: "r".into(),
            pointer: "/a".into(),
            wants: "x".repeat(length),
            has: "null",
        };
        for (length, is_said) in [(MAX_WANTS - 1, true), (MAX_WANTS, false)] {
            let (mut first, before) = (of(length), of(length));
            first.join(of(1));
            assert_eq!(first != before, is_said, "{length}");
        }
    }
}
