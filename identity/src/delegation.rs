//! On whose behalf: subject tokens of RFC 8693, and what is left of their authority when an agent
//! acts.
//!
//! Authority only narrows: scope to a subset, resource to what lies below it, time to an earlier
//! end; and at most five act for one another.

use data_encoding::BASE64URL_NOPAD;
use serde::Deserialize;

pub use crate::act::{Act, MAX_DEPTH};
use crate::token::{Claims, DelegationLink};
use crate::{Digest, Error, Intent, Message, PublicKey, UnixSeconds, json, resource, sha256};

/// What the name of an identity of a bundle begins with, as an actor or an audience:
/// `agent:<name>`. Nobody outside may be called so.
pub const AGENT: &str = "agent:";
const MAX_BYTES: usize = 16 * 1024;
const MAX_WORDS: usize = 64;

/// Whether two texts are the beginnings of the same signature, base64url. Only its first half is
/// looked at, `r` of ECDSA and `R` of EdDSA: anybody who has an ECDSA signature `(r, s)` can make `(r,
/// n - s)` of it, which verifies as well.
fn is_same_signature(one: &str, other: &str) -> bool {
    /// Characters that are all of the first 32 bytes: 252 of 256 bits.
    const HALF: usize = 42;
    one == other
        || one
            .get(..HALF)
            .is_some_and(|half| other.get(..HALF) == Some(half))
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
    pub chain: Vec<DelegationLink>,
    /// This token, as a link of the next one's chain.
    pub link: DelegationLink,
    /// SHA-256 of what its issuer signed (`header.claims`): the same whatever the signature's
    /// bytes, of which ES256 has two.
    pub digest: Digest<32>,
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
    vouch: Option<ForeignVouch>,
}

impl Foreign {
    /// Scope, as text, and resource.
    fn purpose(&self) -> Result<(Option<String>, String), Error> {
        // A Vouch token says what it is for in its intent: its action is its scope.
        let intent = self.vouch.as_ref().and_then(|vouch| vouch.intent.as_ref());
        if intent.is_some_and(|intent| intent.action().contains(' ')) && self.scope.is_none() {
            return Err(Error::ScopeInvalid);
        }
        let scope = self
            .scope
            .clone()
            .or_else(|| intent.map(|intent| intent.action().to_owned()));
        let resource = match intent {
            Some(intent) if self.resource.is_empty() => intent.resource().to_owned(),
            _ => self.resource.clone(),
        };
        // What was signed for one action is none of a stranger's to take up: it must say by whom,
        // and for what.
        if self.vouch.is_some()
            && (self.aud.is_none() && self.may_act.is_none() || resource.is_empty())
        {
            return Err(Error::DelegationInvalid(
                "a Vouch token that is handed on names who may act (aud or may_act), and a resource",
            ));
        }
        Ok((scope, resource))
    }
}

/// Verifies a compact JWS by one of these keys; gives what was signed, and the signature's text.
fn verify_signature<'t>(token: &'t str, keys: &[PublicKey]) -> Result<(&'t str, &'t str), Error> {
    if token.len() > MAX_BYTES {
        return Err(Error::TokenMalformed("longer than 16 KiB"));
    }
    let (signed, signature) = token
        .rsplit_once('.')
        .ok_or(Error::TokenMalformed("not three parts"))?;
    let header = json::parse(&part(token, 0)?)?;
    let header =
        Header::deserialize(&header).map_err(|error| Error::JsonShape(error.to_string()))?;
    if header.crit.is_some() {
        return Err(Error::TokenMalformed("a critical header"));
    }
    let bytes = part(token, 2)?;
    if signed.split('.').count() != 2 || bytes.is_empty() {
        return Err(Error::TokenMalformed("not three parts, or no signature"));
    }
    let usable = |key: &&PublicKey| {
        key.algorithm().as_str() == header.alg
            && header
                .kid
                .is_none_or(|kid| keys.len() == 1 || names(kid, key))
    };
    let key = keys.iter().find(usable).ok_or(Error::AlgorithmMismatch)?;
    key.verify(&Message::jws(signed), &bytes)?;
    Ok((signed, signature))
}

/// What a Vouch token of other software says beside: what it is for, and the tokens before it.
#[derive(Deserialize)]
struct ForeignVouch {
    intent: Option<Intent>,
    #[serde(default)]
    delegation_chain: Vec<DelegationLink>,
}

