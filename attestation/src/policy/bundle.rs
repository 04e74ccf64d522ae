use std::collections::{BTreeMap, BTreeSet};

use identity::{Algorithm, Did, PublicKey, json};
use serde::{Deserialize, Serialize};

use super::{Pattern, PolicyDigest};
use crate::Error;

/// A bundle's canonical form is at most this long, so that it fits through the window with a document beside it.
pub const MAX_BYTES: usize = 32 * 1024;
const MAX_VALIDITY_SECONDS: u32 = 24 * 60 * 60;

/// What the enclave is told once per boot, and commits to. Everything in it is public.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// 1.
    pub version: u32,
    /// A production enclave refuses `development`.
    pub mode: Mode,
    /// The Ed25519 key that the proxy proves on every connection.
    pub proxy_key: MultikeyText,
    /// The key whose signature orders what callers may not: rotation, for now.
    pub operator_key: MultikeyText,
    /// The identities to give birth to.
    pub identities: Vec<IdentityPolicy>,
}

/// For what the enclave may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// On a laptop, or to try things.
    Development,
    /// In earnest.
    Production,
}

/// A public key, written as Multikey.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MultikeyText(pub PublicKey);

impl TryFrom<String> for MultikeyText {
    type Error = identity::Error;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        PublicKey::from_multikey(&text).map(Self)
    }
}

impl From<MultikeyText> for String {
    fn from(key: MultikeyText) -> Self {
        key.0.to_multikey()
    }
}

/// One identity: its DID, its kind of key, who may use it, and for what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityPolicy {
    /// Lowercase letters, digits, `-`, `_` and `.`; at most 63.
    pub name: String,
    /// `did:key`, for one that follows from the key, or a whole `did:web:...`.
    pub did: String,
    /// `EdDSA` or `ES256`.
    pub algorithm: Algorithm,
    /// The longest validity of anything signed, in seconds; at most a day.
    pub max_validity_seconds: u32,
    /// Who may ask for signatures, as the proxy asserts them.
    pub callers: Callers,
    /// Who may rotate the key without an order of the operator. Nobody, if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation_callers: Option<Callers>,
    /// What may be signed. The first rule that allows decides; without one nothing is.
    pub rules: Vec<Rule>,
}

/// Callers by what the proxy saw of them. Any one match is enough.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Callers {
    /// User ids of Unix socket peers.
    #[serde(default)]
    pub uids: Vec<u32>,
    /// Effective group ids of Unix socket peers.
    #[serde(default)]
    pub gids: Vec<u32>,
    /// Names of callers on localhost, each with a token of its own in the proxy's configuration.
    #[serde(default)]
    pub names: Vec<String>,
}

/// Allows signatures whose intent, payload and audience all match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Decisions name it.
    pub name: String,
    /// Accepted actions.
    pub actions: Vec<Pattern>,
    /// Accepted targets.
    pub targets: Vec<Pattern>,
    /// Accepted resources.
    pub resources: Vec<Pattern>,
    /// Accepted audiences; if given, a request must name one. If left out, any audience or none is accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audiences: Option<Vec<Pattern>>,
    /// A shorter limit than the identity's, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_validity_seconds: Option<u32>,
    /// Payload members that must be there, by RFC 6901 pointer, and what they must be.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub payload: BTreeMap<String, Constraint>,
    /// Whether the payload may hold top-level members that `payload` does not name.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub payload_closed: bool,
}

/// What a payload member must be; every member that is given must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Constraint {
    /// Exactly one of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_of: Option<Vec<Scalar>>,
    /// An integer, and not below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<i64>,
    /// An integer, and not above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<i64>,
    /// A string that matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<Pattern>,
}

/// A JSON value without members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Scalar {
    /// `true` or `false`.
    Bool(bool),
    /// A safe integer.
    Integer(i64),
    /// A string.
    Text(String),
}

impl Bundle {
    /// Reads what people write. Unknown keys are errors.
    pub fn from_toml(text: &str) -> Result<Self, Error> {
        let bundle: Self = toml::from_str(text).map_err(|error| malformed(error.to_string()))?;
        bundle.check()?;
        Ok(bundle)
    }

    /// Reads the canonical form and nothing else.
    pub fn from_canonical(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_BYTES {
            return Err(malformed("longer than 32 KiB"));
        }
        let bundle: Self = json::parse_as(bytes).map_err(|error| malformed(error.to_string()))?;
        bundle.check()?;
        if bundle.canonical() == bytes { Ok(bundle) } else { Err(malformed("not in canonical form")) }
    }

    /// Reads either form: canonical JSON begins with a brace, TOML cannot.
    pub fn from_either(text: &[u8]) -> Result<Self, Error> {
        if text.first() == Some(&b'{') {
            return Self::from_canonical(text.strip_suffix(b"\n").unwrap_or(text));
        }
        Self::from_toml(std::str::from_utf8(text).map_err(|_| malformed("not UTF-8"))?)
    }

    /// RFC 8785 JSON: the bytes that are committed to.
    pub fn canonical(&self) -> Vec<u8> {
        // Only strings, booleans and safe integers, which RFC 8785 can always write.
        json::canonical(self).expect("a checked bundle has a canonical form")
    }

