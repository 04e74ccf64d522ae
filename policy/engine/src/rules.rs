//! Whether something may be signed.

use identity::token::EXCHANGE_ACTION;
use identity::{Caller, Payload, resource};
use policy::{
    Annex, ApprovalRule, Bundle, Callers, Constraint, IdentityPolicy, Match, Pattern, Rule, Scalar,
};
use serde_json::Value;

use crate::input::CREDENTIAL_ACTION;
use crate::{Denied, PolicyInput, Rego};

/// Validity when a request names none and the policy allows that much, in seconds. The Vouch
/// paper's.
const DEFAULT_VALIDITY_SECONDS: u32 = 300;

/// A rule that accepts a request, as far as counts and approvals do not matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted<'a> {
    /// The rule.
    pub rule: &'a Rule,
    /// For how long the signature is to be valid.
    pub validity_seconds: u32,
    /// Who must approve it first, by the rule or by Rego.
    pub approval: Option<&'a ApprovalRule>,
}

/// Whether this caller may use the identity at all.
pub fn admits(policy: &IdentityPolicy, annex: Option<&Annex>, caller: &Caller) -> bool {
    among(&policy.callers, annex, caller)
}

/// Whether this caller may rotate the key without an order of the operator.
pub fn may_rotate(policy: &IdentityPolicy, annex: Option<&Annex>, caller: &Caller) -> bool {
    policy
        .rotation_callers
        .as_ref()
        .is_some_and(|callers| among(callers, annex, caller))
}

/// Whether this caller is one of these.
pub fn among(callers: &Callers, annex: Option<&Annex>, caller: &Caller) -> bool {
    match caller {
        Caller::Asserted(seen) => callers.admit(seen, annex),
        Caller::Proven(proven) => callers.proven.contains(&proven.name),
    }
}

/// Finds the rule that accepts, and asks Rego then, if there is a module. Default is deny; the
/// first rule that accepts owns the request.
pub fn accept<'a>(
    bundle: &Bundle,
    rego: Option<&'a Rego>,
    policy: &'a IdentityPolicy,
    annex: Option<&Annex>,
    caller: &Caller,
    asked: &PolicyInput<'_>,
) -> Result<Accepted<'a>, Denied> {
    if !admits(policy, annex, caller) {
        return Err(Denied::CallerNotAllowed);
    }
    if [EXCHANGE_ACTION, CREDENTIAL_ACTION].contains(&asked.intent.action()) {
        return Err(Denied::ActionReserved);
    }
    check_resource(bundle, rego.is_some(), asked.intent.resource())?;
    check_environment(bundle, policy, asked.intent.resource())?;
    let proven = matches!(caller, Caller::Proven(_));
    let mut denied = Denied::IntentActionNotInAllowlist;
    for rule in &policy.rules {
        match decide(rule, asked, proven, policy.max_validity_seconds) {
            Ok(validity_seconds) => {
                let by_rego = rego
                    .map(|rego| rego.decide(bundle, policy, caller, asked))
                    .transpose()?
                    .flatten();
                return Ok(Accepted {
                    rule,
                    validity_seconds,
                    approval: approval(rule.approval.as_ref(), by_rego)?,
                });
            }
            Err(why) if why.stage() > denied.stage() => denied = why,
            Err(why) => denied.join(why),
        }
    }
    Err(denied)
}

/// Refuses a resource that is not spelled in the one way, where labels or Rego decide about it:
/// they would not know it again.
pub(crate) fn check_resource(bundle: &Bundle, rego: bool, resource: &str) -> Result<(), Denied> {
    match resource::check(resource) {
        Err(identity::Error::ResourceNotCanonical(why)) if rego || !bundle.resources.is_empty() => {
            Err(Denied::ResourceNotCanonical(why))
        }
        _ => Ok(()),
    }
}

/// Whether one of these patterns matches; none may be unclear about it, unless another one matches.
pub fn among_resources(patterns: &[Pattern], resource: &str) -> Result<bool, Denied> {
    let mut unclear = None;
    for pattern in patterns {
        match pattern.matches_resource(resource) {
            Match::Yes => return Ok(true),
            Match::No => {}
            Match::Unclear(why) => unclear = Some(why),
        }
    }
    unclear.map_or(Ok(false), |why| Err(Denied::ResourceNotCanonical(why)))
}

