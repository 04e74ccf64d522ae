//! Services outside, to which agents get through with a credential that they never see.

use std::fmt;

use identity::{Digest, resource};
use serde::{Deserialize, Serialize};

use crate::names::{check_name, malformed};
use crate::{
    ApprovalRule, Budget, Callers, Error, Limit, Pattern, Priced, ProvenCaller, TokenSource,
    Upstream,
};

/// Each service has a process of its own in the enclave, of which there are so many.
pub const MAX_SERVICES: usize = 16;
/// Methods that a rule may name (RFC 9110 section 9.3, RFC 5789). TRACE shows what was sent, CONNECT
/// is no request for a resource.
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
/// Headers in which no credential is put: they say how a message is framed, or to whom it goes, or
/// are of the agent's own.
const NOT_FOR_CREDENTIALS: [&str; 14] = [
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "set-cookie",
];

/// A service outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Its name, the first segment of the path by which agents ask for it: 1 to 63 lower-case
    /// letters, digits and `_`, a letter first: variables of a shell are named after it.
    pub name: String,
    /// Where it is.
    pub upstream: Upstream,
    /// Certificates in PEM, of the roots that its certificate may stand under; those of Mozilla's
    /// list, if left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roots: Vec<String>,
    /// If given, one of the certificates of the verified path must have one of these keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pins: Vec<Pin>,
    /// Where its credential is put.
    pub inject: Inject,
    /// If given, the credential gets short tokens, and these are put there in its stead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenSource>,
    /// For how long money is counted, if a rule has a limit of cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// What becomes of an answer in which the credential is found.
    #[serde(default, skip_serializing_if = "Scrub::is_default")]
    pub scrub: Scrub,
    /// What may be asked of it. The first rule that allows decides; without one nothing may.
    pub rules: Vec<ServiceRule>,
}

/// How agents come to services as to a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpsProxy {
    /// What becomes of those who ask for a host of no service.
    pub unmatched: Unmatched,
}

/// What becomes of those who ask for a host of no service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unmatched {
    /// They are refused.
    Refuse,
}

/// SHA-256 of a SubjectPublicKeyInfo: `sha256:` and 64 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pin(pub Digest<32>);

/// Where a credential is put. Exactly one of `header`, `basic`, `query`, `path`, `field`, `message` and `sigv4` is
/// given.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inject {
    /// In this header, its name in lower case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// What stands there, in a field or in a message: `{}` is the credential. It alone, if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// As the password of this user (RFC 7617).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basic: Option<String>,
    /// As the value of this parameter, at the query's end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// In the path, behind the service's own and before what is asked for: `{}` is the credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// In the body, in place of what the agent has there: in JSON at this pointer (RFC 6901) to a member of objects,
    /// which begins with `/`; or else as the value of the field of this name, in a form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// In the first text of a WebSocket that has a string at this pointer, in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Nowhere: it signs the request for AWS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sigv4: Option<SigV4>,
}

/// For what requests are signed: the scope of a Signature Version 4.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SigV4 {
    /// `us-east-1`, and so on.
    pub region: String,
    /// `s3`, `dynamodb`, and so on.
    pub service: String,
}

impl SigV4 {
    /// Whether paths are those of S3, which signs them as they are sent.
    pub fn is_s3(&self) -> bool {
        self.service == "s3"
    }

    fn check(&self) -> Result<(), String> {
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        for word in [&self.region, &self.service] {
            if word.is_empty() || word.len() > 64 || !word.bytes().all(good) {
                return Err(
                    "sigv4: region and service have 1 to 64 lower-case letters, digits and -"
                        .into(),
                );
            }
        }
        // Other names of S3's have requests of their own, which nobody here knows.
        if self.service.starts_with("s3") && !self.is_s3() {
            return Err("sigv4: of S3 the service is `s3`".into());
        }
        Ok(())
    }
}

/// What becomes of an answer in which the credential is found, in one of the forms in which it is
/// looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scrub {
    /// It is cut off.
    #[default]
    Refuse,
    /// Asterisks stand in its place.
    Replace,
}

