//! did:key and did:web (W3C DID 1.0), their documents with Multikey, and JWKS (RFC 7517 section 5).

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{Error, Jwk, PublicKey, json};

/// A `did:key` of an Ed25519 or P-256 key, or a `did:web`, checked when it was made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Did(String);

const MAX_BYTES: usize = 256;

impl Did {
    /// Reads and checks a DID.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.len() > MAX_BYTES {
            return Err(Error::DidInvalid("longer than 256 bytes"));
        }
        if let Some(multikey) = text.strip_prefix("did:key:") {
            PublicKey::from_multikey(multikey)?;
        } else if let Some(rest) = text.strip_prefix("did:web:") {
            check_web(rest)?;
        } else {
            return Err(Error::DidInvalid("neither did:key nor did:web"));
        }
        Ok(Self(text.to_owned()))
    }

    /// The did:key of `key`.
    pub fn key(key: &PublicKey) -> Self {
        Self(format!("did:key:{}", key.to_multikey()))
    }

    /// The key that a did:key is made of; `None` for did:web.
    pub fn embedded_key(&self) -> Option<PublicKey> {
        self.0
            .strip_prefix("did:key:")
            .and_then(|multikey| PublicKey::from_multikey(multikey).ok())
    }

    /// Whether the method is `web`.
    pub fn is_web(&self) -> bool {
        self.0.starts_with("did:web:")
    }

    /// The DID as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `domain[%3Aport][:segment]*`, lowercase domain (did:web method, section 2.1).
fn check_web(rest: &str) -> Result<(), Error> {
    let mut parts = rest.split(':');
    let authority = parts.next().unwrap_or_default();
    let (domain, port) = match authority.split_once("%3A") {
        Some((domain, port)) => (domain, Some(port)),
        None => (authority, None),
    };
    let label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if !domain.split('.').all(label) {
        return Err(Error::DidInvalid("did:web needs a lowercase domain name"));
    }
    if port.is_some_and(|port| {
        port.parse::<u16>()
            .map_or(true, |n| n == 0 || n.to_string() != port)
    }) {
        return Err(Error::DidInvalid("did:web has a malformed port"));
    }
    let segment = |s: &str| {
        !s.is_empty()
            && s != "."
            && s != ".."
            && s.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
    };
    if parts.all(segment) {
        Ok(())
    } else {
        Err(Error::DidInvalid("did:web has a malformed path"))
    }
}

impl fmt::Display for Did {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Did {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        Self::parse(&text)
    }
}

impl From<Did> for String {
    fn from(did: Did) -> Self {
        did.0
    }
}

/// A DID URL that names one key: for did:key its own fragment, for did:web the RFC 7638 thumbprint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(into = "String")]
pub struct KeyId(String);

impl KeyId {
    /// The id of `key` under `did`. A did:key names only its own key.
    pub fn of(did: &Did, key: &PublicKey) -> Result<Self, Error> {
        match did.embedded_key() {
            Some(own) if own != *key => Err(Error::KeyIdMismatch),
            Some(_) => Ok(Self(format!("{did}#{}", key.to_multikey()))),
            None => Ok(Self(format!("{did}#{}", key.thumbprint()))),
        }
    }

    /// The DID URL as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> Self {
        id.0
    }
}

/// A DID document: one DID and its keys, the newest last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    did: Did,
    keys: Vec<(KeyId, PublicKey)>,
}

/// A document with more verification methods is not looked at.
const MAX_METHODS: usize = 64;