/// Refuses a resource of another environment than the key's.
pub(crate) fn check_environment(
    bundle: &Bundle,
    policy: &IdentityPolicy,
    resource: &str,
) -> Result<(), Denied> {
    match bundle
        .labels(resource)
        .and_then(|label| label.environment.as_ref())
    {
        Some(other) if *other != policy.environment => Err(Denied::EnvironmentMismatch {
            key: policy.environment.clone(),
            resource: other.clone(),
        }),
        _ => Ok(()),
    }
}

/// Who must approve, where a rule says so, or Rego, or both.
pub(crate) fn approval<'a>(
    of_rule: Option<&'a ApprovalRule>,
    of_rego: Option<&'a ApprovalRule>,
) -> Result<Option<&'a ApprovalRule>, Denied> {
    match (of_rule, of_rego) {
        (Some(of_rule), Some(of_rego)) => stricter(of_rule, of_rego)
            .map(Some)
            .ok_or(Denied::ApproversDiffer),
        (of_rule, of_rego) => Ok(of_rule.or(of_rego)),
    }
}

/// The one whose approvers the other accepts too.
fn stricter<'a>(one: &'a ApprovalRule, other: &'a ApprovalRule) -> Option<&'a ApprovalRule> {
    let within = |a: &ApprovalRule, b: &ApprovalRule| a.by.iter().all(|name| b.by.contains(name));
    if within(one, other) {
        Some(one)
    } else if within(other, one) {
        Some(other)
    } else {
        None
    }
}

/// A rule with delegatees is for grants to them, and for nothing else.
fn check_delegatee(rule: &Rule, asked: &PolicyInput<'_>) -> Result<(), Denied> {
    let why = match (&rule.delegatees, asked.intent.delegatee()) {
        (None, None) => return Ok(()),
        (Some(delegatees), Some(to)) if any(delegatees, to.as_str()) => return Ok(()),
        (Some(_), Some(_)) => "grants nothing to this delegatee",
        (Some(_), None) => "only signs grants; the request names no delegatee",
        (None, Some(_)) => "signs no grants; the request names a delegatee",
    };
    Err(Denied::DelegateeNotAllowed {
        rule: rule.name.clone(),
        why,
    })
}

fn check_audience(rule: &Rule, asked: &PolicyInput<'_>) -> Result<(), Denied> {
    let why = match (&rule.audiences, asked.audience) {
        (None, _) => return Ok(()),
        (Some(audiences), Some(audience)) if any(audiences, audience) => return Ok(()),
        (Some(_), Some(_)) => "does not accept this audience",
        (Some(_), None) => "wants an audience; the request names none",
    };
    Err(Denied::AudienceNotAllowed {
        rule: rule.name.clone(),
        why,
    })
}

fn decide(
    rule: &Rule,
    asked: &PolicyInput<'_>,
    proven: bool,
    identity_max: u32,
) -> Result<u32, Denied> {
    if !any(&rule.actions, asked.intent.action()) {
        return Err(Denied::IntentActionNotInAllowlist);
    }
    if !any(&rule.targets, asked.intent.target()) {
        return Err(Denied::IntentTargetPatternViolation(rule.name.clone()));
    }
    if !among_resources(&rule.resources, asked.intent.resource())? {
        return Err(Denied::IntentResourceOutOfScope(rule.name.clone()));
    }
    check_payload(rule, asked.payload)?;
    if rule.proven && !proven {
        return Err(Denied::CallerNotProven(rule.name.clone()));
    }
    if rule.delegated && !asked.delegated {
        return Err(Denied::NotDelegated(rule.name.clone()));
    }
    if asked.envelope && !rule.envelope {
        return Err(Denied::EnvelopeNotAllowed(rule.name.clone()));
    }
    check_delegatee(rule, asked)?;
    check_audience(rule, asked)?;
    let max_seconds = rule
        .max_validity_seconds
        .map_or(identity_max, |own| own.min(identity_max));
    let validity = asked
        .validity_seconds
        .unwrap_or(DEFAULT_VALIDITY_SECONDS.min(max_seconds));
    if validity > max_seconds {
        return Err(Denied::ValidityExceedsPolicy {
            rule: rule.name.clone(),
            max_seconds,
        });
    }
    Ok(validity)
}