impl Scrub {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Allows requests to a service whose method and path match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceRule {
    /// Decisions name it.
    pub name: String,
    /// Accepted methods.
    pub methods: Vec<String>,
    /// Accepted paths, without the service's name before them and without a query.
    pub paths: Vec<Pattern>,
    /// That its requests are for WebSockets (RFC 6455), and for nothing else; what is said over one is not looked
    /// at, but for the credential.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub websocket: bool,
    /// What may be done beyond what method and path say, of a service that is signed for: values of
    /// `X-Amz-Target` and of the parameter `Action`; of S3, names of parameters (`acl`, `delete`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub actions: Vec<String>,
    /// The identities that may: who may use one of these may ask, with the credential that was put
    /// for it.
    pub identities: Vec<String>,
    /// If given, only these of those who may use the identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callers: Option<Callers>,
    /// That its requests are to a model, and counted by tokens and cost. What a body may say is a closed list
    /// then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priced: Option<Priced>,
    /// How many requests it allows in a time, how many tokens and for how much money, for each identity.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<Limit>,
    /// If given, a request waits until somebody approves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalRule>,
}

impl TryFrom<String> for Pin {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let hex = text.strip_prefix("sha256:");
        let digest = hex.and_then(|hex| Digest::from_hex(hex).ok());
        digest
            .map(Self)
            .ok_or("a pin is sha256: and 64 lower-case hex digits")
    }
}

impl From<Pin> for String {
    fn from(pin: Pin) -> Self {
        pin.to_string()
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

impl Inject {
    fn check(&self, upstream: &Upstream) -> Result<(), String> {
        let places = [
            self.header.is_some(),
            self.basic.is_some(),
            self.query.is_some(),
            self.path.is_some(),
            self.field.is_some(),
            self.message.is_some(),
            self.sigv4.is_some(),
        ];
        if places.into_iter().filter(|given| *given).count() != 1 {
            return Err(
                "inject has one of header, basic, query, path, field, message and sigv4".into(),
            );
        }
        let formatted = self.header.is_some() || self.field.is_some() || self.message.is_some();
        if let Some(format) = &self.format {
            let good = |b: u8| b == b' ' || b.is_ascii_graphic();
            if format.matches("{}").count() != 1 || !format.bytes().all(good) {
                return Err("format has {} once, where the credential stands".into());
            }
            if !formatted {
                return Err("format is of header, field and message".into());
            }
        }
        self.header.as_deref().map_or(Ok(()), check_header)?;
        self.basic.as_deref().map_or(Ok(()), check_user)?;
        self.query.as_deref().map_or(Ok(()), check_parameter)?;
        let path = self.path.as_deref();
        path.map_or(Ok(()), |path| check_segment(upstream, path))?;
        self.field.as_deref().map_or(Ok(()), check_field)?;
        self.message.as_deref().map_or(Ok(()), check_pointer)?;
        self.sigv4.as_ref().map_or(Ok(()), SigV4::check)
    }

    /// What of a path stands before and behind the credential, if it stands there.
    pub fn path_parts(&self) -> Option<(&str, &str)> {
        self.path.as_deref()?.split_once("{}")
    }
}

fn check_user(user: &str) -> Result<(), String> {
    let good = |b: u8| b.is_ascii_graphic() && b != b':';
    if user.is_empty() || user.len() > 128 || !user.bytes().all(good) {
        return Err("basic is a user name of 1 to 128 printable characters, without colon".into());
    }
    Ok(())
}

/// Of characters that stand in a query as they are (RFC 3986 section 2.3).
fn check_parameter(name: &str) -> Result<(), String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    if name.is_empty() || name.len() > 64 || !name.bytes().all(good) {
        return Err("query is a name of 1 to 64 letters, digits, -, ., _ and ~".into());
    }
    Ok(())
}

/// A pointer into JSON, or the name of a field of a form.
fn check_field(field: &str) -> Result<(), String> {
    if field.starts_with('/') {
        return check_pointer(field);
    }
    check_parameter(field).map_err(|_| {
        "field is a JSON Pointer, or a name of 1 to 64 letters, digits, -, ., _ and ~".into()
    })
}

/// RFC 6901, of plain names.
fn check_pointer(pointer: &str) -> Result<(), String> {
    let wrong = || {
        Err("a place in JSON is a pointer to a member of objects: \"/d/token\", for example".into())
    };
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-._$@:/".contains(&b);
    let Some(names) = pointer.strip_prefix('/') else {
        return wrong();
    };
    let mut names = names.split('/');
    let is_long = pointer.len() > 128 || names.clone().count() > 8;
    if is_long || names.any(str::is_empty) || !pointer.bytes().all(good) {
        return wrong();
    }
    Ok(())
}

/// Where the credential ends must be plain: at the end of its segment.
fn check_segment(upstream: &Upstream, path: &str) -> Result<(), String> {
    let wrong = || {
        "path begins with / and has {} once, at the end of a segment: \"/bot{}\", for example"
            .to_owned()
    };
    let (before, after) = path.split_once("{}").ok_or_else(wrong)?;
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-._~/@".contains(&b);
    let plain = [before, after].iter().all(|part| part.bytes().all(good));
    let ends = after.is_empty() || (after.starts_with('/') && !after.ends_with('/'));
    if !plain || !ends || !before.starts_with('/') || path.len() > 256 {
        return Err(wrong());
    }
    let filled = format!("{}{before}x{after}", upstream.as_str());
    resource::check(&filled).map_err(|error| format!("path {path:?}: {error}"))
}

fn check_header(name: &str) -> Result<(), String> {
    let token = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b);
    if name.is_empty() || name.len() > 64 || !name.bytes().all(token) {
        return Err("header is a name of 1 to 64 lower-case letters, digits, - and _".into());
    }
    let hop = name.starts_with("proxy-") || name.starts_with("sec-");
    if hop || NOT_FOR_CREDENTIALS.contains(&name) {
        return Err(format!("no credential stands in the header {name:?}"));
    }
    Ok(())
}