impl ForeignVouch {
    /// The chain, if each link is signed, and was given to the one who issued the next, the last
    /// one to `iss`.
    fn chain(&self, iss: &str, iat: i64) -> Result<Vec<DelegationLink>, Error> {
        let links = &self.delegation_chain;
        if links.len() >= MAX_DEPTH {
            return Err(Error::DelegationInvalid(
                "more than five act for one another",
            ));
        }
        let next = links
            .iter()
            .skip(1)
            .map(|link| (link.iss.as_str(), link.iat))
            .chain([(iss, iat)]);
        for (link, (issuer, at)) in links.iter().zip(next) {
            if link.sig.is_empty() || link.is_approval() {
                return Err(Error::DelegationInvalid(
                    "a link of its chain is not signed",
                ));
            }
            if link.sub != issuer {
                return Err(Error::SubjectIssuerMismatch);
            }
            if link.iat > at {
                return Err(Error::OutsideValidityWindow(format!(
                    "a link of the chain was made at {}, after what it allowed, at {}",
                    UnixSeconds(link.iat),
                    UnixSeconds(at)
                )));
            }
        }
        let mut issuers: Vec<&str> = links
            .iter()
            .map(|link| link.iss.as_str())
            .chain([iss])
            .collect();
        issuers.sort_unstable();
        if issuers.windows(2).any(|two| two[0] == two[1]) {
            return Err(Error::DelegationInvalid("a loop"));
        }
        Ok(links.clone())
    }
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
        let (signed, signature) = verify_signature(token, keys)?;
        let claims: Foreign = json::parse_as(&part(token, 1)?)?;
        let begins = UnixSeconds(claims.nbf.or(claims.iat).unwrap_or(i64::MIN));
        crate::token::check_window("subject token", begins, UnixSeconds(claims.exp), at)?;
        if claims
            .act
            .as_ref()
            .is_some_and(|act| act.depth() > MAX_DEPTH)
        {
            return Err(Error::DelegationInvalid(
                "more than five act for one another",
            ));
        }
        let (claimed, resource) = claims.purpose()?;
        let scope = claimed.as_deref().map(words).transpose()?;
        let iat = claims.iat.unwrap_or(claims.exp);
        let chain = claims
            .vouch
            .as_ref()
            .map(|vouch| vouch.chain(&claims.iss, iat))
            .transpose()?
            .unwrap_or_default();
        let link = DelegationLink::new(
            &claims.iss,
            &claims.sub,
            &claimed.unwrap_or_default(),
            &resource,
            iat,
            signature,
        );
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
            resource,
            exp: claims.exp,
            jti: claims.jti,
            chain,
            link,
            digest: sha256(signed.as_bytes()),
        })
    }

    /// The authority of a token of ours, which was verified.
    pub fn of(claims: &Claims, token: &str) -> Result<Self, Error> {
        let (signed, signature) = token
            .rsplit_once('.')
            .ok_or(Error::TokenMalformed("not three parts"))?;
        let scope = claims.scope.clone().unwrap_or_default();
        let resource = claims.vouch.intent.resource();
        let link = DelegationLink::new(
            claims.iss.as_str(),
            &claims.sub,
            &scope,
            resource,
            claims.iat,
            signature,
        );
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
            digest: sha256(signed.as_bytes()),
        })
    }

    /// Whether an entry of a list of what is revoked means it, a token before it, or somebody in
    /// it: the `jti` or the digest of this token; of any token the beginning of its signature, its
    /// issuer, its subject; an actor, by its `sub` or `agent`.
    pub fn is_revoked_by(&self, entry: &str) -> bool {
        let of_link = |link: &DelegationLink| {
            link.iss == entry || link.sub == entry || is_same_signature(entry, &link.sig)
        };
        self.jti.as_deref() == Some(entry)
            || self.digest.to_string() == entry
            || self.links().any(of_link)
            || self.act.as_ref().is_some_and(|act| act.names(entry))
    }

    /// Who issued this token and those before it, oldest first.
    pub fn issuers(&self) -> impl Iterator<Item = &str> {
        self.links().map(|link| link.iss.as_str())
    }

    fn links(&self) -> impl Iterator<Item = &DelegationLink> {
        self.chain.iter().chain([&self.link])
    }

    /// Everybody whom it names as having acted or delegated: its subject, its actors, who issued
    /// and was given each token before it.
    pub fn principals(&self) -> impl Iterator<Item = &str> {
        let actors = self
            .act
            .iter()
            .flat_map(Act::actors)
            .flat_map(|act| [Some(act.sub.as_str()), act.agent.as_deref()]);
        let chain = self
            .chain
            .iter()
            .flat_map(|link| [link.iss.as_str(), &link.sub]);
        actors.flatten().chain(chain).chain([self.sub.as_str()])
    }

    /// What remains of the scope for a caller that asks for `wanted`; never more than it says.
    pub fn narrow_scope(&self, wanted: Option<&str>) -> Result<Vec<String>, Error> {
        let own = self.scope.clone().unwrap_or_default();
        match wanted.map(words).transpose()? {
            None => Ok(own),
            Some(wanted) if wanted.iter().all(|word| own.contains(word)) => Ok(wanted),
            Some(wanted) => Err(Error::ScopeExceedsParent {
                wanted: wanted.join(" "),
                given: own.join(" "),
            }),
        }
    }

    /// What remains of the resource; never outside of it.
    pub fn narrow_resource(&self, wanted: Option<&str>) -> Result<String, Error> {
        match wanted {
            None => Ok(self.resource.clone()),
            Some(wanted) if is_within(wanted, &self.resource) => Ok(wanted.to_owned()),
            Some(wanted) => Err(Error::ResourceExceedsParent {
                wanted: wanted.to_owned(),
                given: self.resource.clone(),
            }),
        }
    }

    /// Lets `did`, called `agent`, act for the one who acted before.
    pub fn act_by(&self, did: &str, agent: &str, max_depth: usize) -> Result<Act, Error> {
        if self
            .may_act
            .as_ref()
            .is_some_and(|may| may != did && may != agent)
        {
            return Err(Error::DelegationInvalid("another one may act on it"));
        }
        if !self.aud.is_empty() && !self.aud.iter().any(|aud| aud == did || aud == agent) {
            return Err(Error::DelegationInvalid("it was made for another audience"));
        }
        let taken = |act: &Act| act.sub == did || act.agent.as_deref() == Some(agent);
        if self.sub == did || self.sub == agent || self.act.iter().flat_map(Act::actors).any(taken)
        {
            return Err(Error::DelegationInvalid("a loop"));
        }
        let act = Act {
            act: self.act.clone().map(Box::new),
            agent: Some(agent.to_owned()),
            sub: did.to_owned(),
        };
        if act.depth() > max_depth.min(MAX_DEPTH) {
            return Err(Error::DelegationInvalid("too many act for one another"));
        }
        Ok(act)
    }
}

