use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use data_encoding::BASE64URL_NOPAD;
use identity::{Digest, sha256};
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, JwkSet, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use quick_cache::sync::Cache;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;

use super::fetch::{Fetch, Place};
use super::{Known, Subject, bound_to, now};
use crate::answer::Refusal;

/// Signatures of a public key; never a shared secret, which a public key could be taken for.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];
/// Keys are fetched again after so long.
const FRESH: Duration = Duration::from_secs(300);
/// While they cannot be fetched, keys are good for so long.
const STALE: Duration = Duration::from_secs(3600);
/// They are not fetched more often, whatever tokens name.
const AGAIN: Duration = Duration::from_secs(10);
/// Clocks may differ by so many seconds.
const LEEWAY: u64 = 30;
/// Tokens that are remembered.
const REMEMBERED: usize = 10_000;

const INVALID: Refusal = Refusal::Unauthenticated("the token is not valid");

/// Tokens that an issuer signs, by the keys that it publishes (RFC 7519, RFC 7517, RFC 8725).
#[derive(Debug)]
pub struct Tokens {
    issuer: String,
    audience: String,
    place: Place,
    fetch: Fetch,
    keys: RwLock<Arc<Keys>>,
    fetching: Mutex<Option<Instant>>,
    known: Cache<Digest<32>, (u64, Known)>,
}

/// The keys of an issuer.
#[derive(Debug, Default)]
struct Keys {
    set: Vec<Jwk>,
    fetched: Option<Instant>,
    /// Counts the sets that were fetched and differ.
    number: u64,
}

#[derive(Debug, Deserialize)]
struct Claims {
    sub: Option<String>,
    client_id: Option<String>,
    /// A number that may have a fraction (RFC 7519 section 2).
    exp: f64,
    cnf: Option<Value>,
}

impl Tokens {
    /// Of this issuer for this audience; its keys are fetched when the first one comes.
    pub fn new(issuer: String, audience: String, place: Place, fetch: Fetch) -> Self {
        Self {
            issuer,
            audience,
            place,
            fetch,
            keys: RwLock::default(),
            fetching: Mutex::default(),
            known: Cache::new(REMEMBERED),
        }
    }

    /// Whether a token says that it is of this issuer; that is all that is known.
    pub(super) fn are_of_issuer(&self, token: &str) -> bool {
        let mut parts = token.split('.');
        let payload = parts
            .nth(1)
            .and_then(|part| BASE64URL_NOPAD.decode(part.as_bytes()).ok());
        let claims: Option<Value> = payload.and_then(|json| serde_json::from_slice(&json).ok());
        claims.is_some_and(|claims| claims["iss"] == self.issuer.as_str())
    }

    /// Whose token it is.
    pub(super) async fn check(&self, token: &str) -> Result<Known, Refusal> {
        let digest = sha256(token.as_bytes());
        let keys = self.keys();
        if let Some((number, known)) = self.known.get(&digest)
            && keys.are_fresh()
            && number == keys.number
        {
            let is_valid = known.expires.saturating_add(LEEWAY) > now();
            return is_valid.then_some(known).ok_or(INVALID);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| INVALID)?;
        if !ALGORITHMS.contains(&header.alg) {
            return Err(INVALID);
        }
        let keys = self.keys_with(header.kid.as_deref()).await?;
        let key = keys.find(header.kid.as_deref()).ok_or(INVALID)?;
        let known = self.verify(token, key, header.alg)?;
        self.known.insert(digest, (keys.number, known.clone()));
        Ok(known)
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "the end of time is far enough"
    )]
    fn verify(&self, token: &str, key: &Jwk, algorithm: Algorithm) -> Result<Known, Refusal> {
        let is_its = key
            .common
            .key_algorithm
            .is_none_or(|its| its.to_string() == format!("{algorithm:?}"));
        let key = DecodingKey::from_jwk(key).map_err(|_| INVALID)?;
        let mut validation = Validation::new(algorithm);
        validation.leeway = LEEWAY;
        validation.validate_nbf = true;
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&[&self.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        let decoded = jsonwebtoken::decode::<Claims>(token, &key, &validation);
        let claims = decoded.map_err(|_| INVALID)?.claims;
        let subject = Subject::of(claims.sub, claims.client_id);
        let subject = subject.filter(|_| is_its).ok_or(INVALID)?;
        Ok(Known {
            subject,
            expires: claims.exp as u64,
            certificate: bound_to(claims.cnf.as_ref())?,
        })
    }

    fn keys(&self) -> Arc<Keys> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&keys)
    }

    /// The keys, fetched again if they are old, or if this one is not among them.
    async fn keys_with(&self, id: Option<&str>) -> Result<Arc<Keys>, Refusal> {
        let is_good = |keys: &Keys| keys.are_fresh() && keys.find(id).is_some();
        let keys = self.keys();
        if is_good(&keys) {
            return Ok(keys);
        }
        // One fetches; who waited for it finds what it found.
        let mut last = self.fetching.lock().await;
        let keys = self.keys();
        if is_good(&keys) {
            return Ok(keys);
        }
        let unavailable = |why: &str| {
            Refusal::AuthenticationUnavailable(format!(
                "the issuer's keys cannot be fetched: {why}"
            ))
        };
        if last.is_some_and(|last| last.elapsed() < AGAIN) {
            return match keys.are_usable() {
                true => Ok(keys),
                false => Err(unavailable("it was tried a moment ago")),
            };
        }
        *last = Some(Instant::now());
        match self.fetch_keys(&keys).await {
            Ok(keys) => {
                let mut place = self.keys.write().unwrap_or_else(PoisonError::into_inner);
                *place = Arc::clone(&keys);
                Ok(keys)
            }
            Err(why) => {
                tracing::warn!(why, "the issuer's keys cannot be fetched");
                match keys.are_usable() {
                    true => Ok(keys),
                    false => Err(unavailable(&why)),
                }
            }
        }
    }

    async fn fetch_keys(&self, before: &Keys) -> Result<Arc<Keys>, String> {
        let text = self.fetch.get(&self.place).await?;
        let set: JwkSet = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
        let set: Vec<Jwk> = set.keys.into_iter().filter(is_for_signatures).collect();
        if set.is_empty() {
            return Err("it has no key for signatures".into());
        }
        let number = before.number + u64::from(set != before.set);
        Ok(Arc::new(Keys {
            set,
            fetched: Some(Instant::now()),
            number,
        }))
    }
}

impl Keys {
    fn are_fresh(&self) -> bool {
        self.fetched.is_some_and(|at| at.elapsed() < FRESH)
    }

    fn are_usable(&self) -> bool {
        self.fetched.is_some_and(|at| at.elapsed() < STALE)
    }

    /// The one key of this id; without an id, the only one that there is.
    fn find(&self, id: Option<&str>) -> Option<&Jwk> {
        let is_it = |key: &&Jwk| id.is_none() || key.common.key_id.as_deref() == id;
        let mut found = self.set.iter().filter(is_it);
        found.next().filter(|_| found.next().is_none())
    }
}

fn is_for_signatures(key: &Jwk) -> bool {
    let is_public = matches!(
        key.algorithm,
        AlgorithmParameters::RSA(_)
            | AlgorithmParameters::EllipticCurve(_)
            | AlgorithmParameters::OctetKeyPair(_)
    );
    let of_use = key.common.public_key_use.as_ref();
    let for_use = of_use.is_none_or(|of_use| *of_use == PublicKeyUse::Signature);
    let operations = key.common.key_operations.as_ref();
    let for_operation = operations.is_none_or(|all| all.contains(&KeyOperations::Verify));
    is_public && for_use && for_operation
}
