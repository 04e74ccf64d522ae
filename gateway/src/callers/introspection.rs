use std::time::{Duration, Instant};

use data_encoding::BASE64;
use hyper::header::HeaderValue;
use identity::{Digest, sha256};
use quick_cache::sync::Cache;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Semaphore;

use super::fetch::{Fetch, Place};
use super::{Known, Subject, bound_to, now};
use crate::answer::Refusal;

/// What was said of a token counts for so long: a token that is revoked may be used until then.
const REMEMBERED_FOR: Duration = Duration::from_secs(30);
/// That a token is not active.
const REFUSED_FOR: Duration = Duration::from_secs(5);
/// Tokens that are remembered.
const REMEMBERED: usize = 10_000;
/// A question waits for its turn for so long.
const TURN: Duration = Duration::from_secs(5);
/// Questions at once.
const AT_ONCE: usize = 32;

/// Asks an authorization server whether a token is active (RFC 7662).
#[derive(Debug)]
pub struct Introspection {
    place: Place,
    client: HeaderValue,
    audience: Option<String>,
    fetch: Fetch,
    known: Cache<Digest<32>, (Instant, Option<Known>)>,
    questions: Semaphore,
}

#[derive(Debug, Deserialize)]
struct Answer {
    active: bool,
    sub: Option<String>,
    client_id: Option<String>,
    exp: Option<u64>,
    nbf: Option<u64>,
    aud: Option<Value>,
    cnf: Option<Value>,
}

impl Introspection {
    /// As this client; where an audience is given, tokens must be for it.
    pub fn new(
        place: Place,
        client: (&str, &str),
        audience: Option<String>,
        fetch: Fetch,
    ) -> Result<Self, String> {
        let encode =
            |text: &str| -> String { form_urlencoded::byte_serialize(text.as_bytes()).collect() };
        let pair = format!("{}:{}", encode(client.0), encode(client.1));
        let mut client = HeaderValue::try_from(format!("Basic {}", BASE64.encode(pair.as_bytes())))
            .map_err(|error| error.to_string())?;
        client.set_sensitive(true);
        Ok(Self {
            place,
            client,
            audience,
            fetch,
            known: Cache::new(REMEMBERED),
            questions: Semaphore::new(AT_ONCE),
        })
    }

    /// Whose token it is.
    pub(super) async fn check(&self, token: &str) -> Result<Known, Refusal> {
        const INACTIVE: Refusal = Refusal::Unauthenticated("the token is not active");
        let digest = sha256(token.as_bytes());
        let remembered = self.known.get(&digest);
        let known = match remembered.filter(|(until, _)| Instant::now() < *until) {
            Some((_, known)) => known,
            None => {
                let known = self.ask(token).await?;
                let time = if known.is_some() {
                    REMEMBERED_FOR
                } else {
                    REFUSED_FOR
                };
                self.known
                    .insert(digest, (Instant::now() + time, known.clone()));
                known
            }
        };
        known.filter(|known| known.expires > now()).ok_or(INACTIVE)
    }

    async fn ask(&self, token: &str) -> Result<Option<Known>, Refusal> {
        let unavailable = |why: String| {
            tracing::warn!(why, "the authorization server cannot be asked");
            Refusal::AuthenticationUnavailable("the authorization server cannot be asked".into())
        };
        // Whoever asks with tokens that nobody knows must not make others wait for long.
        let question = tokio::time::timeout(TURN, self.questions.acquire()).await;
        let Ok(_question) = question else {
            return Err(unavailable("too many tokens are asked about".into()));
        };
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("token", token)
            .append_pair("token_type_hint", "access_token")
            .finish();
        let text = self
            .fetch
            .post(&self.place, &self.client, form)
            .await
            .map_err(unavailable)?;
        let answer: Answer =
            serde_json::from_slice(&text).map_err(|error| unavailable(error.to_string()))?;
        let is_for_us = self
            .audience
            .as_deref()
            .is_none_or(|ours| match &answer.aud {
                Some(Value::String(aud)) => aud == ours,
                Some(Value::Array(all)) => all.iter().any(|aud| aud == ours),
                _ => false,
            });
        let is_now = answer.nbf.is_none_or(|from| from <= now());
        let subject = Subject::of(answer.sub, answer.client_id);
        match subject.filter(|_| answer.active && is_for_us && is_now) {
            None => Ok(None),
            Some(subject) => Ok(Some(Known {
                subject,
                expires: answer.exp.unwrap_or(u64::MAX),
                certificate: bound_to(answer.cnf.as_ref())?,
            })),
        }
    }
}
