//! Key policies: a small part of IAM's language, read strictly. A policy with one element, operator,
//! key or form that is not known here is refused as a whole; nothing is interpreted leniently.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::Refusal;

/// The account of the mock; no account of AWS has this number.
pub const ACCOUNT: &str = "000000000000";
/// Every principal of the account, where a policy names it.
const ACCOUNT_ROOT: &str = "arn:aws:iam::000000000000:root";
/// How the principal of a role begins.
pub(super) const ROLE: &str = "arn:aws:iam::000000000000:role/";
/// The longest policy, in bytes.
const MAX_POLICY: usize = 32_768;

/// Every action of KMS, so that a misspelled one is seen.
const ACTIONS: &str = "CancelKeyDeletion ConnectCustomKeyStore CreateAlias CreateCustomKeyStore CreateGrant CreateKey \
    Decrypt DeleteAlias DeleteCustomKeyStore DeleteImportedKeyMaterial DeriveSharedSecret DescribeCustomKeyStores \
    DescribeKey DisableKey DisableKeyRotation DisconnectCustomKeyStore EnableKey EnableKeyRotation Encrypt \
    GenerateDataKey GenerateDataKeyPair GenerateDataKeyPairWithoutPlaintext GenerateDataKeyWithoutPlaintext GenerateMac \
    GenerateRandom GetKeyPolicy GetKeyRotationStatus GetParametersForImport GetPublicKey ImportKeyMaterial ListAliases \
    ListGrants ListKeyPolicies ListKeyRotations ListKeys ListResourceTags ListRetirableGrants PutKeyPolicy ReEncryptFrom \
    ReEncryptTo ReplicateKey RetireGrant RevokeGrant RotateKeyOnDemand ScheduleKeyDeletion Sign \
    SynchronizeMultiRegionKey TagResource UntagResource UpdateAlias UpdateCustomKeyStore UpdateKeyDescription \
    UpdatePrimaryRegion Verify VerifyMac";

/// A key policy that was understood to its last element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy(Vec<Statement>);

/// A call, as far as policies can ask about it.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// ARN of the caller's role.
    pub principal: &'a str,
    /// `kms:Decrypt` and the like.
    pub action: &'a str,
    /// Registers of the verified document, in lowercase hex; none without a document.
    pub pcrs: &'a BTreeMap<u8, String>,
    /// The encryption context.
    pub context: &'a BTreeMap<String, String>,
    /// `BypassPolicyLockoutSafetyCheck`, for the calls that have it.
    pub bypass: Option<bool>,
}

/// What a policy says about a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// A statement allows it and none denies it.
    Allowed,
    /// No statement allows it.
    NotAllowed,
    /// A statement denies it, whatever others allow.
    Denied,
}