impl Service {
    /// The rule of this name.
    pub fn rule(&self, name: &str) -> Option<&ServiceRule> {
        self.rules.iter().find(|rule| rule.name == name)
    }

    fn check(
        &self,
        proven: &[ProvenCaller],
        is_identity: &impl Fn(&str) -> bool,
    ) -> Result<(), String> {
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        let begins = self
            .name
            .starts_with(|first: char| first.is_ascii_lowercase());
        if !begins || self.name.len() > 63 || !self.name.bytes().all(good) {
            return Err(
                "the name has 1 to 63 lower-case letters, digits or _, a letter first".into(),
            );
        }
        if self.roots.len() > 8 {
            return Err("at most 8 roots".into());
        }
        for root in &self.roots {
            let (begin, end) = ("-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----");
            if !root.starts_with(begin) || root.trim_end().matches(end).count() != 1 {
                return Err("each of roots is one certificate in PEM".into());
            }
        }
        self.inject.check(&self.upstream)?;
        if let Some(token) = &self.token {
            token.check()?;
            if self.inject.header.is_none() {
                return Err("token: it stands in a header: inject = { header = ... }".into());
            }
        }
        if self.rules.is_empty() || self.rules.len() > 64 {
            return Err("1 to 64 rules".into());
        }
        for (index, rule) in self.rules.iter().enumerate() {
            rule.check(self, proven, is_identity)
                .map_err(|why| format!("rule {:?}: {why}", rule.name))?;
            if self.rules[..index]
                .iter()
                .any(|other| other.name == rule.name)
            {
                return Err(format!("two rules are called {:?}", rule.name));
            }
        }
        check_counted(&self.rules)
    }
}

impl ServiceRule {
    fn check(
        &self,
        service: &Service,
        proven: &[ProvenCaller],
        is_identity: &impl Fn(&str) -> bool,
    ) -> Result<(), String> {
        check_name(&self.name)?;
        if self.methods.is_empty() || self.paths.is_empty() || self.identities.is_empty() {
            return Err("methods, paths and identities each name something".into());
        }
        if let Some(method) = self.methods.iter().find(|m| !METHODS.contains(&m.as_str())) {
            return Err(format!("{method:?} is none of {}", METHODS.join(", ")));
        }
        for path in &self.paths {
            check_path(service, path)?;
        }
        if service.inject.sigv4.is_none() && !self.actions.is_empty() {
            return Err("actions are of services with inject = { sigv4 = ... }".into());
        }
        let good = |action: &String| {
            (1..=128).contains(&action.len()) && action.bytes().all(|b| b.is_ascii_graphic())
        };
        if self.actions.len() > 64 || !self.actions.iter().all(good) {
            return Err("at most 64 actions, each of 1 to 128 printable characters".into());
        }
        let unknown = |name: &&String| !is_identity(name);
        if let Some(name) = self.identities.iter().find(unknown) {
            return Err(format!("identities names {name:?}, and there is none"));
        }
        if let Some(callers) = &self.callers {
            callers.check(proven)?;
            if callers.is_empty() {
                return Err(
                    "callers name nobody; leave them out for all who may use the identity".into(),
                );
            }
            if !callers.proven.is_empty() {
                return Err(
                    "callers: unchanged clients sign no proof, so `proven` could never apply"
                        .into(),
                );
            }
        }
        self.check_place(service)?;
        self.approval.iter().try_for_each(ApprovalRule::check)?;
        self.priced.iter().try_for_each(Priced::check)?;
        if self.priced.is_some() && self.methods != ["POST"] {
            return Err("priced: requests to a model are POST, and nothing else".into());
        }
        let is_priced = self.priced.is_some();
        let mut limits = self.limits.iter();
        limits.try_for_each(|limit| limit.check_of_service(is_priced))?;
        if service.budget.is_none() && self.limits.iter().any(Limit::is_cost) {
            return Err(
                "limits: for how long is money counted? Say of the service: budget = \"per boot\", or \"across boots\"".into(),
            );
        }
        Ok(())
    }
}