/// Whether `wanted` is `granted` or lies below it, at a `/`. Nothing granted in particular grants
/// all. What is not spelled in the one way ([`crate::resource`]) lies below nothing.
pub fn is_within(wanted: &str, granted: &str) -> bool {
    if granted.is_empty() || wanted == granted {
        return true;
    }
    // A slash at the end says nothing, but where it is all that there is, or ends a scheme.
    fn stem(text: &str) -> &str {
        text.strip_suffix('/')
            .filter(|stem| !stem.is_empty() && !stem.ends_with('/'))
            .unwrap_or(text)
    }
    let granted = stem(granted);
    let is_below = wanted
        .strip_prefix(granted)
        .is_some_and(|below| granted.ends_with('/') || below.starts_with('/'));
    resource::check(wanted).is_ok() && (stem(wanted) == granted || is_below)
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
    let text = token
        .split('.')
        .nth(index)
        .ok_or(Error::TokenMalformed("not three parts"))?;
    BASE64URL_NOPAD
        .decode(text.as_bytes())
        .map_err(|_| Error::Base64("a subject token"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::Signer;
    use crate::signer::tests::{TestKey, both, twin};

    const AT: UnixSeconds = UnixSeconds(1000);

    fn jwt(key: &TestKey, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = key.sign(&Message::jws(&signed)).unwrap();
        format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature))
    }

    fn claims() -> Value {
        json!({
            "iss": "https://idp", "sub": "user:a", "exp": 1100, "nbf": 990, "iat": 980, "jti": "j", "scope": "b a b", "resource": "x://y",
            "aud": ["one", "two"], "may_act": {"sub": "agent:one"}, "act": {"sub": "s2", "act": {"sub": "s1"}}, "other": [1]
        })
    }

    fn subject(change: &dyn Fn(&mut Value)) -> Subject {
        let [key, _] = both();
        let mut claims = claims();
        change(&mut claims);
        Subject::verify(
            &jwt(&key, &json!({"alg": "EdDSA"}), &claims),
            &[key.public_key().clone()],
            AT,
        )
        .unwrap()
    }

    #[test]
    fn a_vouch_token_of_other_software_brings_its_intent_and_its_chain() {
        let link = |iss: &str, sub: &str, iat: i64, sig: &str| json!({"iss": iss, "sub": sub, "intent": "{}", "iat": iat, "sig": sig});
        let with = |scope: Option<&str>, chain: Value| {
            let [key, _] = both();
            let mut claims = json!({
                "iss": "did:key:b", "sub": "user:a", "exp": 1100, "iat": 980, "jti": "j", "aud": "agent:one",
                "vouch": {"version": "1.0", "payload": {}, "delegation_chain": chain,
                          "intent": {"action": "read", "target": "t", "resource": "x://y/z"}},
            });
            scope
                .iter()
                .for_each(|scope| claims["scope"] = json!(scope));
            Subject::verify(
                &jwt(
                    &key,
                    &json!({"alg": "EdDSA", "typ": "JWT", "kid": "k"}),
                    &claims,
                ),
                &[key.public_key().clone()],
                AT,
            )
        };
        let good = with(
            None,
            json!([
                link("user:a", "did:key:c", 900, "s1"),
                link("did:key:c", "did:key:b", 950, "s2")
            ]),
        )
        .unwrap();
        assert_eq!(
            (good.scope.as_deref(), good.resource.as_str()),
            (Some(&["read".to_owned()][..]), "x://y/z")
        );
        assert_eq!(good.chain.len(), 2);
        assert!(
            ["s1", "s2", "did:key:c"]
                .iter()
                .all(|id| good.is_revoked_by(id)),
            "each can be revoked"
        );
        assert!(
            !["s", "S1", "did:key", "i", ""]
                .iter()
                .any(|id| good.is_revoked_by(id))
        );
        assert_eq!(
            with(Some("a b"), json!([])).unwrap().scope.unwrap(),
            ["a", "b"]
        );
        for (chain, code) in [
            (
                json!([link("user:a", "did:key:b", 900, "")]),
                "delegation_invalid",
            ),
            (
                json!([link("approver:x", "did:key:b", 900, "s")]),
                "delegation_invalid",
            ),
            (
                json!([link("user:a", "did:key:x", 900, "s")]),
                "subject_issuer_mismatch",
            ),
            (
                json!([
                    link("user:a", "did:key:c", 900, "s"),
                    link("did:key:d", "did:key:b", 900, "s")
                ]),
                "subject_issuer_mismatch",
            ),
            (
                json!([link("user:a", "did:key:b", 981, "s")]),
                "outside_validity_window",
            ),
            (
                json!([
                    link("user:a", "did:key:c", 951, "s"),
                    link("did:key:c", "did:key:b", 950, "s")
                ]),
                "outside_validity_window",
            ),
            (
                json!([link("did:key:b", "did:key:b", 900, "s")]),
                "delegation_invalid",
            ),
            (
                json!([
                    link("user:a", "user:a", 900, "s"),
                    link("user:a", "did:key:b", 900, "s")
                ]),
                "delegation_invalid",
            ),
            (json!([{"iss": "user:a"}]), "json_shape"),
        ] {
            assert_eq!(
                with(None, chain.clone()).unwrap_err().code(),
                code,
                "{chain}"
            );
        }
        // One that was made for a tool, or for no resource in particular, or whose action is no
        // word.
        let bare = |change: &dyn Fn(&mut Value)| {
            let [key, _] = both();
            let mut claims = json!({
                "iss": "did:key:b", "sub": "user:a", "exp": 1100, "iat": 980, "aud": "agent:one",
                "vouch": {"intent": {"action": "read", "target": "", "resource": "r"}},
            });
            change(&mut claims);
            let token = jwt(&key, &json!({"alg": "EdDSA"}), &claims);
            Subject::verify(&token, &[key.public_key().clone()], AT)
                .map(|_| ())
                .map_err(|error| error.code())
        };
        assert_eq!(bare(&|_| ()), Ok(()));
        // What the token itself is limited to goes before what its intent says.
        let limited = |claims: &mut Value| {
            claims["resource"] = "x://y/z".into();
            claims["vouch"]["intent"]["resource"] = "".into();
        };
        assert_eq!(bare(&limited), Ok(()));
        assert_eq!(
            bare(&|claims| drop(claims.as_object_mut().unwrap().remove("aud"))),
            Err("delegation_invalid")
        );
        assert_eq!(
            bare(&|claims| claims["vouch"]["intent"]["resource"] = "".into()),
            Err("delegation_invalid")
        );
        assert_eq!(
            bare(&|claims| claims["vouch"]["intent"]["action"] = "do not merge".into()),
            Err("scope_invalid")
        );
        let long: Vec<Value> = (0..5)
            .map(|n| {
                link(
                    &format!("i{n}"),
                    &if n == 4 {
                        "did:key:b".to_owned()
                    } else {
                        format!("i{}", n + 1)
                    },
                    900,
                    "s",
                )
            })
            .collect();
        assert_eq!(
            with(None, json!(long[1..])).map(|subject| subject.chain.len()),
            Ok(4)
        );
        assert_eq!(
            with(None, json!(long)).unwrap_err().code(),
            "delegation_invalid"
        );
    }

    #[test]
    fn only_what_lies_below_is_within() {
        for (wanted, granted) in [
            ("anything", ""),
            ("https://a/x?y", "https://a/x?y"),
            ("https://a/x/y", "https://a/x"),
            ("https://a/x/y", "https://a/x/"),
            ("https://a/x/", "https://a/x"),
            ("https://a/x", "https://a/x/"),
            ("https://a/x", "https://a"),
            ("/etc/passwd", "/"),
            ("/etc", "/etc/"),
            ("mcp://github/pr", "mcp://github"),
            ("mcp://github", "mcp://github/"),
        ] {
            assert!(is_within(wanted, granted), "{wanted} {granted}");
        }
        for (wanted, granted) in [
            ("https://bank.example/v1", "/"),
            ("https://bank.example/v1", "//"),
            ("x", "/"),
            ("mcp:/x", "mcp:///"),
            ("https://a/x///", "https://a/x"),
            ("https://a/xy", "https://a/x"),
            ("https://a/x/../y", "https://a/x"),
            ("https://a.evil/x", "https://a"),
            ("https://A/x", "https://a"),
            ("", "https://a"),
            ("https://a", "https://a/x"),
        ] {
            assert!(!is_within(wanted, granted), "{wanted} {granted}");
        }
    }

    #[test]
    fn the_twin_of_a_revoked_ecdsa_signature_is_revoked_too() {
        let [_, key] = both();
        let token = jwt(&key, &json!({"alg": "ES256"}), &claims());
        let twin = twin(&token, &key);
        let read = |token: &str| Subject::verify(token, &[key.public_key().clone()], AT).unwrap();
        // Both are good: honest issuers write either.
        let (one, other) = (read(&token), read(&twin));
        assert_ne!((&one.link.sig, &token), (&other.link.sig, &twin));
        assert_eq!(one.digest, other.digest);
        for subject in [&one, &other] {
            for entry in [&one.link.sig, &other.link.sig, &one.digest.to_string()] {
                assert!(subject.is_revoked_by(entry), "{entry}");
            }
        }
        // And so is what was taken up from either of them.
        let next = |before: &Subject| Subject {
            chain: vec![before.link.clone()],
            ..subject(&|claims| claims["iss"] = "x".into())
        };
        assert!(
            next(&one).is_revoked_by(&other.link.sig) && next(&other).is_revoked_by(&one.link.sig)
        );
        let another = read(&jwt(
            &key,
            &json!({"alg": "ES256"}),
            &json!({"iss": "https://idp2", "sub": "b", "exp": 1100}),
        ));
        assert!(
            ![&one.link.sig, &other.link.sig, &one.digest.to_string()]
                .iter()
                .any(|entry| another.is_revoked_by(entry))
        );
    }

    #[test]
    fn a_foreign_token_says_what_it_allows() {
        for key in both() {
            let alg = key.public_key().algorithm().as_str();
            let token = jwt(
                &key,
                &json!({"alg": alg, "typ": "JWT", "kid": "any"}),
                &claims(),
            );
            let subject = Subject::verify(&token, &[key.public_key().clone()], AT).unwrap();
            assert_eq!(Subject::unverified_issuer(&token), Ok("https://idp".into()));
            assert_eq!(
                (subject.iss.as_str(), subject.sub.as_str(), subject.exp),
                ("https://idp", "user:a", 1100)
            );
            assert_eq!(subject.scope, Some(vec!["b".into(), "a".into()]));
            assert_eq!(
                (subject.resource.as_str(), subject.jti.as_deref()),
                ("x://y", Some("j"))
            );
            assert_eq!(
                (subject.aud.len(), subject.may_act.as_deref()),
                (2, Some("agent:one"))
            );
            assert_eq!(subject.act.as_ref().unwrap().depth(), 2);
            let signature = token.rsplit_once('.').unwrap().1;
            let link = &subject.link;
            assert_eq!(
                (link.iss.as_str(), link.sub.as_str(), link.iat),
                ("https://idp", "user:a", 980)
            );
            assert_eq!(
                (link.sig.as_str(), link.intent.as_str()),
                (
                    &signature[..64],
                    "{\"resource\":\"x://y\",\"scope\":\"b a b\"}"
                )
            );
            let digest = sha256(token.rsplit_once('.').unwrap().0.as_bytes()).to_string();
            for id in [
                "https://idp",
                "user:a",
                &signature[..64],
                signature,
                "s2",
                "s1",
                "j",
                &digest,
            ] {
                assert!(subject.is_revoked_by(id), "{id}");
            }
            let other = format!("A{}", &signature[1..64]);
            for id in [
                "https://idp/",
                "user:b",
                &signature[..41],
                &other,
                "s3",
                "",
                "one",
                "agent:one",
            ] {
                assert!(!subject.is_revoked_by(id), "{id}");
            }
            assert_eq!(subject.issuers().collect::<Vec<_>>(), ["https://idp"]);
            assert_eq!(
                subject.principals().collect::<Vec<_>>(),
                ["s2", "s1", "user:a"]
            );
        }
        let one = subject(&|claims| claims["aud"] = "one".into());
        assert_eq!(one.aud, ["one"]);
        let bare = subject(&|claims| {
            claims
                .as_object_mut()
                .unwrap()
                .retain(|name, _| ["iss", "sub", "exp"].contains(&name.as_str()))
        });
        assert_eq!(
            (
                bare.aud.len(),
                bare.scope,
                bare.resource.as_str(),
                bare.link.iat
            ),
            (0, None, "", 1100)
        );
    }

    #[test]
    fn keys_are_found_by_their_id_where_there_are_several() {
        let keys = [TestKey::ed25519(1), TestKey::ed25519(2)];
        let public: Vec<PublicKey> = keys.iter().map(|key| key.public_key().clone()).collect();
        let verify = |kid: Option<String>, by: usize| {
            let header = kid.map_or_else(
                || json!({"alg": "EdDSA"}),
                |kid| json!({"alg": "EdDSA", "kid": kid}),
            );
            Subject::verify(&jwt(&keys[by], &header, &claims()), &public, AT)
                .map(|_| ())
                .map_err(|error| error.code())
        };
        let (print, multikey) = (public[1].thumbprint(), public[1].to_multikey());
        for kid in [
            print.clone(),
            multikey.clone(),
            format!("did:web:x#{print}"),
            format!("did:key:{multikey}#{multikey}"),
        ] {
            assert_eq!(verify(Some(kid.clone()), 1), Ok(()), "{kid}");
            assert_eq!(verify(Some(kid), 0), Err("signature_invalid"));
        }
        assert_eq!(verify(None, 0), Ok(()));
        assert_eq!(
            verify(None, 1),
            Err("signature_invalid"),
            "without an id the first one is meant"
        );
        assert_eq!(
            verify(Some("nobody's".into()), 1),
            Err("algorithm_mismatch")
        );
        assert_eq!(
            verify(Some(format!("x{print}")), 1),
            Err("algorithm_mismatch")
        );
    }

    #[test]
    fn what_is_no_good_token_is_refused() {
        let [key, p256] = both();
        let keys = [key.public_key().clone()];
        let verify = |token: &str| {
            Subject::verify(token, &keys, AT)
                .map(|_| ())
                .map_err(|error| error.code())
        };
        let header = json!({"alg": "EdDSA"});
        let good = jwt(&key, &header, &claims());
        assert_eq!(verify(&good), Ok(()));
        let (signed, _) = good.rsplit_once('.').unwrap();
        assert_eq!(verify(&format!("{signed}.")), Err("token_malformed"));
        assert_eq!(verify(signed), Err("token_malformed"));
        assert_eq!(verify(&format!("{good}.x")), Err("token_malformed"));
        assert_eq!(
            verify(&jwt(&p256, &header, &claims())),
            Err("signature_invalid")
        );
        assert_eq!(
            verify(&jwt(&p256, &json!({"alg": "ES256"}), &claims())),
            Err("algorithm_mismatch")
        );
        assert_eq!(
            verify(&jwt(&key, &json!({"alg": "none"}), &claims())),
            Err("algorithm_mismatch")
        );
        assert_eq!(
            verify(&jwt(&key, &json!({"alg": "EdDSA", "crit": []}), &claims())),
            Err("token_malformed")
        );
        let with = |name: &str, value: Value| {
            let mut claims = claims();
            claims[name] = value;
            verify(&jwt(&key, &header, &claims))
        };
        assert_eq!(with("exp", 970.into()), Err("expired"));
        assert_eq!(with("exp", 971.into()), Ok(()));
        assert_eq!(with("nbf", 1031.into()), Err("not_yet_valid"));
        assert_eq!(with("nbf", 1030.into()), Ok(()));
        assert_eq!(with("sub", Value::Null), Err("json_shape"));
        assert_eq!(with("scope", "\"".into()), Err("scope_invalid"));
        let deep = |n: usize| {
            (1..n).fold(
                json!({"sub": "a"}),
                |inner, _| json!({"sub": "b", "act": inner}),
            )
        };
        assert_eq!(with("act", deep(5)), Ok(()));
        assert_eq!(with("act", deep(6)), Err("delegation_invalid"));
        let long = |n: usize| verify(&format!("{}.e30.e30", "a".repeat(n)));
        assert_ne!(long(MAX_BYTES - 8), Err("token_malformed"));
        assert_eq!(long(MAX_BYTES - 7), Err("token_malformed"));
        assert!(
            Subject::unverified_issuer(&format!("{}.e30.e30", "a".repeat(MAX_BYTES - 7))).is_err()
        );
        assert_eq!(MAX_BYTES, 16_384);
    }

    #[test]
    fn scopes_are_sets_of_words_and_only_shrink() {
        let subject = subject(&|_| ());
        assert_eq!(
            subject.narrow_scope(None),
            Ok(vec!["b".to_owned(), "a".to_owned()])
        );
        assert_eq!(subject.narrow_scope(Some("a")), Ok(vec!["a".to_owned()]));
        assert_eq!(
            subject.narrow_scope(Some(" a  b ")),
            Ok(vec!["a".to_owned(), "b".to_owned()])
        );
        let exceeds = |wanted: &str, given: &str| Error::ScopeExceedsParent {
            wanted: wanted.to_owned(),
            given: given.to_owned(),
        };
        assert_eq!(
            subject.narrow_scope(Some("a c")),
            Err(exceeds("a c", "b a"))
        );
        assert_eq!(subject.narrow_scope(Some("a\\")), Err(Error::ScopeInvalid));
        let none = self::subject(&|claims| drop(claims.as_object_mut().unwrap().remove("scope")));
        assert_eq!(none.narrow_scope(None), Ok(Vec::new()));
        assert_eq!(none.narrow_scope(Some("a")), Err(exceeds("a", "")));
        let many = |n: usize| {
            words(&(0..n).map(|n| n.to_string()).collect::<Vec<_>>().join(" "))
                .map(|words| words.len())
        };
        assert_eq!((many(64), many(65)), (Ok(64), Err(Error::ScopeInvalid)));
        for good in ["!", "#", "[", "]", "~", "a:b/c"] {
            assert!(words(good).is_ok(), "{good}");
        }
        for bad in ["\"", "\\", "\u{7f}", "é", "a\tb"] {
            assert_eq!(words(bad), Err(Error::ScopeInvalid), "{bad}");
        }
    }

    #[test]
    fn resources_lie_below_one_another_at_a_slash() {
        for (wanted, granted, within) in [
            ("x://y", "x://y", true),
            ("x://y/", "x://y", true),
            ("x://y", "x://y/", true),
            ("x://y/z", "x://y", true),
            ("x://y/z/w", "x://y/", true),
            ("anything", "", true),
            ("x://yz", "x://y", false),
            ("x://", "x://y", false),
            ("", "x://y", false),
            ("x://y/../z", "x://y", false),
            ("x://y/./z", "x://y", false),
            ("x://y/%2e", "x://y", false),
            ("x://y/a?b", "x://y", false),
            ("x://y/a#b", "x://y", false),
            ("x://y/a\\b", "x://y", false),
            ("x://y/a..b", "x://y", true),
        ] {
            assert_eq!(is_within(wanted, granted), within, "{wanted} {granted}");
        }
        let subject = subject(&|_| ());
        assert_eq!(subject.narrow_resource(None), Ok("x://y".into()));
        assert_eq!(
            subject.narrow_resource(Some("x://y/z")),
            Ok("x://y/z".into())
        );
        assert_eq!(
            subject.narrow_resource(Some("x://z")),
            Err(Error::ResourceExceedsParent {
                wanted: "x://z".into(),
                given: "x://y".into()
            })
        );
    }

    #[test]
    fn who_acts_is_meant_is_new_and_is_not_one_too_many() {
        let open = |claims: &mut Value| {
            claims
                .as_object_mut()
                .unwrap()
                .retain(|name, _| !["aud", "may_act"].contains(&name.as_str()))
        };
        let act = subject(&open).act_by("did:x", "agent:one", 5).unwrap();
        assert_eq!(
            (act.sub.as_str(), act.agent.as_deref(), act.depth()),
            ("did:x", Some("agent:one"), 3)
        );
        assert_eq!(
            act.actors().map(|act| act.sub.as_str()).collect::<Vec<_>>(),
            ["did:x", "s2", "s1"]
        );
        assert!(subject(&open).act_by("did:x", "agent:one", 3).is_ok());
        assert!(subject(&open).act_by("did:x", "agent:one", 2).is_err());
        let five = |claims: &mut Value| {
            open(claims);
            claims["act"] = (1..5).fold(
                json!({"sub": "a"}),
                |inner, n| json!({"sub": format!("b{n}"), "act": inner}),
            );
        };
        assert!(
            subject(&five).act_by("did:x", "agent:one", 9).is_err(),
            "never more than five"
        );
        for (name, value, did, agent, good) in [
            (
                "may_act",
                json!({"sub": "agent:one"}),
                "did:x",
                "agent:one",
                true,
            ),
            (
                "may_act",
                json!({"sub": "did:x"}),
                "did:x",
                "agent:one",
                true,
            ),
            (
                "may_act",
                json!({"sub": "did:y"}),
                "did:x",
                "agent:one",
                false,
            ),
            ("aud", json!("did:x"), "did:x", "agent:one", true),
            ("aud", json!(["x", "agent:one"]), "did:x", "agent:one", true),
            ("aud", json!(["x"]), "did:x", "agent:one", false),
            ("sub", json!("did:x"), "did:x", "agent:one", false),
            ("sub", json!("agent:one"), "did:x", "agent:one", false),
            ("act", json!({"sub": "did:x"}), "did:x", "agent:one", false),
            (
                "act",
                json!({"sub": "s", "agent": "agent:one"}),
                "did:x",
                "agent:one",
                false,
            ),
            (
                "act",
                json!({"sub": "s", "agent": "agent:two"}),
                "did:x",
                "agent:one",
                true,
            ),
        ] {
            let subject = subject(&|claims| {
                open(claims);
                claims[name] = value.clone();
            });
            assert_eq!(
                subject.act_by(did, agent, 5).is_ok(),
                good,
                "{name} {value}"
            );
        }
    }

    #[test]
    fn a_token_of_ours_hands_on_what_it_has() {
        let [key, _] = both();
        let did = crate::Did::key(key.public_key());
        let act = Act {
            act: None,
            agent: Some("agent:one".into()),
            sub: did.to_string(),
        };
        let claims = Claims {
            iss: did.clone(),
            sub: "user:a".into(),
            act: Some(act.clone()),
            scope: Some("a b".into()),
            aud: Some("two".into()),
            iat: 900,
            nbf: 900,
            exp: 1100,
            jti: uuid::Uuid::from_bytes([1; 16]),
            binding: sha256(b"x"),
            tee: crate::Tee::Mock,
            caller: crate::Caller::Asserted(crate::caller::ObservedCaller::ids(1, 1)),
            vouch: crate::token::Vouch {
                version: "1.0".into(),
                payload: crate::Payload::default(),
                intent: Intent::new("act".into(), String::new(), "x://y".into()).unwrap(),
                delegation_chain: vec![DelegationLink::new(
                    "https://idp",
                    "user:a",
                    "a b",
                    "x://y",
                    800,
                    &"s".repeat(86),
                )],
            },
        };
        let kid = crate::KeyId::of(&did, key.public_key()).unwrap();
        let token = crate::token::sign(&claims, &kid, &key).unwrap();
        let expected = crate::token::Expected {
            key: key.public_key(),
            did: &did,
            at: AT,
            audience: Some("two"),
        };
        let verify = |claims: &Claims| {
            let token = crate::token::sign(claims, &kid, &key).unwrap();
            crate::token::verify(&token, &expected)
                .map(|_| ())
                .map_err(|error| error.code())
        };
        assert_eq!(verify(&claims), Ok(()));
        let subject = Subject::of(&claims, &token).unwrap();
        assert_eq!(
            (subject.iss.as_str(), subject.sub.as_str(), subject.exp),
            (did.as_str(), "user:a", 1100)
        );
        assert_eq!(
            (subject.act, subject.aud, subject.resource.as_str()),
            (Some(act), vec!["two".to_owned()], "x://y")
        );
        assert_eq!(
            (
                subject.scope.unwrap().len(),
                subject.chain.len(),
                subject.may_act
            ),
            (2, 1, None)
        );
        assert_eq!(
            subject.jti.as_deref(),
            Some("01010101-0101-0101-0101-010101010101")
        );
        assert_eq!((subject.link.iat, subject.link.sig.len()), (900, 64));
        assert!(Subject::of(&claims, "no token").is_err());

        // Actors and chain belong together; approvals are no tokens.
        let change = |change: &dyn Fn(&mut Claims)| {
            let mut claims = claims.clone();
            change(&mut claims);
            verify(&claims)
        };
        let approval =
            DelegationLink::approval("alice", did.as_str(), sha256(b"r"), 1000, &"s".repeat(86));
        assert!(approval.is_approval() && !claims.vouch.delegation_chain[0].is_approval());
        assert_eq!(
            (approval.iss.as_str(), approval.sig.len()),
            ("approver:alice", 64)
        );
        let refused = Err("delegation_invalid");
        assert_eq!(change(&|c| c.vouch.delegation_chain.clear()), refused);
        assert_eq!(
            change(&|c| c.vouch.delegation_chain = vec![approval.clone()]),
            refused
        );
        assert_eq!(
            change(&|c| c.vouch.delegation_chain.push(approval.clone())),
            Ok(())
        );
        let links = |links: usize, approvals: usize| {
            change(&|c| {
                c.vouch.delegation_chain = vec![c.vouch.delegation_chain[0].clone(); links];
                c.vouch
                    .delegation_chain
                    .extend(vec![approval.clone(); approvals]);
            })
        };
        assert_eq!(
            (links(5, 5), links(6, 0), links(5, 6)),
            (Ok(()), refused, refused)
        );
        let own = |c: &mut Claims| (c.act, c.sub) = (None, did.to_string());
        assert_eq!(change(&|c| own(c)), refused);
        assert_eq!(
            change(&|c| (own(c), c.vouch.delegation_chain.clear()).1),
            Ok(())
        );
        assert_eq!(
            change(&|c| (own(c), c.vouch.delegation_chain = vec![approval.clone()]).1),
            Ok(())
        );
        assert_eq!(
            change(&|c| c.act.as_mut().unwrap().sub = "did:x".into()),
            Err("issuer_mismatch")
        );
        let deep = |n: usize| {
            change(&|c| {
                let inner = (1..n).fold(None, |inner: Option<Box<Act>>, _| {
                    Some(Box::new(Act {
                        act: inner,
                        agent: None,
                        sub: "s".into(),
                    }))
                });
                c.act = Some(Act {
                    act: inner,
                    agent: None,
                    sub: did.to_string(),
                });
            })
        };
        assert_eq!((deep(5), deep(6)), (Ok(()), refused));
    }
}
