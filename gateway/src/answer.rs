//! What the gateway answers itself.

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

/// The body of an answer: of the gateway's own, or the agent's as it comes.
pub type Body = Either<Full<Bytes>, Incoming>;

/// Why a request is not forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// It is not what HTTP or JSON allows.
    Malformed(&'static str),
    /// The body is no JSON.
    NotJson(String),
    /// It is longer than so many bytes.
    TooLarge(usize),
    /// The body did not arrive in time.
    TooSlow,
    /// It cannot be looked through.
    Unreadable(&'static str),
    /// The gateway cannot do that.
    NotSupported(&'static str),
    /// A rule blocks it.
    Blocked {
        /// The rule.
        rule: String,
    },
    /// Trust is low, or a rule warns; it can be overridden, or not.
    Warned {
        /// Of what.
        warning: String,
        /// The agent's score.
        score: u8,
        /// How it can be overridden.
        by: Override,
    },
    /// What passes cannot be written down.
    Unrecorded,
    /// The agent cannot be reached, or broke off.
    BackendBroken(String),
    /// The agent did not answer in time.
    BackendSlow,
    /// There is nothing at this path.
    NotFound,
    /// The path takes other methods.
    WrongMethod,
}

/// How a warning can be overridden.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Override {
    /// Not at all.
    Unavailable,
    /// By the shared secret in `X-User-Override`.
    SharedSecret,
}

impl From<inspect::Error> for Refusal {
    fn from(error: inspect::Error) -> Self {
        Self::NotJson(error.to_string())
    }
}

impl Refusal {
    /// The status. 449 is no registered one; IATP uses it.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Malformed(_) | Self::NotJson(_) => StatusCode::BAD_REQUEST,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Unreadable(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::NotSupported(_) => StatusCode::NOT_IMPLEMENTED,
            Self::Blocked { .. } => StatusCode::FORBIDDEN,
            Self::Warned { .. } => StatusCode::from_u16(449).unwrap_or(StatusCode::FORBIDDEN),
            Self::Unrecorded => StatusCode::SERVICE_UNAVAILABLE,
            Self::BackendBroken(_) => StatusCode::BAD_GATEWAY,
            Self::BackendSlow => StatusCode::GATEWAY_TIMEOUT,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::WrongMethod => StatusCode::METHOD_NOT_ALLOWED,
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        match self {
            Self::Malformed(why) | Self::Unreadable(why) | Self::NotSupported(why) => {
                (*why).to_owned()
            }
            Self::NotJson(why) => why.clone(),
            Self::TooLarge(most) => format!("the body is longer than {most} bytes"),
            Self::TooSlow => "the body did not arrive in time".into(),
            Self::Blocked { rule } => format!("blocked by the rule {rule}"),
            Self::Warned { warning, .. } => warning.clone(),
            Self::Unrecorded => "requests cannot be written down at the moment".into(),
            Self::BackendBroken(why) => format!("the agent cannot be reached: {why}"),
            Self::BackendSlow => "the agent did not answer in time".into(),
            Self::NotFound => "there is nothing at this path; the agent is below /proxy".into(),
            Self::WrongMethod => "this path takes GET and HEAD only".into(),
        }
    }

    /// The body that IATP gives it.
    fn body(&self, trace: Uuid) -> Value {
        match self {
            Self::Blocked { .. } => json!({
                "error": self.text(),
                "trace_id": trace,
                "blocked": true,
                "blocked_by": "policy_engine",
            }),
            Self::Warned { warning, score, by } => json!({
                "warning": warning,
                "trust_score": score,
                "requires_override": true,
                "override": match by {
                    Override::Unavailable => "unavailable",
                    Override::SharedSecret => "shared_secret",
                },
                "trace_id": trace,
                "message": match by {
                    Override::Unavailable => "this gateway has no way to override it",
                    Override::SharedSecret => "send X-User-Override with the shared secret to go on",
                },
            }),
            // Nothing was undone, and nobody knows whether the agent began.
            Self::BackendBroken(_) | Self::BackendSlow => json!({
                "error": self.text(),
                "trace_id": trace,
                "recovery": {"strategy": "give_up", "success": false, "actions_taken": []},
            }),
            _ => json!({"error": self.text(), "trace_id": trace}),
        }
    }

    /// The answer.
    pub fn respond(&self, trace: Uuid) -> Response<Body> {
        json_answer(self.status(), &self.body(trace))
    }
}

/// JSON.
pub fn json_answer(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::new(Bytes::from(body.to_string()))));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}