fn check_payload(rule: &Rule, payload: &Payload) -> Result<(), Denied> {
    for (pointer, constraint) in &rule.payload {
        let Some(value) = payload.pointer(pointer) else {
            return Err(Denied::IntentMissingRequiredField {
                rule: rule.name.clone(),
                pointer: pointer.clone(),
            });
        };
        if !holds(constraint, value) {
            return Err(Denied::PayloadFieldOutOfBounds {
                rule: rule.name.clone(),
                pointer: pointer.clone(),
                wants: wants(constraint),
                has: has(value, constraint),
            });
        }
    }
    if rule.payload_closed {
        let named = |name: &str| {
            rule.payload
                .keys()
                .any(|pointer| first_segment(pointer) == name)
        };
        if let Some(other) = payload.names().find(|name| !named(name)) {
            let pointer = format!("/{}", other.replace('~', "~0").replace('/', "~1"));
            return Err(Denied::PayloadFieldOutOfBounds {
                rule: rule.name.clone(),
                pointer,
                wants: "nothing".into(),
                has: "something there",
            });
        }
    }
    Ok(())
}

/// Its type, for people; what it says is nobody's to repeat.
fn has(value: &Value, constraint: &Constraint) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) if constraint.min.is_some() || constraint.max.is_some() => {
            "an integer outside of that"
        }
        Value::Number(_) => "another integer",
        Value::String(_) if constraint.pattern.is_some() || constraint.one_of.is_some() => {
            "another string"
        }
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Type and bounds, for people.
fn wants(constraint: &Constraint) -> String {
    let mut all = Vec::new();
    match (constraint.min, constraint.max) {
        (Some(min), Some(max)) => all.push(format!("an integer from {min} to {max}")),
        (Some(min), None) => all.push(format!("an integer of {min} or more")),
        (None, Some(max)) => all.push(format!("an integer of {max} or less")),
        (None, None) => {}
    }
    all.extend(
        constraint
            .pattern
            .as_ref()
            .map(|pattern| format!("a string like {}", quoted(pattern.as_str()))),
    );
    all.extend(constraint.one_of.as_ref().map(|list| {
        let few: Vec<String> = list.iter().take(MOST_LISTED).map(spelled).collect();
        let more = if list.len() > MOST_LISTED {
            ", ..."
        } else {
            ""
        };
        format!("one of {}{more}", few.join(", "))
    }));
    all.join(", and ")
}

/// So many accepted values stand in a refusal.
const MOST_LISTED: usize = 8;

fn spelled(scalar: &Scalar) -> String {
    match scalar {
        Scalar::Bool(value) => value.to_string(),
        Scalar::Integer(value) => value.to_string(),
        Scalar::Text(value) => quoted(value),
    }
}

/// Of what is long, only the beginning: 64 characters.
fn quoted(text: &str) -> String {
    let begin: String = text.chars().take(64).collect();
    let more = if begin.len() < text.len() { "..." } else { "" };
    format!("{begin:?}{more}")
}

fn holds(constraint: &Constraint, value: &Value) -> bool {
    let integer = value.as_i64();
    constraint
        .one_of
        .as_ref()
        .is_none_or(|list| list.iter().any(|scalar| is(scalar, value)))
        && constraint
            .min
            .is_none_or(|min| integer.is_some_and(|n| n >= min))
        && constraint
            .max
            .is_none_or(|max| integer.is_some_and(|n| n <= max))
        && constraint
            .pattern
            .as_ref()
            .is_none_or(|pattern| value.as_str().is_some_and(|text| pattern.matches(text)))
}

fn is(scalar: &Scalar, value: &Value) -> bool {
    match scalar {
        Scalar::Bool(expected) => value.as_bool() == Some(*expected),
        Scalar::Integer(expected) => value.as_i64() == Some(*expected),
        Scalar::Text(expected) => value.as_str() == Some(expected),
    }
}