    /// The digest of the canonical form.
    pub fn digest(&self) -> PolicyDigest {
        PolicyDigest::of(&self.canonical())
    }

    /// The identity of this name.
    pub fn identity(&self, name: &str) -> Option<&IdentityPolicy> {
        self.identities.iter().find(|identity| identity.name == name)
    }

    fn check(&self) -> Result<(), Error> {
        if self.version != 1 {
            return Err(malformed("version is not 1"));
        }
        if self.proxy_key.0.algorithm() != Algorithm::EdDSA {
            return Err(malformed("proxy_key is not an Ed25519 key"));
        }
        if self.proxy_key == self.operator_key {
            return Err(malformed(
                "the operator's key must not be the proxy's: the proxy could order what only the operator may",
            ));
        }
        if self.identities.is_empty() || self.identities.len() > 64 {
            return Err(malformed("1 to 64 identities"));
        }
        for (index, identity) in self.identities.iter().enumerate() {
            identity.check().map_err(|why| malformed(format!("identity {:?}: {why}", identity.name)))?;
            let twin =
                |other: &IdentityPolicy| other.name == identity.name || (other.did != "did:key" && other.did == identity.did);
            if self.identities[..index].iter().any(twin) {
                return Err(malformed(format!("identity {:?}: another one has this name or did", identity.name)));
            }
        }
        if json::canonical(self)?.len() > MAX_BYTES {
            return Err(malformed("longer than 32 KiB"));
        }
        Ok(())
    }
}

impl IdentityPolicy {
    /// Whether an attested DID and algorithm are what this policy says.
    pub fn describes(&self, did: &Did, algorithm: Algorithm) -> bool {
        self.algorithm == algorithm && (self.did == did.as_str() || (self.did == "did:key" && did.embedded_key().is_some()))
    }

    fn check(&self) -> Result<(), String> {
        check_name(&self.name)?;
        match self.did.as_str() {
            "did:key" => {}
            web if web.starts_with("did:web:") => {
                Did::parse(web).map_err(|error| error.to_string())?;
            }
            _ => return Err("did is neither \"did:key\" nor a did:web".into()),
        }
        check_validity(self.max_validity_seconds)?;
        self.callers.check()?;
        if self.callers == Callers::default() {
            return Err("callers name nobody, so nobody could use it".into());
        }
        if let Some(callers) = &self.rotation_callers {
            callers.check()?;
        }
        if self.rules.is_empty() || self.rules.len() > 256 {
            return Err("1 to 256 rules".into());
        }
        let mut names = BTreeSet::new();
        for rule in &self.rules {
            rule.check().map_err(|why| format!("rule {:?}: {why}", rule.name))?;
            if !names.insert(&rule.name) {
                return Err(format!("two rules are called {:?}", rule.name));
            }
        }
        Ok(())
    }
}

impl Callers {
    fn check(&self) -> Result<(), String> {
        // The overflow id stands for every user that a user namespace cannot name (user_namespaces(7)).
        if self.uids.contains(&65534) || self.gids.contains(&65534) {
            return Err("65534 is nobody in particular and cannot be a caller".into());
        }
        self.names.iter().try_for_each(|name| check_name(name))
    }
}

impl Rule {
    fn check(&self) -> Result<(), String> {
        check_name(&self.name)?;
        if self.actions.is_empty() || self.targets.is_empty() || self.resources.is_empty() {
            return Err("actions, targets and resources each need a pattern; \"*\" matches any".into());
        }
        if self.audiences.as_ref().is_some_and(Vec::is_empty) {
            return Err("an empty list of audiences matches none; leave it out to accept any".into());
        }
        if let Some(seconds) = self.max_validity_seconds {
            check_validity(seconds)?;
        }
        for (pointer, constraint) in &self.payload {
            if !pointer.starts_with('/') {
                return Err(format!("{pointer:?} is not an RFC 6901 pointer such as \"/amount\""));
            }
            constraint.check().map_err(|why| format!("{pointer:?}: {why}"))?;
        }
        Ok(())
    }
}

impl Constraint {
    fn check(&self) -> Result<(), &'static str> {
        let scalars = self.one_of.iter().flatten();
        let integers = scalars.filter_map(|scalar| if let Scalar::Integer(n) = scalar { Some(*n) } else { None });
        if integers.chain(self.min).chain(self.max).any(|n| n.unsigned_abs() > json::MAX_SAFE_INTEGER) {
            return Err("an integer is beyond 2^53-1");
        }
        if self.min.zip(self.max).is_some_and(|(min, max)| min > max) {
            return Err("min is above max");
        }
        Ok(())
    }
}

fn check_name(name: &str) -> Result<(), String> {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
    if name.is_empty() || name.len() > 63 || !name.bytes().all(good) {
        return Err("a name has 1 to 63 lowercase letters, digits, '-', '_' or '.'".into());
    }
    Ok(())
}

fn check_validity(seconds: u32) -> Result<(), String> {
    if (1..=MAX_VALIDITY_SECONDS).contains(&seconds) { Ok(()) } else { Err("max_validity_seconds is 1 to 86400".into()) }
}

fn malformed(why: impl Into<String>) -> Error {
    Error::PolicyMalformed(why.into())
}