impl Policy {
    /// Reads a policy; `MalformedPolicyDocumentException` says what was not understood.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        read(text).map_err(|error| Refusal::new("MalformedPolicyDocumentException", error))
    }

    /// Decides about a call.
    pub fn decide(&self, call: &Call<'_>) -> Decision {
        let says = |effect| {
            self.0
                .iter()
                .any(|statement| statement.effect == effect && statement.is_about(call))
        };
        match (says(Effect::Deny), says(Effect::Allow)) {
            (true, _) => Decision::Denied,
            (false, true) => Decision::Allowed,
            (false, false) => Decision::NotAllowed,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Statement {
    effect: Effect,
    principals: Vec<String>,
    actions: Vec<String>,
    conditions: Vec<Condition>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum Effect {
    Allow,
    Deny,
}

impl Statement {
    fn is_about(&self, call: &Call<'_>) -> bool {
        let principal = |named: &String| {
            ["*", ACCOUNT_ROOT].contains(&named.as_str()) || named == call.principal
        };
        let action = |named: &String| named == "kms:*" || named == call.action;
        self.principals.iter().any(principal)
            && self.actions.iter().any(action)
            && self
                .conditions
                .iter()
                .all(|condition| condition.holds(call))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Condition {
    operator: Operator,
    key: Key,
    values: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Text { negated: bool, any_case: bool },
    Bool,
    Null,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Key {
    Pcr(u8),
    Context(String),
    CallerAccount,
    PrincipalArn,
    Bypass,
    SecureTransport,
}

impl Condition {
    /// A list of values admits any of them; a negated operator holds where the key is absent.
    fn holds(&self, call: &Call<'_>) -> bool {
        let found = self.key.of(call);
        let any = |same: &dyn Fn(&str, &str) -> bool| {
            let found = found.as_deref();
            found.is_some_and(|found| self.values.iter().any(|value| same(value, found)))
        };
        match self.operator {
            Operator::Text { negated, any_case } => {
                let same: &dyn Fn(&str, &str) -> bool = if any_case {
                    &|a, b| a.to_lowercase() == b.to_lowercase()
                } else {
                    &|a, b| a == b
                };
                any(same) != negated
            }
            Operator::Bool => any(&|a, b| a == b),
            Operator::Null => self.values == [found.is_none().to_string()],
        }
    }
}

impl Key {
    fn of(&self, call: &Call<'_>) -> Option<String> {
        match self {
            Self::Pcr(index) => call.pcrs.get(index).cloned(),
            Self::Context(name) => call.context.get(name).cloned(),
            Self::CallerAccount => Some(ACCOUNT.into()),
            Self::PrincipalArn => Some(call.principal.into()),
            Self::Bypass => call.bypass.map(|bypass| bypass.to_string()),
            Self::SecureTransport => Some(true.to_string()),
        }
    }

    fn parse(name: &str) -> Result<Self, String> {
        let unknown = || format!("the condition key {name:?} is not known here");
        let Some(attested) = name.strip_prefix("kms:RecipientAttestation:") else {
            let context = name.strip_prefix("kms:EncryptionContext:");
            return match (name, context) {
                (_, Some(context)) if !context.is_empty() => Ok(Self::Context(context.into())),
                ("kms:CallerAccount", _) => Ok(Self::CallerAccount),
                ("aws:PrincipalArn", _) => Ok(Self::PrincipalArn),
                ("kms:BypassPolicyLockoutSafetyCheck", _) => Ok(Self::Bypass),
                ("aws:SecureTransport", _) => Ok(Self::SecureTransport),
                _ => Err(unknown()),
            };
        };
        if attested == "ImageSha384" {
            return Ok(Self::Pcr(0));
        }
        let index = (0..32).find(|index| attested == format!("PCR{index}"));
        index.map(Self::Pcr).ok_or_else(unknown)
    }

    fn is_bool(&self) -> bool {
        matches!(self, Self::Bypass | Self::SecureTransport)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct RawPolicy {
    version: String,
    #[serde(rename = "Id")]
    _id: Option<String>,
    statement: Vec<RawStatement>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct RawStatement {
    #[serde(rename = "Sid")]
    _sid: Option<String>,
    effect: Effect,
    principal: Value,
    action: Value,
    resource: String,
    condition: Option<BTreeMap<String, BTreeMap<String, Value>>>,
}

fn read(text: &str) -> Result<Policy, String> {
    if text.len() > MAX_POLICY {
        return Err(format!("a policy has at most {MAX_POLICY} bytes"));
    }
    let value = identity::json::parse(text.as_bytes()).map_err(|error| error.to_string())?;
    if has_null(&value) {
        return Err("null is no value of a policy".into());
    }
    let raw: RawPolicy =
        identity::json::parse_as(text.as_bytes()).map_err(|error| error.to_string())?;
    if raw.version != "2012-10-17" {
        return Err("the version is not 2012-10-17".into());
    }
    if raw.statement.is_empty() {
        return Err("no statement".into());
    }
    let statements = raw.statement.into_iter().map(statement);
    statements.collect::<Result<_, _>>().map(Policy)
}

fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(values) => values.iter().any(has_null),
        Value::Object(members) => members.values().any(has_null),
        _ => false,
    }
}

fn statement(raw: RawStatement) -> Result<Statement, String> {
    if raw.resource != "*" {
        return Err("a resource other than \"*\"".into());
    }
    let conditions = raw.condition.map(conditions).transpose()?;
    Ok(Statement {
        effect: raw.effect,
        principals: principals(&raw.principal)?,
        actions: actions(&raw.action)?,
        conditions: conditions.unwrap_or_default(),
    })
}

fn principals(value: &Value) -> Result<Vec<String>, String> {
    if value == "*" {
        return Ok(vec!["*".into()]);
    }
    let aws = match value {
        Value::Object(members) if members.len() == 1 => members.get("AWS"),
        _ => None,
    };
    let named = texts(aws.ok_or("a principal that is neither \"*\" nor {\"AWS\": ..}")?)?;
    let known = |name: &String| {
        let role = name.strip_prefix(ROLE);
        ["*", ACCOUNT_ROOT].contains(&name.as_str()) || role.is_some_and(is_role_name)
    };
    match named.iter().find(|name| !known(name)) {
        Some(name) => Err(format!("the principal {name:?} is not of this account")),
        None => Ok(named),
    }
}

fn is_role_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+=,.@_-".contains(&byte);
    (1..=64).contains(&name.len()) && name.bytes().all(plain)
}

fn actions(value: &Value) -> Result<Vec<String>, String> {
    let named = texts(value)?;
    let known = |name: &String| {
        let action = name.strip_prefix("kms:");
        action.is_some_and(|action| action == "*" || ACTIONS.split(' ').any(|one| one == action))
    };
    match named.iter().find(|name| !known(name)) {
        Some(name) => Err(format!("the action {name:?} is not known here")),
        None => Ok(named),
    }
}

fn conditions(raw: BTreeMap<String, BTreeMap<String, Value>>) -> Result<Vec<Condition>, String> {
    let mut conditions = Vec::new();
    for (operator, keys) in raw {
        for (key, values) in &keys {
            conditions.push(condition(&operator, key, values)?);
        }
        if keys.is_empty() {
            return Err(format!("{operator:?} without a key"));
        }
    }
    if conditions.is_empty() {
        return Err("a condition without operators".into());
    }
    Ok(conditions)
}

fn condition(operator: &str, key: &str, values: &Value) -> Result<Condition, String> {
    let text = |negated, any_case| Operator::Text { negated, any_case };
    let operator = match operator {
        "StringEquals" => text(false, false),
        "StringEqualsIgnoreCase" => text(false, true),
        "StringNotEquals" => text(true, false),
        "StringNotEqualsIgnoreCase" => text(true, true),
        "Bool" => Operator::Bool,
        "Null" => Operator::Null,
        _ => return Err(format!("the operator {operator:?} is not known here")),
    };
    let (name, key) = (key, Key::parse(key)?);
    let values = match (operator, values) {
        (Operator::Bool | Operator::Null, Value::Bool(value)) => vec![value.to_string()],
        _ => texts(values)?,
    };
    let fits = match operator {
        Operator::Text { .. } => !key.is_bool() && values.iter().all(|value| key.can_be(value)),
        Operator::Bool => key.is_bool() && is_one_bool(&values),
        Operator::Null => is_one_bool(&values),
    };
    if !fits {
        return Err(format!("{name:?} cannot be compared with these values"));
    }
    Ok(Condition {
        operator,
        key,
        values,
    })
}

impl Key {
    /// A register that could never be equal is a mistake of who wrote the policy.
    fn can_be(&self, value: &str) -> bool {
        let hex = value.len() == 96 && value.bytes().all(|byte| byte.is_ascii_hexdigit());
        !matches!(self, Self::Pcr(_)) || hex
    }
}

fn is_one_bool(values: &[String]) -> bool {
    matches!(values, [one] if one == "true" || one == "false")
}

/// A string, or a list of strings that has one.
fn texts(value: &Value) -> Result<Vec<String>, String> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let texts: Option<Vec<String>> = match value {
        Value::Array(values) => values.iter().map(text).collect(),
        _ => text(value).map(|text| vec![text]),
    };
    let some = texts.filter(|texts| !texts.is_empty());
    some.ok_or_else(|| format!("{value} is neither a string nor a list of strings"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SIDECAR: &str = "arn:aws:iam::000000000000:role/anchorhold-sidecar";
    const OTHER: &str = "arn:aws:iam::000000000000:role/other";

    fn pcr(byte: &str) -> String {
        byte.repeat(48)
    }

    fn policy(statements: &Value) -> Result<Policy, Refusal> {
        Policy::parse(&json!({"Version": "2012-10-17", "Statement": statements}).to_string())
    }

    fn allow(condition: &Value) -> Value {
        json!({"Effect": "Allow", "Principal": {"AWS": SIDECAR}, "Action": "kms:Decrypt", "Resource": "*", "Condition": condition})
    }

    /// Decides about kms:Decrypt by the sidecar with these registers and this context.
    fn decided(statements: &Value, pcrs: &[(u8, &str)], context: &[(&str, &str)]) -> Decision {
        let pcrs = pcrs
            .iter()
            .map(|(index, byte)| (*index, pcr(byte)))
            .collect();
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let call = Call {
            principal: SIDECAR,
            action: "kms:Decrypt",
            pcrs: &pcrs,
            context: &context.iter().map(owned).collect(),
            bypass: None,
        };
        policy(statements).unwrap().decide(&call)
    }

    #[test]
    fn conditions_hold_as_on_aws() {
        let attested = "kms:RecipientAttestation:";
        let (pcr0, pcr16, image) = (
            format!("{attested}PCR0"),
            format!("{attested}PCR16"),
            format!("{attested}ImageSha384"),
        );
        let (aa, ab, upper) = (pcr("aa"), pcr("ab"), pcr("AA"));
        let state = "kms:EncryptionContext:state";
        type Facts = (
            &'static [(u8, &'static str)],
            &'static [(&'static str, &'static str)],
        );
        let none: Facts = (&[], &[]);
        let measured: Facts = (&[(0, "aa"), (16, "ab")], &[]);
        let other: Facts = (&[(0, "ac"), (16, "ac")], &[]);
        let in_context: Facts = (&[], &[("state", "A")]);
        let cases = [
            (json!({"StringEquals": {&pcr0: &aa}}), measured, true),
            (json!({"StringEquals": {&image: &aa}}), measured, true),
            (json!({"StringEquals": {&image: &ab}}), measured, false),
            (json!({"StringEquals": {&pcr0: [&ab, &aa]}}), measured, true),
            (
                json!({"StringEquals": {&pcr0: &aa, &pcr16: &ab}}),
                measured,
                true,
            ),
            (
                json!({"StringEquals": {&pcr0: &aa, &pcr16: &aa}}),
                measured,
                false,
            ),
            (json!({"StringEquals": {&pcr0: &aa}}), other, false),
            (json!({"StringEquals": {&pcr0: &aa}}), none, false),
            (json!({"StringEquals": {&pcr0: &upper}}), measured, false),
            (
                json!({"StringEqualsIgnoreCase": {&pcr0: &upper}}),
                measured,
                true,
            ),
            (
                json!({"StringEqualsIgnoreCase": {&pcr0: &upper}}),
                other,
                false,
            ),
            (json!({"StringNotEquals": {&pcr0: &aa}}), measured, false),
            (
                json!({"StringNotEquals": {&pcr0: [&ab, &aa]}}),
                measured,
                false,
            ),
            (json!({"StringNotEquals": {&pcr0: &aa}}), other, true),
            (json!({"StringNotEquals": {&pcr0: &aa}}), none, true),
            (json!({"StringNotEquals": {&pcr0: &upper}}), measured, true),
            (
                json!({"StringNotEqualsIgnoreCase": {&pcr0: &upper}}),
                measured,
                false,
            ),
            (
                json!({"StringNotEqualsIgnoreCase": {&pcr0: &upper}}),
                none,
                true,
            ),
            (json!({"Null": {&pcr0: "true"}}), none, true),
            (json!({"Null": {&pcr0: true}}), measured, false),
            (json!({"Null": {&pcr0: "false"}}), measured, true),
            (json!({"Null": {&pcr0: ["false"]}}), none, false),
            (json!({"StringEquals": {state: "A"}}), in_context, true),
            (json!({"StringEquals": {state: "a"}}), in_context, false),
            (json!({"StringEquals": {state: "A"}}), none, false),
            (
                json!({"StringEquals": {"kms:CallerAccount": ACCOUNT}}),
                none,
                true,
            ),
            (
                json!({"StringEquals": {"kms:CallerAccount": "111111111111"}}),
                none,
                false,
            ),
            (
                json!({"StringEquals": {"aws:PrincipalArn": SIDECAR}}),
                none,
                true,
            ),
            (
                json!({"StringEquals": {"aws:PrincipalArn": OTHER}}),
                none,
                false,
            ),
            (json!({"Bool": {"aws:SecureTransport": "true"}}), none, true),
            (json!({"Bool": {"aws:SecureTransport": false}}), none, false),
            (
                json!({"Bool": {"kms:BypassPolicyLockoutSafetyCheck": "false"}}),
                none,
                false,
            ),
            (
                json!({"StringEquals": {&pcr0: &aa}, "Null": {&pcr16: "true"}}),
                measured,
                false,
            ),
        ];
        for (condition, (pcrs, context), holds) in cases {
            let allowed = decided(&json!([allow(&condition)]), pcrs, context);
            assert_eq!(allowed == Decision::Allowed, holds, "{condition}");
        }
    }

    #[test]
    fn a_denial_wins_and_nothing_is_allowed_by_default() {
        let any = json!({"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"});
        let unattested = json!({"Effect": "Deny", "Principal": {"AWS": ["arn:aws:iam::000000000000:root"]},
            "Action": ["kms:Encrypt", "kms:Decrypt"], "Resource": "*",
            "Condition": {"StringNotEquals": {"kms:RecipientAttestation:PCR16": pcr("ab")}}});
        let both = [json!([any, unattested]), json!([unattested, any])];
        for statements in &both {
            assert_eq!(decided(statements, &[(16, "ab")], &[]), Decision::Allowed);
            assert_eq!(decided(statements, &[(16, "aa")], &[]), Decision::Denied);
            assert_eq!(decided(statements, &[], &[]), Decision::Denied);
        }
        assert_eq!(
            decided(&json!([unattested]), &[(16, "ab")], &[]),
            Decision::NotAllowed
        );
        for (principal, action) in [
            (json!({"AWS": OTHER}), "kms:*"),
            (json!({"AWS": SIDECAR}), "kms:Encrypt"),
        ] {
            let statement = json!([{"Effect": "Allow", "Principal": principal, "Action": action, "Resource": "*"}]);
            assert_eq!(decided(&statement, &[], &[]), Decision::NotAllowed);
        }
    }

    #[test]
    fn one_thing_that_is_not_known_refuses_the_whole_policy() {
        let condition =
            |operator: &str, key: &str, values: Value| allow(&json!({operator: {key: values}}));
        let with = |name: &str, value: Value| {
            let mut statement = allow(&json!({"Null": {"kms:RecipientAttestation:PCR0": "true"}}));
            statement[name] = value;
            statement
        };
        let pcr0 = "kms:RecipientAttestation:PCR0";
        let bad = [
            with("NotAction", json!("kms:Decrypt")),
            with("Effect", json!("allow")),
            with("Sid", Value::Null),
            with("Resource", json!(["*"])),
            with(
                "Resource",
                json!("arn:aws:kms:mock-local-1:000000000000:key/1"),
            ),
            with("Action", json!([])),
            with("Action", json!("kms:decrypt")),
            with("Action", json!("kms:Decrypt*")),
            with("Action", json!("*")),
            with("Action", json!("s3:GetObject")),
            with("Action", json!(["kms:Decrypt", 1])),
            with("Principal", json!("arn:aws:iam::000000000000:root")),
            with("Principal", json!({"AWS": []})),
            with(
                "Principal",
                json!({"AWS": "arn:aws:iam::111111111111:root"}),
            ),
            with(
                "Principal",
                json!({"AWS": "arn:aws:iam::000000000000:user/somebody"}),
            ),
            with(
                "Principal",
                json!({"AWS": "arn:aws:iam::000000000000:role/a*"}),
            ),
            with("Principal", json!({"Service": "ec2.amazonaws.com"})),
            with(
                "Principal",
                json!({"AWS": SIDECAR, "Service": "ec2.amazonaws.com"}),
            ),
            with("Condition", json!({})),
            with("Condition", json!({"StringEquals": {}})),
            with(
                "Condition",
                json!({"StringEquals": {}, "Null": {pcr0: "true"}}),
            ),
            condition("StringLike", pcr0, json!(pcr("aa"))),
            condition("StringEqualsIfExists", pcr0, json!(pcr("aa"))),
            condition("stringequals", pcr0, json!(pcr("aa"))),
            condition("ForAllValues:StringEquals", pcr0, json!(pcr("aa"))),
            condition(
                "StringEquals",
                "kms:RecipientAttestation:PCR32",
                json!(pcr("aa")),
            ),
            condition(
                "StringEquals",
                "kms:RecipientAttestation:PCR00",
                json!(pcr("aa")),
            ),
            condition(
                "StringEquals",
                "kms:RecipientAttestation:pcr0",
                json!(pcr("aa")),
            ),
            condition("StringEquals", "kms:EncryptionContext:", json!("a")),
            condition("StringEquals", "kms:ViaService", json!("a")),
            condition("StringEquals", pcr0, json!([])),
            condition("StringEquals", pcr0, json!(1)),
            condition("StringEquals", pcr0, json!("aa")),
            condition("StringEquals", pcr0, json!([pcr("aa"), pcr("xx")])),
            condition("StringEquals", "aws:SecureTransport", json!("true")),
            condition("Bool", pcr0, json!("true")),
            condition("Bool", "aws:SecureTransport", json!("yes")),
            condition("Null", pcr0, json!("True")),
            condition("Null", pcr0, json!(["true", "false"])),
        ];
        let good = with("Sid", json!("good"));
        assert!(policy(&json!([good])).is_ok());
        for statement in bad {
            let refusal = policy(&json!([good, statement])).expect_err(&statement.to_string());
            assert_eq!(
                refusal.kind, "MalformedPolicyDocumentException",
                "{statement}"
            );
        }
    }

    #[test]
    fn a_policy_of_another_form_is_refused() {
        let statement = allow(&json!({"Bool": {"aws:SecureTransport": "true"}}));
        let version = "2012-10-17";
        for text in [
            json!({"Version": "2008-10-17", "Statement": [statement]}).to_string(),
            json!({"Statement": [statement]}).to_string(),
            json!({"Version": version, "Statement": []}).to_string(),
            json!({"Version": version, "Statement": statement}).to_string(),
            json!({"Version": version, "Statement": [statement], "More": 1}).to_string(),
            json!({"Version": version, "Id": "a".repeat(MAX_POLICY), "Statement": [statement]})
                .to_string(),
            format!(
                "{{\"Version\":\"{version}\",\"Statement\":[{statement}],\"Statement\":[{statement}]}}"
            ),
            format!("{{\"Version\":\"{version}\",\"Statement\":[{statement}]}} x"),
            String::new(),
        ] {
            assert!(Policy::parse(&text).is_err(), "{text:.80}");
        }
    }
}
