//! On whose behalf: subject tokens of RFC 8693, and what is left of their authority when an agent acts.
//!
//! Authority only narrows: scope to a subset, resource to what lies below it, time to an earlier end; and at most five act for one
//! another.

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

use crate::token::{Claims, Link};
use crate::{Error, Message, PublicKey, UnixSeconds, json};

/// So many may act for one another (RFC 8693 section 4.1 sets no bound; Vouch does).
pub const MAX_DEPTH: usize = 5;
const MAX_BYTES: usize = 16 * 1024;
const MAX_WORDS: usize = 64;

/// Who acts, and for whom that one acted: the newest outermost (RFC 8693 section 4.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Act {
    /// The actor before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub act: Option<Box<Act>>,
    /// `agent:<name>`, where the actor is an identity of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Its DID, or whatever its issuer calls it.
    pub sub: String,
}

impl Act {
    /// The actors, newest first.
    pub fn actors(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |act| act.act.as_deref())
    }

    /// How many act for one another.
    pub fn depth(&self) -> usize {
        self.actors().count()
    }
}

/// The authority that a token shows: its claims, as far as delegation goes by them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Who issued it.
    pub iss: String,
    /// On whose behalf.
    pub sub: String,
    /// Who acts already.
    pub act: Option<Act>,
    /// Who alone may act on it.
    pub may_act: Option<String>,
    /// For whom it was made; empty for nobody in particular.
    pub aud: Vec<String>,
    /// What it allows; `None`: nothing is said.
    pub scope: Option<Vec<String>>,
    /// What it is limited to; empty: nothing is said.
    pub resource: String,
    /// End of validity.
    pub exp: i64,
    /// Its own id.
    pub jti: Option<String>,
    /// The tokens before it, oldest first.
    pub chain: Vec<Link>,
    /// This token, as a link of the next one's chain.
    pub link: Link,
}

#[derive(Deserialize)]
struct Header<'a> {
    alg: &'a str,
    kid: Option<&'a str>,
    #[serde(default)]
    crit: Option<serde_json::Value>,
}

/// The claims of another issuer that matter here; others are its own affair.
#[derive(Deserialize)]
struct Foreign {
    iss: String,
    sub: String,
    exp: i64,
    nbf: Option<i64>,
    iat: Option<i64>,
    jti: Option<String>,
    scope: Option<String>,
    #[serde(default)]
    resource: String,
    aud: Option<Audience>,
    may_act: Option<MayAct>,
    act: Option<Act>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

#[derive(Deserialize)]
struct MayAct {
    sub: String,
}

impl Subject {
    /// Who a token says has issued it, before anything is verified: to find its keys.
    pub fn unverified_issuer(token: &str) -> Result<String, Error> {
        #[derive(Deserialize)]
        struct Issuer {
            iss: String,
        }
        let issuer: Issuer = json::parse_as(&part(token, 1)?)?;
        Ok(issuer.iss)
    }

    /// Verifies a JWT of another issuer (RFC 7519) with its keys, in EdDSA or ES256.
    pub fn verify(token: &str, keys: &[PublicKey], at: UnixSeconds) -> Result<Self, Error> {
        if token.len() > MAX_BYTES {
            return Err(Error::TokenMalformed("longer than 16 KiB"));
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(Error::TokenMalformed("not three parts"))?;
        let header = json::parse(&part(token, 0)?)?;
        let header = Header::deserialize(&header).map_err(|error| Error::JsonShape(error.to_string()))?;
        if header.crit.is_some() {
            return Err(Error::TokenMalformed("a critical header"));
        }
        let bytes = part(token, 2)?;
        if signed.split('.').count() != 2 || bytes.is_empty() {
            return Err(Error::TokenMalformed("not three parts, or no signature"));
        }
        let usable = |key: &&PublicKey| {
            key.algorithm().as_str() == header.alg && header.kid.is_none_or(|kid| keys.len() == 1 || names(kid, key))
        };
        let key = keys.iter().find(usable).ok_or(Error::AlgorithmMismatch)?;
        key.verify(&Message::jws(signed), &bytes)?;
        let claims: Foreign = json::parse_as(&part(token, 1)?)?;
        crate::token::check_window(claims.nbf.or(claims.iat).unwrap_or(i64::MIN), claims.exp, at)?;
        if claims.act.as_ref().is_some_and(|act| act.depth() > MAX_DEPTH) {
            return Err(Error::DelegationInvalid("more than five act for one another"));
        }
        let scope = claims.scope.as_deref().map(words).transpose()?;
        let said = claims.scope.clone().unwrap_or_default();
        let link = Link::new(&claims.iss, &claims.sub, &said, &claims.resource, claims.iat.unwrap_or(claims.exp), signature);
        Ok(Self {
            iss: claims.iss,
            sub: claims.sub,
            act: claims.act,
            may_act: claims.may_act.map(|may| may.sub),
            aud: match claims.aud {
                None => Vec::new(),
                Some(Audience::One(one)) => vec![one],
                Some(Audience::Several(several)) => several,
            },
            scope,
            resource: claims.resource,
            exp: claims.exp,
            jti: claims.jti,
            chain: Vec::new(),
            link,
        })
    }

    /// The authority of a token of ours, which was verified.
    pub fn of(claims: &Claims, token: &str) -> Result<Self, Error> {
        let signature = token.rsplit_once('.').map(|(_, signature)| signature).ok_or(Error::TokenMalformed("not three parts"))?;
        let scope = claims.scope.clone().unwrap_or_default();
        let resource = claims.vouch.intent.resource();
        let link = Link::new(claims.iss.as_str(), &claims.sub, &scope, resource, claims.iat, signature);
        Ok(Self {
            iss: claims.iss.to_string(),
            sub: claims.sub.clone(),
            act: claims.act.clone(),
            may_act: None,
            aud: claims.aud.iter().cloned().collect(),
            scope: claims.scope.as_deref().map(words).transpose()?,
            resource: resource.to_owned(),
            exp: claims.exp,
            jti: Some(claims.jti.to_string()),
            chain: claims.vouch.delegation_chain.clone(),
            link,
        })
    }

    /// Everything by which it, or a token before it, could have been revoked.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        let links = self.chain.iter().chain([&self.link]).flat_map(|link| [link.iss.as_str(), &link.sub, &link.sig]);
        let actors = self.act.iter().flat_map(Act::actors).map(|act| act.sub.as_str());
        links.chain(actors).chain(self.jti.as_deref())
    }