pub(crate) fn any(patterns: &[Pattern], text: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches(text))
}

fn first_segment(pointer: &str) -> String {
    let rest = pointer.strip_prefix('/').unwrap_or(pointer);
    rest[..rest.find('/').unwrap_or(rest.len())]
        .replace("~1", "/")
        .replace("~0", "~")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_two_that_want_an_approval_the_stricter_is_heard() {
        let by = |names: &[&str]| ApprovalRule {
            by: names.iter().map(|name| (*name).to_owned()).collect(),
            seconds: 60,
        };
        let (alice, both, bob) = (by(&["alice"]), by(&["alice", "bob"]), by(&["bob"]));
        let of = |one, other| approval(one, other).map(|rule| rule.map(|rule| rule.by.clone()));
        let only = |rule: &ApprovalRule| Ok(Some(rule.by.clone()));
        assert_eq!(of(Some(&alice), Some(&both)), only(&alice));
        assert_eq!(of(Some(&both), Some(&alice)), only(&alice));
        assert_eq!(of(Some(&alice), Some(&bob)), Err(Denied::ApproversDiffer));
        assert_eq!(of(None, Some(&bob)), only(&bob));
        assert_eq!(of(Some(&bob), None), only(&bob));
        assert_eq!(of(None, None), Ok(None));
    }

    /// What a rule wants and what is there, if it does not hold.
    fn refused(constraint: Value, value: &Value) -> Option<(String, &'static str)> {
        let constraint: Constraint = serde_json::from_value(constraint).unwrap();
        let refused = || (wants(&constraint), has(value, &constraint));
        (!holds(&constraint, value)).then(refused)
    }

    #[test]
    fn a_listed_value_is_one_of_its_own_type_and_no_other() {
        let list = json!({"one_of": [true, 7, "x"]});
        for good in [json!(true), json!(7), json!("x")] {
            assert_eq!(refused(list.clone(), &good), None);
        }
        for (bad, has) in [
            (json!(false), "a boolean"),
            (json!(8), "another integer"),
            (json!("y"), "another string"),
            (json!("7"), "another string"),
            (json!(null), "null"),
            (json!([7]), "an array"),
            (json!({}), "an object"),
        ] {
            let wants = "one of true, 7, \"x\"".to_owned();
            assert_eq!(refused(list.clone(), &bad), Some((wants, has)));
        }
    }

    #[test]
    fn a_refusal_says_what_is_wanted_and_the_type_of_what_is_there() {
        let (more, less) = ("an integer of 1 or more", "an integer of 1 or less");
        let (outside, pattern) = ("an integer outside of that", "a string like \"a*\"");
        for (constraint, value, wants, has) in [
            (json!({"min": 1}), json!(0), more, outside),
            (json!({"max": 1}), json!(2), less, outside),
            (json!({"max": 1}), json!("2"), less, "a string"),
            (
                json!({"pattern": "a*"}),
                json!("b"),
                pattern,
                "another string",
            ),
            (
                json!({"pattern": "a*"}),
                json!(7),
                pattern,
                "another integer",
            ),
        ] {
            let refused = refused(constraint, &value);
            assert_eq!(refused, Some((wants.to_owned(), has)));
        }
        // Of what is long, the beginning.
        let listed = |count: usize| {
            let list: Vec<_> = (0..count).collect();
            refused(json!({"one_of": list}), &json!(-1)).unwrap().0
        };
        assert_eq!(listed(8), "one of 0, 1, 2, 3, 4, 5, 6, 7");
        assert_eq!(listed(9), "one of 0, 1, 2, 3, 4, 5, 6, 7, ...");
        let text = |length| {
            let list = json!({"one_of": ["\u{e9}".repeat(length)]});
            refused(list, &json!(0)).unwrap().0
        };
        assert_eq!(text(64), format!("one of \"{}\"", "\u{e9}".repeat(64)));
        assert_eq!(text(65), format!("one of \"{}\"...", "\u{e9}".repeat(64)));
    }
}
