//! Asks an enclave's sidecar to sign: over its Unix socket, as any agent does (`POST /sign`).

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

use crate::reason::innermost;
use crate::unix::UnixConnector;

/// It is asked for so long.
const TIMEOUT: Duration = Duration::from_secs(10);
/// What it answers is no longer.
const MAX_ANSWER: usize = 256 << 10;

/// A sidecar, and the identity that signs.
#[derive(Debug, Clone)]
pub struct Signer {
    client: Client<UnixConnector, Full<Bytes>>,
    socket: PathBuf,
    identity: Option<String>,
}

/// What is to be signed.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// The intent's action.
    pub action: &'a str,
    /// The intent's target.
    pub target: &'a str,
    /// The payload; an object.
    pub payload: Value,
    /// For how long it is valid; as long as the sidecar likes without it.
    pub seconds: Option<u32>,
    /// Of the approval that it waited for.
    pub approval: Option<&'a str>,
}

/// What came of it.
#[derive(Debug)]
pub enum Answer {
    /// The token.
    Signed(String),
    /// Somebody must approve it: as the sidecar says what waits.
    Waits(Value),
}

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The policy does not allow it, or the request cannot be.
    #[error("refused: {code}: {detail}")]
    Refused {
        /// The sidecar's code.
        code: String,
        /// For people.
        detail: String,
    },
    /// The sidecar cannot be asked now, or cannot sign.
    #[error("{0}")]
    Unavailable(String),
}

impl Signer {
    /// At this socket. Without an identity the sidecar must know which one is meant.
    pub fn new(socket: PathBuf, identity: Option<String>) -> Self {
        // Workers have runtimes of their own, so that no connection can be shared.
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(0)
            .build(UnixConnector::new(socket.clone()));
        Self {
            client,
            socket,
            identity,
        }
    }

    /// Where it is asked.
    pub fn socket(&self) -> &std::path::Path {
        &self.socket
    }

    /// Asks once.
    pub async fn sign(&self, wanted: &Wanted<'_>) -> Result<Answer, Error> {
        let mut body = json!({
            "payload": wanted.payload,
            "intent": {"action": wanted.action, "target": wanted.target},
        });
        let optional = [
            ("identity", self.identity.as_deref().map(Value::from)),
            ("validity_seconds", wanted.seconds.map(Value::from)),
            ("approval", wanted.approval.map(Value::from)),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                body[name] = value;
            }
        }
        let mut request = Request::new(Full::from(body.to_string()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static("http://localhost/sign");
        let kind = HeaderValue::from_static("application/json");
        request.headers_mut().insert(CONTENT_TYPE, kind);
        let asked = async {
            let answer = self.client.request(request).await.map_err(|error| {
                let error = innermost(&error);
                Error::Unavailable(format!("{}: {error}", self.socket.display()))
            })?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
            let odd = |why: String| Error::Unavailable(format!("an odd answer: {why}"));
            let body = body.map_err(|error| odd(error.to_string()))?.to_bytes();
            let body: Value =
                serde_json::from_slice(&body).map_err(|error| odd(error.to_string()))?;
            read(status, &body)
        };
        let late = |_| Error::Unavailable(format!("{}: no answer", self.socket.display()));
        tokio::time::timeout(TIMEOUT, asked).await.map_err(late)?
    }
}

fn read(status: StatusCode, body: &Value) -> Result<Answer, Error> {
    let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    match status {
        StatusCode::OK => match body["vouch_token"].as_str() {
            Some(token) => Ok(Answer::Signed(token.to_owned())),
            None => Err(Error::Unavailable("an answer without a token".into())),
        },
        StatusCode::ACCEPTED if body["approval"]["id"].is_string() => {
            Ok(Answer::Waits(body["approval"].clone()))
        }
        status if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS => {
            Err(Error::Refused {
                code: text("code"),
                detail: text("detail"),
            })
        }
        status => Err(Error::Unavailable(format!(
            "{status}: {} {}",
            text("code"),
            text("detail")
        ))),
    }
}
