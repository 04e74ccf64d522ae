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
