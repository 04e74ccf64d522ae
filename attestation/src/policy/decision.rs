use identity::{Intent, Payload};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Callers, Constraint, IdentityPolicy, Pattern, Rule, Scalar};

/// Validity when a request names none and the policy allows that much, in seconds. The Vouch paper's.
const DEFAULT_VALIDITY_SECONDS: u32 = 300;

/// Who asks, as the proxy saw it: a claim of the parent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Caller {
    /// The peer of a Unix socket: effective uid and gid at connect (SO_PEERCRED).
    Unix {
        /// Effective user id.
        uid: u32,
        /// Effective group id.
        gid: u32,
    },
    /// A caller on localhost who showed the token of this name.
    Named(String),
}

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The intent.
    pub intent: &'a Intent,
    /// The payload.
    pub payload: &'a Payload,
    /// The audience, if any.
    pub audience: Option<&'a str>,
    /// The validity, if the caller named one. Positive.
    pub validity_seconds: Option<u32>,
}

/// A decision to sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowed<'a> {
    /// The rule that allowed it.
    pub rule: &'a str,
    /// For how long the signature is to be valid.
    pub validity_seconds: u32,
}

/// A decision not to sign.
///
/// Of several rules, the one that came furthest speaks. The codes are those of the Vouch specification where it has one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
#[non_exhaustive]
pub enum Denied {
    /// The caller is not among the identity's callers.
    #[error("this caller may not use this identity")]
    CallerNotAllowed,
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
    #[error("rule {rule} does not accept the payload member {pointer}")]
    PayloadFieldOutOfBounds {
        /// The rule.
        rule: String,
        /// RFC 6901 pointer.
        pointer: String,
    },
    /// The rule wants an audience, or another one.
    #[error("rule {0} does not accept this audience, or wants one")]
    AudienceNotAllowed(String),
    /// The validity asked for is longer than the policy allows.
    #[error("rule {rule} allows at most {max_seconds} s of validity")]
    ValidityExceedsPolicy {
        /// The rule.
        rule: String,
        /// What it allows.
        max_seconds: u32,
    },
}

impl Denied {
    /// The stable snake_case name of this refusal.
    pub fn code(&self) -> &'static str {
        self.into()
    }

    /// How far the rule got: the later, the more it has to say.
    fn stage(&self) -> u8 {
        match self {
            Self::CallerNotAllowed => 0,
            Self::IntentActionNotInAllowlist => 1,
            Self::IntentTargetPatternViolation(_) => 2,
            Self::IntentResourceOutOfScope(_) => 3,
            Self::IntentMissingRequiredField { .. } | Self::PayloadFieldOutOfBounds { .. } => 4,
            Self::AudienceNotAllowed(_) => 5,
            Self::ValidityExceedsPolicy { .. } => 6,
        }
    }
}

impl IdentityPolicy {
    /// Decides. Default is deny; the first rule that allows counts.
    pub fn decide<'a>(&'a self, caller: &Caller, asked: &Asked<'_>) -> Result<Allowed<'a>, Denied> {
        if !self.callers.admit(caller) {
            return Err(Denied::CallerNotAllowed);
        }
        let mut denied = Denied::IntentActionNotInAllowlist;
        for rule in &self.rules {
            match rule.decide(asked, self.max_validity_seconds) {
                Ok(validity_seconds) => return Ok(Allowed { rule: &rule.name, validity_seconds }),
                Err(why) if why.stage() > denied.stage() => denied = why,
                Err(_) => {}
            }
        }
        Err(denied)
    }

    /// Whether this caller may rotate the key without an order of the operator.
    pub fn may_rotate(&self, caller: &Caller) -> bool {
        self.rotation_callers.as_ref().is_some_and(|callers| callers.admit(caller))
    }
}

impl Callers {
    /// Whether the caller is among these.
    pub fn admit(&self, caller: &Caller) -> bool {
        match caller {
            Caller::Unix { uid, gid } => self.uids.contains(uid) || self.gids.contains(gid),
            Caller::Named(name) => self.names.contains(name),
        }
    }
}

impl Rule {
    fn decide(&self, asked: &Asked<'_>, identity_max: u32) -> Result<u32, Denied> {
        if !any(&self.actions, asked.intent.action()) {
            return Err(Denied::IntentActionNotInAllowlist);
        }
        if !any(&self.targets, asked.intent.target()) {
            return Err(Denied::IntentTargetPatternViolation(self.name.clone()));
        }
        if !any(&self.resources, asked.intent.resource()) {
            return Err(Denied::IntentResourceOutOfScope(self.name.clone()));
        }
        self.check_payload(asked.payload)?;
        if let Some(audiences) = &self.audiences
            && !asked.audience.is_some_and(|audience| any(audiences, audience))
        {
            return Err(Denied::AudienceNotAllowed(self.name.clone()));
        }
        let max_seconds = self.max_validity_seconds.map_or(identity_max, |own| own.min(identity_max));
        let validity = asked.validity_seconds.unwrap_or(DEFAULT_VALIDITY_SECONDS.min(max_seconds));
        if validity > max_seconds {
            return Err(Denied::ValidityExceedsPolicy { rule: self.name.clone(), max_seconds });
        }
        Ok(validity)
    }

    fn check_payload(&self, payload: &Payload) -> Result<(), Denied> {
        for (pointer, constraint) in &self.payload {
            let Some(value) = payload.pointer(pointer) else {
                return Err(Denied::IntentMissingRequiredField { rule: self.name.clone(), pointer: pointer.clone() });
            };
            if !constraint.holds(value) {
                return Err(self.out_of_bounds(pointer.clone()));
            }
        }
        if self.payload_closed {
            let named = |name: &str| self.payload.keys().any(|pointer| first_segment(pointer) == name);
            if let Some(other) = payload.names().find(|name| !named(name)) {
                return Err(self.out_of_bounds(format!("/{other}")));
            }
        }
        Ok(())
    }

    fn out_of_bounds(&self, pointer: String) -> Denied {
        Denied::PayloadFieldOutOfBounds { rule: self.name.clone(), pointer }
    }
}

impl Constraint {
    fn holds(&self, value: &Value) -> bool {
        let integer = value.as_i64();
        self.one_of.as_ref().is_none_or(|list| list.iter().any(|scalar| scalar.is(value)))
            && self.min.is_none_or(|min| integer.is_some_and(|n| n >= min))
            && self.max.is_none_or(|max| integer.is_some_and(|n| n <= max))
            && self.pattern.as_ref().is_none_or(|pattern| value.as_str().is_some_and(|text| pattern.matches(text)))
    }
}

impl Scalar {
    fn is(&self, value: &Value) -> bool {
        match self {
            Self::Bool(expected) => value.as_bool() == Some(*expected),
            Self::Integer(expected) => value.as_i64() == Some(*expected),
            Self::Text(expected) => value.as_str() == Some(expected),
        }
    }
}

fn any(patterns: &[Pattern], text: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches(text))
}

fn first_segment(pointer: &str) -> String {
    let rest = pointer.strip_prefix('/').unwrap_or(pointer);
    rest[..rest.find('/').unwrap_or(rest.len())].replace("~1", "/").replace("~0", "~")
}