/// The contexts of every document of this profile.
const CONTEXTS: [&str; 2] = [
    "https://www.w3.org/ns/did/v1",
    "https://w3id.org/security/multikey/v1",
];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireDocument {
    id: Did,
    verification_method: Vec<WireMethod>,
    assertion_method: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireMethod {
    id: String,
    r#type: String,
    controller: Did,
    public_key_multibase: String,
}

impl Document {
    /// The document of `did` with these keys. A did:key has exactly its own.
    pub fn new(did: Did, keys: &[PublicKey]) -> Result<Self, Error> {
        if keys.is_empty() {
            return Err(Error::DidDocumentInvalid("no key"));
        }
        let keys = keys
            .iter()
            .map(|key| Ok((KeyId::of(&did, key)?, key.clone())))
            .collect::<Result<_, Error>>()?;
        Ok(Self { did, keys })
    }

    /// Reads a document and checks that every key that asserts is of this DID and named as this
    /// profile names keys.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let wire: WireDocument = json::parse_as(text)?;
        if wire.verification_method.len() > MAX_METHODS || wire.assertion_method.len() > MAX_METHODS
        {
            return Err(Error::DidDocumentInvalid(
                "more than 64 verification methods",
            ));
        }
        let mut keys = Vec::new();
        for method in &wire.verification_method {
            if !wire.assertion_method.contains(&method.id) {
                continue;
            }
            if method.r#type != "Multikey" || method.controller != wire.id {
                return Err(Error::DidDocumentInvalid(
                    "a verification method is no Multikey of this DID",
                ));
            }
            let key = PublicKey::from_multikey(&method.public_key_multibase)?;
            if KeyId::of(&wire.id, &key)?.as_str() != method.id {
                return Err(Error::DidDocumentInvalid(
                    "a verification method has another id than its key",
                ));
            }
            keys.push(key);
        }
        Self::new(wire.id, &keys)
    }

    /// The DID.
    pub fn did(&self) -> &Did {
        &self.did
    }

    /// The key of this id, if the document lists it.
    pub fn key(&self, id: &str) -> Option<&PublicKey> {
        self.keys
            .iter()
            .find(|(listed, _)| listed.as_str() == id)
            .map(|(_, key)| key)
    }

    /// The document as JSON: Multikeys for assertion and authentication.
    pub fn to_json(&self) -> Value {
        let ids: Vec<&KeyId> = self.keys.iter().map(|(id, _)| id).collect();
        let methods: Vec<Value> = self
            .keys
            .iter()
            .map(|(id, key)| {
                json!({"id": id, "type": "Multikey", "controller": self.did, "publicKeyMultibase": key.to_multikey()})
            })
            .collect();
        json!({
            "@context": CONTEXTS,
            "id": self.did,
            "verificationMethod": methods,
            "assertionMethod": ids,
            "authentication": ids,
        })
    }

    /// The keys as JWKs with `kid`, `alg` and `use`.
    pub fn to_jwks(&self) -> Vec<Jwk> {
        let jwk = |(id, key): &(KeyId, PublicKey)| Jwk {
            kid: Some(id.to_string()),
            alg: Some(key.algorithm().as_str().into()),
            usage: Some("sig".into()),
            ..key.to_jwk()
        };
        self.keys.iter().map(jwk).collect()
    }
}