    /// What remains of the scope for whoever asks for `wanted`; never more than it says.
    pub fn narrow_scope(&self, wanted: Option<&str>) -> Result<Vec<String>, Error> {
        let own = self.scope.clone().unwrap_or_default();
        match wanted.map(words).transpose()? {
            None => Ok(own),
            Some(wanted) if wanted.iter().all(|word| own.contains(word)) => Ok(wanted),
            Some(_) => Err(Error::ScopeExceedsParent),
        }
    }

    /// What remains of the resource; never outside of it.
    pub fn narrow_resource(&self, wanted: Option<&str>) -> Result<String, Error> {
        match wanted {
            None => Ok(self.resource.clone()),
            Some(wanted) if is_within(wanted, &self.resource) => Ok(wanted.to_owned()),
            Some(_) => Err(Error::ResourceExceedsParent),
        }
    }

    /// Lets `did`, called `agent`, act for whoever acted before.
    pub fn act_by(&self, did: &str, agent: &str, max_depth: usize) -> Result<Act, Error> {
        if self.may_act.as_ref().is_some_and(|may| may != did && may != agent) {
            return Err(Error::DelegationInvalid("another one may act on it"));
        }
        if !self.aud.is_empty() && !self.aud.iter().any(|aud| aud == did || aud == agent) {
            return Err(Error::DelegationInvalid("it was made for another audience"));
        }
        let taken = |act: &Act| act.sub == did || act.agent.as_deref() == Some(agent);
        if self.sub == did || self.sub == agent || self.act.iter().flat_map(Act::actors).any(taken) {
            return Err(Error::DelegationInvalid("a loop"));
        }
        let act = Act { act: self.act.clone().map(Box::new), agent: Some(agent.to_owned()), sub: did.to_owned() };
        if act.depth() > max_depth.min(MAX_DEPTH) {
            return Err(Error::DelegationInvalid("too many act for one another"));
        }
        Ok(act)
    }
}

/// Whether `wanted` is `granted` or lies below it, at a `/`. Nothing granted in particular grants all.
pub fn is_within(wanted: &str, granted: &str) -> bool {
    let (wanted, granted) = (wanted.trim_end_matches('/'), granted.trim_end_matches('/'));
    let odd = |text: &str| text.split('/').any(|part| part == ".." || part == ".") || text.contains(['%', '\\', '?', '#']);
    if granted.is_empty() || wanted == granted {
        return true;
    }
    // What can be spelled in several ways lies below nothing.
    !odd(wanted) && wanted.strip_prefix(granted).is_some_and(|below| below.starts_with('/'))
}

/// Words of a scope (RFC 6749 section 3.3), each once.
fn words(scope: &str) -> Result<Vec<String>, Error> {
    let mut words = Vec::new();
    for word in scope.split(' ').filter(|word| !word.is_empty()) {
        let good = |b: u8| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
        if !word.bytes().all(good) || words.len() == MAX_WORDS {
            return Err(Error::ScopeInvalid);
        }
        if !words.iter().any(|known| known == word) {
            words.push(word.to_owned());
        }
    }
    Ok(words)
}

fn names(kid: &str, key: &PublicKey) -> bool {
    kid == key.thumbprint()
        || kid.rsplit_once('#').map_or(kid, |(_, fragment)| fragment) == key.to_multikey()
        || kid.ends_with(&format!("#{}", key.thumbprint()))
}

fn part(token: &str, index: usize) -> Result<Vec<u8>, Error> {
    if token.len() > MAX_BYTES {
        return Err(Error::TokenMalformed("longer than 16 KiB"));
    }
    let text = token.split('.').nth(index).ok_or(Error::TokenMalformed("not three parts"))?;
    BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| Error::Base64("a subject token"))
}
