//! The agent's manifest, as it is served.

use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH};
use hyper::{Response, StatusCode};
use identity::sha256;
use serde_json::json;
use uuid::Uuid;

use crate::answer::Refusal;
use crate::body::Body;
use crate::signer::{Answer, Signer, Wanted};

/// The action of the intent with which it is signed.
const ACTION: &str = "iatp.manifest";
/// For how long, in seconds.
const VALIDITY: u32 = 3600;
/// After a failure it is tried again.
const AGAIN: Duration = Duration::from_secs(10);

/// The manifest as it is served.
#[derive(Debug)]
pub(crate) struct ManifestPage {
    body: Bytes,
    etag: HeaderValue,
    /// A token over it, and until when that is served.
    signed: RwLock<Option<(Bytes, Instant)>>,
}

impl ManifestPage {
    pub(crate) fn new(document: &serde_json::Map<String, serde_json::Value>) -> Self {
        let body = serde_json::to_vec(document).expect("JSON of ours");
        let etag = format!("\"{}\"", sha256(&body));
        Self {
            etag: HeaderValue::try_from(etag).expect("hexadecimal digits"),
            body: body.into(),
            signed: RwLock::default(),
        }
    }

    /// Has it signed, again and again.
    pub(crate) async fn keep_signed(&self, signer: &Signer, agent_id: &str) {
        let mut has_failed = false;
        loop {
            let asked = Instant::now();
            let wanted = Wanted {
                action: ACTION,
                target: agent_id,
                payload: json!({"media_type": "application/json", "sha256": sha256(&self.body)}),
                seconds: Some(VALIDITY),
                approval: None,
            };
            let why = match signer.sign(&wanted).await {
                Ok(Answer::Signed(token)) => {
                    let until = asked + Duration::from_secs(VALIDITY.into());
                    let mut signed = self.signed.write().unwrap_or_else(PoisonError::into_inner);
                    *signed = Some((token.into(), until));
                    None
                }
                Ok(Answer::Waits(_)) => Some(format!("the policy wants {ACTION} approved")),
                Err(error) => Some(error.to_string()),
            };
            if let Some(why) = why.as_ref().filter(|_| !has_failed) {
                tracing::error!(why, "the manifest is not signed");
            }
            has_failed = why.is_some();
            tokio::time::sleep(if has_failed {
                AGAIN
            } else {
                Duration::from_secs(VALIDITY.into()) / 2
            })
            .await;
        }
    }

    /// The token over it: `payload.sha256` is the digest of the document as it is served.
    pub(crate) fn respond_signed(&self, trace_id: Uuid) -> Response<Body> {
        let signed = self.signed.read().unwrap_or_else(PoisonError::into_inner);
        let good = signed.as_ref().filter(|(_, until)| Instant::now() < *until);
        let Some((token, _)) = good else {
            return Refusal::NotFound.respond(trace_id);
        };
        let mut response = Response::new(Body::from(token.clone()));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/jwt"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        response
    }

    /// As JSON.
    pub(crate) fn document(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The answer to a GET.
    pub(crate) fn respond(&self, request: &hyper::Request<Incoming>) -> Response<Body> {
        let known = request.headers().get_all(IF_NONE_MATCH).iter();
        let is_known = known
            .filter_map(|value| value.to_str().ok())
            .flat_map(|text| text.split(','))
            .map(|tag| tag.trim().trim_start_matches("W/"))
            .any(|tag| tag == "*" || tag.as_bytes() == self.etag.as_bytes());
        let mut response = if is_known {
            let mut response = Response::new(Body::from(Bytes::new()));
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        } else {
            Response::new(Body::from(self.body.clone()))
        };
        let headers = response.headers_mut();
        headers.insert(ETAG, self.etag.clone());
        let hour = HeaderValue::from_static("max-age=3600");
        headers.insert(CACHE_CONTROL, hour);
        if !is_known {
            let json = HeaderValue::from_static("application/json");
            headers.insert(CONTENT_TYPE, json);
        }
        response
    }
}