/// Reads a JWKS (RFC 7517 section 5) of this profile's keys.
pub fn parse_jwks(text: &[u8]) -> Result<Vec<(Option<String>, PublicKey)>, Error> {
    #[derive(Deserialize)]
    struct Jwks {
        keys: Vec<Jwk>,
    }
    let jwks: Jwks = json::parse_as(text)?;
    jwks.keys
        .iter()
        .map(|jwk| Ok((jwk.kid.clone(), PublicKey::from_jwk(jwk)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signer::tests::both_public as keys;

    #[test]
    fn dids_are_read_strictly() {
        for good in [
            "did:web:my-agent.example.com",
            "did:web:localhost%3A8443",
            "did:web:3.example.com:agents:A-1._",
        ] {
            let did = Did::parse(good).unwrap();
            assert_eq!(
                (did.as_str(), did.is_web(), did.embedded_key()),
                (good, true, None)
            );
        }
        for key in keys() {
            let did = Did::key(&key);
            assert_eq!((did.is_web(), did.embedded_key()), (false, Some(key)));
        }
        for bad in [
            "",
            "did:web:",
            "did:web:Example.com",
            "did:web:a..b",
            "did:web:a/b",
            "did:web:a:..:b",
            "did:web:a:",
            "did:web:a%3A0",
            "did:web:a%3A99999",
            "did:web:a%2Fb",
            "did:web:a#b",
            "did:key:",
            "did:key:z6Mk",
            "did:ion:x",
            "DID:web:a",
            "did:web:-a",
            "did:web:a-",
            "did:web:a_b",
            "did:web:a%3A",
            "did:web:a%3A080",
            "did:web:a:.",
            "did:web:a:b+c",
        ] {
            assert!(Did::parse(bad).is_err(), "{bad}");
        }
        assert!(Did::parse(&format!("did:web:{}", "a".repeat(MAX_BYTES - 8))).is_ok());
        assert!(Did::parse(&format!("did:web:{}", "a".repeat(MAX_BYTES - 7))).is_err());
    }

    #[test]
    fn documents_and_jwks_read_back() {
        let web = Did::parse("did:web:agent.example.com").unwrap();
        let [ed, p256] = keys();
        for (did, keys) in [
            (web, vec![ed.clone(), p256.clone()]),
            (Did::key(&ed), vec![ed]),
            (Did::key(&p256), vec![p256]),
        ] {
            let document = Document::new(did, &keys).unwrap();
            let text = document.to_json().to_string();
            assert_eq!(Document::parse(text.as_bytes()).unwrap(), document);
            for key in &keys {
                let kid = KeyId::of(document.did(), key).unwrap();
                assert_eq!(document.key(kid.as_str()), Some(key));
                let jwk = document
                    .to_jwks()
                    .into_iter()
                    .find(|jwk| jwk.kid.as_deref() == Some(kid.as_str()))
                    .unwrap();
                assert_eq!(jwk.alg.as_deref(), Some(key.algorithm().as_str()));
                assert_eq!(jwk.usage.as_deref(), Some("sig"));
                assert_eq!(PublicKey::from_jwk(&jwk).as_ref(), Ok(key));
            }
            assert_eq!(document.key("did:web:agent.example.com"), None);
            let jwks = json!({ "keys": document.to_jwks() }).to_string();
            let read: Vec<PublicKey> = parse_jwks(jwks.as_bytes())
                .unwrap()
                .into_iter()
                .map(|(_, key)| key)
                .collect();
            assert_eq!(read, keys);
        }
    }

    #[test]
    fn a_document_that_lies_about_a_key_is_refused() {
        let [ed, p256] = keys();
        assert_eq!(
            Document::new(Did::key(&ed), std::slice::from_ref(&p256)).unwrap_err(),
            Error::KeyIdMismatch
        );
        let web = Did::parse("did:web:agent.example.com").unwrap();
        let text = Document::new(web, std::slice::from_ref(&ed))
            .unwrap()
            .to_json()
            .to_string();
        for (from, to) in [
            (ed.to_multikey(), p256.to_multikey()),
            (
                "\"controller\":\"did:web:agent".to_owned(),
                "\"controller\":\"did:web:other".to_owned(),
            ),
            (
                "\"type\":\"Multikey\"".to_owned(),
                "\"type\":\"JsonWebKey\"".to_owned(),
            ),
            (
                "\"assertionMethod\":[".to_owned(),
                "\"assertionMethod\":[],\"x\":[".to_owned(),
            ),
        ] {
            assert!(text.contains(&from));
            assert!(
                Document::parse(text.replace(&from, &to).as_bytes()).is_err(),
                "{from}"
            );
        }
    }

    #[test]
    fn a_document_has_at_most_64_methods_and_others_than_those_that_assert_do_not_count() {
        let [ed, p256] = keys();
        let web = Did::parse("did:web:agent.example.com").unwrap();
        let written = Document::new(web, &[ed.clone(), p256]).unwrap().to_json();
        let first = |document: &Value, list: &str| document[list][0].clone();
        let with = |methods: usize, assertions: usize| {
            let mut document = written.clone();
            document["verificationMethod"] =
                Value::Array(vec![first(&written, "verificationMethod"); methods]);
            document["assertionMethod"] =
                Value::Array(vec![first(&written, "assertionMethod"); assertions]);
            Document::parse(document.to_string().as_bytes())
        };
        assert!(with(64, 64).is_ok());
        assert_eq!(
            with(65, 1),
            Err(Error::DidDocumentInvalid(
                "more than 64 verification methods"
            ))
        );
        assert_eq!(
            with(1, 65),
            Err(Error::DidDocumentInvalid(
                "more than 64 verification methods"
            ))
        );
        assert_eq!(with(0, 1), Err(Error::DidDocumentInvalid("no key")));
        let mut one = written.clone();
        one["assertionMethod"] = json!([first(&written, "assertionMethod")]);
        let document = Document::parse(one.to_string().as_bytes()).unwrap();
        assert_eq!(document.to_jwks().len(), 1);
        assert_eq!(
            document.key(first(&written, "assertionMethod").as_str().unwrap()),
            Some(&ed)
        );
    }
}
