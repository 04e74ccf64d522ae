//! What the gateway answers itself.

use std::time::Duration;

use bytes::Bytes;
use hyper::header::{
    CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE,
    WWW_AUTHENTICATE,
};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::body::Body;
use crate::content::Unreadable;

/// Why a request is not forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// It is not what HTTP or JSON allows.
    Malformed(&'static str),
    /// The body is not what it says that it is.
    NotJson(String),
    /// The body is JSON, and not what is wanted at this path.
    NotValid(String),
    /// It is longer than so many bytes.
    TooLarge(usize),
    /// The body did not arrive in time.
    TooSlow,
    /// Nobody knows who calls.
    Unauthenticated(&'static str),
    /// Who calls cannot be found out at the moment.
    AuthenticationUnavailable(String),
    /// The peer asks too much; it may ask again after so long.
    TooMany(Duration),
    /// A page of another place asks, by a browser.
    WrongOrigin,
    /// It cannot be looked through.
    Unreadable(&'static str),
    /// There is no such version of WebSockets.
    WebSocketVersion,
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
    /// A rule blocks the agent's answer.
    AnswerBlocked {
        /// The rule.
        rule: String,
    },
    /// A rule wants to know what is in the agent's answer, and it cannot be looked through.
    AnswerUnreadable(String),
    /// There is no memory for it.
    NoRoom,
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Override {
    /// Not at all.
    Unavailable,
    /// By the shared secret in `X-User-Override`.
    SharedSecret,
    /// By an approval, whose id stands in `X-User-Override`: what the enclave's sidecar says of it, if
    /// it waits.
    Approval(Option<Value>),
    /// By an approval, and as many of this caller's requests wait for one as may.
    Full,
}

impl From<Unreadable> for Refusal {
    fn from(error: Unreadable) -> Self {
        match error {
            Unreadable::Kind(why) => Self::Unreadable(why),
            Unreadable::TooLong(most) => Self::TooLarge(most),
            Unreadable::NoRoom => Self::NoRoom,
            Unreadable::NotGzip | Unreadable::Inspect(_) => Self::NotJson(error.to_string()),
        }
    }
}

impl Refusal {
    /// The status. 449 is no registered one; IATP uses it.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Malformed(_) | Self::NotJson(_) | Self::NotValid(_) => StatusCode::BAD_REQUEST,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Unauthenticated(_) => StatusCode::UNAUTHORIZED,
            Self::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Unreadable(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::WebSocketVersion => StatusCode::UPGRADE_REQUIRED,
            Self::NotSupported(_) => StatusCode::NOT_IMPLEMENTED,
            Self::Blocked { .. } | Self::AnswerBlocked { .. } | Self::WrongOrigin => {
                StatusCode::FORBIDDEN
            }
            Self::Warned { .. } => StatusCode::from_u16(449).unwrap_or(StatusCode::FORBIDDEN),
            Self::Unrecorded | Self::NoRoom | Self::AuthenticationUnavailable(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::BackendBroken(_) | Self::AnswerUnreadable(_) => StatusCode::BAD_GATEWAY,
            Self::BackendSlow => StatusCode::GATEWAY_TIMEOUT,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::WrongMethod => StatusCode::METHOD_NOT_ALLOWED,
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        match self {
            Self::Malformed(why)
            | Self::Unauthenticated(why)
            | Self::Unreadable(why)
            | Self::NotSupported(why) => (*why).to_owned(),
            Self::NotJson(why) | Self::NotValid(why) | Self::AuthenticationUnavailable(why) => {
                why.clone()
            }
            Self::TooMany(_) => "too many requests".into(),
            Self::WrongOrigin => "pages of this origin may not ask".into(),
            Self::TooLarge(most) => format!("the body is longer than {most} bytes"),
            Self::TooSlow => "the body did not arrive in time".into(),
            Self::Blocked { rule } => format!("blocked by the rule {rule}"),
            Self::AnswerBlocked { rule } => {
                format!("the agent answered, and the rule {rule} blocks its answer")
            }
            Self::AnswerUnreadable(why) => {
                format!("the agent answered, and its answer cannot be looked through: {why}")
            }
            Self::NoRoom => "there is no memory for this at the moment".into(),
            Self::Warned { warning, .. } => warning.clone(),
            Self::Unrecorded => "requests cannot be written down at the moment".into(),
            Self::BackendBroken(why) => format!("the agent cannot be reached: {why}"),
            Self::BackendSlow => "the agent did not answer in time".into(),
            Self::NotFound => "there is nothing at this path; the agent is below /proxy".into(),
            Self::WebSocketVersion => "the version of WebSockets is 13".into(),
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
            Self::AnswerBlocked { .. } => json!({
                "error": self.text(),
                "trace_id": trace,
                "blocked": true,
                "blocked_by": "security_validator",
            }),
            Self::Warned { warning, score, by } => json!({
                "warning": warning,
                "trust_score": score,
                "requires_override": true,
                "override": match by {
                    Override::Unavailable => "unavailable",
                    Override::SharedSecret => "shared_secret",
                    Override::Approval(_) | Override::Full => "approval",
                },
                "approval": match by {
                    Override::Approval(approval) => approval.clone(),
                    _ => None,
                },
                "trace_id": trace,
                "message": match by {
                    Override::Unavailable => "this gateway has no way to override it",
                    Override::SharedSecret => "send X-User-Override with the shared secret to go on",
                    Override::Full => {
                        "as many requests of this caller wait for an approval as may: have them approved, or wait"
                    }
                    Override::Approval(None) => {
                        "send it again with X-User-Override: request, and have it approved"
                    }
                    Override::Approval(Some(_)) => {
                        "have it approved (anchorhold approve ID), and send it again with X-User-Override: ID"
                    }
                },
            }),
            // Nothing was undone, and nobody knows whether the agent began.
            Self::BackendBroken(_) | Self::BackendSlow | Self::AnswerUnreadable(_) => json!({
                "error": self.text(),
                "trace_id": trace,
                "recovery": {"strategy": "give_up", "success": false, "actions_taken": []},
            }),
            _ => json!({"error": self.text(), "trace_id": trace}),
        }
    }

    /// The answer.
    pub fn respond(&self, trace: Uuid) -> Response<Body> {
        let mut response = json_answer(self.status(), &self.body(trace));
        let headers = response.headers_mut();
        match self {
            Self::NoRoom => drop(headers.insert(RETRY_AFTER, HeaderValue::from_static("1"))),
            // RFC 6455 section 4.4, RFC 9110 section 15.5.22.
            Self::WebSocketVersion => {
                headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
                headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
                headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            }
            Self::TooMany(wait) => {
                let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                headers.insert(RETRY_AFTER, seconds.into());
            }
            Self::Unauthenticated(_) => {
                let bearer = HeaderValue::from_static("Bearer");
                headers.insert(WWW_AUTHENTICATE, bearer);
            }
            _ => {}
        }
        response
    }
}

/// JSON.
pub fn json_answer(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}