impl ServiceRule {
    /// What goes over a WebSocket is nobody's to decide on beforehand, and a credential has one place.
    fn check_place(&self, service: &Service) -> Result<(), String> {
        let inject = &service.inject;
        if self.websocket {
            let wrong = |why: &str| Err(format!("websocket: {why}"));
            if self.methods != ["GET"] {
                return wrong("one is asked for by GET, and nothing else");
            }
            if self.approval.is_some() || self.priced.is_some() {
                return wrong("what is still to come cannot be approved, and has no price");
            }
            if inject.field.is_some() || inject.sigv4.is_some() {
                return wrong("the credential stands in a header, basic, query, path or message");
            }
        } else if inject.message.is_some() {
            return Err("message: every rule of the service has websocket = true".into());
        }
        let has_body = |method: &String| ["POST", "PUT", "PATCH"].contains(&method.as_str());
        if inject.field.is_some() && !self.methods.iter().all(has_body) {
            return Err("field: only POST, PUT and PATCH have a body".into());
        }
        if inject.field.is_some() && self.priced.is_some() {
            return Err("priced: no body to a model has the credential in it".into());
        }
        Ok(())
    }
}

/// Rules that could be of one request are counted alike: who sends its body has to know how, before anybody has
/// decided which rule it is.
fn check_counted(rules: &[ServiceRule]) -> Result<(), String> {
    for (index, rule) in rules.iter().enumerate() {
        let meets = |other: &&ServiceRule| {
            let paths = |one: &ServiceRule, two: &ServiceRule| {
                let mut all = one.paths.iter();
                all.any(|path| two.paths.iter().any(|other| path.matches(other.as_str())))
            };
            other
                .methods
                .iter()
                .any(|method| rule.methods.contains(method))
                && (paths(rule, other) || paths(other, rule))
        };
        let differs = |other: &&ServiceRule| other.priced != rule.priced;
        if let Some(other) = rules[..index].iter().filter(meets).find(differs) {
            return Err(format!(
                "the rules {:?} and {:?} could be of one request, and are not `priced` alike",
                other.name, rule.name
            ));
        }
    }
    Ok(())
}

/// A path as it will be sent, or a prefix of one.
fn check_path(service: &Service, path: &Pattern) -> Result<(), String> {
    let text = path.as_str();
    if text == "*" {
        return Ok(());
    }
    if !text.starts_with('/') {
        return Err(format!("the path {text:?} does not begin with /"));
    }
    let url = format!("{}{text}", service.upstream.as_str());
    let checked = match url.strip_suffix('*') {
        Some(prefix) => resource::check_prefix(prefix),
        None => resource::check(&url),
    };
    checked.map_err(|error| format!("the path {text:?}: {error}"))
}

/// All services of a bundle, which has these proven callers, and identities of the names for which
/// `is_identity` holds.
pub(crate) fn check_services(
    services: &[Service],
    proven: &[ProvenCaller],
    is_identity: impl Fn(&str) -> bool,
) -> Result<(), Error> {
    if services.len() > MAX_SERVICES {
        return Err(malformed(format!("at most {MAX_SERVICES} services")));
    }
    for (index, service) in services.iter().enumerate() {
        let wrong = |why: &str| malformed(format!("service {:?}: {why}", service.name));
        let checked = service.check(proven, &is_identity);
        checked.map_err(|why| wrong(&why))?;
        let mut before = services[..index].iter();
        if before.any(|other| other.name == service.name) {
            return Err(wrong("another one has this name"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
