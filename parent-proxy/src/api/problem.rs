//! Refusals as RFC 9457 problems.

use std::borrow::Cow;

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use protocol::Kind;
use serde::Serialize;
use utoipa::ToSchema;

use super::AskError;
use callers::TurnedAway;
use enclave_client::RequestError;

/// An error as RFC 9457 has it, with `code` as its stable name.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// `urn:anchorhold:error:` and the code.
    r#type: String,
    /// The code in words.
    title: String,
    /// HTTP status.
    status: u16,
    /// Stable snake_case name; programs may match on it.
    code: Cow<'static, str>,
    /// What happened, for people.
    detail: String,
    /// When the same may be asked again, in seconds: the header Retry-After.
    #[serde(skip)]
    retry_after: Option<u32>,
}

impl Problem {
    pub(crate) fn new(
        status: u16,
        code: impl Into<Cow<'static, str>>,
        detail: impl Into<String>,
    ) -> Self {
        let code = code.into();
        Self {
            r#type: format!("urn:anchorhold:error:{code}"),
            title: code.replace('_', " "),
            status,
            code,
            detail: detail.into(),
            retry_after: if status == 503 { Some(1) } else { None },
        }
    }

    /// The same, and when it may be asked again.
    pub(crate) fn after(mut self, seconds: Option<u32>) -> Self {
        self.retry_after = seconds.or(self.retry_after);
        self
    }

    /// The stable name, for metrics: response extensions carry it.
    pub(crate) fn code(&self) -> &str {
        &self.code
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl From<AskError> for Problem {
    fn from(error: AskError) -> Self {
        match error {
            AskError::TooOften(much) => {
                Self::new(429, "too_many_requests", error.to_string()).after(Some(much.retry_after))
            }
            AskError::Enclave(error) => error.into(),
        }
    }
}

impl From<RequestError> for Problem {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Unavailable => Self::new(503, "enclave_unavailable", error.to_string()),
            RequestError::Busy => Self::new(503, "busy", error.to_string()),
            RequestError::Unrecorded => Self::new(503, "record_failed", error.to_string()),
            RequestError::Timeout => Self::new(504, "enclave_timeout", error.to_string()),
            RequestError::Nonsense => Self::new(502, "enclave_nonsense", error.to_string()),
            RequestError::Refused(refusal) => {
                let status = match refusal.kind {
                    Kind::Invalid => 422,
                    Kind::Denied => 403,
                    Kind::NotFound => 404,
                    Kind::Conflict => 409,
                    Kind::Unavailable => 503,
                    Kind::Internal => 500,
                    Kind::Limited => 429,
                };
                Self::new(status, refusal.code, refusal.message).after(refusal.retry_after)
            }
        }
    }
}

impl From<identity::Error> for Problem {
    fn from(error: identity::Error) -> Self {
        let status = if matches!(error, identity::Error::JsonMalformed(_)) {
            400
        } else {
            422
        };
        Self::new(status, error.code(), error.to_string())
    }
}

impl From<TurnedAway> for Problem {
    fn from(why: TurnedAway) -> Self {
        let (status, detail) = match why {
            TurnedAway::CallerUnknown => (403, "the kernel could not say who is calling"),
            TurnedAway::CallerGone => (403, "the process that connected has ended"),
            TurnedAway::TokenInvalid => (
                401,
                "a caller on localhost shows its token: Authorization: Bearer ...",
            ),
            TurnedAway::ForeignHost => (403, "the Host header is not that of this server"),
            TurnedAway::ForeignOrigin => (403, "requests of web pages are not answered"),
            TurnedAway::TooManyConnections => (
                429,
                "this caller connects too often, or has too many connections open",
            ),
        };
        let code: &'static str = why.into();
        Self::new(status, code, detail).after((status == 429).then_some(1))
    }
}
